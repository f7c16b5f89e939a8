"""Whether the bricks follow the canary: from what they answered, and what is remembered of earlier looks. Pure.

The canary's size changes every 20 s (csi/canaries.py). A brick is proven when its record was seen to change and its
limit with it; a limit that once did not follow proves nothing until it has changed itself. Times are of the looker's
own monotonic clock.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final

from kadalu_ext.errors import RecordError
from kadalu_ext.gluster.brick import BrickAnswer
from kadalu_ext.gluster.geometry import Brick, Geometry
from kadalu_ext.operator.reasons import Reason
from kadalu_ext.record import CANARY, brick_limit_bytes, decode
from kadalu_ext.units import MIB, format_bytes

STALE_S: Final = 120.0
"""A canary that has not changed for so long is not being changed: six times what it takes."""
UNSEEN_S: Final = 60.0
"""For so long a brick that is up may be silent before it is said of it: a busy disk is not worth an event."""

_LARGEST_BYTES: Final = 8 * MIB
"""No canary is larger: what shows more has no limit at all."""
_SHOWN: Final = 4


class Verdict(StrEnum):
    """What is known of one brick that holds data."""

    ENFORCES = "enforces"
    LAGS = "lags"
    DOWN = "down"
    UNPROVEN = "unproven"
    WAITS = "waits"
    """Nothing speaks against it; the next change will tell."""


@dataclass(frozen=True, kw_only=True)
class Known:
    """What is remembered of one brick.

    record: as this brick had it last, since `since`; None if it had none. stuck: what it showed when it did not
    follow, as long as it shows that. unseen: why it does not tell, since `unseen_since`.
    """

    record: bytes | None = None
    since: float = 0.0
    proven: bool = False
    stuck: int | None = None
    expected: int = 0
    down: str | None = None
    unseen: str | None = None
    unseen_since: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Enforcement:
    """What is to be said of a storage. status: of the condition; None if what was said last stays. enforcing: by the
    bricks' names; None where it is not known, or there is nothing to enforce."""

    status: str | None
    reason: Reason
    message: str
    enforcing: Mapping[str, bool | None] = field(default_factory=dict)


def lags(answer: BrickAnswer, geometry: Geometry) -> bool:
    """Whether a brick that has the canary's record shows another limit, or no directory: for now, or for good."""
    if answer.brick.arbiter or not answer.up or answer.attribute is None:
        return False
    expected = _expected(answer, geometry)
    return expected is not None and (answer.stat is None or answer.stat.total_bytes != expected)


def learn(known: Known | None, answer: BrickAnswer, geometry: Geometry, now: float) -> Known:
    """What is to be remembered after an answer that no second look will change."""
    if not answer.up:
        return Known(down=answer.error or f"brick {answer.brick} is down")
    expected = _expected(answer, geometry)
    error = answer.error
    if answer.stat is not None and answer.attribute is not None and expected is None:
        error = f"brick {answer.brick}: its record of the canary cannot be read"
    if error is not None or answer.stat is None:
        error = error or f"brick {answer.brick}: no answer"
        earlier = known or Known(since=now)
        return replace(earlier, down=None, unseen=error, unseen_since=earlier.unseen_since if earlier.unseen else now)
    total, record = answer.stat.total_bytes, answer.attribute
    fresh = known is None or known.down is not None or (known.unseen is not None and known.record is None)
    changed = not fresh and known is not None and known.record != record
    since = known.since if known is not None and not fresh and not changed else now
    if record is None:
        return Known(since=since)
    if total != expected or (known is not None and total == known.stuck):
        return Known(record=record, since=since, stuck=total, expected=expected or 0)
    proven = changed or (known is not None and known.proven)
    return Known(record=record, since=since, proven=proven, expected=expected or 0)


def _expected(answer: BrickAnswer, geometry: Geometry) -> int | None:
    if answer.attribute is None:
        return None
    try:
        size_bytes = decode(CANARY, answer.attribute).size_bytes
    except RecordError:
        return None
    block_bytes = answer.stat.block_bytes if answer.stat is not None else 1
    return brick_limit_bytes(size_bytes, data_bricks=geometry.data_bricks, block_bytes=block_bytes)


def verdict(known: Known, now: float) -> Verdict:
    """What is known of the brick."""
    if known.down is not None:
        return Verdict.DOWN
    if known.unseen is not None and now - known.unseen_since >= UNSEEN_S:
        return Verdict.UNPROVEN
    if known.stuck is not None:
        return Verdict.LAGS
    if now - known.since >= STALE_S or (known.record is None and known.unseen is None):
        return Verdict.UNPROVEN
    return Verdict.ENFORCES if known.proven else Verdict.WAITS


def judge(bricks: Mapping[Brick, Known], *, volume: str, now: float) -> Enforcement:
    """What is to be said of a volume, by what is known of its bricks; arbiters hold no data and are not asked."""
    known = {brick: each for brick, each in bricks.items() if not brick.arbiter}
    verdicts = {brick: verdict(each, now) for brick, each in known.items()}
    enforcing = dict.fromkeys((brick.name for brick in bricks), None) | {
        brick.name: {Verdict.ENFORCES: True, Verdict.LAGS: False}.get(each) for brick, each in verdicts.items()
    }
    status, reason, message = _finding(known, verdicts, volume, now)
    return Enforcement(status=status, reason=reason, message=message, enforcing=enforcing)


def _finding(
    known: Mapping[Brick, Known], verdicts: Mapping[Brick, Verdict], volume: str, now: float
) -> tuple[str | None, Reason, str]:
    def where(*wanted: Verdict) -> list[Brick]:
        return [brick for brick, each in verdicts.items() if each in wanted]

    behind = where(Verdict.LAGS)
    if behind:
        return "False", *_behind(behind, known)
    down = "; ".join(f"{known[brick].down}" for brick in where(Verdict.DOWN)[:_SHOWN])
    if len(where(Verdict.DOWN)) == len(known):
        return "Unknown", Reason.BRICK_UNPROVEN, f"no brick is up: {down}"
    told = [each for each in known.values() if each.down is None and each.unseen is None]
    if told and all(each.record is None for each in told):
        text = f"there is no canary on volume {volume} yet. {Reason.NOT_MEASURED.remedy}"
        return "Unknown", Reason.NOT_MEASURED, text
    recorded = [each for each in told if each.record is not None]
    if recorded and all(now - each.since >= STALE_S for each in recorded):
        text = f"the canary on volume {volume} does not change any more. {Reason.CANARY_STALE.remedy}"
        return "Unknown", Reason.CANARY_STALE, text
    unproven = where(Verdict.UNPROVEN)
    if unproven:
        why = "; ".join(
            known[brick].unseen or f"brick {brick}: changes of the canary do not arrive there"
            for brick in unproven[:_SHOWN]
        )
        return "Unknown", Reason.BRICK_UNPROVEN, f"{why}. {Reason.BRICK_UNPROVEN.remedy}"
    if where(Verdict.WAITS) or not where(Verdict.ENFORCES):
        text = f"the canary on volume {volume} is looked at; its next change tells. {down}".rstrip()
        return None, Reason.NOT_MEASURED, text
    if down:
        text = f"every brick that is up enforces sizes; not seen: {down}. {Reason.ENFORCED_WHERE_UP.remedy}"
        return "True", Reason.ENFORCED_WHERE_UP, text
    return "True", Reason.ENFORCED, "every brick was seen to enforce another size of the canary"


def _behind(behind: Sequence[Brick], known: Mapping[Brick, Known]) -> tuple[Reason, str]:
    bare = [brick for brick in behind if (known[brick].stuck or 0) > _LARGEST_BYTES]
    reason = Reason.NO_LIMIT if bare else Reason.NOT_ENFORCED
    shown = bare or behind  # what is not quotad's doing first: it is not mended by starting it
    what = "; ".join(
        f"brick {brick} shows {format_bytes(known[brick].stuck or 0)}" + ", its whole file system" * (brick in bare)
        for brick in shown[:_SHOWN]
    )
    others = [str(brick) for brick in behind if brick not in shown]
    also = f". Behind, too: {', '.join(others[:_SHOWN])}" if others else ""
    hosts = ", ".join(dict.fromkeys(brick.host for brick in behind))
    text = f"{len(behind)} of {len(known)} bricks do not enforce sizes: {what} instead of the canary's{also}"
    return reason, f"{text}. On {hosts}: {reason.remedy}"
