"""The command line, and the package that brings it."""

from __future__ import annotations

import fcntl
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from kadalu_ext.quotad import main, show
from tests.testbed import deb
from tests.unit.quotad.fakes import FakeHost, FakeXfs, make_pv, put_record


@pytest.fixture
def as_root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(main, "RUN_DIR", str(tmp_path / "run"))


def test_only_root_may_use_it(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert main.main(["status"]) == main.CANNOT
    assert "sudo" in capsys.readouterr().err


@pytest.mark.usefixtures("as_root")
def test_a_second_daemon_on_a_host_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run").mkdir()
    with open(tmp_path / "run" / "lock", "w") as first:
        fcntl.flock(first, fcntl.LOCK_EX)
        assert main.main(["run", "--glusterd-dir", str(tmp_path)]) == main.CANNOT
    assert "another one is running" in capsys.readouterr().err


@pytest.mark.usefixtures("as_root")
def test_status_ends_with_1_when_something_is_not_enforced(
    host: FakeHost, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = host.add_volume("v")
    make_pv(root, "pvc-1")
    put_record(root, "pvc-1")
    monkeypatch.setattr(main, "Xfs", lambda: FakeXfs(root))
    assert main.main(["status", "--glusterd-dir", str(host.glusterd)]) == main.LOOK
    assert "pvc-1" in capsys.readouterr().out


@pytest.mark.usefixtures("as_root")
def test_status_can_be_narrowed_and_says_so_if_nothing_is_left(
    host: FakeHost, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for volume in ("v", "w"):
        root = host.add_volume(volume)
        make_pv(root, f"pvc-{volume}")
        put_record(root, f"pvc-{volume}")
    monkeypatch.setattr(main, "Xfs", lambda: FakeXfs(root))
    where = ["--glusterd-dir", str(host.glusterd)]
    for narrow in (["--volume", "w"], ["--brick", str(root)]):
        assert main.main(["status", *narrow, *where]) == main.LOOK
        shown = capsys.readouterr().out
        assert ("pvc-w" in shown, "pvc-v" in shown) == (True, False)
    assert main.main(["check", "--volume", "x", *where]) == show.Level.UNKNOWN
    assert "is of x" in capsys.readouterr().err


@pytest.mark.usefixtures("as_root")
def test_a_status_does_not_take_another_one_for_the_daemon(
    host: FakeHost, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "lock").touch()
    with open(tmp_path / "run" / "lock") as other:
        assert main._try_lock(other.fileno(), fcntl.LOCK_SH)
        assert main.main(["status", "--glusterd-dir", str(host.glusterd)]) == main.LOOK
    assert "kadalu-quotad is not running" in capsys.readouterr().out


@pytest.mark.usefixtures("as_root")
@pytest.mark.parametrize(
    ("command", "status"), [("status", 1), ("report", 1), ("check", 2), ("explain pvc-1", 1), ("explain ../x", 2)]
)
def test_every_command_that_looks_works_without_the_daemon_and_as_json(
    command: str, status: int, host: FakeHost, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = host.add_volume("v")
    make_pv(root, "pvc-1")
    put_record(root, "pvc-1")
    monkeypatch.setattr(main, "Xfs", lambda: FakeXfs(root))
    for more in ([], ["--json"]):
        assert main.main([*command.split(), "--glusterd-dir", str(host.glusterd), *more]) == status
    shown = capsys.readouterr()
    assert ("{\n" in shown.out) or "not usable as a PV's name" in shown.err


def test_a_check_without_root_is_unknown_to_monitoring(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert main.main(["check"]) == 3


@pytest.mark.usefixtures("as_root")
@pytest.mark.parametrize("seconds", ["0", "nan", "x", "1e9"])
def test_a_crawl_interval_that_makes_no_sense_is_refused(seconds: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        assert main.main(["run", "--crawl-interval", seconds]) == main.CANNOT
    except SystemExit as refused:
        assert refused.code == main.CANNOT
    assert re.search("crawl[-_]interval", capsys.readouterr().err)


def test_the_package_needs_nothing_but_python(tmp_path: Path) -> None:
    deb.builder().lay_out(tmp_path)
    # -I -S: no site-packages, nothing of this environment
    program = (
        f"import sys; sys.path.insert(0, {str(tmp_path / 'lib')!r}); from kadalu_ext.quotad.main import main; main()"
    )
    done = subprocess.run([sys.executable, "-I", "-S", "-B", "-c", program, "--help"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "status" in done.stdout
