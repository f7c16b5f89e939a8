"""One client a storage: its own few workers, so that a dead storage slows no other, and one call in flight a PV."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, Never, TypeVar

from kadalu_ext.csi.figures import Figures
from kadalu_ext.csi.filling import Filler, Taken
from kadalu_ext.csi.gids import Gids
from kadalu_ext.csi.housekeeping import Housekeeper
from kadalu_ext.csi.ports import Connector, VolumeFacts, VolumeStore
from kadalu_ext.csi.promises import Promises
from kadalu_ext.csi.trash import Trash, TrashCollector
from kadalu_ext.csi.volumes import Bricks, Volumes
from kadalu_ext.errors import (
    DeadlineError,
    HostUnreachableError,
    InProgressError,
    InvalidInputError,
    KadaluExtError,
    NotFoundError,
)
from kadalu_ext.gluster.messages import Gfid
from kadalu_ext.log import Logger
from kadalu_ext.record import CANARY, PvName, QuotaRecord
from kadalu_ext.storage import Quota, ReclaimPolicy, Storage, StorageName

T = TypeVar("T")

WORKERS: Final = 32
"""Of one storage, each started when it is needed: what may hang on it at a time. With 64 claims at once 8 of them took
half as long again; 32 wait for gluster as long as 64 do."""

WAITERS: Final = 32
"""So many callers of one storage may wait for as long as they like; among more of them that time is shared. Otherwise
the claims of a dead storage would hold all of this server's threads, and all of csi-provisioner's."""

NOT_OF_WHOLE_VOLUMES: Final = "they are neither copied nor given limits: each is as large as its volume"

_FACTS_S: Final = 1.0
"""For so long glusterd's word is good: a brick that was replaced a second ago may not be asked yet."""

_SNAPSHOT_S: Final = 5.0
"""For so long a caller waits for its snapshot to be whole, which small ones are; then it hears that it is not ready."""

STUCK: Final = 8
STUCK_S: Final = 5.0
"""When so many workers of a storage have been at work for so long, it is not asked what else it has."""

_DIAGNOSIS_S: Final = 2.5
"""What is kept of a caller's time to find out, when there is no answer, which brick is silent."""


@dataclass(frozen=True, kw_only=True)
class _Connected:
    storage: Storage
    facts: VolumeFacts
    store: VolumeStore
    bricks: Bricks
    volumes: Volumes
    trash: TrashCollector
    filler: Filler
    housekeeper: Housekeeper

    def end(self) -> None:
        """All but the way to the bricks, which may be another's by now. Waits for nothing."""
        self.trash.stop()
        self.filler.close()
        self.housekeeper.stop()
        self.store.close()


class StorageClient:
    """Calls on one storage, each bounded. Thread-safe; opens what it needs at its first call."""

    def __init__(
        self,
        storage: Storage,
        *,
        connector: Connector,
        log: Logger,
        promises: dict[str, Promises] | None = None,
        taken: dict[str, Taken] | None = None,
        identity: str = "",
    ) -> None:
        self.storage = storage
        """May be replaced at any time: the next call uses it."""
        self._connector = connector
        self._log = log
        self._executor = ThreadPoolExecutor(WORKERS, thread_name_prefix=f"storage-{storage.name}")
        self._opening = threading.Lock()
        self._connected: _Connected | None = None
        self._looked_for: Storage | None = None
        self._looked_at = 0.0
        self._found: Volumes | KadaluExtError | None = None
        self._promises = {} if promises is None else promises
        """By volume_id: they outlive connections, and storages may share a volume."""
        self._taken = {} if taken is None else taken
        """Likewise."""
        self._identity = identity
        self._lock = threading.Lock()
        self._in_flight: dict[PvName, float] = {}
        self._at_work: dict[object, float] = {}
        """Since when each worker has been at what it does."""
        self._last_failure = ""

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
            deadline = started + self._patience(timeout_s)
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
            deadline = started + self._patience(timeout_s)
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
        if now is None or not now.filling or self._connected is None:
            return
        try:
            self._connected.filler.fill(now, timeout_s=max(0.0, deadline - time.monotonic()))
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
        reclaim = self.storage.reclaim

        def work(volumes: Volumes) -> None:
            if reclaim is ReclaimPolicy.ARCHIVE:
                self._leave_alone(name)
                volumes.archive(name)
            elif reclaim is ReclaimPolicy.DELETE:
                self._delete(volumes, name)

        with self._working(name, work, timeout_s):
            pass

    def _leave_alone(self, name: PvName) -> None:
        """Nobody copies it, or to it, when this returns. Raises: InProgressError if somebody does, and goes on."""
        if self._connected is not None:
            self._connected.filler.check_unused(name)
            self._connected.filler.stop(name)

    def _delete(self, volumes: Volumes, name: PvName) -> None:
        self._leave_alone(name)
        volumes.delete(name)
        if self._connected is not None:
            self._connected.trash.wake()

    def grow(self, name: PvName, size_bytes: int, *, timeout_s: float) -> int:
        """The PV's size in bytes, at least `size_bytes`, which every brick that is up was seen to enforce. Idempotent.

        Raises: NotFoundError if there is none of that name; as `create`.
        """

        def grow(volumes: Volumes) -> tuple[Volumes, QuotaRecord, Gfid]:
            return volumes, *volumes.grow(name, size_bytes, overcommit=self.storage.overcommit)

        started = time.monotonic()
        with self._working(name, grow, timeout_s) as (volumes, record, gfid):
            self._wait_enforced(volumes, record, gfid, started + self._patience(timeout_s))
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
            self._wait_enforced(volumes, record, gfid, started + self._patience(timeout_s))

    def record(self, name: PvName, *, timeout_s: float) -> QuotaRecord | None:
        """The PV's record; None if there is none of that name. Raises: RecordError, and as `create`."""
        with self._working(name, lambda volumes: volumes.record(name), timeout_s) as record:
            return record

    def ask(self, work: Callable[[Volumes], T]) -> Callable[[float], T]:
        """Begins `work`, which changes nothing and is about no single PV; what gives its result, within a timeout_s.

        Raises, at the second step: what `work` does; DeadlineError; what Connector does. At once, if it is known that
        nothing is answered.
        """
        if (refusal := self._refusal()) is not None:
            return partial(_raise, refusal)
        future = self._submit(lambda: work(self._open()))
        return lambda timeout_s: self._result(future, timeout_s)

    def beat(self) -> Future[None]:
        """The canary's next size, written by a worker; done when it is on the volume. See canary.py."""
        return self._submit(lambda: self._open().beat())

    def open(self) -> Future[None]:
        """Connects to the volume; done when that is so."""
        return self._submit(lambda: (self._open(), None)[1])

    def remove_canary(self) -> Future[None]:
        """The canary is gone from the volume when this is done. Idempotent."""
        return self._submit(lambda: self._delete(self._open(), CANARY))

    @property
    def volume_id(self) -> str | None:
        """Of the volume that it is connected to; None if there was no call yet that got so far."""
        return None if self._connected is None else self._connected.facts.volume_id

    def figures(self) -> Figures:
        """As they are; asks nobody."""
        with self._lock:
            since = list(self._in_flight.values())
        connected = self._connected
        waiting, copies = (0, ()) if connected is None else connected.filler.figures()
        return Figures(
            storage=self.storage.name,
            connected=connected is not None,
            running=len(since),
            oldest_s=max(0.0, time.monotonic() - min(since)) if since else 0.0,
            promised=None if connected is None else connected.housekeeper.promised,
            trash=Trash() if connected is None else connected.trash.seen,
            waiting=waiting,
            copies=copies,
        )

    # --- one call in flight a PV, held until the work ends ---

    @contextmanager
    def _working(self, name: PvName, work: Callable[[Volumes], T], timeout_s: float) -> Iterator[T]:
        """The result of `work`, done by a worker. The PV is taken until the block has ended and `work` as well."""
        self._take(name)
        future: Future[T] | None = None
        try:
            future = self._submit(lambda: work(self._open()))
            yield self._result(future, timeout_s)
            self._last_failure = ""
        except DeadlineError:
            raise
        except KadaluExtError as error:
            self._last_failure = str(error)
            raise
        finally:
            if future is None:
                self._free(name)
            else:
                future.add_done_callback(lambda _: self._free(name))

    def _submit(self, work: Callable[[], T]) -> Future[T]:
        def noted() -> T:
            worker = object()
            self._at_work[worker] = time.monotonic()
            try:
                return work()
            finally:
                del self._at_work[worker]

        return self._executor.submit(noted)

    def _refusal(self) -> KadaluExtError | None:
        """Why there is no sense in asking: whoever asks several storages need not wait for this one as well."""
        if self._stuck():
            return DeadlineError(
                f"{self._where()}: not asked, since {STUCK} calls have had no answer for {STUCK_S:g} s or more"
            )
        if isinstance(self._found, HostUnreachableError) and self._opening.locked():
            return self._found  # somebody looks whether that is still so
        return None

    def _stuck(self) -> bool:
        """Whether so many workers have waited for so long that nothing is likely to be answered."""
        now = time.monotonic()
        return sum(now - since > STUCK_S for since in list(self._at_work.values())) >= STUCK

    def _where(self) -> str:
        return f"storage {self.storage.name}, volume {self.storage.volume}"

    def _take(self, name: PvName) -> None:
        with self._lock:
            if (since := self._in_flight.get(name)) is not None:
                raise InProgressError(
                    f"{self.storage.name}/{name}: an earlier call has been at work for {time.monotonic() - since:.0f} s"
                )
            self._in_flight[name] = time.monotonic()

    def _free(self, name: PvName) -> None:
        with self._lock:
            del self._in_flight[name]

    def _patience(self, timeout_s: float) -> float:
        with self._lock:
            return timeout_s * min(1.0, WAITERS / max(1, len(self._in_flight)))

    def _result(self, future: Future[T], timeout_s: float) -> T:
        patience_s = self._patience(timeout_s)
        deadline = time.monotonic() + patience_s
        silent = ""
        if patience_s >= 2 * _DIAGNOSIS_S:
            wait([future], patience_s - _DIAGNOSIS_S)
            if not future.done() or isinstance(future.exception(), DeadlineError):
                silent = self._silent()
        wait([future], max(0.0, deadline - time.monotonic()))
        if future.done():
            try:
                return future.result()
            except DeadlineError as error:
                raise DeadlineError(f"{error}{silent}") from error
        where = self._where()
        if future.cancel():
            last = f"; the last call that failed there: {self._last_failure}" if self._last_failure else ""
            raise DeadlineError(f"{where}: not begun within {patience_s:.1f} s, earlier calls are still at work{last}")
        raise DeadlineError(
            f"{where}: no answer within {patience_s:.1f} s; the work goes on, and the next try finds its result{silent}"
        )

    def _silent(self) -> str:
        """For the end of a message: which bricks are the reason. It takes up to _DIAGNOSIS_S."""
        silent = self._connected.volumes.silent_bricks() if self._connected else None
        return f". Down or silent: {silent}" if silent else ""

    # --- the connection ---

    def _open(self) -> Volumes:
        """The PVs on the storage's volume as it is now. Raises: what Connector does."""
        with self._opening:
            # no reason to connect anew: these are asked at each call
            storage = replace(self.storage, overcommit=1.0, reclaim=ReclaimPolicy.DELETE, quota=Quota.REQUIRED)
            if self._found is None or storage != self._looked_for or time.monotonic() - self._looked_at >= _FACTS_S:
                try:
                    self._connected = self._look(storage)
                    self._found = self._connected.volumes
                except KadaluExtError as error:
                    self._found = error  # for all who waited for the same
                self._looked_for, self._looked_at = storage, time.monotonic()
            if isinstance(self._found, KadaluExtError):
                raise self._found
            return self._found

    def _look(self, storage: Storage) -> _Connected:
        facts, old = self._connector.facts(storage), self._connected
        if old is None:
            return self._connect(storage, facts)
        if old.storage == storage and old.facts == facts:
            return old
        if old.storage == storage and old.facts.volume_id == facts.volume_id:
            new = self._with_bricks(old, facts)
        else:
            new = self._connect(storage, facts)
        self._retire(old, new)
        return new

    def _connect(self, storage: Storage, facts: VolumeFacts) -> _Connected:
        promises = self._promises.setdefault(facts.volume_id, Promises(volume=storage.volume))
        store = self._connector.store(storage)
        bricks = Bricks(geometry=facts.geometry, probe=self._connector.probe(storage, facts), reserve=facts.reserve)
        volumes = Volumes(
            volume=storage.volume,
            store=store,
            bricks=bricks,
            promises=promises,
            identity=self._identity,
            storage=storage.name,
        )
        trash = TrashCollector(store, storage=storage.name, log=self._log)
        trash.start()
        taken = self._taken.setdefault(facts.volume_id, Taken())
        filler = Filler(
            volumes,
            storage=storage.name,
            log=self._log,
            taken=taken,
            enforced=lambda: self.storage.quota is Quota.REQUIRED,
        )
        filler.start()
        housekeeper = Housekeeper(volumes, storage=storage.name, log=self._log)
        housekeeper.start()
        return _Connected(
            storage=storage,
            facts=facts,
            store=store,
            bricks=bricks,
            volumes=volumes,
            trash=trash,
            filler=filler,
            housekeeper=housekeeper,
        )

    def _with_bricks(self, old: _Connected, facts: VolumeFacts) -> _Connected:
        bricks = Bricks(geometry=facts.geometry, probe=self._connector.probe(old.storage, facts), reserve=facts.reserve)
        return replace(old, facts=facts, bricks=bricks)

    def _retire(self, old: _Connected, new: _Connected) -> None:
        # Whoever waits for the bricks through the old connection goes on with the new bricks.
        old.volumes.bricks = new.bricks
        old.bricks.probe.close()
        if old.store is not new.store:
            old.end()

    def rest(self) -> Future[None]:
        """Gives its connection up, which the next call makes anew; done when that is so."""
        return self._submit(self._rest)

    def _rest(self) -> None:
        with self._opening:
            old, self._connected, self._found = self._connected, None, None
        if old is not None:
            old.bricks.probe.close()
            old.end()

    def wait_closed(self, *, deadline: float) -> None:
        """After `close`: until nothing is copied any more, so that the next controller need not wait."""
        if self._connected is not None:
            self._connected.filler.wait_closed(deadline=deadline)

    def close(self) -> None:
        """Waits for nothing. Not to be used afterwards."""
        self._executor.shutdown(wait=False, cancel_futures=True)
        if (old := self._connected) is not None:
            old.bricks.probe.close()
            old.end()


def _raise(error: KadaluExtError, _timeout_s: float) -> Never:
    raise error


class Clients:
    """The client of each storage. Thread-safe.

    identity: this controller's, which one that takes its place when it has ended also has. See leases.py.
    """

    def __init__(self, *, connector: Connector, log: Logger, identity: str = "") -> None:
        self._identity = identity
        self._connector = connector
        self._log = log
        self._lock = threading.Lock()
        self._clients: dict[StorageName, StorageClient] = {}
        self._promises: dict[str, Promises] = {}
        self._taken: dict[str, Taken] = {}

    def of(self, storage: Storage) -> StorageClient:
        """The storage's client, which from now on uses what `storage` says.

        Raises: InvalidInputError if its PVs are whole volumes: pools.Pools is for those.
        """
        if storage.pool or storage.whole is not None:
            raise InvalidInputError(f"storage {storage.name}: its PVs are whole volumes; {NOT_OF_WHOLE_VOLUMES}")
        with self._lock:
            client = self._clients.get(storage.name)
            if client is None:
                client = StorageClient(
                    storage,
                    connector=self._connector,
                    log=self._log,
                    promises=self._promises,
                    taken=self._taken,
                    identity=self._identity,
                )
                self._clients[storage.name] = client
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
