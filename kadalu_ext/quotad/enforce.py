"""Makes one record true on one brick, from what it asks for to what the kernel confirms; and undoes those that are
gone.

What it knows (which record has which project) it has learnt from the bricks since it was made; nothing else is
remembered. One at a time: it is not made for threads, and there must be one kadalu-quotad on a host.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Generator, Iterable, Iterator
from dataclasses import dataclass, field

from kadalu_ext.errors import RecordError
from kadalu_ext.quotad import plan, scan
from kadalu_ext.quotad.bricks import Brick
from kadalu_ext.quotad.plan import (
    FIRST_PROJECT_ID,
    LAST_PROJECT_ID,
    NO_LIMITS,
    Claims,
    Limits,
    Owner,
    ProjectId,
    State,
    Tag,
)
from kadalu_ext.quotad.scan import BricksAtHand, OpenBrick
from kadalu_ext.quotad.tree import mend_tree, tag_tree
from kadalu_ext.quotad.xfs import FileSystems
from kadalu_ext.record import RECORDS_DIR, QuotaRecord


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What became of a record on one brick. `acted`: something was changed for it; two may be equal all the same."""

    state: State
    reason: str = ""
    project_id: ProjectId | None = None
    limit_bytes: int = 0
    acted: bool = field(default=False, compare=False)


Settling = Generator[None, None, Outcome | None]
"""Steps towards an outcome, each at most an inode long; None: the record is gone, and so is its limit."""


class Enforcer:
    """The one that changes anything on bricks."""

    def __init__(self, systems: FileSystems) -> None:
        self._at_hand = BricksAtHand(systems)
        self._claims: dict[int, Claims] = {}
        self._next: dict[int, ProjectId] = {}
        self._swept: dict[int, dict[ProjectId, Limits]] = {}

    def settle(self, brick: Brick, name: str, *, deep: bool = False) -> Settling:
        """Does for the record `name` whatever is to be done now. Idempotent; may be left after any step and begun
        again.

        deep: looks through the tree also if its top and its limit say that it is whole; and only that: a record that is
        gone is left to whoever hears of it, or to the crawl, which can tell one from all of them.

        It has its project before the first step ends. Raises: QuotaError if the brick cannot be opened, or has no
        project ids left.
        """
        with self._at_hand.borrow(brick) as opened:
            path = ""
            try:
                record = scan.read_record(opened.root, name)
                if record is None:
                    if not deep:
                        self._release(opened, Owner(brick.path, name))
                    return None
                path = record.path
                with scan.open_pv(opened, record) as directory:
                    return (yield from self._enforce(opened, name, record, directory, deep))
            except FileNotFoundError:
                return Outcome(state=State.WAITING, reason=f"its directory {path} is not there yet")
            except RecordError as error:
                return Outcome(state=State.INVALID, reason=str(error))
            except OSError as error:
                return Outcome(state=State.FAILED, reason=scan.reason(error))

    def let_go(self) -> None:
        """Ends a slice of work: nothing stays open but what somebody is in the middle of."""
        self._at_hand.let_go()

    def sweep(self, opened: OpenBrick) -> None:
        """Reads the limits of all our projects on this file system at once, for `find_enforced`; once until
        `end_sweep`. Raises: OSError."""
        if opened.device in self._swept:
            return
        alike: dict[Limits, Limits] = {}  # most PVs have one of a few sizes
        rows = opened.table.rows(FIRST_PROJECT_ID, LAST_PROJECT_ID)
        self._swept[opened.device] = {row.project_id: alike.setdefault(row.limits, row.limits) for row in rows}

    def end_sweep(self) -> None:
        """Forgets what was read; what others change after a sweep is seen by the next."""
        self._swept.clear()

    def find_enforced(self, opened: OpenBrick, names: Iterable[str]) -> dict[str, Outcome]:
        """Those of these records that are as they should be, as far as directories say it now and the sweep said it of
        the kernel. Whatever is the matter with the others, `settle` finds and mends it. Changes nothing."""
        found: dict[str, Outcome] = {}
        limits, claims = self._swept.get(opened.device, {}), self._claims_on(opened.device)
        try:
            with scan.open_beneath(opened.root, RECORDS_DIR) as records:
                for name in names:
                    outcome = self._look(opened, records, name, limits, claims)
                    if outcome is not None:
                        found[name] = outcome
        except OSError:
            pass
        return found

    def _look(
        self, opened: OpenBrick, records: int, name: str, limits: dict[ProjectId, Limits], claims: Claims
    ) -> Outcome | None:
        # the inner loop of every crawl: nothing is made here that it can do without
        try:
            record = scan.read_record_in(records, name)
            directory = scan.open_path(opened.root, record.path)
        except (OSError, RecordError):
            return None
        try:
            tag, wanted = opened.table.get_tag(directory), opened.wanted(record)
            if not tag.inherit or not plan.is_ours(tag.project_id) or limits.get(tag.project_id) != wanted:
                return None
            owner = Owner(opened.brick.path, name)
            if not claims.may_have(owner, tag.project_id):
                return None
            if claims.owner(tag.project_id) is None:
                inode = os.fstat(directory).st_ino
                if claims.rival(owner, tag.project_id, inode) is not None:
                    return None
                claims.take(owner, tag.project_id, inode)
        except OSError:
            return None
        finally:
            os.close(directory)
        return Outcome(state=State.ENFORCED, project_id=tag.project_id, limit_bytes=wanted.bhard_bytes)

    def keep(self, opened: OpenBrick, names: Collection[str]) -> None:
        """Lets PVs keep what they have whose records cannot be obeyed: damaged, or of a volume that is left out."""
        claims = self._claims_on(opened.device)
        for name, directory in scan.find_pvs(opened.root, names):
            project_id = opened.table.get_tag(directory).project_id
            if plan.is_ours(project_id) and claims.owner(project_id) is None:
                claims.take(Owner(opened.brick.path, name), project_id, os.fstat(directory).st_ino)

    def known(self, opened: OpenBrick) -> list[str]:
        """The PVs of this brick that have a project."""
        owners = self._claims_on(opened.device).owners()
        return [owner.pv for owner in owners if owner.brick == opened.brick.path]

    def forget_bricks_but(self, bricks: Collection[str]) -> None:
        """Drops what is known of bricks that are no longer of this host."""
        for claims in self._claims.values():
            for owner in claims.owners():
                if owner.brick not in bricks:
                    claims.drop(owner)

    def clear_orphans(self, opened: OpenBrick) -> Iterator[ProjectId]:
        """Lifts the limits of our projects on this file system that no record claims; after each, its project.

        Only when every record of every brick on this file system was settled or kept. Raises: OSError.
        """
        self.sweep(opened)
        claims = self._claims_on(opened.device)
        for project_id in plan.orphans(self._swept[opened.device], claims):
            if claims.owner(project_id) is None:  # still
                self._set_limits(opened, project_id, NO_LIMITS)
                yield project_id

    def _enforce(
        self, opened: OpenBrick, name: str, record: QuotaRecord, directory: int, deep: bool
    ) -> Generator[None, None, Outcome]:
        owner, claims, table = Owner(opened.brick.path, name), self._claims_on(opened.device), opened.table
        tag, inode, wanted = table.get_tag(directory), os.fstat(directory).st_ino, opened.wanted(record)
        rival = claims.rival(owner, tag.project_id, inode)
        if rival is not None:
            raise RecordError(f"record {name}: its directory is already that of record {rival.pv} on {rival.brick}")
        start = self._next.get(opened.device, FIRST_PROJECT_ID)
        todo = plan.decide(tag, wanted, owner=owner, inode=inode, claims=claims, projects=table, start=start)
        if todo.project_id not in (tag.project_id, claims.project(owner, inode)):
            self._next[opened.device] = ProjectId(todo.project_id + 1)
        former = claims.take(owner, todo.project_id, inode)
        if former is not None:
            self._set_limits(opened, former, NO_LIMITS)

        def others(project_id: ProjectId) -> bool:
            return claims.owner(project_id) not in (None, owner)

        if todo.retag:
            yield from tag_tree(table, directory, Tag(project_id=todo.project_id, inherit=True), others)
        mended = (yield from mend_tree(table, directory, tag, others)) if deep and not todo.retag else 0
        if todo.limits is not None:
            self._set_limits(opened, todo.project_id, todo.limits)
        state, reason = plan.judge(table.get_tag(directory), wanted, table)
        if state is State.ENFORCED and not table.state().enforcing:
            state, reason = State.UNENFORCED, "quotas were turned off under it"
        return Outcome(
            state=state, reason=reason, project_id=todo.project_id, limit_bytes=wanted.bhard_bytes,
            acted=todo.retag or todo.limits is not None or mended > 0,
        )  # fmt: skip

    def _release(self, opened: OpenBrick, owner: Owner) -> None:
        project_id = self._claims_on(opened.device).drop(owner)
        if project_id is not None:
            self._set_limits(opened, project_id, NO_LIMITS)

    def _set_limits(self, opened: OpenBrick, project_id: ProjectId, limits: Limits) -> None:
        self._swept.get(opened.device, {}).pop(project_id, None)
        opened.table.set_limits(project_id, limits)

    def _claims_on(self, device: int) -> Claims:
        return self._claims.setdefault(device, Claims())
