"""Operations on the files of a volume by a libgfapi client in this process, whichever process that is.

What is handed in and out is numbers, text, bytes and lists of them, so that it can go from one process to another.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any, Final, Self

from kadalu_ext.gluster import libgfapi, tree
from kadalu_ext.gluster.copyprogress import CopyProgress
from kadalu_ext.gluster.objects import Handle, Objects

OPERATIONS: Final = frozenset(
    {"copy_tree", "getxattr", "gfid", "listdir", "mkdir", "own", "remove_tree", "removexattr", "rename", "rmdir"}
    | {"setxattr", "stat", "statvfs"}
)
"""The names of those of Files' methods that are operations."""

_XATTR_BYTES: Final = 64 << 10
"""The largest value that Linux allows."""
_XATTR_CREATE: Final = 1
_HANDLE_BYTES: Final = 16
"""GFAPI_HANDLE_LENGTH (api/src/glfs-handles.h): a handle is the gfid."""


class Files:
    """A started client. Thread-safe.

    Paths are relative to the volume's root, and a symlink at their end is never followed. All operations raise
    OSError. None is bounded by itself.
    """

    def __init__(self, fs: int) -> None:
        self._fs = fs

    @classmethod
    def start(
        cls, volume: str, *, socket: str, log_file: str, log_level: int, ready: Callable[[], None] = lambda: None
    ) -> Self:
        """A client that has its volfile from the unix socket. Raises: OSError, without an errno if there is no library;
        what `ready` does.

        ready: called before the client needs its volfile.
        log_file, log_level: of gluster's own log, as in gfapi.LOG_LEVEL_WARNING.
        """
        ready()
        fs = libgfapi.call("glfs_new", volume.encode())
        files = cls(fs)
        try:
            libgfapi.call("glfs_set_logging", fs, os.fsencode(log_file), log_level)
            libgfapi.call("glfs_set_volfile_server", fs, b"unix", os.fsencode(socket), 0)
            libgfapi.call("glfs_init", fs)
        except OSError:
            files.end()
            raise
        return files

    def end(self) -> None:
        """Takes some ten seconds."""
        try:
            libgfapi.call("glfs_fini", self._fs)
        except OSError:
            pass  # it complains of calls that nobody waits for any more

    def look(self, longest_s: float) -> str:
        """See gfapi.Client: nothing can be done here about a call that hangs."""
        return ""

    def call(self, operation: str, *args: Any) -> Any:
        """One of OPERATIONS, by its name."""
        return getattr(self, operation)(*args)

    def mkdir(self, path: str, mode: int) -> None:
        libgfapi.call("glfs_mkdir", self._fs, _absolute(path), mode)

    def rmdir(self, path: str) -> None:
        libgfapi.call("glfs_rmdir", self._fs, _absolute(path))

    def rename(self, old: str, new: str) -> None:
        libgfapi.call("glfs_rename", self._fs, _absolute(old), _absolute(new))

    def stat(self, path: str) -> list[int]:
        """Mode, group, inode, and size in bytes."""
        found = libgfapi.Stat()
        libgfapi.call("glfs_lstat", self._fs, _absolute(path), ctypes.addressof(found))
        return [found.st_mode, found.st_gid, found.st_ino, found.st_size]

    def statvfs(self, path: str) -> list[int]:
        """All of it, what is free for users, and a block, in bytes."""
        found = libgfapi.StatVfs()
        libgfapi.call("glfs_statvfs", self._fs, _absolute(path), ctypes.addressof(found))
        return [found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize, found.f_frsize]

    def gfid(self, path: str) -> bytes:
        handle = ctypes.create_string_buffer(_HANDLE_BYTES)
        found = libgfapi.call("glfs_h_lookupat", self._fs, None, _absolute(path), None, 0)
        try:
            libgfapi.call("glfs_h_extract_handle", found, handle, _HANDLE_BYTES)
        finally:
            libgfapi.call("glfs_h_close", found)
        return handle.raw

    def setxattr(self, path: str, name: str, value: bytes, create: bool) -> None:
        flags = _XATTR_CREATE if create else 0
        libgfapi.call("glfs_lsetxattr", self._fs, _absolute(path), os.fsencode(name), value, len(value), flags)

    def getxattr(self, path: str, name: str) -> bytes:
        value = ctypes.create_string_buffer(_XATTR_BYTES)
        size = libgfapi.call("glfs_lgetxattr", self._fs, _absolute(path), os.fsencode(name), value, _XATTR_BYTES)
        return value.raw[:size]

    def removexattr(self, path: str, name: str) -> None:
        libgfapi.call("glfs_lremovexattr", self._fs, _absolute(path), os.fsencode(name))

    def own(self, path: str, uid: int, gid: int, mode: int) -> None:
        """chmod(2) comes last, since chown may take bits of the mode away."""
        libgfapi.call("glfs_lchown", self._fs, _absolute(path), uid, gid)
        libgfapi.call("glfs_chmod", self._fs, _absolute(path), mode)

    def listdir(self, path: str, most: int | None = None) -> list[str]:
        with libgfapi.names(libgfapi.call("glfs_opendir", self._fs, _absolute(path))) as found:
            return list(map(os.fsdecode, islice(found, most)))

    def remove_tree(self, path: str, deadline: float | None) -> None:
        """Raises DeadlineError as well."""
        parent, _, name = path.strip("/").rpartition("/")
        top = libgfapi.call("glfs_h_lookupat", self._fs, None, _absolute(parent), None, 0)
        try:
            tree.remove(self._fs, top, os.fsencode(name), deadline)
        finally:
            libgfapi.call("glfs_h_close", top)

    def copy_tree(
        self, source: str, target: str, server_side: bool, deadline: float | None, progress: CopyProgress
    ) -> None:
        """Raises DeadlineError as well."""
        from kadalu_ext.gluster import copytree  # few processes ever copy, and it takes memory

        objects = Objects(self._fs)
        with _held(objects, source) as old, _held(objects, target) as new:
            copytree.copy(objects, old, new, progress, server_side=server_side, deadline=deadline)


@contextmanager
def _held(objects: Objects, path: str) -> Iterator[Handle]:
    handle = objects.at(_absolute(path))
    try:
        yield handle
    finally:
        objects.close(handle)


def _absolute(path: str) -> bytes:
    if "\0" in path:
        raise ValueError("a path holds a NUL")
    return b"/" + os.fsencode(path.strip("/"))
