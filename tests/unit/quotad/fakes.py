"""A quota table without XFS, and a brick host without gluster.

Tags are kept in an xattr of the inode, so that they live and die with it, as XFS's do. What they lack: nothing
inherits, nothing is refused, no blocks are counted.
"""

from __future__ import annotations

import json
import os
import threading
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from kadalu_ext.errors import QuotaError
from kadalu_ext.quotad.plan import NO_LIMITS, Limits, Project, ProjectId, Tag
from kadalu_ext.quotad.xfs import QuotaState
from kadalu_ext.record import RECORD_XATTR, RECORDS_DIR
from kadalu_ext.units import round_up

BLOCK_BYTES = 4096
_TAG = "user.fake.tag"
UUID = "5f0d7c29-0000-4000-8000-000000000001"


class FakeTable:
    """The QuotaTable of everything below `root`. `log` has every change, in order; `looks` how often what was asked."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._limits: dict[ProjectId, Limits] = {}
        self.log: list[str] = []
        self.used_bytes: dict[ProjectId, int] = {}
        self.looks: Counter[str] = Counter()
        self.enforcing = True

    def get(self, project_id: ProjectId, /) -> Project | None:
        self.looks["row"] += 1
        return self._table().get(project_id)

    def rows(self, first: ProjectId, last: ProjectId) -> Iterator[Project]:
        self.looks["sweep"] += 1
        return iter([row for number, row in sorted(self._table().items()) if first <= number <= last])

    def state(self) -> QuotaState:
        return QuotaState(accounting=True, enforcing=self.enforcing)

    def set_limits(self, project_id: ProjectId, limits: Limits) -> None:
        self.log.append(f"limit {project_id} {limits.bhard_bytes}")
        hard, soft = (round_up(count, BLOCK_BYTES) for count in (limits.bhard_bytes, limits.bsoft_bytes))
        self._limits[project_id] = Limits(bhard_bytes=hard, bsoft_bytes=soft, ihard=limits.ihard, isoft=limits.isoft)

    def get_tag(self, fd: int) -> Tag:
        return _tag_of(fd)

    def set_tag(self, fd: int, tag: Tag) -> None:
        self.log.append(f"tag {os.path.basename(os.readlink(f'/proc/self/fd/{fd}'))}")
        os.setxattr(fd, _TAG, json.dumps([tag.project_id, tag.inherit]).encode())

    def _table(self) -> dict[ProjectId, Project]:
        inodes = {path.stat().st_ino: _tag_of(path) for path in self._root.rglob("*") if not path.is_symlink()}
        counts = Counter(tag.project_id for tag in inodes.values())
        limited = {number for number, limits in self._limits.items() if limits != NO_LIMITS}
        return {
            number: Project(
                project_id=number,
                limits=self._limits.get(number, NO_LIMITS),
                used_bytes=self.used_bytes.get(number, 0),
                used_inodes=counts[number],
            )
            for number in limited | set(counts)
            if number
        }


def _tag_of(file: int | Path) -> Tag:
    try:
        number, inherit = json.loads(os.getxattr(file, _TAG))
    except OSError:
        number, inherit = 0, False
    return Tag(project_id=ProjectId(number), inherit=inherit)


class FakeXfs:
    """The FileSystems of a fake host: one file system for everything below `root`. `refusal` refuses every brick.
    devices: which bricks, by name, are said to be on another one; they hang until `hold` is set."""

    def __init__(self, root: Path) -> None:
        self.projects = FakeTable(root)
        self.devices: dict[str, int] = {}
        self.refusal = ""
        self.hold = threading.Event()
        self.hold.set()

    def check(self, fd: int, path: str) -> None:
        if os.path.basename(path) in self.devices:
            self.hold.wait(60)
        if self.refusal:
            raise QuotaError(f"{path}: {self.refusal}")

    def table(self, fd: int) -> FakeTable:
        return self.projects

    def places(self, paths: Collection[str]) -> dict[str, tuple[int, ...]]:
        return {path: (self.devices.get(os.path.basename(path), 1),) for path in paths}


class FakeHost:
    """glusterd's files and bricks below one directory, as glusterd 10 writes them."""

    def __init__(self, root: Path) -> None:
        self.glusterd = root / "glusterd"
        self.bricks = root / "bricks"
        self.xfs = FakeXfs(self.bricks)
        (self.glusterd / "vols").mkdir(parents=True)
        (self.glusterd / "glusterd.info").write_text(f"UUID={UUID}\noperating-version=100000\n")

    def add_volume(
        self, name: str, info: Mapping[str, object] | None = None, *, count: int = 1, local: int = 0
    ) -> Path:
        """A volume of `count` bricks, of which the one numbered `local` is on this host; returns its root."""
        directory = self.glusterd / "vols" / name
        (directory / "bricks").mkdir(parents=True)
        root = self.bricks / name
        (root / ".glusterfs").mkdir(parents=True)
        fields: Mapping[str, object] = {"type": 0, "count": count, "status": 1, "replica_count": 1, **(info or {})}
        lines = [f"{key}={value}" for key, value in fields.items()]
        for number in range(count):
            host = f"host{number}:-bricks-{name}"
            uuid = UUID if number == local else f"5f0d7c29-0000-4000-8000-00000000001{number}"
            (directory / "bricks" / host).write_text(f"uuid={uuid}\nhostname=host{number}\npath={root}\n")
            lines.append(f"brick-{number}={host}")
        (directory / "info.tmp").write_text("\n".join([*lines, ""]))
        (directory / "info.tmp").rename(directory / "info")
        return root

    def name_volumes(self, text: str) -> None:
        """Writes kadalustorage.info."""
        (self.glusterd / "kadalustorage.info").write_text(text)


def pv_path(name: str) -> str:
    """Any path that a record may have."""
    return f"subvol/0a/1b/{name}"


def put_record(root: Path, name: str, value: bytes | None = None, *, size: int = 64 << 20, **more: object) -> Path:
    """A record as the CSI driver makes it: prepared, then renamed. `value` is instead of what a good one holds."""
    if value is None:
        value = json.dumps({"v": 1, "path": pv_path(name), "size": size, **more}).encode()
    prepared = root / RECORDS_DIR / f".{name}.new"
    prepared.mkdir(parents=True)
    os.setxattr(prepared, RECORD_XATTR, value)
    return prepared.rename(root / RECORDS_DIR / name)


def change_record(root: Path, name: str, *, size: int) -> None:
    """Grows or shrinks a PV, in place."""
    value = json.dumps({"v": 1, "path": pv_path(name), "size": size}).encode()
    os.setxattr(root / RECORDS_DIR / name, RECORD_XATTR, value)


def make_pv(root: Path, name: str, *files: str) -> Path:
    """A PV's directory with these files in it."""
    directory = root / pv_path(name)
    directory.mkdir(parents=True)
    for file in files:
        (directory / file).parent.mkdir(parents=True, exist_ok=True)
        (directory / file).write_text(file)
    return directory
