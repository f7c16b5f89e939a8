"""What a storage needs of gluster: the facts from glusterd, files through libgfapi, each brick by itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from kadalu_ext.csi.ports import BrickProbe, VolumeFacts, VolumeStore
from kadalu_ext.gluster import brick, gfapi
from kadalu_ext.gluster.client import Glusterd, first_answer
from kadalu_ext.gluster.clientprocess import ClientProcess
from kadalu_ext.gluster.facts import volume_facts
from kadalu_ext.gluster.tls import Tls
from kadalu_ext.storage import Storage

_CLIENT_WAIT_S: Final = 5.0
_GLUSTERD_TIMEOUT_S: Final = 2.0
_BRICK_TIMEOUT_S: Final = 1.0


class GlusterConnector:
    """The real thing, see ports.Connector. Each volume's client is in a process of its own: see adr/0020.

    tls: what a storage's cluster is spoken to with.
    lost: called with the reason when a client hung or crashed; another takes its place at the next call.
    """

    def __init__(
        self,
        tls: Callable[[Storage], Tls | None] = lambda _: None,
        *,
        lost: Callable[[Storage, str], None] = lambda _storage, _why: None,
    ) -> None:
        self._tls = tls
        self._lost = lost

    def facts(self, storage: Storage) -> VolumeFacts:
        tls = self._tls(storage)

        def ask(glusterd: Glusterd) -> VolumeFacts:
            return replace(volume_facts(glusterd, storage.volume, volume_id=storage.volume_id), tls=tls)

        return first_answer(storage.hosts, ask, _GLUSTERD_TIMEOUT_S, tls=tls)

    def store(self, storage: Storage) -> VolumeStore:
        return gfapi.Volume.open(
            storage.volume,
            storage.hosts,
            timeout_s=_CLIENT_WAIT_S,
            tls=lambda: self._tls(storage),
            volume_id=storage.volume_id,
            launch=ClientProcess.start,
            lost=lambda why: self._lost(storage, why),
        )

    def probe(self, storage: Storage, facts: VolumeFacts) -> BrickProbe:
        return brick.BrickProbe(storage.volume, facts.volume_id, facts.geometry, _BRICK_TIMEOUT_S, tls=facts.tls)
