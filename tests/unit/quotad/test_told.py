"""What the daemon says of itself reaches the commands that look on their own."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from kadalu_ext.quotad import told
from kadalu_ext.quotad.status import BrickStatus, Report
from kadalu_ext.quotad.told import TellingNotifier


class Refusing:
    def __init__(self) -> None:
        self.hung = {"/bricks/h": "it hangs"}
        self.refused = {"/bricks/v": "Function not implemented", "/bricks/w": "not XFS"}


REPORT = Report(
    daemon_running=True,
    problems=(),
    bricks=(
        BrickStatus(volume="v", path="/bricks/v", arbiter=False, refused="", pvs=()),
        BrickStatus(volume="w", path="/bricks/w", arbiter=False, refused="not XFS", pvs=()),
    ),
)


def test_a_brick_that_only_the_daemon_refuses_is_told(tmp_path: Path) -> None:
    notifier = TellingNotifier({}, str(tmp_path), 60)
    notifier.send("READY=1")
    assert told.doubts(str(tmp_path), REPORT) == ()
    notifier.source = Refusing()
    notifier.send("READY=1")
    assert told.hung(str(tmp_path)) == {"/bricks/h": "it hangs"}
    [doubt] = told.doubts(str(tmp_path), REPORT)
    assert "refuses /bricks/v" in doubt
    assert doubt.endswith(": Function not implemented")


def test_a_daemon_that_fell_silent_is_told(tmp_path: Path) -> None:
    fields = {"at_s": time.monotonic() - 200, "interval_s": 60, "refused": {}}
    (tmp_path / told.FILE).write_text(json.dumps(fields))
    assert "has not said anything for 200 s" in told.doubts(str(tmp_path), REPORT)[0]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"at_s": "x"}', '{"at_s": 1, "interval_s": 1, "refused": 5}'])
def test_what_cannot_be_read_is_no_reason_for_doubt(text: str, tmp_path: Path) -> None:
    assert told.doubts(str(tmp_path), REPORT) == ()
    (tmp_path / told.FILE).write_text(text)
    assert told.doubts(str(tmp_path), REPORT) == ()


def test_where_nothing_can_be_written_the_daemon_goes_on(tmp_path: Path) -> None:
    TellingNotifier({}, str(tmp_path / "none"), 60).send("READY=1")
