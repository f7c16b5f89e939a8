"""Which glusterfs processes are our clients, from /proc: a mounter finds again what an earlier one has started."""

from __future__ import annotations

import os

from kadalu_ext.mounter.client import PROGRAM, Places


def find(places: Places) -> list[tuple[int, int]]:
    """The clients whose mount and socket are those of `places`, as (pid, pidfd).

    The caller closes the pidfds; each is of the very process whose command line was seen. Raises: OSError.
    """
    found = []
    for name in filter(str.isdecimal, os.listdir("/proc")):
        pid = int(name)
        if not _is_ours(pid, places):
            continue
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        # asked again with the process pinned: its number may have been another's a moment ago
        if _is_ours(pid, places):
            found.append((pid, pidfd))
        else:
            os.close(pidfd)
    return found


def _is_ours(pid: int, places: Places) -> bool:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            words = [os.fsdecode(word) for word in file.read().split(b"\0")[:-1]]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return (
        len(words) > 1
        and os.path.basename(words[0]) == PROGRAM
        and words[-1] == places.mount
        and f"--volfile-server={places.socket}" in words
    )
