"""What is mounted where, from /proc/self/mountinfo: the only way to know it that never hangs on a dead file system."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from kadalu_ext.errors import WireError

MOUNTINFO: Final = "/proc/self/mountinfo"
FUSE_GLUSTERFS: Final = "fuse.glusterfs"

_OCTAL: Final = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, kw_only=True)
class Mount:
    """One line of mountinfo, proc(5).

    device: st_dev of everything on this file system, as os.makedev packs it. Two mounts of one glusterfs client share
        it; another client of the same volume has another.
    root: the directory within the file system that shows at `path`; `/` unless it is a bind mount of a part.
    options: of this mount (`ro`, `nosuid`), which a bind mount has apart from the file system's.
    """

    mount_id: int
    parent_id: int
    device: int
    root: str
    path: str
    options: frozenset[str]
    fstype: str
    source: str


def parse(text: str) -> tuple[Mount, ...]:
    """The mounts of a mountinfo text, in its order. Raises: WireError naming the line that is not as in proc(5)."""
    # not splitlines(): a path may hold what Unicode takes for a line's end
    return tuple(_parse_line(line) for line in text.split("\n") if line)


def _parse_line(line: str) -> Mount:
    # Blanks within a field are written in octal, so blanks separate. Optional fields end at a lone dash.
    fields, _, tail = line.partition(" - ")
    head, end = fields.split(" "), tail.split(" ")
    try:
        major, minor = head[2].split(":")
        return Mount(
            mount_id=int(head[0]),
            parent_id=int(head[1]),
            device=os.makedev(int(major), int(minor)),
            root=_unescape(head[3]),
            path=_unescape(head[4]),
            options=frozenset(head[5].split(",")),
            fstype=end[0],
            source=_unescape(end[1]),
        )
    except (IndexError, ValueError, OverflowError) as error:
        raise WireError(f"mountinfo: {line[:200]!r} is not a line of proc(5)") from error


def _unescape(field: str) -> str:
    """Space, tab, newline and backslash are written as \\040, \\011, \\012, \\134 (fs/seq_file.c, mangle_path)."""
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), field)


def read() -> tuple[Mount, ...]:
    """The mounts of this process's mount namespace.

    Before Linux 5.8 a mount that comes or goes during the reading makes others be left out, so it is read until two
    readings agree. Raises: OSError, WireError.
    """
    text = _read_once()
    for _ in range(8):
        again = _read_once()
        if again == text:
            break
        text = again
    return parse(text)


def _read_once() -> str:
    with open(MOUNTINFO, encoding="utf-8", errors="surrogateescape", newline="\n") as file:
        return file.read()


def at(mounts: Iterable[Mount], path: str) -> Mount | None:
    """The mount that shows at exactly `path`, the uppermost where several are stacked; None if there is none."""
    stack = [mount for mount in mounts if mount.path == path]
    covered = {mount.parent_id for mount in stack}
    return next((mount for mount in reversed(stack) if mount.mount_id not in covered), None)
