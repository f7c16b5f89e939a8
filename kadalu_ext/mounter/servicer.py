"""The mounter's gRPC service: requests to storages and back, nothing else."""

from __future__ import annotations

import json
from typing import Final

import grpc

from kadalu_ext.api import mounter_pb2, mounter_pb2_grpc
from kadalu_ext.mounter.status import State
from kadalu_ext.mounter.storages import Storages
from kadalu_ext.storage import Encryption, Storage, check_mount_name, from_json

_STATES: Final = {
    State.MOUNTING: mounter_pb2.StorageStatus.MOUNTING,
    State.MOUNTED: mounter_pb2.StorageStatus.MOUNTED,
    State.DEAD: mounter_pb2.StorageStatus.DEAD,
}


class MounterServicer(mounter_pb2_grpc.MounterServicer):
    """See mounter.proto."""

    def __init__(self, storages: Storages) -> None:
        self._storages = storages

    def Mount(self, request: mounter_pb2.MountRequest, context: grpc.ServicerContext) -> mounter_pb2.MountResponse:
        return mounter_pb2.MountResponse(path=self._storages.mount(_storage(request)))

    def Release(
        self, request: mounter_pb2.ReleaseRequest, context: grpc.ServicerContext
    ) -> mounter_pb2.ReleaseResponse:
        self._storages.release(check_mount_name(request.storage))
        return mounter_pb2.ReleaseResponse()

    def List(self, request: mounter_pb2.ListRequest, context: grpc.ServicerContext) -> mounter_pb2.ListResponse:
        return mounter_pb2.ListResponse(
            storages=[
                mounter_pb2.StorageStatus(
                    storage=status.name,
                    state=_STATES[status.state],
                    path=status.path,
                    reason=status.reason,
                    hidden_hosts=status.hidden_hosts,
                    down_bricks=status.down_bricks,
                )
                for status in self._storages.list()
            ]
        )


def _storage(request: mounter_pb2.MountRequest) -> Storage:
    """The storage of a request, checked as strictly as the ConfigMap's entries. Raises: InvalidInputError."""
    return from_json(
        json.dumps(
            {
                "name": request.storage,
                "hosts": list(request.hosts),
                "volume": request.volume,
                "options": dict(request.options),
                "tls": request.tls or Encryption.NONE,
                "whole": request.pv or None,
            }
        )
    )
