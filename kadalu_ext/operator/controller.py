"""The loop around the reconciler: which storage is looked at when, by so many threads and no more.

A storage is looked at when it changes, when its PVs do, when gluster says that something did, and at an interval. What
goes wrong is tried again, ever more patiently.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Sequence
from typing import Final, Protocol

from kadalu_ext.errors import BusyError, KadaluExtError
from kadalu_ext.log import Logger
from kadalu_ext.operator.actions import PatchStatus, PostEvent, Problem
from kadalu_ext.operator.following import Seen
from kadalu_ext.operator.metrics import Key, Metrics
from kadalu_ext.operator.reasons import Reason
from kadalu_ext.operator.reconcile import Done
from kadalu_ext.operator.workqueue import WorkQueue

THREADS: Final = 48
PATIENT: Final = 16
"""So many of them, at most, wait for hosts that are known to be silent."""

SETTLE_S: Final = 0.2
"""glusterd tells of one change several times within moments, and PVs come and go by the dozen."""

HUNG_S: Final = 180.0
"""Everything in one look is bounded, and takes seconds: what has not ended after so long never will."""

_RETRY_S: Final = (1.0, 60.0)
"""After the API server refused something: at first, and at most."""

_SLOW: Final = frozenset({Reason.HOST_UNREACHABLE, Reason.UNEXPECTED_ANSWER})


class Reconciles(Protocol):
    """What is needed of reconcile.Reconciler."""

    def reconcile(self, namespace: str, name: str) -> Done: ...


class Watcher(Protocol):
    """Tells of changes on the gluster clusters themselves, where they tell of any."""

    def watch(self, key: Key, done: Done) -> None:
        """From now on, or still: what `done` found. Returns at once."""
        ...

    def forget(self, key: Key) -> None:
        """No more."""
        ...


class Controller:
    """Threads are started by `start`; until then it only takes note. interval_s: each storage again after so long."""

    def __init__(
        self,
        reconciler: Reconciles,
        *,
        interval_s: float,
        log: Logger,
        metrics: Metrics,
        watchers: Sequence[Watcher] = (),
    ) -> None:
        self._reconciler = reconciler
        self._interval_s = interval_s
        self._log = log
        self._metrics = metrics
        self.watchers = list(watchers)
        self.queue: WorkQueue[Key] = WorkQueue(patient=PATIENT)
        self._lock = threading.Lock()
        self._failures: dict[Key, int] = {}
        self._known: dict[str, dict[Key, object]] = {}
        metrics.waiting.set_function(lambda: self.queue.state().waiting)
        metrics.running.set_function(lambda: self.queue.state().running)

    def start(self) -> None:
        """Begins to work."""
        for number in range(THREADS):
            threading.Thread(target=self._work, name=f"reconcile-{number}", daemon=True).start()

    # --- what happened; called by followers and watchers ---

    def replace(self, scope: str, objects: Sequence[Seen]) -> None:
        """These are all KadaluStorages of a scope: one follower each."""
        found = {_key(seen): _mark(seen) for seen in objects}
        with self._lock:
            gone = self._known.get(scope, {}).keys() - found
            self._known[scope] = found
        for key in found.keys() | gone:  # those that are gone are found to be
            self.queue.add(key)

    def change(self, scope: str, kind: str, seen: Seen) -> None:
        """One was ADDED, MODIFIED or DELETED. That a status was written, mostly by us, is no reason to look."""
        key, mark = _key(seen), _mark(seen)
        with self._lock:
            known = self._known.setdefault(scope, {})
            earlier = known.pop(key, None)
            if kind != "DELETED":
                known[key] = mark
        if kind != "MODIFIED" or mark is None or mark != earlier:
            self.queue.add(key)

    def poke(self, storage: str) -> None:
        """Something about the storages of that name changed: in whatever namespace they are."""
        with self._lock:
            keys = [key for known in self._known.values() for key in known if key[1] == storage]
        for key in keys:
            self.queue.add(key, delay_s=SETTLE_S)

    def changed(self, key: Key) -> None:
        """Something about its volume did: often told several times, before all of it is done."""
        self.queue.add(key, delay_s=SETTLE_S)

    # --- work ---

    def _work(self) -> None:
        while (key := self.queue.take()) is not None:
            self.look(key)

    def look(self, key: Key) -> None:
        """Looks at one storage, which was taken from the queue. Never raises."""
        started = time.monotonic()
        slow, again_s = False, None
        try:
            done = self._reconciler.reconcile(*key)
            slow = isinstance(done.outcome, Problem) and done.outcome.reason in _SLOW
            again_s = self._succeeded(key, done)
            result = "gone" if done.gone else "done"
        except KadaluExtError as error:
            again_s, result = self._failed(key), "failed"
            if isinstance(error, BusyError):
                again_s = max(again_s, error.retry_after_s * random.uniform(1.0, 1.1))  # noqa: S311
            self._log.warning("storage not reconciled", **_fields(key), reason=str(error), again_s=round(again_s, 1))
        except Exception:
            again_s, result = self._failed(key), "crashed"
            self._log.exception("reconciling crashed", **_fields(key))
        finally:
            self.queue.done(key, slow=slow)
        self._metrics.seconds.labels(result).observe(time.monotonic() - started)
        if again_s is not None:
            self.queue.add(key, delay_s=again_s)

    def _succeeded(self, key: Key, done: Done) -> float | None:
        with self._lock:
            self._failures.pop(key, None)
        for action in done.actions:
            if not isinstance(action, PostEvent):  # the line of the status has what they tell
                self._log.info("storage changed", **_fields(key), **_told(action))
        if done.gone:
            self._metrics.storages.forget(key)
            for watcher in self.watchers:
                watcher.forget(key)
            return None
        self._metrics.storages.put(key, done)
        for watcher in self.watchers:
            watcher.watch(key, done)
        return self._interval_s * random.uniform(0.9, 1.1)  # noqa: S311 - so that not all come at once

    def _failed(self, key: Key) -> float:
        with self._lock:
            count = self._failures[key] = self._failures.get(key, 0) + 1
        least, most = _RETRY_S
        return float(min(most, least * 2 ** min(count - 1, 10)) * random.uniform(0.5, 1.0))  # noqa: S311

    def unhealthy(self) -> str:
        """Why it does not get on with its work; '' if it does."""
        oldest_s = self.queue.state().oldest_s
        return f"a KadaluStorage has been waited for or worked on for {oldest_s:.0f} s" if oldest_s > HUNG_S else ""


def _key(seen: Seen) -> Key:
    return seen["metadata"]["namespace"], seen["metadata"]["name"]


def _mark(seen: Seen) -> object:
    """Changes whenever there is something to be done, and not with the status; None if the API server has no such."""
    metadata = seen["metadata"]
    if metadata.get("generation") is None:
        return None
    finalizers = tuple(metadata.get("finalizers") or ())
    return metadata.get("uid"), metadata["generation"], metadata.get("deletionTimestamp"), finalizers


def _fields(key: Key) -> dict[str, object]:
    return {"namespace": key[0], "storage": key[1]}


def _told(action: object) -> dict[str, object]:
    fields: dict[str, object] = {"action": type(action).__name__}
    if isinstance(action, PatchStatus):
        ready = action.status["conditions"][-1]
        fields |= {key: ready[key] for key in ("type", "status", "reason", "message")}
    return fields
