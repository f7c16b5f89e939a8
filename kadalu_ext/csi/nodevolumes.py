"""The node plugin's use cases: a PV staged on this node, published to a pod, and back.

Everything is idempotent, and everything that is known is read from mountinfo: nothing is remembered, so that the plugin
can be killed and replaced at any moment. The clients, and with them the mounts' lives, are the mounter's.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Final, Protocol, TypeVar

from kadalu_ext.bounded import SideThreads
from kadalu_ext.csi.mounterclient import StorageMounter
from kadalu_ext.csi.mounts import DELETED, FLAGS, PLUGIN_DIR
from kadalu_ext.errors import (
    ConflictError,
    InvalidInputError,
    KadaluExtError,
    MounterError,
    PreconditionError,
    VolumeIOError,
)
from kadalu_ext.layout import pv_path
from kadalu_ext.mountinfo import FUSE_GLUSTERFS, Mount
from kadalu_ext.record import PvName, check_pv_name
from kadalu_ext.storage import Storage, StorageName, check_storage_name, mount_source, volume_id, whole_mount_name

T = TypeVar("T")

_UNTIL_DONE_S: Final = 86400.0
"""Of work within work, whose caller has the deadline."""


@dataclass(frozen=True, kw_only=True)
class Volume:
    """A PV on this node. Its directory on the volume follows from its name.

    whole: it is a whole volume, mounted by a client of its own. What a call does not say, `as_mounted` tells.
    """

    storage: StorageName
    name: PvName
    whole: bool = field(default=False, compare=False)

    @property
    def root(self) -> str:
        """What mountinfo shows as the root of a bind mount of it."""
        return "/" if self.whole else "/" + pv_path(self.name)

    @property
    def source(self) -> str:
        """What mountinfo shows as its source."""
        return mount_source(self.storage, self.name if self.whole else None)

    @property
    def client(self) -> StorageName:
        """What the mounter calls the client that its mount is of."""
        return whole_mount_name(self.storage, self.name) if self.whole else self.storage

    def is_at(self, mount: Mount) -> bool:
        """Whether a bind mount shows the PV's directory, also if that is not on the volume any more."""
        return (mount.source, mount.root.removesuffix(DELETED)) == (self.source, self.root) and not is_main(mount)

    def __str__(self) -> str:
        return volume_id(self.storage, self.name)


class MountTable(Protocol):
    """csi.mounts.Mounts, which see; or a fake."""

    def at(self, path: str) -> Mount | None: ...
    def table(self) -> tuple[Mount, ...]: ...
    def bind(self, source: Mount, relative: str, target: str) -> None: ...
    def set_options(self, target: str, options: frozenset[str]) -> None: ...
    def unmount(self, path: str, source: str, root: str, *, lazily: bool = False) -> None: ...
    def answers(self, mount: Mount) -> bool: ...
    def rebind(self, there: Mount, source: Mount) -> None: ...
    def make_directory(self, path: str) -> None: ...
    def remove_directory(self, path: str) -> None: ...
    def statvfs(self, path: str) -> os.statvfs_result: ...


def volume_of(mount: Mount) -> Volume | None:
    """Whose directory, or part of it, a bind mount shows; None if it is none of a PV's."""
    steps = mount.root.removesuffix(DELETED).split("/")
    storage, whole, name = mount.source.removeprefix(mount_source(StorageName(""))).partition("/")
    try:
        volume = Volume(
            storage=check_storage_name(storage),
            name=check_pv_name(name if whole else steps[4]),
            whole=bool(whole),
        )
    except (IndexError, InvalidInputError):
        return None
    if whole:
        return None if is_main(mount) else volume
    return volume if f"{'/'.join(steps)}/".startswith(f"{volume.root}/") else None


def is_main(mount: Mount) -> bool:
    """Whether it is a client's own mount. Bind mounts of a whole volume have the same root; but none of a PV is where
    the mounter's are (Mounts.check)."""
    return mount.root == "/" and ("/" not in mount.source or f"/{PLUGIN_DIR}/" in mount.path)


def as_mounted(volume: Volume, mounts: Iterable[Mount]) -> Volume:
    """The PV as it is on this node, if it is: whole, or a directory."""
    whole = replace(volume, whole=True)
    return whole if any(each.source == whole.source for each in mounts) else volume


def storage_mounts(mounts: Iterable[Mount]) -> dict[str, Mount]:
    """The clients' own mounts, by their source."""
    return {each.source: each for each in mounts if is_main(each)}


class NodeVolumes:
    """See the methods. Thread-safe; a second call for the same volume or path while one is at work is refused.

    Every method raises InProgressError for that, DeadlineError if the work goes on beyond `timeout_s`, and
    VolumeIOError with the system's errno. Paths have gone through Mounts.check.
    """

    def __init__(self, mounts: MountTable, mounter: StorageMounter) -> None:
        self._mounts = mounts
        self._mounter = mounter
        self._threads = SideThreads()

    def stage(self, volume: Volume, storage: Storage, staging: str, *, timeout_s: float) -> None:
        """Binds the PV's directory on `staging`, an existing directory.

        Raises: NotFoundError if the volume has no such PV; what StorageMounter.mount raises; MounterError.
        """

        volume = replace(volume, whole=storage.whole is not None)

        def work() -> None:
            self._stage(volume, storage, staging, timeout_s)

        self._bounded(("volume", volume), work, timeout_s, f"{volume}: staging")

    def unstage(self, volume: Volume, staging: str, *, timeout_s: float) -> None:
        """Takes the PV from `staging`. The storage's client stays: another PV of it is likely to come to this node. One
        that this PV has for itself is let go a while after its last mount (mender.py)."""

        def work() -> None:
            there = as_mounted(volume, self._mounts.table())
            self._mounts.unmount(staging, there.source, there.root)

        self._bounded(("volume", volume), work, timeout_s, f"{volume}: unstaging")

    def publish(
        self,
        volume: Volume,
        storage: Storage,
        staging: str,
        target: str,
        options: frozenset[str],
        *,
        alone: bool = False,
        timeout_s: float,
    ) -> None:
        """Binds the staged PV on `target`, made if need be, with these options (mounts.FLAGS).

        alone: it must not be at another target path of this node.

        A PV whose client has died since it was staged is staged anew: so a pod that is started again gets a mount that
        works. Raises: as `stage`; PreconditionError if it is not `alone`, or `target` holds something; ConflictError if
        it is there with fewer rights.
        """

        volume = replace(volume, whole=storage.whole is not None)

        def work() -> None:
            staged = self._mounts.at(staging)
            if staged is None or not self._mounts.answers(staged):
                self.stage(volume, storage, staging, timeout_s=timeout_s)
                staged = self._mounts.at(staging)
            if staged is None or (staged.source, staged.root) != (volume.source, volume.root):
                raise MounterError(f"{staging}: {volume} is not what is staged there; try again")
            self._check_options(staged, target, options)
            self._mounts.make_directory(target)
            try:
                self._bind(staged, "", staged.root, target, volume)
                self._mounts.set_options(target, options)
            except (KadaluExtError, OSError):
                if self._mounts.at(target) is None:
                    self._tidy(target)
                raise

        def alone_at_work() -> None:
            self._check_alone(volume, staging, target)
            self._bounded(("path", target), work, _UNTIL_DONE_S, what)

        what = f"{volume}: publishing"
        if alone:
            self._bounded(("writer", volume), alone_at_work, timeout_s, what)
        else:
            self._bounded(("path", target), work, timeout_s, what)

    def unpublish(self, volume: Volume, target: str, *, timeout_s: float) -> None:
        """Takes the PV from `target`, and removes that directory."""

        def work() -> None:
            there = as_mounted(volume, self._mounts.table())
            self._mounts.unmount(target, there.source, there.root)
            self._mounts.remove_directory(target)

        self._bounded(("path", target), work, timeout_s, f"{volume}: unpublishing")

    def _check_alone(self, volume: Volume, staging: str, target: str) -> None:
        for each in self._mounts.table():
            if volume.is_at(each) and each.path not in (staging, target):
                raise PreconditionError(
                    f"{volume}: its access mode allows one pod on a node, and it is published at {each.path}; that pod "
                    "must end first"
                )

    def _check_options(self, staged: Mount, target: str, options: frozenset[str]) -> None:
        """Options are only ever added: those that are missing may be what a killed plugin had no time for."""
        there = self._mounts.at(target)
        if there is None or (there.source, there.root) != (staged.source, staged.root):
            return
        if more := (there.options & FLAGS.keys()) - options - staged.options:
            raise ConflictError(
                f"{target}: published already with {', '.join(sorted(more))}, which is now asked for without; it must "
                "be unpublished first"
            )

    def _tidy(self, target: str) -> None:
        try:
            self._mounts.remove_directory(target)
        except (KadaluExtError, OSError):
            pass  # why it was not published is what must be told

    def mend(self, there: Mount, source: Mount, *, timeout_s: float) -> bool:
        """Replaces the bind mount `there` of a client that died by one of `source`; False if there is no need to, or
        it is no PV's. Raises: as `stage`.
        """
        volume = volume_of(there)
        if volume is None:
            return False
        what = f"{volume}: mending {there.path}"

        def work() -> bool:
            if self._mounts.at(there.path) != there:
                return False
            self._mounts.rebind(there, source)
            return True

        def with_its_volume() -> bool:
            return self._bounded(("path", there.path), work, _UNTIL_DONE_S, what)

        if self.answers(there, timeout_s=timeout_s):
            return False
        return self._bounded(("volume", volume), with_its_volume, timeout_s, what)

    def answers(self, there: Mount, *, timeout_s: float) -> bool:
        """Whether there is a client behind a mount. kubelet's calls for a volume do not wait for it meanwhile.

        Raises: DeadlineError, InProgressError; VolumeIOError if there is one, and it says something is wrong.
        """

        def look() -> bool:
            return self._mounts.answers(there)

        return self._bounded(("answers", there.path), look, timeout_s, f"{there.path}: looking for its client")

    def _stage(self, volume: Volume, storage: Storage, staging: str, timeout_s: float) -> None:
        path = self._mounter.mount(storage, timeout_s=timeout_s)
        mount = self._mounts.at(path)
        if mount is None or (mount.fstype, mount.source) != (FUSE_GLUSTERFS, volume.source):
            raise MounterError(
                f"{path}: the mounter says that {storage.name} is mounted there, but this pod does not see it; "
                "both pods need kubelet's directory with mountPropagation: Bidirectional"
            )
        self._bind(mount, volume.root, volume.root, staging, volume)

    def _bind(self, source: Mount, relative: str, root: str, target: str, volume: Volume) -> None:
        """Lets `root`, which is `relative` to what shows of `source`, be all that shows at `target`."""
        there = self._mounts.at(target)
        if there is not None and (there.device, there.root) == (source.device, root):
            return
        if there is not None:
            self._mounts.unmount(target, volume.source, volume.root, lazily=True)  # of a client that died
        self._mounts.bind(source, relative, target)

    def _bounded(self, key: tuple[str, object], work: Callable[[], T], timeout_s: float, what: str) -> T:
        try:
            return self._threads.run(key, work, timeout_s=timeout_s, what=what)
        except OSError as error:
            raise VolumeIOError(error.errno or 0, f"{what}: {error}") from error
