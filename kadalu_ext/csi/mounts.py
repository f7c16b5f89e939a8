"""Bind mounts below kubelet's directory. Whatever touches a volume here may hang: callers bound it (SideThreads)."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Final

from kadalu_ext import mountinfo, mounting
from kadalu_ext.errors import InvalidInputError, MounterError, NotFoundError, UnavailableError
from kadalu_ext.mountinfo import Mount

FLAGS: Final = {
    "ro": mounting.MS_RDONLY,
    "nosuid": mounting.MS_NOSUID,
    "nodev": mounting.MS_NODEV,
    "noexec": mounting.MS_NOEXEC,
    "noatime": mounting.MS_NOATIME,
    "nodiratime": mounting.MS_NODIRATIME,
    "relatime": mounting.MS_RELATIME,
}
"""Options that a bind mount can have for itself, as mountinfo and mount(8) call them."""

_DIRECTORY: Final = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Mounts:
    """What is mounted below kubelet's directory, and changing it.

    Paths are absolute; those that a caller of ours has sent must have gone through `check`. Directories are opened step
    by step, no symlink is followed at any of them, and what is mounted is what was opened.
    """

    def __init__(self, kubelet_dir: str) -> None:
        self.kubelet_dir = os.path.realpath(kubelet_dir)

    def check(self, path: str, *, field: str) -> str:
        """`path`, if it may be mounted on. Raises: InvalidInputError naming `field`."""
        if not path:
            raise InvalidInputError(f"{field}: missing")
        plain = path.rstrip("/")
        if not plain.startswith(self.kubelet_dir + "/") or "\0" in plain or os.path.normpath(plain) != plain:
            raise InvalidInputError(
                f"{field}: {path[:200]!r} must be an absolute path below {self.kubelet_dir}, without '..', '.' and '//'"
            )
        return plain

    def at(self, path: str) -> Mount | None:
        """The mount that shows at exactly `path`. Touches no file system. Raises: OSError."""
        return mountinfo.at(mountinfo.read(), path)

    def bind(self, source: Mount, relative: str, target: str) -> None:
        """Lets the directory `relative` of the mounted `source` show at `target`, an existing directory.

        Raises: NotFoundError if `relative` is not there; MounterError if `source` is no longer what is mounted there;
        OSError, among them NotADirectoryError where a step is a symlink.
        """
        with ExitStack() as stack:
            try:
                top, directory = stack.enter_context(_opened(source.path, relative))
            except FileNotFoundError as error:
                raise NotFoundError(
                    f"{source.source}: there is no directory {relative} on the gluster volume"
                ) from error
            if os.fstat(top).st_dev != source.device:
                raise MounterError(f"{source.path}: its mount has changed meanwhile; try again")
            mounting.bind(_proc(directory), _proc(stack.enter_context(self._opened(target))))

    def set_options(self, target: str, options: frozenset[str]) -> None:
        """Gives the bind mount at `target` these options of FLAGS besides those it has. Raises: OSError."""
        mount = self.at(target)
        if mount is None or options <= mount.options:
            return
        flags = 0
        for name in (mount.options | options) & FLAGS.keys():
            flags |= FLAGS[name]
        with self._opened(target) as there:
            mounting.remount_bind(_proc(there), flags)

    def unmount(self, path: str, source: str, *, lazily: bool = False) -> None:
        """Takes away every bind mount at `path`, all of which must be of a part of `source`. None there: no error.

        lazily: for those whose client is dead, also if they are in use.
        Raises: InvalidInputError if something else is mounted there; UnavailableError if it is in use; OSError.
        """
        while (mount := self.at(path)) is not None:
            if mount.source != source or mount.root == "/":
                raise InvalidInputError(
                    f"{path}: {mount.source} with root {mount.root} is mounted there, not a PV of {source}; left alone"
                )
            try:
                if not mounting.unmount(path, lazily=lazily):
                    return
            except OSError as error:
                if error.errno != errno.EBUSY:
                    raise
                raise UnavailableError(
                    f"{path}: still in use by a process of this node; see fuser -vm {path}"
                ) from None

    def answers(self, mount: Mount) -> bool:
        """Whether there is a client behind `mount`, and a brick behind that. Raises: OSError for any other trouble."""
        try:
            os.statvfs(mount.path)  # never answered from the kernel's cache, as a stat is
        except OSError as error:
            if error.errno in (errno.ENOTCONN, errno.ECONNABORTED):
                return False
            raise
        return True

    def make_directory(self, path: str) -> None:
        """Makes `path`, whose parent exists, unless it is there. Raises: OSError."""
        with self._opened(os.path.dirname(path)) as parent:
            try:
                os.mkdir(os.path.basename(path), 0o750, dir_fd=parent)
            except FileExistsError:
                pass

    def remove_directory(self, path: str) -> None:
        """Removes the empty directory `path`, if it is there. Raises: OSError."""
        try:
            with self._opened(os.path.dirname(path)) as parent:
                os.rmdir(os.path.basename(path), dir_fd=parent)
        except FileNotFoundError:
            pass

    def statvfs(self, path: str) -> os.statvfs_result:
        """statvfs(3). Raises: OSError."""
        return os.statvfs(path)

    @contextmanager
    def _opened(self, path: str) -> Iterator[int]:
        with _opened(self.kubelet_dir, path.removeprefix(self.kubelet_dir)) as (_, directory):
            yield directory


@contextmanager
def _opened(top: str, relative: str) -> Iterator[tuple[int, int]]:
    """Descriptors of the directory `top` and of `relative` beneath it."""
    first = last = os.open(top, _DIRECTORY)
    try:
        for step in filter(None, relative.split("/")):
            deeper = os.open(step, _DIRECTORY, dir_fd=last)
            if last != first:
                os.close(last)
            last = deeper
        yield first, last
    finally:
        if last != first:
            os.close(last)
        os.close(first)


def _proc(descriptor: int) -> str:
    """A path to what is open: proc(5), followed by the kernel without looking at any name."""
    return f"/proc/self/fd/{descriptor}"
