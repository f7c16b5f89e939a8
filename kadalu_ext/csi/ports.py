"""What the use cases need of a volume and its bricks. kadalu_ext.gluster is the real thing, tests bring a fake."""

from __future__ import annotations

from collections.abc import Sequence
from errno import EINVAL, ESTALE
from typing import Final, Protocol

from kadalu_ext.gluster.brick import Attribute, BrickAnswer
from kadalu_ext.gluster.copyprogress import CopyProgress
from kadalu_ext.gluster.facts import VolumeFacts
from kadalu_ext.gluster.messages import Gfid
from kadalu_ext.storage import Storage

__all__ = ["NO_PARENT", "BrickProbe", "Connector", "CopyProgress", "VolumeFacts", "VolumeStat", "VolumeStore"]

NO_PARENT: Final = (EINVAL, ESTALE)
"""What a rename says when the parent of its target is missing; ESTALE on a volume of one brick (glfs_rename, v10.3)."""


class VolumeStat(Protocol):
    """statvfs of a volume."""

    @property
    def total_bytes(self) -> int: ...

    @property
    def free_bytes(self) -> int: ...


class VolumeStore(Protocol):
    """Directories on one volume. Paths are relative to its root; a symlink at their end is never followed.

    Everything raises VolumeIOError with the system's errno, and changes nothing then; DeadlineError while the client is
    still starting. Each call is atomic. Thread-safe.
    """

    def mkdir(self, path: str, mode: int) -> None: ...

    def rmdir(self, path: str) -> None: ...

    def rename(self, old: str, new: str) -> None:
        """A `new` that is an empty directory is replaced. ENOENT: there is no `old`."""
        ...

    def listdir(self, path: str, most: int | None = None) -> Sequence[str]:
        """The names, without `.` and `..`; at most so many of them, where pods may have made more than a listing holds.
        EOVERFLOW: there are more."""
        ...

    def remove_tree(self, path: str, *, deadline: float | None = None) -> None:
        """Removes a directory and all in it, following no symlink; nothing if it is not there. Not atomic, repeatable.

        Raises: DeadlineError at `deadline`, of time.monotonic().
        """
        ...

    def copy_tree(
        self,
        source: str,
        target: str,
        progress: CopyProgress,
        *,
        server_side: bool = False,
        deadline: float | None = None,
    ) -> None:
        """Makes the directory `target`, which exists, what `source` is, with all in it. Not atomic, repeatable: what is
        whole already stays. ENOSPC: the target's limit is reached; ENOENT: the source is gone.

        server_side: the bricks copy; only on a volume of one brick.
        Raises: DeadlineError at `deadline`, or when `progress` was told to stop.
        """
        ...

    def setxattr(self, path: str, name: str, value: bytes, *, create: bool = False) -> None:
        """EEXIST, with `create`: it is there."""
        ...

    def removexattr(self, path: str, name: str) -> None:
        """ENODATA: it is not there."""
        ...

    def own(self, path: str, *, uid: int, gid: int, mode: int) -> None:
        """Of a directory. Not atomic, repeatable."""
        ...

    def getxattr(self, path: str, name: str) -> bytes: ...

    def statvfs(self, path: str) -> VolumeStat: ...

    def gfid(self, path: str) -> Gfid:
        """The identity of what is at the path now, the same on every brick."""
        ...

    def close(self) -> None:
        """Does not wait for anything that a silent host could hold up."""
        ...


class BrickProbe(Protocol):
    """Each brick of a volume asked by itself."""

    def stat_directory(
        self, path: str, attribute: Attribute | None = None, *, gfid: Gfid | None = None
    ) -> Sequence[BrickAnswer]:
        """What every brick answers to a STATFS of that directory, and has as that attribute, in the geometry's order;
        never raises for a brick.

        gfid: the directory's, if it is known, which is quicker.
        """
        ...

    def close(self) -> None: ...


class Connector(Protocol):
    """Opens what a storage needs."""

    def facts(self, storage: Storage) -> VolumeFacts:
        """Raises: HostUnreachableError, NotFoundError, VolumeStoppedError, UnsupportedVolumeError."""
        ...

    def store(self, storage: Storage) -> VolumeStore:
        """Perhaps still starting. Raises: UnavailableError, NotFoundError, VolumeIOError."""
        ...

    def probe(self, storage: Storage, facts: VolumeFacts) -> BrickProbe: ...
