"""From a record to a limit in force, on a brick host."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.figure import Figure
from tests.testbed.brickhosts import BrickHosts

RECORDS = 200


def run(hosts: BrickHosts, volume: str) -> list[Figure]:
    """Measured on the first brick host, whose kadalu-quotad runs and has `volume`."""
    host = hosts.hosts[0]
    host.put(Path(__file__).with_name("guest_enforce.py"), "/tmp/guest_enforce.py")
    output = host.run(["python3", "/tmp/guest_enforce.py", f"/bricks/{volume}", str(RECORDS)], timeout=600).stdout
    figures = json.loads(output)
    anchor = "two ioctls that tag a directory, bare"
    burst = Figure(
        name="1,000 records at once, to enforced, p99",
        value=figures["burst"][1],
        unit="ms",
        anchor="the 1,000 renames, bare",
        anchor_value=figures["renames"],
        goal="value <= 50 ms",
    )
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
