"""Requests that make sense, and what is said of the others."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from kadalu_ext.api import csi_pb2
from kadalu_ext.csi import params
from kadalu_ext.errors import InvalidInputError
from kadalu_ext.record import PvName
from kadalu_ext.storage import to_parameters
from kadalu_ext.units import GIB, MIB
from tests.unit.csi.memory import STORAGE

Mode = csi_pb2.VolumeCapability.AccessMode


def capability(mode: Mode.Mode.ValueType = Mode.MULTI_NODE_MULTI_WRITER, **mount: str) -> csi_pb2.VolumeCapability:
    return csi_pb2.VolumeCapability(
        mount=csi_pb2.VolumeCapability.MountVolume(**mount),
        access_mode=Mode(mode=mode),
    )


def request(name: str = "pvc-1", size: int | None = 64 * MIB) -> csi_pb2.CreateVolumeRequest:
    return csi_pb2.CreateVolumeRequest(
        name=name,
        capacity_range=None if size is None else csi_pb2.CapacityRange(required_bytes=size),
        volume_capabilities=[capability()],
        parameters=to_parameters(STORAGE) | {"csi.storage.k8s.io/pvc/name": "claim"},
    )


def test_a_request_becomes_a_typed_one() -> None:
    assert params.create_request(request()) == params.CreateRequest(
        name=PvName("pvc-1"), size_bytes=64 * MIB, storage=STORAGE
    )


def test_without_a_capacity_range_it_is_one_gib() -> None:
    assert params.create_request(request(size=None)).size_bytes == GIB


@pytest.mark.parametrize("mode", [m for m in Mode.Mode.values() if 1 <= m <= 5])
def test_every_access_mode_that_needs_no_further_capability_can_be_had(mode: Mode.Mode.ValueType) -> None:
    params.check_capability(capability(mode))


Spoil = Callable[[csi_pb2.CreateVolumeRequest], object]


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda r: r.ClearField("name"), "name: missing"),
        (lambda r: setattr(r, "name", "../etc"), "not usable as a PV's name"),
        (lambda r: setattr(r, "name", "x" * 201), "up to 200"),
        (lambda r: r.capacity_range.Clear(), "0 bytes"),
        (lambda r: r.ClearField("volume_capabilities"), "volume_capabilities: missing"),
        (lambda r: r.volume_capabilities[0].block.SetInParent(), "volumeMode Filesystem"),
        (lambda r: r.volume_capabilities[0].ClearField("mount"), "access_type: missing"),
        (lambda r: setattr(r.volume_capabilities[0].mount, "fs_type", "ext4"), "leave csi.storage.k8s.io/fstype out"),
        (lambda r: r.volume_capabilities[0].ClearField("access_mode"), "access_mode: missing"),
        (lambda r: setattr(r.volume_capabilities[0].access_mode, "mode", 6), "SINGLE_NODE_SINGLE_WRITER is not"),
        (lambda r: setattr(r.volume_capabilities[0].access_mode, "mode", 99), "access_mode: 99 is not"),
        (lambda r: r.volume_content_source.snapshot.SetInParent(), "clones and snapshots"),
        (lambda r: r.mutable_parameters.update(x="y"), "VolumeAttributesClasses"),
        (lambda r: r.parameters.update(hostz="y"), r"parameters.hostz: unknown"),
        (lambda r: r.parameters.pop("volume"), r"parameters.volume: missing"),
    ],
)
def test_a_request_that_makes_no_sense_is_refused_by_field(spoil: Spoil, says: str) -> None:
    spoiled = request()
    spoil(spoiled)
    with pytest.raises(InvalidInputError, match=says):
        params.create_request(spoiled)
