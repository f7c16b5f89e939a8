"""What an idle kadalu-quotad wakes up for."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.figure import Figure
from tests.testbed import deb
from tests.testbed.brickhosts import BrickHosts

BEATS = 4


def run(hosts: BrickHosts) -> list[Figure]:
    """Measured on the first brick host, between two crawls that are far apart."""
    host = hosts.hosts[0]
    host.run(["tee", deb.CONFIG], input="crawl_interval_s = 86400\n")
    host.run(["systemctl", "restart", "kadalu-quotad"])
    host.put(Path(__file__).with_name("guest_idle.py"), "/tmp/guest_idle.py")
    seen = json.loads(host.run(["python3", "-B", "/tmp/guest_idle.py", str(BEATS)], timeout=600).stdout)
    host.run(["rm", deb.CONFIG])
    host.run(["systemctl", "restart", "kadalu-quotad"])
    return [
        Figure(
            name=f"wake-ups when idle, all threads, in {seen['seconds']:.0f} s", value=sum(seen["wakes"].values()),
            unit="", anchor="watchdog beats", anchor_value=BEATS, goal="ratio <= 1",
        )
    ]  # fmt: skip
