"""The views of a report: a line for monitoring, a row a volume, a bar."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import pytest

from kadalu_ext.quotad import show
from kadalu_ext.quotad.plan import FIRST_PROJECT_ID, Limits, Project, State
from kadalu_ext.quotad.progress import Bar
from kadalu_ext.quotad.show import Level
from kadalu_ext.quotad.status import BrickStatus, PvStatus, Report, is_full

GIB = 1 << 30


def pv(name: str, state: State = State.ENFORCED, *, reason: str = "", full: bool = False) -> PvStatus:
    return PvStatus(
        pv=name, state=state, reason=reason, size_bytes=GIB, used_bytes=GIB // 2, limit_bytes=GIB, full=full
    )


def brick(*pvs: PvStatus, path: str = "/bricks/v", refused: str = "") -> BrickStatus:
    return BrickStatus(volume="v", path=path, arbiter=False, refused=refused, pvs=pvs)


def report(*bricks: BrickStatus, running: bool = True, problems: tuple[str, ...] = ()) -> Report:
    return Report(daemon_running=running, problems=problems, bricks=bricks)


def test_all_enforced_is_ok_with_figures_to_plot() -> None:
    check = show.check(report(brick(pv("a"), pv("b")), brick(pv("a"), path="/bricks/w")))
    assert check.level == 0
    assert check.line() == ("OK: 2 bricks, 3 PVs enforced | bricks=2 refused=0 pvs=3 enforced=3 full=0")


@pytest.mark.parametrize(
    ("seen", "level", "words"),
    [
        (report(brick(pv("a")), running=False), Level.CRITICAL, "systemctl start kadalu-quotad"),
        (report(brick(pv("a")), problems=("no vols",)), Level.CRITICAL, "no vols"),
        (report(brick(refused="in /etc/fstab: …")), Level.CRITICAL, "1 brick refused: in /etc/fstab"),
        (report(brick(pv("a", State.FAILED, reason="EIO"))), Level.CRITICAL, "1 PV not enforced: a on /bricks/v: EIO"),
        (report(brick(pv("a", State.WAITING, reason="not there"))), Level.WARNING, "1 PV waiting: a on /bricks/v"),
        (report(brick(pv("a", full=True))), Level.WARNING, "1 PV full: a on /bricks/v"),
        (report(), Level.WARNING, "user.kadalu-ext.export on"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_the_line_and_the_exit_status(seen: Report, level: Level, words: str) -> None:
    check = show.check(seen)
    assert check.level == level
    assert check.line().startswith(f"{level.name}: ")
    assert words in check.line()
    assert json.loads(check.to_json())["level"] == level.name


def test_no_name_breaks_the_line_in_two() -> None:
    line = show.check(report(brick(pv("a\n|\x1b", State.INVALID, reason="bad | name")))).line()
    assert line.count("|") == 1
    assert "\n" not in line
    assert "\x1b" not in line


def test_a_pv_on_two_bricks_of_a_host_counts_once_in_its_volume() -> None:
    seen = report(brick(pv("a"), pv("b", full=True)), brick(pv("a", State.FAILED), path="/bricks/w"))
    [row] = show.volumes(seen)
    assert (row.bricks, row.pvs, row.enforced, row.full) == (2, 2, 1, 1)
    assert (row.size_bytes, row.used_bytes) == (2 * GIB, GIB)
    assert show.render_volumes(seen).splitlines()[1].split()[:6] == ["v", "2", "0", "2", "1", "1"]
    assert json.loads(show.volumes_to_json(seen))["volumes"][0]["size_bytes"] == 2 * GIB


@pytest.mark.parametrize(
    ("limits", "used", "inodes", "full"),
    [
        (Limits(bhard_bytes=GIB), GIB, 1, True),
        (Limits(bhard_bytes=GIB), GIB - (1 << 20), 1, True),
        (Limits(bhard_bytes=GIB), GIB - (1 << 20) - 1, 1, False),
        (Limits(bhard_bytes=1 << 20), (1 << 20) - 20_000, 1, False),
        (Limits(), GIB, 1, False),
        (Limits(bhard_bytes=GIB, ihard=10), 0, 10, True),
        (Limits(bhard_bytes=GIB, ihard=10), 0, 9, False),
    ],
)
def test_a_pv_is_full_when_ordinary_writes_are_refused(limits: Limits, used: int, inodes: int, full: bool) -> None:
    row = Project(project_id=FIRST_PROJECT_ID, limits=limits, used_bytes=used, used_inodes=inodes)
    assert is_full(row) is full


def test_of_thousands_only_the_troubled_are_shown() -> None:
    many = report(brick(pv("good"), pv("full", full=True), pv("bad", State.FAILED, reason="EIO")))
    for text in (show.render(many, troubled=True), show.to_json(show.only_troubled(many))):
        assert ("good" in text, "full" in text, "bad" in text) == (False, True, True)
    assert "2 of 3 enforced" in show.render(many, troubled=True)


def test_what_waits_for_heal_is_told_of_a_brick_and_of_a_full_pv() -> None:
    full = replace(pv("a", full=True), heal_pending=2, heal_whole=False)
    seen = report(replace(brick(full), heal_pending=7, heal_whole=False))
    assert "1 of 1 enforced, at least 7 entries wait for heal" in show.render(seen)
    assert "full, at least 2 of its files wait for heal on this brick: expand its claim" in show.render(seen)
    assert "1 PV full: a on /bricks/v: at least 2 of its files wait for heal on this brick: " in show.check(seen).text
    assert show.volumes(seen)[0].heal_pending == 7


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_bar_is_drawn_on_a_terminal_and_taken_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    terminal, file = Terminal(), io.StringIO()
    for stream in (terminal, file):
        with Bar(stream, begin_s=0) as bar:
            bar(5, 10)
    assert "5 of 10 PVs" in terminal.getvalue()
    assert terminal.getvalue().endswith("\r\x1b[K")
    assert file.getvalue() == ""
