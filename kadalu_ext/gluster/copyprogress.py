"""How far a copy of a tree is, and whether it may go on."""

from __future__ import annotations

import math
import threading
import time


class CopyProgress:
    """For whoever looks; and how to stop it. Thread-safe.

    stopped_by: another copy's, which stops this one as well.
    """

    def __init__(self, stopped_by: CopyProgress | None = None) -> None:
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._stopped_by = stopped_by
        self._until = math.inf
        self.files = 0
        """Everything but directories."""
        self.size_bytes = 0
        """Of regular files, without their holes."""
        self.known_bytes: int | None = None
        """What the source holds, if that is known: about what `size_bytes` becomes."""

    def add(self, *, files: int = 0, size_bytes: int = 0) -> None:
        with self._lock:
            self.files += files
            self.size_bytes += size_bytes

    def stop(self) -> None:
        """The copy ends with DeadlineError before its next step."""
        self._stopped.set()

    def allow_until(self, until: float) -> None:
        """It also ends so at that time of time.monotonic(), unless this is called again before."""
        self._until = until

    @property
    def allowed_until(self) -> float:
        """Of time.monotonic(); before all times once it was told to stop."""
        if self._stopped.is_set():
            return -math.inf
        return self._until if self._stopped_by is None else min(self._until, self._stopped_by.allowed_until)

    @property
    def stopped(self) -> bool:
        return time.monotonic() > self.allowed_until
