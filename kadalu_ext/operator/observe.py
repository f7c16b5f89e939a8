"""What a gluster cluster says of a volume. I/O: through kadalu_ext.gluster only, bounded for each host."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Final

from kadalu_ext.claim import CLAIM_XATTR, Claim, ClaimState, held
from kadalu_ext.errors import DataAtRiskError, HostUnreachableError, KadaluExtError, TlsError, WireError
from kadalu_ext.gluster.brick import Attribute, BrickAnswer, BrickProbe
from kadalu_ext.gluster.client import Glusterd, first_answer
from kadalu_ext.gluster.facts import VolumeFacts, volume_facts
from kadalu_ext.gluster.geometry import VolumeKind
from kadalu_ext.gluster.support import BLOCK_META, block_hosting
from kadalu_ext.gluster.tls import Tls
from kadalu_ext.operator.actions import BrickSeen, Problem, Usable
from kadalu_ext.operator.canary import Canaries
from kadalu_ext.operator.enforcing import Enforcement
from kadalu_ext.operator.metrics import Key
from kadalu_ext.operator.pool import Member, ids_text
from kadalu_ext.operator.reasons import Reason
from kadalu_ext.operator.reconcile import Done
from kadalu_ext.operator.spec import RISK, StorageSpec
from kadalu_ext.storage import Encryption, Quota, StorageName

_AT_A_TIME: Final = 8
"""Volumes of one storage that are looked at side by side."""

_CLAIMS: Final = Attribute(path="", name=f"{CLAIM_XATTR}*")

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
        self._probes: dict[tuple[str, str], tuple[VolumeFacts, BrickProbe]] = {}
        """By the names of storage and volume."""
        self._canaries = Canaries()
        self._owners: dict[str, Key] = {}

    def __call__(self, spec: StorageSpec, tls: Tls | None = None) -> Usable | Problem:
        """The volume of `spec`, or why it cannot be used. Bounded, whatever its hosts do.

        tls: what its cluster is spoken to with.
        """
        if not spec.storage.pool:
            return self._look(spec, tls)
        with ThreadPoolExecutor(_AT_A_TIME) as executor:
            storages = (spec.storage.of_volume(each.volume) for each in spec.storage.pool)
            one_by_one = [replace(spec, storage=each) for each in storages if each is not None]
            found = list(executor.map(lambda each: self._look(each, tls, whole=True), one_by_one))
        seen = [each for each in found if isinstance(each, Usable)]
        if not seen:
            return next(each for each in found if isinstance(each, Problem))
        members = tuple(map(_member, one_by_one, found))
        return Usable(
            spec=spec,
            volume_id=ids_text(members),
            geometry=seen[0].geometry,
            bricks=tuple(replace(brick, volume=each.spec.volume) for each in seen for brick in each.bricks),
            members=members,
        )

    def _look(self, spec: StorageSpec, tls: Tls | None, *, whole: bool = False) -> Usable | Problem:
        """At one volume, which may be a PV as a whole."""
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
        disagrees = _disagrees(spec, facts) or (None if whole else _risk(spec, facts))
        if disagrees is not None:
            return Problem.of(disagrees, volume=volume)
        probe = self._probe(spec, facts, alone=not whole)
        if any(answer.stat is not None for answer in probe.stat_directory(BLOCK_META)):
            return Problem.of(block_hosting(volume), volume=volume)
        answers = probe.stat_directory("", _CLAIMS)
        claim = _claim(answers, facts, volume)
        if not whole and isinstance(claim, Claim) and claim.state is not ClaimState.FREE:
            return Problem(
                reason=Reason.VOLUME_SHARED,
                details=f"volume {volume}: all of it is, or was until it is emptied, the PV {claim.storage}/{claim.pv}",
                volume=volume,
            )
        return Usable(
            spec=spec,
            volume_id=facts.volume_id,
            geometry=facts.geometry,
            bricks=tuple(map(self._seen, answers)),
            claim=claim,
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
            found = [self._probes.pop(each) for each in list(self._probes) if each[0] == key[1]]
        for _, probe in found:
            probe.close()

    def _probe(self, spec: StorageSpec, facts: VolumeFacts, *, alone: bool) -> BrickProbe:
        name, volume = spec.storage.name, spec.storage.volume
        with self._lock:
            found = self._probes.get((name, volume))
            if found is not None and found[0] == facts:
                return found[1]
            # of a volume that the storage was on before; those of a pool stay until it goes
            gone = [] if not alone else [each for each in self._probes if each[0] == name and each[1] != volume]
            old = [self._probes.pop(each)[1] for each in gone] + ([found[1]] if found is not None else [])
            probe = BrickProbe(volume, facts.volume_id, facts.geometry, BRICK_TIMEOUT_S, tls=facts.tls)
            self._probes[name, volume] = (facts, probe)
        for each in old:
            each.close()
        return probe

    def _seen(self, answer: BrickAnswer) -> BrickSeen:
        if answer.stat is None:
            self._failed(answer.brick.host, "BrickSilent" if not answer.up else "BrickRefused")
            return BrickSeen(brick=answer.brick, online=answer.up, error=answer.error)
        total, free = answer.stat.total_bytes, answer.stat.free_bytes
        return BrickSeen(brick=answer.brick, online=True, total_bytes=total, free_bytes=free)


def _claim(answers: Sequence[BrickAnswer], facts: VolumeFacts, volume: str) -> Claim | str:
    """Whose a volume is, whole; a text: why nobody knows."""
    try:
        return held(answers, facts.geometry, volume=volume)
    except KadaluExtError as error:
        return str(error)


def _member(spec: StorageSpec, found: Usable | Problem) -> Member:
    if isinstance(found, Problem):
        return Member(volume=spec.volume, problem=found.message)
    claim, problem = (None, found.claim) if isinstance(found.claim, str) else (found.claim, None)
    if problem is None and not found.takes_writes:
        problem = f"{len(found.offline)} of its {len(found.bricks)} bricks are offline"
    return Member(
        volume=spec.volume,
        volume_id=found.volume_id,
        size_bytes=found.capacity_bytes or 0,
        claim=claim,
        problem=problem,
    )


def _risk(spec: StorageSpec, facts: VolumeFacts) -> DataAtRiskError | None:
    """Of a volume on which PVs get full before their bricks are. Whole volumes are kept from it by storage.reserve."""
    if spec.storage.quota is Quota.NONE or spec.accepts_risk:
        return None
    if facts.geometry.kind is VolumeKind.DISPERSE:
        why = (
            "it is disperse, and a PV of it that gets full may lose data: its bricks refuse writes one by one, which "
            "makes files unreadable (EIO), and self-heal, for want of room, leaves wrong bytes in them"
        )
    elif facts.geometry.has_arbiter:
        why = (
            "it has an arbiter, and a PV of it that gets full may lose data: the arbiter has no limit, and takes what "
            "either of the others refuses, which makes files unreadable (ENOTCONN), some until they are mended by hand"
        )
    else:
        return None
    return DataAtRiskError(
        f"volume {spec.volume}: {why}; take a volume of replica 3, or see docs/troubleshooting.md and set spec.accept: "
        f"[{RISK}] if no PV will ever get full"
    )


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
