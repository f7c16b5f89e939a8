"""Bind mounts below kubelet's directory. Whatever touches a volume here may hang: callers bound it (SideThreads)."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Final

from kadalu_ext import mountinfo, mounting, mountpoint
from kadalu_ext.errors import InvalidInputError, MounterError, NotFoundError, PreconditionError, UnavailableError
from kadalu_ext.mountinfo import FUSE_GLUSTERFS, Mount
from kadalu_ext.storage import PROVISIONER

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

PLUGIN_DIR: Final = f"plugins/{PROVISIONER}"
"""Below kubelet's directory: sockets, and the storages' own mounts. Nobody else's to mount on."""

_DIRECTORY: Final = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_ANY: Final = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
DELETED: Final = "//deleted"
"""What mountinfo shows behind the root of a bind mount whose directory is gone (fs/d_path.c)."""

_PATH_BYTES: Final = 4095
_STEP_BYTES: Final = 255
"""limits.h: PATH_MAX (with its NUL) and NAME_MAX."""


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
        if f"{plain}/".startswith(f"{self.kubelet_dir}/{PLUGIN_DIR}/"):
            raise InvalidInputError(f"{field}: {path[:200]!r} is this driver's own; choose a path beside {PLUGIN_DIR}")
        if len(name := os.fsencode(plain)) > _PATH_BYTES or max(map(len, name.split(b"/"))) > _STEP_BYTES:
            raise InvalidInputError(
                f"{field}: longer than a path may be, which is {_PATH_BYTES} bytes, and {_STEP_BYTES} for each step"
            )
        return plain

    def at(self, path: str) -> Mount | None:
        """The mount that shows at exactly `path`. Touches no file system. Raises: OSError."""
        return mountinfo.at(mountinfo.read(), path)

    def table(self) -> tuple[Mount, ...]:
        """What storages and PVs of this driver are mounted, in mountinfo's order. Touches no file system.

        Raises: OSError.
        """
        return tuple(
            each
            for each in mountinfo.read()
            if each.fstype == FUSE_GLUSTERFS and each.source.startswith(f"{PROVISIONER}:")
        )

    def bind(self, source: Mount, relative: str, target: str) -> None:
        """Lets the directory `relative` of the mounted `source` show at `target`, an existing directory.

        relative may be a file, as kubelet mounts it for a subPath, if `target` is one.

        Raises: NotFoundError if `relative` is not there; MounterError if `source` is no longer what is mounted there;
        PreconditionError if `target` lies on a gluster volume itself, or holds something that would not be seen any
        more; OSError, among them NotADirectoryError where a step is a symlink.
        """
        with ExitStack() as stack:
            shown = self._part(stack, source, relative)
            _, there = stack.enter_context(_opened(self.kubelet_dir, target.removeprefix(self.kubelet_dir), _ANY))
            if self.at(target) is None:
                self._check_empty(target, there)
            mounting.bind(_proc(shown), _proc(there))

    def _check_empty(self, target: str, directory: int) -> None:
        device = os.fstat(directory).st_dev
        if (on := next((each for each in self.table() if each.device == device), None)) is not None:
            raise PreconditionError(f"{target}: lies on the gluster volume of {on.source}, mounted at {on.path}")
        if not stat.S_ISDIR(os.fstat(directory).st_mode):
            raise PreconditionError(f"{target}: is no directory; remove it from the node")
        if holds := os.listdir(_proc(directory)):
            raise PreconditionError(
                f"{target}: holds files of the node's own, which a PV would hide (such as {sorted(holds)[0][:80]!r}, "
                f"{len(holds)} in all); move them away from there"
            )

    def rebind(self, there: Mount, source: Mount) -> None:
        """Replaces the mount `there`, whose client is dead, by the same part of `source`, with the same options.

        Whoever has `there` in a mount namespace of their own keeps it, dead. What is needed is at hand before `there`
        is taken away. Raises: as `bind`; UnavailableError if another mount is there by now.
        """
        with ExitStack() as stack:
            shown = self._part(stack, source, there.root)
            if self.at(there.path) != there:
                raise UnavailableError(f"{there.path}: its mount has changed meanwhile; try again")
            mounting.unmount(there.path, lazily=True)
            steps = there.path.removeprefix(self.kubelet_dir)
            _, directory = stack.enter_context(_opened(self.kubelet_dir, steps, _ANY))
            mounting.bind(_proc(shown), _proc(directory))
        self.set_options(there.path, there.options & FLAGS.keys())

    def _part(self, stack: ExitStack, source: Mount, relative: str) -> int:
        try:
            top, shown = stack.enter_context(_opened(source.path, relative, _ANY))
        except FileNotFoundError as error:
            raise NotFoundError(f"{source.source}: there is no directory {relative} on the gluster volume") from error
        if stat.S_ISLNK(os.fstat(shown).st_mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), f"{source.path}{relative}")
        if os.fstat(top).st_dev != source.device:
            raise MounterError(f"{source.path}: its mount has changed meanwhile; try again")
        return shown

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

    def unmount(self, path: str, source: str, root: str, *, lazily: bool = False) -> None:
        """Takes away every bind mount at `path`, all of which must be of `root` of `source`. None there: no error.

        lazily: for those whose client is dead, also if they are in use.
        Raises: PreconditionError if something else is mounted there; UnavailableError if it is in use; OSError.
        """
        while (mount := self.at(path)) is not None:
            if (mount.source, mount.root.removesuffix(DELETED)) != (source, root):
                raise PreconditionError(
                    f"{path}: {mount.source} with root {mount.root} is mounted there, not {root} of {source}; it is "
                    "left alone"
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
        """Makes `path`, whose parent exists, unless it is there, and makes it immutable, where its file system can:
        should the mount go, nothing is written on the node in its place.

        Raises: PreconditionError if its parent is on a gluster volume; OSError.
        """
        with self._opened(os.path.dirname(path)) as parent:
            if os.fstat(parent).st_dev in {each.device for each in self.table()}:
                raise PreconditionError(f"{path}: lies on a gluster volume")
            try:
                os.mkdir(os.path.basename(path), 0o750, dir_fd=parent)
            except FileExistsError:
                pass
            if self.at(path) is None:
                self._set_immutable(parent, os.path.basename(path), True)

    def remove_directory(self, path: str) -> None:
        """Removes the empty directory `path`, if it is there; nothing is mounted on it.

        Raises: PreconditionError if it holds something; OSError.
        """
        try:
            with self._opened(os.path.dirname(path)) as parent:
                self._set_immutable(parent, os.path.basename(path), False)
                os.rmdir(os.path.basename(path), dir_fd=parent)
        except FileNotFoundError:
            pass
        except OSError as error:
            if error.errno != errno.ENOTEMPTY:
                raise
            raise PreconditionError(
                f"{path}: the PV is unmounted, and beneath were files of the node's own; they are left there: move "
                "them away, and remove the directory"
            ) from None

    def _set_immutable(self, parent: int, name: str, immutable: bool) -> None:
        descriptor = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        try:
            mountpoint.set_immutable(descriptor, immutable)
        finally:
            os.close(descriptor)

    def statvfs(self, path: str) -> os.statvfs_result:
        """statvfs(3). Raises: OSError."""
        return os.statvfs(path)

    @contextmanager
    def _opened(self, path: str) -> Iterator[int]:
        with _opened(self.kubelet_dir, path.removeprefix(self.kubelet_dir)) as (_, directory):
            yield directory


@contextmanager
def _opened(top: str, relative: str, at_the_end: int = _DIRECTORY) -> Iterator[tuple[int, int]]:
    """Descriptors of the directory `top` and of `relative` beneath it, opened with the flags `at_the_end`."""
    first = last = os.open(top, _DIRECTORY)
    steps = [step for step in relative.split("/") if step]
    try:
        for at, step in enumerate(steps, 1):
            deeper = os.open(step, at_the_end if at == len(steps) else _DIRECTORY, dir_fd=last)
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
