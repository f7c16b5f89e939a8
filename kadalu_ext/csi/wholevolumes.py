"""The use cases on a pool of whole volumes: one volume becomes one PV, and is given back empty.

What is remembered is the claim on each volume (claim.py), and nothing else: after a crash at any step, and beside
another controller, a call made again ends where an undisturbed one would have, on the same volume. docs/adr/0016.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from kadalu_ext.claim import Claim, ClaimState
from kadalu_ext.csi.gids import Gids, check_group
from kadalu_ext.csi.wholevolume import Look, WholeVolume
from kadalu_ext.errors import (
    CapacityError,
    ConflictError,
    DeadlineError,
    KadaluExtError,
    NotFoundError,
    UnavailableError,
)
from kadalu_ext.record import PvName
from kadalu_ext.storage import StorageName
from kadalu_ext.units import format_bytes

_SHOWN: Final = 6
"""Volumes named in one message: an event of Kubernetes holds 1024 characters."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """limit_bytes: 0 for none. gids: of which the PV gets a group of its own; None for none."""

    name: PvName
    required_bytes: int = 0
    limit_bytes: int = 0
    gids: Gids | None = None

    def fits(self, size: int) -> bool:
        return self.required_bytes <= size and (not self.limit_bytes or size <= self.limit_bytes)

    def __str__(self) -> str:
        most = f" and at most {format_bytes(self.limit_bytes)}" if self.limit_bytes else ""
        return f"at least {format_bytes(self.required_bytes)}{most}"


@dataclass(frozen=True, kw_only=True)
class Seen:
    """One volume of the pool, and what was seen of it."""

    volume: WholeVolume
    look: Look

    @property
    def claim(self) -> Claim:
        return self.look.claim


Found = tuple[list[Seen], Mapping[str, KadaluExtError]]
"""The volumes that told, in the pool's order, and why others did not, by their names."""


class WholeVolumes:
    """Calls for different PVs may come at the same time.

    look: at all volumes of the pool, none of which keeps the others waiting.
    """

    def __init__(self, name: StorageName, look: Callable[[], Found]) -> None:
        self._name = name
        self._look = look

    def create(self, wanted: Wanted, *, deadline: float) -> Seen:
        """The volume that is the PV, empty if it was not the PV's before. Idempotent. deadline: of time.monotonic().

        Raises: CapacityError if there is none that fits, with the reason for each; UnavailableError, if one that did
        not tell may be it; ConflictError if the PV is one that does not fit; DeadlineError.
        """
        while True:
            seen, silent = self._look()
            mine = [each for each in seen if self._is(each.claim, wanted.name)]
            if not mine:
                self._begin(wanted, seen, silent)
            else:
                keep = next((each for each in mine if each.claim.state is ClaimState.TAKEN), mine[0])
                self._check_same(keep, wanted)
                if self._settled(keep, mine, seen):
                    return keep
            if time.monotonic() >= deadline:
                raise DeadlineError(f"{self._name}/{wanted.name}: its volume is not made ready yet; try again")

    def delete(self, name: PvName, *, deadline: float) -> bool:
        """No volume is this PV when this returns; what it has written is still to be removed, if this is True.

        Idempotent. Raises: UnavailableError, if no volume is, and one that did not tell may be; DeadlineError.
        """
        emptying = False
        while True:
            seen, silent = self._look()
            mine = [each for each in seen if self._is(each.claim, name)]
            for each in mine:
                given_up = each.claim.state is ClaimState.TAKEN
                emptying |= given_up
                self._turn(each, ClaimState.EMPTYING if given_up else ClaimState.FREE)
            if not mine:
                self._check_silent(name, seen, silent)
                return emptying
            if time.monotonic() >= deadline:
                raise DeadlineError(f"{self._name}/{name}: its volume is not given back yet; try again")

    def all(self) -> Sequence[Seen]:
        """All volumes. Raises: UnavailableError, if some do not tell."""
        seen, silent = self._look()
        if silent:
            reasons = {volume: str(why) for volume, why in silent.items()}
            raise UnavailableError(f"storage {self._name}: volumes that do not tell whose they are: {_some(reasons)}")
        return seen

    def find(self, name: PvName) -> Seen | None:
        """The volume that is the PV; None if none is. Raises: UnavailableError, if one that did not tell may be."""
        seen, silent = self._look()
        for each in seen:
            if each.claim.of(self._name, name) and each.claim.state is ClaimState.TAKEN:
                return each
        self._check_silent(name, seen, silent)
        return None

    def _check_silent(self, name: PvName, seen: Sequence[Seen], silent: Mapping[str, KadaluExtError]) -> None:
        """Raises: UnavailableError unless it is sure that none of those that did not tell is the PV."""
        may_be = {volume: str(why) for volume, why in silent.items() if not isinstance(why, NotFoundError)}
        if may_be and not any(each.claim.of(self._name, name) for each in seen):
            raise UnavailableError(
                f"{self._name}/{name}: a volume that does not tell whose it is may be this PV: {_some(may_be)}. Mend "
                "it, or remove it from the KadaluStorage if it is gone for good"
            )

    def empty(self, *, turn_s: float) -> dict[str, KadaluExtError]:
        """One turn at every volume that is being emptied, of `turn_s` each; those that are empty then are free. What is
        left, and why, by the volume's name."""
        left: dict[str, KadaluExtError] = {}
        for each in self._look()[0]:
            if each.claim.state is ClaimState.EMPTYING:
                try:
                    if each.volume.empty(each.claim, deadline=time.monotonic() + turn_s):
                        self._turn(each, ClaimState.FREE)
                except KadaluExtError as error:
                    left[each.volume.volume] = error
        return left

    def _begin(self, wanted: Wanted, seen: Sequence[Seen], silent: Mapping[str, KadaluExtError]) -> None:
        """Claims the smallest free volume that fits and is empty, if nobody is quicker. Raises: as `create`."""
        gid = self._group(wanted, seen)
        reasons = {volume: str(why) for volume, why in silent.items()}
        for each in sorted(seen, key=lambda each: each.look.size_bytes):
            name = each.volume.volume
            if each.claim.state is not ClaimState.FREE:
                reasons[name] = _whose(each.claim)
            elif not wanted.fits(each.look.size_bytes):
                reasons[name] = f"free, and has {format_bytes(each.look.size_bytes)} ({each.look.size_bytes} bytes)"
            else:
                try:
                    each.volume.sweep(each.claim)
                    strangers = each.volume.strangers()
                    if not strangers:
                        taking = each.claim.next(ClaimState.TAKING, wanted.name, self._name, gid=gid)
                        each.volume.advance(each.claim, taking)
                        return
                    reasons[name] = _not_empty(strangers)
                except KadaluExtError as error:
                    silent = {**silent, name: error}
                    reasons[name] = str(error)
        text = (
            f"storage {self._name}: it has no free volume of {wanted} ({wanted.required_bytes} bytes): {_some(reasons)}"
        )
        if silent:
            raise UnavailableError(f"{text}. Mend what does not tell, or add volumes to the KadaluStorage")
        raise CapacityError(f"{text}. Add volumes to the KadaluStorage, or delete claims")

    def _group(self, wanted: Wanted, seen: Sequence[Seen]) -> int | None:
        """A group that none of these volumes has, if one is wanted. Raises: CapacityError."""
        if wanted.gids is None:
            return None
        taken = {each.claim.gid for each in seen if each.claim.state is not ClaimState.FREE}
        if (free := wanted.gids.free(wanted.name, taken)) is not None:
            return free
        raise wanted.gids.exhausted(wanted.name, f"storage {self._name}")

    def _settled(self, keep: Seen, mine: Sequence[Seen], seen: Sequence[Seen]) -> bool:
        """Whether `keep` is the PV's, and no other volume is; False: look again."""
        for each in mine:
            # another controller took it for the same PV at the same time; this one as well as that keeps the first
            if each is not keep and each.claim.state is ClaimState.TAKING and not self._turn(each, ClaimState.FREE):
                return False
        if keep.claim.state is ClaimState.TAKEN:
            return True
        keep.volume.sweep(keep.claim)
        others = {each.claim.gid for each in seen if each not in mine and each.claim.state is not ClaimState.FREE}
        # somebody took the same group at the same time; or something was put there since it was looked at
        if (keep.claim.gid is not None and keep.claim.gid in others) or keep.volume.strangers():
            self._turn(keep, ClaimState.FREE)
            return False
        keep.volume.fit_out(keep.claim.gid)
        return self._turn(keep, ClaimState.TAKEN)

    def _turn(self, each: Seen, state: ClaimState) -> bool:
        claim = each.claim
        return each.volume.advance(claim, claim.next(state, claim.pv, claim.storage, gid=claim.gid))

    def _is(self, claim: Claim, name: PvName) -> bool:
        return claim.of(self._name, name) and claim.state in (ClaimState.TAKING, ClaimState.TAKEN)

    def _check_same(self, keep: Seen, wanted: Wanted) -> None:
        size = keep.look.size_bytes
        if not wanted.fits(size):
            raise ConflictError(
                f"{wanted.name}: exists as the volume {keep.volume.volume} with {format_bytes(size)} ({size} bytes), "
                f"and was asked for with {wanted} ({wanted.required_bytes} bytes)"
            )
        check_group(wanted.name, keep.claim.gid, wanted.gids)


def _whose(claim: Claim) -> str:
    return f"{claim.storage}/{claim.pv} is {'being removed from it' if claim.state is ClaimState.EMPTYING else 'on it'}"


def _not_empty(strangers: Sequence[str]) -> str:
    return f"free, and not empty: it holds {', '.join(repr(name[:40]) for name in strangers[:3])}" + (
        " and more" if len(strangers) > 3 else ""
    )


def _some(reasons: Mapping[str, str]) -> str:
    more = len(reasons) - _SHOWN
    shown = "; ".join(f"{volume}: {reason}" for volume, reason in list(reasons.items())[:_SHOWN])
    return shown + (f" and {more} more" if more > 0 else "")
