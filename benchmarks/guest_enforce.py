"""Runs on a brick host, with its own python3: how long from a record's rename to the limit in force; JSON on stdout.

Arguments: the brick's path, the number of records. The records are made on the brick itself, as a client's would appear
there, and removed again.
"""

from __future__ import annotations

import fcntl
import json
import os
import struct
import sys
import time

SIZE = 64 << 20
BURST = 1000
FS_IOC_FSGETXATTR, FS_IOC_FSSETXATTR = 0x801C581F, 0x401C5820
FS_XFLAG_PROJINHERIT = 0x200


def main() -> None:
    """Medians and 99th percentiles in milliseconds."""
    brick, count = sys.argv[1], int(sys.argv[2])
    os.makedirs(f"{brick}/subvol/be/ef", exist_ok=True)
    os.makedirs(f"{brick}/info/quota", exist_ok=True)
    enforced = sorted(_enforced(brick, f"bench-{number}") for number in range(count))
    burst, renames = _burst(brick, BURST)
    bare = sorted(_bare(f"{brick}/subvol/be/ef/bare-{number}") for number in range(count))
    for number in range(count):
        os.rmdir(f"{brick}/subvol/be/ef/bare-{number}")
    for name in [f"bench-{number}" for number in range(count)] + [f"burst-{number}" for number in range(BURST)]:
        os.rmdir(f"{brick}/info/quota/{name}")
        os.rmdir(f"{brick}/subvol/be/ef/{name}")
    figures = {"enforced": enforced, "bare": bare, "burst": burst}
    shown = {name: [took[len(took) // 2], took[len(took) * 99 // 100]] for name, took in figures.items()}
    print(json.dumps({**shown, "renames": renames}))


def _enforced(brick: str, name: str) -> float:
    _prepare(brick, name)
    return _wait(brick, name, _commit(brick, name))


def _burst(brick: str, count: int) -> tuple[list[float], float]:
    """Records that appear as fast as they can be renamed: for each how long until its limit is in force, sorted; and
    how long the renames took in all."""
    names = [f"burst-{number}" for number in range(count)]
    for name in names:
        _prepare(brick, name)
    began = [_commit(brick, name) for name in names]
    took = (began[-1] - began[0]) * 1e3
    return sorted(_wait(brick, name, at) for name, at in zip(names, began, strict=True)), took


def _prepare(brick: str, name: str) -> None:
    path, staged = f"subvol/be/ef/{name}", f"{brick}/info/quota/.{name}.new"
    os.mkdir(f"{brick}/{path}")
    os.mkdir(staged)
    os.setxattr(staged, "user.kadalu.record", json.dumps({"v": 1, "path": path, "size": SIZE}).encode())


def _commit(brick: str, name: str) -> float:
    began = time.perf_counter()
    os.rename(f"{brick}/info/quota/.{name}.new", f"{brick}/info/quota/{name}")
    return began


def _wait(brick: str, name: str, began: float) -> float:
    """Milliseconds since `began` at which the limit shows."""
    deadline = time.perf_counter() + 60
    while True:
        seen = os.statvfs(f"{brick}/subvol/be/ef/{name}")
        if seen.f_blocks * seen.f_frsize == SIZE:
            return (time.perf_counter() - began) * 1e3
        if time.perf_counter() > deadline:
            raise SystemExit(f"{name} was not enforced within a minute: is kadalu-quotad running?")
        time.sleep(0.0005)


def _bare(path: str) -> float:
    """The two system calls that tag a directory: what nobody can do without."""
    os.mkdir(path)
    began = time.perf_counter()
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    attributes = bytearray(28)
    fcntl.ioctl(fd, FS_IOC_FSGETXATTR, attributes)
    flags, extsize, nextents, projid, cowextsize, pad = struct.unpack("IIIII8s", attributes)
    fcntl.ioctl(fd, FS_IOC_FSSETXATTR, struct.pack("IIIII8s", flags, extsize, nextents, projid, cowextsize, pad))
    os.close(fd)
    return (time.perf_counter() - began) * 1e3


if __name__ == "__main__":
    main()
