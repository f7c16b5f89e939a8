"""What was deleted is removed in the end, whatever stands in between."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from errno import EIO

import pytest

from kadalu_ext.csi.trash import TrashCollector, empty
from kadalu_ext.errors import DeadlineError, KadaluExtError, VolumeIOError
from kadalu_ext.log import Logger
from tests.unit.csi.memory import MemoryStore

A, B, C = (f"pvc-1.{n:016x}" for n in range(3))


class Stubborn(MemoryStore):
    """Its tree A fails as it is told to, one error after the other."""

    def __init__(self, *errors: KadaluExtError) -> None:
        super().__init__()
        self.errors = list(errors)
        for path in ("trash", f"trash/{A}", f"trash/{B}"):
            self.mkdir(path, 0o700)

    def remove_tree(self, path: str, *, deadline: float | None = None) -> None:
        if path == f"trash/{A}" and self.errors:
            raise self.errors.pop(0)
        super().remove_tree(path, deadline=deadline)


def until_empty(store: MemoryStore, *, within_s: float) -> None:
    deadline = time.monotonic() + within_s
    while store.listdir("trash"):
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_without_a_trash_there_is_nothing_to_do() -> None:
    assert empty(MemoryStore()) == {}


def test_what_cannot_be_removed_does_not_stop_the_rest() -> None:
    store = Stubborn(VolumeIOError(EIO, "input/output error"))
    assert list(empty(store)) == [A]
    assert store.listdir("trash") == [A]


def test_what_somebody_else_keeps_in_a_directory_of_that_name_stays() -> None:
    store = Stubborn()
    others = ["holiday.jpg", "pvc-1", "pvc-1.17", ".hidden"]
    for name in others:
        store.mkdir(f"trash/{name}", 0o700)
    assert empty(store) == {}
    assert store.listdir("trash") == others


def collect(store: MemoryStore, *, retry_s: float) -> TrashCollector:
    collector = TrashCollector(store, storage="ext", log=Logger("test"), retry_s=retry_s)
    collector.start()
    return collector


@pytest.mark.parametrize(
    ("errors", "retry_s"),
    [
        ([], 60.0),
        ([VolumeIOError(EIO, "input/output error")] * 3, 0.01),
        ([DeadlineError("its turn is over")] * 3, 60.0),
    ],
    ids=["at once", "again after failures", "turn after turn"],
)
def test_the_collector_goes_on_until_the_trash_is_empty(errors: list[KadaluExtError], retry_s: float) -> None:
    store = Stubborn(*errors)
    collector = collect(store, retry_s=retry_s)
    until_empty(store, within_s=10)
    collector.stop()


def test_the_collector_removes_what_comes_later_when_it_is_woken() -> None:
    store = Stubborn()
    collector = collect(store, retry_s=60)
    until_empty(store, within_s=10)
    store.mkdir(f"trash/{C}", 0o700)
    collector.wake()
    until_empty(store, within_s=10)
    collector.stop()


def test_a_crash_of_the_collector_is_logged_and_not_its_end() -> None:
    store = Stubborn()
    crash: list[Callable[[str], Sequence[str]]] = [store.listdir]

    def listdir(path: str, most: int | None = None) -> Sequence[str]:
        if len(crash) == 1:
            crash.append(listdir)
            raise ZeroDivisionError
        return crash[0](path)

    store.listdir = listdir  # type: ignore[method-assign]
    collector = collect(store, retry_s=0.01)
    until_empty(store, within_s=10)
    collector.stop()
