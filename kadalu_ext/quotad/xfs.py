"""The only ioctl and quotactl of this project: XFS project quotas.

Structures and numbers are those of linux/fs.h (struct fsxattr, FS_IOC_FSGETXATTR) and linux/dqblk_xfs.h (struct
fs_disk_quota, struct fs_quota_statv); calls as in ioctl_xfs_fsgetxattr(2) and quotactl(2). The kernel's 512-byte blocks
become bytes here and nowhere else.

quotactl_fd(2), Linux 5.14, needs no block device, so it works without /dev and whatever name the mount table has for
the device. Where it is missing, quotactl(2) is called with the device from udev's /dev/block.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import functools
import os
import struct
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Protocol

from kadalu_ext import mountinfo
from kadalu_ext.errors import QuotaError, WireError
from kadalu_ext.mountinfo import Mount
from kadalu_ext.quotad import plan
from kadalu_ext.quotad.plan import Limits, Project, ProjectId, Tag

BASIC_BLOCK: Final = 512

_FS_IOC_FSGETXATTR: Final = 0x801C581F  # _IOR('X', 31, struct fsxattr)
_FS_IOC_FSSETXATTR: Final = 0x401C5820  # _IOW('X', 32, struct fsxattr)
_FSXATTR: Final = struct.Struct("=IIIII8s")  # xflags, extsize, nextents, projid, cowextsize, pad
_PROJINHERIT: Final = 0x200

_SYS_QUOTACTL_FD: Final = 443  # one number on every architecture (asm-generic/unistd.h)
_PRJQUOTA: Final = 2
_Q_XGETQUOTA: Final = 3
_Q_XSETQLIM: Final = 4
_Q_XGETQSTATV: Final = 8
_Q_XGETNEXTQUOTA: Final = 9

# version, flags, fieldmask, id; blk hard, blk soft, ino hard, ino soft, bcount, icount; timers, warnings; realtime:
# unused
_DISK_QUOTA: Final = struct.Struct("=bbHI6QiiHH4b3QiHh8s")
_DISK_QUOTA_HEAD: Final = struct.Struct("=4xI6Q")  # of it what is read: id to icount
_DISK_QUOTA_VERSION: Final = 1
_FS_PROJ_QUOTA: Final = 2
_ALL_LIMITS: Final = 0x1 | 0x2 | 0x4 | 0x8  # FS_DQ_ISOFT, IHARD, BSOFT, BHARD

_STATV: Final = struct.Struct("=bBH156s")  # version, pad, flags; the rest is not needed
_STATV_VERSION: Final = 1
_PDQ_ACCT: Final = 0x10
_PDQ_ENFD: Final = 0x20

_DiskQuota = ctypes.c_char * _DISK_QUOTA.size
_Statv = ctypes.c_char * _STATV.size

_libc: Final = ctypes.CDLL(None, use_errno=True)
_libc.syscall.argtypes = [ctypes.c_long, ctypes.c_uint, ctypes.c_uint, ctypes.c_uint, ctypes.c_void_p]
_libc.syscall.restype = ctypes.c_long
_libc.quotactl.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_void_p]


@dataclass(frozen=True, kw_only=True)
class QuotaState:
    """Whether a file system counts what projects use, and whether it refuses more than their limits."""

    accounting: bool
    enforcing: bool


class QuotaTable(Protocol):
    """The projects of one file system, and the tags of its inodes. XfsTable is the real one.

    Every method raises OSError as the kernel does. None has an effect beyond the one project or inode that it names.
    """

    def get(self, project_id: ProjectId, /) -> Project | None:
        """The kernel's row for the project; None if nothing uses and nothing limits it."""

    def rows(self, first: ProjectId, last: ProjectId) -> Iterator[Project]:
        """The rows there are from `first` to `last`, by rising id."""

    def state(self) -> QuotaState:
        """Whether project quotas are on. Raises: QuotaError on a kernel that cannot say."""

    def set_limits(self, project_id: ProjectId, limits: Limits) -> None:
        """Sets all four limits at once. Block limits are rounded up to the file system's blocks. Idempotent."""

    def get_tag(self, fd: int) -> Tag:
        """The project that an open file or directory of this file system carries."""

    def set_tag(self, fd: int, tag: Tag) -> None:
        """Gives it another in one step; its blocks and its inode are counted there from then on, beyond the limit if
        need be."""


class XfsTable:
    """The QuotaTable of the file system that the open directory `fd` is on. It borrows `fd`, and needs
    CAP_SYS_ADMIN."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def state(self) -> QuotaState:
        """Whether project quotas are on. Raises: QuotaError without quotactl_fd and a block device; OSError."""
        buffer = _Statv.from_buffer_copy(_STATV.pack(_STATV_VERSION, 0, 0, b""))
        try:
            _quotactl(self._fd, _Q_XGETQSTATV, 0, buffer)
        except OSError as error:
            # the kernel says ENOSYS also if no quota at all is on (fs/quota/quota.c, quota_getstatev)
            if error.errno != errno.ENOSYS:
                raise
            return QuotaState(accounting=False, enforcing=False)
        flags = _STATV.unpack(buffer.raw)[2]
        return QuotaState(accounting=bool(flags & _PDQ_ACCT), enforcing=bool(flags & _PDQ_ENFD))

    def get(self, project_id: ProjectId, /) -> Project | None:
        return self._row(_Q_XGETQUOTA, project_id)

    def rows(self, first: ProjectId, last: ProjectId) -> Iterator[Project]:
        following = first
        while following <= last:
            row = self._row(_Q_XGETNEXTQUOTA, following)
            if row is None or row.project_id > last:
                return
            yield row
            following = ProjectId(row.project_id + 1)

    def set_limits(self, project_id: ProjectId, limits: Limits) -> None:
        hard, soft = (-(-count // BASIC_BLOCK) for count in (limits.bhard_bytes, limits.bsoft_bytes))
        buffer = _DiskQuota.from_buffer_copy(
            _DISK_QUOTA.pack(
                _DISK_QUOTA_VERSION, _FS_PROJ_QUOTA, _ALL_LIMITS, project_id,
                hard, soft, limits.ihard, limits.isoft, *(0,) * 16, b"",
            )
        )  # fmt: skip
        _quotactl(self._fd, _Q_XSETQLIM, project_id, buffer)

    def get_tag(self, fd: int) -> Tag:
        flags, _, _, project_id, _, _ = _FSXATTR.unpack(_fsxattr(fd))
        return Tag(project_id=ProjectId(project_id), inherit=bool(flags & _PROJINHERIT))

    def set_tag(self, fd: int, tag: Tag) -> None:
        flags, extsize, nextents, _, cowextsize, pad = _FSXATTR.unpack(_fsxattr(fd))
        flags = flags | _PROJINHERIT if tag.inherit else flags & ~_PROJINHERIT
        attributes = _FSXATTR.pack(flags, extsize, nextents, tag.project_id, cowextsize, pad)
        try:
            fcntl.ioctl(fd, _FS_IOC_FSSETXATTR, attributes)
        except OSError as error:
            if error.errno == errno.EINVAL and tag.project_id > 0xFFFF:
                raise OSError(
                    errno.EINVAL,
                    "the file system takes no project ids above 65535: unmount it and run xfs_admin -p DEVICE",
                ) from error
            raise

    def _row(self, command: int, project_id: ProjectId) -> Project | None:
        buffer = _DiskQuota()
        try:
            _quotactl(self._fd, command, project_id, buffer)
        except OSError as error:
            if error.errno == errno.ENOENT:
                return None
            raise
        found, bhard, bsoft, ihard, isoft, bcount, icount = _DISK_QUOTA_HEAD.unpack_from(buffer)
        return Project(
            project_id=ProjectId(found),
            limits=Limits(bhard_bytes=bhard * BASIC_BLOCK, ihard=ihard, bsoft_bytes=bsoft * BASIC_BLOCK, isoft=isoft),
            used_bytes=bcount * BASIC_BLOCK,
            used_inodes=icount,
        )


class FileSystems(Protocol):
    """How a brick's file system is reached. Xfs is the real one."""

    def check(self, fd: int, path: str) -> None:
        """Whether the file system of the open directory `fd`, known as `path`, enforces project quotas.

        Raises: QuotaError with the remedy if not; OSError.
        """

    def table(self, fd: int) -> QuotaTable:
        """Its table, which borrows `fd`. Does no I/O."""

    def places(self, paths: Collection[str]) -> dict[str, tuple[int, ...]]:
        """On which file system each of the paths is (st_dev), and what else tells one mount of it from another; none of
        a path of which it cannot be told. Touches none of them, so that it never hangs."""


class Xfs:
    """The FileSystems of this host."""

    def check(self, fd: int, path: str) -> None:
        device = os.fstat(fd).st_dev
        try:
            everywhere = mountinfo.read()
        except WireError as error:
            raise QuotaError(f"{path}: {error}") from error
        expected = _above(everywhere, path)
        if expected is not None and expected.device != device:
            raise QuotaError(f"{path} is not on {expected.path}: the brick must be known to gluster by its real path")
        mounts = [mount for mount in everywhere if mount.device == device]
        mount = _above(mounts, path) or max(mounts, key=lambda mount: len(mount.path), default=None)
        if mount is None:
            raise QuotaError(
                f"{path}: its file system is not in {mountinfo.MOUNTINFO}, so it cannot be told what it is"
            )
        state = XfsTable(fd).state() if mount.fstype == "xfs" else QuotaState(accounting=False, enforcing=False)
        reason = plan.refusal(
            plan.FileSystem(
                path=path,
                fstype=mount.fstype,
                source=mount.source,
                mount_point=mount.path,
                read_only=bool(os.fstatvfs(fd).f_flag & os.ST_RDONLY),
                accounting=state.accounting,
                enforcing=state.enforcing,
            )
        )
        if reason is not None:
            raise QuotaError(reason)

    def table(self, fd: int) -> XfsTable:
        return XfsTable(fd)

    def places(self, paths: Collection[str]) -> dict[str, tuple[int, ...]]:
        try:
            mounts = mountinfo.read()
        except (OSError, WireError):
            return {}
        found = {path: _above(mounts, path) for path in paths}
        return {path: (mount.device, mount.mount_id) for path, mount in found.items() if mount is not None}


def _above(mounts: Iterable[Mount], path: str) -> Mount | None:
    """The mount that `path` is on, as its name says: the longest mount point above it, the last of several there."""
    above = [mount for mount in mounts if path == mount.path or path.startswith(mount.path.rstrip("/") + "/")]
    return max(reversed(above), key=lambda mount: len(mount.path), default=None)


def _fsxattr(fd: int) -> bytes:
    return fcntl.ioctl(fd, _FS_IOC_FSGETXATTR, bytes(_FSXATTR.size))


def _quotactl(fd: int, command: int, project_id: int, buffer: ctypes.Array[ctypes.c_char]) -> None:
    qcmd = (ord("X") << 8 | command) << 8 | _PRJQUOTA
    if _has_quotactl_fd():
        failed = _libc.syscall(_SYS_QUOTACTL_FD, fd, qcmd, project_id, buffer) != 0
    else:
        failed = _libc.quotactl(qcmd, _block_device(fd), project_id, buffer) != 0
    if failed:
        code = ctypes.get_errno()
        raise OSError(code, "project quotas are off on this file system" if code == errno.ESRCH else os.strerror(code))


@functools.cache
def _has_quotactl_fd() -> bool:
    # a closed descriptor is EBADF wherever the call exists; of an open one ENOSYS may also say that no quota is on
    _libc.syscall(_SYS_QUOTACTL_FD, 0xFFFF_FFFF, _PRJQUOTA, 0, None)
    return ctypes.get_errno() != errno.ENOSYS


def _block_device(fd: int) -> bytes:
    """What quotactl(2) knows the file system of `fd` by. udev has it for every one."""
    device = os.fstat(fd).st_dev
    path = f"/dev/block/{os.major(device)}:{os.minor(device)}"
    try:
        if os.stat(path).st_rdev == device:
            return path.encode()
    except FileNotFoundError:
        pass
    # not as ENOENT, which says of a project that it is not used
    raise QuotaError(
        f"{path} is not there, which Linux before 5.14 needs for quotas: install "
        "/usr/share/kadalu-quotad/linux-before-5.14.conf as it says in it"
    )
