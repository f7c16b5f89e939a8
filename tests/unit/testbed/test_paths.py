"""The cache: its keys, and that only finished builds are ever seen."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.testbed import paths
from tests.testbed.errors import BedError


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def test_a_key_depends_on_where_one_input_ends_and_the_next_begins() -> None:
    assert paths.cache_key("ab", "c") != paths.cache_key("a", "bc")


def test_a_path_in_a_key_stands_for_its_content(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_text("one")
    before = paths.cache_key(source)
    assert before == paths.cache_key("one")
    source.write_text("two")
    assert paths.cache_key(source) != before


def test_a_build_runs_once_for_a_key() -> None:
    built: list[str] = []

    def build(target: Path) -> None:
        built.append("x")
        (target / "file").write_text("content")

    first = paths.cached("thing", "k1", build)
    assert paths.cached("thing", "k1", build) == first
    assert (first / "file").read_text() == "content"
    assert built == ["x"]


def test_a_build_that_fails_leaves_nothing_behind() -> None:
    def build(target: Path) -> None:
        (target / "half").write_text("")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        paths.cached("thing", "k1", build)
    assert not list(paths.cache_root().glob("*thing-*"))
    assert not list(paths.cache_root().glob(".thing.partial-*"))


def test_the_next_build_removes_what_a_killed_one_left() -> None:
    leftover = paths.cache_root() / ".thing.partial-abc"
    leftover.mkdir(parents=True)
    paths.cached("thing", "k1", lambda target: None)
    assert not leftover.exists()


@pytest.mark.parametrize("name", ["", "../x", "A", "1a", "a b", "a" * 21])
def test_a_name_that_could_leave_its_directory_is_refused(name: str) -> None:
    with pytest.raises(BedError, match="instance name"):
        paths.run_dir(name)
