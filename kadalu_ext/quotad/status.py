"""What the kernel says of every record on this host's bricks, looked at now: with or without the daemon, changing
nothing."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from kadalu_ext.errors import QuotaError, RecordError
from kadalu_ext.quotad import heal, plan, scan
from kadalu_ext.quotad.bricks import Brick, Choice, read_inventory
from kadalu_ext.quotad.heal import Waiting
from kadalu_ext.quotad.plan import Owner, Project, ProjectId, State, Tag
from kadalu_ext.quotad.scan import OpenBrick
from kadalu_ext.quotad.xfs import FileSystems
from kadalu_ext.units import MIB

Progress = Callable[[int, int], None]
"""Called with how many PVs were looked at, and how many there are as far as is known."""
At = Callable[[str], None]
"""Called with the path of a brick before it is touched."""


@dataclass(frozen=True, kw_only=True)
class PvStatus:
    """One record on one brick. `limit_bytes` is what the kernel enforces: 0 for nothing; None: unknown.

    full: writers are refused, or will be with the next write of ordinary size.
    heal_pending: how many of its files and directories wait for gluster's self-heal on this brick (heal.py);
    heal_whole: whether these are all, or only as many as were counted.
    """

    pv: str
    state: State
    reason: str = ""
    size_bytes: int | None = None
    project_id: ProjectId | None = None
    used_bytes: int | None = None
    limit_bytes: int | None = None
    full: bool = False
    heal_pending: int = 0
    heal_whole: bool = True


@dataclass(frozen=True, kw_only=True)
class BrickStatus:
    """One brick; `refused` is why nothing on it is enforced by us, or ''.

    heal_pending: how many files and directories wait for self-heal on it, whosever they are; heal_whole: whether these
    are all, or only as many as were counted.
    """

    volume: str
    path: str
    arbiter: bool
    refused: str
    pvs: tuple[PvStatus, ...]
    heal_pending: int = 0
    heal_whole: bool = True


@dataclass(frozen=True, kw_only=True)
class Report:
    """A whole host. `problems` are about glusterd's files, and about the daemon (told.py)."""

    daemon_running: bool
    problems: tuple[str, ...]
    bricks: tuple[BrickStatus, ...]

    @property
    def all_enforced(self) -> bool:
        """Whether every record is enforced, and nothing hides one."""
        return not self.problems and not any(
            brick.refused or any(pv.state is not State.ENFORCED for pv in brick.pvs) for brick in self.bricks
        )


def look(
    glusterd_dir: str,
    systems: FileSystems,
    *,
    daemon_running: bool,
    hung: Mapping[str, str] = MappingProxyType({}),
    volumes: Collection[str] = (),
    paths: Collection[str] = (),
    at: At = lambda path: None,
    progress: Progress = lambda done, total: None,
) -> Report:
    """Looks at every brick that is kadalu-quotad's. What cannot be seen is in the report, with the reason.

    volumes, paths: only the bricks of these volumes, only those at these paths; empty: all. Others are not touched.
    hung: bricks, by path, that are not to be looked at, because whoever does hangs; and the reason.
    """
    inventory = read_inventory(glusterd_dir)
    look = _Look(systems, progress)
    bricks = tuple(
        look.brick(brick, hung.get(brick.path, ""))
        for brick in inventory.bricks
        if (not volumes or brick.volume in volumes) and (not paths or brick.path in paths)
        if brick.path in hung or _is_served(brick, at)
    )
    return Report(daemon_running=daemon_running, problems=inventory.problems, bricks=bricks)


def _is_served(brick: Brick, at: At) -> bool:
    at(brick.path)
    return is_served(brick)


def is_served(brick: Brick) -> bool:
    """Whether the brick is kadalu-quotad's to look after."""
    return brick.choice is Choice.NAMED or (brick.choice is Choice.IF_USED and scan.is_used(brick))


def is_full(row: Project) -> bool:
    """Whether the project is at one of its limits.

    XFS refuses what does not fit whole, so a little is always left: a hundredth of the limit, 1 MiB at most, counts
    as nothing. A gluster client writes 128 KiB at once.
    """
    limits = row.limits
    little = min(limits.bhard_bytes // 100, MIB)
    out_of_blocks = limits.bhard_bytes > 0 and limits.bhard_bytes - row.used_bytes <= little
    return out_of_blocks or (limits.ihard > 0 and row.used_inodes >= limits.ihard)


class _Look:
    """One round over the bricks; it remembers which project and directory it has seen where."""

    def __init__(self, systems: FileSystems, progress: Progress) -> None:
        self._systems = systems
        self._progress = progress
        self._done = 0
        self._total = 0
        self._seen: dict[tuple[str, int, int], Owner] = {}

    def brick(self, brick: Brick, hung: str) -> BrickStatus:
        refused, pvs, waiting = hung or brick.unsupported, list[PvStatus](), Waiting()
        if not refused:
            try:
                with scan.open_brick(brick, self._systems, check=True) as opened:
                    names = scan.record_names(opened.root)
                    self._total += len(names)
                    waiting = heal.waiting(opened)
                    for name in names:
                        pvs.append(self._pv(opened, name, waiting))
                        self._done += 1
                        self._progress(self._done, self._total)
            except QuotaError as error:
                refused = str(error)
            except OSError as error:
                refused = f"{brick.path}: {scan.reason(error)}"
        return BrickStatus(
            volume=brick.volume, path=brick.path, arbiter=brick.arbiter, refused=refused, pvs=tuple(pvs),
            heal_pending=waiting.total, heal_whole=waiting.whole,
        )  # fmt: skip

    def _pv(self, opened: OpenBrick, name: str, waiting: Waiting) -> PvStatus:
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
                full=row is not None and is_full(row),
                heal_pending=waiting.of(name, tag.project_id), heal_whole=waiting.whole,
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
