"""What the canaries of 100 storages cost: the controller that changes them, and the operator that looks.

All of them are on one real volume, so they share one canary; each has a client and connections of its own, as storages
on different volumes have. Measured in a process of its own, in which nothing else runs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Final

from benchmarks.family import Family
from benchmarks.figure import Figure
from kadalu_ext.csi import canaries
from kadalu_ext.csi.clients import Clients
from kadalu_ext.csi.connection import GlusterConnector
from kadalu_ext.errors import KadaluExtError
from kadalu_ext.gluster.brick import BrickProbe
from kadalu_ext.log import Logger
from kadalu_ext.operator.canary import Canaries
from kadalu_ext.storage import Storage, StorageName, to_json
from kadalu_ext.storages import Storages
from tests.testbed.brickhosts import BrickHosts
from tests.testbed.progress import wait_until

STORAGES: Final = 100
ROUNDS: Final = 2
LOOK_INTERVAL_S: Final = 15.0
LOOKERS: Final = 16
_LINE_BYTES: Final = 1e9 / 8 * 0.01
"""One hundredth of a line of 1 Gbit/s, in a second."""


def run(hosts: BrickHosts, volume: str) -> list[Figure]:
    """On `volume`, whose every brick host has a running kadalu-quotad."""
    argv = [sys.executable, "-m", "benchmarks.bench_canary", volume, *(host.name for host in hosts.hosts)]
    done = subprocess.run(argv, stdout=subprocess.PIPE, text=True, check=True, timeout=600)
    found = json.loads(done.stdout)
    what = f"{STORAGES} canaries"
    return [
        Figure(
            name=f"{what} changed, time of a CPU", value=found["beat_cpu_ms"], unit="ms",
            anchor="the time until the next change", anchor_value=canaries.BEAT_S * 1000, goal="ratio <= 0.1",
        ),
        Figure(
            name=f"{what} looked at, time of a CPU", value=found["look_cpu_ms"], unit="ms",
            anchor="the time until the next look", anchor_value=LOOK_INTERVAL_S * 1000, goal="ratio <= 0.05",
        ),
        Figure(
            name=f"{what}, bytes on the wire a second", value=found["bytes_s"] / 1024, unit="KiB",
            anchor="1 % of 1 Gbit/s", anchor_value=_LINE_BYTES / 1024, goal="ratio <= 1",
        ),
        Figure(
            name=f"{what}, memory (PSS) of the controller", value=found["clients_mib"], unit="MiB",
            anchor=f"without a storage ({found['threads']} threads with {STORAGES})",
            anchor_value=found["bare_mib"], goal="value <= 80 MB + 30 MB a storage",
        ),
        Figure(
            name=f"{what}, memory (PSS) that looking adds", value=found["probes_mib"], unit="MiB",
            anchor="without a storage", anchor_value=found["bare_mib"], goal="value <= 64 MiB",
        ),
    ]  # fmt: skip


def measure(volume: str, hosts: list[str]) -> dict[str, float]:
    """All figures, by name."""
    logger = Logger("bench")
    connector = GlusterConnector()
    storages = [Storage(name=StorageName(f"s{n}"), hosts=tuple(hosts), volume=volume) for n in range(STORAGES)]
    bare_mib = _family().pss_mib()
    with tempfile.TemporaryDirectory() as directory:
        for storage in storages:
            Path(directory, f"{storage.name}.json").write_text(to_json(storage))
        clients = Clients(connector=connector, log=logger)
        controller = canaries.Canaries(storages=Storages(directory), clients=clients, log=logger)

        def beat() -> None:
            controller.turn(time.sleep)
            steps = [step.future for step in controller._steps.values()]
            wait(steps)
            for step in steps:
                step.result()

        def began() -> bool:
            # a hundred at once on one canary and on three hosts may be in each other's way: it is made again
            try:
                beat()
            except KadaluExtError as error:
                print(f"again: {error}", file=sys.stderr)
                return False
            return True

        wait_until("every canary's first change", began, seconds=300)
        clients_mib, threads = _family().pss_mib(), _family().threads()
        beat_cpu_ms, beat_bytes = _cost(beat)
    facts = connector.facts(storages[0])
    operator = Canaries()
    probes = [BrickProbe(volume, facts.volume_id, facts.geometry) for _ in storages]

    def look() -> None:
        with ThreadPoolExecutor(LOOKERS) as lookers:
            list(lookers.map(look_at, storages, probes))

    def look_at(storage: Storage, probe: BrickProbe) -> None:
        operator.look(storage.name, probe, facts.geometry, volume=volume, volume_id=facts.volume_id)

    look()
    probes_mib = _family().pss_mib() - clients_mib
    look_cpu_ms, look_bytes = _cost(look)
    return {
 "beat_cpu_ms": beat_cpu_ms, "look_cpu_ms": look_cpu_ms,
        "bytes_s": beat_bytes / canaries.BEAT_S + look_bytes / LOOK_INTERVAL_S,
        "bare_mib": bare_mib, "clients_mib": clients_mib, "threads": threads, "probes_mib": probes_mib,
    }  # fmt: skip


def _cost(work: Callable[[], None]) -> tuple[float, float]:
    """Of one round, the mean of ROUNDS: milliseconds of a CPU, bytes on the way to and from the hosts."""
    cpu, wire = _family().cpu_s(), _wire_bytes()
    for _ in range(ROUNDS):
        work()
    return (_family().cpu_s() - cpu) * 1000 / ROUNDS, float(_wire_bytes() - wire) / ROUNDS


def _family() -> Family:
    """This process, and the gluster clients that it has started."""
    return Family(os.getpid())


def _wire_bytes() -> int:
    """Received and sent on the bridge to the brick hosts; what else is there is little."""
    lines = Path("/proc/net/dev").read_text().splitlines()
    fields = next(line.split(":")[1].split() for line in lines if line.strip().startswith("br0:"))
    return int(fields[0]) + int(fields[8])


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], sys.argv[2:])), flush=True)
    os._exit(0)  # a hundred clients take long to end
