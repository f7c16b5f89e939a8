"""What is looked at on one volume every minute, whether anybody calls or not.

A controller that is killed leaves preparations behind (promises.py), which count until their claim is made or deleted.
Nobody comes back for some. What was seen for LEFT_S is removed, and nothing comes of it any more: whoever prepared it
and is only late hears that, and his retry begins anew.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection
from typing import Final

from kadalu_ext.csi.promises import Promised
from kadalu_ext.csi.volumes import Volumes
from kadalu_ext.errors import KadaluExtError
from kadalu_ext.log import Logger

EVERY_S: Final = 60.0
_SHOWN: Final = 10

LEFT_S: Final = 600.0
"""A call needs what it prepares for seconds."""


class Ages:
    """How long things have been seen. Not thread-safe. clock: as time.monotonic."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since: dict[str, float] = {}

    def old(self, there: Collection[str], *, age_s: float) -> frozenset[str]:
        """Those of `there` that were there at every call for so long."""
        now = self._clock()
        self._since = {each: self._since.get(each, now) for each in there}
        return frozenset(each for each, since in self._since.items() if now - since >= age_s)


class Housekeeper:
    """A thread of one connection to a volume, which waits for nobody else and holds nobody up."""

    def __init__(self, volumes: Volumes, *, storage: str, log: Logger, every_s: float = EVERY_S) -> None:
        self._volumes = volumes
        self._storage = storage
        self._log = log
        self._every_s = every_s
        self._ages = Ages()
        self._stuck: frozenset[str] = frozenset()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"housekeeping-{storage}", daemon=True)
        self.promised: Promised | None = None
        """As it was found last; None if it could not be looked at."""

    def start(self) -> None:
        """Its first look begins now."""
        self._thread.start()

    def stop(self) -> None:
        """Does not wait."""
        self._stopped.set()

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                self._turn()
            except Exception:
                self._log.exception("housekeeping crashed", storage=self._storage)
            self._stopped.wait(self._every_s)

    def _turn(self) -> None:
        try:
            self.promised = self._volumes.promised()
            old = self._ages.old(self._volumes.left(), age_s=LEFT_S)
            stuck = self._volumes.sweep(old)
            for path in sorted(stuck.keys() - self._stuck):
                self._log.warning("entry not swept", storage=self._storage, path=path, reason=str(stuck[path]))
            self._stuck = frozenset(stuck)
            if old and (swept := old - self._volumes.left()):
                self._log.info(
                    "preparations swept", storage=self._storage, entries=sorted(swept)[:_SHOWN], of=len(swept)
                )
        except KadaluExtError as error:
            self.promised = None
            self._log.debug("volume not looked at", storage=self._storage, reason=str(error))
