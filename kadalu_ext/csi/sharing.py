"""Which of several storages on one volume lists a PV or snapshot, so that each is listed once. Pure."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from kadalu_ext.record import QuotaRecord
from kadalu_ext.storage import StorageName


@dataclass(frozen=True, kw_only=True)
class Sharing:
    """volumes: the volume_id of each storage that answers, as far as it is known. silent: those that do not answer."""

    volumes: dict[StorageName, str | None]
    silent: Collection[str] = ()

    def lists(self, storage: StorageName, record: QuotaRecord) -> bool:
        """Whether the PV or snapshot, which is on that storage's volume, is that storage's to list: if it made it, or
        if the one that did is gone, or not told by the record, and it is the first of those that there are."""
        if record.storage == storage:
            return True
        volume = self.volumes[storage]
        sharing = [each for each, other in self.volumes.items() if other == volume and volume is not None]
        if record.storage in sharing or record.storage in self.silent:
            return False
        return storage == min(sharing, default=storage)
