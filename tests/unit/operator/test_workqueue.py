"""Each storage at most once at a time, the longest due first, and dead hosts never hold all the threads."""

from __future__ import annotations

from kadalu_ext.operator.workqueue import LONG_S, WorkQueue


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def queue(patient: int = 2) -> tuple[WorkQueue[str], Clock]:
    clock = Clock()
    return WorkQueue(patient=patient, clock=clock), clock


def ready(work: WorkQueue[str]) -> str | None:
    """What `take` would return without waiting."""
    work._stopped = work._next(work._clock()) is None
    found = work.take()
    work._stopped = False
    return found


def test_the_one_that_was_due_first_comes_first_and_each_only_once() -> None:
    work, clock = queue()
    work.add("late", delay_s=5)
    work.add("early")
    work.add("early", delay_s=3)
    assert (ready(work), ready(work)) == ("early", None)
    clock.now += 5
    assert ready(work) == "late"


def test_what_changes_while_it_is_worked_on_is_worked_on_once_more_and_not_beside() -> None:
    work, _ = queue()
    work.add("a")
    assert ready(work) == "a"
    work.add("a")
    assert ready(work) is None
    work.done("a", slow=False)
    assert ready(work) == "a"


def test_an_earlier_time_replaces_a_later_one_and_not_the_other_way_round() -> None:
    work, clock = queue()
    work.add("a", delay_s=15)
    work.add("a", delay_s=1)
    work.add("a", delay_s=15)
    clock.now += 1
    assert ready(work) == "a"


def test_slow_ones_wait_for_each_other_and_others_pass_them() -> None:
    work, _ = queue(patient=2)
    for key in ("dead-1", "dead-2", "dead-3"):
        work.add(key)
        assert ready(work) == key
        work.done(key, slow=True)
    for key in ("dead-1", "dead-2", "dead-3", "alive"):
        work.add(key)
    assert [ready(work) for _ in range(4)] == ["dead-1", "dead-2", "alive", None]
    work.done("dead-1", slow=False)
    assert ready(work) == "dead-3"


def test_what_is_found_to_be_slow_counts_at_once() -> None:
    work, clock = queue(patient=1)
    work.add("dead")
    assert ready(work) == "dead"
    work.done("dead", slow=True)
    work.add("unknown")
    assert ready(work) == "unknown"
    clock.now += LONG_S * 2
    work.add("dead")
    assert ready(work) is None
    work.done("unknown", slow=False)
    assert ready(work) == "dead"


def test_the_age_of_the_oldest_work_is_known_and_what_is_forgotten_is_no_work() -> None:
    work, clock = queue()
    work.add("a")
    work.add("later", delay_s=100)
    clock.now += 30
    assert (work.state().waiting, work.state().oldest_s) == (1, 30)
    assert ready(work) == "a"
    clock.now += 10
    assert (work.state().running, work.state().oldest_s) == (1, 10)
    work.done("a", slow=False)
    work.forget("later")
    clock.now += 100
    assert (ready(work), work.state().oldest_s) == (None, 0)
