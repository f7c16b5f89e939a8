"""How large a PV becomes, and whether a storage may promise it. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from kadalu_ext.errors import CapacityError, InvalidInputError
from kadalu_ext.record import MAX_SIZE_BYTES
from kadalu_ext.units import GIB, KIB, format_bytes, round_up

BLOCK_BYTES: Final = 4 * KIB
"""Sizes are whole blocks of this size, so that what was asked for is what every brick shows: XFS counts in blocks."""

DEFAULT_SIZE_BYTES: Final = GIB
"""For a request that has no capacity_range at all; Kubernetes always sends one."""


def size_bytes(*, required_bytes: int, limit_bytes: int) -> int:
    """The PV's size for a capacity_range: at least `required_bytes` (0: not said), at most `limit_bytes` (0: no limit).

    Raises: InvalidInputError if it asks for nothing or contradicts itself; CapacityError if no whole number of blocks
    lies in it.
    """
    if required_bytes < 0 or limit_bytes < 0:
        raise InvalidInputError(
            f"capacity_range: required_bytes {required_bytes} and limit_bytes {limit_bytes} must not be negative"
        )
    if required_bytes == 0 and limit_bytes == 0:
        raise InvalidInputError("capacity_range: a volume of 0 bytes cannot be had; ask for 4 KiB or more, such as 1Gi")
    if 0 < limit_bytes < required_bytes:
        raise InvalidInputError(
            f"capacity_range: required_bytes {required_bytes} is more than limit_bytes {limit_bytes}"
        )
    size = round_up(required_bytes or min(DEFAULT_SIZE_BYTES, limit_bytes), BLOCK_BYTES)
    if required_bytes == 0 and size > limit_bytes:
        size -= BLOCK_BYTES
    if size > MAX_SIZE_BYTES:
        raise CapacityError(f"capacity_range: required_bytes {required_bytes} is more than any volume has")
    if size == 0 or 0 < limit_bytes < size:
        raise CapacityError(
            f"capacity_range: sizes are whole blocks of {BLOCK_BYTES} bytes, and there is none between required_bytes "
            f"{required_bytes} and limit_bytes {limit_bytes}; raise the limit to {round_up(limit_bytes, BLOCK_BYTES)}"
        )
    return size


@dataclass(frozen=True, kw_only=True)
class Available:
    """In bytes: what can still be promised in all, and to one PV."""

    size_bytes: int
    largest_bytes: int


def available(*, promised: int, total: int, overcommit: float) -> Available:
    """What is left for `check_promise` to let pass: whole blocks."""
    left = max(0, int(total * overcommit) - promised)
    return Available(size_bytes=left, largest_bytes=min(left, total) // BLOCK_BYTES * BLOCK_BYTES)


def of_whole_volumes(sizes: Iterable[int]) -> Available:
    """What is left of a storage of whole volumes, of which those of these sizes are free."""
    free = list(sizes)
    return Available(size_bytes=sum(free), largest_bytes=max(free, default=0))


def check_promise(*, size: int, promised: int, pvs: int, total: int, overcommit: float, volume: str) -> None:
    """Whether a PV of `size` may be added to `pvs` PVs that were promised `promised` of a volume of `total`.

    In bytes; `overcommit` 1.0 promises each byte once. A PV that is larger than the volume is refused with any
    overcommit: its limit would never be reached, and cannot be seen on the bricks.
    Raises: CapacityError with all figures.
    """
    allowed = int(total * overcommit)
    if size > total:
        raise CapacityError(f"{format_bytes(size)} is more than the whole volume {volume} has: {format_bytes(total)}")
    if promised + size > allowed:
        times = "" if overcommit == 1.0 else f", times {overcommit:g}"
        raise CapacityError(
            f"{format_bytes(size)} is more than is left of volume {volume}: it has {format_bytes(total)}{times}, of "
            f"which {format_bytes(promised)} are promised to {pvs} PVs; at most "
            f"{format_bytes(max(0, allowed - promised))} can be had. Ask for less, delete PVs, or enlarge the volume"
        )
