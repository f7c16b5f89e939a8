"""Whole volumes as PVs, on three replica volumes of different sizes: what the unit tests say, said by real bricks."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from kadalu_ext.claim import ClaimState
from kadalu_ext.csi.connection import GlusterConnector
from kadalu_ext.csi.gids import Gids
from kadalu_ext.csi.pools import PoolClient
from kadalu_ext.csi.wholevolume import Look, Stores, WholeVolume
from kadalu_ext.csi.wholevolumes import Wanted
from kadalu_ext.errors import CapacityError, ConflictError, InProgressError, UnavailableError
from kadalu_ext.gluster.gfapi import Volume
from kadalu_ext.log import Logger
from kadalu_ext.record import PvName, QuotaRecord
from kadalu_ext.storage import PoolVolume, Storage, StorageName
from kadalu_ext.units import GIB, MIB
from tests.testbed.brickhosts import BrickHosts
from tests.testbed.progress import wait_until

HOSTS = ("brick1", "brick2", "brick3")
SIZES = {"vol_large": 3 * GIB, "vol_small": GIB, "vol_middle": 2 * GIB}
STORAGE = Storage(
    name=StorageName("heketi"),
    hosts=(),
    volume="",
    pool=tuple(PoolVolume(volume=volume, hosts=HOSTS) for volume in SIZES),
)
LONG_S = 300.0
"""More than four times what a pool waits before it goes on with emptying a volume whose bricks were slow to tell."""


@pytest.fixture(scope="module")
def volumes(brick_hosts: BrickHosts) -> Iterator[BrickHosts]:
    """Bricks are sized by a quota of the whole brick, as heketi's are by logical volumes."""
    for number, (volume, size) in enumerate(SIZES.items(), 900):
        for host in brick_hosts.hosts:
            host.run(["mkdir", f"/bricks/{volume}"])
            for command in (f"project -s -p /bricks/{volume} {number}", f"limit -p bhard={size // MIB}m {number}"):
                host.run(["xfs_quota", "-x", "-c", command, "/bricks"])
        brick_hosts.create_volume(volume, "replica 3")
    yield brick_hosts
    for number, volume in enumerate(SIZES, 900):
        brick_hosts.delete_volume(volume)
        for host in brick_hosts.hosts:
            host.run(["xfs_quota", "-x", "-c", f"limit -p bhard=0 {number}", "/bricks"])


def client() -> PoolClient:
    """While all volumes are free. They have told it so: one that is slow to tell is passed over."""
    made = PoolClient(STORAGE, connector=GlusterConnector(), log=Logger("test"))
    made.start()
    wait_until("all volumes to tell", lambda: all_told(made), seconds=LONG_S)
    return made


@pytest.fixture
def pool(volumes: BrickHosts) -> Iterator[PoolClient]:
    """All volumes are free when a test begins."""
    made = client()
    try:
        yield made
        for look in looks().values():
            if look.claim.pv is not None:
                delete(made, look.claim.pv)
        wait_until("all volumes to be free", all_free, seconds=LONG_S)
    finally:
        made.close()


def all_told(pool: PoolClient) -> bool:
    try:
        return len(pool.free(timeout_s=LONG_S)) == len(SIZES)
    except UnavailableError:
        return False


def looks() -> dict[str, Look]:
    """What holds on each volume, once all of them tell."""
    stores, deadline = Stores(GlusterConnector()), time.monotonic() + LONG_S
    members = [each for volume in SIZES if (each := STORAGE.of_volume(volume)) is not None]
    try:
        while True:
            try:
                return {
                    each.volume: WholeVolume(each, connector=GlusterConnector(), stores=stores).look()
                    for each in members
                }
            except UnavailableError:
                if time.monotonic() >= deadline:
                    raise
    finally:
        stores.close()


def all_free() -> bool:
    return all(look.claim.state is ClaimState.FREE for look in looks().values())


def create(pool: PoolClient, name: str, required: int = 1, limit: int = 0) -> str:
    """As csi-provisioner asks: again, as long as nobody knows (bricks of a busy machine are slow)."""
    return ask(pool, Wanted(name=PvName(name), required_bytes=required, limit_bytes=limit))[0].volume


def ask(pool: PoolClient, wanted: Wanted) -> tuple[Storage, QuotaRecord]:
    deadline = time.monotonic() + LONG_S
    while True:
        try:
            return pool.create(wanted, timeout_s=LONG_S)
        except (UnavailableError, InProgressError):
            if time.monotonic() >= deadline:
                raise


def delete(pool: PoolClient, name: str) -> None:
    deadline = time.monotonic() + LONG_S
    while True:
        try:
            return pool.delete(PvName(name), timeout_s=LONG_S)
        except (UnavailableError, InProgressError):
            if time.monotonic() >= deadline:
                raise


def test_the_best_fitting_volume_is_taken_and_the_answer_is_its_size_and_group(
    pool: PoolClient, volumes: BrickHosts
) -> None:
    wanted = Wanted(name=PvName("pvc-0"), required_bytes=GIB + 1, gids=Gids(least=4711, most=4711))
    for _ in range(2):
        storage, found = ask(pool, wanted)
        assert (storage.volume, storage.whole, found.size_bytes, found.gid) == ("vol_middle", "pvc-0", 2 * GIB, 4711)
    root = volumes.host("brick1").run(["stat", "-c", "%u %g %a", "/bricks/vol_middle"]).stdout
    assert root.split() == ["0", "4711", "2775"]
    assert [create(pool, f"pvc-{n}", GIB) for n in (1, 2)] == ["vol_small", "vol_large"]
    with pytest.raises(CapacityError, match="vol_small: heketi/pvc-1 is on it"):
        create(pool, "pvc-3")
    with pytest.raises(ConflictError, match="exists as the volume vol_small with 1 GiB"):
        create(pool, "pvc-1", 2 * GIB)


def test_a_volume_with_somebodys_files_is_not_taken(pool: PoolClient) -> None:
    with Volume.open("vol_small", HOSTS, timeout_s=LONG_S) as volume:
        volume.mkdir("letters", 0o755)
        assert create(pool, "pvc-0") == "vol_middle"
        with pytest.raises(CapacityError, match="vol_small: free, and not empty: it holds 'letters'"):
            create(pool, "pvc-1", GIB, limit=GIB)
        volume.rmdir("letters")
    assert create(pool, "pvc-1") == "vol_small"


def test_64_calls_of_two_controllers_grant_each_volume_once(pool: PoolClient) -> None:
    other = client()

    def ask(n: int) -> str | None:
        try:
            return create((pool, other)[n % 2], f"pvc-{n // 2}")
        except CapacityError:
            return None

    with ThreadPoolExecutor(64) as executor:
        granted = list(executor.map(ask, range(64)))
    other.close()
    by_pv = {f"pvc-{n // 2}": volume for n, volume in enumerate(granted) if volume is not None}
    assert sorted(by_pv.values()) == sorted(SIZES)
    assert {volume: look.claim.pv for volume, look in looks().items()} == {v: k for k, v in by_pv.items()}


def test_what_was_written_is_gone_before_the_volume_is_anybodys_again(pool: PoolClient) -> None:
    assert create(pool, "pvc-0") == "vol_small"
    with Volume.open("vol_small", HOSTS, timeout_s=LONG_S) as volume:
        for n in range(20):
            volume.mkdir(f"directory-{n}", 0o755)
            volume.mkdir(f"directory-{n}/deeper", 0o755)
        delete(pool, "pvc-0")
        wait_until("the volume to be free", lambda: looks()["vol_small"].claim.state is ClaimState.FREE, seconds=LONG_S)
        assert set(volume.listdir("")) <= {".trashcan", "lost+found"}
    assert create(pool, "pvc-1") == "vol_small"


def test_a_brick_host_that_is_down_keeps_nobody_from_a_volume_and_agrees_when_it_is_back(
    volumes: BrickHosts, pool: PoolClient
) -> None:
    third = volumes.host("brick3")
    third.cut()
    try:
        assert create(pool, "pvc-0") == "vol_small"
    finally:
        third.uncut()
        volumes.wait_joined()
    assert create(pool, "pvc-0") == "vol_small"
    delete(pool, "pvc-0")
    wait_until("the volume to be free", all_free, seconds=LONG_S)


def test_hands_that_change_for_a_while_never_leave_a_volume_with_two(pool: PoolClient) -> None:
    """PVs come and go at two controllers; after each creation the volume is its PV's, and stays so until it goes."""
    other, wrong = client(), list[str]()

    def live(n: int) -> None:
        for _ in range(4):
            mine = (pool, other)[n % 2]
            try:
                volume = create(mine, f"pvc-{n}")
            except CapacityError:
                continue
            if looks()[volume].claim.pv != f"pvc-{n}":
                wrong.append(f"{volume} is not pvc-{n}'s")
            delete((other, pool)[n % 2], f"pvc-{n}")

    threads = [threading.Thread(target=live, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    other.close()
    assert wrong == []
