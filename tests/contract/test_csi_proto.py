"""kadalu_ext/api/csi.proto against the descriptors that the CSI specification publishes as a Go module.

Field by field: number, type, label, oneof, JSON name, the csi_secret mark, and every enum value and method. What ours
has on top of one version because the other needs it is listed here, with the reason.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, timestamp_pb2, wrappers_pb2
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor, FileDescriptor

from kadalu_ext.api import csi_pb2
from tests.testbed import descriptors, suite
from tests.testbed.sandbox import Sandbox

ADDED_IN_1_13 = {
    # volume health: in place of VolumeCondition
    "enum VolumeHealthErrorType", "enum StorageHealthErrorType", "VolumeHealth",
    "ControllerListVolumeHealthRequest", "ControllerListVolumeHealthResponse",
    "ControllerGetVolumeHealthRequest", "ControllerGetVolumeHealthResponse",
    "NodeGetVolumeHealthRequest", "NodeGetVolumeHealthResponse",
    "NodeGetStorageHealthRequest", "NodeGetStorageHealthResponse",
    "Controller/ControllerListVolumeHealth", "Controller/ControllerGetVolumeHealth",
    "Node/NodeGetVolumeHealth", "Node/NodeGetStorageHealth",
    "enum ControllerServiceCapability.RPC.Type.GET_VOLUME_HEALTH",
    "enum ControllerServiceCapability.RPC.Type.LIST_VOLUME_HEALTH",
    "enum NodeServiceCapability.RPC.Type.GET_VOLUME_HEALTH",
    "enum NodeServiceCapability.RPC.Type.GET_STORAGE_HEALTH",
    # snapshots that are not to be had everywhere
    "enum PluginCapability.Service.Type.SNAPSHOT_ACCESSIBILITY_CONSTRAINTS",
    "CreateSnapshotRequest.accessibility_requirements", "Snapshot.accessible_topology",
}  # fmt: skip

REMOVED_IN_1_13 = {
    # kubelet 1.36 is built with CSI 1.9 to 1.12 and reads it; 1.13 reserves the numbers
    "VolumeCondition",
    "ListVolumesResponse.VolumeStatus.volume_condition",
    "ControllerGetVolumeResponse.VolumeStatus.volume_condition",
    "NodeGetVolumeStatsResponse.volume_condition",
    "enum ControllerServiceCapability.RPC.Type.VOLUME_CONDITION",
    "enum NodeServiceCapability.RPC.Type.VOLUME_CONDITION",
}

ONLY_OURS = {"1.12.0": ADDED_IN_1_13, "1.13.0": REMOVED_IN_1_13}

# They mark what the specification may still change, and mean nothing on the wire.
NOT_TAKEN = {f"extension alpha_{kind}" for kind in ("enum", "enum_value", "field", "message", "method", "service")}


@pytest.fixture(scope="module", autouse=True)
def built(sandbox: Sandbox) -> None:
    """What prints the descriptors is built beside the tests."""
    suite.wait_built(sandbox.name, "descriptors")


def published(version: str) -> FileDescriptor:
    """csi.proto as github.com/container-storage-interface/spec `version` has it compiled in."""
    file = descriptor_pb2.FileDescriptorProto.FromString(descriptors.serialized(version))
    pool = descriptor_pool.DescriptorPool()
    for dependency in (descriptor_pb2.DESCRIPTOR, timestamp_pb2.DESCRIPTOR, wrappers_pb2.DESCRIPTOR):
        pool.AddSerializedFile(dependency.serialized_pb)
    pool.AddSerializedFile(file.SerializeToString())
    return pool.FindFileByName(file.name)


def entries(file: FileDescriptor) -> dict[str, tuple[object, ...]]:
    """Everything that the file declares, by a name without its package: what has to be the same."""
    found: dict[str, tuple[object, ...]] = {}
    for message in file.message_types_by_name.values():
        found.update(_message(message))
    for enum in file.enum_types_by_name.values():
        found.update(_enum(enum))
    for service in file.services_by_name.values():
        for method in service.methods:
            types = (method.input_type.full_name, method.output_type.full_name)
            found[f"{service.name}/{method.name}"] = (*types, method.client_streaming, method.server_streaming)
    for name, extension in file.extensions_by_name.items():
        found[f"extension {name}"] = (
            extension.number,
            extension.type,
            getattr(extension.containing_type, "full_name", None),
        )
    return found


def _message(message: Descriptor) -> Iterator[tuple[str, tuple[object, ...]]]:
    name = message.full_name.removeprefix("csi.v1.")
    yield name, ("message", message.GetOptions().map_entry)
    for field in message.fields:
        yield f"{name}.{field.name}", _field(field)
    for enum in message.enum_types:
        yield from _enum(enum)
    for nested in message.nested_types:
        yield from _message(nested)


def _field(field: FieldDescriptor) -> tuple[object, ...]:
    options = descriptor_pb2.FieldOptions.FromString(field.GetOptions().SerializeToString())
    oneof = field.containing_oneof.name if field.containing_oneof else None
    of_type = field.message_type or field.enum_type
    return (
        field.number, field.type, field.is_repeated, field.has_presence, of_type and of_type.full_name, oneof,
        field.json_name, options.Extensions[csi_pb2.csi_secret],
    )  # fmt: skip


def _enum(enum: EnumDescriptor) -> Iterator[tuple[str, tuple[object, ...]]]:
    name = "enum " + enum.full_name.removeprefix("csi.v1.")
    yield name, ("enum",)
    for value in enum.values:
        yield f"{name}.{value.name}", (value.number,)


@pytest.mark.parametrize("version", descriptors.VERSIONS)
def test_every_entry_of_the_published_descriptor_is_ours_and_the_same(version: str) -> None:
    theirs, ours = entries(published(version)), entries(csi_pb2.DESCRIPTOR)
    assert len(theirs) > 500
    for name, entry in theirs.items():
        if name not in NOT_TAKEN:
            assert (name, ours.get(name)) == (name, entry)


@pytest.mark.parametrize("version", descriptors.VERSIONS)
def test_what_is_ours_alone_is_what_the_other_version_has(version: str) -> None:
    listed = ONLY_OURS[version]
    more = entries(csi_pb2.DESCRIPTOR).keys() - entries(published(version)).keys()
    unlisted = {name for name in more if name not in listed and not any(name.startswith(f"{top}.") for top in listed)}
    assert unlisted == set()
    assert listed <= more


def test_1_13_reserves_the_numbers_of_what_it_removed() -> None:
    file = descriptor_pb2.FileDescriptorProto()
    published("1.13.0").CopyToProto(file)
    messages = {message.name: message for message in file.message_type}
    assert [(r.start, r.end) for r in messages["NodeGetVolumeStatsResponse"].reserved_range] == [(2, 3)]
    rpc = messages["NodeServiceCapability"].nested_type[0]
    assert (rpc.name, [(r.start, r.end) for r in rpc.enum_type[0].reserved_range]) == ("RPC", [(4, 4)])
