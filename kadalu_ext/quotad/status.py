"""What the kernel says of every record on this host's bricks, looked at now: with or without the daemon, changing
nothing."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

from kadalu_ext.errors import QuotaError, RecordError
from kadalu_ext.quotad import plan, scan
from kadalu_ext.quotad.bricks import Brick, Choice, read_inventory
from kadalu_ext.quotad.plan import Owner, ProjectId, State, Tag
from kadalu_ext.quotad.scan import OpenBrick
from kadalu_ext.quotad.xfs import FileSystems
from kadalu_ext.units import format_bytes


@dataclass(frozen=True, kw_only=True)
class PvStatus:
    """One record on one brick. `limit_bytes` is what the kernel enforces: 0 for nothing; None: unknown."""

    pv: str
    state: State
    reason: str = ""
    size_bytes: int | None = None
    project_id: ProjectId | None = None
    used_bytes: int | None = None
    limit_bytes: int | None = None


@dataclass(frozen=True, kw_only=True)
class BrickStatus:
    """One brick; `refused` is why nothing on it is enforced by us, or ''."""

    volume: str
    path: str
    arbiter: bool
    refused: str
    pvs: tuple[PvStatus, ...]


@dataclass(frozen=True, kw_only=True)
class Report:
    """A whole host. `problems` are about glusterd's files."""

    daemon_running: bool
    problems: tuple[str, ...]
    bricks: tuple[BrickStatus, ...]

    @property
    def all_enforced(self) -> bool:
        """Whether there is nothing that somebody should look at."""
        return not self.problems and not any(
            brick.refused or any(pv.state is not State.ENFORCED for pv in brick.pvs) for brick in self.bricks
        )


def look(glusterd_dir: str, systems: FileSystems, *, daemon_running: bool) -> Report:
    """Looks at every brick that is kadalu-quotad's. What cannot be seen is in the report, with the reason."""
    inventory = read_inventory(glusterd_dir)
    look = _Look(systems)
    bricks = tuple(
        look.brick(brick)
        for brick in inventory.bricks
        if brick.choice is Choice.NAMED or (brick.choice is Choice.IF_USED and scan.is_used(brick))
    )
    return Report(daemon_running=daemon_running, problems=inventory.problems, bricks=bricks)


class _Look:
    """One round over the bricks; it remembers which project and directory it has seen where."""

    def __init__(self, systems: FileSystems) -> None:
        self._systems = systems
        self._seen: dict[tuple[str, int, int], Owner] = {}

    def brick(self, brick: Brick) -> BrickStatus:
        refused, pvs = brick.unsupported, list[PvStatus]()
        if not refused:
            try:
                with scan.open_brick(brick, self._systems, check=True) as opened:
                    pvs = [self._pv(opened, name) for name in scan.record_names(opened.root)]
            except QuotaError as error:
                refused = str(error)
            except OSError as error:
                refused = f"{brick.path}: {scan.reason(error)}"
        return BrickStatus(volume=brick.volume, path=brick.path, arbiter=brick.arbiter, refused=refused, pvs=tuple(pvs))

    def _pv(self, opened: OpenBrick, name: str) -> PvStatus:
        size_bytes = None
        try:
            record = scan.read_record(opened.root, name)
            if record is None:
                return PvStatus(pv=name, state=State.WAITING, reason="its record was removed just now")
            size_bytes = record.size_bytes
            with scan.open_pv(opened, record) as directory:
                tag, inode = opened.table.get_tag(directory), os.fstat(directory).st_ino
            state, reason = plan.judge(tag, opened.wanted(record), opened.table)
            shared = self._shared(opened, name, tag, inode)
            if shared:
                state, reason = State.UNENFORCED, shared
            row = opened.table.get(tag.project_id) if plan.is_ours(tag.project_id) else None
            return PvStatus(
                pv=name, state=state, reason=reason, size_bytes=size_bytes, project_id=tag.project_id,
                used_bytes=row.used_bytes if row else None, limit_bytes=row.limits.bhard_bytes if row else 0,
            )  # fmt: skip
        except FileNotFoundError:
            return PvStatus(
                pv=name, state=State.WAITING, reason="its directory is not there yet", size_bytes=size_bytes
            )
        except RecordError as error:
            return PvStatus(pv=name, state=State.INVALID, reason=str(error), size_bytes=size_bytes)
        except OSError as error:
            return PvStatus(pv=name, state=State.FAILED, reason=scan.reason(error), size_bytes=size_bytes)

    def _shared(self, opened: OpenBrick, name: str, tag: Tag, inode: int) -> str:
        """Why this PV has not a project and a directory to itself, or ''."""
        owner = Owner(opened.brick.path, name)
        what = [("directory", inode)] + ([("project", int(tag.project_id))] if plan.is_ours(tag.project_id) else [])
        for kind, number in what:
            other = self._seen.setdefault((kind, opened.device, number), owner)
            if other != owner:
                return f"it has the same {kind} as {other.pv} on {other.brick}"
        return ""


def to_json(report: Report) -> str:
    """The report as one JSON object; sizes in bytes, null for what is unknown."""
    fields = asdict(report)
    fields["all_enforced"] = report.all_enforced
    return json.dumps(fields, indent=2)


def render(report: Report) -> str:
    """The report for people: a table a brick."""
    return "\n".join(_render(report)) + "\n"


def _render(report: Report) -> Iterator[str]:
    for problem in report.problems:
        yield f"PROBLEM: {_printable(problem)}"
    for brick in report.bricks:
        enforced = sum(pv.state is State.ENFORCED for pv in brick.pvs)
        kind = ", arbiter: no data, no block limits" if brick.arbiter else ""
        what = f"volume {_printable(brick.volume)}, brick {_printable(brick.path)}{kind}"
        yield f"{what}: {enforced} of {len(brick.pvs)} enforced"
        if brick.refused:
            yield f"  REFUSED: {_printable(brick.refused)}"
        if brick.pvs:
            yield from ("  " + line for line in _table(brick.pvs))
        yield ""
    if not report.bricks:
        yield "no brick of this host is kadalu-quotad's: name its volume in kadalustorage.info"
    if not report.daemon_running:
        yield "kadalu-quotad is not running, so new PVs are not enforced: systemctl start kadalu-quotad"


def _table(pvs: Sequence[PvStatus]) -> Iterator[str]:
    rows = [("PV", "PROJECT", "USED", "LIMIT", "STATE", "REASON")]
    for pv in pvs:
        limit = "none" if pv.limit_bytes == 0 else _size(pv.limit_bytes)
        project = "-" if pv.project_id is None else str(pv.project_id)
        rows.append((_printable(pv.pv), project, _size(pv.used_bytes), limit, pv.state.value, _printable(pv.reason)))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def _size(count: int | None) -> str:
    return "-" if count is None else format_bytes(count)


def _printable(text: str) -> str:
    """Names on a volume are other people's: nothing of them is to steer a terminal."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
