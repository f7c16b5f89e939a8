"""How a PV does, as node plugin and controller say it alike. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from kadalu_ext.units import MIB

_LITTLE_BYTES: Final = MIB
_LITTLE_PART: Final = 100


class Status(IntEnum):
    """How bad it is. Numbers are those of VolumeHealthErrorType in csi.proto."""

    DEGRADED = 1
    INACCESSIBLE = 2
    DATA_LOSS = 3


@dataclass(frozen=True, kw_only=True)
class Condition:
    """One thing that is wrong. reason: CamelCase, for machines; message: what, and what to do, for people."""

    status: Status
    reason: str
    message: str


def degraded(reason: str, message: str) -> Condition:
    """It works, with less than it should have."""
    return Condition(status=Status.DEGRADED, reason=reason, message=message)


def is_full(*, total_bytes: int, free_bytes: int) -> bool:
    """XFS refuses what does not fit whole: a hundredth of the limit, 1 MiB at most, counts as nothing."""
    return free_bytes <= min(total_bytes // _LITTLE_PART, _LITTLE_BYTES)
