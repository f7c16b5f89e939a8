"""CreateVolume and DeleteVolume, through a real controller, against the bare gluster calls that they need."""

from __future__ import annotations

import os
import secrets
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from errno import EEXIST
from pathlib import Path

import grpc

from benchmarks.figure import Figure
from benchmarks.native import ADDRESS, Native
from kadalu_ext.api import csi_pb2, csi_pb2_grpc
from kadalu_ext.errors import VolumeIOError
from kadalu_ext.gluster.gfapi import Volume
from kadalu_ext.layout import pv_path, record_path, staged_record_path, trash_path
from kadalu_ext.record import RECORD_XATTR, PvName, QuotaRecord, encode
from kadalu_ext.storage import Quota, Storage, StorageName, to_json, to_parameters
from kadalu_ext.units import MIB
from tests.testbed.brickhosts import BrickHosts

ONE_BY_ONE = 20
CLIENTS = 20
"""Of bench_arrival.py."""
TOGETHER = ((8, 40), (64, 128))
"""Clients, and how many calls they make in all."""
ROUNDS = 2
SIZE_BYTES = 4 * MIB
KADALU_MS = 5100.0
"""Of its CreateVolume at January 2024 on gluster 10.3, on a machine like this one: the least of 5.1 to 5.3 s, five
seconds of which it sleeps. It was run once, and is no part of this run."""

Call = Callable[[PvName], object]


@dataclass(frozen=True, kw_only=True)
class Controller:
    """A running one."""

    stub: csi_pb2_grpc.ControllerStub
    pid: int
    socket: Path


def run(hosts: BrickHosts, volume: str) -> list[Figure]:
    """On `volume`, whose every brick host has a running kadalu-quotad. Leaves nothing on it but empty parents: what the
    bare calls move to the trash, the controller removes.
    """
    storage = Storage(name=StorageName("bench"), hosts=tuple(host.name for host in hosts.hosts), volume=volume)
    return _measure(storage, "every brick verified", goal="ratio <= 1.5")


def run_native(native: Native) -> list[Figure]:
    """On a replica 3 of this machine's glusterd, where nobody enforces sizes."""
    native.create("creates")
    storage = Storage(name=StorageName("bench"), hosts=(ADDRESS,), volume="creates", quota=Quota.NONE)
    figures = _measure(storage, "native, quota: none", goal="ratio <= 1.5")
    kadalu = Figure(
        name="the same, one client", value=figures[0].value, unit="ms", anchor="Kadalu's, measured apart, no quota",
        anchor_value=KADALU_MS, goal="ratio <= 0.01",
    )  # fmt: skip
    return [*figures, kadalu]


def _measure(storage: Storage, what: str, *, goal: str) -> list[Figure]:
    with controller(storage) as running, Volume.open(storage.volume, storage.hosts) as bare:
        stub = running.stub

        def create(name: PvName) -> None:
            stub.CreateVolume(create_request(name, storage), timeout=60)

        def delete(name: PvName) -> None:
            stub.DeleteVolume(csi_pb2.DeleteVolumeRequest(volume_id=f"{storage.name}/{name}"), timeout=60)

        def bare_create(name: PvName) -> None:
            make_pv(bare, name)

        def bare_delete(name: PvName) -> None:
            _bare_delete(bare, name)

        capacity = csi_pb2.GetCapacityRequest(parameters=to_parameters(storage))
        create(PvName("warm-up"))
        delete(PvName("warm-up"))
        alone = _one_by_one(create, bare_create, delete, bare_delete)
        figures = [_figure(f"CreateVolume, {what}", alone[0], alone[1], goal)]
        deletes = [_figure(f"DeleteVolume, {what}", alone[2], alone[3], goal)]
        for clients, count in TOGETHER:
            creates = []
            for kind, call in _rounds(create, bare_create):
                creates.append(_together(kind, call, clients, count))
                stub.GetCapacity(capacity, timeout=60)  # what the bare calls have made it reads now, and not meanwhile
            gone = [_together(kind, call, clients, count) for kind, call in _rounds(delete, bare_delete)]
            name = f"{clients} clients, each of {count}"
            figures.append(_figure(f"CreateVolume, {what}, {name}", *_halves([each.ms for each in creates]), goal))
            figures.append(
                _figure("  processor time of hosts and all", *_halves([each.cpu_ms for each in creates]), "-")
            )
            deletes.append(_figure(f"DeleteVolume, {what}, {name}", *_halves([each.ms for each in gone]), goal))
    return [*figures, *deletes]


def _figure(name: str, value: float, bare: float, goal: str) -> Figure:
    return Figure(name=name, value=value, unit="ms", anchor="its gluster calls, bare", anchor_value=bare, goal=goal)


def _one_by_one(create: Call, bare_create: Call, delete: Call, bare_delete: Call) -> list[float]:
    """Medians in ms, in the order of the arguments: each next to its anchor, so that both see the same machine."""
    rows = []
    for n in range(ONE_BY_ONE):
        csi, bare = PvName(f"alone-csi-{n}"), PvName(f"alone-bare-{n}")
        rows.append([_ms(create, csi), _ms(bare_create, bare), _ms(delete, csi), _ms(bare_delete, bare)])
    return [statistics.median(column) for column in zip(*rows, strict=True)]


def _rounds(csi: Call, bare: Call) -> list[tuple[str, Call]]:
    """In turn, so that both see the same machine."""
    return [(f"{kind}-{n}", call) for n in range(ROUNDS) for kind, call in (("csi", csi), ("bare", bare))]


def _halves(values: list[float]) -> tuple[float, float]:
    """The means of those at even and at odd places."""
    return statistics.mean(values[::2]), statistics.mean(values[1::2])


@dataclass(frozen=True, kw_only=True)
class _Cost:
    """Of one call, in milliseconds. cpu_ms: of every process of the sandbox, brick hosts included; what a machine has
    to do beside that makes it longer, and less than the time that passes."""

    ms: float
    cpu_ms: float


def _together(kind: str, call: Call, clients: int, count: int) -> _Cost:
    """The mean of `count` calls, made by as many threads as `clients`."""
    names = [PvName(f"together-{clients}-{kind}-{n}") for n in range(count)]
    started, used = time.monotonic(), cpu_s()
    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(call, names))
    return _Cost(ms=(time.monotonic() - started) * 1000 / count, cpu_ms=(cpu_s() - used) * 1000 / count)


def cpu_s() -> float:
    """Processor time of all processes that there are (proc_pid_stat(5): utime and stime)."""
    ticks = 0
    for process in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            fields = process.read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def _ms(call: Call, name: PvName) -> float:
    started = time.monotonic()
    call(name)
    return (time.monotonic() - started) * 1000


def make_pv(volume: Volume, name: PvName) -> None:
    """A PV and its record, of SIZE_BYTES: all that CreateVolume cannot do without."""
    path, staged = pv_path(name), staged_record_path(name, secrets.token_hex(8))
    bucket = os.path.dirname(path)
    make_directories(volume, os.path.dirname(bucket), bucket)
    volume.mkdir(path, 0o777)
    volume.mkdir(staged, 0o700)
    volume.setxattr(staged, RECORD_XATTR, encode(QuotaRecord(path=path, size_bytes=SIZE_BYTES)))
    volume.rename(staged, record_path(name))


def make_directories(volume: Volume, *paths: str) -> None:
    """Those that are not there yet."""
    for path in paths:
        try:
            volume.mkdir(path, 0o755)
        except VolumeIOError as error:
            if error.errno != EEXIST:
                raise


def _bare_delete(volume: Volume, name: PvName) -> None:
    volume.rename(pv_path(name), trash_path(name, "ba5e" * 4))
    volume.rmdir(record_path(name))


def create_request(name: PvName, storage: Storage) -> csi_pb2.CreateVolumeRequest:
    mode = csi_pb2.VolumeCapability.AccessMode(mode=csi_pb2.VolumeCapability.AccessMode.MULTI_NODE_MULTI_WRITER)
    """For a PV of SIZE_BYTES."""
    return csi_pb2.CreateVolumeRequest(
        name=name,
        capacity_range=csi_pb2.CapacityRange(required_bytes=SIZE_BYTES),
        volume_capabilities=[csi_pb2.VolumeCapability(mount=csi_pb2.VolumeCapability.MountVolume(), access_mode=mode)],
        parameters=to_parameters(storage),
    )


@contextmanager
def controller(*storages: Storage) -> Iterator[Controller]:
    """A controller of its own process, as in the pod."""
    with tempfile.TemporaryDirectory() as directory:
        entries, socket = Path(directory, "storages"), Path(directory, "csi.sock")
        entries.mkdir()
        for storage in storages:
            (entries / f"{storage.name}.json").write_text(to_json(storage))
        argv = [sys.executable, "-m", "kadalu_ext.csi.main", "controller", f"--endpoint={socket}"]
        process = subprocess.Popen([*argv, f"--storages={entries}", "--log-level=ERROR"])
        try:
            with grpc.insecure_channel(f"unix:{socket}") as channel:
                grpc.channel_ready_future(channel).result(timeout=30)
                yield Controller(stub=csi_pb2_grpc.ControllerStub(channel), pid=process.pid, socket=socket)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=30)
