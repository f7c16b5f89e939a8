"""A storage's own workers, so that a dead one slows no other; bounded waits for them; one call in flight a PV."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Final, TypeVar

from kadalu_ext.errors import DeadlineError, InProgressError, KadaluExtError
from kadalu_ext.record import PvName
from kadalu_ext.storage import Storage

T = TypeVar("T")

WORKERS: Final = 32
"""Of one storage, each started when it is needed: what may hang on it at a time. With 64 claims at once 8 of them took
half as long again; 32 wait for gluster as long as 64 do."""

WAITERS: Final = 32
"""So many callers of one storage may wait for as long as they like; among more of them that time is shared. Otherwise
the claims of a dead storage would hold all of this server's threads, and all of csi-provisioner's."""

STUCK: Final = 8
STUCK_S: Final = 5.0
"""When so many workers of a storage have been at work for so long, it is not asked what else it has."""

_DIAGNOSIS_S: Final = 2.5
"""What is kept of a caller's time to find out, when there is no answer, which brick is silent."""


class Workers:
    """Of one storage. Thread-safe.

    storage: as it is now, for messages. silent: for the end of a message, which bricks are the reason that there is no
    answer; it may take as long as _DIAGNOSIS_S.
    """

    def __init__(self, storage: Callable[[], Storage], *, silent: Callable[[], str]) -> None:
        self._storage = storage
        self._silent = silent
        self._executor = ThreadPoolExecutor(WORKERS, thread_name_prefix=f"storage-{storage().name}")
        self._lock = threading.Lock()
        self._in_flight: dict[PvName, float] = {}
        self._at_work: dict[object, float] = {}
        """Since when each worker has been at what it does."""
        self._last_failure = ""

    @contextmanager
    def working(self, name: PvName, work: Callable[[], T], timeout_s: float) -> Iterator[T]:
        """The result of `work`, done by a worker. The PV is taken until the block has ended and `work` as well.

        Raises: InProgressError if it is taken; as `result`.
        """
        self._take(name)
        future: Future[T] | None = None
        try:
            future = self.submit(work)
            yield self.result(future, timeout_s)
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

    def submit(self, work: Callable[[], T]) -> Future[T]:
        """Done by a worker when one is free."""

        def noted() -> T:
            worker = object()
            self._at_work[worker] = time.monotonic()
            try:
                return work()
            finally:
                del self._at_work[worker]

        return self._executor.submit(noted)

    def result(self, future: Future[T], timeout_s: float) -> T:
        """Of what was submitted. Raises: what it does; DeadlineError after `timeout_s`, or its share (WAITERS)."""
        patience_s = self.patience(timeout_s)
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

    def patience(self, timeout_s: float) -> float:
        """How long a caller with so much time may wait."""
        with self._lock:
            return timeout_s * min(1.0, WAITERS / max(1, len(self._in_flight)))

    def check_answering(self) -> None:
        """Raises: DeadlineError if the storage is stuck."""
        if self.is_stuck():
            raise DeadlineError(
                f"{self._where()}: not asked, since {STUCK} calls have had no answer for {STUCK_S:g} s or more"
            )

    def is_stuck(self) -> bool:
        """Whether so many workers have waited for so long that nothing is likely to be answered."""
        now = time.monotonic()
        return sum(now - since > STUCK_S for since in list(self._at_work.values())) >= STUCK

    def in_flight(self) -> tuple[int, float]:
        """How many PVs are taken, and for how long, in seconds, the one that has been for longest; 0 if none is."""
        with self._lock:
            since = list(self._in_flight.values())
        return len(since), max(0.0, time.monotonic() - min(since)) if since else 0.0

    def close(self) -> None:
        """Waits for nothing. Not to be used afterwards."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _take(self, name: PvName) -> None:
        with self._lock:
            if (since := self._in_flight.get(name)) is not None:
                raise InProgressError(
                    f"{self._storage().name}/{name}: an earlier call has been at work for "
                    f"{time.monotonic() - since:.0f} s"
                )
            self._in_flight[name] = time.monotonic()

    def _free(self, name: PvName) -> None:
        with self._lock:
            del self._in_flight[name]

    def _where(self) -> str:
        storage = self._storage()
        return f"storage {storage.name}, volume {storage.volume}"
