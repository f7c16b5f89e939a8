"""Crawls of many PVs on a brick host, beside a shell script's way and beside a loop in C."""

from __future__ import annotations

import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.figure import Figure
from tests.testbed.brickhosts import BrickHost, BrickHosts

PVS = 10_000
HERE = Path(__file__).parent


def run(hosts: BrickHosts) -> list[Figure]:
    """Measured on the first brick host; its kadalu-quotad is stopped meanwhile."""
    host = hosts.hosts[0]
    seen = on_guest(host, PVS)
    first, following = seen["fresh"]["first"], seen["fresh"]["next"]
    what, then = f"first crawl of {PVS:,} PVs", f"crawl of {PVS:,} enforced PVs"
    pairs = f"{PVS:,} pairs of xfs_quota ({seen['pairs']} run)"
    return [
        _figure(what, first, pairs, seen["pair"] * PVS, "ratio <= 0.01"),
        _figure(what, first, "the same system calls in C", seen["c"], "ratio <= 2"),
        _figure(then, following, what, first, "ratio < 0.1"),
        _figure(then, following, "the same system calls in C", seen["c_again"], "ratio <= 2"),
        _figure("  and after a restart", seen["restarted"]["first"], what, first, "-"),
        Figure(
            name=f"memory (RSS) with {PVS:,} PVs", value=seen["fresh"]["rss_kib"] / 1024, unit="MiB",
            anchor="the same without a PV", anchor_value=seen["idle_rss_kib"] / 1024, goal="value <= 30 MiB",
        ),
    ]  # fmt: skip


def on_guest(host: BrickHost, pvs: int, *more: str) -> Any:
    """What guest_crawl.py says, while kadalu-quotad is stopped."""
    with tempfile.TemporaryDirectory() as directory:
        program = Path(directory, "guest_crawl")
        subprocess.run(["gcc", "-O2", "-static", "-Wall", "-o", program, HERE / "guest_crawl.c"], check=True)
        host.put(program, "/tmp/guest_crawl")
    host.put(HERE / "guest_crawl.py", "/tmp/guest_crawl.py")
    host.run(["systemctl", "stop", "kadalu-quotad"])
    command = ["python3", "-B", "/tmp/guest_crawl.py", "/bricks/bench-crawl", str(pvs), "/tmp/guest_crawl", *more]
    seen = json.loads(host.run(command, timeout=1800).stdout)
    host.run(["systemctl", "start", "kadalu-quotad"])
    return seen


def _figure(name: str, value: float, anchor: str, anchor_value: float, goal: str) -> Figure:
    return Figure(name=name, value=value, unit="s", anchor=anchor, anchor_value=anchor_value, goal=goal)
