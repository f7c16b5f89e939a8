"""One whole crawl in the foreground, in earnest and as a dry run."""

from __future__ import annotations

import json
import os
from contextlib import ExitStack
from pathlib import Path

import pytest

from kadalu_ext.quotad import once
from kadalu_ext.quotad.config import Config
from kadalu_ext.quotad.plan import FIRST_PROJECT_ID, LAST_PROJECT_ID, Limits, ProjectId, Tag
from kadalu_ext.quotad.tally import Tally
from tests.unit.quotad.fakes import FakeHost, make_pv, put_record

LIMIT = Limits(bhard_bytes=64 << 20)


@pytest.fixture
def root(host: FakeHost) -> Path:
    root = host.add_volume("v", {"replica_count": 3}, count=3)
    make_pv(root, "pvc-1", "a", "d/b")
    put_record(root, "pvc-1")
    return root


def run(host: FakeHost, *, dry_run: bool = False) -> once.Done:
    return once.once(Config(glusterd_dir=str(host.glusterd)), host.xfs, dry_run=dry_run)


@pytest.mark.usefixtures("root")
def test_once_enforces_and_says_what_it_changed(host: FakeHost) -> None:
    done = run(host)
    assert done.all_enforced
    [changed] = done.changed
    assert (changed.pv, changed.project_id, changed.inodes_tagged) == ("pvc-1", FIRST_PROJECT_ID, 4)
    assert "4 inodes tagged, limit of 64 MiB set" in once.render(done)
    assert run(host).changed == ()


@pytest.mark.usefixtures("root")
def test_a_dry_run_says_the_same_and_changes_nothing(host: FakeHost) -> None:
    dry = run(host, dry_run=True)
    assert host.xfs.projects.log == []
    assert dry.changed == run(host).changed
    assert "4 inodes would be tagged, limit of 64 MiB would be set" in once.render(dry)


def test_a_limit_without_a_record_is_lifted_or_would_be(host: FakeHost, root: Path) -> None:
    run(host)
    (root / "info/quota/pvc-1").rmdir()
    dry = run(host, dry_run=True)
    assert "limit would be lifted" in once.render(dry)
    assert host.xfs.projects.get(FIRST_PROJECT_ID).limits == LIMIT  # type: ignore[union-attr]
    assert "limit lifted" in once.render(run(host))


def test_what_is_left_is_told_with_its_reason(host: FakeHost, root: Path) -> None:
    put_record(root, "pvc-2")
    put_record(root, "pvc-3", b"{}")
    done = run(host)
    assert not done.all_enforced
    assert "waiting: pvc-2 on" in once.render(done)
    assert [left["pv"] for left in json.loads(once.to_json(done))["left"]] == ["pvc-2", "pvc-3"]


@pytest.mark.usefixtures("root")
def test_a_refused_brick_is_told(host: FakeHost) -> None:
    host.xfs.refusal = "not XFS"
    assert "REFUSED: " in once.render(run(host))


def test_what_a_dry_run_would_set_is_read_back(tmp_path: Path) -> None:
    (tmp_path / "bricks").mkdir()
    real = FakeHost(tmp_path / "host").xfs
    ids = [ProjectId(FIRST_PROJECT_ID + number) for number in range(3)]
    real.projects.set_limits(ids[1], LIMIT)
    with ExitStack() as stack:
        fd = os.open(tmp_path / "bricks", os.O_RDONLY)
        stack.callback(os.close, fd)
        table = Tally(real, dry_run=True).table(fd)
        table.set_limits(ids[0], LIMIT)
        table.set_limits(ids[1], Limits())
        table.set_limits(ids[2], Limits(ihard=5))
        table.set_tag(fd, Tag(project_id=ids[0], inherit=True))
        assert table.get_tag(fd) == Tag(project_id=ids[0], inherit=True)
        rows = {row.project_id: row.limits for row in table.rows(FIRST_PROJECT_ID, LAST_PROJECT_ID)}
        assert rows == {ids[0]: LIMIT, ids[1]: Limits(), ids[2]: Limits(ihard=5)}
        assert table.get(ids[0]).limits == LIMIT  # type: ignore[union-attr]
