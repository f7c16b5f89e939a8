"""Which files wait for heal, and whose."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kadalu_ext.quotad import heal, scan, show, status
from kadalu_ext.quotad.bricks import Brick, Choice
from kadalu_ext.quotad.heal import Waiting
from kadalu_ext.quotad.plan import FIRST_PROJECT_ID, ProjectId
from tests.unit.quotad.fakes import FakeHost, make_pv, put_record, pv_path
from tests.unit.quotad.test_status import enforce_all

ROOT = "00000000-0000-0000-0000-000000000001"
NEXT = ProjectId(FIRST_PROJECT_ID + 1)


class Gluster:
    """Handles and indices as gluster makes them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._count = 0
        self._gfids: dict[str, str] = {"": ROOT}
        for index in heal.INDICES:
            (root / index).mkdir(parents=True)
        (root / heal.INDICES[0] / "xattrop-1f0d7c29-0000-4000-8000-000000000001").touch()

    def add(self, path: str) -> str:
        """The gfid of `path`, with its handle and those of all above."""
        if path not in self._gfids:
            parent, _, name = path.rpartition("/")
            above = self.add(parent)
            self._count += 1
            gfid = f"{self._count:08x}-0000-4000-8000-{self._count:012x}"
            handle = self.root / ".glusterfs" / gfid[:2] / gfid[2:4] / gfid
            handle.parent.mkdir(parents=True, exist_ok=True)
            if (self.root / path).is_dir():
                handle.symlink_to(f"../../{above[:2]}/{above[2:4]}/{above}/{name}")
            else:
                os.link(self.root / path, handle, follow_symlinks=False)
            self._gfids[path] = gfid
        return self._gfids[path]

    def need_heal(self, path: str, index: int = 0) -> None:
        (self.root / heal.INDICES[index] / self.add(path)).touch()


@pytest.fixture
def root(host: FakeHost) -> Path:
    root = host.add_volume("v", {"replica_count": 3}, count=3)
    make_pv(root, "pvc-1", "a", "d/b")
    put_record(root, "pvc-1")
    enforce_all(host)
    return root


def look(host: FakeHost, root: Path) -> Waiting:
    brick = Brick(volume="v", path=str(root), arbiter=False, data_bricks=1, choice=Choice.NAMED)
    with scan.open_brick(brick, host.xfs, check=False) as opened:
        return heal.waiting(opened)


def test_files_are_known_by_their_project_and_directories_by_their_path(host: FakeHost, root: Path) -> None:
    gluster = Gluster(root)
    for path in ("a", "d/b", "d"):
        gluster.need_heal(f"{pv_path('pvc-1')}/{path}")
    gluster.need_heal(f"{pv_path('pvc-1')}/a", index=1)  # counted once
    gluster.need_heal("info/quota/pvc-1")
    seen = look(host, root)
    assert (seen.of("pvc-1", FIRST_PROJECT_ID), seen.total, seen.whole) == (3, 4, True)
    assert seen.of("pvc-2", NEXT) == 0


def test_a_symlink_of_a_pod_is_never_followed(host: FakeHost, root: Path) -> None:
    gluster = Gluster(root)
    (root / pv_path("pvc-1") / "link").symlink_to("/etc/passwd")
    (root / pv_path("pvc-1") / "loop").symlink_to(f"../../00/00/{gluster.add(pv_path('pvc-1'))}/../x")
    gluster.need_heal(f"{pv_path('pvc-1')}/link")
    gluster.need_heal(f"{pv_path('pvc-1')}/loop")
    assert look(host, root).of("pvc-1", FIRST_PROJECT_ID) == 0


def test_handles_that_go_round_in_a_circle_come_to_an_end(host: FakeHost, root: Path) -> None:
    gfid = "0000000a-0000-4000-8000-00000000000a"
    handle = root / ".glusterfs/00/00" / gfid
    handle.parent.mkdir(parents=True)
    handle.symlink_to(f"../../00/00/{gfid}/x")
    (root / heal.INDICES[0]).mkdir(parents=True)
    (root / heal.INDICES[0] / gfid).touch()
    assert look(host, root) == Waiting(total=1)


def test_what_is_gone_or_never_was_is_left_out(host: FakeHost, root: Path) -> None:
    assert look(host, root) == Waiting()
    (root / heal.INDICES[0]).mkdir(parents=True)
    (root / heal.INDICES[0] / "ffffffff-0000-4000-8000-00000000000a").touch()
    assert look(host, root).total == 1


def test_no_more_than_so_many_are_looked_at(host: FakeHost, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heal, "MAX_ENTRIES", 2)
    gluster = Gluster(root)
    for path in ("a", "d/b", "d"):
        gluster.need_heal(f"{pv_path('pvc-1')}/{path}")
    assert (look(host, root).total, look(host, root).whole) == (2, False)


def test_a_full_pv_shows_how_many_of_its_files_wait(host: FakeHost, root: Path) -> None:
    gluster = Gluster(root)
    gluster.need_heal(f"{pv_path('pvc-1')}/a")
    host.xfs.projects.used_bytes[FIRST_PROJECT_ID] = 64 << 20
    report = status.look(str(host.glusterd), host.xfs, daemon_running=True)
    assert "full, 1 of its files waits for heal on this brick: expand its claim" in show.render(report)
