"""A hundred KadaluStorages, ten of them dead: what these cost the other ninety, and the operator."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from kubernetes import client, config

from benchmarks.figure import Figure
from tests.testbed import paths, progress
from tests.testbed.brickhosts import BrickHosts
from tests.testbed.kube import Kube
from tests.testbed.sandbox import BRIDGE, BRIDGE_ADDRESS, NODE_ADDRESS

ALIVE: Final = 90
DEAD: Final = 10
ROUNDS: Final = 2
SILENT: Final = "10.77.0.50"
"""An address of the brick hosts' network where packets vanish."""

_GROUP: Final = ("kadalu-operator.storage", "v1alpha1")
_BOUND_S: Final = 600.0
Operator = subprocess.Popen[bytes]


def run(hosts: BrickHosts, kube: Kube, volume: str, argv: Sequence[str] = ()) -> list[Figure]:
    """On one volume under ninety names. argv: an operator; this work tree's own if it is not given."""
    argv = argv or (sys.executable, "-m", "kadalu_ext.operator.main", "--port=8081")
    for manifest in ("namespace.yaml", "crd.yaml"):
        kube.kubectl("apply", "-f", str(paths.REPOSITORY / "manifests" / manifest))
    config.load_kube_config(str(kube.kubeconfig))  # type: ignore[no-untyped-call]
    api = client.CustomObjectsApi()
    names = [host.name for host in hosts.hosts]
    alive = [_storage(f"alive-{n}", [names[n % len(names)]], volume) for n in range(ALIVE)]
    with _hung() as hung:
        kinds = [BRIDGE_ADDRESS, SILENT, hung]
        dead = [_storage(f"dead-{n}", [kinds[n % len(kinds)]], volume) for n in range(DEAD)]
        neighbour = ["ip", "neighbour", "replace", SILENT, "lladdr", "02:00:00:00:00:01", "dev", BRIDGE]
        kube.sandbox.run([*neighbour, "nud", "permanent"])
        rounds = [
            (_round(kube, api, argv, alive, ""), _round(kube, api, argv, [*dead, *alive], " and 10 dead ones"))
            for _ in range(ROUNDS)
        ]
    # the better of each: a machine that does something else meanwhile makes either slower, and neither faster
    without, beside = ([min(column) for column in zip(*kind, strict=True)] for kind in zip(*rounds, strict=True))
    return [
        _figure("90 KadaluStorages Ready, beside 10 dead", "s", beside[0], without[0], "ratio <= 1.1"),
        _figure("memory of the operator, beside 10 dead", "MiB", beside[1], without[1], "bounded"),
        _figure("threads of the operator, beside 10 dead", "", beside[2], without[2], "bounded"),
        _figure("processor time of the operator in a minute", "s", beside[3], without[3], "ratio <= 1.5"),
    ]


def _figure(name: str, unit: str, value: float, anchor: float, goal: str) -> Figure:
    return Figure(name=name, value=value, unit=unit, anchor="without the dead", anchor_value=anchor, goal=goal)


def _round(
    kube: Kube, api: client.CustomObjectsApi, argv: Sequence[str], storages: list[dict[str, Any]], what: str
) -> tuple[float, float, float, float]:
    """Seconds until the ninety are Ready; MiB of memory and threads then; seconds of processor in the minute after."""
    with _operator(kube, argv) as operator:
        try:
            with progress.step(f"{ALIVE} KadaluStorages{what}"):
                started = time.monotonic()
                for storage in storages:
                    api.create_namespaced_custom_object(*_GROUP, "default", "kadalustorages", storage)
                created = time.monotonic()
                progress.wait_until("ninety to be Ready", lambda: _ready(api) == ALIVE, seconds=_BOUND_S, interval=0.1)
                ready_s = time.monotonic() - started
                progress.say(f"all were created after {created - started:.1f} s, Ready after {ready_s:.1f} s")
            used = _cpu(operator)
            time.sleep(60)  # not a wait for anything: what it uses meanwhile is measured
            status = dict(line.split(":", 1) for line in Path(f"/proc/{operator.pid}/status").read_text().splitlines())
            rss, threads = int(status["VmRSS"].split()[0]) / 1024, float(status["Threads"])
            return ready_s, rss, threads, _cpu(operator) - used
        finally:
            api.delete_collection_namespaced_custom_object(*_GROUP, "default", "kadalustorages")
            progress.wait_until("all to be gone", lambda: not _all(api), seconds=_BOUND_S, interval=0.5)


def _all(api: client.CustomObjectsApi) -> list[dict[str, Any]]:
    found: Any = api.list_namespaced_custom_object(*_GROUP, "default", "kadalustorages")
    return list(found["items"])


def _ready(api: client.CustomObjectsApi) -> int:
    return sum(
        condition["type"] == "Ready" and condition["status"] == "True"
        for storage in _all(api)
        for condition in storage.get("status", {}).get("conditions", [])
    )


def _cpu(operator: Operator) -> float:
    """proc_pid_stat(5): utime and stime are the 14th and 15th field."""
    fields = Path(f"/proc/{operator.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _storage(name: str, hosts: list[str], volume: str) -> dict[str, Any]:
    return {
        "apiVersion": "/".join(_GROUP),
        "kind": "KadaluStorage",
        "metadata": {"name": name},
        "spec": {"type": "External", "details": [{"gluster_hosts": hosts, "gluster_volname": volume}]},
    }


@contextmanager
def _operator(kube: Kube, argv: Sequence[str]) -> Iterator[Operator]:
    environment = {**os.environ, "KUBECONFIG": str(kube.kubeconfig)}
    with (kube.sandbox.log_dir / "operator.log").open("ab") as log:
        operator = subprocess.Popen(argv, env=environment, stderr=log)
    try:
        yield operator
    finally:
        operator.send_signal(signal.SIGTERM)
        operator.wait(timeout=60)


@contextmanager
def _hung() -> Iterator[str]:
    """An address whose port 24007 takes connections and never says a word."""
    with socket.create_server((NODE_ADDRESS, 24007), backlog=4096):
        yield NODE_ADDRESS
