"""Directories on a volume: made with their parents, moved, removed, listed. Repeatable after a crash at any step."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import suppress
from errno import EEXIST, ENOENT
from typing import Final

from kadalu_ext.csi.ports import VolumeStore
from kadalu_ext.errors import VolumeIOError
from kadalu_ext.layout import parents
from kadalu_ext.record import RECORDS_DIR, SUBVOL_DIR

PARENT_MODE: Final = 0o755

PV_MODE: Final = 0o777
"""Pods of any user may write; only the pods that mount the PV see it."""

_LOCKS: Final = 64
"""More than there are workers of a storage: two of them rarely wait for each other without a reason."""

GROUP_MODE: Final = 0o2775
"""Of a PV with a group of its own, as heketi made them: what is made in it has that group."""


class Directories:
    """Thread-safe. Everything raises VolumeIOError."""

    def __init__(self, store: VolumeStore) -> None:
        self._store = store
        self._parents: set[str] = set()
        """Directories that were there: nobody removes them, and to ask each time costs a PV a third of its time."""
        self._making = tuple(threading.RLock() for _ in range(_LOCKS))
        """By the parent's hash: two threads do not make one directory at once (docs/facts.md)."""
        self._standing = threading.RLock()
        self._stands = False

    def stand(self) -> None:
        """Makes what everything else is in, the first time, while nobody looks at it; what cannot be made now is made
        when something is to be in it.

        Who looks up a directory that another is just making may leave a brick without it, and without all that comes
        to be in it, until self-heal's next turn (docs/facts.md): as the first claim on a new volume and the canary do,
        which have both waited for the client to start.
        """
        with self._standing, suppress(VolumeIOError):
            if self._stands:
                return
            try:
                for path in (RECORDS_DIR, SUBVOL_DIR):
                    self._make_parents(f"{path}/")
            finally:
                self._stands = True  # tried once: those who wait here are not to hang one after another

    def make(self, path: str, mode: int) -> bool:
        """Makes the directory, and its parents if they are missing; False if it is there already."""
        self._make_parents(path)
        try:
            return self._make_here(path, mode)
        except VolumeIOError as error:
            if error.errno != ENOENT:
                raise
        self._parents.clear()  # somebody has removed one
        self._make_parents(path)
        return self._make_here(path, mode)

    def move(self, old: str, new: str) -> bool:
        """Renames the directory, in one step; False if there is none. The parent of `new` must be there."""
        try:
            self._store.rename(old, new)
        except VolumeIOError as error:
            if error.errno != ENOENT:
                raise
            return False
        return True

    def remove(self, path: str) -> bool:
        """Removes the empty directory; False if there is none."""
        try:
            self._store.rmdir(path)
        except VolumeIOError as error:
            if error.errno != ENOENT:
                raise
            return False
        return True

    def names(self, path: str) -> Sequence[str]:
        """What is in the directory, in no order; nothing if there is none."""
        try:
            return self._store.listdir(path)
        except VolumeIOError as error:
            if error.errno != ENOENT:
                raise
            return ()

    def _make_parents(self, path: str) -> None:
        for parent in parents(path):
            if parent not in self._parents:
                with self._making[hash(parent) % _LOCKS]:
                    if parent not in self._parents:
                        self._make_here(parent, PARENT_MODE)
                        self._parents.add(parent)

    def _make_here(self, path: str, mode: int) -> bool:
        try:
            self._store.mkdir(path, mode)
        except VolumeIOError as error:
            if error.errno != EEXIST:
                raise
            return False
        return True
