"""What a storage has promised: the sizes of all its records, and of the PVs that are just being made."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from errno import ENODATA, ENOENT
from typing import Final

from kadalu_ext.csi import capacity
from kadalu_ext.csi.ports import VolumeStore
from kadalu_ext.errors import RecordError, VolumeIOError
from kadalu_ext.layout import record_path
from kadalu_ext.record import CANARY, RECORD_XATTR, RECORDS_DIR, PvName, decode

TOTAL_S: Final = 10.0
"""For so long the volume's size is taken for what it was; a volume is enlarged by hand."""


def read_size(store: VolumeStore, name: PvName) -> int | None:
    """The size in bytes that the PV's record has; None if it has none. Raises: RecordError, VolumeIOError."""
    try:
        return decode(name, store.getxattr(record_path(name), RECORD_XATTR)).size_bytes
    except VolumeIOError as error:
        # a directory without the xattr was not made by us: whoever makes the record replaces it
        if error.errno not in (ENOENT, ENODATA):
            raise
        return None


class Promises:
    """The records are the truth, and are listed each time; only their sizes are remembered. Thread-safe."""

    def __init__(self, *, volume: str) -> None:
        self._volume = volume
        self._lock = threading.Lock()
        self._recorded: dict[PvName, int] = {}
        self._reserved: dict[PvName, int] = {}
        self._total_bytes = 0
        self._total_until = 0.0

    @contextmanager
    def reserve(
        self,
        store: VolumeStore,
        name: PvName,
        size_bytes: int,
        *,
        overcommit: float,
        usable_bytes: Callable[[int], int],
    ) -> Iterator[int | None]:
        """Gives the size of the PV's record if there is one. Otherwise None, and while the block runs `size_bytes` are
        promised to `name`; after its end, the record that it made promises them.

        overcommit: of the storage that asks. Storages that share the volume share what is promised, each with its own.
        usable_bytes: of a volume's size, what can be written.
        Raises: CapacityError if the storage cannot promise that much more; RecordError if the PV's own record cannot be
        read; VolumeIOError.
        """
        with self._lock:
            recorded = read_size(store, name) if name in self._look(store) else None
            if recorded is None:
                self._check(store, name, size_bytes, overcommit, usable_bytes)
                self._reserved[name] = size_bytes
        try:
            yield recorded
        except BaseException:
            with self._lock:
                self._reserved.pop(name, None)
            raise
        with self._lock:
            self._recorded[name] = self._reserved.pop(name, recorded or size_bytes)

    def forget(self, name: PvName) -> None:
        """The record of `name` is gone, or its size has changed."""
        with self._lock:
            self._recorded.pop(name, None)

    def _check(
        self,
        store: VolumeStore,
        name: PvName,
        size_bytes: int,
        overcommit: float,
        usable_bytes: Callable[[int], int],
    ) -> None:
        if time.monotonic() >= self._total_until:
            self._total_bytes = store.statvfs("").total_bytes
            self._total_until = time.monotonic() + TOTAL_S
        others = {pv: size for pv, size in {**self._recorded, **self._reserved}.items() if pv != name}
        capacity.check_promise(
            size=size_bytes,
            promised=sum(others.values()),
            pvs=len(others),
            total=usable_bytes(self._total_bytes),
            overcommit=overcommit,
            volume=self._volume,
        )

    def _look(self, store: VolumeStore) -> set[PvName]:
        """The names of all PVs' records; their sizes are known afterwards. The canary promises nothing to anybody."""
        try:
            names = {PvName(name) for name in store.listdir(RECORDS_DIR) if not name.startswith(".")} - {CANARY}
        except VolumeIOError as error:
            if error.errno != ENOENT:
                raise
            names = set()
        self._recorded = {name: size for name, size in self._recorded.items() if name in names}
        for name in names - self._recorded.keys():
            if (size := self._size(store, name)) is not None:
                self._recorded[name] = size
        return names

    def _size(self, store: VolumeStore, name: PvName) -> int | None:
        """None if it was deleted meanwhile, or is no record: no brick enforces it, and nothing was promised by it."""
        try:
            return read_size(store, name)
        except RecordError:
            return None
        except VolumeIOError as error:
            raise VolumeIOError(
                error.errno,
                f"it is not known how much is promised, since the size of {name} cannot be read: {error}; on a brick "
                f"host, `gluster volume heal {self._volume} info` tells whether the bricks disagree",
            ) from error
