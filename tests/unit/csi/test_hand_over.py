"""Controllers at work at once on one volume, as while one takes over from another: call by call, in any order."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial

from hypothesis import given, settings
from hypothesis import strategies as st

from kadalu_ext.csi.directories import Directories
from kadalu_ext.csi.promises import Promises
from kadalu_ext.csi.records import Records
from kadalu_ext.csi.volumes import Bricks, Volumes
from kadalu_ext.errors import CapacityError, ConflictError, InProgressError, NotFoundError, VolumeIOError
from kadalu_ext.record import PvName
from kadalu_ext.units import GIB
from tests.unit.csi.memory import Crash, MemoryBricks, MemoryStore, pv, recorded_size, replica

SIXTEENTH = GIB // 16
SOURCE = PvName("pvc-source")


class Turns(MemoryStore):
    """Each controller waits before each of its calls until it has its turn; then some die. By themselves all go on."""

    def __init__(self) -> None:
        super().__init__()
        self._changed = threading.Condition()
        self._waits: dict[int, bool] = {}
        self._dead: set[int] = set()
        self._me = threading.local()

    @contextmanager
    def _call(self) -> Iterator[None]:
        me: int | None = getattr(self._me, "number", None)
        if me is not None:
            self._wait(me)
        with super()._call():
            yield

    def _wait(self, me: int) -> None:
        with self._changed:
            self._waits[me] = True
            self._changed.notify_all()
            assert self._changed.wait_for(lambda: not self._waits[me], timeout=60)
            if me in self._dead:
                raise Crash

    def run(self, works: list[Callable[[], None]], turns: list[int], dies: dict[int, int]) -> None:
        """Works side by side, a call at a time, as `turns` say, then one after the other. dies: who, at which turn."""

        def work(me: int) -> None:
            self._me.number = me
            try:
                self._wait(me)
                works[me]()
            except Crash:
                pass
            except BaseException as error:
                failed.append(error)
            with self._changed:
                del self._waits[me]
                self._changed.notify_all()

        failed: list[BaseException] = []
        threads = [threading.Thread(target=work, args=(me,)) for me in range(len(works))]
        self._waits = dict.fromkeys(range(len(works)), False)
        for thread in threads:
            thread.start()
        step = 0
        while True:
            with self._changed:
                assert self._changed.wait_for(lambda: all(self._waits.values()), timeout=60)
                if not self._waits:
                    break
                ready = sorted(self._waits)
                chosen = ready[turns[step] % len(ready)] if step < len(turns) else ready[0]
                if dies.get(chosen) == step:
                    self._dead.add(chosen)
                self._waits[chosen] = False
                step += 1
                self._changed.notify_all()
        for thread in threads:
            thread.join()
        assert not failed, failed


@dataclass(frozen=True, kw_only=True)
class Call:
    what: str
    name: int
    sixteenths: int

    def make(self, volumes: Volumes, by: int, granted: dict[PvName, int], owners: dict[PvName, int]) -> None:
        """granted: what a caller was told that it has; by: one of the controllers; owners: who has a directory."""
        name, size = PvName(f"pvc-{self.name}"), self.sixteenths * SIXTEENTH
        first = (3, 4, 5)[self.name] * SIXTEENTH  # all who make a PV want the same of it
        with suppress(CapacityError, ConflictError, InProgressError, NotFoundError, VolumeIOError):
            match self.what:
                case "make":
                    volumes.make(pv(name, first))
                    granted[name] = max(first, granted.get(name, 0))
                case "claim":
                    claimed = PvName(f"shop-{self.name}")
                    volumes.make(replace(pv(claimed, SIXTEENTH), made_for=PvName(f"pvc-of-{by}")))
                    assert owners.setdefault(claimed, by) == by
                case "clone":
                    volumes.make(replace(pv(name, first), source=SOURCE, filling=True))
                    granted[name] = max(first, granted.get(name, 0))
                case "grow":
                    granted[name] = max(volumes.grow(name, size)[0].size_bytes, granted.get(name, 0))
                case "limit":
                    volumes.limit_inodes(name, self.sixteenths)
                case "delete":
                    volumes.delete(name)
                case _:
                    volumes.sweep(volumes.left())


def calls(*whats: str) -> st.SearchStrategy[list[Call]]:
    call = st.builds(Call, what=st.sampled_from(whats), name=st.integers(0, 2), sixteenths=st.integers(3, 12))
    return st.lists(call, min_size=1, max_size=3)


TURNS = st.lists(st.integers(0, 2), min_size=60, max_size=60)


def run(
    before: list[Call], works: list[list[Call]], turns: list[int], dies: dict[int, int]
) -> tuple[Turns, list[Volumes], dict[PvName, int]]:
    store, granted, owners = Turns(), dict[PvName, int](), dict[PvName, int]()
    bricks = Bricks(geometry=replica(), probe=MemoryBricks(store))
    controllers = [Volumes(volume="vol", store=store, bricks=bricks, promises=Promises(volume="vol")) for _ in works]
    controllers[0].make(pv(SOURCE, SIXTEENTH))
    for number, call in enumerate(before):
        call.make(controllers[number % len(controllers)], number % len(controllers), granted, owners)

    def work(number: int) -> None:
        for call in works[number]:
            call.make(controllers[number], number, granted, owners)

    store.run([partial(work, number) for number in range(len(works))], turns, dies)
    return store, controllers, granted


def promised(store: MemoryStore) -> int:
    names = Records(store, Directories(store)).names().whole
    return sum(recorded_size(store, name) or 0 for name in names)


@settings(max_examples=100, deadline=None)
@given(
    before=st.lists(calls("make", "grow").map(lambda some: some[0]), max_size=2),
    works=st.lists(calls("make", "clone", "grow", "grow", "claim", "limit", "delete", "sweep"), min_size=2, max_size=3),
    turns=TURNS,
    dies=st.dictionaries(st.integers(0, 2), st.integers(0, 40), max_size=1),
)
def test_never_more_is_promised_than_there_is(
    before: list[Call], works: list[list[Call]], turns: list[int], dies: dict[int, int]
) -> None:
    store, controllers, _ = run(before, works, turns, dies)
    assert promised(store) <= GIB
    assert all(each.promised().size_bytes >= promised(store) for each in controllers)


@settings(max_examples=100, deadline=None)
@given(
    before=st.lists(calls("make", "grow").map(lambda some: some[0]), max_size=2),
    works=st.lists(calls("make", "grow", "claim", "claim", "limit", "sweep"), min_size=2, max_size=3),
    turns=TURNS,
)
def test_nobody_loses_what_he_was_told_that_he_has_and_nothing_is_left(
    before: list[Call], works: list[list[Call]], turns: list[int]
) -> None:
    store, controllers, granted = run(before, works, turns, {})
    assert {name: size for name, size in granted.items() if (recorded_size(store, name) or 0) < size} == {}
    controllers[0].sweep(controllers[0].left())
    assert controllers[0].left() == frozenset()
    assert {each.promised().size_bytes for each in controllers} == {promised(store)}
