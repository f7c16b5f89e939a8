"""A volume, its bricks and their quotads in memory: what ports.py asks for. Contract tests hold it to the real one."""

from __future__ import annotations

import posixpath
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from errno import EEXIST, EINVAL, ENODATA, ENOENT, ENOTDIR, ENOTEMPTY, EOVERFLOW
from typing import Final

from kadalu_ext.claim import Claim, newest
from kadalu_ext.csi.directories import Directories
from kadalu_ext.csi.ports import BrickProbe, CopyProgress, VolumeFacts, VolumeStore
from kadalu_ext.csi.records import Records
from kadalu_ext.errors import DeadlineError, VolumeIOError
from kadalu_ext.gluster.brick import Attribute, BrickAnswer, BrickStat
from kadalu_ext.gluster.geometry import Brick, Geometry, VolumeKind
from kadalu_ext.gluster.messages import Gfid
from kadalu_ext.gluster.support import Reserve
from kadalu_ext.layout import pv_path
from kadalu_ext.record import RECORD_XATTR, RECORDS_DIR, PvName, QuotaRecord, brick_limit_bytes, decode
from kadalu_ext.storage import PoolVolume, Storage, StorageName
from kadalu_ext.units import GIB


def pv(name: str, size_bytes: int, *, inodes: int | None = None) -> QuotaRecord:
    """The record of an ordinary PV."""
    return QuotaRecord(path=pv_path(PvName(name)), size_bytes=size_bytes, inodes=inodes)


def recorded_size(store: VolumeStore, name: PvName) -> int | None:
    """What a PV's record says, in bytes; None if there is none."""
    record = Records(store, Directories(store)).read(name)
    return None if record is None else record.size_bytes


STORAGE = Storage(name=StorageName("ext"), hosts=("h1", "h2", "h3"), volume="vol")


FILES: Final = 1_000_000
"""The inodes that a brick's file system has."""


class Crash(BaseException):
    """The process died here: nothing catches it but the test."""


@dataclass(frozen=True, kw_only=True)
class Space:
    total_bytes: int
    free_bytes: int


@dataclass
class Node:
    mode: int = 0
    uid: int = 0
    gid: int = 0
    directory: bool = True
    xattrs: dict[str, bytes] = field(default_factory=dict)
    gfid: Gfid = field(default_factory=lambda: Gfid(uuid.uuid4().bytes))


class MemoryStore:
    """A tree by paths. `crash_at` kills the n-th call (from 0) before it has done anything."""

    def __init__(self, *, total_bytes: int = GIB) -> None:
        self.nodes: dict[str, Node] = {"": Node(mode=0o755)}
        self.total_bytes = total_bytes
        self.calls = 0
        self.crash_at: int | None = None
        self.countdown = Countdown(None)
        self.hold = threading.Event()
        """Calls wait while it is not set, as they do on a host that is silent."""
        self.hold.set()
        self.waiting = 0
        self.listed = 1_000_000
        """How many names a listing holds."""
        self._lock = threading.RLock()

    @contextmanager
    def _call(self) -> Iterator[None]:
        with self._lock:
            self.waiting += 1
        self.hold.wait()
        with self._lock:
            self.waiting -= 1
            if self.calls == self.crash_at:
                raise Crash
            self.countdown.tick()
            self.calls += 1
            yield

    def mkdir(self, path: str, mode: int) -> None:
        with self._call():
            self._directory(posixpath.dirname(path))
            if path in self.nodes:
                raise VolumeIOError(EEXIST, path)
            self.nodes[path] = Node(mode=mode)

    def gfid(self, path: str) -> Gfid:
        with self._call():
            return self._node(path).gfid

    def rmdir(self, path: str) -> None:
        with self._call():
            self._directory(path)
            if self._below(path):
                raise VolumeIOError(ENOTEMPTY, path)
            del self.nodes[path]

    def rename(self, old: str, new: str) -> None:
        with self._call():
            self._node(old)
            if posixpath.dirname(new) not in self.nodes:
                raise VolumeIOError(EINVAL, new)
            if new in self.nodes and self._below(new):
                raise VolumeIOError(EEXIST, new)
            for path in [old, *self._below(old)]:
                self.nodes[new + path.removeprefix(old)] = self.nodes.pop(path)

    def listdir(self, path: str, most: int | None = None) -> Sequence[str]:
        with self._call():
            self._directory(path)
            names = [posixpath.basename(below) for below in self._below(path) if posixpath.dirname(below) == path]
            if most is None and len(names) > self.listed:
                raise VolumeIOError(EOVERFLOW, path)
            return names[:most]

    def remove_tree(self, path: str, *, deadline: float | None = None) -> None:
        with self._call():
            for below in [*self._below(path), path]:
                self.nodes.pop(below, None)

    def copy_tree(
        self,
        source: str,
        target: str,
        progress: CopyProgress,
        *,
        server_side: bool = False,
        deadline: float | None = None,
    ) -> None:
        """One call for each entry, so that it can be stopped and killed in between."""
        self._node(target)
        for path in self._below(target):
            if source + path.removeprefix(target) not in self.nodes:
                del self.nodes[path]
        for path in self._below(source):
            with self._call():
                if progress.stopped or (deadline is not None and time.monotonic() > deadline):
                    raise DeadlineError("stopped")
                if path in self.nodes:
                    node = self.nodes[path]
                    copied = Node(mode=node.mode, directory=node.directory, xattrs=dict(node.xattrs))
                    self.nodes[target + path.removeprefix(source)] = copied
                    progress.add(files=not node.directory)
        with self._call():
            self._directory(source)
            of = self.nodes[source]
            self.nodes[target].mode, self.nodes[target].gid = of.mode, of.gid

    def setxattr(self, path: str, name: str, value: bytes, *, create: bool = False) -> None:
        with self._call():
            if create and name in self._node(path).xattrs:
                raise VolumeIOError(EEXIST, path)
            self._node(path).xattrs[name] = value

    def removexattr(self, path: str, name: str) -> None:
        with self._call():
            if self._node(path).xattrs.pop(name, None) is None:
                raise VolumeIOError(ENODATA, path)

    def own(self, path: str, *, uid: int, gid: int, mode: int) -> None:
        with self._call():
            node = self._node(path)
            node.uid, node.gid, node.mode = uid, gid, mode

    def getxattr(self, path: str, name: str) -> bytes:
        with self._call():
            xattrs = self._node(path).xattrs
            if name not in xattrs:
                raise VolumeIOError(ENODATA, path)
            return xattrs[name]

    def statvfs(self, path: str) -> Space:
        with self._call():
            self._directory(path)
            return Space(total_bytes=self.total_bytes, free_bytes=self.total_bytes)

    def close(self) -> None:
        pass

    def write(self, path: str) -> None:
        """What a pod does."""
        self._directory(posixpath.dirname(path))
        self.nodes[path] = Node(directory=False)

    def _below(self, path: str) -> list[str]:
        prefix = f"{path}/" if path else ""
        return [other for other in self.nodes if other.startswith(prefix) and other != path]

    def _node(self, path: str) -> Node:
        if path not in self.nodes:
            raise VolumeIOError(ENOENT, f"{path}: no such file or directory")
        return self.nodes[path]

    def _directory(self, path: str) -> None:
        if not self._node(path).directory:
            raise VolumeIOError(ENOTDIR, path)


def replica(bricks: int = 3, *, arbiter: bool = False) -> Geometry:
    return Geometry(
        kind=VolumeKind.REPLICATE,
        bricks=tuple(
            Brick(name=f"vol-client-{n}", host=f"h{n + 1}", path="/bricks/b", arbiter=arbiter and n == bricks - 1)
            for n in range(bricks)
        ),
    )


class MemoryBricks:
    """The bricks of a MemoryStore, with a quotad each that enforces at once what has a record."""

    def __init__(self, store: MemoryStore, geometry: Geometry | None = None) -> None:
        self.store = store
        self.geometry = geometry or replica()
        self.down: set[str] = set()
        """Hosts that are switched off."""
        self.hung: set[str] = set()
        """Hosts whose bricks take connections and answer nothing."""
        self.idle: set[str] = set()
        """Hosts without quotad."""
        self.stopped: dict[str, int] = {}
        """Hosts whose quotad has stopped, with the limit that it left behind."""
        self.used_bytes = 0
        self.used_inodes = 1
        """Of every directory, on every brick."""
        self.asked = 0

    def stat_directory(
        self, path: str, attribute: Attribute | None = None, *, gfid: Gfid | None = None
    ) -> list[BrickAnswer]:
        self.asked += 1
        return [self._answer(brick, path, attribute, gfid) for brick in self.geometry.bricks]

    def _answer(self, brick: Brick, path: str, attribute: Attribute | None, gfid: Gfid | None = None) -> BrickAnswer:
        if brick.host in self.down:
            return BrickAnswer(brick=brick, stat=None, error=f"brick {brick}: refused", up=False)
        if brick.host in self.hung:
            return BrickAnswer(brick=brick, stat=None, error=f"brick {brick}: does not answer", up=True)
        if path not in self.store.nodes or gfid not in (None, self.store.nodes[path].gfid):
            return BrickAnswer(brick=brick, stat=None, error=f"brick {brick}: it has no directory {path}", up=True)
        record = None if brick.host in {*self.idle, *self.stopped} else self._record(path)
        limit = None if record is None or brick.arbiter else self._limit(record)
        limit = self.stopped.get(brick.host, limit)
        total = self.store.total_bytes if limit is None else limit
        inodes = FILES if record is None or record.inodes is None else record.inodes
        stat = BrickStat(
            total_bytes=total,
            free_bytes=max(0, total - self.used_bytes),
            block_bytes=4096,
            total_inodes=inodes,
            free_inodes=max(0, inodes - self.used_inodes),
        )
        node = self.store.nodes.get(attribute.path) if attribute else None
        value = node.xattrs.get(attribute.name) if node and attribute else None
        values = None
        if node and attribute and attribute.name.endswith("*"):
            prefix = attribute.name[:-1]
            values = {name: text for name, text in dict(node.xattrs).items() if name.startswith(prefix)}
        return BrickAnswer(brick=brick, stat=stat, error=None, up=True, attribute=value, attributes=values)

    def _record(self, path: str) -> QuotaRecord | None:
        name = posixpath.basename(path)
        node = self.store.nodes.get(f"{RECORDS_DIR}/{name}")
        if node is None or RECORD_XATTR not in node.xattrs:
            return None
        record = decode(name, node.xattrs[RECORD_XATTR])
        assert record.path == path
        return record

    def _limit(self, record: QuotaRecord) -> int:
        return brick_limit_bytes(record.size_bytes, data_bricks=self.geometry.data_bricks, block_bytes=4096)

    def close(self) -> None:
        pass


class MemoryConnector:
    """ports.Connector for one volume."""

    def __init__(self, store: MemoryStore, bricks: MemoryBricks) -> None:
        self.memory = store
        self.bricks = bricks
        self.volume_id = "11111111-2222-3333-4444-555555555555"
        self.error: Exception | None = None
        self.asked = 0
        self.reserve = Reserve()
        self.opened = 0

    def facts(self, storage: Storage) -> VolumeFacts:
        self.asked += 1
        if self.error is not None:
            raise self.error
        return VolumeFacts(volume_id=self.volume_id, geometry=self.bricks.geometry, reserve=self.reserve)

    def store(self, storage: Storage) -> VolumeStore:
        self.opened += 1
        return self.memory

    def probe(self, storage: Storage, facts: VolumeFacts) -> BrickProbe:
        return self.bricks


class MemoryPool:
    """ports.Connector for several volumes, by their names; and the storage that has all of them."""

    def __init__(self, **total_bytes: int) -> None:
        self.volumes = {name: MemoryStore(total_bytes=total) for name, total in total_bytes.items()}
        self.bricks = {name: MemoryBricks(store) for name, store in self.volumes.items()}
        self.errors: dict[str, Exception] = {}
        """Of volumes that glusterd says something else of."""
        pool = tuple(PoolVolume(volume=name, hosts=("h1",)) for name in total_bytes)
        self.storage = Storage(name=StorageName("ext"), hosts=(), volume="", pool=pool)

    def facts(self, storage: Storage) -> VolumeFacts:
        if storage.volume in self.errors:
            raise self.errors[storage.volume]
        return VolumeFacts(volume_id=f"id-of-{storage.volume}", geometry=self.bricks[storage.volume].geometry)

    def store(self, storage: Storage) -> VolumeStore:
        return self.volumes[storage.volume]

    def probe(self, storage: Storage, facts: VolumeFacts) -> BrickProbe:
        return self.bricks[storage.volume]

    def claim(self, volume: str) -> Claim:
        """What holds there now."""
        return newest(self.volumes[volume].nodes[""].xattrs)

    def set_crash(self, at: int | None) -> None:
        """Of all volumes together: the call `at`, from now on, kills whoever makes it."""
        countdown = Countdown(at)
        for store in self.volumes.values():
            store.countdown = countdown


@dataclass
class Countdown:
    """Calls that are left before the process dies; None: it does not."""

    left: int | None

    def tick(self) -> None:
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise Crash
