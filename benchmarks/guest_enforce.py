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
FS_IOC_FSGETXATTR, FS_IOC_FSSETXATTR = 0x801C581F, 0x401C5820
FS_XFLAG_PROJINHERIT = 0x200


def main() -> None:
    """Medians and 99th percentiles in milliseconds."""
    brick, count = sys.argv[1], int(sys.argv[2])
    os.makedirs(f"{brick}/subvol/be/ef", exist_ok=True)
    os.makedirs(f"{brick}/info/quota", exist_ok=True)
    enforced = sorted(_enforced(brick, f"bench-{number}") for number in range(count))
    bare = sorted(_bare(f"{brick}/subvol/be/ef/bare-{number}") for number in range(count))
    for number in range(count):
        os.rmdir(f"{brick}/info/quota/bench-{number}")
        os.rmdir(f"{brick}/subvol/be/ef/bench-{number}")
        os.rmdir(f"{brick}/subvol/be/ef/bare-{number}")
    figures = {"enforced": enforced, "bare": bare}
    print(json.dumps({name: [took[count // 2], took[count * 99 // 100]] for name, took in figures.items()}))


def _enforced(brick: str, name: str) -> float:
    path = f"subvol/be/ef/{name}"
    os.mkdir(f"{brick}/{path}")
    staged = f"{brick}/info/quota/.{name}.new"
    os.mkdir(staged)
    os.setxattr(staged, "user.kadalu.record", json.dumps({"v": 1, "path": path, "size": SIZE}).encode())
    began = time.perf_counter()
    os.rename(staged, f"{brick}/info/quota/{name}")
    deadline = began + 60
    while True:
        seen = os.statvfs(f"{brick}/{path}")
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
