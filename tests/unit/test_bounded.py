"""Calls that hang cost a thread a key, and nobody's time."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from kadalu_ext.bounded import SideThreads
from kadalu_ext.errors import DeadlineError, InProgressError


@pytest.fixture
def silent() -> Iterator[threading.Event]:
    """What a call waits for that hangs; it ends with the test."""
    event = threading.Event()
    yield event
    event.set()


def test_the_result_and_the_error_of_a_call_come_through() -> None:
    threads = SideThreads()
    assert threads.run("k", lambda: 42, timeout_s=5, what="x") == 42
    with pytest.raises(ZeroDivisionError):
        threads.run("k", lambda: 1 / 0, timeout_s=5, what="x")


def test_an_error_of_the_calls_own_that_is_a_timeout_is_not_taken_for_the_deadline() -> None:
    def call() -> None:
        raise TimeoutError("its own")

    with pytest.raises(TimeoutError, match="its own"):
        SideThreads().run("k", call, timeout_s=5, what="x")


def test_a_call_that_hangs_is_left_behind_and_its_key_stays_taken(silent: threading.Event) -> None:
    threads = SideThreads()
    with pytest.raises(DeadlineError, match=r"staging: no answer within 0\.01 s"):
        threads.run("k", silent.wait, timeout_s=0.01, what="staging")
    with pytest.raises(InProgressError, match="has not ended"):
        threads.run("k", lambda: 1, timeout_s=5, what="staging")
    assert threads.run("another", lambda: 1, timeout_s=5, what="staging") == 1


def test_the_key_is_free_when_the_work_has_ended(silent: threading.Event) -> None:
    threads, ended = SideThreads(), threading.Event()

    def call() -> None:
        silent.wait()
        ended.set()

    with pytest.raises(DeadlineError):
        threads.run("k", call, timeout_s=0.01, what="x")
    silent.set()
    ended.wait()
    while True:  # the thread is on its last lines
        try:
            assert threads.run("k", lambda: 1, timeout_s=5, what="x") == 1
        except InProgressError:
            continue
        break
