"""The use cases on one volume: make a PV, wait until every brick enforces it, delete it.

Each step is one atomic call on the volume and each use case can be repeated: after a crash at any step, the same call
made again ends where an undisturbed one would have. Nobody else may work on the same PV meanwhile (clients.py).
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from errno import ENOENT
from functools import partial
from typing import Final, TypeVar

from kadalu_ext.csi import canary, enforcement, pvhealth
from kadalu_ext.csi.condition import Condition
from kadalu_ext.csi.copies import Copies
from kadalu_ext.csi.directories import GROUP_MODE, PV_MODE, Directories
from kadalu_ext.csi.gids import Gids, check_group
from kadalu_ext.csi.groups import Groups
from kadalu_ext.csi.leases import Leases, mark
from kadalu_ext.csi.ports import BrickProbe, CopyProgress, VolumeStore
from kadalu_ext.csi.promises import Promised, Promises, Reservation
from kadalu_ext.csi.records import Records
from kadalu_ext.csi.removal import OF_THE_VOLUME, Removal
from kadalu_ext.csi.same import check_same
from kadalu_ext.errors import (
    BricksDownError,
    CapacityError,
    KadaluExtError,
    NotFoundError,
    RecordError,
    VolumeIOError,
)
from kadalu_ext.gluster.brick import BrickAnswer
from kadalu_ext.gluster.geometry import Geometry
from kadalu_ext.gluster.messages import Gfid
from kadalu_ext.gluster.support import Reserve
from kadalu_ext.layout import (
    abandoned_path,
    archive_entry,
    filler_path,
    owner,
    pv_path,
    staged_record_path,
)
from kadalu_ext.record import CANARY, PvName, QuotaRecord
from kadalu_ext.storage import Quota, StorageName

T = TypeVar("T")


_FIRST_LOOK_S: Final = 0.005
_LOOK_GROWTH: Final = 1.6
_LONGEST_LOOK_S: Final = 0.25


@dataclass(frozen=True, kw_only=True)
class Bricks:
    """The volume's bricks as they are now, and how to ask them."""

    geometry: Geometry
    probe: BrickProbe
    reserve: Reserve = field(default_factory=Reserve)


class Volumes:
    """The PVs of one volume. Thread-safe for different PVs.

    Everything raises VolumeIOError, or BricksDownError where bricks that are down explain it.
    """

    def __init__(
        self,
        *,
        volume: str,
        store: VolumeStore,
        bricks: Bricks,
        promises: Promises,
        identity: str = "",
        storage: StorageName | None = None,
    ) -> None:
        self._volume = volume
        self._store = store
        self.bricks = bricks
        """May be replaced at any time: when the volume got other bricks."""
        self._promises = promises
        self._storage = storage
        self._directories = Directories(store)
        self._records = Records(store, self._directories)
        self._leases = Leases(self._records, mark(identity))
        self._removal = Removal(store, self._directories, self._records)
        self._groups = Groups(volume=volume, store=store, records=self._records, directories=self._directories)
        self._copies = Copies(volume=volume, store=store, records=self._records, geometry=lambda: self.bricks.geometry)

    def make(self, record: QuotaRecord, *, overcommit: float = 1.0, gids: Gids | None = None) -> Gfid:
        """The PV's directory, which is on the volume with its record when this returns; idempotent.

        overcommit: what may be promised in all, as a multiple of the volume's size. gids: one of which is to be its
        group, and no other PV's; None for none. A copy has its source's group instead, if that has one.
        Raises: ConflictError if the PV exists in another size or as a copy of something else; CapacityError; for a new
        copy, if its source is gone, not whole, or larger: NotFoundError, InProgressError, CapacityError; RecordError if
        the record cannot be read.
        """
        with self._explained():
            # Whoever waits for a brick or a copy asks again and again: that one is read first.
            known = record.source is not None or self._promises.knows(record.name)
            present = self._records.read(record.name) if known else None
            if present is None:
                record = self._copies.of_source(record)
            if present is None and self._make_new(record, overcommit, gids):
                return self._store.gfid(record.path)
            present = present or self._present(record.name)
            check_same(present, record)
            if present.source is None:
                check_group(present.name, present.gid, gids)
            present = self._copies.refill(present)
            if self._make_directory(present):
                # A delete was interrupted. Who waits for events learns of the new directory by a change of its record.
                self._records.write(present)
            return self._store.gfid(record.path)

    def _make_new(self, record: QuotaRecord, overcommit: float, gids: Gids | None) -> bool:
        record = replace(record, storage=self._storage)

        def make() -> bool:
            with self._reserved(record, overcommit) as reservation:
                if reservation.found:
                    return False
                prepared = self._with_group(record, gids)
                self._make_directory(prepared)
                published = self._publish(prepared, reservation)
            # otherwise it is somebody else's: looked at as one that was there
            return replace(published, storage=prepared.storage) == prepared

        return self._with_room(make)

    def _publish(self, record: QuotaRecord, reservation: Reservation) -> QuotaRecord:
        """What is the record now. A directory that several claims may come to, or that has a group, may be prepared by
        two controllers at a time, under one name: it is read again."""
        name, changes = record.name, reservation.changes
        if record.made_for is not None:
            # there may have been another of that name, of another size, that controllers remember
            changes = self._told_anew(name, changes)
        reservation.check(name)
        self._records.publish(name)
        published = record if record.made_for is None and record.gid is None else self._present(name)
        self._promises.learn(published, changes=changes)
        return published

    def _with_group(self, record: QuotaRecord, gids: Gids | None) -> QuotaRecord:
        """The record in preparation, with the group that the PV has from now on."""
        if record.source is not None:
            if record.gid is not None:
                self._groups.share(record.name, record.gid)
        elif gids is not None:
            try:
                record = replace(record, gid=self._groups.take(record.name, gids))
            except CapacityError:
                self._records.unstage(record.name)
                raise
            self._records.prepare(record)
        return record

    def _make_directory(self, record: QuotaRecord) -> bool:
        """Whether it was not there. A copy's owner and mode come from its source, with the rest."""
        made = self._directories.make(record.path, PV_MODE)
        if record.gid is not None and record.source is None:
            self._store.own(record.path, uid=0, gid=record.gid, mode=GROUP_MODE)
        return made

    def snapshot(self, name: PvName, source: PvName, *, overcommit: float = 1.0) -> tuple[QuotaRecord, Gfid]:
        """The snapshot of that name, to be filled if its record says so, and its directory; idempotent.

        Raises: ConflictError if there is one of another source; NotFoundError if the source is gone; as `make`.
        """
        with self._explained():
            record = self._copies.snapshot(name, source, now_s=int(time.time()))
        gfid = self.make(record, overcommit=overcommit)
        return self.record(name) or record, gfid

    def fill(self, name: PvName, progress: CopyProgress) -> None:
        """The copy is whole, and its record says so, when this returns. Nobody else in this process may be filling it.

        Raises: NotFoundError if its source is gone; InProgressError if another controller fills it; DeadlineError if
        `progress` was told to stop, or another controller has taken over.
        """
        with self._explained(), self._leases.held(name, progress):
            self._copies.fill(name, progress)

    def wait_present_enforced(self, record: QuotaRecord, *, deadline: float) -> None:
        """As `wait_enforced`, for what was made some time ago and is not deleted meanwhile."""
        with self._explained():
            gfid = self._store.gfid(record.path)
        self.wait_enforced(record, gfid, deadline=deadline)

    def grow(self, name: PvName, size_bytes: int, *, overcommit: float = 1.0) -> tuple[QuotaRecord, Gfid]:
        """The PV's record, which promises at least `size_bytes`, and its directory; idempotent. No PV ever shrinks.

        Raises: NotFoundError if there is no such PV; CapacityError; RecordError.
        """
        with self._explained():
            record = self._present(name)
            if record.size_bytes < size_bytes:
                larger = replace(record, size_bytes=size_bytes)
                record = self._with_room(partial(self._write_larger, larger, overcommit))
            elif self._records.read(name, staged=True):
                self._tell_growth(record, self._records.names().changes.get(name, frozenset()))  # it was interrupted
                self._records.unstage(name)
            return record, self._store.gfid(record.path)

    def _write_larger(self, record: QuotaRecord, overcommit: float) -> QuotaRecord:
        """The record that is there now. Another controller may have written one meanwhile: it is read anew."""
        with self._reserved(record, overcommit, growing=True) as reservation:
            now = self._present(record.name)
            if now.size_bytes < record.size_bytes:
                now = replace(now, size_bytes=record.size_bytes)
                reservation.check(now.name)
                self._records.write(now)
            self._tell_growth(now, reservation.changes)
            self._records.unstage(now.name)
        return now

    def _tell_growth(self, record: QuotaRecord, earlier: frozenset[str]) -> None:
        """Every controller reads the record again; only then it may be prepared no longer."""
        self._promises.learn(record, changes=self._told_anew(record.name, earlier))

    def _told_anew(self, name: PvName, earlier: frozenset[str]) -> frozenset[str]:
        """What tells every controller from now on to read that size again, in place of what did so earlier."""
        self._records.forget_changes(name, earlier)
        return frozenset({self._records.tell_change(name)})

    def _with_room(self, call: Callable[[], T]) -> T:
        """What the call returns; if there is no room for it, it is made again where people have removed archives."""
        try:
            return call()
        except CapacityError:
            if not self._removal.forget_what_people_removed():
                raise
        return call()

    def limit_inodes(self, name: PvName, inodes: int) -> tuple[QuotaRecord, Gfid]:
        """The PV's record, which allows as many inodes as that from now on, and its directory; idempotent.

        Raises: NotFoundError if there is no such PV; RecordError.
        """
        with self._explained():
            record = replace(self._present(name), inodes=inodes)
            self._records.write(record)
            return record, self._store.gfid(record.path)

    def promised(self) -> Promised:
        """What the volume has promised."""
        with self._explained():
            now = self._promises.promised(self._records, usable_bytes=self._usable_bytes)
            if now.archived and self._removal.forget_what_people_removed():
                now = self._promises.promised(self._records, usable_bytes=self._usable_bytes)
            return now

    def left(self) -> frozenset[str]:
        """What calls have left, or need for a moment: in preparation, abandoned, and the marks of who filled what was
        deleted. As `sweep` takes it."""
        with self._explained():
            names = self._records.names()
        deleted = names.fillers.keys() - names.whole
        return (
            names.staged | names.abandoned | {_filler(name, each) for name in deleted for each in names.fillers[name]}
        )

    def sweep(self, left: Collection[str]) -> Mapping[str, VolumeIOError]:
        """Abandons what is in preparation, and ends the rest: of `left`, which was there for long enough.

        What cannot be ended, and why, by its path, with what of the archive cannot be forgotten; it does not stop the
        rest. See housekeeping.py for how long that is. Repeatable.
        """
        if not left:
            return self._removal.stuck
        stuck: dict[str, VolumeIOError] = {}

        def end(path: str, *steps: Callable[[], object]) -> None:
            try:
                for step in steps:
                    step()
            except VolumeIOError as error:
                if error.errno in OF_THE_VOLUME:
                    raise
                stuck[path] = error

        with self._explained():
            names = self._records.names()
            for name in names.staged.intersection(left):
                end(staged_record_path(name), partial(self._records.abandon, name))
            for entry in names.abandoned.intersection(left):
                grown = partial(self._end_growth, owner(entry), names.changes)
                end(abandoned_path(entry), grown, partial(self._records.forget_abandoned, entry))
            for name in names.fillers.keys() - names.whole:
                for each in names.fillers[name]:
                    if _filler(name, each) in left:
                        end(filler_path(name, each), partial(self._records.end_filling, name, each))
        return {**stuck, **self._removal.stuck}

    def _end_growth(self, name: PvName, changes: Mapping[PvName, frozenset[str]]) -> None:
        """Should it have been one, and got so far that the record is written, every controller reads that."""
        with suppress(RecordError):  # quotad tells of it
            if (record := self._records.read(name)) is not None:
                self._tell_growth(record, changes.get(name, frozenset()))

    def record(self, name: PvName) -> QuotaRecord | None:
        """The PV's record; None if it has none. Raises: RecordError."""
        with self._explained():
            return self._records.read(name)

    def names(self) -> frozenset[PvName]:
        """Of all that has a record, sooner or later: PVs and snapshots, not the canary."""
        with self._explained():
            return self._records.names().whole - {CANARY}

    def beat(self) -> None:
        """The canary has its next size on the volume when this returns, and is made if it is not there.

        Stopped at any step, the next beat mends it. Capacity is not asked: nobody writes to it.
        """
        with self._explained():
            try:
                present = self._records.read(CANARY)
            except RecordError:
                present = None  # not of our making: replaced
            size_bytes = canary.next_size(None if present is None else present.size_bytes)
            record = QuotaRecord(path=pv_path(CANARY), size_bytes=size_bytes)
            self._directories.make(record.path, PV_MODE)
            if present is None:
                self._records.stage(record)
                self._records.publish(CANARY)
            else:
                self._records.write(record)

    def _reserved(
        self, record: QuotaRecord, overcommit: float, *, growing: bool = False
    ) -> AbstractContextManager[Reservation]:
        return self._promises.reserve(
            self._records, record, overcommit=overcommit, usable_bytes=self._usable_bytes, growing=growing
        )

    def _present(self, name: PvName) -> QuotaRecord:
        record = self._records.read(name)
        if record is None:
            raise NotFoundError(f"volume {self._volume} has no PV {name}")
        return record

    def _usable_bytes(self) -> int:
        bricks = self.bricks
        total = self._store.statvfs("").total_bytes
        return bricks.reserve.usable_bytes(total, data_bricks=bricks.geometry.data_bricks)

    def wait_enforced(self, record: QuotaRecord, gfid: Gfid, *, deadline: float) -> None:
        """Returns once every brick that is up was seen to enforce what the record says. `deadline` is of
        time.monotonic().

        gfid: what `make` has returned just now, never what it returned for an earlier call: a PV that was deleted and
        made again is another directory.
        Raises: NotEnforcedError or BricksDownError, as soon as another look might not end before the deadline.
        """
        pause, longest_look = _FIRST_LOOK_S, 0.0
        while True:
            began = time.monotonic()
            error = self._not_enforced(record, *self._ask(record.path, gfid))
            if error is None:
                return
            now = time.monotonic()
            longest_look = max(longest_look, now - began)  # a second, if a brick is silent
            if now + pause + longest_look >= deadline:
                raise error
            time.sleep(pause)
            pause = min(pause * _LOOK_GROWTH, _LONGEST_LOOK_S)

    def _not_enforced(
        self, record: QuotaRecord, answers: Sequence[BrickAnswer], geometry: Geometry
    ) -> KadaluExtError | None:
        return enforcement.not_enforced(
            answers, geometry, size_bytes=record.size_bytes, inodes=record.inodes, volume=self._volume
        )

    def conditions(self, record: QuotaRecord, *, quota: Quota = Quota.REQUIRED) -> list[Condition]:
        """What is wrong with a PV, the worst first. Bounded by the probe's timeout. Raises: VolumeIOError alone."""
        gfid = None
        try:
            with self._explained():
                gfid = self._store.gfid(record.path)
        except BricksDownError as error:
            return [pvhealth.unusable(error)]
        except VolumeIOError as error:
            if error.errno != ENOENT:
                raise
        answers, geometry = self._ask(record.path if gfid else "", gfid)
        return pvhealth.conditions(record, answers, geometry, found=gfid is not None, quota=quota, volume=self._volume)

    def delete(self, name: PvName) -> None:
        """The PV's directory is in the trash and its record is gone when this returns; idempotent."""
        with self._explained():
            self._removal.to_trash(name)
            self._records.remove(name)
            self._records.unstage(name)
            self._groups.give_back(name)
            changes = self._promises.forget(name)
            if changes is None:
                changes = self._records.names().changes.get(name, frozenset())
            self._records.forget_changes(name, changes)

    def archive(self, name: PvName) -> None:
        """The PV's directory is in `archived`, and its record counts for it there, when this returns; idempotent."""
        with self._explained():
            entry = archive_entry(name, secrets.token_hex(8))
            if not self._removal.to_archive(name, entry):
                entry = self._removal.archived_without_record(name)
            if entry:
                self._records.archive(name, entry)
            self.delete(name)  # what is left of it

    def silent_bricks(self) -> str | None:
        """The bricks that do not answer, each with the reason; None if all do. Bounded by the probe's timeout."""
        answers, _ = self._ask("")
        return enforcement.describe(answer for answer in answers if answer.stat is None) or None

    def _ask(self, path: str, gfid: Gfid | None = None) -> tuple[Sequence[BrickAnswer], Geometry]:
        while True:
            bricks = self.bricks
            try:
                return bricks.probe.stat_directory(path, gfid=gfid), bricks.geometry
            except RuntimeError:  # closed: it was replaced meanwhile
                if bricks is self.bricks:
                    raise

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except VolumeIOError as error:
            if down := enforcement.bricks_down(*self._ask(""), volume=self._volume):
                raise down from error
            raise


def _filler(name: PvName, mark: str) -> str:
    return f"{name}.{mark}.filler"
