"""The removal of hostile trees, on a tree in memory that knows directories by their identity."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from errno import EACCES, ENOENT, ENOTDIR, ENOTEMPTY

import pytest

from kadalu_ext.errors import DeadlineError
from kadalu_ext.gluster import tree

FS = 1


@dataclass(kw_only=True)
class Node:
    """A directory; a file or symlink has no entries and is `leaf`."""

    entries: dict[bytes, Node] = field(default_factory=dict)
    leaf: bool = False
    hidden: bool = False
    """It is there, but no listing shows it."""


class FakeLibrary:
    """libgfapi's handles as far as tree.py uses them. `open_handles` must be empty in the end, but for the top's."""

    def __init__(self, top: Node) -> None:
        self._numbers = itertools.count(100)
        self.open_handles: dict[int, Node] = {}
        self.denied: set[bytes] = set()
        self.changed: set[bytes] = set()
        """Entries that another client made into something else, which this one does not know yet."""
        self.top = self._opened(top)

    def _opened(self, node: Node) -> int:
        number = next(self._numbers)
        self.open_handles[number] = node
        return number

    def call(self, name: str, *args: object) -> int:
        method = getattr(self, name)
        result = method(*args)
        return result if isinstance(result, int) else 0

    def glfs_h_lookupat(self, _fs: int, parent: int, name: bytes, _stat: None, follow: int) -> int:
        assert not follow
        self.changed.discard(name)
        return self._opened(self._entry(parent, name))

    def glfs_h_unlink(self, _fs: int, parent: int, name: bytes) -> None:
        if name in self.denied:
            raise OSError(EACCES, os.strerror(EACCES))
        if name in self.changed:
            raise OSError(ENOTDIR, os.strerror(ENOTDIR))
        if self._entry(parent, name).entries:
            raise OSError(ENOTEMPTY, os.strerror(ENOTEMPTY))
        del self.open_handles[parent].entries[name]

    def glfs_h_opendir(self, _fs: int, directory: int) -> int:
        assert not self.open_handles[directory].leaf
        return self._opened(self.open_handles[directory])

    def glfs_h_close(self, handle: int) -> None:
        del self.open_handles[handle]

    def _entry(self, parent: int, name: bytes) -> Node:
        try:
            return self.open_handles[parent].entries[name]
        except KeyError:
            raise OSError(ENOENT, os.strerror(ENOENT)) from None

    @contextmanager
    def names(self, directory: int) -> Iterator[Iterator[bytes]]:
        entries = self.open_handles[directory].entries
        try:
            yield iter([name for name, node in entries.items() if not node.hidden])
        finally:
            del self.open_handles[directory]


@pytest.fixture
def root() -> Node:
    return Node()


@pytest.fixture
def library(root: Node, monkeypatch: pytest.MonkeyPatch) -> FakeLibrary:
    library = FakeLibrary(root)
    monkeypatch.setattr(tree, "libgfapi", library)
    return library


def directory(**entries: Node) -> Node:
    return Node(entries={name.encode(): node for name, node in entries.items()})


def test_a_tree_is_removed_and_its_neighbour_is_not(root: Node, library: FakeLibrary) -> None:
    full = directory(a=Node(leaf=True), b=directory(c=directory(), d=directory(e=Node(leaf=True))), f=directory())
    root.entries = {b"pv": full, b"other": directory(a=Node(leaf=True))}
    tree.remove(FS, library.top, b"pv", None)
    assert list(root.entries) == [b"other"]
    assert list(library.open_handles) == [library.top]


def test_ten_thousand_levels_are_no_recursion(root: Node, library: FakeLibrary) -> None:
    node = root
    for _ in range(10_000):
        node.entries = {b"d": Node()}
        node = node.entries[b"d"]
    tree.remove(FS, library.top, b"d", None)
    assert not root.entries
    assert list(library.open_handles) == [library.top]


def test_what_is_not_there_is_removed_already(library: FakeLibrary) -> None:
    tree.remove(FS, library.top, b"pv", None)


def test_at_the_deadline_it_stops_and_a_later_call_goes_on(root: Node, library: FakeLibrary) -> None:
    root.entries = {b"pv": directory(a=Node(leaf=True), b=Node(leaf=True))}
    with pytest.raises(DeadlineError):
        tree.remove(FS, library.top, b"pv", time.monotonic() - 1)
    assert list(library.open_handles) == [library.top]
    tree.remove(FS, library.top, b"pv", None)
    assert not root.entries


def test_an_entry_that_no_listing_shows_is_an_error_and_no_endless_loop(root: Node, library: FakeLibrary) -> None:
    root.entries = {b"pv": directory(ghost=Node(leaf=True, hidden=True))}
    with pytest.raises(OSError, match="not empty"):
        tree.remove(FS, library.top, b"pv", None)


def test_an_entry_that_was_exchanged_meanwhile_is_looked_at_again(root: Node, library: FakeLibrary) -> None:
    root.entries = {b"pv": directory(swapped=Node(leaf=True))}
    library.changed = {b"swapped"}
    tree.remove(FS, library.top, b"pv", None)
    assert not root.entries
    assert list(library.open_handles) == [library.top]


def test_an_entry_that_cannot_be_removed_is_an_error_and_nothing_stays_open(root: Node, library: FakeLibrary) -> None:
    root.entries = {b"pv": directory(a=directory(locked=Node(leaf=True)))}
    library.denied = {b"locked"}
    with pytest.raises(PermissionError):
        tree.remove(FS, library.top, b"pv", None)
