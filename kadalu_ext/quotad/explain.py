"""Why one PV is or is not enforced on this host: each thing that must be true, in order, and what to do about the first
that is not. Only looks."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Final

from kadalu_ext.errors import QuotaError, RecordError
from kadalu_ext.quotad import plan, scan, show, status
from kadalu_ext.quotad.bricks import EXPORT_OPTION, KADALU_FILE, VOLUMES_FILE, Brick, Choice, read_inventory
from kadalu_ext.quotad.plan import Project, State
from kadalu_ext.quotad.status import At, Progress, PvStatus
from kadalu_ext.quotad.xfs import FileSystems
from kadalu_ext.record import RECORDS_DIR, check_pv_name
from kadalu_ext.units import format_bytes

NOT_RECORDED: Final = "not recorded"
"""Beside the states of a record: there is none, or none that this host's kadalu-quotad may obey."""
_NOTHING: Final = f"there is no {RECORDS_DIR}/{{}}, and no directory of that name"


@dataclass(frozen=True, kw_only=True)
class Step:
    """One thing that must be true, and what was seen of it."""

    what: str
    fine: bool
    seen: str


@dataclass(frozen=True, kw_only=True)
class BrickAnswer:
    """One brick. `state` is that of `kadalu-quotad status`, or NOT_RECORDED; `remedy` '' if there is nothing to do."""

    volume: str
    path: str
    state: str
    steps: tuple[Step, ...]
    remedy: str


@dataclass(frozen=True, kw_only=True)
class Answer:
    """Every brick of this host that the PV is on, or should be as far as can be told."""

    pv: str
    daemon_running: bool
    problems: tuple[str, ...]
    bricks: tuple[BrickAnswer, ...]

    @property
    def enforced(self) -> bool:
        """Whether it is enforced on every brick that has it, and there is one."""
        return bool(self.bricks) and all(brick.state == State.ENFORCED for brick in self.bricks)


def explain(
    pv: str,
    glusterd_dir: str,
    systems: FileSystems,
    *,
    daemon_running: bool,
    hung: Mapping[str, str] = MappingProxyType({}),
    at: At = lambda path: None,
    progress: Progress = lambda *_: None,
) -> Answer:
    """Looks for the PV on every brick of this host. Raises: RecordError if it cannot be a PV's name."""
    check_pv_name(pv)
    report = status.look(glusterd_dir, systems, daemon_running=daemon_running, hung=hung, at=at, progress=progress)
    seen = {brick.path: brick for brick in report.bricks}
    answers, volumes = list[BrickAnswer](), set[str]()
    for brick in read_inventory(glusterd_dir).bricks:
        at(brick.path)
        looked = seen.get(brick.path)
        row = next((row for row in looked.pvs if row.pv == pv), None) if looked else None
        refused = looked.refused if looked else ""
        left_out = "" if looked else _left_out(brick, glusterd_dir)
        chosen = "" if left_out else _chosen(brick, glusterd_dir)
        answer = _Brick(pv, brick, systems).answer(row, refused, chosen, left_out, daemon_running=daemon_running)
        if answer is not None:
            answers.append(answer)
        if row is not None:
            volumes.add(brick.volume)
    # a volume that has the PV on one brick should have it on all; of the others there is nothing to say
    told = [answer for answer in answers if not volumes or answer.volume in volumes]
    return Answer(pv=pv, daemon_running=daemon_running, problems=report.problems, bricks=tuple(told))


def _chosen(brick: Brick, glusterd_dir: str) -> str:
    if brick.choice is Choice.IF_USED:
        return f"{brick.volume} is served: it holds {RECORDS_DIR}"
    if os.path.exists(os.path.join(glusterd_dir, VOLUMES_FILE)):
        return f"{brick.volume} is served: {VOLUMES_FILE} names it"
    if os.path.exists(os.path.join(glusterd_dir, KADALU_FILE)):
        return f"{brick.volume} is served: {KADALU_FILE} names the brick, or its option {EXPORT_OPTION} is on"
    return f"{brick.volume} is served: its option {EXPORT_OPTION} is on"


def _left_out(brick: Brick, glusterd_dir: str) -> str:
    volumes_file = os.path.join(glusterd_dir, VOLUMES_FILE)
    if brick.choice is Choice.IF_USED:
        return f"not served: nobody named volume {brick.volume}, and the brick has no {RECORDS_DIR} yet"
    if os.path.exists(volumes_file):
        return f"not served: {volumes_file} does not name volume {brick.volume}"
    return f"not served: volume {brick.volume} has {EXPORT_OPTION} off"


class _Brick:
    def __init__(self, pv: str, brick: Brick, systems: FileSystems) -> None:
        self._pv = pv
        self._brick = brick
        self._systems = systems

    def answer(
        self, row: PvStatus | None, refused: str, chosen: str, left_out: str, *, daemon_running: bool
    ) -> BrickAnswer | None:
        """None if the brick is left out and has no record of the PV."""
        steps = [Step(what="volume", fine=not left_out, seen=left_out or chosen)]
        if refused:
            steps.append(Step(what="brick", fine=False, seen=refused))
            state, remedy = State.FAILED.value, "the line above says what to do; nothing on this brick is enforced"
        else:
            steps += self._looked_at(row)
            if left_out and not any(step.what == "record" and step.fine for step in steps):
                return None
            state = row.state.value if row else NOT_RECORDED
            remedy = self._remedy(row, left_out, daemon_running=daemon_running)
        return BrickAnswer(
            volume=self._brick.volume, path=self._brick.path, state=state, steps=tuple(steps), remedy=remedy
        )

    def _looked_at(self, row: PvStatus | None) -> Iterator[Step]:
        try:
            with scan.open_brick(self._brick, self._systems, check=True) as opened:
                yield Step(what="brick", fine=True, seen=f"{self._brick.path}: its file system enforces project quotas")
                record = scan.read_record(opened.root, self._pv)
                if record is None:
                    yield Step(what="record", fine=False, seen=self._unrecorded(opened.root))
                    return
                limit = opened.wanted(record)
                size = format_bytes(record.size_bytes) + (f", {record.inodes} inodes" if record.inodes else "")
                here = (
                    "no data on this brick, an arbiter"
                    if self._brick.arbiter
                    else f"{format_bytes(limit.bhard_bytes)} on this brick"
                )
                yield Step(what="record", fine=True, seen=f"{RECORDS_DIR}/{self._pv} asks for {size}: {here}")
                with scan.open_pv(opened, record) as directory:
                    tag = opened.table.get_tag(directory)
                fine = plan.is_ours(tag.project_id) and tag.inherit
                inherit = ", and all that is made in it" if tag.inherit else ", but not what is made in it"
                yield Step(what="directory", fine=fine, seen=f"{record.path} has project {tag.project_id}{inherit}")
                project = opened.table.get(tag.project_id) if plan.is_ours(tag.project_id) else None
                seen = _use(project) if project else "none is set"
                yield Step(what="limit", fine=bool(project and project.limits == limit), seen=seen)
                if row is not None and row.state is not State.ENFORCED:
                    yield Step(what="verdict", fine=False, seen=row.reason)
        except FileNotFoundError:
            yield Step(what="directory", fine=False, seen="it is not there yet")
        except (QuotaError, RecordError, OSError) as error:
            yield Step(what="verdict", fine=False, seen=scan.reason(error))

    def _unrecorded(self, root: int) -> str:
        found = any(True for _ in scan.find_pvs(root, {self._pv}))
        return (
            f"there is no {RECORDS_DIR}/{self._pv}, yet a directory of that name"
            if found
            else _NOTHING.format(self._pv)
        )

    def _remedy(self, row: PvStatus | None, left_out: str, *, daemon_running: bool) -> str:
        heal = f"gluster volume heal {self._brick.volume} info"
        if left_out:
            return "export its volume (brick-hosts.md), or move the claim to one that is"
        if row is None:
            return f"the record is the CSI driver's to write: is this the PV's name (kubectl get pv)? healed: {heal}?"
        if row.state is State.ENFORCED:
            return show.full(row)
        if row.state is State.INVALID:
            return f"mend or remove the record through a mount of volume {self._brick.volume} (troubleshooting.md)"
        if not daemon_running:
            return "systemctl start kadalu-quotad, or kadalu-quotad once"
        if row.state is State.WAITING:
            return f"if it stays so, self-heal has not brought it: {heal}"
        return "kadalu-quotad is at it; if it stays so: journalctl -u kadalu-quotad"


def _use(project: Project) -> str:
    limits = project.limits
    size = f" of {format_bytes(limits.bhard_bytes)}" if limits.bhard_bytes else ", without a limit of blocks"
    inodes = f" of {limits.ihard} inodes" if limits.ihard else f" {'inode' if project.used_inodes == 1 else 'inodes'}"
    return f"{format_bytes(project.used_bytes)}{size} and {project.used_inodes}{inodes} are used"


def to_json(answer: Answer) -> str:
    """The answer as one JSON object."""
    return json.dumps({**asdict(answer), "enforced": answer.enforced}, indent=2)


def render(answer: Answer) -> str:
    """The answer for people."""
    return "\n".join(show.printable(line) for line in _render(answer)) + "\n"


def _render(answer: Answer) -> Iterator[str]:
    yield from (f"PROBLEM: {problem}" for problem in answer.problems)
    if answer.bricks:
        yield from _verdict(answer)
    for brick in () if _is_unknown(answer) else answer.bricks:
        yield f"volume {brick.volume}, brick {brick.path}: {brick.state}"
        for step in brick.steps:
            yield f"  {'ok' if step.fine else 'NO':<3} {step.what + ':':<10} {step.seen}"
        if brick.remedy:
            yield f"  ->  {brick.remedy}"
    if not answer.bricks:
        yield show.NO_BRICK
    if not answer.daemon_running:
        yield show.NOT_RUNNING


def _is_unknown(answer: Answer) -> bool:
    """Whether nothing here has to do with that name: what else is true of the bricks does not matter then."""
    return all(
        brick.state == NOT_RECORDED and brick.steps[-1].seen == _NOTHING.format(answer.pv) for brick in answer.bricks
    )


def _verdict(answer: Answer) -> Iterator[str]:
    if _is_unknown(answer):
        volumes = ", ".join(sorted({brick.volume for brick in answer.bricks}))
        yield f"{answer.pv}: no brick of this host has a record or a directory of that name; looked at: {volumes}"
        yield "  ->  a PV's name is wanted (kubectl get pv), not a claim's; the record is the CSI driver's to write"
        yield "  ->  if another host has it, self-heal has not brought it here yet: gluster volume heal VOLUME info"
        return
    enforced = sum(brick.state == State.ENFORCED for brick in answer.bricks)
    where = f"{enforced} of {show.count(len(answer.bricks), 'brick')} of this host"
    yield f"{answer.pv}: {'enforced' if answer.enforced else 'NOT enforced'}, on {where}"
