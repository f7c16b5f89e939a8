"""Runs on a brick host, with its own python3, while clients make PVs: how long from a record's rename on the brick to
its limit in force; JSON on stdout.

Arguments: the brick's path; how many records to wait for; their size in bytes; a file to make when it has begun.
"""

from __future__ import annotations

import json
import os
import sys
import time

sys.path.insert(0, "/usr/lib/kadalu-quotad")
from inotify_simple import INotify, flags

PATIENCE_S = 240


def main() -> None:
    """Milliseconds, sorted.

    From the record's ctime, which rename(2) sets, on the kernel's coarse clock: what it says is too long by up to a
    tick, and by the time between two looks.
    """
    brick, count, size, mark = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    inotify = INotify()
    inotify.add_watch(f"{brick}/info/quota", flags.MOVED_TO)
    open(mark, "w").close()
    waiting: dict[str, float] = {}
    took: list[float] = []
    deadline = time.monotonic() + PATIENCE_S
    while len(took) < count:
        if time.monotonic() > deadline:
            raise SystemExit(f"{len(took)} of {count} records were enforced within {PATIENCE_S} s: {list(waiting)[:5]}")
        for event in inotify.read(timeout=5 if waiting else 1000):
            if not event.name.startswith("."):
                record = f"{brick}/info/quota/{event.name}"
                path = json.loads(os.getxattr(record, "user.kadalu.record"))["path"]
                waiting[f"{brick}/{path}"] = os.stat(record).st_ctime
        for path in [path for path in waiting if _is_enforced(path, size)]:
            took.append((time.time() - waiting.pop(path)) * 1e3)
    print(json.dumps(sorted(took)))


def _is_enforced(path: str, size: int) -> bool:
    seen = os.statvfs(path)
    return seen.f_blocks * seen.f_frsize == size


if __name__ == "__main__":
    main()
