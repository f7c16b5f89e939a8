"""CSI requests to typed ones, and all that is wrong with a request. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from kadalu_ext.api import csi_pb2
from kadalu_ext.csi import capacity, gids
from kadalu_ext.csi.capacity import DEFAULT_SIZE_BYTES
from kadalu_ext.csi.gids import Gids
from kadalu_ext.csi.naming import SUB_DIR, directory_name
from kadalu_ext.errors import InvalidInputError, NotFoundError
from kadalu_ext.layout import pv_path
from kadalu_ext.record import (
    CANARY,
    MAX_SIZE_BYTES,
    SNAPSHOT_PREFIX,
    PvName,
    QuotaRecord,
    check_pv_name,
    is_snapshot,
)
from kadalu_ext.storage import (
    PROVISIONER,
    Storage,
    StorageName,
    from_parameters,
    parse_snapshot_id,
    parse_volume_id,
    storage_class_name,
)

_Mode = csi_pb2.VolumeCapability.AccessMode

_MODES: Final = frozenset({
    _Mode.SINGLE_NODE_WRITER, _Mode.SINGLE_NODE_READER_ONLY, _Mode.MULTI_NODE_READER_ONLY,
    _Mode.MULTI_NODE_SINGLE_WRITER, _Mode.MULTI_NODE_MULTI_WRITER,
    _Mode.SINGLE_NODE_SINGLE_WRITER, _Mode.SINGLE_NODE_MULTI_WRITER,
})  # fmt: skip
"""Whoever mounts a gluster volume may read and write it, so every mode can be had. On how many nodes a volume is, the
scheduler sees to; to how many pods of a node it goes with SINGLE_NODE_SINGLE_WRITER, the node plugin."""

LEAST_INODES: Final = 2
"""With one there is the PV's own directory, and no room for a file."""

_BESIDES: Final = (SUB_DIR, *gids.PARAMETERS)
"""Parameters of a StorageClass that say nothing of its storage."""

_FS_TYPES: Final = frozenset({"", "glusterfs", "fuse.glusterfs"})


@dataclass(frozen=True, kw_only=True)
class CreateRequest:
    """A CreateVolume request that makes sense. `storage` is as the StorageClass's parameters tell.

    gids: of which the PV gets a group of its own; None for none.
    """

    record: QuotaRecord
    storage: Storage
    limit_bytes: int = 0
    gids: Gids | None = None


def create_request(request: csi_pb2.CreateVolumeRequest) -> CreateRequest:
    """Raises: InvalidInputError naming the field; CapacityError if no size lies in the capacity_range."""
    if not request.name:
        raise InvalidInputError("name: missing")
    name = check_pv_name(request.name)
    if name == CANARY:
        raise InvalidInputError(f"name: {CANARY} is reserved; choose another")
    check_capabilities(request.volume_capabilities)
    directory = directory_name(name, request.parameters)
    if is_snapshot(directory):
        raise InvalidInputError(f"name: {SNAPSHOT_PREFIX}… is reserved for snapshots; choose another")
    storage = storage_of(request.parameters)
    source = _source(request, storage) if request.HasField("volume_content_source") else None
    record = QuotaRecord(
        path=pv_path(directory),
        size_bytes=_size_bytes(request.capacity_range) if request.HasField("capacity_range") else DEFAULT_SIZE_BYTES,
        inodes=inodes(request.mutable_parameters),
        made_for=name if name != directory else None,
        source=source,
        filling=source is not None,
    )
    if storage.whole is not None:
        raise InvalidInputError(
            "parameters.pv: is of a PV's volume_context; the operator makes no StorageClass with it"
        )
    if storage.pool and SUB_DIR in request.parameters:
        raise InvalidInputError(f"parameters.{SUB_DIR}: says nothing of PVs that are whole volumes; leave it out")
    if storage.pool and record.inodes is not None:
        raise whole_has_no_inodes()
    if storage.pool and source is not None:
        raise InvalidInputError(
            "volume_content_source: a PV that is a whole volume is never a copy; create an empty one, and copy into it"
        )
    return CreateRequest(
        record=record,
        storage=storage,
        limit_bytes=request.capacity_range.limit_bytes,
        gids=gids.parse(request.parameters),
    )


def _source(request: csi_pb2.CreateVolumeRequest, storage: Storage) -> PvName:
    content = request.volume_content_source
    kind = content.WhichOneof("type")
    if kind is None:
        raise InvalidInputError("volume_content_source.type: missing; a volume or a snapshot can be copied")
    field = f"volume_content_source.{kind}"
    text = content.snapshot.snapshot_id if kind == "snapshot" else content.volume.volume_id
    if not text:
        raise InvalidInputError(f"{field}: its id is missing")
    try:
        of, name = parse_snapshot_id(text) if kind == "snapshot" else parse_volume_id(text)
    except InvalidInputError as error:
        raise NotFoundError(f"{field}: there is no {text[:80]!r}: {error}") from error
    if of != storage.name:
        raise InvalidInputError(
            f"{field}: {text} is on storage {of}, and storage {storage.name} was asked for; a copy is made within a "
            f"storage, so use StorageClass {storage_class_name(of)}"
        )
    return name


def whole_has_no_inodes() -> InvalidInputError:
    """Of a PV that is a whole volume, whose inodes somebody wants to limit."""
    return InvalidInputError(
        "mutable_parameters.inodes: a PV that is a whole gluster volume has all of its inodes; leave the class out"
    )


def storage_of(parameters: Mapping[str, str]) -> Storage:
    """The storage of a StorageClass's parameters, which may say how directories are called and what groups, besides.

    Raises: InvalidInputError naming the parameter.
    """
    try:
        return from_parameters({key: value for key, value in parameters.items() if key not in _BESIDES})
    except InvalidInputError as error:
        text = str(error)
        raise InvalidInputError(text if text.startswith("parameters.") else f"parameters.{text}") from error


def expand_size_bytes(request: csi_pb2.ControllerExpandVolumeRequest) -> int:
    """The size that a ControllerExpandVolume request asks for.

    Raises: InvalidInputError naming the field; CapacityError if no size lies in the capacity_range.
    """
    if not request.HasField("capacity_range"):
        raise InvalidInputError("capacity_range: missing")
    if request.HasField("volume_capability"):
        check_capability(request.volume_capability)
    return _size_bytes(request.capacity_range)


def _size_bytes(asked: csi_pb2.CapacityRange) -> int:
    return capacity.size_bytes(required_bytes=asked.required_bytes, limit_bytes=asked.limit_bytes)


def inodes(mutable_parameters: Mapping[str, str]) -> int | None:
    """The limit that a VolumeAttributesClass asks for; None if it asks for none.

    Keys with a `/` belong to Kubernetes and are passed over. Raises: InvalidInputError naming the parameter.
    """
    own = {key: value for key, value in mutable_parameters.items() if "/" not in key}
    for key in own.keys() - {"inodes"}:
        raise InvalidInputError(f"mutable_parameters.{key[:64]}: unknown; allowed is inodes")
    if "inodes" not in own:
        return None
    text = own["inodes"]
    if re.fullmatch(r"[0-9]{1,19}", text) is None or not LEAST_INODES <= int(text) <= MAX_SIZE_BYTES:
        raise InvalidInputError(
            f"mutable_parameters.inodes: {text[:32]!r} is not a whole number from {LEAST_INODES}; each file and "
            "directory takes one, the PV's own as well"
        )
    return int(text)


def check_belongs(parameters: Mapping[str, str], storage: StorageName, *, field: str) -> None:
    """Raises: InvalidInputError beginning with `field`, if they are not of that storage; there may be none."""
    if any("/" not in key for key in parameters) and storage_of(parameters).name != storage:
        raise InvalidInputError(f"{field}.storage: {parameters['storage'][:64]!r} is not the volume's, {storage}")


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
