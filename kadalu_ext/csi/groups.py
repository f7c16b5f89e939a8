"""The groups that PVs on one volume have: each PV one that no other has, whoever else is giving them out.

`info/gid/<gid>.<pv>` is an empty directory that says: the PV has this group, or is about to. Whoever wants a group
makes that directory, and only then looks who else has the same: of two who do that at the same time at least the one
who looks last sees the other, and takes another. What has no record any more, nor one in preparation, has no group.
"""

from __future__ import annotations

import re
from typing import Final

from kadalu_ext.csi.directories import Directories
from kadalu_ext.csi.gids import Gids
from kadalu_ext.csi.ports import VolumeStore
from kadalu_ext.csi.records import RECORD_MODE, Records
from kadalu_ext.layout import GIDS_DIR, gid_path
from kadalu_ext.record import PvName

_ENTRY: Final = re.compile(r"([1-9][0-9]{0,9})\.(.+)")


class Groups:
    """Of one volume. Thread-safe; no two calls at a time may be about the same PV. Everything raises VolumeIOError."""

    def __init__(self, *, volume: str, store: VolumeStore, records: Records, directories: Directories) -> None:
        self._volume = volume
        self._store = store
        self._records = records
        self._directories = directories
        self._used: bool | None = None
        """Whether there is any group on the volume, as far as this process knows; None: it has not looked."""

    def take(self, name: PvName, gids: Gids) -> int:
        """The group that the PV has from now on, and no other PV; of `gids`. Its record is in preparation. Idempotent.

        Raises: CapacityError if all are taken.
        """
        self._used = True
        refused: set[int] = set()
        while True:
            entries = self._entries()
            mine = {gid for gid, of in entries if of == name}
            gid = min((gid for gid in mine if gid in gids), default=None)
            if gid is None:
                gid = self._free(name, gids, {gid for gid, of in entries if of != name}, refused)
            self._make(gid, name)
            if not any(self._lives(of) for of in self._of(gid) - {name}):
                return gid
            self._directories.remove(gid_path(gid, name))
            refused.add(gid)

    def share(self, name: PvName, gid: int) -> None:
        """The copy has its source's group from now on: nobody else gets it while the copy is there. Idempotent."""
        self._used = True
        self._make(gid, name)

    def give_back(self, name: PvName) -> None:
        """The PV is gone, and its record: its group is free. Idempotent. What is left where this was never called does
        no harm: that group is given out when others become scarce."""
        if self._used is None:
            self._used = bool(self._entries())
        if self._used:
            for gid, of in self._entries():
                if of == name:
                    self._directories.remove(gid_path(gid, name))

    def _make(self, gid: int, name: PvName) -> None:
        self._directories.make(gid_path(gid, name), RECORD_MODE)

    def _free(self, name: PvName, gids: Gids, taken: set[int], refused: set[int]) -> int:
        """What nobody has; or, if there is no such any more, what only somebody has that is gone."""
        if (free := gids.free(name, taken | refused)) is not None:
            return free
        for gid, of in self._entries():
            if gid in gids and gid not in refused and not self._lives(of):
                return gid
        raise gids.exhausted(name, f"volume {self._volume}")

    def _of(self, gid: int) -> set[PvName]:
        return {of for each, of in self._entries() if each == gid}

    def _lives(self, name: PvName) -> bool:
        """Whether it has a record, or one in preparation, which is looked for first, since it becomes the other."""
        return name in self._records.names().staged or self._records.is_there(name)

    def _entries(self) -> set[tuple[int, PvName]]:
        names = self._directories.names(GIDS_DIR)
        return {(int(match[1]), PvName(match[2])) for match in map(_ENTRY.fullmatch, names) if match}
