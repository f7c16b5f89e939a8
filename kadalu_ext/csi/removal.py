"""Where the directories of deleted PVs go: into the trash, or into the archive."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Mapping
from errno import ENOENT, ENOTCONN, EROFS
from typing import Final

from kadalu_ext.csi.directories import Directories
from kadalu_ext.csi.ports import NO_PARENT, VolumeStore
from kadalu_ext.csi.records import RECORD_MODE, Records
from kadalu_ext.errors import VolumeIOError
from kadalu_ext.layout import (
    ARCHIVE_DIR,
    TRASH_DIR,
    archive_path,
    archived_record_path,
    is_archive_of,
    pv_path,
    trash_path,
)
from kadalu_ext.record import PvName

_PROOF_XATTR: Final = "user.kadalu.proof"
"""Of trash and archive: written to see whether the volume takes writes."""


OF_THE_VOLUME: Final = (ENOTCONN, EROFS)
"""What an entry cannot be blamed for: a minority of the bricks is up."""


class Removal:
    """Of one volume. Thread-safe for different PVs. Everything raises VolumeIOError."""

    def __init__(self, store: VolumeStore, directories: Directories, records: Records) -> None:
        self._store = store
        self._directories = directories
        self._records = records
        self.stuck: Mapping[str, VolumeIOError] = {}
        """By its path, what was not in the archive any more and could not be forgotten when it was looked at last."""
        self._making = threading.Lock()
        """Two that make the trash at once may leave a brick without it: the second hears that it is there, and its
        lookup heals it onto a brick that is just making it for the first, where the later mkdir fails and takes the
        directory away again (docs/facts.md)."""

    def to_archive(self, name: PvName, entry: str) -> bool:
        """Whether there was a PV, which is `entry` of the archive now."""
        return self._moved_away(name, ARCHIVE_DIR, archive_path(entry))

    def archived_without_record(self, name: PvName) -> str:
        """What an archiving that was interrupted has moved there already; empty if nothing was."""
        done = self._records.names().archived
        moved = (
            entry for entry in self._directories.names(ARCHIVE_DIR) if is_archive_of(entry, name) and entry not in done
        )
        return min(moved, default="")

    def forget_what_people_removed(self) -> bool:
        """What is no longer in the archive counts no longer; whether there was any.

        What cannot be forgotten counts on, and stops no other: see `stuck`."""
        recorded = self._records.names().archived
        gone = recorded - set(self._directories.names(ARCHIVE_DIR)) if recorded else frozenset()
        stuck: dict[str, VolumeIOError] = {}
        for entry in gone:
            try:
                self._records.forget_archived(entry)
            except VolumeIOError as error:
                if error.errno in OF_THE_VOLUME:
                    raise
                stuck[archived_record_path(entry)] = error
        self.stuck = stuck
        return len(stuck) < len(gone)

    def to_trash(self, name: PvName) -> None:
        # The suffix is new each time: a PV of the same name may be in the trash still.
        self._moved_away(name, TRASH_DIR, trash_path(name, secrets.token_hex(8)))

    def _moved_away(self, name: PvName, directory: str, target: str) -> bool:
        """Whether there was a PV, which is `target` in `directory` now."""
        source = pv_path(name)
        try:
            self._store.rename(source, target)
        except VolumeIOError as error:
            if error.errno not in (ENOENT, *NO_PARENT):
                raise
        else:
            return True
        # A minority of the bricks may not know of a PV that exists, and says so; only the majority takes a write.
        with self._making:
            self._directories.make(directory, RECORD_MODE)
        self._store.setxattr(directory, _PROOF_XATTR, b"1")
        return self._directories.move(source, target)
