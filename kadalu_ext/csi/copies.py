"""PVs and snapshots that are copies of others: what may be copied, and the copying itself.

A copy is made as any PV is, and every brick enforces its size before its first byte is written. Its record says that it
is `filling` from its birth until it is whole: nothing is forgotten when the controller dies meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from errno import ENOENT, ENOSPC
from typing import Final

from kadalu_ext.csi.ports import CopyProgress, VolumeStore
from kadalu_ext.csi.records import Records
from kadalu_ext.errors import CapacityError, ConflictError, DeadlineError, InProgressError, NotFoundError, VolumeIOError
from kadalu_ext.gluster.geometry import Geometry, VolumeKind
from kadalu_ext.gluster.messages import Gfid
from kadalu_ext.layout import pv_path
from kadalu_ext.record import SNAPSHOT_KIND, PvName, QuotaRecord
from kadalu_ext.units import MIB, format_bytes

_ROUNDED_BYTES: Final = MIB
"""Limits are rounded up to blocks on each brick."""


class Copies:
    """Of one volume. Thread-safe. Everything raises VolumeIOError."""

    def __init__(self, *, volume: str, store: VolumeStore, records: Records, geometry: Callable[[], Geometry]) -> None:
        self._volume = volume
        self._store = store
        self._records = records
        self._geometry = geometry

    def snapshot(self, name: PvName, source: PvName, *, now_s: int) -> QuotaRecord:
        """The record of the snapshot that there is under that name, or of the one that is to be made.

        It is charged with its source's size: a restored PV is never smaller, and it may become as large.
        Raises: ConflictError if it is one of another source; NotFoundError if there is no such source; RecordError.
        """
        present = self._records.read(name)
        if present is not None:
            if present.kind != SNAPSHOT_KIND or present.source != source:
                raise ConflictError(
                    f"{name}: exists as a snapshot of {present.source}, and was asked for as one of {source}; choose "
                    "another name"
                )
            return present
        return QuotaRecord(
            path=pv_path(name),
            size_bytes=self._source(source).size_bytes,
            kind=SNAPSHOT_KIND,
            source=source,
            filling=True,
            made_s=now_s,
        )

    def of_source(self, record: QuotaRecord) -> QuotaRecord:
        """The record with what a copy has of its source: its files' group. What is no copy is left as it is.

        Raises: NotFoundError if it is gone; InProgressError while it is filled itself; CapacityError if it is larger.
        """
        if record.source is None:
            return record
        source = self._source(record.source)
        if record.size_bytes < source.size_bytes:
            raise CapacityError(
                f"{record.name}: {format_bytes(record.size_bytes)} is less than its source {source.name} has: "
                f"{format_bytes(source.size_bytes)} ({source.size_bytes} bytes); ask for that much or more"
            )
        return replace(record, gid=source.gid)

    def _source(self, name: PvName) -> QuotaRecord:
        source = self._records.read(name)
        if source is None:
            raise NotFoundError(
                f"volume {self._volume} has no {name}: what is to be copied is not there, or not any more"
            )
        if source.filling:
            raise InProgressError(f"{name}: what is to be copied is itself still being filled")
        return source

    def fill(self, name: PvName, progress: CopyProgress) -> None:
        """The copy is whole, and its record says so, when this returns. Repeatable: it goes on where it was.

        Nobody else may be filling it. Its size must be enforced.
        Raises: NotFoundError if its source is gone; DeadlineError if `progress` was told to stop.
        """
        record = self._records.read(name)
        if record is None or record.source is None or not record.filling:
            return
        source = pv_path(record.source)
        identity = self._identity(source)
        gone = NotFoundError(f"{name}: its source {record.source} was deleted before the copy was whole")
        if identity is None:
            raise gone
        progress.known_bytes = self._used_bytes(record.source)
        begun = bool(self._store.listdir(record.path, 1))
        try:
            self._copy(source, record, progress)
            if begun:
                # Whoever began it may have been late with a step or two: what he has spoilt is copied again.
                self._copy(source, record, CopyProgress(progress))
        except VolumeIOError as error:
            if self._identity(source) != identity:
                raise gone from error
            raise
        if self._identity(source) != identity:
            raise gone  # it was moved to the trash, and may have been emptied under the copier's hands
        if progress.stopped:
            raise DeadlineError(f"{name}: it is no longer filled here")
        now = self._records.read(name)  # somebody may have changed it since
        self._records.write(replace(now or record, filling=False))

    def _used_bytes(self, source: PvName) -> int | None:
        """What it holds, as its limit counts; None where there is no limit, and the figures are the volume's."""
        record, stat = self._records.read(source), self._store.statvfs(pv_path(source))
        if record is None or stat.total_bytes > record.size_bytes + _ROUNDED_BYTES:
            return None
        return stat.total_bytes - stat.free_bytes

    def _copy(self, source: str, record: QuotaRecord, progress: CopyProgress) -> None:
        geometry = self._geometry()
        one_brick = geometry.kind is VolumeKind.BRICK and len(geometry.bricks) == 1
        try:
            self._store.copy_tree(source, record.path, progress, server_side=one_brick)
        except VolumeIOError as error:
            if error.errno == ENOSPC:
                raise VolumeIOError(
                    ENOSPC,
                    f"{record.name}: its {format_bytes(record.size_bytes)} do not hold what {record.source} has, or "
                    f"the bricks are full: {error}. Delete something from the source, or ask for a larger copy",
                ) from error
            raise

    def refill(self, record: QuotaRecord) -> QuotaRecord:
        """The record as it is from now on: if the copy's directory is gone, it has to be filled again."""
        if record.source is None or record.filling or self._identity(record.path) is not None:
            return record
        record = replace(record, filling=True)
        self._records.write(record)
        return record

    def _identity(self, path: str) -> Gfid | None:
        try:
            return self._store.gfid(path)
        except VolumeIOError as error:
            if error.errno != ENOENT:
                raise
            return None
