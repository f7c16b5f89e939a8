"""What is on a brick: its records and its PVs' directories. Only looks.

Names, paths and values on a brick come from whoever can write to the volume. So nothing is followed: a path is opened
by openat2(2), beneath the directory before it, through no symlink and no mount, and what must be a directory with
O_DIRECTORY. No file of a brick is ever read, only directories and one xattr. Nothing stays open longer than it is
worked on, or than a slice of work lasts, so that a brick's file system can be unmounted while kadalu-quotad runs.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Final

from kadalu_ext.errors import QuotaError, RecordError
from kadalu_ext.quotad import plan
from kadalu_ext.quotad.bricks import Brick
from kadalu_ext.quotad.plan import Limits
from kadalu_ext.quotad.xfs import FileSystems, QuotaTable
from kadalu_ext.record import RECORD_XATTR, RECORDS_DIR, SUBVOL_DIR, QuotaRecord, decode

OPEN_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
NOT_A_DIRECTORY: Final = frozenset({errno.ENOTDIR, errno.ELOOP})
"""What the kernel says of a symlink or file where a directory must be."""

_SYS_OPENAT2: Final = 437  # one number on every architecture; Linux 5.6, and not under systemd's RestrictSUIDSGID=
_BENEATH: Final = 0x8 | 0x4 | 0x1  # RESOLVE_BENEATH, NO_SYMLINKS, NO_XDEV of linux/openat2.h
_HOW: Final = struct.pack("=QQQ", OPEN_DIRECTORY, 0, _BENEATH)  # struct open_how: flags, mode, resolve

_MOUNTED: Final = "another file system is mounted in the brick"
_REMEDIES: Final = {
    errno.EIO: "see dmesg for the reason; when the disk is well, stop its bricks, and umount and mount its file system",
    errno.EUCLEAN: "its file system is damaged: stop its bricks, umount it, and run xfs_repair",
    errno.ENOSPC: "its file system has no room left to note a limit in: free some, or grow it (xfs_growfs)",
    errno.EROFS: "its file system is read-only: see dmesg for the reason",
}

_libc: Final = ctypes.CDLL(None, use_errno=True)
_libc.syscall.argtypes = [ctypes.c_long, ctypes.c_int, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t]
_libc.syscall.restype = ctypes.c_long


@dataclass(frozen=True, kw_only=True)
class OpenBrick:
    """A brick at hand: its root is open, its file system enforces."""

    brick: Brick
    root: int
    device: int
    """st_dev: bricks with the same one share project ids."""
    block_bytes: int
    table: QuotaTable

    def wanted(self, record: QuotaRecord) -> Limits:
        """What this brick must enforce for `record`."""
        return plan.wanted_limits(
            record, arbiter=self.brick.arbiter, data_bricks=self.brick.data_bricks, block_bytes=self.block_bytes
        )


@contextmanager
def open_brick(brick: Brick, systems: FileSystems, *, check: bool) -> Iterator[OpenBrick]:
    """Opens the brick's root; closed at the end of the block.

    check: also whether its file system enforces; it costs more than all that is done for one record.
    Raises: QuotaError naming brick, reason and remedy if sizes cannot be enforced on it.
    """
    with ExitStack() as stack:
        try:
            root = os.open(brick.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            stack.callback(os.close, root)
            # gluster makes it when a brick first starts. Without it this is, as a rule, the directory beneath a mount
            os.stat(".glusterfs", dir_fd=root, follow_symlinks=False)
            if check:
                systems.check(root, brick.path)
            device, block_bytes = os.fstat(root).st_dev, os.fstatvfs(root).f_frsize
        except FileNotFoundError as error:
            raise QuotaError(
                f"{brick.path} has nothing of a brick in it: mount its file system, and start volume {brick.volume}"
            ) from error
        except OSError as error:
            raise QuotaError(f"{brick.path}: {reason(error)}") from error
        yield OpenBrick(brick=brick, root=root, device=device, block_bytes=block_bytes, table=systems.table(root))


class BricksAtHand:
    """Bricks that are opened once for all that is done on them until `let_go`: it takes five system calls, a third of
    all that a record needs. Not for threads."""

    def __init__(self, systems: FileSystems) -> None:
        self._systems = systems
        self._at_hand: dict[str, _AtHand] = {}

    @contextmanager
    def borrow(self, brick: Brick) -> Iterator[OpenBrick]:
        """The brick, open to the end of the block, also if that is later than `let_go`. Raises: QuotaError as
        `open_brick`, of which it checks no more."""
        kept = self._at_hand.get(brick.path)
        if kept is None:
            with ExitStack() as stack:
                opened = stack.enter_context(open_brick(brick, self._systems, check=False))
                kept = self._at_hand[brick.path] = _AtHand(opened, stack.pop_all())
        kept.borrowers += 1
        try:
            yield kept.opened
        finally:
            kept.borrowers -= 1
            if not kept.borrowers and self._at_hand.get(brick.path) is not kept:
                kept.stack.close()

    def let_go(self) -> None:
        """Closes them, but for what is borrowed: that is closed when it comes back."""
        all_of_them, self._at_hand = self._at_hand, {}
        for kept in all_of_them.values():
            if not kept.borrowers:
                kept.stack.close()


@dataclass
class _AtHand:
    opened: OpenBrick
    stack: ExitStack
    borrowers: int = 0


@contextmanager
def open_beneath(root: int, path: str) -> Iterator[int]:
    """The directory at the relative `path`, closed at the end of the block.

    Raises: FileNotFoundError; NotADirectoryError for a symlink, a file or another mount on the way; OSError.
    """
    fd = open_path(root, path)
    try:
        yield fd
    finally:
        os.close(fd)


def open_path(root: int, path: str) -> int:
    """As `open_beneath`, for who closes it."""
    if not {"", ".", ".."}.isdisjoint(path.split("/")) or "\0" in path:
        raise NotADirectoryError(errno.ENOTDIR, f"{path!r} is no path on a brick")
    fd = int(_libc.syscall(_SYS_OPENAT2, root, os.fsencode(path), _HOW, len(_HOW)))
    if fd >= 0:
        return fd
    code = ctypes.get_errno()
    if code in NOT_A_DIRECTORY:
        raise NotADirectoryError(errno.ENOTDIR, f"there is a symlink or file in {path!r}, a directory is expected")
    if code == errno.EXDEV:
        raise NotADirectoryError(errno.ENOTDIR, _MOUNTED)
    if code == errno.ENOSYS:
        return _open_step_by_step(root, path)
    raise OSError(code, os.strerror(code))


def _open_step_by_step(root: int, path: str) -> int:
    # without openat2: no `..` is in the path, so that each step leads beneath the one before it, or nowhere
    device, fd = os.fstat(root).st_dev, os.dup(root)
    for name in path.split("/"):
        above = fd
        try:
            fd = open_directory(name, above)
        finally:
            os.close(above)
        if os.fstat(fd).st_dev != device:
            os.close(fd)
            raise NotADirectoryError(errno.ENOTDIR, _MOUNTED)
    return fd


def open_directory(name: str, parent: int) -> int:
    """The directory `name` of the open directory `parent`. Raises: as open_beneath; the caller closes it."""
    try:
        return os.open(name, OPEN_DIRECTORY, dir_fd=parent)
    except OSError as error:
        if error.errno in NOT_A_DIRECTORY:
            raise NotADirectoryError(
                errno.ENOTDIR, f"{name!r} is a symlink or file, a directory is expected"
            ) from error
        raise


def record_names(root: int) -> dict[str, bool]:
    """The names in `info/quota`, sorted, and whether each is a directory's; those in preparation are passed over. Empty
    if there is no `info/quota`.

    Raises: OSError.
    """
    try:
        with open_beneath(root, RECORDS_DIR) as records, os.scandir(records) as entries:
            found = {entry.name: entry.is_dir(follow_symlinks=False) for entry in entries}
    except FileNotFoundError:
        return {}
    return {name: found[name] for name in sorted(found) if not name.startswith(".")}


def has_lost_records(root: int) -> bool:
    """Whether there are PVs, but no `info/quota`: that its records are gone says nothing of them then."""
    return _is_there(root, SUBVOL_DIR) and not _is_there(root, RECORDS_DIR)


def _is_there(root: int, path: str) -> bool:
    try:
        with open_beneath(root, path):
            return True
    except FileNotFoundError:
        return False


def read_record(root: int, name: str) -> QuotaRecord | None:
    """The record `name`; None if there is none.

    Raises: RecordError if it must not be obeyed; OSError if it cannot be read.
    """
    try:
        with open_beneath(root, f"{RECORDS_DIR}/{name}") as record:
            return decode(name, os.getxattr(record, RECORD_XATTR))
    except FileNotFoundError:
        return None
    except NotADirectoryError as error:
        raise RecordError(f"record {name}: {error.strerror}") from error
    except OSError as error:
        if error.errno == errno.ENODATA:
            raise RecordError(
                f"record {name}: has no xattr {RECORD_XATTR} (yet): self-heal brings it if it is on other bricks, "
                "which gluster volume heal VOLUME info tells; if it is on none, remove it through the volume"
            ) from error
        raise


def read_record_in(records: int, name: str) -> QuotaRecord:
    """As `read_record`, with `info/quota` open already: one system call. Only for what was seen to be a directory.
    Raises: RecordError; OSError."""
    if "/" in name or name.startswith("."):
        raise RecordError(f"record {name}: not a record's name")
    # only the last component is the brick's, and that is not followed
    return decode(name, os.getxattr(f"/proc/self/fd/{records}/{name}", RECORD_XATTR, follow_symlinks=False))


@contextmanager
def open_pv(opened: OpenBrick, record: QuotaRecord) -> Iterator[int]:
    """The PV's directory, which is on the brick's own file system; closed at the end of the block.

    Raises: FileNotFoundError while it is not there; RecordError if its path leads to anything else; OSError.
    """
    try:
        with open_beneath(opened.root, record.path) as directory:
            yield directory
    except NotADirectoryError as error:
        raise RecordError(f"{record.path}: {error.strerror}") from error


def find_pvs(root: int, names: Collection[str]) -> Iterator[tuple[str, int]]:
    """The directories `subvol/<aa>/<bb>/<name>` for these names, each open until the next is asked for.

    For records that cannot be read: what they limited must keep its limit. One sweep over all PVs, however many names.
    """
    try:
        with open_beneath(root, SUBVOL_DIR) as top:
            for _, first in _directories(top):
                for _, second in _directories(first):
                    yield from _directories(second, names)
    except FileNotFoundError:
        return


def _directories(parent: int, names: Collection[str] | None = None) -> Iterator[tuple[str, int]]:
    with os.scandir(parent) as entries:
        for entry in entries:
            if names is not None and entry.name not in names:
                continue
            try:
                fd = open_directory(entry.name, parent)
            except (FileNotFoundError, NotADirectoryError):
                continue
            try:
                yield entry.name, fd
            finally:
                os.close(fd)


def reason(error: Exception) -> str:
    """What went wrong, without Python's `[Errno …]` in front, and what to do where the kernel's word does not say."""
    words = (isinstance(error, OSError) and error.strerror) or str(error)
    remedy = _REMEDIES.get(error.errno or 0) if isinstance(error, OSError) else None
    return f"{words}: {remedy}" if remedy else words


def is_used(brick: Brick) -> bool:
    """Whether the brick holds `info/quota`, as far as can be seen."""
    try:
        root = os.open(brick.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        with open_beneath(root, RECORDS_DIR):
            return True
    except OSError:
        return False
    finally:
        os.close(root)
