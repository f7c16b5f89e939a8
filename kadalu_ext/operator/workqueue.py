"""Which storage is looked at next. Threads wait here for work; nothing else is known here of what it is."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

K = TypeVar("K")

LONG_S: Final = 0.5
"""What is at work for longer waits for a host: a live one answers within milliseconds."""


@dataclass(frozen=True, kw_only=True)
class QueueState:
    """waiting: due, and not begun. running: being worked on. oldest_s: for how long the oldest of either has been."""

    waiting: int
    running: int
    oldest_s: float


class WorkQueue(Generic[K]):
    """Each key at most once at a time, whatever happens meanwhile; the one that was due first comes first.

    patient: so many keys at a time may be at work that are slow: known to be so (`done(slow=True)`), or found to be.
    Known ones wait when there are more, so that dead hosts never hold all the threads. Thread-safe.
    """

    def __init__(self, *, patient: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._patient = patient
        self._clock = clock
        self._changed = threading.Condition()
        self._due: dict[K, float] = {}
        self._running: dict[K, float] = {}
        self._slow: set[K] = set()
        self._stopped = False

    def add(self, key: K, *, delay_s: float = 0.0) -> None:
        """`key` is to be worked on in `delay_s` seconds, or earlier if that was said before; once more if it is now."""
        due = self._clock() + delay_s
        with self._changed:
            self._due[key] = min(due, self._due.get(key, due))
            self._changed.notify()

    def take(self) -> K | None:
        """Waits for a key to be due; None once the queue is stopped. `done` must follow."""
        with self._changed:
            while not self._stopped:
                now = self._clock()
                key = self._next(now)
                if key is not None:
                    del self._due[key]
                    self._running[key] = now
                    return key
                self._changed.wait(self._pause(now))
            return None

    def done(self, key: K, *, slow: bool) -> None:
        """It was worked on. slow: it had to wait for a host, and would have to again."""
        with self._changed:
            del self._running[key]
            (self._slow.add if slow else self._slow.discard)(key)
            self._changed.notify_all()

    def forget(self, key: K) -> None:
        """It is gone; what is at work goes on."""
        with self._changed:
            self._due.pop(key, None)
            self._slow.discard(key)

    def stop(self) -> None:
        """Whoever waits is sent home."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def state(self) -> QueueState:
        """For metrics and health."""
        with self._changed:
            now = self._clock()
            waiting = [due for due in self._due.values() if due <= now]
            since = [*waiting, *self._running.values()]
            return QueueState(
                waiting=len(waiting), running=len(self._running), oldest_s=now - min(since) if since else 0.0
            )

    def _next(self, now: float) -> K | None:
        held = sum(key in self._slow or now - since > LONG_S for key, since in self._running.items())
        ready = [
            (due, key)
            for key, due in self._due.items()
            if due <= now and key not in self._running and (held < self._patient or key not in self._slow)
        ]
        return min(ready, key=lambda found: found[0])[1] if ready else None

    def _pause(self, now: float) -> float | None:
        """Until something may be due; None: until somebody says so."""
        later = [due - now for key, due in self._due.items() if due > now]
        return min(later, default=None)
