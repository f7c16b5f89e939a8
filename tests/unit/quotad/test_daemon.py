"""An administrator's story: records come and go on a host's bricks while the daemon runs, is killed, and runs again."""

from __future__ import annotations

import json
import os
import select
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from kadalu_ext.quotad import daemon, records, watch, worker
from kadalu_ext.quotad.bricks import Brick, Choice
from kadalu_ext.quotad.config import Config
from kadalu_ext.quotad.daemon import Daemon
from kadalu_ext.quotad.enforce import Enforcer, Outcome
from kadalu_ext.quotad.plan import FIRST_PROJECT_ID, Limits, Owner, ProjectId, State, Tag
from kadalu_ext.quotad.systemd import Notifier
from kadalu_ext.record import CANARY, RECORD_XATTR
from tests.unit.quotad.fakes import FakeHost, FakeTable, change_record, make_pv, put_record, pv_path

MIB = 1 << 20


class Run:
    """A daemon on a fake host; `until` lets it run until something is so."""

    def __init__(self, host: FakeHost, crawl_interval_s: float) -> None:
        self.host = host
        config = Config(glusterd_dir=str(host.glusterd), crawl_interval_s=crawl_interval_s)
        self.daemon = Daemon(config, systems=host.xfs, notifier=Notifier({}))

    def until(self, what: Callable[[], object]) -> None:
        deadline = time.monotonic() + 60
        while not what():
            assert time.monotonic() < deadline, f"{self.daemon.outcomes}, {self.daemon.refused}"
            self.daemon.run_cycle(patience_s=0.01)

    def outcome(self, root: Path, pv: str) -> Outcome | None:
        return self.daemon.outcomes.get(Owner(str(root), pv))

    def is_(self, state: State, root: Path, pv: str) -> bool:
        outcome = self.outcome(root, pv)
        return outcome is not None and outcome.state is state

    def enforces(self, root: Path, pv: str, size: int) -> bool:
        """What the kernel says, not the daemon."""
        tag = tag_of(self.host, root / pv_path(pv))
        row = self.host.xfs.projects.get(tag.project_id)
        return tag.inherit and row is not None and row.limits == Limits(bhard_bytes=size)

    def limited(self) -> set[ProjectId]:
        rows = self.host.xfs.projects.rows(ProjectId(0), ProjectId(0xFFFFFFFF))
        return {row.project_id for row in rows if row.limits != Limits()}


@contextmanager
def running(host: FakeHost, crawl_interval_s: float = 3600) -> Iterator[Run]:
    run = Run(host, crawl_interval_s)
    with closing(run.daemon):
        yield run


class ThreadedRun(Run):
    """A daemon that runs in a thread, and its workers in theirs."""

    def wait(self, what: Callable[[], object]) -> None:
        deadline = time.monotonic() + 60
        while not what():
            assert time.monotonic() < deadline, f"{self.daemon.outcomes}, {self.daemon.refused}"
            time.sleep(0.005)


@contextmanager
def threaded(host: FakeHost) -> Iterator[ThreadedRun]:
    run = ThreadedRun(host, 3600)
    thread = threading.Thread(target=run.daemon.run, daemon=True)
    thread.start()
    try:
        yield run
    finally:
        host.xfs.hold.set()
        run.daemon.stop()
        thread.join(60)


def crawl(run: Run) -> None:
    """One more of them, from its beginning to its end; what was looked at before is not counted."""
    run.host.xfs.projects.looks.clear()
    run.daemon.crawl()


def tag_of(host: FakeHost, path: Path) -> Tag:
    fd = os.open(path, os.O_RDONLY)
    try:
        return host.xfs.projects.get_tag(fd)
    finally:
        os.close(fd)


def set_tag(host: FakeHost, path: Path, project_id: int) -> None:
    fd = os.open(path, os.O_RDONLY)
    host.xfs.projects.set_tag(fd, Tag(project_id=ProjectId(project_id), inherit=True))
    os.close(fd)


@pytest.fixture
def root(host: FakeHost) -> Path:
    """The brick of a volume that the administrator has named."""
    host.name_volumes("v\n")
    return host.add_volume("v")


def test_what_is_there_at_the_start_is_enforced(host: FakeHost, root: Path) -> None:
    make_pv(root, "pvc-1", "data/file")
    put_record(root, "pvc-1")
    with running(host) as run:
        run.until(lambda: run.is_(State.ENFORCED, root, "pvc-1"))
        assert run.enforces(root, "pvc-1", 64 * MIB)
        assert tag_of(host, root / pv_path("pvc-1") / "data" / "file").project_id >= FIRST_PROJECT_ID


def test_the_brick_itself_and_gluster_s_own_are_never_tagged(host: FakeHost, root: Path) -> None:
    make_pv(root, "pvc-1")
    put_record(root, "pvc-1")
    with running(host) as run:
        run.until(lambda: run.is_(State.ENFORCED, root, "pvc-1"))
    above = [root, root / ".glusterfs", root / "subvol", root / "subvol/0a", root / "subvol/0a/1b", root / "info/quota"]
    assert all(tag_of(host, path).project_id == 0 for path in above)


def test_the_first_record_of_a_volume_needs_no_crawl(host: FakeHost, root: Path) -> None:
    with running(host) as run:
        run.until(lambda: run.daemon.ready)
        for name in ("pvc-1", "pvc-2"):
            make_pv(root, name)
            put_record(root, name)
            run.until(lambda name=name: run.enforces(root, name, 64 * MIB))  # type: ignore[misc]


def test_growing_and_shrinking_follow_the_record(host: FakeHost, root: Path) -> None:
    make_pv(root, "pvc-1")
    put_record(root, "pvc-1")
    with running(host) as run:
        run.until(lambda: run.enforces(root, "pvc-1", 64 * MIB))
        before = tag_of(host, root / pv_path("pvc-1"))
        for size in (128 * MIB, 32 * MIB):
            change_record(root, "pvc-1", size=size)
            run.until(lambda size=size: run.enforces(root, "pvc-1", size))  # type: ignore[misc]
        assert tag_of(host, root / pv_path("pvc-1")) == before


def test_changes_of_the_canary_leave_the_journal_alone(
    host: FakeHost, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    with running(host) as run:
        for name in ("pvc-1", CANARY):
            make_pv(root, name)
            put_record(root, name)
        run.until(lambda: run.enforces(root, "pvc-1", 64 * MIB) and run.enforces(root, CANARY, 64 * MIB))
    assert [vars(record)["pv"] for record in caplog.records if record.message == "record settled"] == ["pvc-1"]


def test_a_record_that_goes_takes_its_limit_along(host: FakeHost, root: Path) -> None:
    make_pv(root, "pvc-1")
    record = put_record(root, "pvc-1")
    with running(host) as run:
        run.until(lambda: run.enforces(root, "pvc-1", 64 * MIB))
        (root / "trash").mkdir()
        (root / pv_path("pvc-1")).rename(root / "trash" / "pvc-1.x")
        record.rmdir()
        run.until(lambda: not run.limited())
        assert run.outcome(root, "pvc-1") is None


def test_a_record_that_went_while_nobody_looked_takes_its_limit_along_at_the_next_start(
    host: FakeHost, root: Path
) -> None:
    make_pv(root, "pvc-1")
    make_pv(root, "pvc-2")
    record = put_record(root, "pvc-1")
    put_record(root, "pvc-2")
    with running(host) as run:
        run.until(lambda: len(run.limited()) == 2)
    host.xfs.projects.set_limits(ProjectId(7), Limits(bhard_bytes=MIB))
    record.rmdir()
    with running(host) as run:
        kept = tag_of(host, root / pv_path("pvc-2")).project_id
        run.until(lambda: run.limited() == {kept, 7})


@pytest.mark.parametrize("hidden", ["w", "w/.glusterfs", "w/info"])
def test_what_cannot_be_seen_at_a_start_keeps_its_limits(host: FakeHost, root: Path, hidden: str) -> None:
    other = host.add_volume("w")
    host.name_volumes("v\nw\n")
    for brick in (root, other):
        make_pv(brick, "pvc-1")
        put_record(brick, "pvc-1")
    with running(host) as run:
        run.until(lambda: len(run.limited()) == 2)
    host.xfs.projects.log.clear()
    (host.bricks / hidden).rename(host.bricks / "aside")  # as if it were not mounted, or lost by a repair
    with running(host, crawl_interval_s=0.01) as run:
        run.until(lambda: run.is_(State.ENFORCED, root, "pvc-1"))
        run.daemon.run_cycle(patience_s=0.02)
        run.until(lambda: not run.daemon.busy)
    assert not any(line.startswith("limit") for line in host.xfs.projects.log)


def test_records_that_are_lost_altogether_while_it_runs_lift_no_limit(host: FakeHost, root: Path) -> None:
    make_pv(root, "pvc-1")
    put_record(root, "pvc-1")
    with running(host, crawl_interval_s=0.01) as run:
        run.until(lambda: run.enforces(root, "pvc-1", 64 * MIB))
        (root / "info").rename(root / "info.old")
        for _ in range(20):
            run.daemon.run_cycle(patience_s=0.01)
        assert run.enforces(root, "pvc-1", 64 * MIB)


def test_a_directory_that_comes_after_its_record_is_waited_for(host: FakeHost, root: Path) -> None:
    put_record(root, "pvc-1")
    with running(host) as run:
        run.until(lambda: run.is_(State.WAITING, root, "pvc-1"))
        make_pv(root, "pvc-1")
        run.until(lambda: run.enforces(root, "pvc-1", 64 * MIB))


def test_a_damaged_record_stops_no_other_and_lifts_no_limit(host: FakeHost, root: Path) -> None:
    make_pv(root, "pvc-1")
    put_record(root, "pvc-1")
    with running(host) as run:
        run.until(lambda: run.enforces(root, "pvc-1", 64 * MIB))
    os.setxattr(root / "info/quota/pvc-1", "user.kadalu.record", b'{"v":2}')
    put_record(root, "evil", json.dumps({"v": 1, "path": "subvol/0a/1b/../../..", "size": 1}).encode())
    make_pv(root, "pvc-2")
    put_record(root, "pvc-2")
    with running(host) as run:
        run.until(lambda: run.is_(State.ENFORCED, root, "pvc-2"))
        run.until(lambda: run.is_(State.INVALID, root, "pvc-1") and run.is_(State.INVALID, root, "evil"))
        run.daemon.run_cycle(patience_s=0)
        assert run.enforces(root, "pvc-1", 64 * MIB)


def test_bricks_on_one_file_system_share_no_project(host: FakeHost, root: Path) -> None:
    other = host.add_volume("w")
    host.name_volumes("v\nw\n")
    for brick in (root, other):
        make_pv(brick, "pvc-1")
        put_record(brick, "pvc-1")
    with running(host) as run:
        run.until(lambda: all(run.is_(State.ENFORCED, brick, "pvc-1") for brick in (root, other)))
    assert len({tag_of(host, brick / pv_path("pvc-1")).project_id for brick in (root, other)}) == 2


def test_a_volume_that_is_left_out_is_not_touched_and_keeps_what_it_has(host: FakeHost, root: Path) -> None:
    other = host.add_volume("w")
    make_pv(other, "pvc-1")
    put_record(other, "pvc-1")
    set_tag(host, other / pv_path("pvc-1"), FIRST_PROJECT_ID)
    host.xfs.projects.set_limits(FIRST_PROJECT_ID, Limits(bhard_bytes=MIB))
    make_pv(root, "pvc-1")
    put_record(root, "pvc-1")
    with running(host) as run:
        run.until(lambda: run.enforces(root, "pvc-1", 64 * MIB))
        assert run.enforces(other, "pvc-1", MIB)


def test_a_project_that_two_directories_carry_stays_with_one(host: FakeHost, root: Path) -> None:
    for name in ("pvc-1", "pvc-2"):
        set_tag(host, make_pv(root, name), FIRST_PROJECT_ID)
        put_record(root, name)
    with running(host) as run:
        run.until(lambda: all(run.enforces(root, name, 64 * MIB) for name in ("pvc-1", "pvc-2")))
    assert tag_of(host, root / pv_path("pvc-1")).project_id == FIRST_PROJECT_ID
    assert tag_of(host, root / pv_path("pvc-2")).project_id != FIRST_PROJECT_ID


def test_somebody_else_s_project_is_replaced_and_left_alone(host: FakeHost, root: Path) -> None:
    set_tag(host, make_pv(root, "pvc-1"), 42)
    host.xfs.projects.set_limits(ProjectId(42), Limits(bhard_bytes=MIB))
    put_record(root, "pvc-1")
    with running(host) as run:
        run.until(lambda: run.enforces(root, "pvc-1", 64 * MIB))
        assert 42 in run.limited()


def test_a_limit_that_drifted_is_put_right_by_the_crawl(host: FakeHost, root: Path) -> None:
    make_pv(root, "pvc-1")
    put_record(root, "pvc-1")
    with running(host, crawl_interval_s=0.2) as run:
        run.until(lambda: run.enforces(root, "pvc-1", 64 * MIB))
        project = tag_of(host, root / pv_path("pvc-1")).project_id
        host.xfs.projects.set_limits(project, Limits(bhard_bytes=MIB, bsoft_bytes=MIB))
        run.until(lambda: run.enforces(root, "pvc-1", 64 * MIB))


@pytest.mark.parametrize("restart", [False, True])
def test_enforced_pvs_are_looked_at_in_one_sweep_of_the_kernel_s_table(
    host: FakeHost, root: Path, monkeypatch: pytest.MonkeyPatch, restart: bool
) -> None:
    monkeypatch.setattr(records, "DEEP_S", 0.0)
    names = [f"pvc-{number}" for number in range(8)]
    for name in names:
        make_pv(root, name)
        put_record(root, name)
    with running(host) as run:
        run.until(lambda: run.daemon.ready)
        if not restart:
            crawl(run)
    if restart:
        with running(host) as run:
            host.xfs.projects.looks.clear()
            run.until(lambda: run.daemon.ready)
            assert all(run.is_(State.ENFORCED, root, name) for name in names)
    assert host.xfs.projects.looks == {"sweep": 1}


def test_a_directory_that_was_replaced_gets_its_limit_anew(host: FakeHost, root: Path) -> None:
    make_pv(root, "pvc-1")
    put_record(root, "pvc-1")
    with running(host, crawl_interval_s=0.2) as run:
        run.until(lambda: run.enforces(root, "pvc-1", 64 * MIB))
        shutil.rmtree(root / pv_path("pvc-1"))
        make_pv(root, "pvc-1", "healed/file")
        run.until(lambda: run.enforces(root, "pvc-1", 64 * MIB))
        assert len(run.limited()) == 1


def test_a_volume_that_is_named_later_needs_no_restart(host: FakeHost) -> None:
    host.name_volumes("")
    root = host.add_volume("v")
    make_pv(root, "pvc-1")
    put_record(root, "pvc-1")
    with running(host) as run:
        run.until(lambda: run.daemon.ready)
        host.name_volumes("v\n")
        run.until(lambda: run.enforces(root, "pvc-1", 64 * MIB))


def test_a_volume_that_is_created_later_needs_no_restart(host: FakeHost) -> None:
    with running(host) as run:
        run.until(lambda: run.daemon.ready)
        root = host.add_volume("v")
        make_pv(root, "pvc-1")
        put_record(root, "pvc-1")
        run.until(lambda: run.enforces(root, "pvc-1", 64 * MIB))


def test_a_brick_that_cannot_enforce_is_refused_until_it_can(host: FakeHost, root: Path) -> None:
    host.xfs.refusal = "mount it with prjquota"
    make_pv(root, "pvc-1")
    put_record(root, "pvc-1")
    with running(host, crawl_interval_s=0.2) as run:
        run.until(lambda: run.daemon.refused == {str(root): f"{root}: mount it with prjquota"})
        assert host.xfs.projects.log == []
        host.xfs.refusal = ""
        run.until(lambda: run.enforces(root, "pvc-1", 64 * MIB))
        assert run.daemon.refused == {}


def test_nothing_counts_as_enforced_while_quotas_are_off_under_it(host: FakeHost, root: Path) -> None:
    with running(host) as run:
        run.until(lambda: run.daemon.ready)
        host.xfs.projects.enforcing = False
        make_pv(root, "pvc-1")
        put_record(root, "pvc-1")
        run.until(lambda: run.is_(State.UNENFORCED, root, "pvc-1"))
        host.xfs.projects.enforcing = True
        run.until(lambda: run.is_(State.ENFORCED, root, "pvc-1"))


@pytest.mark.parametrize("restart", [False, True])
def test_a_file_in_place_of_a_record_is_refused_and_lifts_no_limit(host: FakeHost, root: Path, restart: bool) -> None:
    make_pv(root, "pvc-1")
    record = put_record(root, "pvc-1")
    value = os.getxattr(record, RECORD_XATTR)
    with running(host) as run:
        run.until(lambda: run.enforces(root, "pvc-1", 64 * MIB))
        if not restart:
            replace_by_file(record, value)
            run.until(lambda: run.is_(State.INVALID, root, "pvc-1"))
    if restart:
        replace_by_file(record, value)
    with running(host) as run:
        run.daemon.crawl()
        assert run.is_(State.INVALID, root, "pvc-1")
        assert run.enforces(root, "pvc-1", 64 * MIB)


def replace_by_file(record: Path, value: bytes) -> None:
    prepared = record.with_name(".prepared")
    prepared.touch()
    os.setxattr(prepared, RECORD_XATTR, value)
    record.rmdir()
    prepared.rename(record)


def test_a_brick_that_is_not_mounted_does_not_stop_the_others(host: FakeHost, root: Path) -> None:
    gone = host.add_volume("a")
    host.name_volumes("a\nv\n")
    shutil.rmtree(gone)
    make_pv(root, "pvc-1")
    put_record(root, "pvc-1")
    with running(host) as run:
        run.until(lambda: run.enforces(root, "pvc-1", 64 * MIB))
        assert list(run.daemon.refused) == [str(gone)]


@pytest.mark.parametrize("in_kernel", [True, False])
def test_a_brick_that_hangs_delays_no_other_file_system(
    host: FakeHost, root: Path, monkeypatch: pytest.MonkeyPatch, in_kernel: bool
) -> None:
    hung = host.add_volume("hung")
    host.name_volumes("hung\nv\n")
    host.xfs.devices["hung"] = 2
    host.xfs.hold = threading.Event()
    monkeypatch.setattr(daemon, "HANG_S", 0.2)
    monkeypatch.setattr(worker.Worker, "in_kernel", in_kernel)
    for brick in (hung, root):
        make_pv(brick, "pvc-1")
        put_record(brick, "pvc-1")
    with threaded(host) as run:
        run.wait(lambda: run.enforces(root, "pvc-1", 64 * MIB))
        run.wait(lambda: "does not come back" in run.daemon.refused.get(str(hung), "") and run.daemon.ready)
        assert run.daemon._progresses(time.monotonic()) is in_kernel
        change_record(root, "pvc-1", size=128 * MIB)
        run.wait(lambda: run.enforces(root, "pvc-1", 128 * MIB))
        host.xfs.hold.set()
        run.wait(lambda: run.enforces(hung, "pvc-1", 64 * MIB) and not run.daemon.refused)


def test_a_hang_that_begins_with_an_event_is_seen_without_waiting_for_the_watchdog(
    host: FakeHost, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(daemon, "HANG_S", 0.2)
    monkeypatch.setattr(worker, "TELL_S", 0.0)
    make_pv(root, "pvc-1")
    put_record(root, "pvc-1")
    with threaded(host) as run:
        run.wait(lambda: run.daemon.ready and run.daemon._idle_s() > 2)
        host.xfs.hold.clear()
        look = FakeTable.get_tag
        monkeypatch.setattr(FakeTable, "get_tag", lambda table, fd: host.xfs.hold.wait(60) and look(table, fd))
        change_record(root, "pvc-1", size=128 * MIB)
        run.wait(lambda: "does not come back" in run.daemon.refused.get(str(root), ""))
        host.xfs.hold.set()
        run.wait(lambda: run.is_(State.ENFORCED, root, "pvc-1") and not run.daemon.refused)


def test_what_lost_its_tag_deep_in_a_tree_gets_it_back(host: FakeHost, root: Path) -> None:
    top = make_pv(root, "pvc-1", "a/b/file", "c/file")
    put_record(root, "pvc-1")
    with running(host) as run:
        run.until(lambda: run.enforces(root, "pvc-1", 64 * MIB))
        project = tag_of(host, top).project_id
        for path in (top / "a", top / "a/b/file"):
            os.removexattr(path, "user.fake.tag")  # as what is put back from a backup, on the brick
        run.daemon.crawl()
        run.until(lambda: {tag_of(host, path).project_id for path in top.rglob("*")} == {project})


def test_a_file_that_two_pvs_share_is_one_s_for_good(host: FakeHost, root: Path) -> None:
    shared = make_pv(root, "pvc-1", "shared") / "shared"
    (make_pv(root, "pvc-2") / "shared").hardlink_to(shared)
    (root / ".glusterfs" / "handle").hardlink_to(shared)
    for name in ("pvc-1", "pvc-2"):
        put_record(root, name)
    with running(host) as run:
        run.until(lambda: all(run.enforces(root, name, 64 * MIB) for name in ("pvc-1", "pvc-2")))
        for number in range(3):
            lost = [root / pv_path(name) / f"lost{number}" for name in ("pvc-1", "pvc-2")]
            for path in lost:
                path.touch()

            def found(lost: list[Path] = lost) -> bool:
                run.daemon.crawl()  # a look that had begun already may have passed them by
                return all(tag_of(host, path).project_id for path in lost)

            run.until(found)
    assert host.xfs.projects.log.count("tag shared") == 1


def test_a_file_system_that_is_mounted_while_it_runs_needs_no_crawl_interval(
    host: FakeHost, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_pv(root, "pvc-1")
    put_record(root, "pvc-1")
    away = root.rename(root.with_name("away"))
    polled, mounts = os.pipe()  # stands for /proc/self/mountinfo, which says it with POLLPRI
    monkeypatch.setattr(select, "POLLPRI", select.POLLIN)
    with running(host) as run:
        os.dup2(polled, run.daemon._mounts)
        run.until(lambda: list(run.daemon.refused) == [str(root)])
        away.rename(root)
        host.xfs.devices["v"] = 2
        os.write(mounts, b"x")
        run.until(lambda: run.enforces(root, "pvc-1", 64 * MIB))
        assert run.daemon.refused == {}
    os.close(polled)
    os.close(mounts)


def test_an_unsupported_volume_is_refused_once_it_is_used(host: FakeHost) -> None:
    root = host.add_volume("v", count=2)
    with running(host) as run:
        run.until(lambda: run.daemon.ready)
        assert run.daemon.refused == {}
        make_pv(root, "pvc-1")
        put_record(root, "pvc-1")
    with running(host) as run:
        run.until(lambda: "distributed" in run.daemon.refused.get(str(root), ""))
    assert host.xfs.projects.log == []


def test_when_events_are_lost_everything_is_looked_through(
    host: FakeHost, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(host) as run:
        run.until(lambda: run.daemon.ready)
        monkeypatch.setattr(watch.Watcher, "read", lambda self: [])
        make_pv(root, "pvc-1")
        put_record(root, "pvc-1")
        for _ in range(20):
            run.daemon.run_cycle(patience_s=0)
        assert not run.enforces(root, "pvc-1", 64 * MIB)
        monkeypatch.setattr(watch.Watcher, "read", lambda self: [watch.Event(what=watch.What.LOST)])
        run.daemon.run_cycle(patience_s=0)
        monkeypatch.undo()
        run.until(lambda: run.enforces(root, "pvc-1", 64 * MIB))


def test_killed_after_any_step_the_next_one_ends_where_it_would_have(host: FakeHost, root: Path) -> None:
    brick = Brick(volume="v", path=str(root), arbiter=False, data_bricks=1, choice=Choice.NAMED)
    for steps in range(30):
        directory = make_pv(root, "pvc-1", "a/f1", "a/b/f2", "f3")
        put_record(root, "pvc-1")
        killed = Enforcer(host.xfs).settle(brick, "pvc-1")
        for _ in range(steps):
            next(killed, None)
        killed.close()
        list(Enforcer(host.xfs).settle(brick, "pvc-1"))
        tags = {tag_of(host, path).project_id for path in [directory, *directory.rglob("*")]}
        assert len(tags) == 1
        assert not tags & {0}
        shutil.rmtree(root / "subvol")
        shutil.rmtree(root / "info")


def test_systemd_hears_that_it_is_ready_as_soon_as_it_is(host: FakeHost, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(str(tmp_path / "notify"))
        notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "notify")})
        config = Config(glusterd_dir=str(host.glusterd), crawl_interval_s=3600)
        with closing(Daemon(config, systems=host.xfs, notifier=notifier)) as daemon:
            while not daemon.ready:
                daemon.run_cycle(patience_s=0)
        server.setblocking(False)
        said = b""
        while b"READY=1" not in said:
            said = server.recv(1000)


def test_stop_ends_it_while_it_waits(host: FakeHost) -> None:
    run = Run(host, 3600)
    thread = threading.Thread(target=run.daemon.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 60
    while not run.daemon.ready:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    run.daemon.stop()
    thread.join(60)  # of an hour until the next crawl
    assert not thread.is_alive()


class CountingNotifier(Notifier):
    def __init__(self) -> None:
        super().__init__({})
        self.sent: list[str] = []

    def send(self, *states: str) -> None:
        self.sent.append(states[0])


@pytest.mark.parametrize("pause_s", [3600, 0.01])
def test_systemd_is_not_told_of_every_record_but_of_the_last_in_the_end(
    host: FakeHost, root: Path, monkeypatch: pytest.MonkeyPatch, pause_s: float
) -> None:
    monkeypatch.setattr(daemon, "LOOK_AGAIN_S", pause_s)
    names = [f"pvc-{number}" for number in range(10)]
    with running(host) as run:
        run.daemon._notifier = notifier = CountingNotifier()
        run.until(lambda: run.daemon.ready)
        told = len(notifier.sent)
        for name in names:
            make_pv(root, name)
            put_record(root, name)
        run.until(lambda: all(run.enforces(root, name, 64 * MIB) for name in names))
        if pause_s == 3600:
            assert len(notifier.sent) == told
        else:
            run.until(lambda: notifier.sent[-1] == "STATUS=1 brick, 10 PVs enforced")
