"""What is looked at every minute: preparations that nobody comes back for end, and never take a promise with them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kadalu_ext.csi import housekeeping
from kadalu_ext.csi.directories import Directories
from kadalu_ext.csi.housekeeping import Ages, Housekeeper
from kadalu_ext.csi.promises import Promises
from kadalu_ext.csi.records import Records
from kadalu_ext.csi.volumes import Bricks, Volumes
from kadalu_ext.errors import CapacityError, ConflictError, InProgressError, NotFoundError, VolumeIOError
from kadalu_ext.layout import pv_path
from kadalu_ext.log import Logger
from kadalu_ext.record import RECORDS_DIR, PvName
from kadalu_ext.units import GIB, MIB
from tests.unit.csi.memory import Crash, MemoryBricks, MemoryStore, pv, recorded_size, replica

PV = PvName("pvc-1")
SUFFIX = "0" * 16


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
    site.records.stage(pv(PV, 512 * MIB), SUFFIX)
    assert site.controller().promised().size_bytes == 512 * MIB
    site.controller().sweep(site.controller().left())
    assert site.controller().promised().size_bytes == 0
    assert list(site.store.listdir(RECORDS_DIR)) == []


def test_what_nobody_needs_any_more_is_swept_and_nothing_else(site: Site) -> None:
    kept = ["pvc-2", f".pvc-2.{SUFFIX}.changed", f".pvc-2.{SUFFIX}.filler", "other", ".other"]
    site.controller().make(pv("pvc-2", MIB))
    old = [".pvc-3.new", f".pvc-3.{SUFFIX}.abandoned", f".pvc-3.{SUFFIX}.changed", f".pvc-3.{SUFFIX}.filler"]
    for entry in kept[1:] + old:
        site.store.mkdir(f"{RECORDS_DIR}/{entry}", 0o700)
    assert site.controller().left() == set(old)
    site.controller().sweep({*old, *kept})
    assert sorted(site.store.listdir(RECORDS_DIR)) == sorted(kept)


def before(site: Site, what: str, then: Callable[[], object]) -> None:
    """Before the next call of that kind on the volume something else happens."""
    call = getattr(site.store, what)

    def late(*args: object) -> object:
        setattr(site.store, what, call)
        then()
        return call(*args)

    setattr(site.store, what, late)


def test_what_is_swept_under_the_hands_of_who_makes_it_fails_and_the_retry_makes_it(site: Site) -> None:
    first = site.controller()

    def then() -> None:
        other = site.controller()
        other.sweep(other.left())
        other.make(pv("pvc-2", 768 * MIB))

    before(site, "rename", then)
    with pytest.raises(InProgressError, match="has ended what this one had prepared; try again"):
        first.make(pv(PV, 512 * MIB))
    with pytest.raises(CapacityError):
        first.make(pv(PV, 512 * MIB))
    first.make(pv(PV, 256 * MIB))
    assert site.promised() == GIB


def test_of_two_who_make_one_pv_the_first_publishes_nothing_that_only_the_second_has_counted(site: Site) -> None:
    first, other = site.controller(), site.controller()

    def then() -> None:
        with pytest.raises(CapacityError):
            other.make(pv(PV, 512 * MIB), overcommit=0.25)
        other.make(pv("pvc-2", 768 * MIB))
        site.records.stage(pv(PV, 512 * MIB), SUFFIX)

    before(site, "rename", then)
    with pytest.raises(InProgressError):
        first.make(pv(PV, 512 * MIB))
    assert site.promised() == 768 * MIB


def test_a_growth_that_was_never_written_is_counted_and_written_by_the_next(site: Site) -> None:
    first, other = site.controller(), site.controller()
    first.make(pv(PV, 64 * MIB))
    assert other.promised().size_bytes == 64 * MIB
    site.records.stage(pv(PV, 512 * MIB), SUFFIX)
    site.records.promise(PV, SUFFIX)
    assert {each.promised().size_bytes for each in (first, other)} == {512 * MIB}
    assert other.grow(PV, 128 * MIB)[0].size_bytes == 512 * MIB
    assert {each.promised().size_bytes for each in (first, other)} == {512 * MIB}
    assert len(site.records.names().of(PV)) == 1


def test_a_growth_that_another_one_overtakes_ends_and_its_retry_finds_the_larger_size(site: Site) -> None:
    first, other = site.controller(), site.controller()
    first.make(pv(PV, 64 * MIB))
    before(site, "rename", lambda: other.grow(PV, 512 * MIB))
    with pytest.raises(InProgressError):
        first.grow(PV, 768 * MIB)
    assert first.grow(PV, 128 * MIB)[0].size_bytes == 512 * MIB


@pytest.mark.parametrize("mib", [128, 768])
def test_whoever_writes_over_a_larger_size_writes_that_again(site: Site, mib: int) -> None:
    first, other = site.controller(), site.controller()
    first.make(pv(PV, 64 * MIB))
    before(site, "rename", lambda: before(site, "setxattr", lambda: other.grow(PV, 512 * MIB)))
    assert first.grow(PV, mib * MIB)[0].size_bytes == max(mib, 512) * MIB
    assert recorded_size(site.store, PV) == other.promised().size_bytes == max(mib, 512) * MIB


def test_a_limit_of_inodes_that_meets_a_growth_takes_nothing_from_it(site: Site) -> None:
    first, other = site.controller(), site.controller()
    first.make(pv(PV, 64 * MIB))
    before(site, "setxattr", lambda: other.grow(PV, 512 * MIB))
    assert first.limit_inodes(PV, 1000)[0] == replace(pv(PV, 512 * MIB), inodes=1000)
    assert site.records.read(PV) == replace(pv(PV, 512 * MIB), inodes=1000)


ONE, TWO = (replace(pv(PV, 64 * MIB), made_for=PvName(name)) for name in ("one", "two"))


def test_two_claims_that_come_to_one_directory_at_once_never_both_have_it(site: Site) -> None:
    before(site, "rename", lambda: site.controller().make(TWO))
    with pytest.raises(InProgressError):
        site.controller().make(ONE)
    with pytest.raises(ConflictError, match="this directory is that of two"):
        site.controller().make(ONE)


def test_who_comes_too_late_to_end_what_another_one_prepares_finds_that_one_s_record(site: Site) -> None:
    site.store.mkdir("info", 0o755)
    site.store.mkdir(RECORDS_DIR, 0o755)
    site.records.stage(TWO, SUFFIX)
    before(site, "rmdir", lambda: site.records.publish(PV, SUFFIX))
    with pytest.raises(ConflictError, match="this directory is that of two"):
        site.controller().make(ONE)
    assert site.records.read(PV) == TWO


@pytest.mark.parametrize("what", ["delete", "archive"])
def test_a_deletion_that_is_late_leaves_the_next_of_that_name_alone(site: Site, what: str) -> None:
    first, other = site.controller(), site.controller()
    first.make(ONE)
    end, of = getattr(first, what), first.whose(PV)
    other.delete(PV)
    other.make(TWO)
    with pytest.raises(InProgressError, match="has deleted what one had there; the directory is that of two now"):
        end(PV, of=of)
    assert pv_path(PV) in site.store.nodes
    first.promised()
    end(PV, of=first.whose(PV))
    assert (first.whose(PV), pv_path(PV) in site.store.nodes) == (None, False)


def test_an_archiving_that_goes_on_late_leaves_the_next_of_that_name_alone(site: Site) -> None:
    site.controller().make(pv(PV, 64 * MIB))
    rename, renamed = site.store.rename, list[str]()

    def late(old: str, new: str) -> None:
        rename(old, new)
        renamed.append(new)
        if len(renamed) == 2:  # the directory, and the record
            site.controller().make(pv(PV, 128 * MIB))

    site.store.rename = late  # type: ignore[method-assign]
    site.controller().archive(PV)
    assert (recorded_size(site.store, PV), pv_path(PV) in site.store.nodes) == (128 * MIB, True)
    assert site.controller().promised().size_bytes == 192 * MIB


def test_a_growth_that_is_late_never_writes_over_a_larger_one(site: Site) -> None:
    first, other = site.controller(), site.controller()
    first.make(pv(PV, 64 * MIB))
    before(site, "listdir", lambda: other.grow(PV, 512 * MIB))
    assert first.grow(PV, 128 * MIB)[0].size_bytes == 512 * MIB
    assert recorded_size(site.store, PV) == 512 * MIB


def test_a_growth_leaves_the_limit_of_inodes_that_another_controller_has_written(site: Site) -> None:
    first, other = site.controller(), site.controller()
    first.make(pv(PV, 64 * MIB))
    before(site, "listdir", lambda: other.limit_inodes(PV, 1000))
    with pytest.raises(InProgressError):
        first.grow(PV, 128 * MIB)
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

    def take(self, site: Site, controllers: list[Volumes]) -> None:
        volumes, name, size = controllers[self.which], PvName(f"pvc-{self.name}"), self.sixteenths * GIB // 16
        first = (4, 6)[self.name] * GIB // 16  # all who make a PV want the same of it
        site.store.crash_at = None if self.killed is None else site.store.calls + self.killed
        with suppress(CapacityError, ConflictError, InProgressError, NotFoundError, VolumeIOError, Crash):
            match self.what:
                case "make":
                    volumes.make(pv(name, first))
                case "grow":
                    volumes.grow(name, size)
                case "delete":
                    volumes.delete(name)
                case "limit":
                    volumes.limit_inodes(name, self.sixteenths)
                case _:
                    volumes.sweep(volumes.left())
        if site.store.crash_at is not None and site.store.calls >= site.store.crash_at:
            controllers[self.which] = site.controller()
        site.store.crash_at = None


STEPS = st.builds(
    Step,
    what=st.sampled_from(["make", "grow", "delete", "limit", "sweep"]),
    which=st.integers(0, 1),
    name=st.integers(0, 1),
    sixteenths=st.integers(4, 12),
    killed=st.none() | st.integers(0, 9),
)
FIRST = Step(what="make", which=0, name=0, sixteenths=0, killed=None)


@settings(max_examples=100)
@given(before=st.lists(STEPS, max_size=2), paused=STEPS, at=st.integers(0, 14), meanwhile=st.lists(STEPS, max_size=3))
def test_no_claim_is_granted_without_its_promise(
    before: list[Step], paused: Step, at: int, meanwhile: list[Step]
) -> None:
    """One controller is killed here and there, then stops in the middle of a call while the other goes on."""
    site = Site()
    controllers = [site.controller(), site.controller()]
    for step in [FIRST, *before]:
        step.take(site, controllers)
        assert site.promised() <= GIB

    def then() -> None:
        kept = site.store.crash_at
        for step in meanwhile:
            others = [controllers[1 - paused.which]] * 2
            step.take(site, others)
            controllers[1 - paused.which] = others[step.which]
            assert site.promised() <= GIB
        site.store.crash_at = kept

    site.store.at, site.store.then = site.store.calls + at, then
    paused.take(site, controllers)
    site.store.at = None
    assert site.promised() <= GIB
    assert all(each.promised().size_bytes >= site.promised() for each in controllers)


def test_the_housekeeper_sweeps_what_is_old_and_knows_what_is_promised(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(housekeeping, "LEFT_S", 0.0)
    site.records.stage(pv(PV, 64 * MIB), SUFFIX)
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
    site.records.stage(pv(PV, 64 * MIB), SUFFIX)
    bad = [f"info/quota/.{each}" for each in (f"bad.{SUFFIX}.new", f"file.{SUFFIX}.new", f"dead.{SUFFIX}.filler")]
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
