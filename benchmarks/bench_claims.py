"""Claims through the stock csi-provisioner: as fast as with a driver that does nothing?"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import grpc
from kubernetes import client, config

from benchmarks import null_driver
from benchmarks.bench_create import controller, cpu_s
from benchmarks.figure import Figure
from benchmarks.native import ADDRESS, Native
from kadalu_ext.storage import PROVISIONER, Quota, Storage, StorageName, storage_class_name, to_parameters
from tests.testbed import gobuild, paths, progress
from tests.testbed.kube import Kube

CLAIMS: Final = 300
ROUNDS: Final = 3
NAMESPACE: Final = "default"
_BOUND_S: Final = 300.0


def run_native(native: Native, kube: Kube) -> list[Figure]:
    """With `quota: none` on volumes of this machine's glusterd, one of one brick and one of three replicas. The same
    two CPUs run bricks, etcd, API server and all."""
    config.load_kube_config(str(kube.kubeconfig))  # type: ignore[no-untyped-call]
    kinds = {"a brick": 1, "a replica 3": 3}
    storages = {}
    for what, replicas in kinds.items():
        name = f"claims{replicas}"
        native.create(name, replicas=replicas)
        storages[what] = Storage(name=StorageName(name), hosts=(ADDRESS,), volume=name, quota=Quota.NONE)
    classes = {what: _storage_class(kube, storage) for what, storage in storages.items()}
    _apply_class(kube, null_driver.NAME, null_driver.NAME, {})
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        null = directory / "null.sock"
        stack.enter_context(_process([sys.executable, "-m", "benchmarks.null_driver", str(null)], kube, "null"))
        with grpc.insecure_channel(f"unix:{null}") as channel:
            grpc.channel_ready_future(channel).result(timeout=30)
        ours = stack.enter_context(controller(*storages.values())).socket
        for socket in (null, ours):
            stack.enter_context(_process(_provisioner(kube, socket), kube, f"provisioner-{socket.stem}"))
        _round(kube, null_driver.NAME, 1)
        for each in classes.values():
            _round(kube, each, 1)
        rows = [[_round(kube, each, CLAIMS) for each in (null_driver.NAME, *classes.values())] for _ in range(ROUNDS)]
    floor, *seen = [CLAIMS / statistics.median(each.s for each in column) for column in zip(*rows, strict=True)]
    idle, *used = [
        statistics.median(each.cpu_s for each in column) * 1000 / CLAIMS for column in zip(*rows, strict=True)
    ]
    rates = [
        Figure(
            name=f"{CLAIMS} claims at once, quota: none, on {what}", value=value, unit="Bound/s",
            anchor="with a null driver", anchor_value=floor, goal="ratio >= 0.8",
        )
        for what, value in zip(kinds, seen, strict=True)
    ]  # fmt: skip
    costs = [
        Figure(
            name=f"  processor time of one, Kubernetes and all, on {what}", value=value, unit="ms",
            anchor="with a null driver", anchor_value=idle, goal="ratio <= 1.25",
        )
        for what, value in zip(kinds, used, strict=True)
    ]  # fmt: skip
    return rates + costs


def _storage_class(kube: Kube, storage: Storage) -> str:
    return _apply_class(kube, storage_class_name(storage.name), PROVISIONER, to_parameters(storage))


def _apply_class(kube: Kube, name: str, provisioner: str, parameters: dict[str, str]) -> str:
    manifest = {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {"name": name},
        "provisioner": provisioner,
        "parameters": parameters,
    }
    kube.kubectl("apply", "-f", "-", input=json.dumps(manifest))
    return name


def _provisioner(kube: Kube, socket: Path) -> list[str]:
    words = [f"--csi-address={socket}", f"--kubeconfig={kube.kubeconfig}", "--extra-create-metadata"]
    return [
        str(gobuild.binary("csi-provisioner")),
        *words,
        "--worker-threads=100",
        "--kube-api-qps=500",
        "--kube-api-burst=1000",
    ]


@contextmanager
def _process(argv: list[str], kube: Kube, name: str) -> Iterator[None]:
    with (kube.sandbox.log_dir / f"{name}.log").open("ab") as log:
        process = subprocess.Popen(argv, stdout=log, stderr=log, cwd=paths.REPOSITORY)
    try:
        yield
    finally:
        process.terminate()
        process.wait(timeout=60)


@dataclass(frozen=True, kw_only=True)
class _Round:
    """s: from the first claim's creation until the last is Bound. cpu_s: of all processes of the sandbox meanwhile."""

    s: float
    cpu_s: float


def _round(kube: Kube, storage_class: str, count: int) -> _Round:
    """All claims are gone when this returns."""
    claims = [_claim(f"claim-{n}", storage_class) for n in range(count)]
    listed = json.dumps({"apiVersion": "v1", "kind": "List", "items": claims})
    api = client.CoreV1Api()
    with ThreadPoolExecutor(1) as pool:
        bound = pool.submit(_bound_at, api, count)
        began, used = time.monotonic(), cpu_s()
        kube.kubectl("create", "-f", "-", input=listed, timeout=_BOUND_S)
        took = _Round(s=bound.result() - began, cpu_s=cpu_s() - used)
    progress.say(f"{count} claims of {storage_class}: {took.s:.2f} s, {took.cpu_s:.2f} s of processors")
    kube.kubectl("delete", "pvc", "--all", "-n", NAMESPACE, "--wait=false", timeout=_BOUND_S)
    progress.wait_until(
        "their PVs to be gone", lambda: not kube.kubectl("get", "pv", "-o", "name"), seconds=_BOUND_S, interval=1.0
    )
    return took


def _bound_at(api: client.CoreV1Api, count: int) -> float:
    """When as many claims were Bound, of time.monotonic()."""
    deadline = time.monotonic() + _BOUND_S
    bound: set[str] = set()
    while time.monotonic() < deadline:
        for event in _events(api):
            if event["type"] == "ERROR":
                break  # the API server wants it asked anew
            if event["object"]["status"].get("phase") == "Bound":
                bound.add(event["object"]["metadata"]["name"])
            if len(bound) == count:
                return time.monotonic()
    raise AssertionError(f"only {len(bound)} of {count} claims are Bound after {_BOUND_S:g} s")


def _events(api: client.CoreV1Api) -> Iterator[dict[str, Any]]:
    """As they come, for a while. Objects are not made of them: that takes long."""
    stream: Any = api.list_namespaced_persistent_volume_claim(
        NAMESPACE, watch=True, _preload_content=False, timeout_seconds=60
    )
    for line in stream:
        yield json.loads(line)


def _claim(name: str, storage_class: str) -> dict[str, object]:
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "accessModes": ["ReadWriteMany"],
            "storageClassName": storage_class,
            "resources": {"requests": {"storage": "4Mi"}},
        },
    }
