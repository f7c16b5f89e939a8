"""Copies of trees on the volume, as clones and snapshots are made, against `cp -a` through a mount."""

from __future__ import annotations

import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.figure import Figure
from kadalu_ext import mounting
from kadalu_ext.gluster.copyprogress import CopyProgress
from kadalu_ext.gluster.gfapi import Volume
from kadalu_ext.units import GIB, MIB
from tests.testbed import progress
from tests.testbed.brickhosts import BrickHosts

ONE = "bench-one"
COPIES = 9
SMALL_FILES = 500
SMALL_BYTES = 10_000
LARGE_BYTES = 128 * MIB


def run(hosts: BrickHosts, volume: str) -> list[Figure]:
    """On `volume`, and on one of a single brick that is made for it. Leaves nothing."""
    names = [host.name for host in hosts.hosts]
    hosts.create_volume(ONE, "brick", names[:1])
    try:
        with _mounted(ONE, names[0]) as mount, Volume.open(ONE, names) as one:
            figures = [_by_brick(one, mount)]
    finally:
        hosts.delete_volume(ONE)
    with _mounted(volume, names[0]) as mount, Volume.open(volume, names) as replicated:
        for name, make in (
            (f"a file of {LARGE_BYTES // MIB} MiB", lambda top: _write(top / "large", LARGE_BYTES)),
            (f"{SMALL_FILES} files of {SMALL_BYTES // 1000} KB in 10 directories", _write_small),
        ):
            figures.append(_beside_cp(name, replicated, mount, make))
    return figures


def _by_brick(volume: Volume, mount: Path) -> Figure:
    source = mount / "source"
    source.mkdir()
    _write(source / "large", GIB)
    rows = []
    for number in range(COPIES):
        target = f"target-{number}"
        volume.mkdir(target, 0o755)

        def copy(target: str = target) -> None:
            volume.copy_tree("source", target, CopyProgress(), server_side=True)

        rows.append((_ms(copy), _ms(lambda: volume.listdir("source"))))
    copied, listed = (statistics.median(column) for column in zip(*rows, strict=True))
    progress.say(f"1 GiB copied by one brick: {', '.join(f'{copy:.0f}' for copy, _ in rows)} ms")
    return Figure(
        name=f"1 GiB copied by one brick (some 33 calls), median of {COPIES}",
        value=copied,
        unit="ms",
        anchor="listing its directory (3 calls)",
        anchor_value=listed,
        goal="value <= 50 ms",
    )


def _beside_cp(name: str, volume: Volume, mount: Path, make: Callable[[Path], None]) -> Figure:
    source = mount / "source"
    source.mkdir()
    make(source)
    cp = _ms(lambda: subprocess.run(["cp", "-a", str(source), str(mount / "by-cp")], check=True))
    volume.mkdir("target", 0o755)
    ours = _ms(lambda: volume.copy_tree("source", "target", CopyProgress()))
    for directory in ("source", "by-cp", "target"):
        volume.remove_tree(directory)
    return Figure(
        name=f"{name} copied", value=ours, unit="ms", anchor="cp -a through FUSE", anchor_value=cp, goal="ratio <= 1"
    )


def _write(path: Path, size_bytes: int) -> None:
    with path.open("wb") as file:
        for _ in range(size_bytes // MIB):
            file.write(os.urandom(MIB))
        os.fsync(file.fileno())


def _write_small(top: Path) -> None:
    for number in range(SMALL_FILES):
        directory = top / f"d{number % 10}"
        directory.mkdir(exist_ok=True)
        (directory / f"f{number}").write_bytes(os.urandom(SMALL_BYTES))


def _ms(call: Callable[[], object]) -> float:
    started = time.monotonic()
    call()
    return (time.monotonic() - started) * 1000


@contextmanager
def _mounted(volume: str, host: str) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as directory:
        subprocess.run(["glusterfs", f"--volfile-server={host}", f"--volfile-id={volume}", directory], check=True)
        try:
            yield Path(directory)
        finally:
            mounting.unmount(directory, lazily=True)
