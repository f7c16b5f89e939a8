"""Empties what was deleted. What the trash holds is looked up on the volume each time: nothing is lost by a restart."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import Final

from kadalu_ext.csi.directories import Directories
from kadalu_ext.csi.ports import VolumeStore
from kadalu_ext.errors import DeadlineError, KadaluExtError
from kadalu_ext.layout import TRASH_DIR, is_trash_name
from kadalu_ext.log import Logger

RETRY_S: Final = 60.0
"""After a failure, which nobody waits for: the PV is gone for everyone, only its space is not free yet."""

_TURN_S: Final = 10.0
"""For how long one tree is worked at before the next one gets its turn, and a stop is noticed."""


@dataclass(kw_only=True)
class Trash:
    """How much there is, for whoever looks. waiting: deleted PVs whose files are still there, None if nobody has looked
    yet. emptied: by this process."""

    waiting: int | None = None
    emptied: int = 0


def empty(store: VolumeStore, *, turn_s: float = _TURN_S, seen: Trash | None = None) -> dict[str, KadaluExtError]:
    """One turn at everything of ours in the trash. What is left, and why, by its name there; it does not stop the rest.

    A volume may have had a directory `trash` of its own before it was given to us: what we did not name stays.
    Raises: VolumeIOError or UnavailableError if the trash cannot be listed.
    """
    names = list(filter(is_trash_name, Directories(store).names(TRASH_DIR)))
    seen = seen or Trash()
    seen.waiting = len(names)
    left: dict[str, KadaluExtError] = {}
    for name in names:
        try:
            store.remove_tree(f"{TRASH_DIR}/{name}", deadline=time.monotonic() + turn_s)
        except KadaluExtError as error:
            left[name] = error
        else:
            seen.waiting -= 1
            seen.emptied += 1
    return left


class TrashCollector:
    """A thread that empties the trash of one volume: at its start, when it is woken, and again after a failure."""

    def __init__(self, store: VolumeStore, *, storage: str, log: Logger, retry_s: float = RETRY_S) -> None:
        self._store = store
        self._storage = storage
        self._log = log
        self._retry_s = retry_s
        self.seen = Trash()
        self._wake = threading.Event()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"trash-{storage}", daemon=True)

    def start(self) -> None:
        """Its first turn begins now: what an earlier process left is taken along."""
        self._wake.set()
        self._thread.start()

    def wake(self) -> None:
        """Something was moved to the trash."""
        self._wake.set()

    def stop(self) -> None:
        """Does not wait: the thread ends after its turn at one tree."""
        self._stopped.set()
        self._wake.set()

    def _run(self) -> None:
        clean = True
        while True:
            self._wake.wait(None if clean else self._retry_s)
            self._wake.clear()
            if self._stopped.is_set():
                return
            clean = self._turn()

    def _turn(self) -> bool:
        try:
            left = empty(self._store, seen=self.seen)
        except KadaluExtError as failed:
            left = {TRASH_DIR: failed}
        except Exception:
            self._log.exception("emptying the trash crashed", storage=self._storage)
            return False
        for name, error in left.items():
            if isinstance(error, DeadlineError):
                self._wake.set()  # its turn was over, or the client is still starting: go on at once
            else:
                self._log.warning("trash not emptied yet", storage=self._storage, entry=name, reason=str(error))
        return not left
