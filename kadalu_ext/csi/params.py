"""CSI requests to typed ones, and all that is wrong with a request. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from kadalu_ext.api import csi_pb2
from kadalu_ext.csi import capacity
from kadalu_ext.csi.naming import SUB_DIR, directory_name
from kadalu_ext.errors import InvalidInputError
from kadalu_ext.layout import pv_path
from kadalu_ext.record import CANARY, QuotaRecord, check_pv_name
from kadalu_ext.storage import PROVISIONER, Storage, from_parameters

_Mode = csi_pb2.VolumeCapability.AccessMode

_MODES: Final = frozenset({
    _Mode.SINGLE_NODE_WRITER, _Mode.SINGLE_NODE_READER_ONLY, _Mode.MULTI_NODE_READER_ONLY,
    _Mode.MULTI_NODE_SINGLE_WRITER, _Mode.MULTI_NODE_MULTI_WRITER,
    _Mode.SINGLE_NODE_SINGLE_WRITER, _Mode.SINGLE_NODE_MULTI_WRITER,
})  # fmt: skip
"""Whoever mounts a gluster volume may read and write it, so every mode can be had. On how many nodes a volume is, the
scheduler sees to; to how many pods of a node it goes with SINGLE_NODE_SINGLE_WRITER, the node plugin."""

_FS_TYPES: Final = frozenset({"", "glusterfs", "fuse.glusterfs"})


@dataclass(frozen=True, kw_only=True)
class CreateRequest:
    """A CreateVolume request that makes sense. `storage` is as the StorageClass's parameters tell."""

    record: QuotaRecord
    storage: Storage
    limit_bytes: int = 0


def create_request(request: csi_pb2.CreateVolumeRequest) -> CreateRequest:
    """Raises: InvalidInputError naming the field; CapacityError if no size lies in the capacity_range."""
    if not request.name:
        raise InvalidInputError("name: missing")
    name = check_pv_name(request.name)
    if name == CANARY:
        raise InvalidInputError(f"name: {CANARY} is reserved; choose another")
    check_capabilities(request.volume_capabilities)
    if request.HasField("volume_content_source"):
        raise InvalidInputError("volume_content_source: clones and snapshots are not supported; create an empty volume")
    if request.mutable_parameters:
        raise InvalidInputError("mutable_parameters: VolumeAttributesClasses are not supported; leave the class out")
    directory = directory_name(name, request.parameters)
    record = QuotaRecord(
        path=pv_path(directory),
        size_bytes=_size_bytes(request),
        made_for=name if name != directory else None,
    )
    parameters = {key: value for key, value in request.parameters.items() if key != SUB_DIR}
    storage = from_parameters(parameters)
    if storage.whole is not None:
        raise InvalidInputError(
            "parameters.pv: is of a PV's volume_context; the operator makes no StorageClass with it"
        )
    if storage.pool and SUB_DIR in request.parameters:
        raise InvalidInputError(f"parameters.{SUB_DIR}: says nothing of PVs that are whole volumes; leave it out")
    return CreateRequest(record=record, storage=storage, limit_bytes=request.capacity_range.limit_bytes)


def _size_bytes(request: csi_pb2.CreateVolumeRequest) -> int:
    if not request.HasField("capacity_range"):
        return capacity.DEFAULT_SIZE_BYTES
    asked = request.capacity_range
    return capacity.size_bytes(required_bytes=asked.required_bytes, limit_bytes=asked.limit_bytes)


def check_capabilities(capabilities: Iterable[csi_pb2.VolumeCapability]) -> None:
    """Raises: InvalidInputError saying which capability cannot be had, and what can be had instead."""
    empty = True
    for at, capability in enumerate(capabilities):
        empty = False
        check_capability(capability, field=f"volume_capabilities[{at}]")
    if empty:
        raise InvalidInputError("volume_capabilities: missing")


def check_capability(capability: csi_pb2.VolumeCapability, *, field: str = "volume_capability") -> None:
    """Raises: InvalidInputError beginning with `field`."""
    kind = capability.WhichOneof("access_type")
    if kind is None:
        raise InvalidInputError(f"{field}.access_type: missing")
    if kind == "block":
        raise InvalidInputError(
            f"{field}: a gluster PV is a directory and cannot be had as a block device; use volumeMode Filesystem"
        )
    if capability.mount.fs_type not in _FS_TYPES:
        raise InvalidInputError(
            f"{field}.mount.fs_type: {capability.mount.fs_type[:32]!r}: a PV of {PROVISIONER} is a directory of a "
            "gluster volume and has no file system of its own; leave csi.storage.k8s.io/fstype out"
        )
    mode = capability.access_mode.mode
    if mode == _Mode.UNKNOWN:
        raise InvalidInputError(f"{field}.access_mode: missing")
    if mode not in _MODES:
        shown = _Mode.Mode.Name(mode) if mode in _Mode.Mode.values() else str(mode)
        allowed = ", ".join(sorted(map(_Mode.Mode.Name, _MODES)))
        raise InvalidInputError(f"{field}.access_mode: {shown} is not supported; supported are {allowed}")
