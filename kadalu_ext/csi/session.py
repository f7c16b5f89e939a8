"""What a controller has of a storage's volume: the way to it and its bricks, and what works there by itself.

It follows: another volume, other hosts or bricks, and there is another connection at the next call.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from kadalu_ext.csi.filling import Filler, Taken
from kadalu_ext.csi.housekeeping import Housekeeper
from kadalu_ext.csi.ports import Connector, VolumeFacts, VolumeStore
from kadalu_ext.csi.promises import Promises
from kadalu_ext.csi.trash import TrashCollector
from kadalu_ext.csi.volumes import Bricks, Volumes
from kadalu_ext.errors import HostUnreachableError, KadaluExtError
from kadalu_ext.log import Logger
from kadalu_ext.storage import Quota, ReclaimPolicy, Storage

_FACTS_S: Final = 1.0
"""For so long glusterd's word is good: a brick that was replaced a second ago may not be asked yet."""


@dataclass(frozen=True, kw_only=True)
class Connected:
    """A connection that stands. trash, filler and housekeeper have threads of their own."""

    storage: Storage
    facts: VolumeFacts
    store: VolumeStore
    bricks: Bricks
    volumes: Volumes
    trash: TrashCollector
    filler: Filler
    housekeeper: Housekeeper

    def close(self) -> None:
        """Waits for nothing."""
        self.bricks.probe.close()
        self.end()

    def end(self) -> None:
        """All but the way to the bricks, which may be another's by now. Waits for nothing."""
        self.trash.stop()
        self.filler.close()
        self.housekeeper.stop()
        self.store.close()


@dataclass(frozen=True, kw_only=True)
class Shared:
    """What all storages of a controller have together. identity: see leases.py.

    promises, taken: by volume_id; they outlive connections, and storages may share a volume.
    """

    connector: Connector
    log: Logger
    identity: str
    promises: dict[str, Promises]
    taken: dict[str, Taken]


class Session:
    """Of one storage. Thread-safe. enforced: whether what is copied must be seen to be enforced first."""

    def __init__(self, shared: Shared, *, enforced: Callable[[], bool]) -> None:
        self._shared = shared
        self._enforced = enforced
        self._opening = threading.Lock()
        self._looked_for: Storage | None = None
        self._looked_at = 0.0
        self._found: Volumes | KadaluExtError | None = None
        self.now: Connected | None = None
        """The connection; None if no call got that far yet."""

    def open(self, storage: Storage) -> Volumes:
        """The PVs on the storage's volume as it is now. Raises: what Connector does."""
        with self._opening:
            # no reason to connect anew: these are asked at each call
            storage = replace(storage, overcommit=1.0, reclaim=ReclaimPolicy.DELETE, quota=Quota.REQUIRED)
            if self._found is None or storage != self._looked_for or time.monotonic() - self._looked_at >= _FACTS_S:
                try:
                    self.now = self._look(storage)
                    self._found = self.now.volumes
                except KadaluExtError as error:
                    self._found = error  # for all who waited for the same
                self._looked_for, self._looked_at = storage, time.monotonic()
            if isinstance(self._found, KadaluExtError):
                raise self._found
            return self._found

    def check_reachable(self) -> None:
        """Raises: HostUnreachableError if that was found last, and somebody looks just now whether it is still so."""
        if isinstance(self._found, HostUnreachableError) and self._opening.locked():
            raise self._found

    def silent(self) -> str:
        """For the end of a message: which bricks are down or silent; empty if none is. It takes a while."""
        silent = self.now.volumes.silent_bricks() if self.now else None
        return f". Down or silent: {silent}" if silent else ""

    def rest(self) -> None:
        """Gives the connection up, which the next call makes anew."""
        with self._opening:
            old, self.now, self._found = self.now, None, None
        if old is not None:
            old.close()

    def close(self) -> None:
        """Waits for nothing, and may be called beside anything. Not to be used afterwards."""
        if (old := self.now) is not None:
            old.close()

    def wait_closed(self, *, deadline: float) -> None:
        """After `close`: until nothing is copied any more, so that the next controller need not wait."""
        if self.now is not None:
            self.now.filler.wait_closed(deadline=deadline)

    def _look(self, storage: Storage) -> Connected:
        facts, old = self._shared.connector.facts(storage), self.now
        if old is None:
            return self._connect(storage, facts)
        if old.storage == storage and old.facts == facts:
            return old
        if old.storage == storage and old.facts.volume_id == facts.volume_id:
            new = self._with_bricks(old, facts)
        else:
            new = self._connect(storage, facts)
        self._retire(old, new)
        return new

    def _connect(self, storage: Storage, facts: VolumeFacts) -> Connected:
        promises = self._shared.promises.setdefault(facts.volume_id, Promises(volume=storage.volume))
        store = self._shared.connector.store(storage)
        bricks = self._bricks(storage, facts)
        volumes = Volumes(
            volume=storage.volume,
            store=store,
            bricks=bricks,
            promises=promises,
            identity=self._shared.identity,
            storage=storage.name,
        )
        trash = TrashCollector(store, storage=storage.name, log=self._shared.log)
        trash.start()
        taken = self._shared.taken.setdefault(facts.volume_id, Taken())
        filler = Filler(
            volumes,
            storage=storage.name,
            log=self._shared.log,
            taken=taken,
            enforced=self._enforced,
        )
        filler.start()
        housekeeper = Housekeeper(volumes, storage=storage.name, log=self._shared.log)
        housekeeper.start()
        return Connected(
            storage=storage,
            facts=facts,
            store=store,
            bricks=bricks,
            volumes=volumes,
            trash=trash,
            filler=filler,
            housekeeper=housekeeper,
        )

    def _with_bricks(self, old: Connected, facts: VolumeFacts) -> Connected:
        return replace(old, facts=facts, bricks=self._bricks(old.storage, facts))

    def _bricks(self, storage: Storage, facts: VolumeFacts) -> Bricks:
        probe = self._shared.connector.probe(storage, facts)
        return Bricks(geometry=facts.geometry, probe=probe, reserve=facts.reserve)

    def _retire(self, old: Connected, new: Connected) -> None:
        # Whoever waits for the bricks through the old connection goes on with the new bricks.
        old.volumes.bricks = new.bricks
        old.bricks.probe.close()
        if old.store is not new.store:
            old.end()
