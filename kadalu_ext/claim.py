"""Whose a whole volume is: the claim on its root. Pure; a format on disk, docs/adr/0016 says why it is as it is.

A claim is the attribute `trusted.kadalu.claim.<number>` of the root, made with XATTR_CREATE. The one with the highest
number is what holds; others are what held before, and may be gone. So a change of hands is one atomic call: of two who
saw the same claim and want to follow it, one finds the number taken. An attribute cannot be removed, or replaced, by
the same rule: that is why the last one stays, also when the volume is free again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from kadalu_ext.errors import BricksDownError, ClaimError, InvalidInputError, UnavailableError
from kadalu_ext.gluster.brick import BrickAnswer
from kadalu_ext.gluster.geometry import Geometry
from kadalu_ext.record import PvName, check_pv_name
from kadalu_ext.storage import StorageName, check_storage_name

CLAIM_XATTR: Final = "trusted.kadalu.claim."
"""What the names of claims begin with. Of trusted.*: no pod that is not privileged can write one."""

VERSION: Final = 1
MAX_CLAIM_BYTES: Final = 4096

_NUMBER: Final = re.compile(r"[1-9][0-9]{0,11}")


class ClaimState(StrEnum):
    """What is with a volume."""

    FREE = "free"
    """Nobody's. It has the name of the PV that it was last, if it was one."""
    TAKING = "taking"
    """A PV's that is being made: it is not known yet whether the volume is empty."""
    TAKEN = "taken"
    """A PV's."""
    EMPTYING = "emptying"
    """Nobody's any more, and not yet empty."""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """number: 0 of a volume that never was a PV. pv, storage: whose it is, or was; both or none. gid: that the PV's
    files have, None if nobody asked for one."""

    number: int = 0
    state: ClaimState = ClaimState.FREE
    pv: PvName | None = None
    storage: StorageName | None = None
    gid: int | None = None

    def next(
        self, state: ClaimState, pv: PvName | None, storage: StorageName | None, *, gid: int | None = None
    ) -> Claim:
        """The claim that follows this one."""
        return Claim(number=self.number + 1, state=state, pv=pv, storage=storage, gid=gid)

    def of(self, storage: StorageName, pv: PvName) -> bool:
        """Whether it is, or was, that PV's."""
        return (self.storage, self.pv) == (storage, pv)

    @property
    def xattr(self) -> str:
        """The attribute's name."""
        return f"{CLAIM_XATTR}{self.number}"


NEVER: Final = Claim()


def newest(attributes: Mapping[str, bytes]) -> Claim:
    """The claim that holds, of all attributes of a root that begin with CLAIM_XATTR. Raises: ClaimError."""
    numbers = numbers_in(attributes)
    if not numbers:
        return NEVER
    return decode(numbers[-1], attributes[f"{CLAIM_XATTR}{numbers[-1]}"])


def numbers_in(attributes: Mapping[str, bytes]) -> list[int]:
    """Of claims, in their order. What else begins with CLAIM_XATTR is none of ours."""
    tails = (name.removeprefix(CLAIM_XATTR) for name in attributes if name.startswith(CLAIM_XATTR))
    return sorted(int(tail) for tail in tails if _NUMBER.fullmatch(tail))


def encode(claim: Claim) -> bytes:
    """The attribute's value."""
    fields: dict[str, object] = {"v": VERSION, "state": claim.state}
    optional = {"pv": claim.pv, "storage": claim.storage, "gid": claim.gid}
    fields |= {key: value for key, value in optional.items() if value is not None}
    return json.dumps(fields, separators=(",", ":")).encode("ascii")


def decode(number: int, value: bytes) -> Claim:
    """Raises: ClaimError for anything but a claim of this version: the volume then is left alone."""
    name = f"{CLAIM_XATTR}{number}"
    try:
        fields = json.loads(value.decode("ascii")) if len(value) <= MAX_CLAIM_BYTES else None
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict) or fields.get("v") != VERSION:
        raise ClaimError(f"{name}: is no claim of version {VERSION}; the volume is left alone, look who has written it")
    state, pv, storage, gid = (fields.get(key) for key in ("state", "pv", "storage", "gid"))
    try:
        claim = Claim(
            number=number,
            state=ClaimState(str(state)),
            pv=None if pv is None else check_pv_name(str(pv)),
            storage=None if storage is None else check_storage_name(str(storage)),
            gid=gid if isinstance(gid, int) else None,
        )
    except (ValueError, InvalidInputError) as error:
        raise ClaimError(f"{name}: {error}; the volume is left alone") from error
    if (claim.pv is None) != (claim.storage is None) or (claim.pv is None and claim.state is not ClaimState.FREE):
        raise ClaimError(f"{name}: does not say whose it is; the volume is left alone")
    return claim


def held(answers: Sequence[BrickAnswer], geometry: Geometry, *, volume: str) -> Claim:
    """The claim that as many bricks have as the volume needs for writes: what one brick alone has was never agreed on.

    answers: of the root, with all attributes that begin with CLAIM_XATTR.
    Raises: BricksDownError if too few bricks tell; UnavailableError if they disagree; ClaimError.
    """
    told = {each.brick.name: newest(each.attributes) for each in answers if each.attributes is not None}
    if not geometry.takes_writes(told):
        silent = "; ".join(
            each.error or f"brick {each.brick}: no answer" for each in answers if each.attributes is None
        )
        raise BricksDownError(f"volume {volume}: too few of its bricks tell whose it is: {silent}")
    for claim in sorted(set(told.values()), key=lambda each: each.number, reverse=True):
        if geometry.takes_writes({name for name, each in told.items() if each == claim}):
            return claim
    raise UnavailableError(
        f"volume {volume}: its bricks do not agree on whose it is; self-heal mends that: gluster volume heal {volume}"
    )


def size_bytes(answers: Sequence[BrickAnswer], geometry: Geometry) -> int:
    """What a volume holds: as much as its smallest brick that tells, times the bricks that share the data; else 0."""
    sizes = [each.stat.total_bytes for each in answers if each.stat is not None and not each.brick.arbiter]
    return min(sizes) * geometry.data_bricks if sizes else 0
