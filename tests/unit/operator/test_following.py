"""Everything is listed once, then followed; an API server that is away or forgets is listed anew."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from kadalu_ext.errors import BusyError, GoneError, KubernetesError
from kadalu_ext.log import Logger
from kadalu_ext.operator import following
from kadalu_ext.operator.following import Follower, Seen


class Script:
    """An API server that does as it is told, and then stops the follower."""

    what = "things"

    def __init__(self, *steps: object) -> None:
        self.steps = list(steps)
        self.stop = threading.Event()
        self.told: list[object] = []

    def _next(self) -> object:
        if not self.steps:
            self.stop.set()
            raise KubernetesError("over")
        step = self.steps.pop(0)
        if isinstance(step, Exception):
            raise step
        return step

    def listed(self) -> tuple[list[Seen], str]:
        version = self._next()
        return [{"listed": version}], str(version)

    def changes(self, version: str) -> Iterator[tuple[str, Seen, str]]:
        self.told.append(f"watch from {version}")
        for event in self._next():  # type: ignore[attr-defined]
            if isinstance(event, Exception):
                raise event
            yield event

    def follow(self) -> list[object]:
        follower = Follower(
            self,
            replace=lambda seen: self.told.append([each["listed"] for each in seen]),
            changed=lambda kind, seen: self.told.append((kind, seen["n"])),
            log=Logger("t"),
        )
        follower.run(self.stop)
        return self.told


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "_PAUSE_S", (0.0, 0.0))


def test_a_watch_that_ends_goes_on_where_it_was() -> None:
    events = [("ADDED", {"n": 1}, "11"), ("BOOKMARK", {}, "12")]
    assert Script("10", events, []).follow() == [
        ["10"], "watch from 10", ("ADDED", 1), "watch from 12", "watch from 12",
    ]  # fmt: skip


def test_a_version_that_is_gone_is_listed_anew() -> None:
    assert Script("10", GoneError("old"), "20").follow() == [["10"], "watch from 10", ["20"], "watch from 20"]


def test_an_api_server_that_is_away_is_asked_until_it_is_back_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    away = [KubernetesError("away")] * 5
    told = Script("10", [("ADDED", {"n": 1}, "11"), KubernetesError("reset")], *away, "20", []).follow()
    assert told == [["10"], "watch from 10", ("ADDED", 1), ["20"], "watch from 20", "watch from 20"]
    assert [record.getMessage() for record in caplog.records] == ["watch broken", "watch mended", "watch broken"]


class Paused(threading.Event):
    """Notes what is waited for, and waits for nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.waited: list[float] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.waited.append(timeout or 0.0)
        return self.is_set()


def test_an_api_server_that_lists_but_does_not_watch_is_asked_ever_more_patiently(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(following, "_PAUSE_S", (0.5, 15.0))
    script = Script(*["10", KubernetesError("no watch")] * 8)
    script.stop = paused = Paused()
    script.follow()
    assert paused.waited[-1] > 5
    assert [record.getMessage() for record in caplog.records] == ["watch broken"]


def test_an_api_server_that_says_when_to_come_again_is_not_asked_before() -> None:
    script = Script(BusyError("429", retry_after_s=120), "10", BusyError("429", retry_after_s=60))
    script.stop = paused = Paused()
    script.follow()
    assert paused.waited[:2] == [120, 60]


def test_watches_that_end_at_once_are_not_asked_for_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "_PAUSE_S", (0.5, 15.0))
    script = Script("10", [], [], [])
    script.stop = paused = Paused()
    script.follow()
    assert paused.waited[:3] == [0.5] * 3
