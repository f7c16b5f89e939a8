"""A table of mounts, and a mounter, that are not real."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from kadalu_ext.errors import MounterError, NotFoundError
from kadalu_ext.mountinfo import FUSE_GLUSTERFS, Mount
from kadalu_ext.storage import Storage, mount_source

KUBELET = "/var/lib/kubelet"
STATVFS = os.statvfs_result((4096, 4096, 16384, 8192, 8192, 100, 60, 60, 0, 255))


def mount(path: str, *, device: int, root: str, source: str, options: frozenset[str] = frozenset({"nosuid"})) -> Mount:
    return Mount(
        mount_id=0,
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

    table: dict[str, Mount] = field(default_factory=dict)
    directories: set[str] = field(default_factory=set)
    dead: set[int] = field(default_factory=set)
    made: set[str] = field(default_factory=set)
    binds: int = 0

    def at(self, path: str) -> Mount | None:
        return self.table.get(path)

    def bind(self, source: Mount, relative: str, target: str) -> None:
        assert self.table[source.path] == source and source.device not in self.dead and target not in self.table
        root = relative or source.root
        if root not in self.directories:
            raise NotFoundError(f"{source.source}: there is no directory {root}")
        self.table[target] = mount(target, device=source.device, root=root, source=source.source)
        self.binds += 1

    def set_options(self, target: str, options: frozenset[str]) -> None:
        there = self.table[target]
        all_options = there.options | options
        self.table[target] = mount(
            target, device=there.device, root=there.root, source=there.source, options=all_options
        )

    def unmount(self, path: str, source: str, *, lazily: bool = False) -> None:
        there = self.table.pop(path, None)
        assert there is None or (there.source == source and (not lazily or there.device in self.dead))

    def answers(self, mount: Mount) -> bool:
        return mount.device not in self.dead

    def make_directory(self, path: str) -> None:
        self.made.add(path)

    def remove_directory(self, path: str) -> None:
        self.made.discard(path)

    def statvfs(self, path: str) -> os.statvfs_result:
        return STATVFS


@dataclass
class FakeMounter:
    """Mounts in `mounts` what it is asked for, on a new device whenever the last one is dead."""

    mounts: FakeMounts
    asked: list[Storage] = field(default_factory=list)
    broken: str = ""

    def mount(self, storage: Storage, *, timeout_s: float) -> str:
        self.asked.append(storage)
        if self.broken:
            raise MounterError(self.broken)
        path = f"{KUBELET}/plugins/kadalu.external/mounts/{storage.name}"
        there = self.mounts.table.get(path)
        if there is None or there.device in self.mounts.dead:
            device = 100 + len(self.asked)
            self.mounts.table[path] = mount(path, device=device, root="/", source=mount_source(storage.name))
        return path
