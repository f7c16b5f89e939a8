"""Files and directories of a volume by their identity, through libgfapi's handles (api/src/glfs-handles.h, tag v10.3).

A handle stands for one inode (its gfid), whatever becomes of its name. Every call goes from a handle, and names are
looked up in a directory's handle: no path is walked, no symlink followed. All raise OSError.
"""

from __future__ import annotations

import ctypes
import os
import stat
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from errno import EINVAL, ENODATA, ENXIO, EOPNOTSUPP
from typing import Final, NewType

from kadalu_ext.gluster import libgfapi, tree

Handle = NewType("Handle", int)
"""Of one inode; to be closed."""
OpenFile = NewType("OpenFile", int)

Buffer = ctypes.Array[ctypes.c_char]

_GFID_BYTES: Final = 16
_NAMES_BYTES: Final = 64 << 10
"""XATTR_LIST_MAX (linux/limits.h), and what an attribute's value may have."""
_PATH_BYTES: Final = 4096
_SET_MODE, _SET_UID, _SET_GID, _SET_ATIME, _SET_MTIME = 0x1, 0x2, 0x4, 0x10, 0x20
"""GFAPI_SET_ATTR_* (api/src/glfs.h)."""
_NO_SEEK: Final = (EINVAL, EOPNOTSUPP)


@dataclass(frozen=True, kw_only=True)
class Attributes:
    """stat(2). Times are in seconds and nanoseconds."""

    mode: int
    size_bytes: int
    blocks_bytes: int
    links: int
    uid: int
    gid: int
    device: int
    atime: tuple[int, int]
    mtime: tuple[int, int]

    @property
    def type(self) -> int:
        """S_IFMT."""
        return stat.S_IFMT(self.mode)


class Objects:
    """Of one started client. Thread-safe."""

    def __init__(self, fs: int) -> None:
        self._fs = fs

    # --- identities ---

    def at(self, path: bytes) -> Handle:
        """What is at the absolute `path` of the volume, a symlink at its end not followed."""
        return Handle(libgfapi.call("glfs_h_lookupat", self._fs, None, path, None, 0))

    def look_up(self, directory: Handle, name: bytes) -> tuple[Handle, Attributes]:
        """What has that name now; the bricks are asked."""
        found = libgfapi.Stat()
        handle = libgfapi.call("glfs_h_lookupat", self._fs, directory, name, ctypes.addressof(found), 0)
        return Handle(handle), _attributes(found)

    def attributes(self, handle: Handle) -> Attributes:
        found = libgfapi.Stat()
        libgfapi.call("glfs_h_stat", self._fs, handle, ctypes.addressof(found))
        return _attributes(found)

    def identity(self, handle: Handle) -> bytes:
        """The gfid."""
        gfid = ctypes.create_string_buffer(_GFID_BYTES)
        libgfapi.call("glfs_h_extract_handle", handle, gfid, _GFID_BYTES)
        return gfid.raw

    def by_identity(self, gfid: bytes) -> Handle:
        return Handle(libgfapi.call("glfs_h_create_from_handle", self._fs, gfid, _GFID_BYTES, None))

    def close(self, handle: Handle) -> None:
        libgfapi.call("glfs_h_close", handle)

    # --- names in a directory ---

    def names(self, directory: Handle) -> AbstractContextManager[Iterator[bytes]]:
        """Read as they are taken, in no order."""
        return libgfapi.names(libgfapi.call("glfs_h_opendir", self._fs, directory))

    def make_directory(self, parent: Handle, name: bytes) -> Handle:
        """With mode 0700."""
        return Handle(libgfapi.call("glfs_h_mkdir", self._fs, parent, name, 0o700, None))

    def make_symlink(self, parent: Handle, name: bytes, to: bytes) -> Handle:
        return Handle(libgfapi.call("glfs_h_symlink", self._fs, parent, name, to, None))

    def make_special(self, parent: Handle, name: bytes, mode: int, device: int) -> Handle:
        """mknod(2): a fifo, socket or device, by the type in `mode`."""
        return Handle(libgfapi.call("glfs_h_mknod", self._fs, parent, name, mode, device, None))

    def create(self, parent: Handle, name: bytes) -> tuple[Handle, OpenFile]:
        """A new regular file of mode 0600, open for writing; EEXIST if there is anything of that name."""
        file = ctypes.c_void_p()
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY
        handle = libgfapi.call("glfs_h_creat_open", self._fs, parent, name, flags, 0o600, None, ctypes.addressof(file))
        return Handle(handle), OpenFile(file.value or 0)

    def link(self, handle: Handle, parent: Handle, name: bytes) -> None:
        libgfapi.call("glfs_h_link", self._fs, handle, parent, name)

    def remove(self, parent: Handle, name: bytes) -> None:
        """Whatever it is, and all below it; nothing if it is not there."""
        tree.remove(self._fs, parent, name, None)

    def read_link(self, handle: Handle) -> bytes:
        target = ctypes.create_string_buffer(_PATH_BYTES)
        size = libgfapi.call("glfs_h_readlink", self._fs, handle, target, _PATH_BYTES)
        return target.raw[:size]

    # --- attributes ---

    def xattr_names(self, handle: Handle) -> list[bytes]:
        names = ctypes.create_string_buffer(_NAMES_BYTES)
        size = libgfapi.call("glfs_h_getxattrs", self._fs, handle, None, names, _NAMES_BYTES)
        return [name for name in names.raw[:size].split(b"\0") if name]

    def xattr(self, handle: Handle, name: bytes) -> bytes | None:
        """None if it has none of that name."""
        value = ctypes.create_string_buffer(_NAMES_BYTES)
        try:
            size = libgfapi.call("glfs_h_getxattrs", self._fs, handle, name, value, _NAMES_BYTES)
        except OSError as error:
            if error.errno != ENODATA:
                raise
            return None
        return value.raw[:size]

    def set_xattr(self, handle: Handle, name: bytes, value: bytes) -> None:
        libgfapi.call("glfs_h_setxattrs", self._fs, handle, name, value, len(value), 0)

    def remove_xattr(self, handle: Handle, name: bytes) -> None:
        try:
            libgfapi.call("glfs_h_removexattrs", self._fs, handle, name)
        except OSError as error:
            if error.errno != ENODATA:
                raise

    def set_owner(self, handle: Handle, attributes: Attributes) -> None:
        """chown(2), which clears what makes a file privileged: setuid, setgid, security.capability."""
        self._set(handle, attributes, _SET_UID | _SET_GID)

    def set_attributes(self, handle: Handle, attributes: Attributes) -> None:
        """Owner, then mode, then times: the order in which a brick does it (posix_setattr, tag v10.3)."""
        self._set(handle, attributes, _SET_UID | _SET_GID | _mode(attributes) | _SET_ATIME | _SET_MTIME)

    def set_mode_and_times(self, handle: Handle, attributes: Attributes) -> None:
        self._set(handle, attributes, _mode(attributes) | _SET_ATIME | _SET_MTIME)

    def _set(self, handle: Handle, attributes: Attributes, valid: int) -> None:
        wanted = libgfapi.Stat(st_mode=attributes.mode, st_uid=attributes.uid, st_gid=attributes.gid)
        wanted.st_atime, wanted.st_atime_nsec = attributes.atime
        wanted.st_mtime, wanted.st_mtime_nsec = attributes.mtime
        libgfapi.call("glfs_h_setattrs", self._fs, handle, ctypes.addressof(wanted), valid)

    # --- contents ---

    def open(self, handle: Handle) -> OpenFile:
        """For reading."""
        return OpenFile(libgfapi.call("glfs_h_open", self._fs, handle, os.O_RDONLY))

    def read_into(self, file: OpenFile, buffer: Buffer, count: int, offset: int) -> int:
        """The bytes that were read, 0 at the end of the file."""
        return libgfapi.call("glfs_pread", file, buffer, count, offset, 0, None)

    def write(self, file: OpenFile, buffer: Buffer, count: int, offset: int) -> int:
        """The bytes that were written, of the buffer's first `count`."""
        return libgfapi.call("glfs_pwrite", file, buffer, count, offset, 0, None, None)

    def seek_data(self, file: OpenFile, offset: int) -> int | None:
        """Where the next data are; None if there are none."""
        return self._seek(file, offset, os.SEEK_DATA)

    def seek_hole(self, file: OpenFile, offset: int) -> int | None:
        """Where the next hole is, the file's end if there is none before it; None if `offset` is not in the file, or
        if the bricks cannot tell."""
        return self._seek(file, offset, os.SEEK_HOLE)

    def _seek(self, file: OpenFile, offset: int, whence: int) -> int | None:
        try:
            return libgfapi.call("glfs_lseek", file, offset, whence)
        except OSError as error:
            if error.errno == ENXIO:
                return None
            if error.errno not in _NO_SEEK:
                raise
            return offset if whence == os.SEEK_DATA else None

    def copy_range(self, source: OpenFile, target: OpenFile, offset: int, count: int) -> int:
        """copy_file_range(2), done by the brick; the bytes that were copied, 0 at the source's end.

        Right on a volume of one brick without shard only: elsewhere it writes a part of the bricks and says nothing.
        At most 1 GiB at a time: the result is an int.
        """
        at_source, at_target = ctypes.c_int64(offset), ctypes.c_int64(offset)
        places = (source, ctypes.addressof(at_source), target, ctypes.addressof(at_target))
        return libgfapi.call("glfs_copy_file_range", *places, min(count, 1 << 30), 0, None, None, None)

    def truncate(self, file: OpenFile, size_bytes: int) -> None:
        libgfapi.call("glfs_ftruncate", file, size_bytes, None, None)

    def sync(self, file: OpenFile) -> None:
        """fsync(2)."""
        libgfapi.call("glfs_fsync", file, None, None)

    def close_file(self, file: OpenFile) -> None:
        """Raises: OSError if what was written did not reach the bricks."""
        libgfapi.call("glfs_close", file)


def _mode(attributes: Attributes) -> int:
    return 0 if stat.S_ISLNK(attributes.mode) else _SET_MODE  # a symlink's cannot be changed


def _attributes(found: libgfapi.Stat) -> Attributes:
    return Attributes(
        mode=found.st_mode,
        size_bytes=found.st_size,
        blocks_bytes=found.st_blocks * 512,
        links=found.st_nlink,
        uid=found.st_uid,
        gid=found.st_gid,
        device=found.st_rdev,
        atime=(found.st_atime, found.st_atime_nsec),
        mtime=(found.st_mtime, found.st_mtime_nsec),
    )
