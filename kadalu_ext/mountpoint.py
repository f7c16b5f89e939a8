"""A directory that something is mounted on: immutable, so that nothing is ever written under a lost mount."""

from __future__ import annotations

import fcntl
import os
import struct
from typing import Final

# include/uapi/linux/fs.h; the argument is an int, whatever the size in the number says (ioctl_iflags(2))
FS_IOC_GETFLAGS: Final = 0x80086601
FS_IOC_SETFLAGS: Final = 0x40086602
FS_IMMUTABLE_FL: Final = 0x10


def prepare(path: str) -> bool:
    """Makes the directory, if it is not there, and makes it immutable; nothing may be mounted on it.

    False if its file system knows no such flag, or this process may not set it. Raises: OSError.
    """
    os.makedirs(path, mode=0o755, exist_ok=True)
    return _set(path, True)


def remove(path: str) -> None:
    """Removes the directory, if it is there. Raises: OSError; it holds something, or is mounted on."""
    try:
        _set(path, False)
        os.rmdir(path)
    except FileNotFoundError:
        pass


def set_immutable(directory: int, immutable: bool) -> bool:
    """Of an open directory, not one opened with O_PATH. False if it cannot be."""
    try:
        (flags,) = struct.unpack("i", fcntl.ioctl(directory, FS_IOC_GETFLAGS, struct.pack("i", 0)))
        wanted = flags | FS_IMMUTABLE_FL if immutable else flags & ~FS_IMMUTABLE_FL
        if wanted != flags:
            fcntl.ioctl(directory, FS_IOC_SETFLAGS, struct.pack("i", wanted))
    except OSError:
        return False
    return True


def _set(path: str, immutable: bool) -> bool:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        return set_immutable(descriptor, immutable)
    finally:
        os.close(descriptor)
