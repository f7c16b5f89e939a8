"""One PV on each of some volumes, filled by applications on two nodes until they are refused and beyond, with a brick
host lost in between; then room is made and they go on.

By hand, many rounds, each with a load, a host and a fault of its own, in a testbed that ends with them:

    .venv/bin/python -m tests.integration.limit_round --rounds 20 FILE

appends a line of JSON for each PV to FILE. `--first 7 --rounds 1` repeats the seventh.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from errno import ENOTCONN
from functools import partial
from pathlib import Path
from typing import Any, Final

from kadalu_ext.layout import pv_path
from kadalu_ext.record import PvName
from kadalu_ext.units import MIB
from tests.integration.limit_site import HOSTS, KINDS, SECONDS, Site, served
from tests.integration.limit_writers import NO_ROOM, Found, Load, Writer, check
from tests.testbed import progress, suite
from tests.testbed.brickhosts import BrickHosts
from tests.testbed.sandbox import INSIDE, Sandbox

WRITERS_S: Final = 400.0
FAULTS: Final = ("none", "cut", "off", "blip")
"""What becomes of a brick host once all write. cut: packets to it vanish, until there is room again; off:
its power is cut, until the PVs are full; blip: as cut, but it is back before the PVs are full."""


@dataclass(kw_only=True)
class Pv:
    """One PV of a round."""

    volume: str
    name: str
    load: Load
    directories: list[Path]
    writers: list[Writer] = field(default_factory=list)
    waiting_when_full: dict[str, int] = field(default_factory=dict)
    found: Found = field(default_factory=Found)

    def look(self, *, where: str, directories: Sequence[Path] | None = None) -> None:
        """Everything acknowledged is there, and whatever is there can be read."""
        kept = {name: each for writer in self.writers for name, each in writer.kept.items()}
        # in the end everything must be as it should be
        half_made = set() if "healed" in where else {name for writer in self.writers for name in writer.half_made}
        for number, directory in enumerate(directories or self.directories):
            found = check(directory, kept, half_made)
            found.unreadable = [f"{where}, {number}: {each}" for each in found.unreadable]
            found.lost = [f"{where}, {number}: {each}" for each in found.lost]
            self.found += found

    @property
    def failures(self) -> list[str]:
        return [failure for writer in self.writers for failure in writer.failures]

    def told(self) -> dict[str, Any]:
        return {
            "volume": self.volume,
            "writers": len(self.writers),
            **dataclasses.asdict(self.load),
            "written": sum(writer.written for writer in self.writers),
            "refused": sum((writer.told for writer in self.writers), Counter()),
            "files": len({name for writer in self.writers for name in writer.kept}),
            "reads": self.found.files,
            "failures": self.failures,
            "unreadable": self.found.unreadable,
            "lost": self.found.lost,
            "half_made": len(self.found.half_made),
            "waiting_when_full": self.waiting_when_full,
        }


def together(pvs: Sequence[Pv], work: Callable[[Pv], None]) -> None:
    """For all of them at the same time; the first error is raised."""
    with ThreadPoolExecutor(len(pvs)) as pool:
        for outcome in [pool.submit(work, pv) for pv in pvs]:
            outcome.result()


def play(site: Site, pvs: Sequence[Pv], *, fault: str, host: str, refusals: int = 3) -> None:
    """A round, on all PVs at the same time. What it has found stands in them; raises if heals or hosts do not end."""
    volumes = [pv.volume for pv in pvs]
    lost, clients = site.hosts.host(host), [node.processes() for node in site.nodes]

    def work(*, refusals: int = refusals, writes: int = 1 << 30) -> None:
        for writer in writers:
            writer.begin(refusals=refusals, writes=writes)

    def rest(where: str, *, nodes: slice = slice(None)) -> None:
        progress.say(f"  writers work: {where}")
        for writer in writers:
            writer.end(WRITERS_S)
        progress.say(f"  looking: {where}")
        together(pvs, lambda pv: pv.look(where=where, directories=pv.directories[nodes]))

    writers = [writer for pv in pvs for writer in pv.writers]
    work()
    progress.wait_until("writes", lambda: all(writer.written or writer.refused for writer in writers), seconds=SECONDS)
    if fault == "off":
        lost.power_off()
    elif fault != "none":
        lost.cut()
    if fault == "blip":
        for writer in writers:
            writer.end(1)
        lost.uncut()
    rest("full")
    for pv in pvs:
        pv.waiting_when_full = site.waiting(pv.volume)
    if fault == "off":
        lost.power_on()
        site.wait_back(lost, volumes)
    for writer in writers:
        writer.give_room()
    work(refusals=2)
    rest("emptied and full again", nodes=slice(1))
    if fault == "cut":
        lost.uncut()
        site.wait_back(lost, volumes)
    together(pvs, lambda pv: site.expand(pv.volume, pv.name, 32 * MIB))
    work(refusals=1, writes=10)
    rest("expanded", nodes=slice(1, 2))
    progress.say("  healing")
    together(pvs, lambda pv: site.trim(pv.volume) if "disperse" in site.kinds[pv.volume] else None)
    site.heal(volumes)
    progress.say("  looking: healed")
    together(pvs, lambda pv: pv.look(where="healed"))

    def look_without(pv: Pv) -> None:
        for without in HOSTS:
            with site.reader(pv.volume, without=without) as mount:
                pv.look(where=f"healed, without {without}", directories=[mount / pv_path(PvName(pv.name))])

    together(pvs, look_without)
    for pv in pvs:
        for node, before in zip(site.nodes, clients, strict=True):
            if node.processes().get(pv.volume) != before.get(pv.volume):
                pv.writers[0].failures.append(f"client lost: {node.clients().get(pv.volume)}")


def prepare(site: Site, volume: str, name: str, load: Load, *, writers: int, size_bytes: int, room_bytes: int) -> Pv:
    """A PV with no more room than that, and writers on both nodes that have not begun."""
    directories = site.create(volume, name, size_bytes)
    pv = Pv(volume=volume, name=name, load=load, directories=directories)
    turns = zip(range(writers), itertools.cycle(directories))
    # what bricks refuse each for itself, or an arbiter, which has no limit, takes alone: one of three is no quorum
    no_room = NO_ROOM if "disperse" in site.kinds[volume] else (*NO_ROOM, ENOTCONN)
    pv.writers = [Writer(directory, f"{name}-w{number}", load, no_room=no_room) for number, directory in turns]
    pv.writers[0].fill(size_bytes - room_bytes)
    return pv


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--volumes", default=",".join(KINDS))
    parser.add_argument("--faults", default=",".join(FAULTS))
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--name", default="limit", help="of the testbed's instance")
    parser.add_argument("results", type=Path)
    args = parser.parse_args()
    if INSIDE not in os.environ:
        return suite.run_inside(args.name, [sys.executable, "-m", "tests.integration.limit_round", *sys.argv[1:]])
    volumes = args.volumes.split(",")
    hosts = BrickHosts(Sandbox.attach(os.environ[INSIDE]))
    hosts.start()
    with tempfile.TemporaryDirectory() as scratch, served(hosts, volumes, Path(scratch)) as site:
        for number in range(args.first, args.first + args.rounds):
            chance = random.Random(number)
            fault, host = args.faults.split(",")[number % len(args.faults.split(","))], chance.choice(HOSTS)
            load = Load(large=chance.random() < 0.5, fsync=chance.random() < 0.7)
            writers, size_bytes = chance.choice((1, 2, 4, 8)), chance.choice((4, 8, 12)) * MIB
            room_bytes = int((2.0 if load.large else 0.5) * MIB)
            make = partial(
                prepare, site, name=f"limit-{number}", load=load, writers=writers, size_bytes=size_bytes,
                room_bytes=room_bytes,
            )  # fmt: skip
            with ThreadPoolExecutor(len(volumes)) as pool:
                pvs = list(pool.map(make, volumes))
            began, error = time.monotonic(), ""
            try:
                play(site, pvs, fault=fault, host=host)
            except Exception as problem:
                error = f"{problem!r}"
                raise
            finally:
                with args.results.open("a") as results:
                    for pv in pvs:
                        told = {"round": number, "fault": fault, "host": host, "size": size_bytes, **pv.told()}
                        results.write(json.dumps(told | {"error": error, "seconds": time.monotonic() - began}) + "\n")
                        wrong = Counter(
                            failures=len(pv.failures), unreadable=len(pv.found.unreadable), lost=len(pv.found.lost)
                        )
                        progress.say(f"{number} {fault} {host} {pv.volume} {writers} {load} {dict(+wrong)}")
            for pv in pvs:
                site.delete(pv.volume, pv.name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
