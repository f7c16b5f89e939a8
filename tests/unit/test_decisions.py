"""docs/adr: each decision has a number of its own, and is found by it."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
DECISIONS = {path.name[:4]: path for path in sorted((ROOT / "docs" / "adr").glob("*.md"))}
NAMED = [ROOT / name for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md")] + [
    path
    for folder in ("docs", "kadalu_ext", "manifests", "packaging", "tests")
    for path in sorted((ROOT / folder).rglob("*"))
    if path.suffix in (".md", ".py", ".yaml")
]


def test_numbers_begin_with_1_and_none_is_given_twice() -> None:
    files = sorted((ROOT / "docs" / "adr").glob("*.md"))
    assert [path.name[:4] for path in files] == [f"{number:04}" for number in range(1, len(files) + 1)]


def test_a_decision_begins_with_its_number() -> None:
    titles = {number: path.read_text().splitlines()[0] for number, path in DECISIONS.items()}
    assert [title for number, title in titles.items() if not title.startswith(f"# {int(number)}. ")] == []


def test_a_decision_that_is_named_is_there() -> None:
    named = {(path.name, number) for path in NAMED for number in re.findall(r"adr/([0-9]{4})", path.read_text())}
    assert named
    assert sorted(each for each in named if each[1] not in DECISIONS) == []
