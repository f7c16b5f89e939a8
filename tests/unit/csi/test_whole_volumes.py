"""One volume, one PV: whoever races, whenever somebody dies."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from kadalu_ext.claim import Claim, ClaimState
from kadalu_ext.csi import wholevolume
from kadalu_ext.csi.directories import GROUP_MODE, PV_MODE
from kadalu_ext.csi.gids import Gids
from kadalu_ext.csi.wholevolume import Stores, WholeVolume
from kadalu_ext.csi.wholevolumes import Found, Seen, Wanted, WholeVolumes
from kadalu_ext.errors import (
    CapacityError,
    ConflictError,
    HostSilentError,
    KadaluExtError,
    NotFoundError,
    UnavailableError,
)
from kadalu_ext.record import PvName
from kadalu_ext.units import GIB
from tests.unit.csi.memory import Crash, MemoryPool

PV, OTHER = PvName("pvc-1"), PvName("pvc-2")


class Controller:
    """One process that looks at a pool."""

    def __init__(self, pool: MemoryPool) -> None:
        self.stores = Stores(pool, most=2)
        members = [pool.storage.of_volume(each.volume) for each in pool.storage.pool]
        self.members = [WholeVolume(each, connector=pool, stores=self.stores) for each in members if each]
        self.volumes = WholeVolumes(pool.storage.name, self.look)

    def look(self) -> Found:
        seen: list[Seen] = []
        silent: dict[str, KadaluExtError] = {}
        for member in self.members:
            try:
                seen.append(Seen(volume=member, look=member.look()))
            except KadaluExtError as error:
                silent[member.volume] = error
        return seen, silent

    def create(self, name: PvName = PV, required: int = GIB, limit: int = 0, gids: Gids | None = None) -> str:
        wanted = Wanted(name=name, required_bytes=required, limit_bytes=limit, gids=gids)
        return self.volumes.create(wanted, deadline=time.monotonic() + 60).volume.volume

    def delete(self, name: PvName = PV) -> bool:
        return self.volumes.delete(name, deadline=time.monotonic() + 60)

    def empty(self) -> dict[str, KadaluExtError]:
        return self.volumes.empty(turn_s=60)


@pytest.fixture
def pool() -> MemoryPool:
    return MemoryPool(large=4 * GIB, small=GIB, middle=2 * GIB)


@pytest.fixture
def one(pool: MemoryPool) -> Controller:
    return Controller(pool)


def owners(pool: MemoryPool) -> dict[str, str]:
    """The PVs that have volumes."""
    claims = {volume: pool.claim(volume) for volume in pool.volumes}
    return {volume: str(claim.pv) for volume, claim in claims.items() if claim.state is ClaimState.TAKEN}


def test_the_smallest_that_is_large_enough_is_taken(one: Controller) -> None:
    assert one.create(required=GIB + 1) == "middle"
    assert one.create(OTHER, required=GIB) == "small"
    assert one.create(PvName("pvc-3"), required=1) == "large"


def test_a_call_made_again_finds_the_same_volume_and_another_size_is_a_conflict(one: Controller) -> None:
    assert {one.create(required=GIB + 1) for _ in range(3)} == {"middle"}
    assert one.create(required=1) == "middle"
    with pytest.raises(ConflictError, match="exists as the volume middle with 2 GiB"):
        one.create(required=3 * GIB)


def test_the_limit_is_respected_and_the_message_says_what_each_volume_is(one: Controller) -> None:
    one.create(OTHER, required=1)
    with pytest.raises(CapacityError, match=r"small: ext/pvc-2 is on it; middle: free, and has 2 GiB .*; large"):
        one.create(required=1, limit=GIB)


def test_each_pv_has_a_group_of_its_own_as_long_as_there_are_some(pool: MemoryPool, one: Controller) -> None:
    gids = Gids(least=2000, most=2001)
    volumes = [one.create(name, gids=gids) for name in (PV, OTHER)]
    assert {pool.claim(volume).gid for volume in volumes} == {2000, 2001}
    assert one.create(PV, gids=gids) == volumes[0]
    with pytest.raises(CapacityError, match="pvc-3: storage ext has PVs with all 2 groups from 2000 to 2001"):
        one.create(PvName("pvc-3"), gids=gids)
    with pytest.raises(ConflictError, match=r"pvc-1: exists with group 200., and was asked for with none"):
        one.create(PV)
    freed = pool.claim(volumes[0]).gid
    one.delete(PV)
    one.empty()
    assert pool.claim(one.create(PvName("pvc-3"), gids=gids)).gid == freed


def test_two_controllers_at_once_give_no_group_twice(pool: MemoryPool, one: Controller) -> None:
    gids, names = Gids(least=2000, most=2002), [PvName(f"pvc-{number}") for number in range(3)]
    calls = zip((one, Controller(pool), one), names, strict=True)
    with ThreadPoolExecutor(3) as threads:
        made = list(threads.map(lambda call: call[0].create(call[1], required=1, gids=gids), calls))
    assert {pool.claim(volume).gid for volume in made} == {2000, 2001, 2002}


def test_a_volume_that_holds_anything_is_not_taken_and_not_touched(pool: MemoryPool, one: Controller) -> None:
    for name in (".trashcan", "lost+found"):
        pool.volumes["small"].mkdir(name, 0o755)
    for store in (pool.volumes["middle"], pool.volumes["large"]):
        store.write("letters")
    assert one.create() == "small"
    with pytest.raises(CapacityError, match="middle: free, and not empty: it holds 'letters'"):
        one.create(OTHER)
    assert not pool.volumes["middle"].nodes[""].xattrs


def test_a_root_that_holds_more_than_can_be_listed_is_not_taken_and_is_emptied_in_rounds(
    pool: MemoryPool, one: Controller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wholevolume, "_ROUND", 5)
    store = pool.volumes[one.create()]
    store.listed = 5
    store.mkdir("lost+found", 0o755)
    for number in range(20):
        store.write(f"{number}")
    one.delete()
    assert one.empty() == {} and set(store.nodes) == {"", "lost+found"}
    for number in range(20):
        store.write(f"{number}")
    with pytest.raises(CapacityError, match=r"small: free, and not empty: it holds .* and more"):
        one.create(required=GIB, limit=GIB)


def test_the_root_gets_the_mode_of_a_pv_and_its_group_and_loses_words_of_the_one_before(
    pool: MemoryPool, one: Controller
) -> None:
    root = pool.volumes["small"].nodes[""]
    root.xattrs["user.secret"] = b"x"
    one.create()
    assert (root.mode, root.gid, "user.secret" in root.xattrs) == (PV_MODE, 0, False)
    one.create(OTHER, gids=Gids(least=4711, most=4711))
    other = pool.volumes["middle"].nodes[""]
    assert (other.mode, other.gid, pool.claim("middle").gid) == (GROUP_MODE, 4711, 4711)


def test_what_is_deleted_is_nobodys_before_it_is_empty(pool: MemoryPool, one: Controller) -> None:
    volume = one.create()
    pool.volumes[volume].write("letters")
    assert one.delete() and pool.claim(volume).state is ClaimState.EMPTYING
    assert one.create(OTHER) == "middle"
    assert one.empty() == {} and pool.claim(volume).state is ClaimState.FREE
    assert list(pool.volumes[volume].nodes) == [""]
    assert one.create() == "small"


def test_deleting_twice_or_what_never_was_is_the_same(pool: MemoryPool, one: Controller) -> None:
    assert one.delete() is False
    one.create()
    assert (one.delete(), one.delete(), one.empty(), one.delete()) == (True, False, {}, False)


def test_only_the_claim_that_holds_stays_on_the_root(pool: MemoryPool, one: Controller) -> None:
    for _ in range(5):
        volume = one.create()
        one.delete()
        one.empty()
    assert len(pool.volumes[volume].nodes[""].xattrs) == 1 and pool.claim(volume).number == 20


def test_killed_before_any_step_a_creation_made_again_ends_on_one_volume() -> None:
    for at in range(100):
        pool = MemoryPool(small=GIB, other=GIB)
        pool.set_crash(at)
        try:
            Controller(pool).create()
        except Crash:
            pool.set_crash(None)
            volume = Controller(pool).create()
            assert owners(pool) == {volume: PV}
            assert pool.volumes[volume].nodes[""].mode == PV_MODE
        else:
            assert at > 5
            return
    raise AssertionError("it never came to its end")


def test_killed_before_any_step_a_deletion_and_emptying_made_again_leave_all_free_and_empty() -> None:
    for at in range(100):
        pool = MemoryPool(small=GIB, other=GIB)
        one = Controller(pool)
        store = pool.volumes[one.create()]
        for name in ("a", "b"):
            store.write(name)
        pool.set_crash(at)
        try:
            one.delete()
            one.empty()
            done = True
        except Crash:
            done = False
        pool.set_crash(None)
        again = Controller(pool)
        again.delete()
        assert again.empty() == {}
        assert owners(pool) == {} and list(store.nodes) == [""]
        assert again.create() == again.create()
        if done:
            assert at > 5
            return
    raise AssertionError("it never came to its end")


def test_two_controllers_and_64_calls_for_three_volumes_grant_each_once(pool: MemoryPool) -> None:
    controllers = Controller(pool), Controller(pool)

    def create(n: int) -> str | None:
        try:
            return controllers[n % 2].create(PvName(f"pvc-{n // 2}"), required=1)
        except CapacityError:
            return None

    with ThreadPoolExecutor(64) as executor:
        granted = list(executor.map(create, range(64)))
    by_pv = {f"pvc-{n // 2}": volume for n, volume in enumerate(granted) if volume is not None}
    assert sorted(by_pv.values()) == ["large", "middle", "small"]
    assert owners(pool) == {volume: name for name, volume in by_pv.items()}


def test_two_that_take_two_volumes_for_one_pv_at_the_same_time_agree_on_one(pool: MemoryPool, one: Controller) -> None:
    for volume in ("small", "large"):
        member = next(each for each in one.members if each.volume == volume)
        claim = member.look().claim
        assert member.advance(claim, claim.next(ClaimState.TAKING, PV, pool.storage.name))
    assert one.create() == Controller(pool).create()
    assert len(owners(pool)) == 1


def test_of_two_that_follow_one_claim_one_is_told_that_it_lost(pool: MemoryPool, one: Controller) -> None:
    member = one.members[0]
    free = member.look().claim
    assert member.advance(free, free.next(ClaimState.TAKING, PV, pool.storage.name))
    assert not member.advance(free, free.next(ClaimState.TAKING, OTHER, pool.storage.name))
    assert member.look().claim.pv == PV


def test_one_that_was_held_up_while_the_volume_changed_hands_changes_nothing(pool: MemoryPool, one: Controller) -> None:
    one.create(required=3 * GIB)
    stale = one.members[0].look().claim
    one.delete()
    one.empty()
    one.create(OTHER, required=3 * GIB)
    late = stale.next(ClaimState.EMPTYING, PV, pool.storage.name)
    assert not one.members[0].advance(stale, late)
    assert owners(pool) == {"large": OTHER} and len(pool.volumes["large"].nodes[""].xattrs) == 1


def test_a_controller_held_up_while_emptying_cannot_move_the_next_ones_files(pool: MemoryPool, one: Controller) -> None:
    volume = one.create()
    store = pool.volumes[volume]
    store.write("old")
    one.delete()
    late, listed, go_on = Controller(pool), threading.Event(), threading.Event()
    rename = store.rename

    def held_up(old: str, new: str) -> None:
        if threading.current_thread().name == "late":
            listed.set()
            assert go_on.wait(60)
        rename(old, new)

    store.rename = held_up  # type: ignore[method-assign]
    thread = threading.Thread(target=late.empty, name="late")
    thread.start()
    assert listed.wait(60)
    assert one.empty() == {} and one.create(OTHER) == volume
    store.write("old")
    go_on.set()
    thread.join(60)
    assert set(store.nodes) == {"", "old"} and owners(pool) == {volume: OTHER}
    assert store.nodes[""].mode == PV_MODE


def test_one_that_does_not_tell_keeps_no_other_from_being_taken(pool: MemoryPool, one: Controller) -> None:
    pool.errors["small"] = HostSilentError("h1: silent")
    assert one.create() == "middle"
    one.create(OTHER, required=3 * GIB)
    with pytest.raises(UnavailableError, match="small: h1: silent"):
        one.create(PvName("pvc-3"))


def test_what_may_be_on_one_that_does_not_tell_is_not_called_deleted(pool: MemoryPool, one: Controller) -> None:
    pool.errors["small"] = HostSilentError("h1: silent")
    with pytest.raises(UnavailableError, match="may be this PV: small"):
        one.delete()
    pool.errors["small"] = NotFoundError("volume small: does not exist")
    assert one.delete() is False


def test_a_volume_whose_bricks_are_down_is_not_taken(pool: MemoryPool, one: Controller) -> None:
    pool.bricks["small"].down = {"h1", "h2"}
    assert one.create() == "middle"


def test_a_claim_that_cannot_be_read_is_left_alone(pool: MemoryPool, one: Controller) -> None:
    pool.volumes["small"].nodes[""].xattrs[Claim(number=1).xattr] = b"?"
    assert one.create() == "middle"


def test_a_pv_is_found_where_it_is(pool: MemoryPool, one: Controller) -> None:
    volume = one.create()
    found = one.volumes.find(PV)
    assert found is not None and found.volume.volume == volume
    assert one.volumes.find(OTHER) is None


def test_who_is_late_opens_nothing_any_more_once_all_is_closed(pool: MemoryPool, one: Controller) -> None:
    one.create()
    one.stores.close()
    with pytest.raises(UnavailableError, match="closed"):
        one.members[0].look()
    with pytest.raises(UnavailableError, match="closed"):
        one.members[0].strangers()
