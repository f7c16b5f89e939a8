"""The node plugin's side of the mounter's API."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
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
from kadalu_ext.storage import Storage, StorageName

_ERRORS: Final[dict[grpc.StatusCode, type[KadaluExtError]]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidInputError,
    grpc.StatusCode.NOT_FOUND: NotFoundError,
    grpc.StatusCode.ALREADY_EXISTS: ConflictError,
    grpc.StatusCode.FAILED_PRECONDITION: UnsupportedVolumeError,
    grpc.StatusCode.ABORTED: InProgressError,
}
"""Back from rpc.CODES, as far as a caller must tell them apart; all others are MounterError."""


_RELEASE_S: Final = 60.0
_ASK_S: Final = 3.0
"""How long the mounter may take for what it answers from memory."""


@dataclass(frozen=True, kw_only=True)
class StorageState:
    """What the mounter says of a storage; see StorageStatus in mounter.proto."""

    name: StorageName
    mounted: bool
    reason: str = ""
    hidden_hosts: tuple[str, ...] = ()
    down_bricks: tuple[str, ...] = ()


class StorageMounter(Protocol):
    """Whoever owns the storages' mounts on this node."""

    def mount(self, storage: Storage, *, timeout_s: float) -> str:
        """The path where the storage is mounted on this node. Idempotent."""
        ...

    def states(self) -> dict[StorageName, StorageState]:
        """Of every storage that it has been asked for and not released."""
        ...

    def release(self, name: StorageName) -> None:
        """Takes the storage's mount away, and its client with the last bind mount. Idempotent."""
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
            pv=storage.whole or "",
        )
        with self._stub() as stub:
            return stub.Mount(request, timeout=timeout_s).path

    def states(self) -> dict[StorageName, StorageState]:
        """Raises: as `mount`."""
        with self._stub() as stub:
            known = stub.List(mounter_pb2.ListRequest(), timeout=_ASK_S).storages
        return {
            StorageName(each.storage): StorageState(
                name=StorageName(each.storage),
                mounted=each.state == mounter_pb2.StorageStatus.MOUNTED,
                reason=each.reason,
                hidden_hosts=tuple(each.hidden_hosts),
                down_bricks=tuple(each.down_bricks),
            )
            for each in known
        }

    def release(self, name: StorageName) -> None:
        """Raises: as `mount`."""
        with self._stub() as stub:
            stub.Release(mounter_pb2.ReleaseRequest(storage=name), timeout=_RELEASE_S)

    @contextmanager
    def _stub(self) -> Iterator[mounter_pb2_grpc.MounterStub]:
        """One channel a call: a kept one would go on waiting after the mounter is back (gRPC's backoff)."""
        try:
            with grpc.insecure_channel(f"unix:{self._path}") as channel:
                yield mounter_pb2_grpc.MounterStub(channel)
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
