"""libgfapi.so.0 through ctypes: its functions with their types, each raising OSError (api/src/glfs.h, tag v10.3).

Pointers to the library's objects are plain integers here. ctypes lets go of the interpreter's lock during each call, so
calls of several threads go on side by side.
"""

from __future__ import annotations

import ctypes
import functools
import os
import platform
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from errno import EIO
from typing import Any, Final

_Pointer: Final = ctypes.c_void_p
_Text: Final = ctypes.c_char_p
_Int: Final = ctypes.c_int
_Bytes: Final = ctypes.c_ssize_t
_Count: Final = ctypes.c_size_t
_Mode: Final = ctypes.c_uint
_Offset: Final = ctypes.c_int64

# name: (result, arguments...)
_FUNCTIONS: Final[dict[str, tuple[Any, ...]]] = {
    "glfs_new": (_Pointer, _Text),
    "glfs_set_logging": (_Int, _Pointer, _Text, _Int),
    "glfs_set_volfile_server": (_Int, _Pointer, _Text, _Text, _Int),
    "glfs_init": (_Int, _Pointer),
    "glfs_fini": (_Int, _Pointer),
    "glfs_mkdir": (_Int, _Pointer, _Text, ctypes.c_uint),
    "glfs_rmdir": (_Int, _Pointer, _Text),
    "glfs_rename": (_Int, _Pointer, _Text, _Text),
    "glfs_lstat": (_Int, _Pointer, _Text, _Pointer),
    "glfs_statvfs": (_Int, _Pointer, _Text, _Pointer),
    "glfs_lsetxattr": (_Int, _Pointer, _Text, _Text, _Text, ctypes.c_size_t, _Int),
    "glfs_lgetxattr": (ctypes.c_ssize_t, _Pointer, _Text, _Text, _Pointer, ctypes.c_size_t),
    "glfs_lremovexattr": (_Int, _Pointer, _Text, _Text),
    "glfs_chmod": (_Int, _Pointer, _Text, ctypes.c_uint),
    "glfs_lchown": (_Int, _Pointer, _Text, ctypes.c_uint, ctypes.c_uint),
    "glfs_opendir": (_Pointer, _Pointer, _Text),
    "glfs_readdir": (_Pointer, _Pointer),
    "glfs_closedir": (_Int, _Pointer),
    "glfs_h_lookupat": (_Pointer, _Pointer, _Pointer, _Text, _Pointer, _Int),
    "glfs_h_opendir": (_Pointer, _Pointer, _Pointer),
    "glfs_h_unlink": (_Int, _Pointer, _Pointer, _Text),
    "glfs_h_extract_handle": (ctypes.c_ssize_t, _Pointer, _Pointer, _Int),
    "glfs_h_create_from_handle": (_Pointer, _Pointer, _Text, _Int, _Pointer),
    "glfs_h_close": (_Int, _Pointer),
    "glfs_h_stat": (_Int, _Pointer, _Pointer, _Pointer),
    "glfs_h_mkdir": (_Pointer, _Pointer, _Pointer, _Text, _Mode, _Pointer),
    "glfs_h_mknod": (_Pointer, _Pointer, _Pointer, _Text, _Mode, ctypes.c_uint64, _Pointer),
    "glfs_h_symlink": (_Pointer, _Pointer, _Pointer, _Text, _Text, _Pointer),
    "glfs_h_creat_open": (_Pointer, _Pointer, _Pointer, _Text, _Int, _Mode, _Pointer, _Pointer),
    "glfs_h_open": (_Pointer, _Pointer, _Pointer, _Int),
    "glfs_h_link": (_Int, _Pointer, _Pointer, _Pointer, _Text),
    "glfs_h_readlink": (_Int, _Pointer, _Pointer, _Pointer, _Count),
    "glfs_h_getxattrs": (_Int, _Pointer, _Pointer, _Text, _Pointer, _Count),
    "glfs_h_setxattrs": (_Int, _Pointer, _Pointer, _Text, _Text, _Count, _Int),
    "glfs_h_removexattrs": (_Int, _Pointer, _Pointer, _Text),
    "glfs_h_setattrs": (_Int, _Pointer, _Pointer, _Pointer, _Int),
    "glfs_pread": (_Bytes, _Pointer, _Pointer, _Count, _Offset, _Int, _Pointer),
    "glfs_pwrite": (_Bytes, _Pointer, _Pointer, _Count, _Offset, _Int, _Pointer, _Pointer),
    "glfs_copy_file_range": (
        *(_Bytes, _Pointer, _Pointer, _Pointer, _Pointer, _Count, ctypes.c_uint),
        *(_Pointer, _Pointer, _Pointer),
    ),
    "glfs_lseek": (_Offset, _Pointer, _Offset, _Int),
    "glfs_ftruncate": (_Int, _Pointer, _Offset, _Pointer, _Pointer),
    "glfs_fsync": (_Int, _Pointer, _Pointer, _Pointer),
    "glfs_close": (_Int, _Pointer),
    "glfs_setfsuid": (_Int, ctypes.c_uint),
    "glfs_setfsgid": (_Int, ctypes.c_uint),
}


class StatVfs(ctypes.Structure):
    """struct statvfs of 64-bit Linux (bits/statvfs.h)."""

    _fields_ = [
        *((name, ctypes.c_ulong) for name in ("f_bsize", "f_frsize", "f_blocks", "f_bfree", "f_bavail", "f_files")),
        *((name, ctypes.c_ulong) for name in ("f_ffree", "f_favail", "f_fsid", "f_flag", "f_namemax")),
        ("f_spare", ctypes.c_int * 6),
    ]


class DirEntry(ctypes.Structure):
    """struct dirent of 64-bit Linux (bits/dirent.h)."""

    _fields_ = [
        ("d_ino", ctypes.c_uint64),
        ("d_off", ctypes.c_int64),
        ("d_reclen", ctypes.c_ushort),
        ("d_type", ctypes.c_ubyte),
        ("d_name", ctypes.c_char * 256),
    ]


class Stat(ctypes.Structure):
    """struct stat: x86_64's (bits/struct_stat.h), else the kernel's generic one, which aarch64 and riscv64 have."""

    _fields_ = [
        ("st_dev", ctypes.c_uint64),
        ("st_ino", ctypes.c_uint64),
        *(
            [("st_nlink", ctypes.c_uint64), ("st_mode", ctypes.c_uint32)]
            if platform.machine() == "x86_64"
            else [("st_mode", ctypes.c_uint32), ("st_nlink", ctypes.c_uint32)]
        ),
        ("st_uid", ctypes.c_uint32),
        ("st_gid", ctypes.c_uint32),
        ("st_rdev", ctypes.c_uint64),  # its alignment is x86_64's padding
        *([] if platform.machine() == "x86_64" else [("_pad", ctypes.c_uint64)]),
        ("st_size", ctypes.c_int64),
        ("st_blksize", ctypes.c_int64),  # elsewhere than on x86_64 a half of it is padding
        ("st_blocks", ctypes.c_int64),  # of 512 bytes
        *((f"st_{which}time{unit}", ctypes.c_int64) for which in "amc" for unit in ("", "_nsec")),
        ("_rest", ctypes.c_byte * 64),
    ]


@functools.cache
def _function(name: str) -> Callable[..., Any]:
    function: Any = getattr(_library(), name)
    function.restype, *function.argtypes = _FUNCTIONS[name]
    return function  # type: ignore[no-any-return]


@functools.cache
def _library() -> ctypes.CDLL:
    return ctypes.CDLL("libgfapi.so.0", use_errno=True)


def load() -> None:
    """Makes the first call quicker. If there is no such library, that call says so."""
    with suppress(OSError):
        _library()


_thread: Final = threading.local()
_running: Final[dict[int, tuple[str, float]]] = {}
"""By thread: the function that it is in, and since when (time.monotonic())."""

ALLOWED_S: Final[dict[str, float]] = {"glfs_fsync": 600.0, "glfs_copy_file_range": 600.0}
"""The calls that a brick's disk may rightly keep for minutes: they carry out what many others have left to be done.
No other call does; should they hang with the disk, the others of the volume do, too, and are noticed by themselves."""


def longest() -> tuple[str, float] | None:
    """Of the calls that have not returned, the one that has been overdue for longest, and for how many seconds.

    A call is due at once, one of ALLOWED_S after that time; if none is overdue the seconds may be below 0.
    """
    now = time.monotonic()
    overdue = [(now - since - ALLOWED_S.get(name, 0.0), name) for name, since in list(_running.values())]
    if not overdue:
        return None
    seconds, name = max(overdue)
    return f"{name}, beyond the {ALLOWED_S[name]:.0f} s that it may take," if name in ALLOWED_S else name, seconds


def call(name: str, *args: object) -> int:
    """What the function returns: a number, or a pointer. It is made as root of the volume, whoever this process is.

    Raises: OSError with the library's errno where it returns -1 or NULL; OSError if the library cannot be loaded.
    """
    if not getattr(_thread, "root", False):
        # of each thread; without it libgfapi sends the uid and gid of the process
        _function("glfs_setfsuid")(0)
        _function("glfs_setfsgid")(0)
        _thread.root = True
    function = _function(name)
    ctypes.set_errno(0)
    with _noted(name):
        result: int | None = function(*args)
    if result is None or result == -1:
        # Some failures leave errno alone: they must not pass for a success.
        errno = ctypes.get_errno() or EIO
        raise OSError(errno, os.strerror(errno))
    return result


class _noted:  # noqa: N801 (a function to who reads it; as a generator it would take four times as long)
    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        self._name = name

    def __enter__(self) -> None:
        _running[threading.get_ident()] = self._name, time.monotonic()

    def __exit__(self, *_: object) -> None:
        del _running[threading.get_ident()]


@contextmanager
def names(directory: int) -> Iterator[Iterator[bytes]]:
    """The names in an open directory, without `.` and `..`; it is closed in the end. Raises: OSError."""
    try:
        yield _names(directory)
    finally:
        call("glfs_closedir", directory)


def _names(directory: int) -> Iterator[bytes]:
    function = _function("glfs_readdir")
    while True:
        ctypes.set_errno(0)
        with _noted("glfs_readdir"):
            entry: int | None = function(directory)
        if entry is None:
            if errno := ctypes.get_errno():
                raise OSError(errno, os.strerror(errno))
            return
        name: bytes = ctypes.cast(entry, ctypes.POINTER(DirEntry)).contents.d_name
        if name not in (b".", b".."):
            yield name
