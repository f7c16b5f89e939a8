"""Fills the copies of one volume in the background: a few at a time, found again on the volume after a restart."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final

from kadalu_ext.csi.figures import CopyFigures
from kadalu_ext.csi.ports import CopyProgress
from kadalu_ext.csi.volumes import Volumes
from kadalu_ext.errors import InProgressError, KadaluExtError, NotFoundError, RecordError
from kadalu_ext.log import Logger
from kadalu_ext.record import PvName, QuotaRecord
from kadalu_ext.units import format_bytes

AT_A_TIME: Final = 2
"""Copies of one storage. Each has several threads, and pods want something of the bricks, too."""

LOOK_AGAIN_S: Final = 60.0
"""After the records could not be looked through; and at copies that another controller fills."""

_ENFORCED_S: Final = 30.0
_STOP_S: Final = 5.0
"""A copier stops before its next MiB, or its next name."""


@dataclass(eq=False, kw_only=True)
class _Job:
    name: PvName
    source: PvName | None
    progress: CopyProgress = field(default_factory=CopyProgress)
    began_s: float = field(default_factory=time.monotonic)
    ended: threading.Event = field(default_factory=threading.Event)
    error: KadaluExtError | None = None
    work: Future[None] | None = None
    running: bool = False


class Taken:
    """The names that somebody in this process fills: storages may share a volume. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._names: set[PvName] = set()

    def take(self, name: PvName) -> bool:
        with self._lock:
            free = name not in self._names
            self._names.add(name)
            return free

    def give_back(self, name: PvName) -> None:
        with self._lock:
            self._names.discard(name)


class Filler:
    """Of one connection to a volume. Thread-safe."""

    def __init__(
        self, volumes: Volumes, *, storage: str, log: Logger, taken: Taken, enforced: Callable[[], bool]
    ) -> None:
        self._volumes = volumes
        self._storage = storage
        self._log = log
        self._taken = taken
        self._enforced = enforced
        """Whether nothing is copied before every brick that is up enforces the copy's size."""
        self._lock = threading.Lock()
        self._jobs: dict[PvName, _Job] = {}
        self._failures: dict[PvName, KadaluExtError] = {}
        self._elsewhere: set[PvName] = set()
        """Another controller filled them when it was looked last."""
        self._closed = threading.Event()
        self._workers = ThreadPoolExecutor(AT_A_TIME, thread_name_prefix=f"fill-{storage}")

    def start(self) -> None:
        """What an earlier process has begun is gone on with."""
        threading.Thread(target=self._find, name=f"filling-{self._storage}", daemon=True).start()

    def close(self) -> None:
        """Stops all copying, without waiting for it."""
        self._closed.set()
        with self._lock:
            jobs = list(self._jobs.values())
        for job in jobs:
            job.progress.stop()
        self._workers.shutdown(wait=False)

    def wait_closed(self, *, deadline: float) -> None:
        """Until nothing is copied any more, or `deadline`, of time.monotonic()."""
        with self._lock:
            jobs = [job for job in self._jobs.values() if job.running]
        for job in jobs:
            job.ended.wait(max(0.0, deadline - time.monotonic()))

    def fill(self, record: QuotaRecord, *, timeout_s: float) -> None:
        """Returns once the copy is whole.

        Raises: InProgressError, with its progress, if it is not whole within `timeout_s`; what its last try failed
        with, after which the next call tries again.
        """
        with self._lock:
            failure = self._failures.pop(record.name, None)
        if failure is not None:
            raise failure
        job = self._want(record)
        if job is None or not job.ended.wait(timeout_s):
            raise InProgressError(f"{self._storage}/{record.name}: {self._told(job, record)}")
        if job.error is not None:
            with self._lock:
                self._failures.pop(record.name, None)
            raise job.error

    def stop(self, name: PvName) -> None:
        """Nobody fills that copy when this returns. Raises: InProgressError if that cannot be had soon."""
        with self._lock:
            self._failures.pop(name, None)
            job = self._jobs.get(name)
        if job is None:
            return
        job.progress.stop()
        if job.work is not None and job.work.cancel():  # it waited for its turn
            self._end(job, None)
        if not job.ended.wait(_STOP_S):
            raise InProgressError(f"{self._storage}/{name}: it is being filled, and the copier has not stopped yet")

    def check_unused(self, name: PvName) -> None:
        """Raises: InProgressError if it is just being copied."""
        with self._lock:
            copies = [job.name for job in self._jobs.values() if job.source == name]
        if copies:
            raise InProgressError(
                f"{self._storage}/{name}: it is being copied to {copies[0]}, and can be deleted when that is whole"
            )

    def figures(self) -> tuple[int, tuple[CopyFigures, ...]]:
        """How many copies wait for their turn, and those that are being filled."""
        with self._lock:
            jobs = list(self._jobs.values())
        running = [job for job in jobs if job.running]
        return len(jobs) - len(running), tuple(
            CopyFigures(name=job.name, size_bytes=job.progress.size_bytes, known_bytes=job.progress.known_bytes)
            for job in running
        )

    def _want(self, record: QuotaRecord) -> _Job | None:
        """The job that fills it; None if somebody else does."""
        with self._lock:
            if (job := self._jobs.get(record.name)) is not None:
                return job
            if self._closed.is_set() or not self._taken.take(record.name):
                return None
            job = self._jobs[record.name] = _Job(name=record.name, source=record.source)
        try:
            job.work = self._workers.submit(self._run, job)
        except RuntimeError:  # closed just now
            self._end(job, None)
            return None
        return job

    def _told(self, job: _Job | None, record: QuotaRecord) -> str:
        if job is None:
            return f"it is being filled from {record.source}"
        if not job.running:
            return f"it waits for its turn to be filled from {record.source}; {AT_A_TIME} at a time are"
        progress = job.progress
        done = f"{progress.files} files, {format_bytes(progress.size_bytes)}"
        whole = f" of about {format_bytes(progress.known_bytes)}" if progress.known_bytes is not None else ""
        seconds = f"{time.monotonic() - job.began_s:.0f} s"
        return f"it is being filled from {record.source} for {seconds}, so far {done}{whole}"

    def _run(self, job: _Job) -> None:
        error: KadaluExtError | None = None
        job.began_s, job.running = time.monotonic(), True
        try:
            self._fill(job)
        except InProgressError as held:
            error = held
            self._log.info("copy filled elsewhere", storage=self._storage, pv=job.name, reason=str(held))
        except KadaluExtError as failed:
            error = failed
            self._log.warning("copy not whole yet", storage=self._storage, pv=job.name, reason=str(failed))
        except Exception as failed:
            error = InProgressError(f"{self._storage}/{job.name}: filling it crashed ({type(failed).__name__})")
            self._log.exception("filling a copy crashed", storage=self._storage, pv=job.name)
        self._end(job, error)

    def _end(self, job: _Job, error: KadaluExtError | None) -> None:
        with self._lock:
            if isinstance(error, InProgressError):
                self._elsewhere.add(job.name)
            elif error is not None and not job.progress.stopped:
                self._failures[job.name] = error
            job.error = error
            del self._jobs[job.name]
        self._taken.give_back(job.name)
        job.ended.set()

    def _fill(self, job: _Job) -> None:
        record = self._volumes.record(job.name)
        if record is None:
            raise NotFoundError(f"{self._storage}/{job.name}: it was deleted before it was whole")
        if not record.filling:
            return
        if job.progress.stopped:
            raise InProgressError(f"{self._storage}/{job.name}: filling it was stopped; a later call goes on")
        fields = {"storage": self._storage, "pv": record.name, "source": record.source}
        self._log.info("copy begun", **fields)
        if self._enforced():
            self._volumes.wait_present_enforced(record, deadline=time.monotonic() + _ENFORCED_S)
        self._volumes.fill(record.name, job.progress)
        seconds = round(time.monotonic() - job.began_s, 3)
        self._log.info("copy whole", **fields, files=job.progress.files, bytes=job.progress.size_bytes, seconds=seconds)

    def _find(self) -> None:
        names: Iterable[PvName] | None = None
        while not self._closed.is_set():
            try:
                for record in self._filling(self._volumes.names() if names is None else names):
                    self._want(record)
            except KadaluExtError as error:
                self._log.warning("copies not looked for yet", storage=self._storage, reason=str(error))
            except Exception:
                self._log.exception("looking for copies crashed", storage=self._storage)
            else:
                names = ()
            self._closed.wait(LOOK_AGAIN_S)
            if names is not None:
                with self._lock:
                    names, self._elsewhere = self._elsewhere, set()

    def _filling(self, names: Iterable[PvName]) -> Iterator[QuotaRecord]:
        for name in names:
            if self._closed.is_set():
                return
            try:
                record = self._volumes.record(name)
            except RecordError:
                continue  # kadalu-quotad tells of it
            if record is not None and record.filling:
                yield record
