"""`make bench`: ratios against an anchor measured in the same run; a table, and build/bench.json. Asserts no time."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from benchmarks import (
    bench_arrival,
    bench_canary,
    bench_clone,
    bench_crawl,
    bench_create,
    bench_enforce,
    bench_facts,
    bench_idle,
    bench_operator,
)
from benchmarks.figure import Figure, table
from tests.testbed import deb, suite
from tests.testbed.brickhosts import BrickHosts
from tests.testbed.kube import Kube
from tests.testbed.sandbox import INSIDE, Sandbox

VOLUME = "bench"


def main() -> int:
    """Brings up the brick hosts, with kadalu-quotad on each, and runs every benchmark on one replica 3 volume."""
    sandbox = Sandbox.attach(os.environ[INSIDE])
    suite.wait_built(sandbox.name, "bricks")
    hosts = BrickHosts(sandbox)
    hosts.start()
    hosts.create_volume(VOLUME, "replica 3")
    suite.wait_built(sandbox.name, "project")
    deb.install(hosts, [VOLUME])
    figures = [
        *bench_facts.run(hosts, VOLUME),
        *bench_create.run(hosts, VOLUME),
        *bench_arrival.run(hosts, VOLUME),
        *bench_enforce.run(hosts, VOLUME),
        *bench_idle.run(hosts),
        *bench_canary.run(hosts, VOLUME),
        *bench_clone.run(hosts, VOLUME),
        *bench_crawl.run(hosts),
    ]
    suite.wait_built(sandbox.name, "kube")
    kube = Kube(sandbox)
    kube.start()  # last: what runs beside a measurement is part of it
    figures += bench_operator.run(hosts, kube, VOLUME)
    print(table(figures))
    report = Path("build") / "bench.json"
    report.parent.mkdir(exist_ok=True)
    report.write_text(json.dumps([Figure.to_json(figure) for figure in figures], indent=1) + "\n")
    print(f"written to {report}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
