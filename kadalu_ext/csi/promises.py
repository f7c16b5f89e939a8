"""What a volume has promised: the sizes of all its records, and of those in preparation. It holds between controllers.

Whoever wants to promise something first prepares its record, which every controller sees, and then counts: of two who
do that at the same time at least the one who counts last sees both, so that together they never promise too much. They
may both refuse, and then try again.

Whoever counts needs a listing that began after he had prepared his; calls that wait for one at a time share it. Of
records that were seen before, only the sizes are remembered. A size is changed in place by whoever has prepared
the larger one, and leaves an entry in the directory that tells everybody to read that record again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final

from kadalu_ext.csi import capacity
from kadalu_ext.csi.records import Records
from kadalu_ext.errors import CapacityError, DeadlineError, RecordError, VolumeIOError
from kadalu_ext.layout import RecordNames, owner
from kadalu_ext.record import CANARY, PvName, QuotaRecord

TOTAL_S: Final = 10.0
"""For so long the volume's size is taken for what it was; a volume is enlarged by hand."""

READERS: Final = 8
"""Records that are not known are read side by side: after its start a controller knows none."""


RESERVED_S: Final = 600.0
"""Whoever has found room in time makes use of it within that time. Preparations that are left are counted for longer:
see housekeeping.py."""


@dataclass(frozen=True, kw_only=True)
class Promised:
    """In bytes: what is promised, to how many PVs and snapshots, of what can be written to the volume in all. archived:
    how many of them are archived."""

    size_bytes: int
    pvs: int
    usable_bytes: int
    archived: int


@dataclass(frozen=True, kw_only=True)
class Reservation:
    """found: there is a record of that name already. changes: what told of changes of its size so far.

    until: for so long, of time.monotonic(), it is sure to be counted.
    """

    found: bool
    changes: frozenset[str]
    until: float

    def check(self, name: PvName) -> None:
        """To be called before what was promised is done. Raises: DeadlineError if it may not be counted any more."""
        if time.monotonic() > self.until:
            raise DeadlineError(
                f"{name}: more than {RESERVED_S / 60:.0f} minutes have passed since room was found for it; try again"
            )


@dataclass(frozen=True, kw_only=True)
class _Known:
    """A record's size in bytes, None if it is no record of ours. after: how many changes of our own had been then."""

    size: int | None
    changes: frozenset[str]
    after: int


@dataclass(frozen=True, kw_only=True)
class _Seen:
    """What one listing showed. foreign: in bytes, what other controllers prepare. asked: how many had asked for a
    listing when it began."""

    names: RecordNames
    foreign: Mapping[PvName, int]
    asked: int


class Promises:
    """Of one volume, whichever storages share it. Thread-safe; no two calls at a time may be about the same PV."""

    def __init__(self, *, volume: str) -> None:
        self._volume = volume
        self._lock = threading.Lock()
        self._deciding = threading.Lock()
        """Held from the listing to the decision: whoever decides later must see what an earlier one has counted."""
        self._asked = 0
        self._seen: _Seen | None = None
        """The last listing: it is as good for all who had asked before it began."""
        self._known: dict[PvName, _Known] = {}
        self._archived: dict[str, int] = {}
        self._ours: dict[PvName, int | None] = {}
        """What is prepared by this process; in bytes once it was accepted."""
        self._changes = 0
        self._usable_bytes = 0
        self._usable_until = 0.0

    @contextmanager
    def reserve(
        self,
        records: Records,
        record: QuotaRecord,
        *,
        overcommit: float,
        usable_bytes: Callable[[], int],
        growing: bool = False,
    ) -> Iterator[Reservation]:
        """While the block runs, what `record` promises is counted by every controller: it is prepared, and the block
        publishes it, and lets this controller `learn` of it. If there is a record of that name already, nothing is
        prepared and nothing promised.

        growing: there is one, and the block writes the new one, lets all controllers `learn` of it, and ends the
        preparation.
        overcommit: of the storage that asks. Storages that share the volume share what is promised, each with its own.
        usable_bytes: asks the volume how much can be written to it.
        Raises: CapacityError if the storage cannot promise that much more; VolumeIOError. After other exceptions it
        stays prepared and counted, until a retry or the PV's deletion.
        """
        name, until = record.name, time.monotonic() + RESERVED_S
        with self._lock:
            self._ours[name] = None
        try:
            if not records.begin(name) and not growing and records.read(name) is not None:
                # what is prepared is a growth, at work elsewhere or interrupted: it goes on counting
                yield Reservation(found=True, changes=frozenset(), until=until)
                return
            records.prepare(record)
            try:
                reservation = self._decide(records, record, overcommit, usable_bytes, until, growing=growing)
            except CapacityError:
                records.unstage(name)
                raise
            if reservation.found and not growing:
                records.unstage(name)
                yield reservation
                return
            try:
                yield reservation
            except BaseException:
                # perhaps it is on the volume: a listing that began before must not be all that is counted
                self.learn(record, changes=reservation.changes)
                raise
        finally:
            with self._lock:
                self._ours.pop(name, None)

    def promised(self, records: Records, *, usable_bytes: Callable[[], int]) -> Promised:
        """What is promised now. Raises: VolumeIOError."""
        asked = self._ask()
        with self._deciding:
            seen = self._look(records, asked)
            with self._lock:
                sizes = self._sizes(seen)
        return Promised(
            size_bytes=sum(sizes.values()),
            pvs=len(sizes),
            usable_bytes=self._usable(usable_bytes),
            archived=len(seen.names.archived),
        )

    def knows(self, name: PvName) -> bool:
        """Whether there was a record of `name` when it was looked last."""
        with self._lock:
            return name in self._known

    def learn(self, record: QuotaRecord, *, changes: frozenset[str]) -> None:
        """This is on the volume now, and `changes` are what tells of changes of its size."""
        with self._lock:
            self._changes += 1
            self._known[record.name] = _Known(size=record.size_bytes, changes=changes, after=self._changes)

    def forget(self, name: PvName) -> frozenset[str] | None:
        """The record of `name` is gone; what told of changes of its size, None if that is not known."""
        with self._lock:
            known = self._known.pop(name, None)
            return None if known is None else known.changes

    def _decide(
        self,
        records: Records,
        record: QuotaRecord,
        overcommit: float,
        usable_bytes: Callable[[], int],
        until: float,
        *,
        growing: bool,
    ) -> Reservation:
        asked = self._ask()
        with self._deciding:
            seen = self._look(records, asked)
            found = record.name in seen.names.whole
            if growing or not found:
                self._accept(record, seen, overcommit, self._usable(usable_bytes))
        changes = seen.names.changes.get(record.name, frozenset())
        return Reservation(found=found, changes=changes, until=until)

    def _accept(self, record: QuotaRecord, seen: _Seen, overcommit: float, usable: int) -> None:
        with self._lock:
            others = {name: size for name, size in self._sizes(seen).items() if name != record.name}
            capacity.check_promise(
                size=record.size_bytes,
                promised=sum(others.values()),
                pvs=len(others),
                total=usable,
                overcommit=overcommit,
                volume=self._volume,
            )
            self._ours[record.name] = record.size_bytes

    def _sizes(self, seen: _Seen) -> dict[PvName, int]:
        """What each name promises: what was seen, and what this process has done since and is about to do."""
        sizes = {name: known.size for name, known in self._known.items() if known.size is not None}
        sizes |= {PvName(f".{entry}"): size for entry, size in self._archived.items()}  # names that no PV has
        for prepared in (seen.foreign, self._ours):
            for name, size in prepared.items():
                if size is not None:
                    sizes[name] = max(size, sizes.get(name, 0))
        return sizes

    def _usable(self, usable_bytes: Callable[[], int]) -> int:
        if time.monotonic() >= self._usable_until:
            self._usable_bytes = usable_bytes()
            self._usable_until = time.monotonic() + TOTAL_S
        return self._usable_bytes

    def _ask(self) -> int:
        """Whose number is returned has prepared what he wants, and waits for a listing that begins afterwards."""
        with self._lock:
            self._asked += 1
            return self._asked

    def _look(self, records: Records, asked: int) -> _Seen:
        """All records, and what other controllers prepare. The canary promises nothing to anybody."""
        if self._seen is not None and self._seen.asked >= asked:
            return self._seen
        self._seen = None
        with self._lock:
            before, began = self._changes, self._asked
        names = records.names()
        with self._lock:
            for name, known in list(self._known.items()):
                stale = known.changes != names.changes.get(name, frozenset()) or name not in names.whole
                if stale and known.after <= before:
                    del self._known[name]
            unknown = names.whole - self._known.keys() - {CANARY}
            foreign = names.staged - self._ours.keys() - {CANARY}
            self._archived = {entry: size for entry, size in self._archived.items() if entry in names.archived}
        with ThreadPoolExecutor(READERS) as readers:
            list(readers.map(lambda name: self._read(records, name, names, before), unknown))
        for entry in names.archived - self._archived.keys():
            if size := self._size(entry, partial(records.archived, entry)):
                self._archived[entry] = size
        self._seen = _Seen(names=names, foreign=self._prepared(records, names, foreign), asked=began)
        return self._seen

    def _read(self, records: Records, name: PvName, names: RecordNames, before: int) -> None:
        size, changes = self._size(name, partial(records.read, name)), names.changes.get(name, frozenset())
        with self._lock:
            self._known.setdefault(name, _Known(size=size, changes=changes, after=before))

    def _prepared(self, records: Records, names: RecordNames, foreign: Iterable[PvName]) -> dict[PvName, int]:
        found: dict[PvName, int] = {}
        abandoned = set(names.abandoned)
        for name in foreign:
            # what was published or abandoned meanwhile was listed under its old name only
            size = self._size(name, partial(records.read, name, staged=True))
            if size is None:
                size = self._size(name, partial(records.read, name))
                abandoned |= {entry for entry in records.names().abandoned if owner(entry) == name}
            found[name] = size or 0
        for entry in abandoned:
            size = self._size(entry, partial(records.abandoned, entry))
            found[owner(entry)] = max(size or 0, found.get(owner(entry), 0))
        return found

    def _size(self, name: str, read: Callable[[], QuotaRecord | None]) -> int | None:
        """None if it was deleted meanwhile, or is no record: no brick enforces it, and nothing was promised by it."""
        try:
            record = read()
        except RecordError:
            return None
        except VolumeIOError as error:
            raise VolumeIOError(
                error.errno,
                f"it is not known how much is promised, since the size of {name} cannot be read: {error}; on a brick "
                f"host, `gluster volume heal {self._volume} info` tells whether the bricks disagree",
            ) from error
        return None if record is None else record.size_bytes
