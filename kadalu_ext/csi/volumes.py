"""The use cases on one volume: make a PV, wait until every brick enforces it, delete it.

Each step is one atomic call on the volume and each use case can be repeated: after a crash at any step, the same call
made again ends where an undisturbed one would have. Nobody else may work on the same PV meanwhile (clients.py).
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from errno import EEXIST, ENOENT
from typing import Final

from kadalu_ext.csi import canary, enforcement
from kadalu_ext.csi.ports import NO_PARENT, BrickProbe, VolumeStore
from kadalu_ext.csi.promises import Promises, read_size
from kadalu_ext.errors import ConflictError, RecordError, VolumeIOError
from kadalu_ext.gluster.brick import BrickAnswer
from kadalu_ext.gluster.geometry import Geometry
from kadalu_ext.gluster.messages import Gfid
from kadalu_ext.gluster.support import Reserve
from kadalu_ext.layout import TRASH_DIR, pv_path, record_path, staged_record_path, trash_path
from kadalu_ext.record import CANARY, RECORD_XATTR, PvName, QuotaRecord, encode
from kadalu_ext.units import format_bytes

PV_MODE: Final = 0o777
"""Pods of any user may write; only the pods that mount the PV see it."""

PARENT_MODE: Final = 0o755
RECORD_MODE: Final = 0o700

_PROOF_XATTR: Final = "user.kadalu.proof"
"""Of the trash: written to see whether the volume takes writes."""

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

    def __init__(self, *, volume: str, store: VolumeStore, bricks: Bricks, promises: Promises) -> None:
        self._volume = volume
        self._store = store
        self.bricks = bricks
        """May be replaced at any time: when the volume got other bricks."""
        self._promises = promises
        self._parents: set[str] = set()
        """Directories that were there: nobody removes them, and to ask each time costs a PV a third of its time."""

    def make(self, name: PvName, size_bytes: int, *, overcommit: float = 1.0) -> Gfid:
        """The PV's directory, which is on the volume with its record when this returns; idempotent.

        overcommit: what may be promised in all, as a multiple of the volume's size.
        Raises: ConflictError if the PV exists in another size; CapacityError; RecordError if its record cannot be read.
        """
        reserved = self._promises.reserve(
            self._store, name, size_bytes, overcommit=overcommit, usable_bytes=self._usable_bytes
        )
        with self._explained(), reserved as recorded:
            if recorded is None:
                self._make_new(name, size_bytes)
            elif recorded != size_bytes:
                raise ConflictError(
                    f"{name}: exists with {format_bytes(recorded)} ({recorded} bytes), and was asked for with "
                    f"{format_bytes(size_bytes)} ({size_bytes} bytes)"
                )
            elif self._mkdir(pv_path(name), PV_MODE):
                # A delete was interrupted. Who waits for events learns of the new directory by a change of its record.
                self._write_record(record_path(name), name, size_bytes)
            return self._store.gfid(pv_path(name))

    def beat(self) -> None:
        """The canary has its next size on the volume when this returns, and is made if it is not there.

        Stopped at any step, the next beat mends it. Capacity is not asked: nobody writes to it.
        """
        with self._explained():
            try:
                recorded = read_size(self._store, CANARY)
            except RecordError:
                recorded = None  # not of our making: replaced
            size_bytes = canary.next_size(recorded)
            if recorded is None:
                self._make_new(CANARY, size_bytes)
                return
            self._mkdir(pv_path(CANARY), PV_MODE)
            self._write_record(record_path(CANARY), CANARY, size_bytes)

    def _usable_bytes(self, total_bytes: int) -> int:
        return self.bricks.reserve.usable_bytes(total_bytes, data_bricks=self.bricks.geometry.data_bricks)

    def _make_new(self, name: PvName, size_bytes: int) -> None:
        self._mkdir(pv_path(name), PV_MODE)
        staged = staged_record_path(name)
        self._mkdir(staged, RECORD_MODE)
        self._write_record(staged, name, size_bytes)
        self._store.rename(staged, record_path(name))

    def _write_record(self, path: str, name: PvName, size_bytes: int) -> None:
        record = encode(QuotaRecord(path=pv_path(name), size_bytes=size_bytes))
        self._store.setxattr(path, RECORD_XATTR, record)

    def recorded_size(self, name: PvName) -> int | None:
        """The size in bytes that the PV's record has; None if it has none. Raises: RecordError."""
        with self._explained():
            return read_size(self._store, name)

    def wait_enforced(self, name: PvName, size_bytes: int, gfid: Gfid, *, deadline: float) -> None:
        """Returns once every brick that is up was seen to enforce the PV's size. `deadline` is of time.monotonic().

        gfid: what `make` has returned just now, never what it returned for an earlier call: a PV that was deleted and
        made again is another directory.
        Raises: NotEnforcedError or BricksDownError, as soon as another look might not end before the deadline.
        """
        path, pause, longest_look = pv_path(name), _FIRST_LOOK_S, 0.0
        while True:
            began = time.monotonic()
            error = enforcement.not_enforced(*self._ask(path, gfid), size_bytes=size_bytes, volume=self._volume)
            if error is None:
                return
            now = time.monotonic()
            longest_look = max(longest_look, now - began)  # a second, if a brick is silent
            if now + pause + longest_look >= deadline:
                raise error
            time.sleep(pause)
            pause = min(pause * _LOOK_GROWTH, _LONGEST_LOOK_S)

    def delete(self, name: PvName) -> None:
        """The PV's directory is in the trash and its record is gone when this returns; idempotent."""
        with self._explained():
            self._move_to_trash(name)
            if not self._rmdir(record_path(name)):
                self._rmdir(staged_record_path(name))
            self._promises.forget(name)

    def _move_to_trash(self, name: PvName) -> None:
        # The suffix is new each time: a PV of the same name may be in the trash still.
        source, target = pv_path(name), trash_path(name, secrets.token_hex(8))
        try:
            self._store.rename(source, target)
        except VolumeIOError as error:
            if error.errno not in (ENOENT, *NO_PARENT):
                raise
        else:
            return
        # A minority of the bricks may not know of a PV that exists, and says so; only the majority takes a write.
        self._mkdir(TRASH_DIR, RECORD_MODE)
        self._store.setxattr(TRASH_DIR, _PROOF_XATTR, b"1")
        try:
            self._store.rename(source, target)
        except VolumeIOError as error:
            if error.errno != ENOENT:
                raise

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
            yield
        except VolumeIOError as error:
            if down := enforcement.bricks_down(*self._ask(""), volume=self._volume):
                raise down from error
            raise

    def _mkdir(self, path: str, mode: int) -> bool:
        """Makes the directory, and its parents if they are missing; False if it is there already."""
        self._mkdir_parents(path)
        try:
            return self._mkdir_here(path, mode)
        except VolumeIOError as error:
            if error.errno != ENOENT:
                raise
        self._parents.clear()  # somebody has removed one
        self._mkdir_parents(path)
        return self._mkdir_here(path, mode)

    def _mkdir_parents(self, path: str) -> None:
        names = path.split("/")
        for depth in range(1, len(names)):
            parent = "/".join(names[:depth])
            if parent not in self._parents:
                self._mkdir_here(parent, PARENT_MODE)
                self._parents.add(parent)

    def _mkdir_here(self, path: str, mode: int) -> bool:
        try:
            self._store.mkdir(path, mode)
        except VolumeIOError as error:
            if error.errno != EEXIST:
                raise
            return False
        return True

    def _rmdir(self, path: str) -> bool:
        """False if there is no such directory."""
        try:
            self._store.rmdir(path)
        except VolumeIOError as error:
            if error.errno != ENOENT:
                raise
            return False
        return True
