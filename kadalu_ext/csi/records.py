"""The quota records of one volume, read and written. Each method is one atomic step, or can be repeated."""

from __future__ import annotations

import secrets
from errno import ENODATA, ENOENT
from typing import Final

from kadalu_ext.csi.directories import Directories
from kadalu_ext.csi.ports import VolumeStore
from kadalu_ext.errors import RecordError, VolumeIOError
from kadalu_ext.layout import (
    RecordNames,
    abandoned_path,
    archived_record_path,
    changed_path,
    filler_path,
    owner,
    record_names,
    record_path,
    staged_record_path,
)
from kadalu_ext.record import RECORD_XATTR, RECORDS_DIR, PvName, QuotaRecord, decode, encode

RECORD_MODE: Final = 0o700
_BEAT_XATTR: Final = "user.kadalu.beat"


class Records:
    """Thread-safe. Everything raises VolumeIOError."""

    def __init__(self, store: VolumeStore, directories: Directories) -> None:
        self._store = store
        self._directories = directories

    def read(self, name: PvName, *, staged: bool = False) -> QuotaRecord | None:
        """The record of `name`, or the one in preparation; None if there is none. Raises: RecordError."""
        return self._read(staged_record_path(name) if staged else record_path(name), name)

    def _read(self, path: str, name: PvName) -> QuotaRecord | None:
        try:
            return decode(name, self._store.getxattr(path, RECORD_XATTR))
        except VolumeIOError as error:
            # a directory without the xattr was not made by us: whoever makes the record replaces it
            if error.errno not in (ENOENT, ENODATA):
                raise
            return None

    def is_there(self, name: PvName, *, staged: bool = False) -> bool:
        """Whether `name` has a record, or one in preparation, readable or not."""
        try:
            return self._read(staged_record_path(name) if staged else record_path(name), name) is not None
        except RecordError:
            return True

    def names(self) -> RecordNames:
        """All that there is now."""
        return record_names(self._directories.names(RECORDS_DIR))

    def stage(self, record: QuotaRecord) -> None:
        """Prepares the record: every controller sees what it promises, no brick does."""
        self.begin(record.name)
        self.prepare(record)

    def begin(self, name: PvName) -> bool:
        """The first half of `stage`; False if somebody has been there before."""
        return self._directories.make(staged_record_path(name), RECORD_MODE)

    def prepare(self, record: QuotaRecord) -> None:
        """The second half."""
        self._store.setxattr(staged_record_path(record.name), RECORD_XATTR, encode(record))

    def unstage(self, name: PvName) -> bool:
        """What was prepared is not any more; False if nothing was."""
        return self._directories.remove(staged_record_path(name))

    def abandon(self, name: PvName) -> None:
        """What was prepared cannot become the record any more, and goes on counting."""
        self._directories.move(staged_record_path(name), abandoned_path(f"{name}.{secrets.token_hex(8)}"))

    def abandoned(self, entry: str) -> QuotaRecord | None:
        """What was prepared, and nobody came back for; None if it is not there. Raises: RecordError."""
        return self._read(abandoned_path(entry), owner(entry))

    def forget_abandoned(self, entry: str) -> None:
        """It counts no longer."""
        self._directories.remove(abandoned_path(entry))

    def publish(self, name: PvName) -> None:
        """What was prepared is the record now, for every brick; there was none."""
        self._store.rename(staged_record_path(name), record_path(name))

    def write(self, record: QuotaRecord) -> None:
        """Changes the record that there is. Who waits for events hears of it, also if it is the same."""
        self._store.setxattr(record_path(record.name), RECORD_XATTR, encode(record))

    def tell_change(self, name: PvName) -> str:
        """Lets every controller read the size of `name` again; what tells of this change."""
        suffix = secrets.token_hex(8)
        self._directories.make(changed_path(name, suffix), RECORD_MODE)
        return suffix

    def forget_changes(self, name: PvName, suffixes: frozenset[str]) -> None:
        """Removes what told of changes."""
        for suffix in suffixes:
            self._directories.remove(changed_path(name, suffix))

    def begin_filling(self, name: PvName, mark: str, beat: bytes) -> None:
        """Every controller sees that the one of that mark fills, or wants to fill, the copy."""
        self._directories.make(filler_path(name, mark), RECORD_MODE)
        self.beat_filling(name, mark, beat)

    def beat_filling(self, name: PvName, mark: str, beat: bytes) -> None:
        """And that it still does. ENOENT: it does not any more."""
        self._store.setxattr(filler_path(name, mark), _BEAT_XATTR, beat)

    def filling_beat(self, name: PvName, mark: str) -> bytes:
        """What it has written last; empty if nothing, or if it does not fill it any more."""
        try:
            return self._store.getxattr(filler_path(name, mark), _BEAT_XATTR)
        except VolumeIOError as error:
            if error.errno not in (ENOENT, ENODATA):
                raise
            return b""

    def take_filling(self, name: PvName, other: str, mark: str, beat: bytes) -> bool:
        """The copy is no longer the other's to fill; False if somebody else was quicker."""
        if not self._directories.move(filler_path(name, other), filler_path(name, mark)):
            return False
        self.beat_filling(name, mark, beat)
        return True

    def end_filling(self, name: PvName, mark: str) -> None:
        """It does not fill it any more."""
        self._directories.remove(filler_path(name, mark))

    def archive(self, name: PvName, entry: str) -> bool:
        """The record is no longer enforced, and goes on counting, for what is archived as `entry`; False if there is
        none."""
        return self._directories.move(record_path(name), archived_record_path(entry))

    def archived(self, entry: str) -> QuotaRecord | None:
        """The record of what is archived; None if there is none. Raises: RecordError."""
        return self._read(archived_record_path(entry), owner(entry))

    def forget_archived(self, entry: str) -> None:
        """What was archived is gone, and counts no longer."""
        self._directories.remove(archived_record_path(entry))

    def remove(self, name: PvName) -> bool:
        """Removes the record; False if there is none."""
        return self._directories.remove(record_path(name))
