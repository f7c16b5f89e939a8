"""Looking from a child process, which is left behind where it hangs."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Collection, Mapping

import pytest

from kadalu_ext.errors import DeadlineError, RecordError
from kadalu_ext.quotad import aside, daemon
from kadalu_ext.quotad.status import At, Progress


def alone(path: str) -> Collection[str]:
    return ()


def test_the_result_the_error_and_the_progress_come_through() -> None:
    def work(hung: Mapping[str, str], at: At, progress: Progress) -> int:
        at("/bricks/a")
        time.sleep(aside.PAUSE_S)
        progress(1, 2)
        return os.getpid()

    def fail(hung: Mapping[str, str], at: At, progress: Progress) -> int:
        raise RecordError("no name of a PV")

    seen: list[tuple[int, int]] = []
    assert aside.look(work, beside=alone, progress=lambda *words: seen.append(words)) != os.getpid()
    assert seen == [(1, 2)]
    with pytest.raises(RecordError, match="no name of a PV"):
        aside.look(fail, beside=alone)


def hang_unless_told(hung: Mapping[str, str], at: At, progress: Progress) -> dict[str, str]:
    for path in ("/bricks/a", "/spare/a", "/spare/b"):
        if path not in hung:
            at(path)
            if path.startswith("/spare"):
                time.sleep(3600)
    return dict(hung)


def test_a_brick_that_hangs_is_left_out_and_all_on_its_file_system_with_it() -> None:
    seen = aside.look(hang_unless_told, beside=lambda path: {"/spare/a", "/spare/b"}, patience_s=0.5)
    assert seen == {path: f"{path}: {daemon.HANGS}" for path in ("/spare/a", "/spare/b")}


def test_what_is_known_to_hang_is_not_tried() -> None:
    known = {"/spare/a": "it hangs", "/spare/b": "it hangs"}
    assert aside.look(hang_unless_told, beside=alone, hung=known) == known


def test_what_hangs_before_any_brick_ends_at_the_deadline() -> None:
    with pytest.raises(DeadlineError, match=r"glusterd's files: no answer within 0\.1 s"):
        aside.look(lambda hung, at, tell: time.sleep(3600), beside=alone, patience_s=0.1)


def test_a_child_that_is_killed_is_no_answer() -> None:
    with pytest.raises(ChildProcessError, match="ended with status -9"):
        aside.look(lambda hung, at, tell: os.kill(os.getpid(), 9), beside=alone)


STOPPED = """
import os, signal, sys
from kadalu_ext.quotad import aside, daemon

def work(hung, at, tell):
    if hung:
        return "seen"
    at("/bricks/a")
    os.kill(os.getpid(), signal.SIGSTOP)

print(aside.look(work, beside=lambda path: (), patience_s=0.5))
"""


def test_whoever_reads_what_the_command_writes_does_not_wait_for_what_it_left_behind() -> None:
    done = subprocess.run([sys.executable, "-c", STOPPED], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "seen\n"
