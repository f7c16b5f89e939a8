"""What is looked at on one volume every minute, whether anybody calls or not."""

from __future__ import annotations

import threading
from typing import Final

from kadalu_ext.csi.promises import Promised
from kadalu_ext.csi.volumes import Volumes
from kadalu_ext.errors import KadaluExtError
from kadalu_ext.log import Logger

EVERY_S: Final = 60.0


class Housekeeper:
    """A thread of one connection to a volume, which waits for nobody else and holds nobody up."""

    def __init__(self, volumes: Volumes, *, storage: str, log: Logger, every_s: float = EVERY_S) -> None:
        self._volumes = volumes
        self._storage = storage
        self._log = log
        self._every_s = every_s
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
        except KadaluExtError as error:
            self.promised = None
            self._log.debug("volume not looked at", storage=self._storage, reason=str(error))
