"""CSI's Controller service: requests in, calls on a storage's client, replies out."""

from __future__ import annotations

from typing import Final

import grpc

from kadalu_ext.api import csi_pb2, csi_pb2_grpc
from kadalu_ext.csi import params
from kadalu_ext.csi.clients import Clients, StorageClient
from kadalu_ext.csi.pools import PoolClient, Pools
from kadalu_ext.csi.wholevolumes import Wanted
from kadalu_ext.errors import InvalidInputError, NotFoundError, UnavailableError
from kadalu_ext.record import PvName
from kadalu_ext.storage import Storage, StorageName, parse_volume_id, to_parameters, volume_id
from kadalu_ext.storages import Storages

LONGEST_S: Final = 30.0
"""No caller waits longer for an answer, whatever its deadline: what the answer is will not change soon."""

_MARGIN_S: Final = 0.5
"""What is kept of a caller's time for the answer's way: a reason that arrives too late tells nobody anything."""


class Controller(csi_pb2_grpc.ControllerServicer):
    """Announced is what works."""

    def __init__(self, *, storages: Storages, clients: Clients, pools: Pools) -> None:
        self._storages = storages
        self._clients = clients
        self._pools = pools

    def ControllerGetCapabilities(
        self, request: csi_pb2.ControllerGetCapabilitiesRequest, context: grpc.ServicerContext
    ) -> csi_pb2.ControllerGetCapabilitiesResponse:
        rpc = csi_pb2.ControllerServiceCapability.RPC(type=csi_pb2.ControllerServiceCapability.RPC.CREATE_DELETE_VOLUME)
        return csi_pb2.ControllerGetCapabilitiesResponse(capabilities=[csi_pb2.ControllerServiceCapability(rpc=rpc)])

    def CreateVolume(
        self, request: csi_pb2.CreateVolumeRequest, context: grpc.ServicerContext
    ) -> csi_pb2.CreateVolumeResponse:
        wanted = params.create_request(request)
        storage = self._storages.fresher(wanted.storage)
        if storage.pool:
            return self._create_whole(storage, wanted, _timeout_s(context))
        self._clients.of(storage).create(wanted.record, timeout_s=_timeout_s(context))
        volume = csi_pb2.Volume(
            volume_id=volume_id(storage.name, wanted.record.name),
            capacity_bytes=wanted.record.size_bytes,
            volume_context=to_parameters(storage),
        )
        return csi_pb2.CreateVolumeResponse(volume=volume)

    def _create_whole(
        self, storage: Storage, wanted: params.CreateRequest, timeout_s: float
    ) -> csi_pb2.CreateVolumeResponse:
        record = wanted.record
        name = record.made_for or record.name
        asked = Wanted(name=name, required_bytes=record.size_bytes, limit_bytes=wanted.limit_bytes)
        whole, size_bytes = self._pools.of(storage).create(asked, timeout_s=timeout_s)
        volume = csi_pb2.Volume(
            volume_id=volume_id(storage.name, name), capacity_bytes=size_bytes, volume_context=to_parameters(whole)
        )
        return csi_pb2.CreateVolumeResponse(volume=volume)

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
            raise NotFoundError(f"volume_id: there is no volume {request.volume_id}")
        reply = csi_pb2.ValidateVolumeCapabilitiesResponse()
        try:
            params.check_capabilities(request.volume_capabilities)
        except InvalidInputError as error:
            reply.message = str(error)
        else:
            reply.confirmed.volume_context.update(request.volume_context)
            reply.confirmed.volume_capabilities.extend(request.volume_capabilities)
            reply.confirmed.parameters.update(request.parameters)
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
