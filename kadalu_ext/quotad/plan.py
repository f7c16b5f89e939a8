"""What to do about a PV's directory, and what to call what was seen of it. Pure: no I/O.

Words are XFS's: a *project* is a number that inodes carry, the kernel counts what inodes of a project use and refuses
more than the project's hard limit (xfs_quota(8), quotactl(2)).

How a PV becomes enforced, in the one order that is right after a crash at any step:

1. choose a project id: the directory's own if it is ours and nobody else's, or else one that nobody uses;
2. tag the tree (tree.py): files, then directories bottom-up, the PV's top last; look again until nothing is left;
3. set the limit. It is the mark that the tree is whole: a tagged directory whose project has no limit is looked
   through again;
4. read tag and limit back. Only what the kernel says then counts as enforced.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple, NewType, Protocol

from kadalu_ext.errors import QuotaError
from kadalu_ext.record import QuotaRecord, brick_limit_bytes
from kadalu_ext.units import format_bytes

ProjectId = NewType("ProjectId", int)

FIRST_PROJECT_ID: Final = ProjectId(0x4B44_0000)
"""1262747648: "KD" and then zeros, far above what people number by hand. Only ids from here to LAST_PROJECT_ID are ever
set on an inode, limited or cleared; a million PVs fit on one file system."""
LAST_PROJECT_ID: Final = ProjectId(0x4B53_FFFF)


class Owner(NamedTuple):
    """Whose a project is: the brick's path and the PV's name."""

    brick: str
    pv: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Tag:
    """What an inode says of its project. `inherit` (FS_XFLAG_PROJINHERIT): what is made in it gets its project."""

    project_id: ProjectId
    inherit: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """A project's limits; 0 means none, as in the kernel. Ours are hard ones only: statvfs would show a soft one."""

    bhard_bytes: int = 0
    ihard: int = 0
    bsoft_bytes: int = 0
    isoft: int = 0


NO_LIMITS: Final = Limits()


@dataclass(frozen=True, kw_only=True, slots=True)
class Project:
    """One row of the kernel's table. A project that nothing uses and nothing limits has no row."""

    project_id: ProjectId
    limits: Limits
    used_bytes: int
    used_inodes: int


class Projects(Protocol):
    """The kernel's table of one file system, as far as plans look into it; a dict will do."""

    def get(self, project_id: ProjectId, /) -> Project | None: ...


class State(StrEnum):
    """What is said of a record on one brick."""

    ENFORCED = "enforced"
    WAITING = "waiting"
    """The PV's directory is not there (yet)."""
    UNENFORCED = "unenforced"
    """The kernel does not say what the record asks for (yet); the reason says what it says."""
    INVALID = "invalid"
    """The record is refused: somebody has to mend or remove it."""
    FAILED = "failed"
    """A system call failed; it is tried again."""


class Claims:
    """Which record has which project and directory on one file system.

    In memory only: it is learnt anew from records and inodes whenever the daemon starts.
    """

    def __init__(self) -> None:
        self._held: dict[Owner, tuple[ProjectId, int]] = {}
        self._owners: dict[ProjectId, Owner] = {}
        self._inodes: dict[int, Owner] = {}

    def owner(self, project_id: ProjectId) -> Owner | None:
        return self._owners.get(project_id)

    def may_have(self, owner: Owner, project_id: ProjectId) -> bool:
        """Whether `owner` has this project, or neither of them has another."""
        held = self._held.get(owner)
        return held[0] == project_id if held else project_id not in self._owners

    def rival(self, owner: Owner, project_id: ProjectId, inode: int) -> Owner | None:
        """Who else has this very directory.

        Inode numbers are used again: it is still the other's only if it carries the other's project.
        """
        other = self._inodes.get(inode)
        return other if other not in (None, owner) and self._owners.get(project_id) == other else None

    def project(self, owner: Owner, inode: int) -> ProjectId | None:
        """What `owner` has already, for this very directory: what was begun and has failed is gone on with."""
        project_id, directory = self._held.get(owner, (None, 0))
        return project_id if directory == inode else None

    def owners(self) -> tuple[Owner, ...]:
        return tuple(self._held)

    def take(self, owner: Owner, project_id: ProjectId, inode: int) -> ProjectId | None:
        """Gives the project and the directory to `owner`; returns the project it had before, if that was another."""
        before = self.drop(owner)
        self._held[owner] = (project_id, inode)
        self._owners[project_id] = owner
        self._inodes[inode] = owner
        return None if before == project_id else before

    def drop(self, owner: Owner) -> ProjectId | None:
        """Forgets what `owner` had, and returns its project."""
        held = self._held.pop(owner, None)
        if held is None:
            return None
        project_id, inode = held
        del self._owners[project_id]
        if self._inodes.get(inode) == owner:
            del self._inodes[inode]
        return project_id


@dataclass(frozen=True, kw_only=True)
class Todo:
    """What makes one PV enforced: its project; whether its tree must be tagged; the limits to set, None if they
    stand."""

    project_id: ProjectId
    retag: bool
    limits: Limits | None


def is_ours(project_id: int) -> bool:
    """Whether the id is of our range; no other is ever touched."""
    return FIRST_PROJECT_ID <= project_id <= LAST_PROJECT_ID


def wanted_limits(record: QuotaRecord, *, arbiter: bool, data_bricks: int, block_bytes: int) -> Limits:
    """What one brick must enforce for `record`; an arbiter holds no data, so its blocks are not limited."""
    blocks = 0 if arbiter else brick_limit_bytes(record.size_bytes, data_bricks=data_bricks, block_bytes=block_bytes)
    return Limits(bhard_bytes=blocks, ihard=record.inodes or 0)


def decide(
    tag: Tag, wanted: Limits, *, owner: Owner, inode: int, claims: Claims, projects: Projects, start: ProjectId
) -> Todo:
    """What to do about a PV's directory, numbered `inode`, that carries `tag`.

    start: where to begin the search for a free id; so that ids of PVs that are gone are not used again soon.
    Raises: QuotaError if every id of our range is in use.
    """
    mine = is_ours(tag.project_id) and claims.owner(tag.project_id) in (None, owner)
    known = tag.project_id if mine else claims.project(owner, inode)
    project_id = free_id(claims, projects, start) if known is None else known
    row = projects.get(project_id) if known is not None else None  # a free id is one without a row
    limits = row.limits if row else NO_LIMITS
    unfinished = limits == NO_LIMITS and wanted != NO_LIMITS
    return Todo(
        project_id=project_id,
        retag=unfinished or tag != Tag(project_id=project_id, inherit=True),
        limits=None if limits == wanted else wanted,
    )


def free_id(claims: Claims, projects: Projects, start: ProjectId) -> ProjectId:
    """The first id from `start` on, round the range, that no record has and the kernel has no row for.

    An inode that carries a project is counted in its row, so an id without a row is on no inode, whoever set it.
    Raises: QuotaError if there is none.
    """
    count = LAST_PROJECT_ID - FIRST_PROJECT_ID + 1
    for offset in range(count):
        candidate = ProjectId(FIRST_PROJECT_ID + (start - FIRST_PROJECT_ID + offset) % count)
        if claims.owner(candidate) is None and projects.get(candidate) is None:
            return candidate
    raise QuotaError(
        f"all {count} project ids from {FIRST_PROJECT_ID} to {LAST_PROJECT_ID} are in use on this file system; "
        "put further bricks on another one"
    )


def orphans(limits: Mapping[ProjectId, Limits], claims: Claims) -> list[ProjectId]:
    """The projects of our range that still have a limit although no record claims them."""
    return [
        project_id
        for project_id, limit in limits.items()
        if is_ours(project_id) and limit != NO_LIMITS and claims.owner(project_id) is None
    ]


def judge(tag: Tag, wanted: Limits, projects: Projects) -> tuple[State, str]:
    """The state of a PV whose directory carries `tag`, and the reason if it is not enforced. Looks, decides nothing."""
    if tag.project_id == 0:
        return State.UNENFORCED, "its directory has no project"
    if not is_ours(tag.project_id):
        return State.UNENFORCED, f"its directory has project {tag.project_id}, which is not one of kadalu-quotad's"
    if not tag.inherit:
        return State.UNENFORCED, "what is made in its directory does not inherit the project"
    row = projects.get(tag.project_id)
    limits = row.limits if row else NO_LIMITS
    if limits == wanted:
        return State.ENFORCED, ""
    return State.UNENFORCED, f"the kernel limits it to {_describe(limits)}, its record asks for {_describe(wanted)}"


def _describe(limits: Limits) -> str:
    parts = [
        format_bytes(limits.bhard_bytes) if limits.bhard_bytes else "",
        f"{limits.ihard} inodes" if limits.ihard else "",
        f"{format_bytes(limits.bsoft_bytes)} softly" if limits.bsoft_bytes else "",
        f"{limits.isoft} inodes softly" if limits.isoft else "",
    ]
    return ", ".join(filter(None, parts)) or "nothing"


@dataclass(frozen=True, kw_only=True)
class FileSystem:
    """What of a brick's file system decides whether it can enforce."""

    path: str
    """The brick's directory."""
    fstype: str
    source: str
    mount_point: str
    read_only: bool
    accounting: bool
    enforcing: bool


def refusal(fs: FileSystem) -> str | None:
    """Why this file system cannot enforce sizes, with the remedy's exact line; None if it can."""
    where = f"{fs.path} is on {fs.source}, mounted at {fs.mount_point}"
    if fs.fstype != "xfs":
        return f"{where}, which is {fs.fstype}: project quotas need XFS; move the brick to an XFS mounted with prjquota"
    if not fs.accounting:
        what = "without prjquota, which XFS takes only when it is mounted, not on remount"
        if fs.mount_point == "/":
            return f"{where}, {what}: add rootflags=prjquota to the kernel's command line and restart this host"
        return f"{where}, {what}: {_fstab(fs)}, then stop its bricks, and umount and mount {fs.mount_point}"
    if not fs.enforcing:
        now = f"xfs_quota -x -c 'enable -p' {fs.mount_point}"
        keep = "rootflags=prjquota on the kernel's command line" if fs.mount_point == "/" else _fstab(fs)
        return f"{where}, with quotas counted but not enforced (pqnoenforce): run {now}; to keep it, {keep}"
    if fs.read_only:
        return f"{where}, read-only: see dmesg for the reason, then mount -o remount,rw {fs.mount_point}"
    return None


def _fstab(fs: FileSystem) -> str:
    return f"in /etc/fstab: {fs.source} {fs.mount_point} xfs defaults,prjquota 0 0"
