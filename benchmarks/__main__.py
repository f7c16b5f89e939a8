"""`make bench`: ratios against an anchor measured in the same run; a table, and build/bench.json. Asserts no time.

Arguments: the names of single benchmarks, as BENCHMARKS has them; without any, all of them.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import Final

from benchmarks import (
    bench_arrival,
    bench_calls,
    bench_canary,
    bench_claims,
    bench_clone,
    bench_crawl,
    bench_create,
    bench_enforce,
    bench_facts,
    bench_idle,
    bench_isolation,
    bench_node,
    bench_operator,
    native,
)
from benchmarks.figure import Figure, table
from tests.testbed import deb, progress, suite
from tests.testbed.brickhosts import BrickHosts
from tests.testbed.kube import Kube
from tests.testbed.sandbox import INSIDE, Sandbox

VOLUME = "bench"


class Bed:
    """What benchmarks run on, each part started by the first that asks for it."""

    def __init__(self, sandbox: Sandbox, stack: ExitStack) -> None:
        self.sandbox = sandbox
        self._stack = stack

    @cached_property
    def hosts(self) -> BrickHosts:
        """Three brick hosts with one replica 3 volume, and kadalu-quotad on each."""
        suite.wait_built(self.sandbox.name, "bricks")
        hosts = BrickHosts(self.sandbox)
        hosts.start()
        hosts.create_volume(VOLUME, "replica 3")
        suite.wait_built(self.sandbox.name, "project")
        deb.install(hosts, [VOLUME])
        return hosts

    @cached_property
    def native(self) -> native.Native:
        """A glusterd of the machine's own."""
        return self._stack.enter_context(native.running(self.sandbox))

    @cached_property
    def kube(self) -> Kube:
        """A Kubernetes."""
        suite.wait_built(self.sandbox.name, "kube")
        kube = Kube(self.sandbox)
        kube.start()
        return kube


BENCHMARKS: Final[dict[str, Callable[[Bed], list[Figure]]]] = {
    "create-native": lambda bed: bench_create.run_native(bed.native),
    "calls-native": lambda bed: bench_calls.run_native(bed.native),
    "node": lambda bed: bench_node.run_native(bed.native),
    "facts": lambda bed: bench_facts.run(bed.hosts, VOLUME),
    "create": lambda bed: bench_create.run(bed.hosts, VOLUME),
    "calls": lambda bed: bench_calls.run(bed.hosts, VOLUME),
    "arrival": lambda bed: bench_arrival.run(bed.hosts, VOLUME),
    "enforce": lambda bed: bench_enforce.run(bed.hosts, VOLUME),
    "idle": lambda bed: bench_idle.run(bed.hosts),
    "canary": lambda bed: bench_canary.run(bed.hosts, VOLUME),
    "isolation": lambda bed: bench_isolation.run(bed.hosts),
    "clone": lambda bed: bench_clone.run(bed.hosts, VOLUME),
    "crawl": lambda bed: bench_crawl.run(bed.hosts),
    "claims": lambda bed: bench_claims.run_native(bed.native, bed.kube),
    "operator": lambda bed: bench_operator.run(bed.hosts, bed.kube, VOLUME),
}
"""In this order: what runs beside a measurement is part of it, and Kubernetes most of all."""


def main(argv: Sequence[str]) -> int:
    """Runs those that `argv` names, or all, on what they need."""
    if unknown := set(argv) - BENCHMARKS.keys():
        print(f"no benchmark is called {', '.join(sorted(unknown))}; there are {', '.join(BENCHMARKS)}")
        return 2
    figures = []
    with ExitStack() as stack:
        bed = Bed(Sandbox.attach(os.environ[INSIDE]), stack)
        for name, run in BENCHMARKS.items():
            if not argv or name in argv:
                found = run(bed)
                figures += found
                print(table(found), flush=True)
                progress.say(f"{name}: load {' '.join(f'{load:.1f}' for load in os.getloadavg())}")
    print(table(figures))
    report = Path("build") / "bench.json"
    report.parent.mkdir(exist_ok=True)
    report.write_text(json.dumps([Figure.to_json(figure) for figure in figures], indent=1) + "\n")
    print(f"written to {report}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
