"""Removing a tree whose contents are hostile, through libgfapi's handles (api/src/glfs-handles.h, tag v10.3).

Every step goes from a directory's identity (its gfid) and one name in it, never from a path: no symlink is followed,
also none that takes a directory's place in between.
"""

from __future__ import annotations

import os
import time
from errno import ENOENT, ENOTEMPTY

from kadalu_ext.errors import DeadlineError
from kadalu_ext.gluster import libgfapi


def remove(fs: int, top: int, name: bytes, deadline: float | None) -> None:
    """Removes the entry `name` of the directory object `top`, and all below it, without recursion.

    Raises: DeadlineError at `deadline` (time.monotonic()); OSError. What is left, a later call removes.
    """
    way = [(top, name)]
    """From the top to where the work is: a directory and the entry of it that is to be removed."""

    def close_last() -> None:
        directory, _ = way.pop()
        if directory != top:
            libgfapi.call("glfs_h_close", directory)

    try:
        while way:
            directory, entry = way[-1]
            if _removed(fs, directory, entry):
                close_last()
                continue
            way.append((_look_up(fs, directory, entry), b""))
            if (full := _empty(fs, way[-1][0], deadline)) is None:
                close_last()
            else:
                way[-1] = (way[-1][0], full)
    finally:
        while way:
            close_last()


def _look_up(fs: int, directory: int, entry: bytes) -> int:
    return libgfapi.call("glfs_h_lookupat", fs, directory, entry, None, 0)


def _removed(fs: int, directory: int, entry: bytes) -> bool:
    """Whether the entry is gone now; False if it is a directory with something in it."""
    try:
        libgfapi.call("glfs_h_unlink", fs, directory, entry)
    except OSError as error:
        return error.errno != ENOTEMPTY and _removed_anew(fs, directory, entry)
    return True


def _removed_anew(fs: int, directory: int, entry: bytes) -> bool:
    # glfs_h_unlink takes an entry for what it was when this client last saw it: another client may have put a symlink
    # in a directory's place since. glfs_h_lookupat asks the bricks.
    try:
        libgfapi.call("glfs_h_close", _look_up(fs, directory, entry))
        libgfapi.call("glfs_h_unlink", fs, directory, entry)
    except OSError as error:
        if error.errno == ENOTEMPTY:
            return False
        if error.errno != ENOENT:
            raise
    return True


def _empty(fs: int, child: int, deadline: float | None) -> bytes | None:
    """Removes what a directory holds, up to the first entry that is not empty itself: that one, or None."""
    seen = 0
    with libgfapi.names(libgfapi.call("glfs_h_opendir", fs, child)) as names:
        for name in names:
            if deadline is not None and time.monotonic() > deadline:
                raise DeadlineError("the tree is not removed yet; what is left is removed by a later try")
            seen += 1
            if not _removed(fs, child, name):
                return name
    if not seen:
        # Not empty, and yet nothing to be seen: one brick has what others lack. Self-heal mends that, not a loop.
        raise OSError(ENOTEMPTY, os.strerror(ENOTEMPTY))
    return None
