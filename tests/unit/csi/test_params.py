"""Requests that make sense, and what is said of the others."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kadalu_ext.api import csi_pb2
from kadalu_ext.csi import params
from kadalu_ext.errors import InvalidInputError, NotFoundError
from kadalu_ext.layout import pv_path
from kadalu_ext.record import PvName, QuotaRecord
from kadalu_ext.storage import to_parameters
from kadalu_ext.units import GIB, MIB
from tests.unit.csi.memory import STORAGE, pv

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


def source(request: csi_pb2.CreateVolumeRequest, volume_id: str) -> None:
    request.volume_content_source.volume.volume_id = volume_id


@pytest.mark.parametrize("volume_id", ["pvc-0", "ext/../x", "ext/snapshot.pvc-0", "ext/kadalu-canary"])
def test_what_is_no_volume_is_not_found_as_a_source(volume_id: str) -> None:
    asked = request()
    source(asked, volume_id)
    with pytest.raises(NotFoundError, match=r"volume_content_source\.volume: there is no"):
        params.create_request(asked)


def test_a_request_becomes_a_typed_one() -> None:
    assert params.create_request(request()) == params.CreateRequest(record=pv("pvc-1", 64 * MIB), storage=STORAGE)


def named(pattern: str, **told: str) -> QuotaRecord:
    asked = request()
    asked.parameters.update({"subDir": pattern} | {f"csi.storage.k8s.io/{key}": value for key, value in told.items()})
    return params.create_request(asked).record


def test_a_directory_is_called_as_the_class_says_and_tells_whom_it_was_made_for() -> None:
    record = named("${pvc.metadata.namespace}-${pvc.metadata.name}", **{"pvc/namespace": "shop", "pvc/name": "db"})
    assert (record.path, record.made_for) == (pv_path(PvName("shop-db")), "pvc-1")
    assert named("${pv.metadata.name}", **{"pv/name": "pvc-1"}).made_for is None


@pytest.mark.parametrize(
    ("pattern", "says"),
    [
        ("${pvc.metadata.uid}", "is unknown; allowed are pvc.metadata.namespace"),
        ("${pvc.metadata.namespace}", "--extra-create-metadata"),
        ("../${pvc.metadata.name}", "no directory of a PV can have"),
        ("a/${pvc.metadata.name}", "no directory of a PV can have"),
        ("", "no directory of a PV can have"),
        ("kadalu-canary", "reserved"),
    ],
)
def test_a_pattern_that_comes_to_no_name_is_refused(pattern: str, says: str) -> None:
    with pytest.raises(InvalidInputError, match=rf"parameters\.subDir: .*{says}"):
        named(pattern)


@given(pattern=st.text(max_size=30), claim=st.text(max_size=10))
def test_whatever_a_pattern_and_a_claim_are_the_directory_is_one_name(pattern: str, claim: str) -> None:
    with suppress(InvalidInputError):
        name = named(pattern + "${pvc.metadata.name}", **{"pvc/name": claim}).name
        assert "/" not in name and name not in (".", "..") and not name.startswith(".")


def test_without_a_capacity_range_it_is_one_gib() -> None:
    assert params.create_request(request(size=None)).record.size_bytes == GIB


@pytest.mark.parametrize("mode", [m for m in Mode.Mode.values() if 1 <= m <= 5])
def test_every_access_mode_that_needs_no_further_capability_can_be_had(mode: Mode.Mode.ValueType) -> None:
    params.check_capability(capability(mode))


def test_a_class_of_attributes_limits_inodes() -> None:
    asked = request()
    asked.mutable_parameters.update({"inodes": "1000", "storage.kubernetes.io/x": "y"})
    assert params.create_request(asked).record.inodes == 1000


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
        (lambda r: setattr(r.volume_capabilities[0].access_mode, "mode", 99), "access_mode: 99 is not"),
        (lambda r: r.mutable_parameters.update(x="y"), r"mutable_parameters.x: unknown; allowed is inodes"),
        (lambda r: r.mutable_parameters.update(inodes="1"), "not a whole number from 2"),
        (lambda r: r.mutable_parameters.update(inodes="1e3"), "not a whole number"),
        (lambda r: r.mutable_parameters.update(inodes="9" * 19), "not a whole number"),
        (lambda r: r.volume_content_source.SetInParent(), "volume_content_source.type: missing"),
        (lambda r: r.volume_content_source.snapshot.SetInParent(), "volume_content_source.snapshot: its id is missing"),
        (lambda r: source(r, "other/pvc-0"), "on storage other, .* use StorageClass kadalu.external.other"),
        (lambda r: setattr(r, "name", "snapshot.x"), "reserved for snapshots"),
        (lambda r: r.parameters.update(hostz="y"), r"parameters.hostz: unknown"),
        (lambda r: r.parameters.update(storage="A B"), r"^parameters.storage: 'A B' is not a name"),
        (lambda r: r.parameters.update(hosts="-"), r"^parameters.hosts: '-' is neither"),
        (lambda r: r.parameters.update(volume="/"), r"^parameters.volume: '/' is not"),
        (lambda r: r.parameters.update(options="x=y=z"), r"^parameters.options.x: not a glusterfs option"),
        (lambda r: r.parameters.pop("volume"), r"parameters.volume: missing"),
    ],
)
def test_a_request_that_makes_no_sense_is_refused_by_field(spoil: Spoil, says: str) -> None:
    spoiled = request()
    spoil(spoiled)
    with pytest.raises(InvalidInputError, match=says):
        params.create_request(spoiled)
