"""What kubelet may ask of the node service, and what it is told when it asks for something else."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from kadalu_ext.api import csi_pb2
from kadalu_ext.csi.mounterclient import StorageState
from kadalu_ext.csi.mounts import Mounts
from kadalu_ext.csi.node import Node
from kadalu_ext.csi.nodehealth import NodeHealth
from kadalu_ext.csi.nodevolumes import NodeVolumes
from kadalu_ext.errors import InvalidInputError, NotFoundError, PreconditionError
from kadalu_ext.layout import pv_path
from kadalu_ext.record import PvName
from kadalu_ext.storage import Storage, StorageName, to_json
from kadalu_ext.storages import Storages

from .fakes import FakeMounter, FakeMounts

CONTEXT = {"storage": "ext", "hosts": "h1,h2", "volume": "vol", "csi.storage.k8s.io/pv/name": "pv-1"}
MODE = csi_pb2.VolumeCapability.AccessMode


class Context:
    """Of a call with two minutes left."""

    def time_remaining(self) -> float:
        return 120.0


CALL: Any = Context()


def capability(mode: int = MODE.MULTI_NODE_MULTI_WRITER, *flags: str, block: bool = False) -> csi_pb2.VolumeCapability:
    access_mode = MODE(mode=mode)  # type: ignore[arg-type]
    if block:
        return csi_pb2.VolumeCapability(block=csi_pb2.VolumeCapability.BlockVolume(), access_mode=access_mode)
    mount = csi_pb2.VolumeCapability.MountVolume(mount_flags=flags)
    return csi_pb2.VolumeCapability(mount=mount, access_mode=access_mode)


class Bed:
    """A node with a fake mounter and fake mounts; paths are checked by the real thing."""

    def __init__(self, tmp_path: Path) -> None:
        self.storages = tmp_path / "storages"
        self.storages.mkdir()
        self.mounts = FakeMounts(directories={"/" + pv_path(PvName("pv-1"))})
        self.mounter = FakeMounter(self.mounts)
        self.node = Node(  # type: ignore[abstract]
            node_id="n1",
            mounts=Mounts(str(tmp_path)),
            volumes=NodeVolumes(self.mounts, self.mounter),
            health=NodeHealth(self.mounts, self.mounter, lambda path: path in self.replaced),
            storages=Storages(str(self.storages)),
        )
        self.kubelet = str(tmp_path)
        self.replaced: set[str] = set()
        self.staging = str(tmp_path / "staging")
        self.target = str(tmp_path / "target")

    def stage(self, context: Mapping[str, str] = CONTEXT, **fields: Any) -> None:
        request = {"volume_id": "ext/pv-1", "staging_target_path": self.staging, "volume_capability": capability()}
        self.node.NodeStageVolume(
            csi_pb2.NodeStageVolumeRequest(**{**request, "volume_context": context, **fields}), CALL
        )

    def publish(self, **fields: Any) -> None:
        request = {
            "volume_id": "ext/pv-1",
            "staging_target_path": self.staging,
            "target_path": self.target,
            "volume_capability": capability(),
            "volume_context": CONTEXT,
        }
        self.node.NodePublishVolume(csi_pb2.NodePublishVolumeRequest(**{**request, **fields}), CALL)


@pytest.fixture
def bed(tmp_path: Path) -> Bed:
    return Bed(tmp_path)


def test_the_configmaps_hosts_are_fresher_than_the_storageclasss(bed: Bed) -> None:
    bed.stage()
    (bed.storages / "ext.json").write_text(to_json(Storage(name=StorageName("ext"), hosts=("h9",), volume="vol")))
    bed.stage()
    assert [storage.hosts for storage in bed.mounter.asked] == [("h1", "h2"), ("h9",)]


def test_a_volume_without_context_is_found_by_its_storages_name(bed: Bed) -> None:
    with pytest.raises(NotFoundError, match="storage ext: unknown here"):
        bed.stage(context={})
    (bed.storages / "ext.json").write_text(to_json(Storage(name=StorageName("ext"), hosts=("h9",), volume="vol")))
    bed.stage(context={"csi.storage.k8s.io/ephemeral": "false"})
    assert bed.mounter.asked[0].hosts == ("h9",)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"volume_id": ""}, "volume_id: missing"),
        ({"volume_id": "other/pv-1"}, "volume_context.storage: ext is not the storage of other/pv-1"),
        ({"staging_target_path": "/etc"}, "staging_target_path: "),
        ({"volume_capability": None}, "volume_capability"),
        ({"volume_capability": capability(block=True)}, "block device"),
        ({"volume_capability": capability(MODE.MULTI_NODE_MULTI_WRITER, "suid")}, "mount_flags: suid: not an option"),
    ],
)
def test_a_stage_request_that_makes_no_sense_is_refused(bed: Bed, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        bed.stage(**fields)
    assert bed.mounter.asked == []


@pytest.mark.parametrize("volume_id", ["pv-1", "ext/", "/pv-1", "ext/../pv", "ext/a/b", "../ext/pv"])
def test_an_id_that_no_volume_can_have_is_not_found(bed: Bed, volume_id: str) -> None:
    with pytest.raises(NotFoundError, match="volume_id: there is no such volume"):
        bed.stage(volume_id=volume_id)


def test_what_lacks_a_field_is_refused_before_its_volume_is_looked_for(bed: Bed) -> None:
    unknown: dict[str, Any] = {"volume_id": "made-up"}
    for fields in ({"staging_target_path": ""}, {"volume_capability": None}):
        with pytest.raises(InvalidInputError):
            bed.stage(**unknown, **fields)
    for fields in ({"target_path": ""}, {"volume_capability": None}):
        with pytest.raises(InvalidInputError):
            bed.publish(**unknown, **fields)
    with pytest.raises(InvalidInputError, match="target_path: missing"):
        bed.node.NodeUnpublishVolume(csi_pb2.NodeUnpublishVolumeRequest(**unknown), CALL)
    with pytest.raises(InvalidInputError, match="staging_target_path: missing"):
        bed.node.NodeUnstageVolume(csi_pb2.NodeUnstageVolumeRequest(**unknown), CALL)
    with pytest.raises(InvalidInputError, match="volume_path: missing"):
        bed.node.NodeGetVolumeStats(csi_pb2.NodeGetVolumeStatsRequest(**unknown), CALL)


@pytest.mark.parametrize("path", ["some/path", "/etc", "{kubelet}/nowhere"])
def test_stats_of_a_path_where_the_volume_is_not_are_not_found(bed: Bed, path: str, tmp_path: Path) -> None:
    request = csi_pb2.NodeGetVolumeStatsRequest(volume_id="ext/pv-1", volume_path=path.format(kubelet=tmp_path))
    with pytest.raises(NotFoundError, match="volume_path: ext/pv-1 is not"):
        bed.node.NodeGetVolumeStats(request, CALL)


@pytest.mark.parametrize(
    ("fields", "read_only"),
    [
        ({}, False),
        ({"readonly": True}, True),
        ({"volume_capability": capability(MODE.MULTI_NODE_READER_ONLY)}, True),
        ({"volume_capability": capability(MODE.SINGLE_NODE_WRITER, "ro", "noexec")}, True),
        ({"volume_capability": capability(MODE.SINGLE_NODE_WRITER, "rw")}, False),
    ],
)
def test_read_only_is_asked_for_in_three_ways(bed: Bed, fields: dict[str, Any], read_only: bool) -> None:
    bed.stage()
    bed.publish(**fields)
    assert ("ro" in bed.mounts.mounted[bed.target].options) is read_only


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"staging_target_path": ""}, PreconditionError, "staging_target_path: missing; NodeStageVolume comes before"),
        ({"target_path": ""}, InvalidInputError, "target_path: missing"),
        ({"target_path": "{staging}"}, InvalidInputError, "target_path: .* lie within each other"),
        ({"target_path": "{staging}/x"}, InvalidInputError, "target_path: .* lie within each other"),
        ({"target_path": "{kubelet}/plugins/kadalu.external/mounts/ext"}, InvalidInputError, "this driver's own"),
        ({"target_path": "{kubelet}/" + "x" * 256}, InvalidInputError, "target_path: longer than a path may be"),
        ({"volume_context": {"hosts": "h1"}}, InvalidInputError, "volume_context: parameters.storage: missing"),
    ],
)
def test_a_publish_request_that_makes_no_sense_is_refused(
    bed: Bed, fields: dict[str, Any], error: type[Exception], message: str
) -> None:
    bed.stage()
    if path := fields.get("target_path"):
        fields = {"target_path": path.format(staging=bed.staging, kubelet=bed.kubelet)}
    with pytest.raises(error, match=message):
        bed.publish(**fields)


@pytest.mark.parametrize("mode", set(MODE.Mode.values()) - {MODE.UNKNOWN})
def test_every_access_mode_of_the_specification_can_be_had(bed: Bed, mode: int) -> None:
    bed.stage(volume_capability=capability(mode))
    bed.publish(volume_capability=capability(mode))
    assert ("ro" in bed.mounts.mounted[bed.target].options) is ("READER" in MODE.Mode.Name(mode))  # type: ignore[arg-type]


def test_a_single_writer_is_alone_on_its_node_and_the_other_modes_are_not(bed: Bed) -> None:
    bed.stage()
    bed.publish()
    bed.publish(target_path=bed.target + "2", volume_capability=capability(MODE.SINGLE_NODE_MULTI_WRITER))
    with pytest.raises(PreconditionError, match="allows one pod on a node"):
        bed.publish(target_path=bed.target + "3", volume_capability=capability(MODE.SINGLE_NODE_SINGLE_WRITER))


@pytest.mark.parametrize("path", ["some/path", "/etc", "/"])
def test_stats_of_a_path_where_the_pv_is_not_are_not_found_whatever_the_path(bed: Bed, path: str) -> None:
    request = csi_pb2.NodeGetVolumeStatsRequest(volume_id="ext/pv-1", volume_path=path)
    with pytest.raises(NotFoundError, match="volume_path: ext/pv-1 is not mounted"):
        bed.node.NodeGetVolumeStats(request, CALL)


def test_stats_are_bytes_and_inodes(bed: Bed) -> None:
    bed.stage()
    bed.publish()
    request = csi_pb2.NodeGetVolumeStatsRequest(volume_id="ext/pv-1", volume_path=bed.target)
    in_bytes, inodes = bed.node.NodeGetVolumeStats(request, CALL).usage
    assert (in_bytes.total, in_bytes.available, in_bytes.used) == (64 << 20, 32 << 20, 32 << 20)
    assert (inodes.total, inodes.available, inodes.used) == (100, 60, 40)


def test_only_what_works_is_announced(bed: Bed) -> None:
    reply = bed.node.NodeGetCapabilities(csi_pb2.NodeGetCapabilitiesRequest(), CALL)
    kinds = csi_pb2.NodeServiceCapability.RPC
    assert [each.rpc.type for each in reply.capabilities] == [
        kinds.STAGE_UNSTAGE_VOLUME, kinds.GET_VOLUME_STATS, kinds.SINGLE_NODE_MULTI_WRITER, kinds.VOLUME_CONDITION,
        kinds.GET_VOLUME_HEALTH, kinds.GET_STORAGE_HEALTH,
    ]  # fmt: skip


def condition(bed: Bed) -> csi_pb2.NodeGetVolumeStatsResponse:
    request = csi_pb2.NodeGetVolumeStatsRequest(volume_id="ext/pv-1", volume_path=bed.target)
    return bed.node.NodeGetVolumeStats(request, CALL)


def health(bed: Bed, **fields: str) -> list[str]:
    request = csi_pb2.NodeGetVolumeHealthRequest(volume_id="ext/pv-1", **fields)
    reply = bed.node.NodeGetVolumeHealth(request, CALL).volume_health
    assert reply.volume_id == "ext/pv-1"
    kinds = csi_pb2.VolumeHealthErrorType
    return [f"{kinds.Name(each.status)} {each.reason}" for each in reply.health_statuses]


def test_a_pv_that_is_well_is_said_to_be(bed: Bed) -> None:
    bed.stage()
    bed.publish()
    assert not condition(bed).volume_condition.abnormal and condition(bed).volume_condition.message
    assert health(bed) == health(bed, volume_publish_path=bed.target) == health(bed, staging_target_path=bed.staging)
    assert health(bed) == []


def test_a_pv_whose_client_died_is_said_to_be_out_of_reach_both_ways(bed: Bed) -> None:
    bed.stage()
    bed.publish()
    bed.mounts.dead.add(bed.mounts.mounted[bed.target].device)
    bed.mounter.known[StorageName("ext")] = StorageState(name=StorageName("ext"), mounted=False, reason="killed")
    told = condition(bed)
    assert not told.usage and told.volume_condition.abnormal
    assert told.volume_condition.message.startswith("ClientDied: ") and "killed" in told.volume_condition.message
    assert health(bed) == ["INACCESSIBLE ClientDied"]


def test_a_directory_that_is_gone_is_data_loss(bed: Bed) -> None:
    bed.stage()
    bed.publish()
    bed.mounts.statvfs_error = errno.ESTALE
    assert health(bed, volume_publish_path=bed.target) == ["DATA_LOSS DirectoryGone"]


def test_health_of_a_volume_that_could_not_be_staged_is_its_storages(bed: Bed) -> None:
    with pytest.raises(NotFoundError, match="volume_id: ext/pv-1 is not mounted on this node"):
        health(bed)
    bed.mounter.known[StorageName("ext")] = StorageState(name=StorageName("ext"), mounted=False, reason="no host")
    assert health(bed, volume_publish_path=bed.target) == ["INACCESSIBLE StorageNotMounted"]


def test_storages_with_the_same_trouble_share_an_entry(bed: Bed) -> None:
    for name in ("ext", "ext-1"):
        state = StorageState(name=StorageName(name), mounted=False, reason=f"{name} is dead")
        bed.mounter.known[state.name] = state
    bed.mounter.known[StorageName("b")] = StorageState(name=StorageName("b"), mounted=True, down_bricks=("h:/b",))
    reply = bed.node.NodeGetStorageHealth(csi_pb2.NodeGetStorageHealthRequest(), CALL).backend_health
    kinds = csi_pb2.StorageHealthErrorType
    assert [(kinds.Name(each.status), each.reason) for each in reply] == [
        ("STORAGE_UNREACHABLE", "StorageNotMounted"), ("STORAGE_DEGRADED", "BrickDown")
    ]  # fmt: skip
    assert "ext is dead" in reply[0].message and "ext-1 is dead" in reply[0].message


def test_without_the_mounter_that_is_what_is_told(bed: Bed) -> None:
    bed.stage()
    bed.publish()
    bed.mounter.broken = "the mounter of this node does not listen"
    assert health(bed) == ["DEGRADED MounterNotThere"]
    reply = bed.node.NodeGetStorageHealth(csi_pb2.NodeGetStorageHealthRequest(), CALL).backend_health
    assert [each.reason for each in reply] == ["MounterNotThere"]
