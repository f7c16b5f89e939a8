"""The quota records of one volume, read and written. Each method is one atomic step, or can be repeated."""

from __future__ import annotations

import secrets
from errno import ENODATA, ENOENT
from typing import Final

from kadalu_ext.csi.directories import Directories
from kadalu_ext.csi.ports import VolumeStore
from kadalu_ext.errors import InProgressError, RecordError, VolumeIOError
from kadalu_ext.layout import (
    RecordNames,
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

    def read(self, name: PvName) -> QuotaRecord | None:
        """The record of `name`; None if there is none. Raises: RecordError."""
        return self._read(record_path(name), name)

    def staged(self, name: PvName, suffix: str) -> QuotaRecord | None:
        """That one in preparation; None if it is not, or not yet. Raises: RecordError."""
        return self._read(staged_record_path(name, suffix), name)

    def changed(self, name: PvName, suffix: str) -> QuotaRecord | None:
        """What that change has promised; None if it says nothing of that, or is not there. Raises: RecordError."""
        return self._read(changed_path(name, suffix), name)

    def _read(self, path: str, name: PvName) -> QuotaRecord | None:
        try:
            return decode(name, self._store.getxattr(path, RECORD_XATTR))
        except VolumeIOError as error:
            # a directory without the xattr was not made by us: whoever makes the record replaces it
            if error.errno not in (ENOENT, ENODATA):
                raise
            return None

    def is_there(self, name: PvName) -> bool:
        """Whether `name` has a record, readable or not."""
        try:
            return self.read(name) is not None
        except RecordError:
            return True

    def names(self) -> RecordNames:
        """All that there is now."""
        return record_names(self._directories.names(RECORDS_DIR))

    def stage(self, record: QuotaRecord, suffix: str) -> None:
        """Prepares the record: every controller sees what it promises, no brick does.

        Raises: InProgressError if somebody ended that at once.
        """
        self._directories.make(staged_record_path(record.name, suffix), RECORD_MODE)
        self.prepare(record, suffix)

    def prepare(self, record: QuotaRecord, suffix: str) -> None:
        """What is in preparation is this now. Raises: InProgressError if somebody ended it."""
        try:
            self._store.setxattr(staged_record_path(record.name, suffix), RECORD_XATTR, encode(record))
        except VolumeIOError as error:
            if error.errno != ENOENT:
                raise
            raise _ended(record.name) from error

    def unstage(self, name: PvName, suffix: str) -> bool:
        """What was prepared is not any more, and nothing comes of it; False if it was not there."""
        return self._directories.remove(staged_record_path(name, suffix))

    def publish(self, name: PvName, suffix: str) -> None:
        """What was prepared is the record now, for every brick; there was none.

        Raises: InProgressError if somebody ended it.
        """
        if not self._directories.move(staged_record_path(name, suffix), record_path(name)):
            raise _ended(name)

    def promise(self, name: PvName, suffix: str) -> None:
        """What was prepared tells every controller from now on that the size of `name` is to be that.

        Raises: InProgressError if somebody ended it.
        """
        if not self._directories.move(staged_record_path(name, suffix), changed_path(name, suffix)):
            raise _ended(name)

    def write(self, record: QuotaRecord) -> None:
        """Changes the record that there is. Who waits for events hears of it, also if it is the same."""
        self._store.setxattr(record_path(record.name), RECORD_XATTR, encode(record))

    def tell_change(self, name: PvName) -> str:
        """Lets every controller read the size of `name` again; what tells of this."""
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

    def forget(self, entry: str) -> bool:
        """Removes what has that name beside the records; False if it is not there."""
        return self._directories.remove(f"{RECORDS_DIR}/{entry}")


def _ended(name: PvName) -> InProgressError:
    return InProgressError(
        f"{name}: another controller works on it, and has ended what this one had prepared; try again"
    )
