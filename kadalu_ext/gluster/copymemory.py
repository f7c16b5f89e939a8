"""What a copy of a tree must remember of it: directories still to be entered, and the links of files already met.

Both may be millions, and the tree is a pod's: they are kept in a temporary database, of which some two MiB are in
memory (https://sqlite.org/inmemorydb.html, temporary databases; it lies in /var/tmp, if that is writable).
"""

from __future__ import annotations

import sqlite3
import threading

_SCHEMA = """
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
CREATE TABLE pending (place INTEGER PRIMARY KEY, directory INTEGER, name BLOB);
CREATE TABLE links (source BLOB PRIMARY KEY, target BLOB, left INTEGER) WITHOUT ROWID;
"""


class CopyMemory:
    """Of one copy. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._database = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._database.executescript(_SCHEMA)

    def close(self) -> None:
        with self._lock:
            self._database.close()

    def push(self, directory: int, name: bytes) -> None:
        """`name` in the directory of that number is a directory to be entered."""
        with self._lock:
            self._database.execute("INSERT INTO pending (directory, name) VALUES (?, ?)", (directory, name))

    def pop(self) -> tuple[int, bytes] | None:
        """What was pushed last: a tree is walked depth first, so that few directories are open at a time."""
        with self._lock:
            last = "SELECT place, directory, name FROM pending ORDER BY place DESC LIMIT 1"
            row = self._database.execute(last).fetchone()
            if row is None:
                return None
            self._database.execute("DELETE FROM pending WHERE place = ?", row[:1])
            return row[1], row[2]

    def copied(self, source: bytes, target: bytes, links: int) -> None:
        """The file of identity `source` has a copy of identity `target`, and `links` more names are to come."""
        with self._lock:
            self._database.execute("INSERT OR REPLACE INTO links VALUES (?, ?, ?)", (source, target, links))

    def copy_of(self, source: bytes) -> bytes | None:
        """The identity of its copy, if it has one; to be asked once for each name, since the last forgets it."""
        with self._lock:
            row = self._database.execute("SELECT target, left FROM links WHERE source = ?", (source,)).fetchone()
            if row is None:
                return None
            if row[1] > 1:
                self._database.execute("UPDATE links SET left = left - 1 WHERE source = ?", (source,))
            else:
                self._database.execute("DELETE FROM links WHERE source = ?", (source,))
            target: bytes = row[0]
            return target
