"""How long from a record to a limit that statvfs shows: run on a brick host, with nothing but its own Python.

    python3 record_latency.py BRICK COUNT        # prints a JSON list of milliseconds

Each PV is made on the brick itself, so that gluster's part is not in the figure: directory, record prepared,
renamed; from then on statvfs of the directory is asked until its size is the record's. Everything is removed then.
"""

from __future__ import annotations

import json
import os
import sys
import time

SIZE = 64 << 20


def measure(brick: str, number: int) -> float:
    """Milliseconds for one PV."""
    name = f"latency-{number}"
    pv, records = f"{brick}/subvol/00/00/{name}", f"{brick}/info/quota"
    os.makedirs(pv)
    os.makedirs(f"{records}/.{name}.new")
    value = json.dumps({"v": 1, "path": f"subvol/00/00/{name}", "size": SIZE})
    os.setxattr(f"{records}/.{name}.new", "user.kadalu.record", value.encode())
    began = time.perf_counter()
    os.rename(f"{records}/.{name}.new", f"{records}/{name}")
    try:
        while not shows_limit(pv):
            if time.perf_counter() - began > 60:
                raise SystemExit(f"{name} is not enforced after 60 s")
            time.sleep(0.0005)
        return (time.perf_counter() - began) * 1000
    finally:
        os.rmdir(f"{records}/{name}")
        os.rmdir(pv)


def shows_limit(pv: str) -> bool:
    """Whether the directory's size is the record's: what a PROJINHERIT directory of a limited project shows."""
    seen = os.statvfs(pv)
    return seen.f_blocks * seen.f_frsize == SIZE


if __name__ == "__main__":
    print(json.dumps([measure(sys.argv[1], number) for number in range(int(sys.argv[2]))]))
