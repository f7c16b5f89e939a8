"""Whether a process is the one that was written down."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.testbed import paths, sandbox
from tests.testbed.errors import NotRunning
from tests.testbed.sandbox import Sandbox

STAT = "4649 (tini (x) y) S 4647 4647 4647 0 -1 4194560 111 0 0 0 0 0 0 0 20 0 1 0 169742 2473984 170 1844 1 1"


@pytest.fixture(autouse=True)
def _run_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "RUN_ROOT", tmp_path)
    monkeypatch.delenv(sandbox.INSIDE, raising=False)


def write_state(name: str, text: str) -> None:
    paths.run_dir(name).mkdir()
    (paths.run_dir(name) / "state.json").write_text(text)


def test_the_start_time_is_found_behind_a_name_with_parentheses() -> None:
    assert sandbox.start_time(STAT) == 169742


def test_a_zombie_does_not_count_as_running() -> None:
    assert sandbox.start_time(STAT.replace(" S ", " Z ")) is None


def test_a_running_sandbox_is_found_by_its_first_process() -> None:
    started = sandbox.start_time(Path("/proc/self/stat").read_text())
    write_state("x", json.dumps({"pid": os.getpid(), "started": started}))
    assert Sandbox.attach("x").pid == os.getpid()


def test_another_process_that_got_the_same_number_is_not_the_sandbox() -> None:
    write_state("x", json.dumps({"pid": os.getpid(), "started": 1}))
    with pytest.raises(NotRunning, match="--name x up"):
        Sandbox.attach("x")


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"pid": 1}'])
def test_a_state_file_that_was_never_finished_is_no_state(text: str) -> None:
    write_state("x", text)
    assert sandbox.read_state("x") == {}


def test_fields_of_the_state_are_added_one_by_one() -> None:
    write_state("x", json.dumps({"pid": 1, "started": 2}))
    bed = Sandbox("x", 1)
    bed.save_state({"a": 1})
    bed.save_state({"b": 2, "a": 3})
    assert bed.state() == {"pid": 1, "started": 2, "a": 3, "b": 2}


def test_a_process_inside_enters_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Sandbox("x", 5).enter_argv(cwd="/tmp")[:3] == ["nsenter", "-t", "5"]
    monkeypatch.setenv(sandbox.INSIDE, "x")
    assert Sandbox.attach("x").enter_argv(cwd="/tmp") == ["env", "--chdir=/tmp"]
