"""CSI's Controller service: requests in, calls on a storage's client, replies out."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

import grpc
from google.protobuf.wrappers_pb2 import Int64Value

from kadalu_ext.api import csi_pb2, csi_pb2_grpc
from kadalu_ext.csi import capacity, params, pvhealth, replies
from kadalu_ext.csi.capacity import Available
from kadalu_ext.csi.clients import Clients, StorageClient
from kadalu_ext.csi.condition import Condition
from kadalu_ext.csi.listing import Listing
from kadalu_ext.csi.pools import PoolClient, Pools
from kadalu_ext.csi.snapshots import Snapshots
from kadalu_ext.csi.volumes import Volumes
from kadalu_ext.csi.wholevolumes import Wanted
from kadalu_ext.errors import (
    BricksDownError,
    CapacityError,
    DeadlineError,
    InvalidInputError,
    KadaluExtError,
    NotFoundError,
    UnavailableError,
    VolumeStoppedError,
)
from kadalu_ext.record import PV_KIND, PvName, QuotaRecord
from kadalu_ext.storage import Storage, StorageName, parse_volume_id, volume_id
from kadalu_ext.storages import Storages

LONGEST_S: Final = 30.0
"""No caller waits longer for an answer, whatever its deadline: what the answer is will not change soon."""

_MARGIN_S: Final = 0.5
"""What is kept of a caller's time for the answer's way: a reason that arrives too late tells nobody anything."""


_Rpc = csi_pb2.ControllerServiceCapability.RPC

_CAPABILITIES: Final = (
    _Rpc.CREATE_DELETE_VOLUME, _Rpc.EXPAND_VOLUME, _Rpc.MODIFY_VOLUME, _Rpc.LIST_VOLUMES, _Rpc.GET_VOLUME,
    _Rpc.GET_CAPACITY, _Rpc.VOLUME_CONDITION, _Rpc.GET_VOLUME_HEALTH, _Rpc.LIST_VOLUME_HEALTH,
    _Rpc.SINGLE_NODE_MULTI_WRITER, _Rpc.CLONE_VOLUME, _Rpc.CREATE_DELETE_SNAPSHOT, _Rpc.LIST_SNAPSHOTS,
    _Rpc.GET_SNAPSHOT,
)  # fmt: skip


class Controller(csi_pb2_grpc.ControllerServicer):
    """Announced is what works."""

    def __init__(self, *, storages: Storages, clients: Clients, pools: Pools) -> None:
        self._storages = storages
        self._clients = clients
        self._pools = pools
        self._listing = Listing(storages=storages, clients=clients, pools=pools)
        self._snapshots = Snapshots(storages=storages, clients=clients, client=self._client)

    def ControllerGetCapabilities(
        self, request: csi_pb2.ControllerGetCapabilitiesRequest, context: grpc.ServicerContext
    ) -> csi_pb2.ControllerGetCapabilitiesResponse:
        return csi_pb2.ControllerGetCapabilitiesResponse(
            capabilities=[csi_pb2.ControllerServiceCapability(rpc=_Rpc(type=kind)) for kind in _CAPABILITIES]
        )

    def CreateVolume(
        self, request: csi_pb2.CreateVolumeRequest, context: grpc.ServicerContext
    ) -> csi_pb2.CreateVolumeResponse:
        wanted = params.create_request(request)
        storage = self._storages.fresher(wanted.storage)
        if storage.pool:
            return self._create_whole(storage, wanted, _timeout_s(context))
        client, record = self._clients.of(storage), wanted.record
        if (source := record.source) is not None and not request.HasField("capacity_range"):
            found = client.ask(lambda volumes: volumes.record(source))(_timeout_s(context))
            record = record if found is None else replace(record, size_bytes=found.size_bytes)
        made = client.create(record, gids=wanted.gids, timeout_s=_timeout_s(context))
        return csi_pb2.CreateVolumeResponse(volume=replies.volume(storage, made))

    def _create_whole(
        self, storage: Storage, wanted: params.CreateRequest, timeout_s: float
    ) -> csi_pb2.CreateVolumeResponse:
        record = wanted.record
        name = record.made_for or record.name
        asked = Wanted(name=name, required_bytes=record.size_bytes, limit_bytes=wanted.limit_bytes, gids=wanted.gids)
        return csi_pb2.CreateVolumeResponse(
            volume=replies.volume(*self._pools.of(storage).create(asked, timeout_s=timeout_s))
        )

    def DeleteVolume(
        self, request: csi_pb2.DeleteVolumeRequest, context: grpc.ServicerContext
    ) -> csi_pb2.DeleteVolumeResponse:
        if not request.volume_id:
            raise InvalidInputError("volume_id: missing")
        try:
            storage, name = parse_volume_id(request.volume_id)
        except InvalidInputError:
            return csi_pb2.DeleteVolumeResponse()  # no volume of ours was ever called so: there is nothing to delete
        if (pool := self._pool(storage)) is not None:
            pool.delete(name, timeout_s=_timeout_s(context))
            return csi_pb2.DeleteVolumeResponse()
        try:
            client = self._client(storage)
        except NotFoundError as error:
            # Its data may well exist: to call it deleted would leave it on the bricks for ever.
            raise UnavailableError(
                f"{request.volume_id} cannot be deleted: {error} Create the KadaluStorage {storage} again, and the "
                "deletion goes on by itself; if its gluster volume is gone for good, delete the PersistentVolume object"
            ) from error
        client.delete(name, timeout_s=_timeout_s(context))
        return csi_pb2.DeleteVolumeResponse()

    def ValidateVolumeCapabilities(
        self, request: csi_pb2.ValidateVolumeCapabilitiesRequest, context: grpc.ServicerContext
    ) -> csi_pb2.ValidateVolumeCapabilitiesResponse:
        if not request.volume_id:
            raise InvalidInputError("volume_id: missing")
        if not request.volume_capabilities:
            raise InvalidInputError("volume_capabilities: missing")
        storage, name = _ours(request.volume_id)
        if not self._exists(storage, name, _timeout_s(context)):
            raise replies.unknown(request.volume_id)
        reply = csi_pb2.ValidateVolumeCapabilitiesResponse()
        try:
            params.check_capabilities(request.volume_capabilities)
            params.check_belongs(request.volume_context, storage, field="volume_context")
            params.check_belongs(request.parameters, storage, field="parameters")
            params.inodes(request.mutable_parameters)
        except InvalidInputError as error:
            reply.message = str(error)
        else:
            reply.confirmed.volume_context.update(request.volume_context)
            reply.confirmed.volume_capabilities.extend(request.volume_capabilities)
            reply.confirmed.parameters.update(request.parameters)
            reply.confirmed.mutable_parameters.update(request.mutable_parameters)
        return reply

    def _exists(self, storage: StorageName, name: PvName, timeout_s: float) -> bool:
        if (pool := self._pool(storage)) is not None:
            return pool.exists(name, timeout_s=timeout_s)
        return self._client(storage).record(name, timeout_s=timeout_s) is not None

    def _pool(self, name: StorageName) -> PoolClient | None:
        """The client of a storage of whole volumes; None if it is not known for one."""
        try:
            storage = self._storages.find(name)
        except NotFoundError:
            return self._pools.known(name)
        return self._pools.of(storage) if storage.pool else None

    def ControllerExpandVolume(
        self, request: csi_pb2.ControllerExpandVolumeRequest, context: grpc.ServicerContext
    ) -> csi_pb2.ControllerExpandVolumeResponse:
        if not request.volume_id:
            raise InvalidInputError("volume_id: missing")
        wanted = params.expand_size_bytes(request)
        storage, name = _ours(request.volume_id)
        if (pool := self._pool(storage)) is not None:
            size = self._whole(pool, request.volume_id, name, _timeout_s(context))[1].size_bytes
            if size < wanted:
                raise CapacityError(
                    f"capacity_range: {request.volume_id} is a whole gluster volume of {size} bytes, and grows with "
                    "that: gluster volume add-brick"
                )
        else:
            size = self._client(storage).grow(name, wanted, timeout_s=_timeout_s(context))
        if 0 < request.capacity_range.limit_bytes < size:
            raise CapacityError(
                f"capacity_range: {request.volume_id} has {size} bytes, more than limit_bytes "
                f"{request.capacity_range.limit_bytes}, and no volume shrinks; raise the limit"
            )
        return csi_pb2.ControllerExpandVolumeResponse(capacity_bytes=size, node_expansion_required=False)

    def ControllerModifyVolume(
        self, request: csi_pb2.ControllerModifyVolumeRequest, context: grpc.ServicerContext
    ) -> csi_pb2.ControllerModifyVolumeResponse:
        if not request.volume_id:
            raise InvalidInputError("volume_id: missing")
        inodes = params.inodes(request.mutable_parameters)
        storage, name = _ours(request.volume_id)
        if inodes is None:
            if not self._exists(storage, name, _timeout_s(context)):
                raise replies.unknown(request.volume_id)
        elif self._pool(storage) is not None:
            raise params.whole_has_no_inodes()
        else:
            self._client(storage).limit_inodes(name, inodes, timeout_s=_timeout_s(context))
        return csi_pb2.ControllerModifyVolumeResponse()

    def ControllerGetVolume(
        self, request: csi_pb2.ControllerGetVolumeRequest, context: grpc.ServicerContext
    ) -> csi_pb2.ControllerGetVolumeResponse:
        storage, record, wrong = self._look(request.volume_id, _timeout_s(context))
        status = csi_pb2.ControllerGetVolumeResponse.VolumeStatus(volume_condition=replies.condition(wrong))
        return csi_pb2.ControllerGetVolumeResponse(volume=replies.volume(storage, record), status=status)

    def ControllerGetVolumeHealth(
        self, request: csi_pb2.ControllerGetVolumeHealthRequest, context: grpc.ServicerContext
    ) -> csi_pb2.ControllerGetVolumeHealthResponse:
        try:
            _, _, wrong = self._look(request.volume_id, _timeout_s(context))
        except (BricksDownError, DeadlineError, VolumeStoppedError) as error:
            wrong = [pvhealth.unusable(error)]
        return csi_pb2.ControllerGetVolumeHealthResponse(volume_health=replies.health(request.volume_id, wrong))

    def ListVolumes(
        self, request: csi_pb2.ListVolumesRequest, context: grpc.ServicerContext
    ) -> csi_pb2.ListVolumesResponse:
        page = self._listing.page(
            max_entries=request.max_entries, token=request.starting_token, timeout_s=_timeout_s(context)
        )
        entries = [
            csi_pb2.ListVolumesResponse.Entry(
                volume=replies.volume(each.storage, each.record),
                status=csi_pb2.ListVolumesResponse.VolumeStatus(volume_condition=replies.condition(each.conditions)),
            )
            for each in page.entries
        ]
        return csi_pb2.ListVolumesResponse(entries=entries, next_token=page.next_token)

    def ControllerListVolumeHealth(
        self, request: csi_pb2.ControllerListVolumeHealthRequest, context: grpc.ServicerContext
    ) -> csi_pb2.ControllerListVolumeHealthResponse:
        page = self._listing.page(
            max_entries=request.max_entries, token=request.starting_token, timeout_s=_timeout_s(context)
        )
        entries = [
            replies.health(volume_id(each.storage.name, each.record.name), each.conditions)
            for each in page.entries
            if each.conditions
        ]
        return csi_pb2.ControllerListVolumeHealthResponse(entries=entries, next_token=page.next_token)

    def GetCapacity(
        self, request: csi_pb2.GetCapacityRequest, context: grpc.ServicerContext
    ) -> csi_pb2.GetCapacityResponse:
        if request.volume_capabilities:
            params.check_capabilities(request.volume_capabilities)
        if request.accessible_topology.segments:
            raise InvalidInputError("accessible_topology: volumes are reached from everywhere; leave it out")
        deadline = time.monotonic() + _timeout_s(context)
        if request.parameters:
            storages = [self._storages.fresher(params.storage_of(request.parameters))]
        else:
            storages = list(self._storages.all())
        found = []
        for answer in [self._ask_available(each) for each in storages]:
            try:
                found.append(answer(max(0.0, deadline - time.monotonic())))
            except KadaluExtError:
                if request.parameters:
                    raise
                # of a storage that does not answer, nothing can be had now
        return csi_pb2.GetCapacityResponse(
            available_capacity=sum(each.size_bytes for each in found),
            maximum_volume_size=Int64Value(value=max((each.largest_bytes for each in found), default=0)),
            minimum_volume_size=Int64Value(value=capacity.BLOCK_BYTES),
        )

    def _ask_available(self, storage: Storage) -> Callable[[float], Available]:
        """Asks what can be had of a storage; what gives the answer within a time in seconds."""
        if storage.pool:
            pool = self._pools.of(storage)
            return lambda timeout_s: capacity.of_whole_volumes(pool.free(timeout_s=timeout_s))
        promised = self._clients.of(storage).ask(lambda volumes: volumes.promised())

        def available(timeout_s: float) -> Available:
            now = promised(timeout_s)
            return capacity.available(promised=now.size_bytes, total=now.usable_bytes, overcommit=storage.overcommit)

        return available

    def _look(self, text: str, timeout_s: float) -> tuple[Storage, QuotaRecord, Sequence[Condition]]:
        """A volume, and what is wrong with it. Raises: NotFoundError if there is none of that id."""
        if not text:
            raise InvalidInputError("volume_id: missing")
        storage, name = _ours(text)
        if (pool := self._pool(storage)) is not None:
            return *self._whole(pool, text, name, timeout_s), ()
        client = self._client(storage)

        def look(volumes: Volumes) -> tuple[QuotaRecord, Sequence[Condition]] | None:
            record = volumes.record(name)
            if record is None or record.kind != PV_KIND:
                return None
            return record, volumes.conditions(record, quota=client.storage.quota)

        found = client.ask(look)(timeout_s)
        if found is None:
            raise replies.unknown(text)
        return client.storage, *found

    @staticmethod
    def _whole(pool: PoolClient, text: str, name: PvName, timeout_s: float) -> tuple[Storage, QuotaRecord]:
        """A PV that is a whole volume. Raises: NotFoundError if there is none of that id."""
        found = pool.taken(timeout_s=timeout_s, name=name).get(name)
        if found is None:
            raise replies.unknown(text)
        return found

    def CreateSnapshot(
        self, request: csi_pb2.CreateSnapshotRequest, context: grpc.ServicerContext
    ) -> csi_pb2.CreateSnapshotResponse:
        return self._snapshots.create(request, timeout_s=_timeout_s(context))

    def DeleteSnapshot(
        self, request: csi_pb2.DeleteSnapshotRequest, context: grpc.ServicerContext
    ) -> csi_pb2.DeleteSnapshotResponse:
        return self._snapshots.delete(request, timeout_s=_timeout_s(context))

    def GetSnapshot(
        self, request: csi_pb2.GetSnapshotRequest, context: grpc.ServicerContext
    ) -> csi_pb2.GetSnapshotResponse:
        return self._snapshots.get(request, timeout_s=_timeout_s(context))

    def ListSnapshots(
        self, request: csi_pb2.ListSnapshotsRequest, context: grpc.ServicerContext
    ) -> csi_pb2.ListSnapshotsResponse:
        return self._snapshots.page(request, timeout_s=_timeout_s(context))

    def _client(self, storage: StorageName) -> StorageClient:
        """Raises: NotFoundError if nothing is known of the storage."""
        try:
            return self._clients.of(self._storages.find(storage))
        except NotFoundError:
            # its ConfigMap entry may not have reached this pod yet, or be gone before its last PV
            if client := self._clients.known(storage):
                return client
            raise


def _ours(text: str) -> tuple[StorageName, PvName]:
    """Raises: NotFoundError if no volume can have that id."""
    try:
        return parse_volume_id(text)
    except InvalidInputError as error:
        raise NotFoundError(f"volume_id: there is no such volume: {error}") from error


def _timeout_s(context: grpc.ServicerContext) -> float:
    left = context.time_remaining()  # of a caller without a deadline: None, or some hundred years
    return min(LONGEST_S, max(0.0, left - _MARGIN_S)) if left is not None else LONGEST_S
