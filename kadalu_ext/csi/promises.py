"""What a volume has promised: the sizes of all its records, and of those in preparation. It holds between controllers.

Whoever wants to promise something first prepares its record, under a name of his own that every controller sees, and
then counts: of two who do that at the same time at least the one who counts last sees both, so that together they never
promise too much. They may both refuse, and then try again. What he has found room for becomes true by a rename of what
he has prepared, and of nothing else: if somebody ended that, it does not.

Of several who prepare for one PV the latest goes on: whoever counts ends what others have prepared for it.

Whoever counts needs a listing that began after he had prepared his; calls that wait for one at a time share it. Of
records that were seen before, only the sizes are remembered. What has changed a size is an entry in the directory, that
says to how much, and tells everybody to read that record again; see changes.py.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from kadalu_ext.csi import capacity
from kadalu_ext.csi.records import Records
from kadalu_ext.errors import KadaluExtError, RecordError, VolumeIOError
from kadalu_ext.layout import RecordNames
from kadalu_ext.record import CANARY, PvName, QuotaRecord

TOTAL_S: Final = 10.0
"""For so long the volume's size is taken for what it was; a volume is enlarged by hand."""

READERS: Final = 8
"""Records that are not known are read side by side: after its start a controller knows none."""


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
    """suffix: of what was prepared. found: there is a record of that name already. changes: what has changed its size
    so far, and size_bytes: what it promises by all of these, 0 if that is not known."""

    suffix: str
    found: bool
    changes: frozenset[str]
    size_bytes: int


@dataclass(frozen=True, kw_only=True)
class _Known:
    """What a record promises, in bytes, None if it is no record of ours, and to whom, where its directory is called
    otherwise. after: how many changes of our own had been then."""

    size: int | None
    made_for: PvName | None
    changes: frozenset[str]
    after: int


@dataclass(frozen=True, kw_only=True)
class _Seen:
    """What one listing showed. foreign: in bytes, what others prepare. asked: how many had asked for a listing when it
    began."""

    names: RecordNames
    foreign: Mapping[tuple[PvName, str], int]
    asked: int


class Promises:
    """Of one volume, whichever storages share it. Thread-safe."""

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
        self._ours: dict[tuple[PvName, str], int] = {}
        """What is prepared by this process, by its suffix; in bytes, 0 until it was accepted."""
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
        publishes it, or promises it as a change, and lets this controller `learn` of it. If there is a record of that
        name already, nothing is prepared and nothing promised.

        growing: there is one, and it is to be changed.
        overcommit: of the storage that asks. Storages that share the volume share what is promised, each with its own.
        usable_bytes: asks the volume how much can be written to it.
        Raises: CapacityError if the storage cannot promise that much more; InProgressError if somebody else prepares
        for that PV; VolumeIOError. What cannot be ended after a failure is counted until it is swept.
        """
        name, suffix = record.name, secrets.token_hex(8)
        reservation: Reservation | None = None
        with self._lock:
            self._ours[name, suffix] = 0
        try:
            records.stage(record, suffix)
            reservation = self._decide(records, record, suffix, overcommit, usable_bytes, growing=growing)
            if reservation.found and not growing:
                records.unstage(name, suffix)
            yield reservation
        except BaseException as error:
            withdrawn = isinstance(error, KadaluExtError) and _withdrawn(records, name, suffix)
            if not withdrawn and reservation is not None and (growing or not reservation.found):
                # perhaps it is on the volume: a listing that began before must not be all that is counted
                self.learn(record, changes=reservation.changes | {suffix})
            raise
        finally:
            with self._lock:
                self._ours.pop((name, suffix), None)

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
            self._known[record.name] = _Known(
                size=record.size_bytes, made_for=record.made_for, changes=changes, after=self._changes
            )

    def whose(self, name: PvName) -> PvName | None:
        """For whom it was made, as far as that is known, where its directory is called otherwise."""
        with self._lock:
            known = self._known.get(name)
            return None if known is None else known.made_for

    def is_settled(self, name: PvName) -> bool:
        """Whether `knows`, and nothing was in preparation for it then."""
        with self._lock:
            return name in self._known and (self._seen is None or name not in self._seen.names.staged)

    def forget(self, name: PvName) -> frozenset[str]:
        """The record of `name` is gone; what told of changes of its size, as far as that is known."""
        with self._lock:
            known = self._known.pop(name, None)
            return frozenset() if known is None else known.changes

    def _decide(
        self,
        records: Records,
        record: QuotaRecord,
        suffix: str,
        overcommit: float,
        usable_bytes: Callable[[], int],
        *,
        growing: bool,
    ) -> Reservation:
        name, asked = record.name, self._ask()
        with self._deciding:
            seen = self._look(records, asked)
            found = name in seen.names.whole
            others = seen.names.staged.get(name, frozenset()) - {suffix}
            ended = {other for other in others if records.unstage(name, other)}
            if ended != others and not found:
                found = records.is_there(name)  # it was ended before, or has become the record since it was listed
            if growing or not found:
                self._accept(record, suffix, seen, overcommit, self._usable(usable_bytes))
        with self._lock:
            known = self._known.get(name)
        size = known.size if known is not None and name in seen.names.whole else None
        return Reservation(suffix=suffix, found=found, changes=seen.names.of(name), size_bytes=size or 0)

    def _accept(self, record: QuotaRecord, suffix: str, seen: _Seen, overcommit: float, usable: int) -> None:
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
            self._ours[record.name, suffix] = record.size_bytes

    def _sizes(self, seen: _Seen) -> dict[PvName, int]:
        """What each name promises: what was seen, and what this process has done since and is about to do."""
        sizes = {name: known.size for name, known in self._known.items() if known.size is not None}
        sizes |= {PvName(f".{entry}"): size for entry, size in self._archived.items()}  # names that no PV has
        for prepared in (seen.foreign, self._ours):
            for (name, _), size in prepared.items():
                if size:
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
            changed = {name for name, known in self._known.items() if known.changes != names.of(name)}
            for name in changed | (self._known.keys() - names.whole):
                if self._known[name].after <= before:
                    del self._known[name]
            unknown = names.whole - (self._known.keys() - changed) - {CANARY}
            foreign = {(name, each) for name, suffixes in names.staged.items() for each in suffixes} - self._ours.keys()
            self._archived = {entry: size for entry, size in self._archived.items() if entry in names.archived}
        with ThreadPoolExecutor(READERS) as readers:
            list(readers.map(lambda name: self._read(records, name, names, before), unknown))
        for entry in names.archived - self._archived.keys():
            if record := self._checked(entry, partial(records.archived, entry)):
                self._archived[entry] = record.size_bytes
        prepared = {each: self._prepared(records, *each) for each in foreign if each[0] != CANARY}
        self._seen = _Seen(names=names, foreign=prepared, asked=began)
        return self._seen

    def _read(self, records: Records, name: PvName, names: RecordNames, before: int) -> None:
        size, record = self._promised(records, name, names.of(name))
        made_for = None if record is None else record.made_for
        with self._lock:
            new = _Known(size=size, made_for=made_for, changes=names.of(name), after=before)
            known = self._known.setdefault(name, new)
            if size is not None:  # learned meanwhile, and perhaps changed by another controller, too
                self._known[name] = replace(known, size=max(size, known.size or 0))

    def _prepared(self, records: Records, name: PvName, suffix: str) -> int:
        record = self._checked(name, partial(records.staged, name, suffix))
        if record is not None:
            return record.size_bytes
        # it became the record, or a change of it, after it was listed
        return self._promised(records, name, {suffix})[0] or 0

    def _promised(
        self, records: Records, name: PvName, changes: Collection[str]
    ) -> tuple[int | None, QuotaRecord | None]:
        """What is promised by the record and by what changes it, which goes only after the record is as large: these
        are read first. And that record."""
        larger = [self._checked(name, partial(records.changed, name, each)) for each in changes]
        record = self._checked(name, partial(records.read, name))
        if record is None:
            return None, None
        return max(each.size_bytes for each in (record, *larger) if each is not None), record

    def _checked(self, name: str, read: Callable[[], QuotaRecord | None]) -> QuotaRecord | None:
        """None if it was deleted meanwhile, or is no record: no brick enforces it, and nothing was promised by it."""
        try:
            return read()
        except RecordError:
            return None
        except VolumeIOError as error:
            raise VolumeIOError(
                error.errno,
                f"it is not known how much is promised, since the size of {name} cannot be read: {error}; on a brick "
                f"host, `gluster volume heal {self._volume} info` tells whether the bricks disagree",
            ) from error


def _withdrawn(records: Records, name: PvName, suffix: str) -> bool:
    """Whether nothing comes of what was prepared, which is so if it was still there."""
    try:
        return records.unstage(name, suffix)
    except KadaluExtError:
        return False
