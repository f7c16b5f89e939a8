"""CreateVolume and DeleteVolume, through a real controller, against the bare gluster calls that they need."""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from errno import EEXIST
from pathlib import Path

import grpc

from benchmarks.figure import Figure
from kadalu_ext.api import csi_pb2, csi_pb2_grpc
from kadalu_ext.errors import VolumeIOError
from kadalu_ext.gluster.gfapi import Volume
from kadalu_ext.layout import pv_path, record_path, staged_record_path, trash_path
from kadalu_ext.record import RECORD_XATTR, PvName, QuotaRecord, encode
from kadalu_ext.storage import Storage, StorageName, to_json, to_parameters
from kadalu_ext.units import MIB
from tests.testbed.brickhosts import BrickHosts

ONE_BY_ONE = 20
TOGETHER = 40
CLIENTS = 20
SIZE_BYTES = 4 * MIB

Call = Callable[[PvName], object]


def run(hosts: BrickHosts, volume: str) -> list[Figure]:
    """On `volume`, whose every brick host has a running kadalu-quotad. Leaves nothing on it but empty parents: what the
    bare calls move to the trash, the controller removes.
    """
    storage = Storage(name=StorageName("bench"), hosts=tuple(host.name for host in hosts.hosts), volume=volume)
    with _controller(storage) as channel, Volume.open(volume, storage.hosts) as bare:
        controller = csi_pb2_grpc.ControllerStub(channel)

        def create(name: PvName) -> None:
            controller.CreateVolume(_request(name, storage), timeout=60)

        def delete(name: PvName) -> None:
            controller.DeleteVolume(csi_pb2.DeleteVolumeRequest(volume_id=f"{storage.name}/{name}"), timeout=60)

        def bare_create(name: PvName) -> None:
            make_pv(bare, name)

        def bare_delete(name: PvName) -> None:
            _bare_delete(bare, name)

        create(PvName("warm-up"))
        delete(PvName("warm-up"))
        alone = _one_by_one(create, bare_create, delete, bare_delete)
        together = [_together(kind, call) for kind, call in (("csi", create), ("bare", bare_create))]
        for kind, call in (("bare", bare_delete), ("csi", delete)):
            _together(kind, call)
    return [
        _figure("CreateVolume, every brick verified", alone[0], alone[1]),
        _figure(f"CreateVolume, {TOGETHER} by {CLIENTS} clients, each", together[0], together[1]),
        _figure("DeleteVolume", alone[2], alone[3]),
    ]


def _figure(name: str, value: float, bare: float) -> Figure:
    anchor = "its gluster calls, bare"
    return Figure(name=name, value=value, unit="ms", anchor=anchor, anchor_value=bare, goal="ratio <= 1.5")


def _one_by_one(create: Call, bare_create: Call, delete: Call, bare_delete: Call) -> list[float]:
    """Medians in ms, in the order of the arguments: each next to its anchor, so that both see the same machine."""
    rows = []
    for n in range(ONE_BY_ONE):
        csi, bare = PvName(f"alone-csi-{n}"), PvName(f"alone-bare-{n}")
        rows.append([_ms(create, csi), _ms(bare_create, bare), _ms(delete, csi), _ms(bare_delete, bare)])
    return [statistics.median(column) for column in zip(*rows, strict=True)]


def _together(kind: str, call: Call) -> float:
    """Milliseconds for each of TOGETHER calls, made by CLIENTS threads."""
    names = [PvName(f"together-{kind}-{n}") for n in range(TOGETHER)]
    started = time.monotonic()
    with ThreadPoolExecutor(CLIENTS) as clients:
        list(clients.map(call, names))
    return (time.monotonic() - started) * 1000 / TOGETHER


def _ms(call: Call, name: PvName) -> float:
    started = time.monotonic()
    call(name)
    return (time.monotonic() - started) * 1000


def make_pv(volume: Volume, name: PvName) -> None:
    """A PV and its record, of SIZE_BYTES: all that CreateVolume cannot do without."""
    path, staged = pv_path(name), staged_record_path(name)
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


def _request(name: PvName, storage: Storage) -> csi_pb2.CreateVolumeRequest:
    mode = csi_pb2.VolumeCapability.AccessMode(mode=csi_pb2.VolumeCapability.AccessMode.MULTI_NODE_MULTI_WRITER)
    return csi_pb2.CreateVolumeRequest(
        name=name,
        capacity_range=csi_pb2.CapacityRange(required_bytes=SIZE_BYTES),
        volume_capabilities=[csi_pb2.VolumeCapability(mount=csi_pb2.VolumeCapability.MountVolume(), access_mode=mode)],
        parameters=to_parameters(storage),
    )


@contextmanager
def _controller(storage: Storage) -> Iterator[grpc.Channel]:
    """A controller of its own process, as in the pod, and a connection to it."""
    with tempfile.TemporaryDirectory() as directory:
        storages, socket = Path(directory, "storages"), Path(directory, "csi.sock")
        storages.mkdir()
        (storages / f"{storage.name}.json").write_text(to_json(storage))
        argv = [sys.executable, "-m", "kadalu_ext.csi.main", "controller", f"--endpoint={socket}"]
        process = subprocess.Popen([*argv, f"--storages={storages}", "--log-level=ERROR"])
        try:
            with grpc.insecure_channel(f"unix:{socket}") as channel:
                grpc.channel_ready_future(channel).result(timeout=30)
                yield channel
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=30)
