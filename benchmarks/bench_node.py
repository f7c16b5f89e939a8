"""A node: publishing and stats beside the bare system calls, and the memory of controller and node plugin."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from benchmarks.bench_create import controller, create_request
from benchmarks.family import of_process
from benchmarks.figure import Figure
from benchmarks.native import ADDRESS, Native
from kadalu_ext import mounting
from kadalu_ext.api import csi_pb2
from kadalu_ext.record import PvName
from kadalu_ext.storage import Quota, Storage, StorageName
from tests.integration.test_mounter import Node, Pv, running_node
from tests.testbed import progress

TIMES: Final = 50
PVS: Final = 50
STORAGES: Final = 5
MB: Final = 1e6
"""What the goals are in."""


def run_native(native: Native) -> list[Figure]:
    """On replica 3 volumes of this machine's glusterd."""
    os.environ["MALLOC_ARENA_MAX"] = "2"  # as in the Dockerfile
    native.create("node")
    storage = Storage(name=StorageName("bench"), hosts=(ADDRESS,), volume="node", quota=Quota.NONE)
    with (
        tempfile.TemporaryDirectory() as directory,
        running_node(lambda name: Path(tempfile.mkdtemp(prefix=name, dir=directory)), storage) as node,
    ):
        figures = _calls(node, storage) + _node_memory(node, storage)
    return figures + _controller_memory(native)


def _calls(node: Node, storage: Storage) -> list[Figure]:
    pv = Pv(node, "pvc-node", storage)
    pv.stage()
    at = pv.publish("stats")
    bare = node.kubelet / "bare"
    bare_target = bare / "mount"
    bare.mkdir()

    def empty_call() -> None:
        node.csi.NodeGetInfo(csi_pb2.NodeGetInfoRequest(), timeout=60)

    def bare_publish() -> None:
        empty_call()
        os.statvfs(pv.staging)
        bare_target.mkdir()
        mounting.bind(str(pv.staging), str(bare_target))

    def bare_unpublish() -> None:
        empty_call()
        mounting.unmount(str(bare_target))
        bare_target.rmdir()

    def bare_stats() -> None:
        empty_call()
        os.statvfs(at)

    rows = [
        [
            _ms(call)
            for call in (
                lambda: pv.publish("pod"), bare_publish, lambda: pv.unpublish("pod"), bare_unpublish,
                lambda: pv.stats("stats"), bare_stats, empty_call,
            )
        ]
        for _ in range(TIMES)
    ]  # fmt: skip
    pv.unpublish("stats")
    pv.unstage()
    found = [statistics.median(column) for column in zip(*rows, strict=True)]
    progress.say(f"an empty call of the node plugin takes {found[6]:.2f} ms")
    return [
        Figure(name=name, value=value, unit="ms", anchor=f"an empty call, {anchor}", anchor_value=floor, goal="-")
        for name, value, floor, anchor in (
            ("NodePublishVolume", found[0], found[1], "statvfs, mkdir, bind mount"),
            ("NodeUnpublishVolume", found[2], found[3], "umount, rmdir"),
            ("NodeGetVolumeStats", found[4], found[5], "statvfs"),
        )
    ]


def _node_memory(node: Node, storage: Storage) -> list[Figure]:
    pvs = [Pv(node, f"pvc-{n}", storage) for n in range(PVS)]
    idle = memory_mb(node.pid("csi"))
    with ThreadPoolExecutor(PVS) as pool:
        for step in (Pv.stage, lambda pv: pv.publish("pod"), *[lambda pv: (pv.stats("pod"), pv.health())] * 5):
            list(pool.map(step, pvs))
        busy = memory_mb(node.pid("csi"))
        for step in (lambda pv: pv.unpublish("pod"), Pv.unstage):
            list(pool.map(step, pvs))
    name = f"memory of the node plugin after {PVS} PVs were staged, published and asked for, all at once"
    return [
        Figure(
            name=name, value=busy, unit="MB", anchor="after one PV", anchor_value=idle, goal="value <= 60 MB"
        )
    ]  # fmt: skip


def _controller_memory(native: Native) -> list[Figure]:
    storages = []
    for number in range(STORAGES):
        native.create(f"memory{number}")
        storages.append(
            Storage(name=StorageName(f"m{number}"), hosts=(ADDRESS,), volume=f"memory{number}", quota=Quota.NONE)
        )
    with controller() as running:
        bare = memory_mb(running.pid)
    seen = [_after_creates(storages[:count]) for count in (1, STORAGES)]
    each = (seen[1] - seen[0]) / (STORAGES - 1)
    return [
        Figure(
            name="memory of the controller with one storage, after 64 claims at once", value=seen[0], unit="MB",
            anchor="without a storage", anchor_value=bare, goal="value <= 110 MB",
        ),
        Figure(
            name=f"  each further one of {STORAGES}, after 64 claims at once on each", value=each, unit="MB",
            anchor="without a storage", anchor_value=bare, goal="value <= 30 MB",
        ),
    ]  # fmt: skip


def _after_creates(storages: list[Storage]) -> float:
    with controller(*storages) as running, ThreadPoolExecutor(64) as pool:
        for storage in storages:

            def create(number: int, storage: Storage = storage) -> None:
                running.stub.CreateVolume(create_request(PvName(f"pvc-{number}"), storage), timeout=60)

            def delete(number: int, storage: Storage = storage) -> None:
                request = csi_pb2.DeleteVolumeRequest(volume_id=f"{storage.name}/pvc-{number}")
                running.stub.DeleteVolume(request, timeout=60)

            for call in (create, delete):
                list(pool.map(call, range(64)))
        found = memory_mb(running.pid)
        progress.say(f"{len(storages)} storages: {found:.1f} MB")
        return found


def memory_mb(pid: int) -> float:
    """Of a process and all its children, in MB (10^6 bytes): what is each one's own, and of files, which they share,
    what the one that has most of them has."""
    family = _family(pid)
    own = sum(of_process(each, "status", "RssAnon") for each in family)
    return (own + max(of_process(each, "status", "RssFile") for each in family)) * 1024 / MB


def _family(pid: int) -> list[int]:
    children = " ".join(path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children")).split()
    return [pid, *(each for child in children for each in _family(int(child)))]


def _ms(call: Callable[[], object]) -> float:
    started = time.monotonic()
    call()
    return (time.monotonic() - started) * 1000
