"""How many events one KadaluStorage may have: what flaps would fill the API server with them. No I/O."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

BURST: Final = 50
EVERY_S: Final = 60.0
"""After the burst, one so often: as client-go does for each source and object (tools/record/events_cache.go), which
has 25, and one in five minutes."""

_KEPT: Final = 256


class EventBudget:
    """Thread-safe. What is refused is lost, and nothing with it: the status says all that an event would."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._spent: dict[str, float] = {}
        """By the storages' uids: when it will have all of it again."""

    def allows(self, uid: str) -> bool:
        """Whether there may be one more about the storage with `uid`, which counts as posted then."""
        now = self._clock()
        with self._lock:
            if len(self._spent) > _KEPT:
                self._spent = {each: at for each, at in self._spent.items() if at > now}
            until = max(now, self._spent.get(uid, now)) + EVERY_S
            if until - now > BURST * EVERY_S:
                return False
            self._spent[uid] = until
            return True
