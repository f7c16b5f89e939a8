"""The node plugin's side of the mounter's API."""

from __future__ import annotations

import socket
from typing import Final, Protocol

import grpc

from kadalu_ext.api import mounter_pb2, mounter_pb2_grpc
from kadalu_ext.errors import (
    ConflictError,
    InProgressError,
    InvalidInputError,
    KadaluExtError,
    MounterError,
    NotFoundError,
    UnsupportedVolumeError,
)
from kadalu_ext.storage import Storage

_ERRORS: Final[dict[grpc.StatusCode, type[KadaluExtError]]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidInputError,
    grpc.StatusCode.NOT_FOUND: NotFoundError,
    grpc.StatusCode.ALREADY_EXISTS: ConflictError,
    grpc.StatusCode.FAILED_PRECONDITION: UnsupportedVolumeError,
    grpc.StatusCode.ABORTED: InProgressError,
}
"""Back from rpc.CODES, as far as a caller must tell them apart; all others are MounterError."""


class StorageMounter(Protocol):
    """Whoever owns the storages' mounts on this node."""

    def mount(self, storage: Storage, *, timeout_s: float) -> str:
        """The path where the storage is mounted on this node. Idempotent."""
        ...


class MounterClient:
    """A StorageMounter: the mounter that listens on a unix socket. Thread-safe."""

    def __init__(self, path: str) -> None:
        self._path = path

    def mount(self, storage: Storage, *, timeout_s: float) -> str:
        """Raises: MounterError if the mounter is not there, does not answer in time, or cannot; what else it says, as
        the error that it was."""
        request = mounter_pb2.MountRequest(
            storage=storage.name,
            hosts=storage.hosts,
            volume=storage.volume,
            options=storage.options,
            tls=storage.tls,
        )
        try:
            # One channel a call: a kept one would go on waiting after the mounter is back (gRPC's backoff).
            with grpc.insecure_channel(f"unix:{self._path}") as channel:
                return mounter_pb2_grpc.MounterStub(channel).Mount(request, timeout=timeout_s).path
        except grpc.RpcError as error:
            raise self._error(error) from error

    def _error(self, error: grpc.RpcError) -> KadaluExtError:
        code, details = error.code(), error.details()
        if code is grpc.StatusCode.UNAVAILABLE and not self._listens():
            return MounterError(
                f"the mounter of this node does not listen on {self._path}; "
                "is the pod kadalu-ext-mounter-… on this node running?"
            )
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            return MounterError("the mounter of this node has not answered in time; its log says what it waits for")
        return _ERRORS.get(code, MounterError)(details)

    def _listens(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(1)
            return probe.connect_ex(self._path) == 0
