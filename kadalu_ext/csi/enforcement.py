"""What the bricks' answers to STATFS of a PV's directory mean. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from kadalu_ext.errors import BricksDownError, NotEnforcedError
from kadalu_ext.gluster.brick import BrickAnswer
from kadalu_ext.gluster.geometry import Geometry
from kadalu_ext.record import brick_limit_bytes
from kadalu_ext.units import format_bytes

_SHOWN = 4
"""Bricks named in one message: an event of Kubernetes holds 1024 characters."""


def bricks_down(answers: Iterable[BrickAnswer], geometry: Geometry, *, volume: str) -> BricksDownError | None:
    """The error that names the bricks that are down, if so many are that the volume takes no writes; else None."""
    answers = list(answers)
    down = [answer for answer in answers if not answer.up]
    if geometry.takes_writes({answer.brick.name for answer in answers if answer.up}):
        return None
    return BricksDownError(
        f"volume {volume} takes no writes: {len(down)} of its {len(geometry.bricks)} bricks are down: "
        f"{describe(down)}. Start them; on a brick host, `gluster volume status {volume}` tells more"
    )


def describe(answers: Iterable[BrickAnswer]) -> str:
    """The bricks that did not say what was asked, each with the reason."""
    return _some([answer.error or f"brick {answer.brick}: no answer" for answer in answers])


def not_enforced(
    answers: Iterable[BrickAnswer], geometry: Geometry, *, size_bytes: int, volume: str
) -> NotEnforcedError | BricksDownError | None:
    """None if every brick that is up and holds data shows the limit that a PV of `size_bytes` has there, and enough
    bricks are up for writes. Otherwise the error that says which brick does not, and what to do.
    """
    answers = list(answers)
    if down := bricks_down(answers, geometry, volume=volume):
        return down
    lacking = {
        answer.brick: reason
        for answer in answers
        if answer.up and not answer.brick.arbiter and (reason := _lack(answer, geometry, size_bytes))
    }
    if not lacking:
        return None
    hosts = ", ".join(dict.fromkeys(brick.host for brick in lacking))
    return NotEnforcedError(
        f"the size of {format_bytes(size_bytes)} is not enforced on {len(lacking)} of {len(geometry.data_carriers)} "
        f"bricks: {_some(list(lacking.values()))}. On {hosts}: `systemctl start kadalu-quotad`; `kadalu-quotad status` "
        "there tells why"
    )


def _lack(answer: BrickAnswer, geometry: Geometry, size_bytes: int) -> str | None:
    """What is wrong on this brick, naming it; None if all is well."""
    if answer.stat is None:
        return describe([answer])
    expected = brick_limit_bytes(size_bytes, data_bricks=geometry.data_bricks, block_bytes=answer.stat.block_bytes)
    if answer.stat.total_bytes == expected:
        return None
    shown, wanted = format_bytes(answer.stat.total_bytes), format_bytes(expected)
    if abs(answer.stat.total_bytes - expected) < expected // 10:  # they might read the same
        shown, wanted = str(answer.stat.total_bytes), f"{expected} bytes"
    return f"brick {answer.brick} shows {shown} instead of {wanted}"


def _some(texts: Sequence[str]) -> str:
    more = len(texts) - _SHOWN
    return "; ".join(texts[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
