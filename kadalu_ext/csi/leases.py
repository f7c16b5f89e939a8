"""Who fills a copy: one controller at a time, though there may be two during a hand-over. See adr/0018.

The one that does has an empty directory beside the record, with its own mark in the name, and writes something new to
it every BEAT_S. Whoever finds another's sees for LEASE_S whether that goes on. If not, he removes it, which its holder
notices; who cannot renew his own stops copying after HOLD_S, which is earlier. Then he makes his own, and looks who
else is there: of several who come at the same time at least the last sees the others, and gives way. No clock is
compared with another one's.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from errno import ENOENT
from typing import Final

import xxhash

from kadalu_ext.csi.ports import CopyProgress
from kadalu_ext.csi.records import Records
from kadalu_ext.errors import InProgressError, VolumeIOError
from kadalu_ext.record import PvName

BEAT_S: Final = 5.0
HOLD_S: Final = 30.0
"""A brick host that falls silent holds a call up for ten seconds, which is no reason to give a copy up."""
LEASE_S: Final = 60.0
"""What a holder that is late may do in its last step is copied again: copies.py goes through such a copy twice."""


def mark(identity: str) -> str:
    """The 16 hexadecimal digits that stand for a controller. A process that is started in the place of an ended one has
    the same identity, and goes on at once."""
    return xxhash.xxh64(identity.encode()).hexdigest()


class Leases:
    """Of one volume, as the controller of that mark. Thread-safe for different PVs. clock: as time.monotonic."""

    def __init__(self, records: Records, me: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._records = records
        self._me = me
        self._clock = clock
        self._seen: dict[tuple[PvName, str], tuple[bytes, float]] = {}

    @contextmanager
    def held(self, name: PvName, progress: CopyProgress) -> Iterator[None]:
        """While the block runs nobody else fills the copy; or `progress` was told to stop.

        Raises: InProgressError if another controller does; VolumeIOError.
        """
        if not self._taken(name):
            raise InProgressError(
                f"{name}: another controller fills it; this one goes on with it once that was silent for {LEASE_S:g} s"
            )
        ended = threading.Event()
        keeper = threading.Thread(target=self._keep, args=(name, progress, ended), name="lease", daemon=True)
        progress.allow_until(time.monotonic() + HOLD_S)
        keeper.start()
        try:
            yield
        finally:
            ended.set()
            with suppress(VolumeIOError):  # another one waits for LEASE_S, then
                self._records.end_filling(name, self._me)

    def _taken(self, name: PvName) -> bool:
        others = self._others(name)
        silent = {other for other in others if self._is_silent(name, other)}
        if silent != others:
            return False
        for other in others:
            self._records.end_filling(name, other)
        self._records.begin_filling(name, self._me, _new())
        if self._others(name):  # who came at the same time may have seen this one, or not
            self._records.end_filling(name, self._me)
            return False
        self._seen = {key: seen for key, seen in self._seen.items() if key[0] != name}
        return True

    def _others(self, name: PvName) -> frozenset[str]:
        return self._records.names().fillers.get(name, frozenset()) - {self._me}

    def _is_silent(self, name: PvName, other: str) -> bool:
        beat, now = self._records.filling_beat(name, other), self._clock()
        before = self._seen.get((name, other))
        if before is None or before[0] != beat:
            self._seen[name, other] = (beat, now)
            return False
        return now - before[1] >= LEASE_S

    def _keep(self, name: PvName, progress: CopyProgress, ended: threading.Event) -> None:
        while not ended.wait(BEAT_S):
            began = time.monotonic()
            try:
                self._records.beat_filling(name, self._me, _new())
            except VolumeIOError as error:
                if error.errno == ENOENT:  # taken, or deleted
                    progress.stop()
                    return
            else:
                progress.allow_until(began + HOLD_S)


def _new() -> bytes:
    return secrets.token_bytes(8)
