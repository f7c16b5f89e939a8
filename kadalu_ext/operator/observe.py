"""What a gluster cluster says of a volume. I/O: through kadalu_ext.gluster only, bounded for each host."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from kadalu_ext.errors import HostUnreachableError, KadaluExtError, TlsError, WireError
from kadalu_ext.gluster.brick import BrickAnswer, BrickProbe
from kadalu_ext.gluster.client import Glusterd, first_answer
from kadalu_ext.gluster.facts import VolumeFacts, volume_facts
from kadalu_ext.gluster.support import BLOCK_META, block_hosting
from kadalu_ext.gluster.tls import Tls
from kadalu_ext.operator.actions import BrickSeen, Problem, Usable
from kadalu_ext.operator.canary import Canaries
from kadalu_ext.operator.enforcing import Enforcement
from kadalu_ext.operator.metrics import Key
from kadalu_ext.operator.reconcile import Done
from kadalu_ext.operator.spec import StorageSpec
from kadalu_ext.storage import Encryption, Quota, StorageName

HOST_TIMEOUT_S: Final = 2.0
"""For one call to one host; a live one answers within milliseconds."""

BRICK_TIMEOUT_S: Final = 1.0


class Observer:
    """Looks at volumes. Thread-safe; connections to bricks are kept from look to look, one set a storage.

    A look takes some milliseconds; up to three seconds longer where a brick does not follow the canary.
    failed: told of each host that did not answer, and how: its name, and the error's.
    """

    def __init__(self, *, failed: Callable[[str, str], None] = lambda _host, _error: None) -> None:
        self._failed = failed
        self._lock = threading.Lock()
        self._probes: dict[str, tuple[VolumeFacts, str, BrickProbe]] = {}
        self._canaries = Canaries()
        self._owners: dict[str, Key] = {}

    def __call__(self, spec: StorageSpec, tls: Tls | None = None) -> Usable | Problem:
        """The volume of `spec`, or why it cannot be used. Bounded, whatever its hosts do.

        tls: what its cluster is spoken to with.
        """
        volume = spec.storage.volume

        def ask(glusterd: Glusterd) -> VolumeFacts:
            try:
                return volume_facts(glusterd, volume)
            except (HostUnreachableError, WireError) as error:
                self._failed(glusterd.host, type(error).__name__)
                raise

        try:
            facts = replace(first_answer(spec.storage.hosts, ask, HOST_TIMEOUT_S, tls=tls), tls=tls)
        except KadaluExtError as error:
            return Problem.of(error, volume=volume)
        disagrees = _disagrees(spec, facts)
        if disagrees is not None:
            return Problem.of(disagrees, volume=volume)
        probe = self._probe(spec, facts)
        if any(answer.stat is not None for answer in probe.stat_directory(BLOCK_META)):
            return Problem.of(block_hosting(volume), volume=volume)
        return Usable(
            spec=spec,
            volume_id=facts.volume_id,
            geometry=facts.geometry,
            bricks=tuple(map(self._seen, probe.stat_directory(""))),
            enforcement=self._look_at_canary(spec, probe, facts),
            reserve=facts.reserve,
        )

    def _look_at_canary(self, spec: StorageSpec, probe: BrickProbe, facts: VolumeFacts) -> Enforcement | None:
        storage = spec.storage
        if storage.quota is Quota.NONE:
            return None
        return self._canaries.look(
            storage.name, probe, facts.geometry, volume=storage.volume, volume_id=facts.volume_id
        )

    def watch(self, key: Key, done: Done) -> None:
        """Whose the name is: a look keeps what it needs by that."""
        if done.spec is not None:
            with self._lock:
                self._owners[key[1]] = key

    def forget(self, key: Key) -> None:
        """Its connections are closed; those of another namespace's storage, which has the name, stay."""
        with self._lock:
            if self._owners.get(key[1], key) != key:
                return
            self._owners.pop(key[1], None)
        self._canaries.forget(StorageName(key[1]))
        with self._lock:
            found = self._probes.pop(key[1], None)
        if found is not None:
            found[2].close()

    def _probe(self, spec: StorageSpec, facts: VolumeFacts) -> BrickProbe:
        name, volume = spec.storage.name, spec.storage.volume
        with self._lock:
            found = self._probes.get(name)
            if found is not None and found[:2] == (facts, volume):
                return found[2]
            probe = BrickProbe(volume, facts.volume_id, facts.geometry, BRICK_TIMEOUT_S, tls=facts.tls)
            self._probes[name] = (facts, volume, probe)
        if found is not None:
            found[2].close()
        return probe

    def _seen(self, answer: BrickAnswer) -> BrickSeen:
        if answer.stat is None:
            self._failed(answer.brick.host, "BrickSilent" if not answer.up else "BrickRefused")
            return BrickSeen(brick=answer.brick, online=answer.up, error=answer.error)
        total, free = answer.stat.total_bytes, answer.stat.free_bytes
        return BrickSeen(brick=answer.brick, online=True, total_bytes=total, free_bytes=free)


def _disagrees(spec: StorageSpec, facts: VolumeFacts) -> TlsError | None:
    """Where glusterd answers, and its bricks want another kind of client."""
    volume, bricks = spec.storage.volume, any(brick.ssl for brick in facts.geometry.bricks)
    if bricks and facts.tls is None:
        return TlsError(
            f"volume {volume}: the volume wants TLS (client.ssl is on) and the storage has none; "
            "name a Secret with a client's certificate in spec.tls.secretName"
        )
    if not bricks and spec.storage.tls is Encryption.BRICKS:
        return TlsError(
            f"volume {volume}: by spec.tls bricks alone are encrypted, and client.ssl is off: nothing would be; "
            f"gluster volume set {volume} client.ssl on, and server.ssl likewise, or leave spec.tls out"
        )
    return None
