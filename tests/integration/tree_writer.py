"""Somebody at work in a PV, who knows what must be there afterwards."""

from __future__ import annotations

import threading
from pathlib import Path

DIRECTORIES = 3
PACE_S = 0.5
"""Between a writer's rounds: self-heal on these small hosts brings a few files a second, and is to get somewhere."""


class Writer(threading.Thread):
    """Moves, links, makes, appends to and removes what is in a directory of its own, until it is told to stop, or a
    call fails. `tree`: what must be there at the end: content by path; None for a directory. links: whether files get
    hard links."""

    def __init__(self, top: Path, number: int, *, links: bool = True) -> None:
        super().__init__(daemon=True)
        self._links = links
        self._top = top / f"w{number}"
        self._told = threading.Event()
        self.failure: BaseException | None = None
        self.rounds = 0
        self.tree: dict[Path, bytes | None] = {}
        for d in range(DIRECTORIES):
            (self._top / f"d{d}" / "deep").mkdir(parents=True)
            self.tree |= {self._top / f"d{d}": None, self._top / f"d{d}" / "deep": None}
            for f in range(4):
                self._write(self._top / f"d{d}" / "deep" / f"old{f}", b"old" * 2000)

    def run(self) -> None:
        try:
            while not self._told.wait(PACE_S):
                self._round(self.rounds)
                self.rounds += 1
        except BaseException as failure:
            self.failure = failure

    def stop(self) -> None:
        """Ends it after the round that it is at."""
        self._told.set()
        self.join(400)

    def check(self) -> None:
        """That it was stopped, and no call of it failed."""
        assert not self.is_alive(), "a writer hangs"
        if self.failure:
            raise self.failure

    def check_tree(self) -> None:
        """That what is there is what it made."""
        found = {path: path.read_bytes() if path.is_file() else None for path in self._top.rglob("*")}
        wrong = {
            str(path.relative_to(self._top)): (_short(self.tree, path), _short(found, path))
            for path in found.keys() | self.tree.keys()
            if path not in found or path not in self.tree or found[path] != self.tree[path]
        }
        assert wrong == {}, f"{self._top} after {self.rounds} rounds: {wrong}"

    def _round(self, number: int) -> None:
        here, there = (self._top / f"d{d % DIRECTORIES}" for d in (number, number + 1 + number // DIRECTORIES % 2))
        # something old goes elsewhere, something new is made, linked, moved, filled up, and partly removed again
        olds = sorted(path for path, content in self.tree.items() if content is not None and path.parent.parent == here)
        for old in olds[:2]:
            self._move(old, there / "deep" / f"{old.name.partition('-')[0]}-{number}")
        made = here / f"new{number}"
        self._write(made, b"new")
        with open(made, "ab") as file:
            file.write(b"+" * 5000)
        self.tree[made] = b"new" + b"+" * 5000
        if self._links:
            link = there / f"link{number}"
            link.hardlink_to(made)
            self.tree[link] = self.tree[made]
        self._move(made, there / "deep" / f"new{number}")
        nest = here / f"nest{number}"
        nest.mkdir()
        self.tree[nest] = None
        self._write(nest / "egg", b"egg")
        self._move(nest, there / f"nest{number}")
        # the tree stays as small as it is, or self-heal would never be through
        for path in [path for path in self.tree if path.name in {f"{what}{number - 3}" for what in ("link", "new")}]:
            self._remove(path)
        for path in [path for path in self.tree if path.name == f"nest{number - 3}"]:
            self._remove(path / "egg")
            self._remove(path)

    def _write(self, path: Path, content: bytes) -> None:
        path.write_bytes(content)
        self.tree[path] = content

    def _move(self, path: Path, target: Path) -> None:
        path.rename(target)
        for old in [old for old in self.tree if old == path or path in old.parents]:
            self.tree[target / old.relative_to(path)] = self.tree.pop(old)

    def _remove(self, path: Path) -> None:
        if self.tree.pop(path) is None:
            path.rmdir()
        else:
            path.unlink()


def _short(tree: dict[Path, bytes | None], path: Path) -> str:
    if path not in tree:
        return "none"
    content = tree[path]
    return "directory" if content is None else f"{len(content)} bytes, {content[:12]!r}…{content[-12:]!r}"
