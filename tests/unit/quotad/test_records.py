"""The turns that records get, and what is told of them."""

from __future__ import annotations

import logging

import pytest

from kadalu_ext.quotad import records
from kadalu_ext.quotad.bricks import Brick, Choice
from kadalu_ext.quotad.enforce import Outcome, Settling
from kadalu_ext.quotad.plan import Owner, State
from kadalu_ext.quotad.records import Records
from kadalu_ext.quotad.share import Share

BRICK = Brick(volume="v", path="/bricks/v", arbiter=False, data_bricks=1, choice=Choice.NAMED)


class FakeEnforcer:
    """Settles each record in one step: PVs whose name says so fail, and some are gone."""

    def __init__(self) -> None:
        self.gone: set[str] = set()

    def settle(self, brick: Brick, name: str, *, deep: bool = False) -> Settling:
        yield from ()
        if name in self.gone:
            return None
        if name.startswith("bad"):
            return Outcome(state=State.FAILED, reason="no luck")
        return Outcome(state=State.ENFORCED, acted=True)


def settle(*names: str, enforcer: FakeEnforcer | None = None) -> Records:
    share = Share()
    share.adopt((BRICK,))
    desk = Records(share, enforcer or FakeEnforcer(), longest_retry_s=60)  # type: ignore[arg-type]
    for name in names:
        desk.changed(Owner(BRICK.path, name))
    while desk.waiting:
        desk.begin_next()
    desk.report()
    return desk


@pytest.fixture
def journal(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO)
    return caplog


def test_a_few_pvs_get_a_line_of_the_journal_each(journal: pytest.LogCaptureFixture) -> None:
    settle("pvc-1", "pvc-2")
    assert [vars(line)["pv"] for line in journal.records] == ["pvc-1", "pvc-2"]


def test_many_pvs_at_once_share_lines_that_name_each_of_them(
    journal: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "NAMES_A_LINE", 6)
    names = [f"pvc-{number}" for number in range(10)]
    settle(*names)
    assert [vars(line)["count"] for line in journal.records] == [6, 4]
    assert [name for line in journal.records for name in vars(line)["pvs"]] == names


def test_what_fails_has_a_line_of_its_own_however_many_come(journal: pytest.LogCaptureFixture) -> None:
    desk = settle(*(f"pvc-{number}" for number in range(10)), "bad-1", "bad-2")
    failed = [vars(line)["pv"] for line in journal.records if line.levelno == logging.WARNING]
    assert failed == ["bad-1", "bad-2"]
    assert desk.states == {State.ENFORCED: 10, State.FAILED: 2}
    assert desk.retry_due() is not None


def test_a_record_that_goes_while_its_tree_is_looked_through_is_forgotten_at_its_next_turn() -> None:
    enforcer, owner = FakeEnforcer(), Owner(BRICK.path, "pvc-1")
    desk = settle("pvc-1", enforcer=enforcer)
    deep = desk.deep_steps()
    next(deep)
    enforcer.gone.add("pvc-1")
    desk.advance()
    assert owner in desk.outcomes  # not for the look to say
    desk.begin(owner)
    assert owner not in desk.outcomes
    assert list(deep) == []


def test_what_drifted_and_was_put_right_has_a_line_although_nothing_else_is_said_of_it_now(
    journal: pytest.LogCaptureFixture,
) -> None:
    desk = settle("pvc-1")
    journal.clear()
    desk.begin(Owner(BRICK.path, "pvc-1"))  # the fake acts each time
    desk.found_enforced(Owner(BRICK.path, "pvc-1"), Outcome(state=State.ENFORCED))
    desk.report()
    assert [vars(line)["pv"] for line in journal.records] == ["pvc-1"]
