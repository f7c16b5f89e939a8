"""One client a storage of whole volumes: calls on it, each bounded, and the thread that empties what was given back."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import replace
from typing import Final, TypeVar

from kadalu_ext.bounded import SideThreads
from kadalu_ext.claim import ClaimState
from kadalu_ext.csi.ports import Connector
from kadalu_ext.csi.wholevolume import Look, Stores, WholeVolume
from kadalu_ext.csi.wholevolumes import Found, Seen, Wanted, WholeVolumes
from kadalu_ext.errors import DeadlineError, HostUnreachableError, InProgressError, KadaluExtError, UnavailableError
from kadalu_ext.layout import pv_path
from kadalu_ext.log import Logger
from kadalu_ext.record import PvName, QuotaRecord
from kadalu_ext.storage import ReclaimPolicy, Storage, StorageName
from kadalu_ext.storages import Storages

T = TypeVar("T")

WORKERS: Final = 8
"""Calls on one storage that are at work at a time; and volumes of it that are looked at at a time."""

LOOK_S: Final = 6.0
"""For so long a volume is waited for that should tell whose it is; its hosts' own bounds are below that."""

AGAIN_S: Final = 5.0
"""For so long a volume whose hosts did not answer is not asked again: it would hold up every claim of the storage."""

EMPTY_S: Final = 60.0
"""How often volumes that are being emptied are looked for, besides at a start and after each deletion."""

_TURN_S: Final = 10.0


class PoolClient:
    """Calls on one storage of whole volumes. Thread-safe; asks no volume before its first call.

    timeout_s: how long the caller waits, in seconds. Everything raises InProgressError if an earlier call for the same
    PV is at work, DeadlineError, and what WholeVolumes does.
    """

    def __init__(self, storage: Storage, *, connector: Connector, log: Logger) -> None:
        self.storage = storage
        """May be replaced at any time: the next call uses it."""
        self._connector = connector
        self._log = log
        self._stores = Stores(connector)
        self._calls = SideThreads()
        self._working = threading.BoundedSemaphore(WORKERS)
        self._looking = ThreadPoolExecutor(WORKERS, thread_name_prefix=f"pool-{storage.name}")
        self._failed: dict[str, tuple[float, Storage, KadaluExtError]] = {}
        self._wake = threading.Event()
        self._stopped = threading.Event()
        self._emptier = threading.Thread(target=self._empty, name=f"empty-{storage.name}", daemon=True)

    def start(self) -> None:
        """What an earlier process was emptying is gone on with."""
        self._emptier.start()

    def create(self, wanted: Wanted, *, timeout_s: float) -> tuple[Storage, QuotaRecord]:
        """The volume that is the PV from now on, by itself, and the PV's size and group. Idempotent."""
        deadline = time.monotonic() + timeout_s

        def work(volumes: WholeVolumes) -> Seen:
            return volumes.create(wanted, deadline=deadline)

        seen = self._call(wanted.name, work, timeout_s)
        return _shown(seen, wanted.name)

    def delete(self, name: PvName, *, timeout_s: float) -> None:
        """No volume is the PV any more, and what it has written is being removed; all of it stays, and the volume the
        PV's, if the storage retains. Idempotent."""
        if self.storage.reclaim is ReclaimPolicy.RETAIN:
            return
        deadline = time.monotonic() + timeout_s

        def work(volumes: WholeVolumes) -> bool:
            return volumes.delete(name, deadline=deadline)

        if self._call(name, work, timeout_s):
            self._wake.set()

    def exists(self, name: PvName, *, timeout_s: float) -> bool:
        """Whether a volume is the PV."""
        return self._call(name, lambda volumes: volumes.find(name), timeout_s) is not None

    def taken(self, *, timeout_s: float, name: PvName | None = None) -> dict[PvName, tuple[Storage, QuotaRecord]]:
        """The PVs that volumes are, each with its volume by itself, size and group; of `name` alone, if it is one."""

        def work(volumes: WholeVolumes) -> list[Seen]:
            if name is None:
                return list(volumes.all())
            found = volumes.find(name)
            return [] if found is None else [found]

        seen = self._call(name or object(), work, timeout_s)
        return {
            each.claim.pv: _shown(each, each.claim.pv)
            for each in seen
            if each.claim.state is ClaimState.TAKEN and each.claim.pv and each.claim.storage == self.storage.name
        }

    def free(self, *, timeout_s: float) -> list[int]:
        """The sizes in bytes of the volumes that are nobody's."""
        seen = self._call(object(), lambda volumes: volumes.all(), timeout_s)
        return [each.look.size_bytes for each in seen if each.claim.state is ClaimState.FREE]

    def close(self) -> None:
        """Waits for nothing. Not to be used afterwards."""
        self._stopped.set()
        self._wake.set()
        self._looking.shutdown(wait=False, cancel_futures=True)
        self._stores.close()

    def _call(self, key: PvName | object, work: Callable[[WholeVolumes], T], timeout_s: float) -> T:
        """The result of `work`. key: the PV that it is about, else an object of its own."""
        what = f"{self.storage.name}/{key}" if isinstance(key, str) else f"storage {self.storage.name}"

        def in_turn() -> T:
            with self._turn(timeout_s):
                return work(self._volumes())

        return self._calls.run(key, in_turn, timeout_s=timeout_s, what=what)

    @contextmanager
    def _turn(self, timeout_s: float) -> Iterator[None]:
        if not self._working.acquire(timeout=timeout_s):
            raise InProgressError(f"storage {self.storage.name}: {WORKERS} calls are at work on it already")
        try:
            yield
        finally:
            self._working.release()

    # --- looking at all volumes, side by side ---

    def _volumes(self) -> WholeVolumes:
        storage = self.storage
        members = [
            WholeVolume(member, connector=self._connector, stores=self._stores)
            for each in storage.pool
            if (member := storage.of_volume(each.volume)) is not None
        ]
        return WholeVolumes(storage.name, lambda: self._look(members))

    def _look(self, members: list[WholeVolume]) -> Found:
        futures: list[tuple[WholeVolume, Future[Look]]] = [
            (member, self._looking.submit(self._look_at, member)) for member in members
        ]
        wait([future for _, future in futures], timeout=LOOK_S)
        seen: list[Seen] = []
        silent: dict[str, KadaluExtError] = {}
        for member, future in futures:
            if not future.done():
                future.cancel()
                silent[member.volume] = UnavailableError(f"it has not told whose it is within {LOOK_S:g} s")
            elif isinstance(failed := future.exception(), KadaluExtError):
                silent[member.volume] = failed
            else:
                seen.append(Seen(volume=member, look=future.result()))
        return seen, silent

    def _look_at(self, member: WholeVolume) -> Look:
        failed = self._failed.get(member.volume)
        if failed is not None and time.monotonic() < failed[0] and failed[1] == member.storage:
            raise failed[2]
        try:
            look = member.look()
        except HostUnreachableError as error:
            self._failed[member.volume] = time.monotonic() + AGAIN_S, member.storage, error
            raise
        self._failed.pop(member.volume, None)
        return look

    # --- emptying ---

    def _empty(self) -> None:
        while not self._stopped.is_set():
            try:
                for volume, why in self._volumes().empty(turn_s=_TURN_S).items():
                    self._tell(volume, why)
            except Exception:
                if self._stopped.is_set():
                    return
                self._log.exception("emptying volumes crashed", storage=self.storage.name)
            self._wake.wait(EMPTY_S)
            self._wake.clear()

    def _tell(self, volume: str, why: KadaluExtError) -> None:
        if isinstance(why, DeadlineError):
            self._wake.set()  # its turn was over: go on at once
        else:
            self._log.warning("volume not emptied yet", storage=self.storage.name, volume=volume, reason=str(why))


def _shown(seen: Seen, name: PvName) -> tuple[Storage, QuotaRecord]:
    record = QuotaRecord(path=pv_path(name), size_bytes=seen.look.size_bytes, gid=seen.claim.gid)
    return replace(seen.volume.storage, whole=name), record


class Pools:
    """The client of each storage of whole volumes. Thread-safe."""

    def __init__(self, *, connector: Connector, log: Logger) -> None:
        self._connector = connector
        self._log = log
        self._lock = threading.Lock()
        self._clients: dict[StorageName, PoolClient] = {}

    def of(self, storage: Storage) -> PoolClient:
        """The storage's client, which from now on uses what `storage` says."""
        with self._lock:
            client = self._clients.get(storage.name)
            if client is None:
                client = PoolClient(storage, connector=self._connector, log=self._log)
                self._clients[storage.name] = client
                client.start()
            client.storage = storage
            return client

    def known(self, name: StorageName) -> PoolClient | None:
        """The client of that storage, if there was a call for it already."""
        with self._lock:
            return self._clients.get(name)

    def open(self, storages: Storages) -> None:
        """All that there are: what an earlier process was emptying is gone on with. Raises: OSError."""
        for name in storages.names():
            try:
                storage = storages.find(name)
            except KadaluExtError:
                continue  # what is wrong with its entry is told at its first call
            if storage.pool:
                self.of(storage)

    def close(self) -> None:
        with self._lock:
            for client in self._clients.values():
                client.close()
            self._clients.clear()
