"""What a storage has promised: the sizes of all its records, and of the PVs that are just being made."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from errno import ENODATA, ENOENT

from kadalu_ext.csi import capacity
from kadalu_ext.csi.ports import VolumeStore
from kadalu_ext.errors import RecordError, VolumeIOError
from kadalu_ext.layout import record_path
from kadalu_ext.record import RECORD_XATTR, RECORDS_DIR, PvName, decode


class Promises:
    """The records are the truth, and are listed each time; only their sizes are remembered. Thread-safe."""

    def __init__(self, *, volume: str, overcommit: float) -> None:
        self._volume = volume
        self._overcommit = overcommit
        self._lock = threading.Lock()
        self._recorded: dict[PvName, int] = {}
        self._reserved: dict[PvName, int] = {}

    @contextmanager
    def reserve(self, store: VolumeStore, name: PvName, size_bytes: int) -> Iterator[None]:
        """While the block runs, `size_bytes` are promised to `name`; afterwards, if it has a record.

        Raises: CapacityError if the storage cannot promise that much more; VolumeIOError.
        """
        with self._lock:
            self._look(store)
            others = {pv: size for pv, size in {**self._recorded, **self._reserved}.items() if pv != name}
            capacity.check_promise(
                size=size_bytes,
                promised=sum(others.values()),
                pvs=len(others),
                total=store.statvfs("").total_bytes,
                overcommit=self._overcommit,
                volume=self._volume,
            )
            self._reserved[name] = size_bytes
        try:
            yield
        except BaseException:
            with self._lock:
                del self._reserved[name]
            raise
        with self._lock:
            self._recorded[name] = self._reserved.pop(name)

    def forget(self, name: PvName) -> None:
        """The record of `name` is gone, or its size has changed."""
        with self._lock:
            self._recorded.pop(name, None)

    def _look(self, store: VolumeStore) -> None:
        try:
            names = {PvName(name) for name in store.listdir(RECORDS_DIR) if not name.startswith(".")}
        except VolumeIOError as error:
            if error.errno != ENOENT:
                raise
            names = set()
        self._recorded = {name: size for name, size in self._recorded.items() if name in names}
        for name in names - self._recorded.keys():
            if (size := _recorded_size(store, name)) is not None:
                self._recorded[name] = size


def _recorded_size(store: VolumeStore, name: PvName) -> int | None:
    """None if it was deleted meanwhile, or is no record: no brick enforces it, and nothing was promised by it."""
    try:
        return decode(name, store.getxattr(record_path(name), RECORD_XATTR)).size_bytes
    except RecordError:
        return None
    except VolumeIOError as error:
        if error.errno in (ENOENT, ENODATA):
            return None
        raise VolumeIOError(
            error.errno,
            f"it is not known how much the volume has promised, since the size of {name} cannot be read: {error}; on a "
            "brick host, `gluster volume heal VOLUME info` tells whether the bricks disagree",
        ) from error
