"""Records that are changed in place: a PV that grows, and its limit of inodes. See adr/0014.

A record is never replaced by another one, since a brick that was down would remove the old one before it has the new
one, and lift the limit for that time. gluster has no compare-and-set, either: whoever writes it has read it before, and
another controller may have written in between. So what a growth promises stands beside the record, as an entry that
tells of the change, until a larger one stands there; and whoever finds after his write that others were there does it
again, with the largest size of all.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

from kadalu_ext.csi.promises import Promises, Reservation
from kadalu_ext.csi.records import Records
from kadalu_ext.errors import NotFoundError, RecordError
from kadalu_ext.record import PvName, QuotaRecord


class Changes:
    """Of one volume. Thread-safe for different PVs. Everything raises VolumeIOError."""

    def __init__(self, *, volume: str, records: Records, promises: Promises) -> None:
        self._volume = volume
        self._records = records
        self._promises = promises

    def present(self, name: PvName) -> QuotaRecord:
        """The PV's record. Raises: NotFoundError if there is no such PV; RecordError."""
        record = self._records.read(name)
        if record is None:
            raise NotFoundError(f"volume {self._volume} has no PV {name}")
        return record

    def grow(self, record: QuotaRecord, reservation: Reservation) -> QuotaRecord:
        """The record that is there now, at least as large as `record`, for which room was found.

        Raises: InProgressError if another controller has ended that; as `present`.
        """
        name, suffix = record.name, reservation.suffix
        now = self.present(name)
        if now.size_bytes >= record.size_bytes:
            self._records.unstage(name, suffix)
            return now
        if reservation.size_bytes > record.size_bytes:  # promised by one that did not get so far as to write it
            record = replace(record, size_bytes=reservation.size_bytes)
            self._records.prepare(record, suffix)
        self._records.promise(name, suffix)
        now = replace(now, size_bytes=record.size_bytes)
        self._records.write(now)
        self._records.forget_changes(name, reservation.changes)
        if self._changed(name, suffix) == 0:
            return self.settle(name)  # another one has grown it further, and may have been written over
        self._promises.learn(now, changes=frozenset({suffix}))
        return now

    def settle(self, name: PvName, *, inodes: int | None = None) -> QuotaRecord:
        """The record as it is now: as large as all that was promised to it, with that limit of inodes, or its own.

        What others prepare for it is ended. Raises: as `present`.
        """
        names = self._records.names()
        while True:
            for suffix in names.staged.get(name, ()):
                self._records.unstage(name, suffix)
            changes = names.of(name)
            # an entry goes only when the record is as large: read in this order one of the two says it
            sizes = [self._changed(name, suffix) for suffix in changes]
            record = self.present(name)
            record = replace(record, size_bytes=max(record.size_bytes, *sizes, 0), inodes=inodes or record.inodes)
            self._records.write(record)
            names = self._records.names()
            if name not in names.staged and names.of(name) == changes:
                self._promises.learn(record, changes=changes)
                return record

    def tidy(self, record: QuotaRecord) -> QuotaRecord:
        """The record as it is now, and nothing beside it that a growth has left which was interrupted."""
        names, name = self._records.names(), record.name
        if name not in names.staged and len(names.of(name)) < 2:
            return record
        record = self.settle(name)
        changes = self._records.names().of(name)
        largest = max(changes, key=lambda suffix: self._changed(name, suffix), default="")
        self._records.forget_changes(name, changes - {largest})
        return record

    def _changed(self, name: PvName, suffix: str) -> int:
        """In bytes, what that change promises; 0 if it is not there, or says nothing."""
        with suppress(RecordError):
            if (record := self._records.changed(name, suffix)) is not None:
                return record.size_bytes
        return 0
