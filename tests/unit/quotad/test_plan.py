"""Plans, by property: whatever the inodes and the kernel's table say, no id of anybody else is ever taken."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kadalu_ext.errors import QuotaError
from kadalu_ext.quotad import plan
from kadalu_ext.quotad.plan import (
    FIRST_PROJECT_ID,
    LAST_PROJECT_ID,
    NO_LIMITS,
    Claims,
    FileSystem,
    Limits,
    Owner,
    Project,
    ProjectId,
    State,
    Tag,
)
from kadalu_ext.record import QuotaRecord

MIB = 1 << 20
ME, OTHER = Owner("/bricks/a", "pvc-1"), Owner("/bricks/a", "pvc-2")

# few enough that they meet
ours = st.integers(FIRST_PROJECT_ID, FIRST_PROJECT_ID + 8).map(ProjectId)
anybodys = st.sampled_from([0, 1, 42, FIRST_PROJECT_ID - 1, LAST_PROJECT_ID + 1, LAST_PROJECT_ID]).map(ProjectId)
ids = ours | anybodys
tags = st.builds(Tag, project_id=ids, inherit=st.booleans())
limits = st.builds(Limits, bhard_bytes=st.sampled_from([0, MIB, 2 * MIB]), bsoft_bytes=st.sampled_from([0, MIB]))
tables = st.dictionaries(ids, limits).map(lambda table: {number: row(number, table[number]) for number in table})


def row(project_id: ProjectId, limits: Limits = NO_LIMITS) -> Project:
    return Project(project_id=project_id, limits=limits, used_bytes=0, used_inodes=1)


def claims_of(*held: ProjectId) -> Claims:
    claims = Claims()
    for number in held:
        claims.take(Owner("/bricks/a", f"other-{number}"), number, inode=number)
    return claims


@given(tags, limits, tables, st.sets(ours), ours)
def test_a_pv_gets_a_project_of_our_range_that_nobody_else_has(
    tag: Tag, wanted: Limits, table: dict[ProjectId, Project], held: set[ProjectId], start: ProjectId
) -> None:
    todo = plan.decide(tag, wanted, owner=ME, inode=1, claims=claims_of(*held), projects=table, start=start)
    assert plan.is_ours(todo.project_id)
    assert todo.project_id not in held
    assert todo.project_id == tag.project_id or todo.project_id not in table


@given(tags, limits, tables, st.sets(ours), ours)
def test_what_was_done_as_planned_is_enforced_and_leaves_nothing_to_do(
    tag: Tag, wanted: Limits, table: dict[ProjectId, Project], held: set[ProjectId], start: ProjectId
) -> None:
    claims = claims_of(*held)
    todo = plan.decide(tag, wanted, owner=ME, inode=1, claims=claims, projects=table, start=start)
    if todo.retag:
        tag = Tag(project_id=todo.project_id, inherit=True)
    if todo.limits is not None:
        table[todo.project_id] = row(todo.project_id, todo.limits)
    claims.take(ME, todo.project_id, inode=1)
    assert plan.judge(tag, wanted, table) == (State.ENFORCED, "")
    again = plan.decide(tag, wanted, owner=ME, inode=1, claims=claims, projects=table, start=start)
    assert (again.project_id, again.retag, again.limits) == (todo.project_id, False, None)


@given(tables, st.sets(ours))
def test_only_limits_of_our_range_that_no_record_claims_are_orphans(
    table: dict[ProjectId, Project], held: set[ProjectId]
) -> None:
    gone = plan.orphans({number: row.limits for number, row in table.items()}, claims_of(*held))
    assert all(plan.is_ours(number) and number not in held and table[number].limits != NO_LIMITS for number in gone)


def test_a_directory_keeps_the_project_that_it_has() -> None:
    mine = ProjectId(FIRST_PROJECT_ID + 5)
    todo = plan.decide(
        Tag(project_id=mine, inherit=True), Limits(bhard_bytes=MIB), owner=ME, inode=1, claims=Claims(),
        projects={mine: row(mine, Limits(bhard_bytes=2 * MIB))}, start=FIRST_PROJECT_ID,
    )  # fmt: skip
    assert (todo.project_id, todo.retag, todo.limits) == (mine, False, Limits(bhard_bytes=MIB))


def test_what_failed_half_way_is_gone_on_with_under_the_same_project() -> None:
    claims, mine = Claims(), ProjectId(FIRST_PROJECT_ID + 5)
    claims.take(ME, mine, inode=1)
    bare, wanted = Tag(project_id=ProjectId(0), inherit=False), Limits(bhard_bytes=MIB)
    for inode, project_id in ((1, mine), (2, FIRST_PROJECT_ID)):
        todo = plan.decide(
            bare, wanted, owner=ME, inode=inode, claims=claims, projects={mine: row(mine)}, start=FIRST_PROJECT_ID
        )
        assert (todo.project_id, todo.retag, todo.limits) == (project_id, True, wanted)


def test_a_tagged_directory_without_a_limit_is_looked_through_again() -> None:
    mine = FIRST_PROJECT_ID
    todo = plan.decide(
        Tag(project_id=mine, inherit=True), Limits(bhard_bytes=MIB), owner=ME, inode=1, claims=Claims(),
        projects={mine: row(mine)}, start=FIRST_PROJECT_ID,
    )  # fmt: skip
    assert todo.retag


def test_the_search_for_a_free_id_goes_round_the_range() -> None:
    assert plan.free_id(claims_of(LAST_PROJECT_ID), {}, LAST_PROJECT_ID) == FIRST_PROJECT_ID


def test_a_file_system_without_a_free_id_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "LAST_PROJECT_ID", FIRST_PROJECT_ID + 1)
    taken = {FIRST_PROJECT_ID: row(FIRST_PROJECT_ID)}
    with pytest.raises(QuotaError, match="all 2 project ids"):
        plan.free_id(claims_of(ProjectId(FIRST_PROJECT_ID + 1)), taken, FIRST_PROJECT_ID)


def test_a_used_inode_number_makes_no_rival_unless_it_carries_the_others_project() -> None:
    claims = Claims()
    claims.take(OTHER, FIRST_PROJECT_ID, inode=7)
    assert claims.rival(ME, FIRST_PROJECT_ID, 7) == OTHER
    assert claims.rival(ME, ProjectId(0), 7) is None
    claims.take(ME, ProjectId(FIRST_PROJECT_ID + 1), inode=7)
    claims.drop(OTHER)
    assert claims.rival(OTHER, ProjectId(FIRST_PROJECT_ID + 1), 7) == ME


@pytest.mark.parametrize(
    ("arbiter", "data_bricks", "blocks"),
    [(False, 1, 64 * MIB), (False, 2, 32 * MIB), (False, 3, 22372352), (True, 1, 0)],
)
def test_a_brick_enforces_its_part(arbiter: bool, data_bricks: int, blocks: int) -> None:
    record = QuotaRecord(path="subvol/00/00/pvc-1", size_bytes=64 * MIB, inodes=100)
    wanted = plan.wanted_limits(record, arbiter=arbiter, data_bricks=data_bricks, block_bytes=4096)
    assert wanted == Limits(bhard_bytes=blocks, ihard=100)


def test_the_reason_names_both_limits() -> None:
    table = {FIRST_PROJECT_ID: row(FIRST_PROJECT_ID, Limits(bhard_bytes=MIB, bsoft_bytes=MIB))}
    state, reason = plan.judge(
        Tag(project_id=FIRST_PROJECT_ID, inherit=True), Limits(bhard_bytes=2 * MIB, ihard=5), table
    )
    assert state is State.UNENFORCED
    assert reason == "the kernel limits it to 1 MiB, 1 MiB softly, its record asks for 2 MiB, 5 inodes"


@pytest.mark.parametrize(
    ("changes", "remedy"),
    [
        ({}, None),
        ({"fstype": "ext4"}, "move the brick to an XFS mounted with prjquota"),
        ({"accounting": False, "enforcing": False}, "in /etc/fstab: /dev/vdb /bricks xfs defaults,prjquota 0 0"),
        (
            {"accounting": False, "enforcing": False, "mount_point": "/"},
            "add rootflags=prjquota to the kernel's command",
        ),
        ({"enforcing": False}, "run xfs_quota -x -c 'enable -p' /bricks; to keep it, in /etc/fstab: /dev/vdb /bricks"),
        ({"enforcing": False, "mount_point": "/"}, "to keep it, rootflags=prjquota on the kernel's command line"),
        ({"read_only": True}, "mount -o remount,rw /bricks"),
    ],
)
def test_a_file_system_that_cannot_enforce_is_refused_with_the_remedy(
    changes: dict[str, object], remedy: str | None
) -> None:
    fields = {
        "path": "/bricks/a", "fstype": "xfs", "source": "/dev/vdb", "mount_point": "/bricks", "read_only": False,
        "accounting": True, "enforcing": True, **changes,
    }  # fmt: skip
    reason = plan.refusal(FileSystem(**fields))  # type: ignore[arg-type]
    assert reason == remedy or (
        reason and remedy and remedy in reason and reason.startswith("/bricks/a is on /dev/vdb")
    )
