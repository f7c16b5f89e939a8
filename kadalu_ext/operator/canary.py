"""Looks at the canaries of all storages, and remembers what it saw. I/O: through the bricks' probe only."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from kadalu_ext.gluster.brick import Attribute, BrickAnswer
from kadalu_ext.gluster.geometry import Brick, Geometry
from kadalu_ext.layout import pv_path, record_path
from kadalu_ext.operator.enforcing import Enforcement, Known, judge, lags, learn
from kadalu_ext.record import CANARY, RECORD_XATTR
from kadalu_ext.storage import StorageName

GRACE_S: Final = 3.0
"""For so long a limit may differ from its record: it was changed this moment, and a busy quotad takes its time."""
_AGAIN_S: Final = 0.2

_RECORD: Final = Attribute(path=record_path(CANARY), name=RECORD_XATTR)


class Probe(Protocol):
    """What is needed of gluster.brick.BrickProbe."""

    def stat_directory(self, path: str, attribute: Attribute | None = None) -> Sequence[BrickAnswer]: ...


class Canaries:
    """Thread-safe; looks at one storage should follow one another. clock, sleep: time.monotonic and time.sleep."""

    def __init__(
        self, *, clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._clock = clock
        self._sleep = sleep
        self._lock = threading.Lock()
        self._known: dict[StorageName, tuple[str, dict[Brick, Known]]] = {}

    def look(self, name: StorageName, probe: Probe, geometry: Geometry, *, volume: str, volume_id: str) -> Enforcement:
        """What the bricks of this storage's volume say of the canary, now and earlier.

        A few milliseconds; where a brick does not follow, up to GRACE_S longer; bounded by the probe's timeout.
        """
        answers = self._settled(probe, geometry)
        with self._lock:
            earlier_id, earlier = self._known.get(name, (volume_id, {}))
        if earlier_id != volume_id:
            earlier = {}
        now = self._clock()
        known = {each.brick: learn(earlier.get(each.brick), each, geometry, now) for each in answers}
        with self._lock:
            self._known[name] = (volume_id, known)
        return judge(known, volume=volume, now=now)

    def forget(self, name: StorageName) -> None:
        """Nothing is remembered of a storage that is gone."""
        with self._lock:
            self._known.pop(name, None)

    def _settled(self, probe: Probe, geometry: Geometry) -> Sequence[BrickAnswer]:
        """Of each brick the first answer in which it does not lag, or its last one if it did all the time."""
        deadline = self._clock() + GRACE_S
        found: dict[Brick, BrickAnswer] = {}
        while True:
            for answer in probe.stat_directory(pv_path(CANARY), _RECORD):
                earlier = found.get(answer.brick)
                if earlier is None or lags(earlier, geometry):
                    found[answer.brick] = answer
            if not any(lags(answer, geometry) for answer in found.values()) or self._clock() >= deadline:
                return list(found.values())
            self._sleep(_AGAIN_S)
