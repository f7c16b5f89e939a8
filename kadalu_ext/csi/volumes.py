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
from typing import Final, TypeVar

from kadalu_ext.csi import canary, enforcement, pvhealth
from kadalu_ext.csi.changes import Changes
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
    InProgressError,
    KadaluExtError,
    RecordError,
    VolumeIOError,
)
from kadalu_ext.gluster.brick import BrickAnswer
from kadalu_ext.gluster.geometry import Geometry
from kadalu_ext.gluster.messages import Gfid
from kadalu_ext.gluster.support import Reserve
from kadalu_ext.layout import archive_entry, pv_path
from kadalu_ext.record import CANARY, RECORDS_DIR, PvName, QuotaRecord
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
        self._changes = Changes(volume=volume, records=self._records, promises=promises)
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
            present = present or self._changes.present(record.name)
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
                    return False  # looked at as one that was there
                prepared = self._with_group(record, gids, reservation.suffix)
                self._make_directory(prepared)
                self._publish(prepared, reservation)
            return True

        return self._with_room(make)

    def _publish(self, record: QuotaRecord, reservation: Reservation) -> None:
        name, changes = record.name, reservation.changes
        if record.made_for is not None or changes:
            # there may have been another of that name, of another size, that controllers remember
            changes = frozenset({self._records.tell_change(name)})
            self._records.forget_changes(name, reservation.changes)
        self._records.publish(name, reservation.suffix)
        self._promises.learn(record, changes=changes)

    def _with_group(self, record: QuotaRecord, gids: Gids | None, suffix: str) -> QuotaRecord:
        """The record in preparation, with the group that the PV has from now on."""
        if record.source is not None:
            if record.gid is not None:
                self._groups.share(record.name, record.gid)
        elif gids is not None:
            record = replace(record, gid=self._groups.take(record.name, gids))
            self._records.prepare(record, suffix)
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
            record = self._changes.present(name)
            larger = replace(record, size_bytes=size_bytes)

            def grow() -> QuotaRecord:
                with self._reserved(larger, overcommit, growing=True) as reservation:
                    return self._changes.grow(larger, reservation)

            record = self._with_room(grow) if record.size_bytes < size_bytes else self._changes.tidy(record)
            return record, self._store.gfid(record.path)

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
            record = self._changes.settle(name, inodes=inodes)
            return record, self._store.gfid(record.path)

    def promised(self) -> Promised:
        """What the volume has promised."""
        with self._explained():
            now = self._promises.promised(self._records, usable_bytes=self._usable_bytes)
            if now.archived and self._removal.forget_what_people_removed():
                now = self._promises.promised(self._records, usable_bytes=self._usable_bytes)
            return now

    def left(self) -> frozenset[str]:
        """What calls have left, or need for a moment: by its name in `info/quota`, as `sweep` takes it."""
        with self._explained():
            return self._records.names().left()

    def sweep(self, left: Collection[str]) -> Mapping[str, VolumeIOError]:
        """Ends what was there for long enough, of `left`: nothing comes of it then. See housekeeping.py.

        What cannot be ended, and why, by its path, with what of the archive cannot be forgotten; it does not stop the
        rest. Repeatable.
        """
        stuck: dict[str, VolumeIOError] = {}
        with self._explained():
            for entry in self.left().intersection(left) if left else ():
                try:
                    self._records.forget(entry)
                except VolumeIOError as error:
                    if error.errno in OF_THE_VOLUME:
                        raise
                    stuck[f"{RECORDS_DIR}/{entry}"] = error
        return {**stuck, **self._removal.stuck}

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
                self._records.stage(record, canary.SUFFIX)
                self._records.publish(CANARY, canary.SUFFIX)
            else:
                self._records.write(record)

    def _reserved(
        self, record: QuotaRecord, overcommit: float, *, growing: bool = False
    ) -> AbstractContextManager[Reservation]:
        return self._promises.reserve(
            self._records, record, overcommit=overcommit, usable_bytes=self._usable_bytes, growing=growing
        )

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

    def whose(self, name: PvName) -> PvName | None:
        """For whom that directory was made, as far as that is known, if it is called otherwise; asks nobody."""
        return self._promises.whose(name)

    def delete(self, name: PvName, *, of: PvName | None = None) -> None:
        """The PV's directory is in the trash and its record is gone when this returns; idempotent.

        of: whose it was when somebody wanted that, None if it is not known. Raises: InProgressError if it is another
        one's by now.
        """
        with self._explained():
            self._check_whose(name, of)
            changes = self._end_preparations(name)
            self._removal.to_trash(name)
            self._records.remove(name)
            self._forget(name, changes)

    def archive(self, name: PvName, *, of: PvName | None = None) -> None:
        """The PV's directory is in `archived`, and its record counts for it there, when this returns; idempotent.

        of: as `delete`.
        """
        with self._explained():
            self._check_whose(name, of)
            changes = self._end_preparations(name)
            entry = archive_entry(name, secrets.token_hex(8))
            if not self._removal.to_archive(name, entry):
                entry = self._removal.archived_without_record(name)
            if entry:
                self._records.archive(name, entry)
            else:
                self._records.remove(name)
            self._forget(name, changes)

    def _check_whose(self, name: PvName, of: PvName | None) -> None:
        if of is None:
            return
        with suppress(RecordError):  # quotad tells of it
            record = self._records.read(name)
            if record is not None and record.made_for != of:
                raise InProgressError(
                    f"{name}: this deletion was held up, and another controller has deleted what {of} had there; the "
                    f"directory is that of {record.made_for or name} now, and stays"
                )

    def _end_preparations(self, name: PvName) -> frozenset[str]:
        """Nothing that was in preparation becomes the record any more; what told of changes, if that is not known."""
        if self._promises.is_settled(name):
            return frozenset()
        names = self._records.names()
        for suffix in names.staged.get(name, ()):
            self._records.unstage(name, suffix)
        return names.of(name)

    def _forget(self, name: PvName, changes: frozenset[str]) -> None:
        self._groups.give_back(name)
        self._records.forget_changes(name, changes | self._promises.forget(name))

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
            self._directories.stand()
            yield
        except VolumeIOError as error:
            if down := enforcement.bricks_down(*self._ask(""), volume=self._volume):
                raise down from error
            raise
