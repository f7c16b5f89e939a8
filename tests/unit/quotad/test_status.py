"""What people see, with and without a daemon."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import pytest

from kadalu_ext.quotad import show, status
from kadalu_ext.quotad.config import Config
from kadalu_ext.quotad.daemon import Daemon
from kadalu_ext.quotad.plan import FIRST_PROJECT_ID, Limits
from kadalu_ext.quotad.systemd import Notifier
from tests.unit.quotad.fakes import FakeHost, make_pv, put_record


def look(host: FakeHost, *, daemon_running: bool = True) -> status.Report:
    return status.look(str(host.glusterd), host.xfs, daemon_running=daemon_running)


def enforce_all(host: FakeHost) -> None:
    config = Config(glusterd_dir=str(host.glusterd))
    with closing(Daemon(config, systems=host.xfs, notifier=Notifier({}))) as daemon:
        for _ in range(20):
            daemon.run_cycle(patience_s=0)


@pytest.fixture
def root(host: FakeHost) -> Path:
    return host.add_volume("v", {"replica_count": 3}, count=3)


def test_an_enforced_pv_is_a_row_with_its_project_and_limit(host: FakeHost, root: Path) -> None:
    make_pv(root, "pvc-1")
    put_record(root, "pvc-1")
    enforce_all(host)
    report = look(host)
    assert report.all_enforced
    row = next(line for line in show.render(report).splitlines() if "pvc-1" in line)
    assert row.split() == ["pvc-1", "64", "MiB", str(FIRST_PROJECT_ID), "0", "B", "64", "MiB", "enforced"]


def test_before_anybody_enforced_it_says_what_is_missing(host: FakeHost, root: Path) -> None:
    make_pv(root, "pvc-1")
    put_record(root, "pvc-1")
    put_record(root, "pvc-2")
    report = look(host, daemon_running=False)
    assert not report.all_enforced
    text = show.render(report)
    assert "0 of 2 enforced" in text
    assert "its directory has no project" in text
    assert "its directory is not there yet" in text
    assert "systemctl start kadalu-quotad" in text


def test_looking_changes_nothing(host: FakeHost, root: Path) -> None:
    make_pv(root, "pvc-1")
    put_record(root, "pvc-1")
    look(host)
    assert host.xfs.projects.log == []


def test_a_refused_brick_shows_the_reason(host: FakeHost, root: Path) -> None:
    put_record(root, "pvc-1")
    host.xfs.refusal = "in /etc/fstab: /dev/vdb /bricks xfs defaults,prjquota 0 0"
    text = show.render(look(host))
    assert f"brick {root}: REFUSED\n  ->  {root}: in /etc/fstab" in text


def test_an_arbiter_has_a_project_and_no_limit(host: FakeHost) -> None:
    root = host.add_volume("v", {"replica_count": 3, "arbiter_count": 1}, count=3, local=2)
    make_pv(root, "pvc-1")
    put_record(root, "pvc-1")
    enforce_all(host)
    assert "none" in show.render(look(host))
    assert look(host).all_enforced


def test_a_drifted_limit_is_not_enforced(host: FakeHost, root: Path) -> None:
    make_pv(root, "pvc-1")
    put_record(root, "pvc-1")
    enforce_all(host)
    host.xfs.projects.set_limits(FIRST_PROJECT_ID, Limits(bhard_bytes=1 << 30))
    assert "the kernel limits it to 1 GiB, its record asks for 64 MiB" in show.render(look(host))


def test_names_from_the_volume_cannot_steer_the_terminal(host: FakeHost, root: Path) -> None:
    put_record(root, "\x1b[31mred")
    text = show.render(look(host))
    assert "\x1b" not in text
    assert "\\x1b[31mred" in text


def test_json_has_bytes_and_states(host: FakeHost, root: Path) -> None:
    make_pv(root, "pvc-1")
    put_record(root, "pvc-1")
    enforce_all(host)
    shown = json.loads(show.to_json(look(host)))
    assert shown["all_enforced"] is True
    assert shown["bricks"][0]["pvs"][0] == {
        "pv": "pvc-1", "state": "enforced", "reason": "", "size_bytes": 64 << 20, "project_id": FIRST_PROJECT_ID,
        "used_bytes": 0, "limit_bytes": 64 << 20, "full": False,
        "heal_pending": 0, "heal_whole": True,
    }  # fmt: skip


def test_a_brick_that_nobody_named_and_that_holds_no_records_is_not_shown(host: FakeHost, root: Path) -> None:
    assert look(host).bricks == ()


def test_a_brick_that_hangs_is_not_looked_at(host: FakeHost, root: Path) -> None:
    put_record(root, "pvc-1")
    root.rename(root.with_suffix(".gone"))  # to look would be to see that it is not there
    report = status.look(str(host.glusterd), host.xfs, daemon_running=True, hung={str(root): "it hangs"})
    assert [(brick.refused, brick.pvs) for brick in report.bricks] == [("it hangs", ())]
