"""What can be asked of a storage, by its name: each call has its steps done by the storage's own workers."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Final, Never, TypeVar

from kadalu_ext.csi.figures import Figures
from kadalu_ext.csi.gids import Gids
from kadalu_ext.csi.ports import Connector
from kadalu_ext.csi.session import Session, Shared
from kadalu_ext.csi.trash import Trash
from kadalu_ext.csi.volumes import Volumes
from kadalu_ext.csi.workers import Workers
from kadalu_ext.errors import InProgressError, InvalidInputError, KadaluExtError, NotFoundError
from kadalu_ext.gluster.messages import Gfid
from kadalu_ext.log import Logger
from kadalu_ext.record import CANARY, PvName, QuotaRecord
from kadalu_ext.storage import Quota, ReclaimPolicy, Storage, StorageName

T = TypeVar("T")

NOT_OF_WHOLE_VOLUMES: Final = "they are neither copied nor given limits: each is as large as its volume"

_SNAPSHOT_S: Final = 5.0
"""For so long a caller waits for its snapshot to be whole, which small ones are; then it hears that it is not ready."""


class StorageClient:
    """Calls on one storage, each bounded. Thread-safe; opens what it needs at its first call."""

    def __init__(self, storage: Storage, shared: Shared) -> None:
        self.storage = storage
        """May be replaced at any time: the next call uses it."""
        self._session = Session(shared, enforced=lambda: self.storage.quota is Quota.REQUIRED)
        self._workers = Workers(lambda: self.storage, silent=self._session.silent)

    # --- calls; timeout_s is how long the caller waits, in seconds ---

    def create(self, record: QuotaRecord, *, timeout_s: float, gids: Gids | None = None) -> QuotaRecord:
        """The PV's record: it exists, and, if the storage wants that, every brick that is up was seen to enforce it.

        If it is a copy it is whole. Idempotent. `record` says what it is, gids of which its group is to be.
        Raises: what Volumes.make, Volumes.wait_enforced and Filler.fill do; InProgressError; DeadlineError; what
        Connector does. Of a copy whose source is gone nothing is left.
        """

        def make(volumes: Volumes) -> tuple[Volumes, Gfid, QuotaRecord]:
            gfid = volumes.make(record, overcommit=self.storage.overcommit, gids=gids)
            known = None if gids is None and record.source is None else volumes.record(record.name)  # with its group
            return volumes, gfid, known or record

        started = time.monotonic()
        with self._working(record.name, make, timeout_s) as (volumes, gfid, made):
            deadline = started + self._workers.patience(timeout_s)
            self._wait_enforced(volumes, record, gfid, deadline)
            if record.source is not None:
                self._fill(volumes, record, deadline)
            return made

    def snapshot(self, name: PvName, source: PvName, *, timeout_s: float) -> QuotaRecord:
        """The snapshot's record: it is enforced as a PV is, and perhaps still `filling`. Idempotent.

        Raises: ConflictError if there is one of another source; as `create`, but for InProgressError with a progress.
        """

        def make(volumes: Volumes) -> tuple[Volumes, QuotaRecord, Gfid]:
            return volumes, *volumes.snapshot(name, source, overcommit=self.storage.overcommit)

        started = time.monotonic()
        with self._working(name, make, timeout_s) as (volumes, record, gfid):
            deadline = started + self._workers.patience(timeout_s)
            self._wait_enforced(volumes, record, gfid, deadline)
            if not record.filling:
                return record
            try:
                self._fill(volumes, record, min(deadline, time.monotonic() + _SNAPSHOT_S))
            except InProgressError:
                return record
            return replace(record, filling=False)

    def _wait_enforced(self, volumes: Volumes, record: QuotaRecord, gfid: Gfid, deadline: float) -> None:
        if self.storage.quota is Quota.REQUIRED:
            volumes.wait_enforced(record, gfid, deadline=deadline)

    def _fill(self, volumes: Volumes, record: QuotaRecord, deadline: float) -> None:
        now = volumes.record(record.name)
        if now is None or not now.filling or self._session.now is None:
            return
        try:
            self._session.now.filler.fill(now, timeout_s=max(0.0, deadline - time.monotonic()))
        except NotFoundError:
            # The caller takes that for the end of it, and never deletes what it did not get.
            self._delete(volumes, record.name)
            raise

    def remove(self, name: PvName, *, timeout_s: float) -> None:
        """The snapshot is gone, whatever becomes of deleted PVs; its files are being removed. Idempotent.

        Raises: as `create`.
        """
        with self._working(name, lambda volumes: self._delete(volumes, name), timeout_s):
            pass

    def delete(self, name: PvName, *, timeout_s: float) -> None:
        """The PV is gone, and its files are being removed or are archived, as the storage says. Idempotent.

        Where the storage retains, nothing is done: it stays, and goes on counting. Raises: as `create`.
        """
        reclaim, connected = self.storage.reclaim, self._session.now
        # before it waits for its turn, and while nobody else can have deleted it and given that name away
        of = None if connected is None else connected.volumes.whose(name)

        def work(volumes: Volumes) -> None:
            if reclaim is ReclaimPolicy.ARCHIVE:
                self._leave_alone(name)
                volumes.archive(name, of=of)
            elif reclaim is ReclaimPolicy.DELETE:
                self._delete(volumes, name, of=of)

        with self._working(name, work, timeout_s):
            pass

    def _leave_alone(self, name: PvName) -> None:
        """Nobody copies it, or to it, when this returns. Raises: InProgressError if somebody does, and goes on."""
        if self._session.now is not None:
            self._session.now.filler.check_unused(name)
            self._session.now.filler.stop(name)

    def _delete(self, volumes: Volumes, name: PvName, *, of: PvName | None = None) -> None:
        self._leave_alone(name)
        volumes.delete(name, of=of)
        if self._session.now is not None:
            self._session.now.trash.wake()

    def grow(self, name: PvName, size_bytes: int, *, timeout_s: float) -> int:
        """The PV's size in bytes, at least `size_bytes`, which every brick that is up was seen to enforce. Idempotent.

        Raises: NotFoundError if there is none of that name; as `create`.
        """

        def grow(volumes: Volumes) -> tuple[Volumes, QuotaRecord, Gfid]:
            return volumes, *volumes.grow(name, size_bytes, overcommit=self.storage.overcommit)

        started = time.monotonic()
        with self._working(name, grow, timeout_s) as (volumes, record, gfid):
            self._wait_enforced(volumes, record, gfid, started + self._workers.patience(timeout_s))
            return record.size_bytes

    def limit_inodes(self, name: PvName, inodes: int, *, timeout_s: float) -> None:
        """The PV may have as many inodes as that, and if the storage wants it, every brick that is up was seen to
        enforce that. Idempotent.

        Raises: NotFoundError if there is none of that name; as `create`.
        """

        def limit(volumes: Volumes) -> tuple[Volumes, QuotaRecord, Gfid]:
            return volumes, *volumes.limit_inodes(name, inodes)

        started = time.monotonic()
        with self._working(name, limit, timeout_s) as (volumes, record, gfid):
            self._wait_enforced(volumes, record, gfid, started + self._workers.patience(timeout_s))

    def record(self, name: PvName, *, timeout_s: float) -> QuotaRecord | None:
        """The PV's record; None if there is none of that name. Raises: RecordError, and as `create`."""
        with self._working(name, lambda volumes: volumes.record(name), timeout_s) as record:
            return record

    def ask(self, work: Callable[[Volumes], T]) -> Callable[[float], T]:
        """Begins `work`, which changes nothing and is about no single PV; what gives its result, within a timeout_s.

        Raises, at the second step: what `work` does; DeadlineError; what Connector does. At once, if it is known that
        nothing is answered.
        """
        try:
            self._workers.check_answering()
            self._session.check_reachable()
        except KadaluExtError as refusal:
            return partial(_raise, refusal)
        future = self._workers.submit(lambda: work(self._open()))
        return lambda timeout_s: self._workers.result(future, timeout_s)

    def beat(self) -> Future[None]:
        """The canary's next size, written by a worker; done when it is on the volume. See canary.py."""
        return self._workers.submit(lambda: self._open().beat())

    def open(self) -> Future[None]:
        """Connects to the volume; done when that is so."""
        return self._workers.submit(lambda: (self._open(), None)[1])

    def remove_canary(self) -> Future[None]:
        """The canary is gone from the volume when this is done. Idempotent."""
        return self._workers.submit(lambda: self._delete(self._open(), CANARY))

    @property
    def volume_id(self) -> str | None:
        """Of the volume that it is connected to; None if there was no call yet that got so far."""
        connected = self._session.now
        return None if connected is None else connected.facts.volume_id

    def figures(self) -> Figures:
        """As they are; asks nobody."""
        running, oldest_s = self._workers.in_flight()
        connected = self._session.now
        waiting, copies = (0, ()) if connected is None else connected.filler.figures()
        return Figures(
            storage=self.storage.name,
            connected=connected is not None,
            running=running,
            oldest_s=oldest_s,
            promised=None if connected is None else connected.housekeeper.promised,
            trash=Trash() if connected is None else connected.trash.seen,
            waiting=waiting,
            copies=copies,
        )

    def rest(self) -> Future[None]:
        """Gives its connection up, which the next call makes anew; done when that is so."""
        return self._workers.submit(self._session.rest)

    def close(self) -> None:
        """Waits for nothing. Not to be used afterwards."""
        self._workers.close()
        self._session.close()

    def wait_closed(self, *, deadline: float) -> None:
        """After `close`: until nothing is copied any more, so that the next controller need not wait."""
        self._session.wait_closed(deadline=deadline)

    def _open(self) -> Volumes:
        return self._session.open(self.storage)

    @contextmanager
    def _working(self, name: PvName, work: Callable[[Volumes], T], timeout_s: float) -> Iterator[T]:
        with self._workers.working(name, lambda: work(self._open()), timeout_s) as result:
            yield result


def _raise(error: KadaluExtError, _timeout_s: float) -> Never:
    raise error


class Clients:
    """The client of each storage. Thread-safe.

    identity: this controller's, which one that takes its place when it has ended also has. See leases.py.
    """

    def __init__(self, *, connector: Connector, log: Logger, identity: str = "") -> None:
        self._shared = Shared(connector=connector, log=log, identity=identity, promises={}, taken={})
        self._lock = threading.Lock()
        self._clients: dict[StorageName, StorageClient] = {}

    def of(self, storage: Storage) -> StorageClient:
        """The storage's client, which from now on uses what `storage` says.

        Raises: InvalidInputError if its PVs are whole volumes: pools.Pools is for those.
        """
        if storage.pool or storage.whole is not None:
            raise InvalidInputError(f"storage {storage.name}: its PVs are whole volumes; {NOT_OF_WHOLE_VOLUMES}")
        with self._lock:
            client = self._clients.get(storage.name)
            if client is None:
                client = self._clients[storage.name] = StorageClient(storage, self._shared)
            client.storage = storage
            return client

    def known(self, name: StorageName) -> StorageClient | None:
        """The client of that storage, if there was a call for it already."""
        with self._lock:
            return self._clients.get(name)

    def figures(self) -> list[Figures]:
        """Of each storage that there was a call for; asks nobody."""
        with self._lock:
            return [client.figures() for client in self._clients.values()]

    def close(self, *, wait_s: float = 0.0) -> None:
        """Waits for copies to stop, which takes a moment, for so long at most. Not to be used afterwards."""
        with self._lock:
            clients = list(self._clients.values())
            self._clients.clear()
        for client in clients:
            client.close()
        deadline = time.monotonic() + wait_s
        for client in clients:
            client.wait_closed(deadline=deadline)
