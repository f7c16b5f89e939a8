"""The canary's sizes. Pure.

Each storage's volume has one PV that nobody mounts, record.CANARY. Its size is changed over and over (canaries.py), and
whether every brick follows is what the operator looks at: so it knows which brick host does not enforce sizes, without
touching that host, and without any claim having to fail first.
"""

from __future__ import annotations

from typing import Final

from kadalu_ext.units import KIB, MIB

SMALLEST_BYTES: Final = 4 * MIB
STEP_BYTES: Final = 64 * KIB
"""Sixteen blocks: seen on every brick of a disperse volume with up to as many data bricks."""
STEPS: Final = 64
"""Many, so that a limit which is left over from earlier is hardly ever the one that is due."""

SUFFIX: Final = "0" * 16
"""Of its record in preparation, which the next beat takes up where one was interrupted: it promises nothing."""


def next_size(size_bytes: int | None) -> int:
    """The size in bytes after `size_bytes`: unlike it, below 8 MiB; the first, if that is none of its."""
    step, rest = divmod((size_bytes or 0) - SMALLEST_BYTES, STEP_BYTES)
    if rest or not 0 <= step < STEPS - 1:
        return SMALLEST_BYTES
    return SMALLEST_BYTES + (step + 1) * STEP_BYTES
