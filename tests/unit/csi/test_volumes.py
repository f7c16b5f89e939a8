"""The use cases on one volume, disturbed at every step."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from errno import ENOTCONN, EROFS

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kadalu_ext.csi import promises
from kadalu_ext.csi.directories import Directories
from kadalu_ext.csi.promises import Promises
from kadalu_ext.csi.records import Records
from kadalu_ext.csi.trash import empty
from kadalu_ext.csi.volumes import Bricks, Volumes
from kadalu_ext.errors import (
    BricksDownError,
    CapacityError,
    ConflictError,
    NotEnforcedError,
    NotFoundError,
    RecordError,
    VolumeIOError,
)
from kadalu_ext.gluster.brick import BrickAnswer
from kadalu_ext.gluster.messages import Gfid
from kadalu_ext.layout import RecordNames, pv_path, record_path, staged_record_path
from kadalu_ext.record import RECORD_XATTR, PvName
from kadalu_ext.units import GIB, MIB
from tests.testbed.progress import wait_until
from tests.unit.csi.memory import Crash, MemoryBricks, MemoryStore, pv, recorded_size, replica

PV = PvName("pvc-1")
SUFFIX = "0" * 16
CREATE_STEPS = 12  # calls on an empty volume
SCAFFOLD = {"", "info", "info/quota", "subvol", "trash"}


class Fixture:
    """One volume, and a controller that can be killed and started anew."""

    def __init__(self, *, arbiter: bool = False) -> None:
        self.store = MemoryStore()
        self.bricks = MemoryBricks(self.store, replica(arbiter=arbiter))
        self.restart()

    def restart(self) -> None:
        self.store.crash_at = None
        self.volumes = Volumes(
            volume="vol",
            store=self.store,
            bricks=Bricks(geometry=self.bricks.geometry, probe=self.bricks),
            promises=Promises(volume="vol"),
        )

    def create(self, name: PvName = PV, size_bytes: int = 64 * MIB, *, patience_s: float = 0.0) -> None:
        gfid = self.volumes.make(pv(name, size_bytes))
        self.volumes.wait_enforced(pv(name, size_bytes), gfid, deadline=time.monotonic() + patience_s)

    def left(self) -> set[str]:
        """What is on the volume besides the directories that stay."""
        return {path for path in self.store.nodes if path not in SCAFFOLD and not path.startswith("subvol/")} | {
            path for path in self.store.nodes if path.count("/") > 2
        }


@pytest.fixture
def on() -> Fixture:
    return Fixture()


def test_whose_time_is_nearly_up_hears_the_reason_in_time(on: Fixture, monkeypatch: pytest.MonkeyPatch) -> None:
    on.bricks.idle = {"h3"}
    answer = on.bricks.stat_directory

    def slow(path: str, *, gfid: Gfid | None = None) -> list[BrickAnswer]:
        time.sleep(0.3)
        return answer(path, gfid=gfid)

    monkeypatch.setattr(on.bricks, "stat_directory", slow)
    with pytest.raises(NotEnforcedError, match="h3"):
        on.create(patience_s=0.5)
    assert on.bricks.asked == 1


def test_a_created_pv_has_a_directory_for_every_user_and_a_record(on: Fixture) -> None:
    on.create()
    assert on.store.nodes[pv_path(PV)].mode == 0o777
    assert on.store.nodes["subvol"].mode == 0o755
    assert on.store.nodes[record_path(PV)].xattrs == {
        RECORD_XATTR: b'{"v":1,"path":"%s","size":67108864}' % pv_path(PV).encode()
    }
    assert on.left() == {pv_path(PV), record_path(PV)}


def test_a_deleted_pv_leaves_nothing_once_the_trash_is_empty(on: Fixture) -> None:
    on.create()
    on.store.write(f"{pv_path(PV)}/data")
    on.volumes.delete(PV)
    assert pv_path(PV) not in on.store.nodes
    assert empty(on.store) == {}
    assert on.left() == set()


def test_the_same_pv_again_is_the_same_pv(on: Fixture) -> None:
    on.create()
    before = dict(on.store.nodes)
    on.create()
    assert on.store.nodes == before


def test_the_same_name_in_another_size_is_a_conflict_with_both_sizes(on: Fixture) -> None:
    on.create()
    with pytest.raises(ConflictError, match=r"64 MiB .* 80 MiB"):
        on.create(size_bytes=80 * MIB)


def test_a_volume_that_is_too_small_is_told_with_the_figures_before_anything_is_written(on: Fixture) -> None:
    on.create(PvName("pvc-0"), 1000 * MIB)
    with pytest.raises(CapacityError, match=r"64 MiB .* 1 GiB, .* 1000 MiB are promised to 1 PVs; at most 24 MiB"):
        on.create()
    assert pv_path(PV) not in on.store.nodes


def test_promises_are_what_the_records_say_also_after_a_restart(on: Fixture) -> None:
    on.create(PvName("pvc-0"), GIB)
    on.restart()
    with pytest.raises(CapacityError):
        on.create()
    on.volumes.delete(PvName("pvc-0"))
    on.create()


def test_a_record_that_cannot_be_read_is_left_to_people(on: Fixture) -> None:
    on.create()
    on.store.nodes[record_path(PV)].xattrs[RECORD_XATTR] = b'{"v":2}'
    with pytest.raises(RecordError, match="upgrade"):
        on.create()
    on.create(PvName("pvc-2"))


@pytest.mark.parametrize("steps", range(CREATE_STEPS))
def test_a_create_that_was_killed_at_any_step_is_completed_by_a_retry(on: Fixture, steps: int) -> None:
    on.store.crash_at = steps
    with pytest.raises(Crash):
        on.create()
    on.restart()
    on.create()
    assert on.left() == {pv_path(PV), record_path(PV)}


def test_those_were_all_steps_of_a_create(on: Fixture) -> None:
    on.create()
    assert on.store.calls == CREATE_STEPS


@pytest.mark.parametrize("steps", range(CREATE_STEPS + 1))
def test_a_create_that_was_killed_at_any_step_can_be_deleted(on: Fixture, steps: int) -> None:
    on.store.crash_at = steps
    with suppress(Crash):
        on.create()
    on.restart()
    on.volumes.delete(PV)
    empty(on.store)
    assert on.left() == set()


@given(kills=st.lists(st.integers(min_value=0, max_value=CREATE_STEPS), max_size=6), create_last=st.booleans())
def test_however_often_create_and_delete_are_killed_the_last_call_decides(kills: list[int], create_last: bool) -> None:
    on = Fixture()
    for at, kill in enumerate(kills):
        on.store.crash_at = on.store.calls + kill
        with suppress(Crash):
            on.create() if at % 2 else on.volumes.delete(PV)
        on.restart()
    on.create() if create_last else on.volumes.delete(PV)
    empty(on.store)
    for _ in range(2):  # a create cannot tell what one before it has prepared from a growth, and leaves it
        on.volumes.sweep(on.volumes.left())
    left = {path for path in on.left() if not path.endswith(".changed")}
    assert left == ({pv_path(PV), record_path(PV)} if create_last else set())


def test_deleting_what_never_was_is_done(on: Fixture) -> None:
    on.volumes.delete(PV)
    on.volumes.delete(PV)
    assert on.left() == set()


def test_parents_that_somebody_removed_are_made_again(on: Fixture) -> None:
    on.create()
    on.volumes.delete(PV)
    for path in [path for path in on.store.nodes if path.startswith(("subvol", "info"))]:
        del on.store.nodes[path]
    on.create()


def test_a_volume_that_was_enlarged_can_promise_more(on: Fixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(promises, "TOTAL_S", 0.0)
    on.create(PvName("pvc-0"), GIB)
    with pytest.raises(CapacityError):
        on.create()
    on.store.total_bytes += 64 * MIB
    on.create()


def test_a_size_that_cannot_be_read_is_named_and_nothing_is_promised(on: Fixture) -> None:
    on.create(PvName("pvc-0"))
    on.restart()

    def split(path: str, name: str) -> bytes:
        raise VolumeIOError(ENOTCONN, "Transport endpoint is not connected")

    on.store.getxattr = split  # type: ignore[method-assign]
    with pytest.raises(VolumeIOError, match=r"size of pvc-0 cannot be read: .*gluster volume heal vol info"):
        on.create()


def test_a_minority_of_bricks_that_does_not_know_the_pv_is_not_believed(on: Fixture) -> None:
    def read_only(path: str, name: str, value: bytes, *, create: bool = False) -> None:
        raise VolumeIOError(EROFS, "Read-only file system")

    on.store.setxattr = read_only  # type: ignore[method-assign]
    on.bricks.down = {"h1", "h2"}
    with pytest.raises(BricksDownError):
        on.volumes.delete(PV)


def test_a_staged_record_that_a_crash_left_goes_with_the_pv(on: Fixture) -> None:
    on.create()
    on.restart()
    staged = staged_record_path(PV, SUFFIX)
    on.store.nodes[staged] = on.store.nodes.pop(record_path(PV))
    on.volumes.delete(PV)
    assert staged not in on.store.nodes


def test_a_record_whose_directory_is_gone_is_shown_anew_to_who_waits_for_events(on: Fixture) -> None:
    on.create()
    del on.store.nodes[pv_path(PV)]
    changes: list[str] = []
    setxattr = on.store.setxattr

    def watched(path: str, name: str, value: bytes, *, create: bool = False) -> None:
        changes.append(path)
        setxattr(path, name, value)

    on.store.setxattr = watched  # type: ignore[method-assign]
    on.create()
    assert (pv_path(PV) in on.store.nodes, changes) == (True, [record_path(PV)])


def test_a_brick_that_does_not_enforce_is_named_with_the_remedy(on: Fixture) -> None:
    on.bricks.idle = {"h2"}
    with pytest.raises(NotEnforcedError, match=r"1 of 3 bricks: brick h2:/bricks/b shows 1 GiB .* On h2: `systemctl"):
        on.create()
    on.bricks.idle = set()
    on.create()


def test_a_pv_that_was_deleted_and_made_again_is_not_taken_for_the_one_before(on: Fixture) -> None:
    old = on.volumes.make(pv(PV, 64 * MIB))
    on.volumes.delete(PV)
    on.volumes.make(pv(PV, 64 * MIB))
    with pytest.raises(NotEnforcedError, match="it has no directory"):
        on.volumes.wait_enforced(pv(PV, 64 * MIB), old, deadline=time.monotonic())
    on.create()


def test_bricks_are_asked_until_they_enforce(on: Fixture) -> None:
    gfid = on.volumes.make(pv(PV, 64 * MIB))
    on.bricks.idle = {"h1", "h3"}
    asks = on.bricks.stat_directory

    def ask(path: str, *, gfid: Gfid | None = None) -> list[object]:
        if on.bricks.asked == 3:
            on.bricks.idle = set()
        return list(asks(path, gfid=gfid))

    on.bricks.stat_directory = ask  # type: ignore[assignment,method-assign]
    on.volumes.wait_enforced(pv(PV, 64 * MIB), gfid, deadline=time.monotonic() + 10)
    assert on.bricks.asked == 4


def test_one_brick_of_three_may_be_down_and_two_may_not(on: Fixture) -> None:
    on.bricks.down = {"h1"}
    on.create()
    on.bricks.down = {"h1", "h3"}
    with pytest.raises(
        BricksDownError, match=r"2 of its 3 bricks are down: brick h1:.*brick h3:.*gluster volume status"
    ):
        on.create()


def test_an_arbiter_needs_no_limit() -> None:
    on = Fixture(arbiter=True)
    on.bricks.idle = {"h3"}
    on.create()


def test_bricks_that_are_down_explain_why_nothing_can_be_written(on: Fixture) -> None:
    def read_only(path: str, mode: int) -> None:
        raise VolumeIOError(EROFS, "Read-only file system")

    on.store.mkdir = read_only  # type: ignore[method-assign]
    with pytest.raises(VolumeIOError):
        on.create()
    on.bricks.down = {"h1", "h2"}
    with pytest.raises(BricksDownError, match="h1"):
        on.create()


def test_a_pv_that_grows_is_enforced_in_its_new_size_and_leaves_one_entry_that_tells(on: Fixture) -> None:
    on.create()
    for size in (128 * MIB, 256 * MIB, 200 * MIB):
        record, gfid = on.volumes.grow(PV, size)
        on.volumes.wait_enforced(record, gfid, deadline=time.monotonic())
    assert recorded_size(on.store, PV) == 256 * MIB
    assert len(on.left()) == 3
    on.volumes.delete(PV)
    empty(on.store)
    assert on.left() == set()


def test_what_does_not_exist_does_not_grow_and_nothing_grows_beyond_what_there_is(on: Fixture) -> None:
    with pytest.raises(NotFoundError, match="no PV pvc-1"):
        on.volumes.grow(PV, GIB)
    on.create(PvName("pvc-0"), 512 * MIB)
    on.create()
    with pytest.raises(CapacityError, match="at most 512 MiB"):
        on.volumes.grow(PV, 513 * MIB)
    assert recorded_size(on.store, PV) == 64 * MIB
    on.volumes.grow(PV, 512 * MIB)


@pytest.mark.parametrize("steps", range(12))
@pytest.mark.parametrize("then", ["again", "delete"])
def test_a_growth_that_was_killed_at_any_step_is_completed_or_deleted(on: Fixture, steps: int, then: str) -> None:
    on.create()
    on.store.crash_at = on.store.calls + steps
    with suppress(Crash):
        on.volumes.grow(PV, 128 * MIB)
    on.restart()
    if then == "again":
        on.volumes.grow(PV, 128 * MIB)
        assert recorded_size(on.store, PV) == 128 * MIB
        assert not on.volumes.left()
    on.volumes.delete(PV)
    empty(on.store)
    assert on.left() == set()


class Two:
    """Two controllers on one volume, as during a hand-over."""

    def __init__(self) -> None:
        self.on = Fixture()
        first = self.on.volumes
        self.on.restart()
        self.controllers = (first, self.on.volumes)

    def promised(self) -> int:
        names = [path.rpartition("/")[2] for path in self.on.store.nodes if path.startswith("info/quota/")]
        return sum(recorded_size(self.on.store, PvName(name)) or 0 for name in names if not name.startswith("."))


@given(
    calls=st.lists(
        st.tuples(
            st.sampled_from(["make", "grow", "delete"]), st.integers(0, 1), st.integers(0, 5), st.integers(1, 16)
        ),
        max_size=25,
    )
)
def test_two_controllers_in_turn_know_what_the_other_has_promised(calls: list[tuple[str, int, int, int]]) -> None:
    two = Two()
    for number, (what, which, name, sixteenths) in enumerate(calls):
        volumes, pv_name, size = two.controllers[which], PvName(f"pvc-{name}"), sixteenths * GIB // 16
        with suppress(CapacityError, ConflictError, NotFoundError):
            if what == "make":
                volumes.make(pv(f"{pv_name}", size))
            elif what == "grow":
                volumes.grow(pv_name, size)
            else:
                volumes.delete(pv_name)
        promised = two.promised()
        assert promised <= GIB, number
        assert {each.promised().size_bytes for each in two.controllers} == {promised}


def test_sixty_four_calls_at_once_on_two_controllers_never_promise_more_than_there_is() -> None:
    two = Two()
    for name in range(8):
        two.controllers[0].make(pv(f"old-{name}", 16 * MIB))

    def call(number: int) -> bool:
        volumes = two.controllers[number % 2]
        try:
            if number < 7:
                volumes.grow(PvName(f"old-{number}"), 64 * MIB)
            elif number % 3 == 0:
                volumes.make(replace(pv(f"pvc-{number}", 64 * MIB), source=PvName("old-7"), filling=True))
            else:
                volumes.make(pv(f"pvc-{number}", 64 * MIB))
        except CapacityError:
            return False
        return True

    with ThreadPoolExecutor(64) as pool:
        done = sum(pool.map(call, range(64)))
    assert 0 < done < 64
    assert two.promised() <= GIB


def test_what_another_controller_prepares_is_counted(on: Fixture) -> None:
    on.create(PvName("pvc-0"), 512 * MIB)
    other = Records(on.store, Directories(on.store))
    other.stage(pv("pvc-9", 500 * MIB), SUFFIX)
    with pytest.raises(CapacityError, match="at most 12 MiB"):
        on.create()
    other.publish(PvName("pvc-9"), SUFFIX)
    with pytest.raises(CapacityError, match="at most 12 MiB"):
        on.create()


def test_two_claims_that_come_to_one_directory_do_not_share_it(on: Fixture) -> None:
    first, second = (replace(pv("shop-db", MIB), made_for=PvName(name)) for name in ("pvc-1", "pvc-2"))
    on.volumes.make(first)
    on.volumes.make(first)
    with pytest.raises(ConflictError, match="that of pvc-1; pvc-2 cannot have it"):
        on.volumes.make(second)
    on.volumes.delete(PvName("shop-db"))
    on.volumes.make(second)


def archived(on: Fixture) -> list[str]:
    return [path for path in on.store.nodes if path.startswith("archived/")]


@pytest.mark.parametrize("steps", range(14))
def test_an_archiving_that_was_killed_at_any_step_is_completed_and_goes_on_counting(on: Fixture, steps: int) -> None:
    on.create(PV, 512 * MIB)
    on.store.write(f"{pv_path(PV)}/data")
    on.volumes.grow(PV, 600 * MIB)
    on.store.crash_at = on.store.calls + steps
    with suppress(Crash):
        on.volumes.archive(PV)
    on.restart()
    on.volumes.archive(PV)
    (directory, data) = archived(on)
    assert data == f"{directory}/data"
    assert [path for path in on.left() if not path.startswith("archived")] == [
        f"info/quota/.{directory.removeprefix('archived/')}.archived"
    ]
    assert on.volumes.promised().size_bytes == 600 * MIB
    with pytest.raises(CapacityError):
        on.create(PV, 512 * MIB)


def test_what_people_remove_from_the_archive_counts_no_longer(on: Fixture) -> None:
    for _ in range(2):
        on.create(PV, 512 * MIB)
        on.volumes.archive(PV)
    on.volumes.archive(PV)
    first, second = archived(on)
    assert on.volumes.promised().size_bytes == GIB
    on.store.remove_tree(first)
    on.create(PV, 512 * MIB)
    on.volumes.archive(PV)
    on.store.remove_tree(second)
    assert on.volumes.promised().size_bytes == 512 * MIB


def test_what_cannot_be_forgotten_hides_no_other_and_no_lack_of_room(on: Fixture) -> None:
    for name in (PV, PvName("pvc-2")):
        on.create(name, 512 * MIB)
        on.volumes.archive(name)
    first, second = archived(on)
    stuck = f"info/quota/.{first.removeprefix('archived/')}.archived"
    on.store.write(f"{stuck}/somebody-s")
    on.store.remove_tree(first)
    with pytest.raises(CapacityError):
        on.create()
    assert on.volumes.promised().size_bytes == GIB
    assert list(on.volumes.sweep(())) == [stuck]
    on.store.remove_tree(second)
    on.create(size_bytes=512 * MIB)
    assert on.volumes.promised().size_bytes == GIB


class Meanwhile(Records):
    """A listing, after which something happens that it does not show."""

    def __init__(self, store: MemoryStore, then: Callable[[], object]) -> None:
        super().__init__(store, Directories(store))
        self._then = then

    def names(self) -> RecordNames:
        found = super().names()
        self._then()
        return found


def test_what_another_controller_has_enlarged_counts_though_we_did_so_too_since_it_was_listed(on: Fixture) -> None:
    on.create()
    records, ours = Records(on.store, Directories(on.store)), Promises(volume="vol")
    records.stage(pv(PV, 512 * MIB), SUFFIX)
    records.promise(PV, SUFFIX)
    listed = Meanwhile(on.store, lambda: ours.learn(pv(PV, 128 * MIB), changes=frozenset({"1" * 16})))
    assert ours.promised(listed, usable_bytes=lambda: GIB).size_bytes == 512 * MIB


def test_of_three_that_see_each_other_two_by_two_one_is_refused(on: Fixture) -> None:
    """p is listed, and another controller promises r; q, of p's controller, sees r and not p; p must see both."""
    other, ours = Promises(volume="vol"), Promises(volume="vol")
    records = Records(on.store, Directories(on.store))
    made: list[str] = []

    def promise(promises: Promises, name: str, through: Records) -> None:
        record = pv(name, 400 * MIB)
        room = promises.reserve(through, record, overcommit=1, usable_bytes=lambda: GIB)
        with suppress(CapacityError), room as reservation:
            on.volumes._directories.make(record.path, 0o755)
            records.publish(record.name, reservation.suffix)
            promises.learn(record, changes=frozenset())
            made.append(name)

    late = threading.Thread(target=promise, args=(ours, "q", records))

    def then() -> None:
        promise(other, "r", records)
        late.start()
        late.join(0.3)  # in one process decisions follow one another: this one waits

    promise(ours, "p", Meanwhile(on.store, then))
    late.join()
    assert len(made) == 2


def test_who_waits_together_shares_a_listing_and_what_failed_since_then_counts(
    on: Fixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(promises, "TOTAL_S", 0)
    ours, listings, failed = Promises(volume="vol"), list[int](), threading.Event()
    records, turns = Meanwhile(on.store, lambda: listings.append(1)), itertools.count()

    def usable() -> int:
        assert next(turns) == 0 or failed.wait(30)
        return GIB

    def promise(name: str) -> bool:
        record = pv(name, 600 * MIB)
        room = ours.reserve(records, record, overcommit=1, usable_bytes=usable)
        with suppress(VolumeIOError), room as reservation:
            records.publish(record.name, reservation.suffix)
            raise VolumeIOError(ENOTCONN, "nobody knows whether it was done")
        failed.set()
        return True

    with ThreadPoolExecutor(2) as pool:
        with ours._deciding:
            calls = [pool.submit(promise, name) for name in ("one", "two")]
            wait_until("both to wait for a listing", lambda: ours._asked == 2, seconds=30)
        refused = [call.exception() for call in calls if call.exception()]
    assert [type(error) for error in refused] == [CapacityError]
    assert len(listings) == 1
