"""From a record to a limit in force, on a brick host."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.bench_crawl import on_guest
from benchmarks.figure import Figure
from tests.testbed.brickhosts import BrickHosts

RECORDS = 200
BURST = 1000
"""As in guest_enforce.py."""


def run(hosts: BrickHosts, volume: str) -> list[Figure]:
    """Measured on the first brick host, whose kadalu-quotad runs and has `volume`."""
    host = hosts.hosts[0]
    host.put(Path(__file__).with_name("guest_enforce.py"), "/tmp/guest_enforce.py")
    output = host.run(["python3", "/tmp/guest_enforce.py", f"/bricks/{volume}", str(RECORDS)], timeout=600).stdout
    figures = json.loads(output)
    anchor = "two ioctls that tag a directory, bare"
    in_c = on_guest(host, BURST, "--only-c") * 1000
    what = f"{BURST:,} records renamed on the brick within {figures['renames']:.0f} ms"
    burst = Figure(
        name=f"{what}, to enforced, p99", value=figures["burst"][1], unit="ms",
        anchor=f"the same system calls for {BURST:,} in C", anchor_value=in_c, goal="value <= 50 ms",
    )  # fmt: skip
    one_by_one = [
        Figure(
            name=f"record to enforced on a brick host, {what}",
            value=figures["enforced"][place],
            unit="ms",
            anchor=anchor,
            anchor_value=figures["bare"][place],
            goal=goal,
        )
        for place, what, goal in ((0, "median", "-"), (1, "p99", "value <= 50 ms"))
    ]
    return [*one_by_one, burst]
