"""What a storage notices of another one that hangs with 50 claims on it, in one controller.

The storage that hangs is on a brick of its own host, so that nothing but the controller is shared. It hangs in three
ways: its host drops packets; its brick's process is stopped; its disk does not answer (fsfreeze), while the brick's
process does, which no timeout of gluster's ends within half an hour.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Final

import grpc

from benchmarks.bench_create import controller, create_request
from benchmarks.family import Family
from benchmarks.figure import Figure, percentile
from kadalu_ext.api import csi_pb2, csi_pb2_grpc
from kadalu_ext.record import PvName
from kadalu_ext.storage import Storage, StorageName, volume_id
from tests.testbed import deb, progress
from tests.testbed.brickhosts import BrickHost, BrickHosts

ILL_CALLS: Final = 50
ROUNDS: Final = 15
LISTS: Final = 3
CALL_S: Final = 10.0
"""csi-provisioner's --timeout."""
SETTLED_S: Final = 20.0
"""So long the calls hang before it is measured."""
_PROBE_PAUSE_S: Final = 0.05
WELL: Final = Storage(name=StorageName("well"), hosts=("brick1", "brick2"), volume="isolation-well")
ILL: Final = Storage(name=StorageName("ill"), hosts=("brick3",), volume="isolation-ill")


@dataclass(kw_only=True)
class Latencies:
    """Of the well storage, in ms; one each of a round."""

    create: list[float] = field(default_factory=list)
    delete: list[float] = field(default_factory=list)
    capacity: list[float] = field(default_factory=list)
    list: list[float] = field(default_factory=list)


def run(hosts: BrickHosts) -> list[Figure]:
    """On hosts whose kadalu-quotad runs. Makes two volumes, and leaves them."""
    ill_host = hosts.host("brick3")
    hosts.create_volume(WELL.volume, "replica 2", ["brick1", "brick2"])
    hosts.create_volume(ILL.volume, "brick", ["brick3"])
    for host in hosts.hosts:
        host.run(["tee", "-a", deb.LIST], input=f"{WELL.volume}\n{ILL.volume}\n")
    figures = []
    for what, hang, wake in (
        ("cut off", BrickHost.cut, BrickHost.uncut),
        ("brick stopped", _stop, _go_on),
        ("disk frozen", _freeze, _thaw),
    ):
        figures += _measure(ill_host, what, hang, wake)
    return figures


def _measure(
    host: BrickHost, what: str, hang: Callable[[BrickHost], None], wake: Callable[[BrickHost], None]
) -> list[Figure]:
    with controller(WELL, ILL) as running, grpc.insecure_channel(f"unix:{running.socket}") as channel:
        stub, process = running.stub, Family(running.pid)
        for storage in (WELL, ILL):
            progress.wait_until(
                f"{storage.name} to serve", partial(_creates, stub, storage, PvName("warm-up")), seconds=120
            )
        before, rss_before, threads_before = _rounds(stub, "before"), process.rss_mib(), process.threads()
        hang(host)
        try:
            with _ill_calls(stub, what), _probing(channel) as probes:
                time.sleep(SETTLED_S)
                during = _rounds(stub, "during")
                rss_during, threads_during = process.rss_mib(), process.threads()
        finally:
            wake(host)
        progress.wait_until("the ill storage to serve again", lambda: _creates(stub, ILL, PvName("again")), seconds=300)
        after = _rounds(stub, "after")
        rss_after, threads_after = process.rss_mib(), process.threads()
    figures = [
        Figure(
            name=f"{call} beside a storage with {ILL_CALLS} calls on it, {what}", value=_median(during, call),
            unit="ms",
            anchor="without that", anchor_value=(_median(before, call) + _median(after, call)) / 2, goal="ratio <= 2",
        )
        for call in ("create", "delete", "capacity", "list")
    ]  # fmt: skip
    return [
        *figures,
        Figure(
            name=f"Probe then, p99 of {len(probes)}; the longest took {max(probes):.0f} ms",
            value=percentile(sorted(probes), 0.99), unit="ms",
            anchor="the median", anchor_value=statistics.median(probes), goal="value <= 100 ms",
        ),
        Figure(
            name="memory (RSS) of the controller then", value=rss_during, unit="MiB",
            anchor=f"before ({rss_after:.0f} afterwards)", anchor_value=rss_before, goal="bounded",
        ),
        Figure(
            name="its threads", value=threads_during, unit="",
            anchor=f"before ({threads_after} afterwards)", anchor_value=threads_before, goal="bounded",
        ),
    ]  # fmt: skip


def _rounds(stub: csi_pb2_grpc.ControllerStub, when: str) -> Latencies:
    found = Latencies()
    capacity = csi_pb2.GetCapacityRequest(parameters=create_request(PvName("any"), WELL).parameters)
    for n in range(ROUNDS):
        name = PvName(f"{when}-{n}")
        found.create.append(_ms(partial(stub.CreateVolume, create_request(name, WELL), timeout=60)))
        found.capacity.append(_ms(partial(stub.GetCapacity, capacity, timeout=60)))
        if n < LISTS:
            found.list.append(_ms(partial(stub.ListVolumes, csi_pb2.ListVolumesRequest(), timeout=CALL_S)))
        request = csi_pb2.DeleteVolumeRequest(volume_id=volume_id(WELL.name, name))
        found.delete.append(_ms(partial(stub.DeleteVolume, request, timeout=60)))
    return found


def _median(found: Latencies, call: str) -> float:
    times: list[float] = getattr(found, call)
    return statistics.median(times)


@contextmanager
def _ill_calls(stub: csi_pb2_grpc.ControllerStub, what: str) -> Iterator[None]:
    """ILL_CALLS claims, each asked for again and again as csi-provisioner does, until the block ends."""
    stop = threading.Event()

    def claim(n: int) -> None:
        name = PvName(f"ill-{what.replace(' ', '-')}-{n}")
        while not stop.is_set():
            try:
                stub.CreateVolume(create_request(name, ILL), timeout=CALL_S)
            except grpc.RpcError:
                pass  # that is what is to be measured
            stop.wait(1.0)

    with ThreadPoolExecutor(ILL_CALLS) as claims:
        for n in range(ILL_CALLS):
            claims.submit(claim, n)
        yield
        stop.set()


@contextmanager
def _probing(channel: grpc.Channel) -> Iterator[list[float]]:
    """The times, in ms, of Probes that are made one after the other until the block ends."""
    times: list[float] = []
    stop = threading.Event()
    stub = csi_pb2_grpc.IdentityStub(channel)

    def probe() -> None:
        for _ in count():
            if stop.wait(_PROBE_PAUSE_S):
                return
            times.append(_ms(lambda: stub.Probe(csi_pb2.ProbeRequest(), timeout=60)))

    thread = threading.Thread(target=probe)
    thread.start()
    try:
        yield times
    finally:
        stop.set()
        thread.join()


def _creates(stub: csi_pb2_grpc.ControllerStub, storage: Storage, name: PvName) -> bool:
    try:
        stub.CreateVolume(create_request(name, storage), timeout=CALL_S)
    except grpc.RpcError:
        return False
    stub.DeleteVolume(csi_pb2.DeleteVolumeRequest(volume_id=volume_id(storage.name, name)), timeout=CALL_S)
    return True


def _ms(call: Callable[[], object]) -> float:
    started = time.monotonic()
    call()
    return (time.monotonic() - started) * 1000


def _stop(host: BrickHost) -> None:
    host.run(["pkill", "-STOP", "-f", f"glusterfsd.*{ILL.volume}"])


def _go_on(host: BrickHost) -> None:
    host.run(["pkill", "-CONT", "-f", f"glusterfsd.*{ILL.volume}"])


def _freeze(host: BrickHost) -> None:
    host.run(["fsfreeze", "--freeze", "/bricks"])


def _thaw(host: BrickHost) -> None:
    host.run(["fsfreeze", "--unfreeze", "/bricks"], check=False)
