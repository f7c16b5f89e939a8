"""A storage of whole volumes: what was seen of each, and what is remembered of them. Pure.

What is remembered is the annotation VOLUME_ID of the StorageClass: `whole:one=<id>,two=<id>`; of a storage whose PVs
are directories it is the one volume's id alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from kadalu_ext.claim import Claim, ClaimState
from kadalu_ext.units import format_quantity

_WHOLE: Final = "whole:"
_SHOWN: Final = 4

_STATES: Final[Mapping[ClaimState, str]] = {
    ClaimState.FREE: "Free",
    ClaimState.TAKING: "Claimed",
    ClaimState.TAKEN: "Claimed",
    ClaimState.EMPTYING: "Emptying",
}


@dataclass(frozen=True, kw_only=True)
class Member:
    """One volume of the pool. volume_id: None if no glusterd told. problem: why it is not taken, for people; None if it
    can be used. claim: whose it is, if its bricks tell."""

    volume: str
    volume_id: str | None = None
    size_bytes: int = 0
    claim: Claim | None = None
    problem: str | None = None

    @property
    def free(self) -> bool:
        """Whether a claim may have it, if its root is empty: that only the CSI controller looks at."""
        return self.problem is None and self.claim is not None and self.claim.state is ClaimState.FREE

    def status(self) -> dict[str, str]:
        """For the KadaluStorage's status."""
        shown = {"name": self.volume, "state": "Unusable"}
        if self.problem is None and self.claim is not None:
            shown["state"] = _STATES[self.claim.state]
            if self.claim.state is not ClaimState.FREE:
                shown["pv"] = f"{self.claim.storage}/{self.claim.pv}"
        if self.size_bytes:
            shown["capacity"] = format_quantity(self.size_bytes)
        return shown | ({"error": self.problem} if self.problem else {})


def ids_text(members: Iterable[Member]) -> str:
    """What is remembered of the pool; a volume whose id nobody told has none."""
    return _WHOLE + ",".join(f"{each.volume}={each.volume_id or ''}" for each in members)


@dataclass(frozen=True, kw_only=True)
class Remembered:
    """volumes: ids by the volumes' names; of a storage of directories one without a name."""

    whole: bool
    volumes: Mapping[str, str] = field(default_factory=dict)

    @property
    def ids(self) -> frozenset[str]:
        return frozenset(filter(None, self.volumes.values()))


def remembered(text: str) -> Remembered:
    """Of an annotation VOLUME_ID. What is not readable was not of our making, and says nothing."""
    if not text.startswith(_WHOLE):
        return Remembered(whole=False, volumes={"": text})
    pairs = (entry.partition("=") for entry in text.removeprefix(_WHOLE).split(","))
    return Remembered(whole=True, volumes={volume: volume_id for volume, _, volume_id in pairs})


def merged(now: str, earlier: str | None) -> str:
    """`now`, with the earlier id of each volume that nobody tells of at the moment."""
    if earlier is None:
        return now
    new, old = remembered(now), remembered(earlier)
    if not (new.whole and old.whole):
        return now
    ids = {volume: volume_id or old.volumes.get(volume, "") for volume, volume_id in new.volumes.items()}
    return _WHOLE + ",".join(f"{volume}={volume_id}" for volume, volume_id in ids.items())


def keeps(now: str, earlier: str) -> bool:
    """Whether every PV that there was is where it was: volumes may come to a pool, none may go from it or change."""
    new, old = remembered(now), remembered(earlier)
    if not (new.whole and old.whole):
        return now == earlier
    return all(not volume_id or new.volumes.get(volume) == volume_id for volume, volume_id in old.volumes.items())


def shared(now: str, other: str) -> frozenset[str]:
    """The ids of volumes that two storages must not both have: one of them has them whole."""
    new, old = remembered(now), remembered(other)
    return new.ids & old.ids if new.whole or old.whole else frozenset()


def named(volumes: Iterable[str]) -> str:
    """Volumes, for people."""
    names = list(volumes)
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def problems(members: Iterable[Member]) -> str | None:
    """Which volumes cannot be used, and why; None if all can."""
    bad = [f"{each.volume}: {each.problem}" for each in members if each.problem is not None]
    more = len(bad) - _SHOWN
    return ("; ".join(bad[:_SHOWN]) + (f"; and {more} more" if more > 0 else "")) or None
