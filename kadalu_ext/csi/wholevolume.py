"""One volume that is, or may become, one PV: whose it is, whether it is empty, and emptying it."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from errno import EEXIST, ENODATA, ENOENT, ENOTEMPTY
from functools import partial
from typing import Final

from kadalu_ext.claim import CLAIM_XATTR, Claim, ClaimState, encode, held, numbers_in, size_bytes
from kadalu_ext.csi.directories import GROUP_MODE, PV_MODE
from kadalu_ext.csi.ports import NO_PARENT, BrickProbe, Connector, VolumeFacts, VolumeStore
from kadalu_ext.errors import KadaluExtError, UnavailableError, VolumeIOError
from kadalu_ext.gluster.brick import Attribute, BrickAnswer
from kadalu_ext.storage import Storage

GLUSTERS_OWN: Final = frozenset({".trashcan", "lost+found"})
"""What a volume's root has that nobody has put there: gluster's trash, and mkfs's."""

_REMOVED: Final = ".kadalu-emptying."
_ROUND: Final = 10_000
"""So many names are listed at a time: a pod may have filled the root with more than a listing holds."""
_CLAIMS: Final = Attribute(path="", name=f"{CLAIM_XATTR}*")
_OTHERS_WORDS: Final = ("user.", "system.posix_acl_")
"""Attributes of the root that a pod can set."""


@dataclass(frozen=True, kw_only=True)
class Look:
    """What was seen of a volume. older: the numbers of claims that held before."""

    claim: Claim
    size_bytes: int
    older: tuple[int, ...]


class WholeVolume:
    """See the methods. Thread-safe. Everything raises what Connector does, VolumeIOError, and UnavailableError.

    storage: this volume by itself. What its bricks say is asked of them without a client; one is opened, by `stores`,
    for what changes something.
    """

    def __init__(self, storage: Storage, *, connector: Connector, stores: Stores) -> None:
        self.storage = storage
        self.volume = storage.volume
        self._connector = connector
        self._stores = stores

    def look(self) -> Look:
        """The claim that holds, agreed on by the bricks, and the volume's size."""
        facts, answers = self._ask(_CLAIMS)
        claim = held(answers, facts.geometry, volume=self.volume)
        numbers = {number for each in answers for number in numbers_in(each.attributes or {})}
        older = tuple(sorted(number for number in numbers if number < claim.number))
        return Look(claim=claim, size_bytes=size_bytes(answers, facts.geometry), older=older)

    def advance(self, present: Claim, wanted: Claim) -> bool:
        """`wanted` holds, which follows `present`: now, or because somebody else wanted the same. False if something
        else does, and nothing was changed then. One atomic step; what held before is cleared away after it."""
        with self._store() as store:
            try:
                store.setxattr("", wanted.xattr, encode(wanted), create=True)
            except VolumeIOError as error:
                if error.errno != EEXIST:
                    raise
            look = self.look()
            if look.claim.number > wanted.number:
                _without(ENODATA, partial(store.removexattr, "", wanted.xattr))  # it came too late to mean anything
            if look.claim != wanted:
                return False
            for number in look.older:
                _without(ENODATA, partial(store.removexattr, "", f"{CLAIM_XATTR}{number}"))
            return True

    def strangers(self) -> list[str]:
        """What the root holds that is not gluster's, sorted: some of it, if it is much."""
        with self._store() as store:
            return sorted(set(store.listdir("", _ROUND)) - GLUSTERS_OWN)

    def sweep(self, claim: Claim) -> None:
        """Removes what a controller that was too slow has left of emptying the volume for the PV before `claim`.

        Not all of it where there is much else: then `strangers` says so.
        """
        with self._store() as store:
            for name in store.listdir("", _ROUND):
                tail = name.removeprefix(_REMOVED)
                if name.startswith(_REMOVED) and tail.isdecimal() and int(tail) < claim.number:
                    store.remove_tree(name)

    def fit_out(self, gid: int | None) -> None:
        """Gives the root owner, mode and attributes of a new PV. Only who takes a volume does: who empties one may be
        late, and it another's."""
        _, answers = self._ask(Attribute(path="", name="*"))
        names = {name for each in answers for name in each.attributes or {} if name.startswith(_OTHERS_WORDS)}
        with self._store() as store:
            for name in names:
                _without(ENODATA, partial(store.removexattr, "", name))
            store.own("", uid=0, gid=gid or 0, mode=PV_MODE if gid is None else GROUP_MODE)

    def empty(self, claim: Claim, *, deadline: float) -> bool:
        """Nothing but gluster's own is in the root any more; False if `claim` (whose state is EMPTYING) does not hold
        any more. Repeatable, also beside another controller that does the same.

        Whatever is there is moved into a directory that is made for this claim and goes with it. So one that was held
        up, while the volume was emptied by another and given to the next PV, finds no place to move its files to.
        Raises: DeadlineError at `deadline`, of time.monotonic(): a later call goes on.
        """
        if claim.state is not ClaimState.EMPTYING:
            raise ValueError(f"volume {self.volume} is {claim.state}: it is not to be emptied")
        place = f"{_REMOVED}{claim.number}"
        with self._store() as store:
            while True:
                _without(EEXIST, partial(store.mkdir, place, 0o700))
                if self.look().claim != claim:
                    _without((ENOENT, ENOTEMPTY), partial(store.rmdir, place))
                    return False
                for name in set(store.listdir("", _ROUND)) - GLUSTERS_OWN - {place}:
                    # without the one or the other, it is gone or the place is: then the claim tells
                    _without((ENOENT, *NO_PARENT), partial(store.rename, name, f"{place}/{secrets.token_hex(8)}"))
                store.remove_tree(place, deadline=deadline)
                if not set(store.listdir("", len(GLUSTERS_OWN) + 1)) - GLUSTERS_OWN:
                    return True

    def _ask(self, attribute: Attribute) -> tuple[VolumeFacts, list[BrickAnswer]]:
        facts = self._connector.facts(self.storage)
        while True:
            try:
                return facts, list(self._stores.probe(self.storage, facts).stat_directory("", attribute))
            except RuntimeError:  # closed: another volume needed its place, or this one has other bricks
                continue

    @contextmanager
    def _store(self) -> Iterator[VolumeStore]:
        with self._stores.of(self.storage, self._connector.facts(self.storage).volume_id) as store:
            yield store


def _without(errno: int | tuple[int, ...], step: Callable[[], object]) -> None:
    """`step`, which may find that it is done already."""
    allowed = errno if isinstance(errno, tuple) else (errno,)
    try:
        step()
    except VolumeIOError as error:
        if error.errno not in allowed:
            raise


@dataclass
class _Open:
    store: VolumeStore
    storage: Storage
    volume_id: str
    users: int = 0


class Stores:
    """Open clients of volumes, at most `most` besides those that are in use: each takes some 30 MB. Thread-safe.

    Connections to bricks are kept for at most `most_probes` volumes: each brick's takes a thread.
    """

    def __init__(self, connector: Connector, *, most: int = 4, most_probes: int = 32) -> None:
        self._connector = connector
        self._most = most
        self._most_probes = most_probes
        self._probes: dict[str, tuple[VolumeFacts, BrickProbe]] = {}
        self._lock = threading.Lock()
        self._closed = False
        self._opening: dict[str, threading.Lock] = {}
        self._open: dict[str, _Open] = {}
        """By the volume's name, the one used last at the end."""

    @contextmanager
    def of(self, storage: Storage, volume_id: str) -> Iterator[VolumeStore]:
        """A client of the storage's volume, which stays open for the block. Raises: what Connector.store does."""
        with self._lock:
            opening = self._opening.setdefault(storage.volume, threading.Lock())
        with opening:
            entry = self._found(storage, volume_id)
            if entry is None:
                entry = _Open(store=self._connector.store(storage), storage=storage, volume_id=volume_id)
            with self._lock:
                if self._closed:
                    entry.store.close()
                self._check_open(storage)
                entry.users += 1
                self._open.pop(storage.volume, None)
                self._open[storage.volume] = entry
        try:
            yield entry.store
        finally:
            with self._lock:
                entry.users -= 1
                idle = [each for each in self._open.values() if not each.users]
                for each in idle[: max(0, len(self._open) - self._most)]:
                    del self._open[each.storage.volume]
                    each.store.close()

    def probe(self, storage: Storage, facts: VolumeFacts) -> BrickProbe:
        """What asks the bricks of the storage's volume. It may be closed at any time, and then raises RuntimeError."""
        with self._lock:
            self._check_open(storage)
            known = self._probes.pop(storage.volume, None)
            if known is None or known[0] != facts:
                if known is not None:
                    known[1].close()
                known = facts, self._connector.probe(storage, facts)
            self._probes[storage.volume] = known
            if len(self._probes) > self._most_probes:
                self._probes.pop(next(iter(self._probes)))[1].close()
            return known[1]

    def _found(self, storage: Storage, volume_id: str) -> _Open | None:
        with self._lock:
            entry = self._open.get(storage.volume)
            if entry is None or (entry.storage == storage and entry.volume_id == volume_id):
                return entry
            if entry.users:
                return entry  # in use as it was; whoever comes after that gets another
            del self._open[storage.volume]
        entry.store.close()
        return None

    def _check_open(self, storage: Storage) -> None:
        if self._closed:
            raise UnavailableError(f"volume {storage.volume}: its client is closed")

    def close(self) -> None:
        """Of all, and for good: waits for nothing."""
        with self._lock:
            self._closed = True
            opened, self._open = list(self._open.values()), {}
            probes, self._probes = list(self._probes.values()), {}
        for _, probe in probes:
            probe.close()
        for each in opened:
            try:
                each.store.close()
            except KadaluExtError:
                pass
