"""Gives everything in a PV's directory its project, while clients are at work in it.

XFS refuses (EXDEV) to rename or link something of another project into a directory with PROJINHERIT
(fs/xfs/xfs_inode.c, xfs_rename, xfs_link). So files come first, then directories from the bottom up, the PV's own
directory last: whoever renames within the PV meanwhile never moves from an untagged place to a tagged one. What is
made in a directory before it is tagged is found when all is looked through again; what is made after that inherits.

Symlinks, devices, FIFOs and sockets keep project 0, as with xfs_quota: no open file can be had of them safely, and
they hold no blocks to speak of.

A file may have names in two PVs, made before either was tagged; XFS counts it for one project. It stays the one's that
had it first: taken in turns, it would move between them for ever.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Generator, Iterator
from typing import TYPE_CHECKING, Final

from kadalu_ext.quotad.plan import ProjectId, Tag
from kadalu_ext.quotad.scan import open_directory
from kadalu_ext.quotad.xfs import QuotaTable

if TYPE_CHECKING:
    Entries = os._ScandirIterator[str]

Others = Callable[[ProjectId], bool]
"""Whether another PV has this project."""

MAX_SWEEPS: Final = 16
"""How often a tree is looked through until nothing is left to tag. Two are enough unless the tags are being undone."""

_NO_SUBDIRECTORIES: Final = 2
"""A directory's link count on XFS: its name, its own dot, and a dot-dot for each directory in it."""
_EMPTY_BYTES: Final = frozenset({6, 10})
"""st_size of an XFS directory with nothing in it: two counts and its parent's inode number, in 4 bytes or 8; with one
entry it is 14 at least, so a directory that is not empty never has these, however its inodes are numbered
(fs/xfs/libxfs/xfs_da_format.h, struct xfs_dir2_sf_hdr and xfs_dir2_sf_entry; ftype is a byte more)."""
_ONE_NAME: Final = 2
"""A file's link count on a brick: its name, and gluster's own in `.glusterfs`."""
_IDENTIFY: Final = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_READ: Final = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


def tag_tree(table: QuotaTable, top: int, tag: Tag, others: Others) -> Iterator[None]:
    """Tags everything below the open directory `top`, then `top`, in steps: one inode at most from one yield to the
    next.

    Left in the middle, it is begun again: inodes that have the tag cost a look. Raises: OSError naming the entry.
    """
    # files, then directories; a new PV has neither
    if not _is_empty(top):
        for _ in _sweep(table, top, tag, others, files=True, directories=False):
            yield
        if os.fstat(top).st_nlink != _NO_SUBDIRECTORIES:
            for _ in _sweep(table, top, tag, others, files=False, directories=True):
                yield
    table.set_tag(top, tag)
    yield from mend_tree(table, top, tag, others)


def mend_tree(table: QuotaTable, top: int, tag: Tag, others: Others) -> Generator[None, None, int]:
    """Tags what lacks it below the open directory `top`, which has it, in steps as `tag_tree`; how many inodes that
    were.

    Raises: OSError naming the entry.
    """
    total = 0
    if _is_empty(top):
        return total
    for _ in range(MAX_SWEEPS):
        changes = 0
        for changed in _sweep(table, top, tag, others, files=True, directories=True):
            changes += changed
            yield
        if not changes:
            return total
        total += changes
    raise OSError(errno.EBUSY, f"still something to tag after {MAX_SWEEPS} sweeps: something undoes the tags")


def _sweep(table: QuotaTable, top: int, tag: Tag, others: Others, *, files: bool, directories: bool) -> Iterator[bool]:
    """Post-order, below `top`; after every entry whether it was changed. Its own stack: trees are as deep as pods
    like."""
    device = os.fstat(top).st_dev
    levels = [(top, os.scandir(top))]
    try:
        while levels:
            fd, entries = levels[-1]
            changed = False
            entry = next(entries, None)
            if entry is None:
                if directories and fd != top:
                    changed = _put(table, fd, tag)
                entries.close()
                levels.pop()
                if fd != top:
                    os.close(fd)
            elif entry.is_dir(follow_symlinks=False):
                levels += _enter(entry.name, fd, device)
            elif files and entry.is_file(follow_symlinks=False):
                changed = _tag_file(table, entry.name, fd, device, tag, others)
            yield changed
    finally:
        for fd, entries in levels:
            entries.close()
            if fd != top:
                os.close(fd)


def _enter(name: str, parent: int, device: int) -> list[tuple[int, Entries]]:
    """The directory, open and its entries; none if it has gone, or is another file system's."""
    try:
        fd = open_directory(name, parent)
    except (FileNotFoundError, NotADirectoryError):
        return []
    try:
        if os.fstat(fd).st_dev == device:
            return [(fd, os.scandir(fd))]
    except BaseException:
        os.close(fd)
        raise
    os.close(fd)
    return []


def _tag_file(table: QuotaTable, name: str, parent: int, device: int, tag: Tag, others: Others) -> bool:
    # First O_PATH, which opens nothing: what is a regular file now may be a device or FIFO at the next call, and to
    # open one of those is to do something with it.
    try:
        found = os.open(name, _IDENTIFY, dir_fd=parent)
    except FileNotFoundError:
        return False
    try:
        seen = os.fstat(found)
        if not stat.S_ISREG(seen.st_mode) or seen.st_dev != device:
            return False
        fd = os.open(f"/proc/self/fd/{found}", _READ)
    finally:
        os.close(found)
    try:
        if seen.st_nlink > _ONE_NAME and others(table.get_tag(fd).project_id):
            return False
        return _put(table, fd, Tag(project_id=tag.project_id, inherit=False))
    except OSError as error:
        raise OSError(error.errno, f"{name!r}: {error.strerror}") from error
    finally:
        os.close(fd)


def _is_empty(top: int) -> bool:
    """Whether nothing is in it, as far as one look at it tells; a directory of which that cannot be told is swept."""
    return os.fstat(top).st_size in _EMPTY_BYTES


def _put(table: QuotaTable, fd: int, tag: Tag) -> bool:
    if table.get_tag(fd) == tag:
        return False
    table.set_tag(fd, tag)
    return True
