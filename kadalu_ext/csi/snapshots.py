"""CSI's calls about snapshots: requests in, calls on a storage's client, replies out.

A snapshot is a copy of a PV as it was found, file after file, not of one moment.
"""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from kadalu_ext.api import csi_pb2
from kadalu_ext.csi.clients import Clients, StorageClient
from kadalu_ext.csi.sharing import Sharing
from kadalu_ext.csi.volumes import Volumes
from kadalu_ext.errors import InProgressError, InvalidInputError, NotFoundError, RecordError, UnavailableError
from kadalu_ext.record import SNAPSHOT_KIND, PvName, QuotaRecord, is_snapshot, snapshot_name
from kadalu_ext.storage import StorageName, parse_snapshot_id, parse_volume_id, volume_id
from kadalu_ext.storages import Storages

MOST_ENTRIES: Final = 1000
"""In one answer, for who asks for no number: each costs a call on the volume."""

FindClient = Callable[[StorageName], StorageClient]
"""Raises: NotFoundError if nothing is known of the storage."""


class Snapshots:
    """Thread-safe. `client` finds a storage's, also one that is just leaving; timeouts in seconds."""

    def __init__(self, *, storages: Storages, clients: Clients, client: FindClient) -> None:
        self._storages = storages
        self._clients = clients
        self._client = client

    def create(self, request: csi_pb2.CreateSnapshotRequest, *, timeout_s: float) -> csi_pb2.CreateSnapshotResponse:
        if not request.name:
            raise InvalidInputError("name: missing")
        if not request.source_volume_id:
            raise InvalidInputError("source_volume_id: missing")
        name = snapshot_name(request.name)
        if own := [key for key in request.parameters if "/" not in key]:
            raise InvalidInputError(
                f"parameters.{own[0][:64]}: unknown; a VolumeSnapshotClass of this driver has no parameters"
            )
        try:
            storage, source = parse_volume_id(request.source_volume_id)
        except InvalidInputError as error:
            raise NotFoundError(f"source_volume_id: there is no such volume: {error}") from error
        record = self._client(storage).snapshot(name, source, timeout_s=timeout_s)
        return csi_pb2.CreateSnapshotResponse(snapshot=_shown(storage, record))

    def delete(self, request: csi_pb2.DeleteSnapshotRequest, *, timeout_s: float) -> csi_pb2.DeleteSnapshotResponse:
        if not request.snapshot_id:
            raise InvalidInputError("snapshot_id: missing")
        try:
            storage, name = parse_snapshot_id(request.snapshot_id)
        except InvalidInputError:
            return csi_pb2.DeleteSnapshotResponse()  # no snapshot of ours was ever called so
        try:
            client = self._client(storage)
        except NotFoundError as error:
            raise UnavailableError(
                f"{request.snapshot_id} cannot be deleted: {error} Create the KadaluStorage {storage} again, and the "
                "deletion goes on by itself; if its gluster volume is gone for good, remove the VolumeSnapshotContent"
            ) from error
        client.remove(name, timeout_s=timeout_s)
        return csi_pb2.DeleteSnapshotResponse()

    def get(self, request: csi_pb2.GetSnapshotRequest, *, timeout_s: float) -> csi_pb2.GetSnapshotResponse:
        if not request.snapshot_id:
            raise InvalidInputError("snapshot_id: missing")
        try:
            storage, name = parse_snapshot_id(request.snapshot_id)
        except InvalidInputError as error:
            raise NotFoundError(f"snapshot_id: there is no such snapshot: {error}") from error
        record = self._client(storage).ask(lambda volumes: volumes.record(name))(timeout_s)
        if record is None or record.source is None:
            raise NotFoundError(f"snapshot_id: there is no snapshot {request.snapshot_id}")
        return csi_pb2.GetSnapshotResponse(snapshot=_shown(storage, record))

    def page(self, request: csi_pb2.ListSnapshotsRequest, *, timeout_s: float) -> csi_pb2.ListSnapshotsResponse:
        """In the order of their ids, which is stable under change: a token is the last id of a page."""
        deadline = time.monotonic() + timeout_s
        if request.max_entries < 0:
            raise InvalidInputError(f"max_entries: {request.max_entries} is negative")
        after = _token(request.starting_token)
        ids, sharing = self._ids(request, deadline)
        most = min(request.max_entries or MOST_ENTRIES, MOST_ENTRIES)
        reply = csi_pb2.ListSnapshotsResponse()
        for storage, name in ids[bisect_right(ids, after) if after else 0 :]:
            record = self._read(storage, name, deadline)
            if record is None or not _asked_for(request, storage, record):
                continue
            if sharing is not None and not sharing.lists(storage, record):
                continue
            if len(reply.entries) == most:
                reply.next_token = reply.entries[-1].snapshot.snapshot_id
                break
            reply.entries.add(snapshot=_shown(storage, record))
        return reply

    def _ids(
        self, request: csi_pb2.ListSnapshotsRequest, deadline: float
    ) -> tuple[list[tuple[StorageName, PvName]], Sharing | None]:
        """Of all that may be asked for; and whose they are, if it is not said.

        Raises: as a storage that does not answer, since its snapshots are not gone.
        """
        try:
            if request.snapshot_id:
                return [parse_snapshot_id(request.snapshot_id)], None
            if request.source_volume_id:
                names = [parse_volume_id(request.source_volume_id)[0]]
            else:
                names = [StorageName(name) for name in self._storages.names()]
        except InvalidInputError:
            return [], None  # there is none of such an id, nor of such a source
        asked = []
        for name in names:
            with suppress(NotFoundError, InvalidInputError):  # it has just left, or its PVs are whole volumes
                client = self._client(name)
                asked.append((name, client, client.ask(_snapshots)))
        ids = sorted((name, snapshot) for name, _, answer in asked for snapshot in answer(_left(deadline)))
        sharing = Sharing(volumes={name: client.volume_id for name, client, _ in asked})
        return ids, None if request.source_volume_id else sharing

    def _read(self, storage: StorageName, name: PvName, deadline: float) -> QuotaRecord | None:
        try:
            return self._client(storage).ask(lambda volumes: _record(volumes, name))(_left(deadline))
        except NotFoundError:
            return None


def _snapshots(volumes: Volumes) -> list[PvName]:
    return [name for name in volumes.names() if is_snapshot(name)]


def _record(volumes: Volumes, name: PvName) -> QuotaRecord | None:
    try:
        return volumes.record(name)
    except RecordError:
        return None  # somebody else's doing; kadalu-quotad tells of it


def _left(deadline: float) -> float:
    return max(0.0, deadline - time.monotonic())


def _token(text: str) -> tuple[StorageName, PvName] | None:
    if not text:
        return None
    try:
        return parse_snapshot_id(text)
    except InvalidInputError as error:
        # what CSI wants to be told so that the caller begins anew is ABORTED
        raise InProgressError(f"starting_token: {text[:80]!r} is none of ours; list from the beginning") from error


def _asked_for(request: csi_pb2.ListSnapshotsRequest, storage: StorageName, record: QuotaRecord) -> bool:
    if record.kind != SNAPSHOT_KIND or record.source is None:
        return False
    return request.source_volume_id in ("", volume_id(storage, record.source))


def _shown(storage: StorageName, record: QuotaRecord) -> csi_pb2.Snapshot:
    return csi_pb2.Snapshot(
        snapshot_id=volume_id(storage, record.name),
        source_volume_id=volume_id(storage, record.source or PvName("")),
        size_bytes=record.size_bytes,
        creation_time=Timestamp(seconds=record.made_s or 0),
        ready_to_use=not record.filling,
    )
