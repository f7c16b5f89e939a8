"""Waiting, and what is said meanwhile."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.testbed import progress
from tests.testbed.errors import CommandFailed, Unmet


def test_waiting_ends_with_what_the_probe_found() -> None:
    answers = iter([None, "", "found"])
    assert progress.wait_until("it", lambda: next(answers), seconds=5, interval=0) == "found"


def test_waiting_in_vain_says_for_what() -> None:
    with pytest.raises(Unmet, match="in vain for: rain"):
        progress.wait_until("rain", lambda: None, seconds=0, interval=0)


def test_a_step_says_when_it_starts_and_how_it_ended(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.step("good"):
        pass
    with pytest.raises(RuntimeError), progress.step("bad"):
        raise RuntimeError
    said = capsys.readouterr()
    lines = [line.split("] ")[1] for line in said.err.splitlines()]
    assert lines[0] == "good …"
    assert lines[1].startswith("good: 0.")
    assert lines[3].startswith("bad: FAILED after")
    assert said.out == ""


def test_a_failed_command_shows_the_end_of_its_log(tmp_path: Path) -> None:
    code = "import sys; print('first'); print('the reason'); sys.exit(3)"
    with pytest.raises(CommandFailed, match="the reason") as caught:
        progress.run_logged([sys.executable, "-c", code], log=tmp_path / "log")
    assert caught.value.status == 3


def test_the_tail_of_a_log_skips_blank_lines(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("a\nb\n\nc\n\n")
    assert progress.tail(log, 2) == "b\nc"
    assert progress.tail(tmp_path / "none", 2) == ""
