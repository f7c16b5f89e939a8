"""The other calls of the controller, each beside the gluster calls that it cannot do without, made by a few lines."""

from __future__ import annotations

import itertools
import secrets
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from benchmarks.bench_create import SIZE_BYTES, controller, create_request, make_pv
from benchmarks.figure import Figure
from benchmarks.native import ADDRESS, Native
from kadalu_ext.api import csi_pb2, csi_pb2_grpc
from kadalu_ext.csi.connection import GlusterConnector
from kadalu_ext.gluster.brick import BrickProbe
from kadalu_ext.gluster.gfapi import Volume
from kadalu_ext.layout import changed_path, pv_path, record_names, record_path, staged_record_path
from kadalu_ext.record import RECORD_XATTR, RECORDS_DIR, PvName, QuotaRecord, encode
from kadalu_ext.storage import Quota, Storage, StorageName, to_parameters
from tests.testbed import progress
from tests.testbed.brickhosts import BrickHosts

TIMES: Final = 20
PVS: Final = 10_000
MAKERS: Final = 64

Call = Callable[[], object]


def run(hosts: BrickHosts, volume: str) -> list[Figure]:
    """On `volume`, whose every brick host has a running kadalu-quotad."""
    storage = Storage(name=StorageName("bench"), hosts=tuple(host.name for host in hosts.hosts), volume=volume)
    with controller(storage) as running, Volume.open(volume, storage.hosts) as bare:
        return [_expand(running.stub, storage, bare, "every brick verified")]


def run_native(native: Native) -> list[Figure]:
    """On a replica 3 of this machine's glusterd, which in the end has PVS PVs."""
    native.create("calls")
    storage = Storage(name=StorageName("bench"), hosts=(ADDRESS,), volume="calls", quota=Quota.NONE)
    with controller(storage) as running, Volume.open(storage.volume, storage.hosts) as bare:
        stub = running.stub
        figures = [_expand(stub, storage, bare, "native, quota: none")]
        with progress.step(f"{PVS:,} PVs"), ThreadPoolExecutor(MAKERS) as pool:
            list(pool.map(lambda n: make_pv(bare, PvName(f"listed-{n}")), range(PVS)))
        return [*figures, _capacity(stub, storage, bare), _list(stub, storage, bare)]


def _expand(stub: csi_pb2_grpc.ControllerStub, storage: Storage, bare: Volume, what: str) -> Figure:
    ours, theirs = PvName("grows"), PvName("grows-bare")
    stub.CreateVolume(create_request(ours, storage), timeout=60)
    make_pv(bare, theirs)
    sizes, told = itertools.count(2), [""]

    def expand() -> None:
        wanted = csi_pb2.CapacityRange(required_bytes=next(sizes) * SIZE_BYTES)
        request = csi_pb2.ControllerExpandVolumeRequest(volume_id=f"{storage.name}/{ours}", capacity_range=wanted)
        stub.ControllerExpandVolume(request, timeout=60)

    def calls() -> None:
        bare.getxattr(record_path(theirs), RECORD_XATTR)
        value = encode(QuotaRecord(path=pv_path(theirs), size_bytes=next(sizes) * SIZE_BYTES))
        suffix = secrets.token_hex(8)
        staged = staged_record_path(theirs, suffix)
        bare.mkdir(staged, 0o700)
        bare.setxattr(staged, RECORD_XATTR, value)
        bare.rename(staged, changed_path(theirs, suffix))
        bare.setxattr(record_path(theirs), RECORD_XATTR, value)
        if told[0]:
            bare.rmdir(changed_path(theirs, told[0]))
        told[0] = suffix

    figure = _beside(f"ControllerExpandVolume, {what}", expand, calls, TIMES)
    for name in (ours, theirs):
        stub.DeleteVolume(csi_pb2.DeleteVolumeRequest(volume_id=f"{storage.name}/{name}"), timeout=60)
    return figure


def _capacity(stub: csi_pb2_grpc.ControllerStub, storage: Storage, bare: Volume) -> Figure:
    request = csi_pb2.GetCapacityRequest(parameters=to_parameters(storage))
    began = time.monotonic()
    stub.GetCapacity(request, timeout=600)  # each record is read once
    progress.say(f"the first GetCapacity with {PVS:,} PVs took {time.monotonic() - began:.1f} s")

    def calls() -> None:
        bare.statvfs("")
        assert len(bare.listdir(RECORDS_DIR)) >= PVS

    return _beside(f"GetCapacity, {PVS:,} PVs", lambda: stub.GetCapacity(request, timeout=60), calls, TIMES)


def _list(stub: csi_pb2_grpc.ControllerStub, storage: Storage, bare: Volume) -> Figure:
    def pages() -> None:
        listed, token = 0, ""
        while listed == 0 or token:
            page = stub.ListVolumes(csi_pb2.ListVolumesRequest(starting_token=token), timeout=600)
            listed, token = listed + len(page.entries), page.next_token
        assert listed == PVS

    facts = GlusterConnector().facts(storage)
    with BrickProbe(storage.volume, facts.volume_id, facts.geometry) as probe:

        def calls() -> None:
            for name in record_names(bare.listdir(RECORDS_DIR)).whole:
                bare.getxattr(record_path(name), RECORD_XATTR)
                path = pv_path(name)
                probe.stat_directory(path, gfid=bare.gfid(path))

        return _beside(f"ListVolumes with conditions, {PVS:,} PVs", pages, calls, 1)


def _beside(name: str, call: Call, bare: Call, times: int) -> Figure:
    """Medians, each next to its anchor, so that both see the same machine."""
    rows = [(_ms(call), _ms(bare)) for _ in range(times)]
    value, anchor = (statistics.median(column) for column in zip(*rows, strict=True))
    return Figure(
        name=name, value=value, unit="ms", anchor="its gluster calls, bare", anchor_value=anchor, goal="ratio <= 1.5"
    )


def _ms(call: Call) -> float:
    started = time.monotonic()
    call()
    return (time.monotonic() - started) * 1000
