"""Tagging a tree while somebody is at work in it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from kadalu_ext.quotad import tree
from kadalu_ext.quotad.plan import FIRST_PROJECT_ID, ProjectId, Tag
from kadalu_ext.quotad.tree import tag_tree
from tests.unit.quotad.fakes import FakeTable

TAG = Tag(project_id=FIRST_PROJECT_ID, inherit=True)


def nobody(project_id: ProjectId) -> bool:
    """Nobody else has a project."""
    return False


@pytest.fixture
def top(tmp_path: Path) -> Iterator[int]:
    (tmp_path / "pv").mkdir()
    fd = os.open(tmp_path / "pv", os.O_RDONLY)
    yield fd
    os.close(fd)


@pytest.fixture
def table(tmp_path: Path) -> FakeTable:
    return FakeTable(tmp_path)


def fill(directory: Path, *files: str) -> None:
    for file in files:
        (directory / file).parent.mkdir(parents=True, exist_ok=True)
        (directory / file).touch()


def untagged(table: FakeTable, top: Path) -> set[str]:
    left = set()
    for path in [top, *top.rglob("*")]:
        fd = os.open(path, os.O_RDONLY)
        if table.get_tag(fd) != Tag(project_id=TAG.project_id, inherit=path.is_dir()):
            left.add(path.name)
        os.close(fd)
    return left


def test_a_directory_whose_size_says_that_it_is_empty_is_tagged_without_a_look_into_it(
    table: FakeTable, top: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tree, "_EMPTY_BYTES", {os.fstat(top).st_size})
    assert list(tag_tree(table, top, TAG, nobody)) == []
    assert table.get_tag(top) == TAG


def test_files_come_first_then_directories_from_the_bottom_then_the_top(
    tmp_path: Path, table: FakeTable, top: int
) -> None:
    fill(tmp_path / "pv", "f1", "a/f2", "a/b/f3")
    list(tag_tree(table, top, TAG, nobody))
    order = [entry.removeprefix("tag ") for entry in table.log]
    assert set(order[:3]) == {"f1", "f2", "f3"}
    assert order[3:] == ["b", "a", "pv"]
    assert untagged(table, tmp_path / "pv") == set()


def test_what_is_made_while_it_is_tagged_is_found(tmp_path: Path, table: FakeTable, top: int) -> None:
    fill(tmp_path / "pv", "a/f1", "b/f2", "c/f3")
    for step, _ in enumerate(tag_tree(table, top, TAG, nobody)):
        if step < 20:
            fill(tmp_path / "pv", f"a/new{step}", f"d{step}/e/f")
    assert untagged(table, tmp_path / "pv") == set()


def test_a_tree_left_at_any_step_is_finished_by_the_next_run(tmp_path: Path, table: FakeTable, top: int) -> None:
    fill(tmp_path / "pv", "f1", "a/f2", "a/b/f3")
    for steps in range(40):
        run = tag_tree(table, top, Tag(project_id=ProjectId(TAG.project_id + 1 + steps), inherit=True), nobody)
        for _ in range(steps):
            next(run, None)
        run.close()  # type: ignore[attr-defined]
        list(tag_tree(table, top, TAG, nobody))
        assert untagged(table, tmp_path / "pv") == set()


def test_nothing_outside_is_touched_through_a_symlink(tmp_path: Path, table: FakeTable, top: int) -> None:
    fill(tmp_path / "outside", "f")
    (tmp_path / "pv" / "to-directory").symlink_to(tmp_path / "outside")
    (tmp_path / "pv" / "to-file").symlink_to(tmp_path / "outside" / "f")
    list(tag_tree(table, top, TAG, nobody))
    assert table.log == ["tag pv"]


def test_a_directory_swapped_for_a_symlink_during_the_walk_is_not_followed(
    tmp_path: Path, table: FakeTable, top: int
) -> None:
    fill(tmp_path / "outside", "secret")
    for number in range(8):
        fill(tmp_path / "pv", f"d{number}/f")
    for step, _ in enumerate(tag_tree(table, top, TAG, nobody)):
        victim = tmp_path / "pv" / f"d{step % 8}"
        if not victim.is_symlink():
            victim.rename(tmp_path / f"moved{step}")
            victim.symlink_to(tmp_path / "outside")
    assert "tag secret" not in table.log
    assert "tag outside" not in table.log


def test_a_file_with_names_in_two_pvs_stays_the_other_ones_and_one_without_a_pv_becomes_this_ones(
    tmp_path: Path, table: FakeTable, top: int
) -> None:
    other = Tag(project_id=ProjectId(TAG.project_id + 1), inherit=False)
    fill(tmp_path / "pv", "mine")
    for name in ("other", "nobodys"):
        fill(tmp_path / "outside", name)
        for link in (tmp_path / "pv" / name, tmp_path / f"handle of {name}"):
            link.hardlink_to(tmp_path / "outside" / name)
    with open(tmp_path / "pv" / "other") as file:
        table.set_tag(file.fileno(), other)
    list(tag_tree(table, top, TAG, lambda project_id: project_id == other.project_id))
    assert untagged(table, tmp_path / "pv") == {"other"}
    assert "tag outside" not in table.log


def test_a_fifo_is_not_opened(tmp_path: Path, table: FakeTable, top: int) -> None:
    os.mkfifo(tmp_path / "pv" / "fifo")
    list(tag_tree(table, top, TAG, nobody))
    assert table.log == ["tag pv"]


def test_a_tree_may_be_deeper_than_pythons_stack(tmp_path: Path, table: FakeTable, top: int) -> None:
    fd = os.dup(top)
    for _ in range(400):
        os.mkdir("d", dir_fd=fd)
        below = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    list(tag_tree(table, top, TAG, nobody))
    assert table.get_tag(fd) == TAG
    os.close(fd)


def test_tags_that_are_undone_all_the_time_are_an_error(tmp_path: Path, table: FakeTable, top: int) -> None:
    fill(tmp_path / "pv", "f")
    with pytest.raises(OSError, match=f"after {tree.MAX_SWEEPS} sweeps"):
        for _ in tag_tree(table, top, TAG, nobody):
            os.setxattr(tmp_path / "pv" / "f", "user.fake.tag", b"[0, false]")


def test_nothing_stays_open_wherever_it_is_left(tmp_path: Path, table: FakeTable, top: int) -> None:
    fill(tmp_path / "pv", "a/b/c/f")
    before = len(os.listdir("/proc/self/fd"))
    for steps in range(20):
        run = tag_tree(table, top, TAG, nobody)
        for _ in range(steps):
            next(run, None)
        run.close()  # type: ignore[attr-defined]
        assert len(os.listdir("/proc/self/fd")) == before
