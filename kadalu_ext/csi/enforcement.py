"""What the bricks' answers to STATFS of a PV's directory mean. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from kadalu_ext.errors import BricksDownError, NotEnforcedError
from kadalu_ext.gluster.brick import BrickAnswer, BrickStat
from kadalu_ext.gluster.geometry import Brick, Geometry
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
    answers: Iterable[BrickAnswer], geometry: Geometry, *, size_bytes: int, inodes: int | None = None, volume: str
) -> NotEnforcedError | BricksDownError | None:
    """None if every brick that is up and holds data shows the limit that a PV of `size_bytes` has there, every brick
    that is up shows that of `inodes`, if there is one, and enough bricks are up for writes. Otherwise the error that
    says which brick does not, and what to do.
    """
    answers = list(answers)
    if down := bricks_down(answers, geometry, volume=volume):
        return down
    # an arbiter has files, but nothing is in them
    asked = [answer for answer in answers if answer.up and (inodes is not None or not answer.brick.arbiter)]
    unseen = [answer for answer in asked if answer.stat is None]
    unlimited = {
        answer.brick: reason
        for answer in asked
        if answer.stat and (reason := _lack(answer.brick, answer.stat, geometry, size_bytes, inodes))
    }
    if not unseen and not unlimited:
        return None
    what = f"the size of {format_bytes(size_bytes)}" + (f" with {inodes} inodes" if inodes is not None else "")
    bricks = geometry.data_carriers if inodes is None else geometry.bricks
    text = f"{what} is not enforced on {len(unseen) + len(unlimited)} of {len(bricks)} bricks"
    if unlimited:
        hosts = ", ".join(dict.fromkeys(brick.host for brick in unlimited))
        text += (
            f": {_some(list(unlimited.values()))}. On {hosts}: `systemctl start kadalu-quotad`; `kadalu-quotad status` "
            "there tells why"
        )
    if unseen:
        text += (
            f"{'. Also' if unlimited else ''}: {describe(unseen)}. A directory that a brick has missed is brought by "
            f"self-heal; on a brick host, `gluster volume heal {volume} info` tells what waits"
        )
    return NotEnforcedError(text)


def _lack(brick: Brick, stat: BrickStat, geometry: Geometry, size_bytes: int, inodes: int | None) -> str | None:
    """What is wrong with the limits on this brick, naming it; None if all is well."""
    expected = brick_limit_bytes(size_bytes, data_bricks=geometry.data_bricks, block_bytes=stat.block_bytes)
    if brick.arbiter or stat.total_bytes == expected:
        if inodes is None or stat.total_inodes == inodes:
            return None
        return f"brick {brick} shows {stat.total_inodes} inodes instead of {inodes}"
    shown, wanted = format_bytes(stat.total_bytes), format_bytes(expected)
    if abs(stat.total_bytes - expected) < expected // 10:  # they might read the same
        shown, wanted = str(stat.total_bytes), f"{expected} bytes"
    return f"brick {brick} shows {shown} instead of {wanted}"


def _some(texts: Sequence[str]) -> str:
    more = len(texts) - _SHOWN
    return "; ".join(texts[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
