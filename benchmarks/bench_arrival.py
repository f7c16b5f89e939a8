"""From a record to a limit in force when records come as the controller makes them: through a gluster client."""

from __future__ import annotations

import json
import os
import time
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path

from benchmarks.bench_create import CLIENTS, SIZE_BYTES, make_directories, make_pv
from benchmarks.figure import Figure, percentile
from kadalu_ext.gluster.gfapi import Volume
from kadalu_ext.layout import pv_path, record_path
from kadalu_ext.record import RECORDS_DIR, SUBVOL_DIR, PvName
from tests.testbed import progress
from tests.testbed.brickhosts import BrickHost, BrickHosts

RECORDS = 1000
MARK = "/tmp/guest-watch-began"


def run(hosts: BrickHosts, volume: str) -> list[Figure]:
    """On `volume`, a replica with a brick on every host, whose kadalu-quotad runs."""
    names = [PvName(f"arrival-{number}") for number in range(RECORDS)]
    with Volume.open(volume, tuple(host.name for host in hosts.hosts)) as client:
        make_directories(client, SUBVOL_DIR, os.path.dirname(RECORDS_DIR), RECORDS_DIR)
        with ThreadPoolExecutor(len(hosts.hosts)) as watchers:
            seen = {host.name: watchers.submit(_watch, host, f"/bricks/{volume}") for host in hosts.hosts}
            for host in hosts.hosts:
                progress.wait_until(f"a watcher on {host.name}", partial(_watches, host, seen[host.name]), seconds=60)
            creates = _together(client, names)
            took = [watched.result() for watched in seen.values()]
        with ThreadPoolExecutor(CLIENTS) as pool:
            list(pool.map(lambda name: _remove(client, name), names))
    what = f"{RECORDS:,} records by {CLIENTS} clients of a replica 3, to enforced, slowest host"
    return [
        Figure(
            name=f"{what}, {said}", value=max(percentile(host, part) for host in took), unit="ms",
            anchor=f"making one, as a client sees it, {said}", anchor_value=percentile(creates, part), goal=goal,
        )
        for said, part, goal in (("median", 0.5, "-"), ("p99", 0.99, "value <= 50 ms"))
    ]  # fmt: skip


def _watch(host: BrickHost, brick: str) -> list[float]:
    host.put(Path(__file__).with_name("guest_watch.py"), "/tmp/guest_watch.py")
    argv = ["python3", "-B", "/tmp/guest_watch.py", brick, str(RECORDS), str(SIZE_BYTES), MARK]
    return [float(took) for took in json.loads(host.run(argv, timeout=600).stdout)]


def _watches(host: BrickHost, watcher: Future[list[float]]) -> bool:
    if watcher.done():
        watcher.result()
    return host.run(["rm", MARK], check=False).returncode == 0


def _together(client: Volume, names: list[PvName]) -> list[float]:
    def create(name: PvName) -> float:
        began = time.monotonic()
        make_pv(client, name)
        return (time.monotonic() - began) * 1e3

    with ThreadPoolExecutor(CLIENTS) as pool:
        return sorted(pool.map(create, names))


def _remove(client: Volume, name: PvName) -> None:
    client.rmdir(record_path(name))
    client.rmdir(pv_path(name))
