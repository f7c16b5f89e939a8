"""A table of mounts, and a mounter, that are not real."""

from __future__ import annotations

import errno
import itertools
import os
from dataclasses import dataclass, field

from kadalu_ext.csi.mounterclient import StorageState
from kadalu_ext.errors import MounterError, NotFoundError, PreconditionError
from kadalu_ext.mountinfo import FUSE_GLUSTERFS, Mount
from kadalu_ext.storage import Storage, StorageName, mount_name, mount_source

KUBELET = "/var/lib/kubelet"
STATVFS = os.statvfs_result((4096, 4096, 16384, 8192, 8192, 100, 60, 60, 0, 255))


_IDS = itertools.count(1)


def mount(path: str, *, device: int, root: str, source: str, options: frozenset[str] = frozenset({"nosuid"})) -> Mount:
    return Mount(
        mount_id=next(_IDS),
        parent_id=0,
        device=device,
        root=root,
        path=path,
        options=options,
        fstype=FUSE_GLUSTERFS,
        source=source,
    )


@dataclass
class FakeMounts:
    """See csi.mounts.Mounts. `directories`: what the gluster volume has; `dead`: devices whose client has ended."""

    mounted: dict[str, Mount] = field(default_factory=dict)
    directories: set[str] = field(default_factory=set)
    dead: set[int] = field(default_factory=set)
    made: set[str] = field(default_factory=set)
    holding_files: set[str] = field(default_factory=set)
    binds: int = 0
    statvfs_error: int = 0

    def at(self, path: str) -> Mount | None:
        return self.mounted.get(path)

    def table(self) -> tuple[Mount, ...]:
        return tuple(self.mounted.values())

    def bind(self, source: Mount, relative: str, target: str) -> None:
        assert self.mounted[source.path] == source and source.device not in self.dead and target not in self.mounted
        if target in self.holding_files:
            raise PreconditionError(f"{target}: holds files of the node's own")
        root = relative or source.root
        if root not in self.directories:
            raise NotFoundError(f"{source.source}: there is no directory {root}")
        self.mounted[target] = mount(target, device=source.device, root=root, source=source.source)
        self.binds += 1

    def rebind(self, there: Mount, source: Mount) -> None:
        assert self.mounted[there.path] == there and there.device in self.dead
        self.mounted[there.path] = mount(
            there.path, device=source.device, root=there.root, source=there.source, options=there.options
        )

    def set_options(self, target: str, options: frozenset[str]) -> None:
        there = self.mounted[target]
        all_options = there.options | options
        self.mounted[target] = mount(
            target, device=there.device, root=there.root, source=there.source, options=all_options
        )

    def unmount(self, path: str, source: str, root: str, *, lazily: bool = False) -> None:
        there = self.mounted.get(path)
        if there is not None and (there.source, there.root) != (source, root):
            raise PreconditionError(f"{path}: {there.source} is mounted there, not {root} of {source}")
        assert there is None or not lazily or there.device in self.dead
        self.mounted.pop(path, None)

    def answers(self, mount: Mount) -> bool:
        return mount.device not in self.dead

    def make_directory(self, path: str) -> None:
        self.made.add(path)

    def remove_directory(self, path: str) -> None:
        self.made.discard(path)

    def statvfs(self, path: str) -> os.statvfs_result:
        if self.mounted[path].device in self.dead:
            raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN), path)
        if self.statvfs_error:
            raise OSError(self.statvfs_error, os.strerror(self.statvfs_error), path)
        return STATVFS


@dataclass
class FakeMounter:
    """Mounts in `mounts` what it is asked for, on a new device whenever the last one is dead."""

    mounts: FakeMounts
    asked: list[Storage] = field(default_factory=list)
    broken: str = ""
    known: dict[StorageName, StorageState] = field(default_factory=dict)
    released: list[StorageName] = field(default_factory=list)

    def states(self) -> dict[StorageName, StorageState]:
        if self.broken:
            raise MounterError(self.broken)
        return self.known

    def release(self, name: StorageName) -> None:
        self.released.append(name)
        self.known.pop(name, None)

    def mount(self, storage: Storage, *, timeout_s: float) -> str:
        self.asked.append(storage)
        if self.broken:
            raise MounterError(self.broken)
        name = mount_name(storage)
        path = f"{KUBELET}/plugins/kadalu.external/mounts/{name}"
        there = self.mounts.mounted.get(path)
        if there is None or there.device in self.mounts.dead:
            device = 100 + len(self.asked)
            self.known[name] = StorageState(name=name, mounted=True)
            source = mount_source(storage.name, storage.whole)
            self.mounts.mounted[path] = mount(path, device=device, root="/", source=source)
        return path
