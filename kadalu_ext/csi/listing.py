"""All volumes of all storages, page by page, in the order of their ids. See adr/0017 for what becomes of dead storages.

Nothing is kept between pages: a token is the id after which the next page begins, so that pages are stable whatever is
made or deleted meanwhile. A `~` before it says that some storage did not answer on a page before.
"""

from __future__ import annotations

import time
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from kadalu_ext.csi.clients import Clients, StorageClient
from kadalu_ext.csi.condition import Condition
from kadalu_ext.csi.pools import Pools
from kadalu_ext.csi.sharing import Sharing
from kadalu_ext.csi.volumes import Volumes
from kadalu_ext.errors import InvalidInputError, KadaluExtError, RecordError, TokenError, UnavailableError
from kadalu_ext.record import PV_KIND, PvName, QuotaRecord, is_snapshot
from kadalu_ext.storage import Storage, StorageName, parse_volume_id, volume_id
from kadalu_ext.storages import Storages

LONGEST_PAGE: Final = 10_000
"""Entries, for who asks for no limit: a message of gRPC has 4 MiB at most."""

_NAMES_PART: Final = 0.3
_READ_PART: Final = 0.5
"""Of a caller's time: for the names that storages have, and for reading them. Where the time ends, the page does."""

_PART: Final = 50
_SIDE_BY_SIDE: Final = 8
"""Of a storage's PVs so many are read in turn by one worker, and by so many workers at a time."""

_REST: Final = "~"
_SHOWN: Final = 4


@dataclass(frozen=True, kw_only=True)
class Listed:
    """A PV as it is now. conditions: what is wrong with it, the worst first."""

    storage: Storage
    record: QuotaRecord
    conditions: Sequence[Condition]


@dataclass(frozen=True, kw_only=True)
class Page:
    """`next_token` is empty after the last page."""

    entries: Sequence[Listed]
    next_token: str


@dataclass(frozen=True, kw_only=True)
class _Position:
    """After which id a page begins; None: at the beginning. partial: not every storage answered so far."""

    after: tuple[StorageName, PvName] | None = None
    partial: bool = False

    @property
    def token(self) -> str:
        return (_REST if self.partial else "") + (volume_id(*self.after) if self.after else "")


class Listing:
    """Pages of volumes. Thread-safe."""

    def __init__(self, *, storages: Storages, clients: Clients, pools: Pools) -> None:
        self._storages = storages
        self._clients = clients
        self._pools = pools

    def page(self, *, max_entries: int, token: str, timeout_s: float) -> Page:
        """The page that begins at `token`, ``""`` for the first one.

        max_entries: 0 for as many as there are.
        Raises: InvalidInputError; TokenError; UnavailableError after all others were listed, if storages do not answer.
        """
        if max_entries < 0:
            raise InvalidInputError(f"max_entries: {max_entries} must not be negative; 0 asks for all")
        position = _position(token)
        started = time.monotonic()
        whole: dict[StorageName, Mapping[PvName, tuple[Storage, QuotaRecord]]] = {}
        asked = {name: self._begin(name, whole) for name in sorted(self._storages.names())}
        names: dict[StorageName, Sequence[PvName]] = {}
        silent: dict[StorageName, str] = {}
        for storage, answer in asked.items():
            try:
                left = started + timeout_s * _NAMES_PART - time.monotonic()
                names[storage] = answer(max(0.0, left))
            except KadaluExtError as error:
                silent[storage] = str(error)
        if token == _REST:
            raise _unfinished(silent)
        entries, last = self._read(
            _after(names, position),
            whole,
            silent,
            limit=min(max_entries, LONGEST_PAGE) or LONGEST_PAGE,
            deadline=started + timeout_s * (_NAMES_PART + _READ_PART),
        )
        partial = position.partial or bool(silent)
        more = bool(_after(names, _Position(after=last or position.after)))
        if more:
            return Page(entries=entries, next_token=_Position(after=last or position.after, partial=partial).token)
        return Page(entries=entries, next_token=_REST if partial else "")

    def _begin(
        self, name: StorageName, whole: dict[StorageName, Mapping[PvName, tuple[Storage, QuotaRecord]]]
    ) -> Callable[[float], Sequence[PvName]]:
        """Asks for the names that a storage has. PVs that are whole volumes are put into `whole`, too."""

        def taken(timeout_s: float) -> Sequence[PvName]:
            whole[name] = self._pools.of(storage).taken(timeout_s=timeout_s)
            return sorted(whole[name])

        try:
            storage = self._storages.find(name)
            return taken if storage.pool else self._clients.of(storage).ask(_pvs)
        except KadaluExtError as error:
            failed = error

            def fail(_: float) -> Sequence[PvName]:
                raise failed

            return fail

    def _read(
        self,
        todo: Iterable[tuple[StorageName, Sequence[PvName]]],
        whole: Mapping[StorageName, Mapping[PvName, tuple[Storage, QuotaRecord]]],
        silent: dict[StorageName, str],
        *,
        limit: int,
        deadline: float,
    ) -> tuple[list[Listed], tuple[StorageName, PvName] | None]:
        """Up to `limit` that could be read in time, and the last id that was looked at."""
        entries: list[Listed] = []
        last: tuple[StorageName, PvName] | None = None
        sharing = self._sharing(silent)
        for name, pvs in todo:
            room = limit - len(entries)
            if name in whole:
                pvs = pvs[:room]
                listed = (whole[name][pv] for pv in pvs)
                entries += [Listed(storage=storage, record=record, conditions=()) for storage, record in listed]
                last = name, pvs[-1]
                if len(entries) == limit:
                    break
                continue
            storage = self._storages.find(name)
            try:
                found, upto = _records(self._clients.of(storage), pvs, sharing, limit=room, deadline=deadline)
            except KadaluExtError as error:
                silent[name] = str(error)
                last = name, pvs[-1]
                continue
            entries += [Listed(storage=storage, record=record, conditions=wrong) for record, wrong in found]
            if upto is not None:
                last = name, upto
            if upto != pvs[-1] or len(entries) == limit:
                break
        return entries, last

    def _sharing(self, silent: Collection[StorageName]) -> Sharing:
        clients = {name: self._clients.known(name) for name in self._storages.names()}
        volumes = {StorageName(name): client.volume_id for name, client in clients.items() if client is not None}
        return Sharing(volumes=volumes, silent=silent)


def _pvs(volumes: Volumes) -> Sequence[PvName]:
    """No snapshots: where a page ends is a token, which is the id of a PV."""
    return sorted(name for name in volumes.names() if not is_snapshot(name))


_Found = list[tuple[QuotaRecord, Sequence[Condition]]]


def _records(
    client: StorageClient, pvs: Sequence[PvName], sharing: Sharing, *, limit: int, deadline: float
) -> tuple[_Found, PvName | None]:
    """What was read until the deadline, `limit` at most, and the last that was looked at, at least one. A few parts are
    read side by side, and no more, so that claims find a worker."""

    def read(volumes: Volumes, part: Sequence[PvName]) -> tuple[_Found, PvName | None]:
        found: _Found = []
        last = None
        for name in part:
            if len(found) == limit or (last is not None and time.monotonic() >= deadline):
                break
            last = name
            try:
                record = volumes.record(name)
            except RecordError:
                continue  # not of our making: no volume of ours
            if record is None or record.kind != PV_KIND or record.filling:
                continue
            if sharing.lists(client.storage.name, record):
                found.append((record, volumes.conditions(record, quota=client.storage.quota)))
        return found, last

    def begin(part: Sequence[PvName]) -> Callable[[float], tuple[_Found, PvName | None]]:
        return client.ask(lambda volumes: read(volumes, part))

    parts = deque(pvs[at : at + _PART] for at in range(0, len(pvs), _PART))
    begun = deque[tuple[Sequence[PvName], Callable[[float], tuple[_Found, PvName | None]]]]()
    entries: _Found = []
    last = None
    while True:
        ahead = min(_SIDE_BY_SIDE, -(-(limit - len(entries)) // _PART))
        while parts and len(begun) < ahead and (last is None or time.monotonic() < deadline):
            part = parts.popleft()
            begun.append((part, begin(part)))
        if not begun:
            return entries, last
        part, answer = begun.popleft()
        found, upto = answer(max(0.0, deadline - time.monotonic()) + 2.0)
        entries += found
        last = upto or last
        if len(entries) >= limit:
            del entries[limit:]
            return entries, entries[-1][0].name
        if upto != part[-1]:
            return entries, last


def _after(
    names: Mapping[StorageName, Sequence[PvName]], position: _Position
) -> list[tuple[StorageName, Sequence[PvName]]]:
    """The names that follow `position`, by storage."""
    found = []
    for storage, pvs in names.items():
        first = 0
        if position.after is not None:
            at, name = position.after
            if storage < at:
                continue
            first = bisect_right(pvs, name) if storage == at else 0
        if first < len(pvs):
            found.append((storage, pvs[first:]))
    return found


def _position(token: str) -> _Position:
    partial = token.startswith(_REST)
    rest = token.removeprefix(_REST)
    if not rest:
        return _Position(partial=partial)
    try:
        return _Position(after=parse_volume_id(rest), partial=partial)
    except InvalidInputError as error:
        raise TokenError(f"starting_token: {token[:80]!r} is none of ours; begin again without one") from error


def _unfinished(silent: dict[StorageName, str]) -> UnavailableError | TokenError:
    if not silent:
        return TokenError("starting_token: a storage that did not answer does so now; begin again without a token")
    reasons = "; ".join(f"{name}: {reason}" for name, reason in list(silent.items())[:_SHOWN])
    return UnavailableError(
        f"all volumes were listed but those of {len(silent)} storages that do not answer: {reasons}. The other "
        "volumes are as told"
    )
