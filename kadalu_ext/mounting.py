"""mount(2) and umount2(2), declared once."""

from __future__ import annotations

import ctypes
import errno
import os
from typing import Final

# Linux's include/uapi/linux/mount.h
MS_RDONLY: Final = 1
MS_NOSUID: Final = 2
MS_NODEV: Final = 4
MS_NOEXEC: Final = 8
MS_REMOUNT: Final = 32
MS_NOATIME: Final = 1024
MS_NODIRATIME: Final = 2048
MS_BIND: Final = 4096
MS_RELATIME: Final = 1 << 21

# include/linux/fs.h
MNT_DETACH: Final = 2
UMOUNT_NOFOLLOW: Final = 8

_libc: Final = ctypes.CDLL(None, use_errno=True)
_libc.mount.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p)
_libc.mount.restype = ctypes.c_int
_libc.umount2.argtypes = (ctypes.c_char_p, ctypes.c_int)
_libc.umount2.restype = ctypes.c_int


def bind(source: str, target: str) -> None:
    """Lets `source` show at `target` too. Raises: OSError naming both."""
    _mount(source, target, MS_BIND)


def remount_bind(target: str, flags: int) -> None:
    """Gives the bind mount at `target` exactly the MS_* `flags`: those it had and that are not in `flags` go away.

    Raises: OSError naming `target`.
    """
    _mount("none", target, MS_REMOUNT | MS_BIND | flags)


def mount(fstype: str, target: str) -> None:
    """Mounts a file system of the kernel's own, such as fusectl, read-only. Raises: OSError naming `target`."""
    _mount(fstype, target, MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, fstype)


def _mount(source: str, target: str, flags: int, fstype: str | None = None) -> None:
    kind = None if fstype is None else os.fsencode(fstype)
    if _libc.mount(os.fsencode(source), os.fsencode(target), kind, flags, None) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), source, None, target)


def unmount(path: str, *, lazily: bool = False) -> bool:
    """Takes away the uppermost mount at `path`, following no symlink; False if nothing is mounted there.

    lazily: also if it is in use; it is out of sight at once, and gone when its last user is.
    Raises: OSError, with EBUSY if it is in use.
    """
    if _libc.umount2(os.fsencode(path), UMOUNT_NOFOLLOW | (MNT_DETACH if lazily else 0)) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.EINVAL, errno.ENOENT):
        return False
    raise OSError(number, os.strerror(number), path)
