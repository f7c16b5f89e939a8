"""What was looked at, as people and monitoring read it. Pure: a Report in, text out."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from enum import IntEnum
from typing import Final

from kadalu_ext.quotad.plan import State
from kadalu_ext.quotad.status import BrickStatus, PvStatus, Report
from kadalu_ext.units import format_bytes

NOT_RUNNING: Final = "kadalu-quotad is not running, so new PVs are not enforced: systemctl start kadalu-quotad"
NO_BRICK: Final = "no brick of this host is kadalu-quotad's: gluster volume set VOLUME user.kadalu-ext.export on"
MAKE_ROOM: Final = "expand its claim, or delete something in it"


# --- status: a table a brick ---


def to_json(report: Report) -> str:
    """The report as one JSON object; sizes in bytes, null for what is unknown."""
    fields = asdict(report)
    fields["all_enforced"] = report.all_enforced
    return json.dumps(fields, indent=2)


def render(report: Report, *, troubled: bool = False) -> str:
    """The report for people: a table a brick. troubled: of PVs only those that somebody should look at."""
    return "\n".join(_render(report, troubled)) + "\n"


def only_troubled(report: Report) -> Report:
    """The report without the PVs that are as they should be."""
    return replace(
        report, bricks=tuple(replace(brick, pvs=tuple(filter(_is_troubled, brick.pvs))) for brick in report.bricks)
    )


def _is_troubled(pv: PvStatus) -> bool:
    return pv.state is not State.ENFORCED or pv.full


def _render(report: Report, troubled: bool) -> Iterator[str]:
    for problem in report.problems:
        yield f"PROBLEM: {printable(problem)}"
    for brick in report.bricks:
        enforced = sum(pv.state is State.ENFORCED for pv in brick.pvs)
        kind = ", arbiter: no data, no block limits" if brick.arbiter else ""
        what = f"volume {printable(brick.volume)}, brick {printable(brick.path)}{kind}"
        heal = f", {healing(brick)}" if brick.heal_pending else ""
        if brick.refused:
            yield f"{what}: REFUSED"
            yield f"  ->  {printable(brick.refused)}"
        else:
            yield f"{what}: {f'{enforced} of {len(brick.pvs)} enforced' if brick.pvs else 'no PVs'}{heal}"
        pvs = tuple(filter(_is_troubled, brick.pvs)) if troubled else brick.pvs
        if pvs:
            yield from ("  " + line for line in _pv_table(pvs))
        yield ""
    if not report.bricks:
        yield NO_BRICK
    if not report.daemon_running:
        yield NOT_RUNNING


def _pv_table(pvs: Sequence[PvStatus]) -> Iterator[str]:
    rows = [("PV", "SIZE", "PROJECT", "USED HERE", "LIMIT HERE", "STATE", "REASON")]
    for pv in pvs:
        limit = "none" if pv.limit_bytes == 0 else _size(pv.limit_bytes)
        project = "-" if pv.project_id is None else str(pv.project_id)
        reason = "; ".join(filter(None, [pv.reason, full(pv)]))
        rows.append(
            (
                printable(pv.pv),
                _size(pv.size_bytes),
                project,
                _size(pv.used_bytes),
                limit,
                pv.state.value,
                printable(reason),
            )
        )
    return _table(rows)


def full(pv: PvStatus) -> str:
    """What is said of a PV at its limit, with the remedy; '' of others."""
    if not pv.full:
        return ""
    return f"full{', ' if pv.heal_pending else ''}{_waits(pv)}: {MAKE_ROOM}"


def _waits(pv: PvStatus) -> str:
    # at the limit bricks refuse one by one, and what only some of them took cannot be healed before there is room
    least = "" if pv.heal_whole else "at least "
    files = count(pv.heal_pending, "of its files waits", "of its files wait")
    return f"{least}{files} for heal on this brick" if pv.heal_pending else ""


def healing(brick: BrickStatus) -> str:
    """How much waits for self-heal on a brick, whosever it is."""
    least = "" if brick.heal_whole else "at least "
    return f"{least}{count(brick.heal_pending, 'entry waits', 'entries wait')} for heal"


# --- check: one line for monitoring ---


class Level(IntEnum):
    """The exit status that Nagios, Icinga and their like expect of a check."""

    OK = 0
    WARNING = 1
    CRITICAL = 2
    UNKNOWN = 3


@dataclass(frozen=True, kw_only=True)
class Check:
    """CRITICAL: a size is not enforced, or nobody enforces the next. WARNING: it passes by itself, or is a user's to
    mend. `figures` go behind the `|`, where such programs look for what they plot."""

    level: Level
    text: str
    figures: dict[str, int]

    def line(self) -> str:
        """The line, whatever names are in it."""
        figures = " ".join(f"{name}={count}" for name, count in self.figures.items())
        # what is behind a | is not shown
        return f"{self.level.name}: {printable(self.text).replace('|', '/')} | {figures}"

    def to_json(self) -> str:
        """The same as one JSON object."""
        return json.dumps({"level": self.level.name, "text": self.text, **self.figures}, indent=2)


def check(report: Report) -> Check:
    """What monitoring has to know of a host: the worst first, and how often."""
    pvs = [(brick, pv) for brick in report.bricks for pv in brick.pvs]
    refused = [brick for brick in report.bricks if brick.refused]
    bad = [(brick, pv) for brick, pv in pvs if pv.state not in (State.ENFORCED, State.WAITING)]
    waiting = [(brick, pv) for brick, pv in pvs if pv.state is State.WAITING]
    full = [(brick, pv) for brick, pv in pvs if pv.full]
    critical = [
        "" if report.daemon_running else NOT_RUNNING,
        next(iter(report.problems), ""),
        f"{count(len(refused), 'brick')} refused: {refused[0].refused}" if refused else "",
        f"{count(len(bad), 'PV')} not enforced: {_which(*bad[0])}: {bad[0][1].reason}" if bad else "",
    ]
    warning = [
        "" if report.bricks else NO_BRICK,
        f"{count(len(waiting), 'PV')} waiting: {_which(*waiting[0])}: {waiting[0][1].reason}" if waiting else "",
        f"{count(len(full), 'PV')} full: {_full(*full[0])}" if full else "",
    ]
    enforced = sum(pv.state is State.ENFORCED for _, pv in pvs)
    level = Level.CRITICAL if any(critical) else Level.WARNING if any(warning) else Level.OK
    fine = f"{count(len(report.bricks) - len(refused), 'brick')}, {count(enforced, 'PV')} enforced"
    return Check(
        level=level,
        text="; ".join(filter(None, [*critical, *warning, fine])),
        figures={
            "bricks": len(report.bricks), "refused": len(refused), "pvs": len(pvs), "enforced": enforced,
            "full": len(full),
        },
    )  # fmt: skip


def _full(brick: BrickStatus, pv: PvStatus) -> str:
    return ": ".join(filter(None, [_which(brick, pv), _waits(pv), MAKE_ROOM]))


def _which(brick: BrickStatus, pv: PvStatus) -> str:
    return f"{pv.pv} on {brick.path}"


# --- report: a row a volume ---


@dataclass(frozen=True, kw_only=True)
class VolumeReport:
    """A volume, as far as this host's bricks go. A PV counts once, however many of the bricks have it.

    size_bytes: what the PVs' records ask for together; used_bytes: on the brick of this host that holds
    most; heal_pending: what waits for self-heal on the brick where most does.
    """

    volume: str
    bricks: int
    refused: int
    pvs: int
    enforced: int
    full: int
    size_bytes: int
    used_bytes: int
    heal_pending: int


def volumes(report: Report) -> tuple[VolumeReport, ...]:
    """A row a volume, by name."""
    by_volume = defaultdict[str, list[BrickStatus]](list)
    for brick in report.bricks:
        by_volume[brick.volume].append(brick)
    return tuple(_volume(name, by_volume[name]) for name in sorted(by_volume))


def _volume(name: str, bricks: Sequence[BrickStatus]) -> VolumeReport:
    pvs = defaultdict[str, list[PvStatus]](list)
    for brick in bricks:
        for pv in brick.pvs:
            pvs[pv.pv].append(pv)
    return VolumeReport(
        volume=name,
        bricks=len(bricks),
        refused=sum(bool(brick.refused) for brick in bricks),
        pvs=len(pvs),
        enforced=sum(all(pv.state is State.ENFORCED for pv in seen) for seen in pvs.values()),
        full=sum(any(pv.full for pv in seen) for seen in pvs.values()),
        size_bytes=sum(max(pv.size_bytes or 0 for pv in seen) for seen in pvs.values()),
        used_bytes=max(sum(pv.used_bytes or 0 for pv in brick.pvs) for brick in bricks),
        heal_pending=max(brick.heal_pending for brick in bricks),
    )


def volumes_to_json(report: Report) -> str:
    """The rows as one JSON object; sizes in bytes."""
    rows = [asdict(volume) for volume in volumes(report)]
    fields = {"daemon_running": report.daemon_running, "problems": report.problems, "volumes": rows}
    return json.dumps(fields, indent=2)


def render_volumes(report: Report) -> str:
    """The rows for people."""
    rows = [("VOLUME", "BRICKS", "REFUSED", "PVS", "ENFORCED", "FULL", "HEALING", "PROMISED", "USED")]
    rows += [
        (printable(row.volume), str(row.bricks), str(row.refused), str(row.pvs), str(row.enforced), str(row.full),
         str(row.heal_pending),
         format_bytes(row.size_bytes), format_bytes(row.used_bytes))
        for row in volumes(report)
    ]  # fmt: skip
    lines = [f"PROBLEM: {printable(problem)}" for problem in report.problems]
    lines += _table(rows) if report.bricks else [NO_BRICK]
    return "\n".join(lines if report.daemon_running else [*lines, NOT_RUNNING]) + "\n"


# --- words ---


def count(number: int, what: str, whats: str = "") -> str:
    """`1 brick`, `3 bricks`."""
    return f"{number} {what if number == 1 else whats or what + 's'}"


def printable(text: str) -> str:
    """Names on a volume are other people's: nothing of them is to steer a terminal."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def _size(number: int | None) -> str:
    return "-" if number is None else format_bytes(number)


def _table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
