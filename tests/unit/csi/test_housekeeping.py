"""What is looked at every minute: preparations that nobody comes back for end, and never take a promise with them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kadalu_ext.csi import housekeeping, promises
from kadalu_ext.csi.directories import Directories
from kadalu_ext.csi.housekeeping import LEFT_S, Ages, Housekeeper
from kadalu_ext.csi.promises import RESERVED_S, Promises
from kadalu_ext.csi.records import Records
from kadalu_ext.csi.volumes import Bricks, Volumes
from kadalu_ext.errors import CapacityError, ConflictError, DeadlineError, NotFoundError, VolumeIOError
from kadalu_ext.layout import RecordNames, record_path, staged_record_path
from kadalu_ext.log import Logger
from kadalu_ext.record import PvName
from kadalu_ext.units import GIB, MIB
from tests.unit.csi.memory import Crash, MemoryBricks, MemoryStore, pv, recorded_size, replica

PV = PvName("pvc-1")


class Paused(MemoryStore):
    """Before its call number `at`, from when that is set, something else happens."""

    def __init__(self) -> None:
        super().__init__()
        self.at: int | None = None
        self.then: Callable[[], object] = lambda: None

    @contextmanager
    def _call(self) -> Iterator[None]:
        if self.at == self.calls:
            self.at = None
            self.then()
        with super()._call():
            yield


class Site:
    """A volume of 1 GiB, and as many controllers as one likes."""

    def __init__(self) -> None:
        self.store = Paused()
        self.records = Records(self.store, Directories(self.store))

    def controller(self) -> Volumes:
        bricks = Bricks(geometry=replica(), probe=MemoryBricks(self.store))
        return Volumes(volume="vol", store=self.store, bricks=bricks, promises=Promises(volume="vol"))

    def promised(self) -> int:
        return sum(recorded_size(self.store, name) or 0 for name in self.records.names().whole)


@pytest.fixture
def site() -> Site:
    return Site()


def test_only_what_was_there_all_the_time_is_old() -> None:
    now = [0.0]
    ages = Ages(lambda: now[0])
    assert ages.old({"a", "b"}, age_s=10) == frozenset()
    now[0] = 9.0
    assert ages.old({"a", "c"}, age_s=10) == frozenset()
    now[0] = 10.0
    assert ages.old({"a", "b", "c"}, age_s=10) == {"a"}


def test_a_preparation_that_nobody_comes_back_for_counts_until_it_is_gone(site: Site) -> None:
    site.records.stage(pv(PV, 512 * MIB))
    for _ in range(2):
        assert site.controller().promised().size_bytes == 512 * MIB
        site.controller().sweep(site.controller().left())
    assert site.controller().promised().size_bytes == 0
    assert site.records.names() == RecordNames(
        whole=frozenset(), staged=frozenset(), changes={}, archived=frozenset(), abandoned=frozenset(), fillers={}
    )


def test_a_create_that_comes_back_finds_nothing_and_makes_it_anew(site: Site) -> None:
    site.records.stage(pv(PV, GIB))
    site.controller().sweep({PV})
    assert staged_record_path(PV) not in site.store.nodes
    site.controller().make(pv(PV, GIB))
    assert (site.promised(), site.controller().promised().size_bytes) == (GIB, GIB)


def test_what_is_abandoned_under_the_hands_of_who_makes_it_fails_and_the_retry_makes_it(site: Site) -> None:
    first = site.controller()
    site.store.then = lambda: site.controller().sweep({PV})
    site.store.at = site.store.calls + 8
    with pytest.raises(VolumeIOError):
        first.make(pv(PV, 64 * MIB))
    assert record_path(PV) not in site.store.nodes
    first.make(pv(PV, 64 * MIB))
    assert site.promised() == 64 * MIB


def test_who_has_found_room_and_slept_makes_no_use_of_it(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(promises, "RESERVED_S", -1.0)
    with pytest.raises(DeadlineError, match="since room was found for it; try again"):
        site.controller().make(pv(PV, 64 * MIB))
    assert record_path(PV) not in site.store.nodes
    assert LEFT_S > RESERVED_S + 1800


def test_room_that_somebody_has_found_stays_taken_while_what_he_prepared_is_swept(site: Site) -> None:
    """The other controller begins the same PV anew, and it is that preparation which the first one publishes."""
    rename = site.store.rename

    def late(old: str, new: str) -> None:
        site.store.rename = rename  # type: ignore[method-assign]
        other = site.controller()
        other.sweep({PV})
        with pytest.raises(CapacityError):
            other.make(pv("pvc-2", 768 * MIB))
        site.records.stage(pv(PV, 512 * MIB))
        rename(old, new)

    site.store.rename = late  # type: ignore[method-assign]
    site.controller().make(pv(PV, 512 * MIB))
    assert site.promised() == 512 * MIB


def test_a_growth_that_was_written_and_never_told_is_told(site: Site) -> None:
    first, other = site.controller(), site.controller()
    first.make(pv(PV, 64 * MIB))
    assert other.promised().size_bytes == 64 * MIB
    site.records.stage(pv(PV, 512 * MIB))
    site.records.write(pv(PV, 512 * MIB))
    for _ in range(2):
        first.sweep(first.left())
    assert {each.promised().size_bytes for each in (first, other)} == {512 * MIB}
    assert first.left() == frozenset()


def test_a_create_beside_a_growth_leaves_what_that_has_prepared(site: Site) -> None:
    first = site.controller()
    first.make(pv(PV, 64 * MIB))
    site.records.stage(pv(PV, 512 * MIB))
    site.controller().make(pv(PV, 64 * MIB))
    assert first.promised().size_bytes == 512 * MIB


def test_a_directory_that_two_claims_come_to_at_once_is_only_his_whom_the_record_names(site: Site) -> None:
    rename = site.store.rename

    def late(old: str, new: str) -> None:
        site.records.prepare(replace(pv(PV, 64 * MIB), made_for=PvName("other")))
        rename(old, new)

    site.store.rename = late  # type: ignore[method-assign]
    with pytest.raises(ConflictError, match="this directory is that of other"):
        site.controller().make(replace(pv(PV, 64 * MIB), made_for=PvName("one")))
    site.controller().make(replace(pv(PV, 64 * MIB), made_for=PvName("other")))


def before_the_growth_is_decided(site: Site, then: Callable[[], object]) -> None:
    listdir = site.store.listdir

    def late(path: str, most: int | None = None) -> Sequence[str]:
        site.store.listdir = listdir  # type: ignore[method-assign]
        then()
        return listdir(path, most)

    site.store.listdir = late  # type: ignore[method-assign]


def test_a_growth_that_is_late_never_writes_over_a_larger_one(site: Site) -> None:
    first, other = site.controller(), site.controller()
    first.make(pv(PV, 64 * MIB))
    before_the_growth_is_decided(site, lambda: other.grow(PV, 512 * MIB))
    assert first.grow(PV, 128 * MIB)[0].size_bytes == 512 * MIB
    assert recorded_size(site.store, PV) == 512 * MIB


def test_a_growth_leaves_the_limit_of_inodes_that_another_controller_has_written(site: Site) -> None:
    first, other = site.controller(), site.controller()
    first.make(pv(PV, 64 * MIB))
    before_the_growth_is_decided(site, lambda: other.limit_inodes(PV, 1000))
    first.grow(PV, 128 * MIB)
    assert site.records.read(PV) == replace(pv(PV, 128 * MIB), inodes=1000)


def test_a_name_that_comes_back_is_read_again_by_who_remembers_its_size(site: Site) -> None:
    first, other = site.controller(), site.controller()
    first.make(replace(pv(PV, 64 * MIB), made_for=PvName("one")))
    assert other.promised().size_bytes == 64 * MIB
    first.delete(PV)
    first.make(replace(pv(PV, 768 * MIB), made_for=PvName("other")))
    assert other.promised().size_bytes == 768 * MIB
    first.delete(PV)
    assert first.left() == frozenset()
    assert site.records.names().changes == {}


@dataclass(frozen=True, kw_only=True)
class Step:
    """What a controller does. killed: before that call on the volume, counted from its beginning."""

    what: str
    which: int
    name: int
    sixteenths: int
    killed: int | None

    def take(self, site: Site, controllers: list[Volumes], endable: Callable[[str], bool]) -> None:
        volumes, name, size = controllers[self.which], PvName(f"pvc-{self.name}"), self.sixteenths * GIB // 16
        first = (4, 6)[self.name] * GIB // 16  # all who make a PV want the same of it
        site.store.crash_at = None if self.killed is None else site.store.calls + self.killed
        with suppress(CapacityError, ConflictError, NotFoundError, VolumeIOError, Crash):
            match self.what:
                case "make":
                    volumes.make(pv(name, first))
                case "grow":
                    volumes.grow(name, size)
                case "delete":
                    volumes.delete(name)
                case _:
                    volumes.sweep({each for each in volumes.left() if endable(each)})
        if site.store.crash_at is not None and site.store.calls >= site.store.crash_at:
            controllers[self.which] = site.controller()
        site.store.crash_at = None


WHAT = st.sampled_from(["make", "grow", "delete", "sweep", "sweep"])
STEPS = st.builds(
    Step,
    what=WHAT,
    which=st.integers(0, 1),
    name=st.integers(0, 1),
    sixteenths=st.integers(4, 12),
    killed=st.none() | st.integers(0, 9),
)


FIRST = Step(what="make", which=0, name=0, sixteenths=0, killed=None)
SWEEP = Step(what="sweep", which=0, name=0, sixteenths=0, killed=None)


@settings(max_examples=150, derandomize=True)  # what is open in adr/0014 would be found one time in some ten
@given(before=st.lists(STEPS, max_size=2), paused=STEPS, at=st.integers(0, 12), meanwhile=st.lists(STEPS, max_size=3))
def test_no_claim_is_granted_without_its_promise(
    before: list[Step], paused: Step, at: int, meanwhile: list[Step]
) -> None:
    """One controller is killed here and there, then stops in the middle of a call while the other goes on, and sweeps:
    what is prepared whenever it likes, what is abandoned if it was so before that call began."""
    site = Site()
    controllers = [site.controller(), site.controller()]
    for step in [FIRST, *before]:
        step.take(site, controllers, lambda _: True)
        assert site.promised() <= GIB
    ended = site.records.names().abandoned

    def then() -> None:
        kept = site.store.crash_at
        for step in [SWEEP, *meanwhile]:
            others = [controllers[1 - paused.which]] * 2
            step.take(site, others, lambda each: each in ended or "." not in each)
            controllers[1 - paused.which] = others[step.which]
            assert site.promised() <= GIB
        site.store.crash_at = kept

    site.store.at, site.store.then = site.store.calls + at, then
    paused.take(site, controllers, lambda each: each in ended or "." not in each)
    site.store.at = None
    assert site.promised() <= GIB
    assert all(each.promised().size_bytes >= site.promised() for each in controllers)


def test_the_housekeeper_sweeps_what_is_old_and_knows_what_is_promised(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(housekeeping, "LEFT_S", 0.0)
    site.records.stage(pv(PV, 64 * MIB))
    keeper = Housekeeper(site.controller(), storage="ext", log=Logger("test"), every_s=0.01)
    keeper.start()
    deadline = time.monotonic() + 20
    while keeper.promised is None or keeper.promised.size_bytes or site.controller().left():
        assert time.monotonic() < deadline
        threading.Event().wait(0.01)
    keeper.stop()


def test_what_cannot_be_swept_stops_no_other_and_is_told_once(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(housekeeping, "LEFT_S", 0.0)
    site.records.stage(pv(PV, 64 * MIB))
    suffix = "0" * 16
    bad = [f"info/quota/.bad.{suffix}.abandoned", f"info/quota/.file.{suffix}.abandoned"]
    bad.append(f"info/quota/.bad.{suffix}.filler")
    for path in (bad[0], bad[2]):
        site.store.mkdir(path, 0o700)
        site.store.write(f"{path}/somebody-s")
    site.store.write(bad[1])
    keeper = Housekeeper(site.controller(), storage="ext", log=Logger("test"))
    for _ in range(4):
        keeper._turn()
    assert keeper.promised is not None and keeper.promised.size_bytes == 0
    assert sorted(site.store.listdir("info/quota")) == sorted(path.rpartition("/")[2] for path in bad)
    told = [vars(each)["path"] for each in caplog.records if each.message == "entry not swept"]
    assert told == sorted(bad)
