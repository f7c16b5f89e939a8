"""What inotify says of a brick, as far as it matters."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from kadalu_ext.quotad.watch import Event, Watcher, What
from tests.unit.quotad.fakes import change_record, put_record

BRICK = "/bricks/v"


@pytest.fixture
def watcher(tmp_path: Path) -> Iterator[Watcher]:
    put_record(tmp_path, "pvc-1")
    root = os.open(tmp_path, os.O_RDONLY)
    with closing(Watcher()) as watcher:
        watcher.watch_brick(BRICK, root)
        os.close(root)
        yield watcher


def test_a_record_that_changes_is_named(watcher: Watcher, tmp_path: Path) -> None:
    change_record(tmp_path, "pvc-1", size=1 << 20)
    assert watcher.read() == [Event(what=What.RECORD, path=BRICK, name="pvc-1")]


def test_a_record_in_preparation_is_nothing_to_look_at(watcher: Watcher, tmp_path: Path) -> None:
    (tmp_path / "info/quota/.pvc-2.new").mkdir()
    assert watcher.read() == []


def test_attributes_that_gluster_sets_on_the_directory_of_records_cause_no_crawl(
    watcher: Watcher, tmp_path: Path
) -> None:
    os.setxattr(tmp_path / "info/quota", "user.mdata", b"1")
    assert watcher.read() == []


def test_that_the_directory_of_records_goes_is_told(watcher: Watcher, tmp_path: Path) -> None:
    (tmp_path / "info/quota/pvc-1").rmdir()
    (tmp_path / "info/quota").rmdir()
    assert Event(what=What.BRICK, path=BRICK) in watcher.read()
