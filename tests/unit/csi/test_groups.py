"""Groups of PVs: what a StorageClass may ask for, and that each PV has one of its own, whoever races."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kadalu_ext.csi.directories import GROUP_MODE, PV_MODE, Directories
from kadalu_ext.csi.gids import MOST, Gids, parse
from kadalu_ext.csi.ports import CopyProgress
from kadalu_ext.csi.promises import Promises
from kadalu_ext.csi.records import Records
from kadalu_ext.csi.volumes import Bricks, Volumes
from kadalu_ext.errors import CapacityError, ConflictError, InvalidInputError
from kadalu_ext.layout import GIDS_DIR, pv_path
from kadalu_ext.record import PvName
from kadalu_ext.units import MIB
from tests.unit.csi.memory import MemoryBricks, MemoryStore, pv, replica
from tests.unit.csi.test_housekeeping import Paused

TWO = Gids(least=2000, most=2001)


class Site:
    """Two controllers on one volume."""

    def __init__(self, store: MemoryStore | None = None) -> None:
        self.store = store or MemoryStore()
        self.records = Records(self.store, Directories(self.store))
        self.controllers = [self._controller() for _ in range(2)]
        self.volumes = self.controllers[0]

    def _controller(self) -> Volumes:
        bricks = Bricks(geometry=replica(), probe=MemoryBricks(self.store))
        return Volumes(volume="vol", store=self.store, bricks=bricks, promises=Promises(volume="vol"))

    def gid(self, name: str) -> int | None:
        """What the PV's record and its directory say, which is the same."""
        record, node = self.records.read(PvName(name)), self.store.nodes[pv_path(PvName(name))]
        assert record is not None
        assert (node.gid, node.mode) == ((0, PV_MODE) if record.gid is None else (record.gid, GROUP_MODE))
        return record.gid

    def entries(self) -> set[str]:
        return {path.removeprefix(f"{GIDS_DIR}/") for path in self.store.nodes if path.startswith(f"{GIDS_DIR}/")}


@pytest.fixture
def site() -> Site:
    return Site()


@pytest.mark.parametrize(
    ("given_", "expected"),
    [
        ({}, None),
        ({"gidMin": "3000"}, Gids(least=3000, most=MOST)),
        ({"gidMax": "3000"}, Gids(least=2000, most=3000)),
        ({"gidMin": "2000", "gidMax": "2000", "storage": "x"}, Gids(least=2000, most=2000)),
    ],
)
def test_a_class_names_a_range_or_none(given_: dict[str, str], expected: Gids | None) -> None:
    assert parse(given_) == expected


@pytest.mark.parametrize(
    ("given_", "says"),
    [
        ({"gidMin": "1999"}, r"parameters\.gidMin: '1999' is not a whole number from 2000 to 2147483647"),
        ({"gidMax": "2147483648"}, r"parameters\.gidMax: '2147483648' is not"),
        ({"gidMin": ""}, r"parameters\.gidMin: '' is not"),
        ({"gidMin": "٣٠٠٠"}, r"parameters\.gidMin: .* is not"),
        ({"gidMin": "3001", "gidMax": "3000"}, r"parameters\.gidMin: 3001 is more than gidMax, 3000"),
    ],
)
def test_what_is_no_range_is_refused(given_: dict[str, str], says: str) -> None:
    with pytest.raises(InvalidInputError, match=says):
        parse(given_)


@given(st.integers(2000, 2100), st.integers(0, 50), st.text("abc-", min_size=1))
def test_every_group_of_a_range_is_wanted_once(least: int, more: int, name: str) -> None:
    gids = Gids(least=least, most=least + more)
    assert sorted(gids.candidates(PvName(name))) == list(range(least, least + more + 1))


def test_each_pv_has_a_group_of_its_own_and_keeps_it(site: Site) -> None:
    for _ in range(2):
        for name in ("pvc-1", "pvc-2"):
            site.volumes.make(pv(name, MIB), gids=TWO)
    assert {site.gid("pvc-1"), site.gid("pvc-2")} == {2000, 2001}
    assert len(site.entries()) == 2
    site.volumes.make(pv("pvc-3", MIB))
    assert site.gid("pvc-3") is None


def test_when_all_are_taken_nothing_is_promised_and_a_deletion_helps(site: Site) -> None:
    for name in ("pvc-1", "pvc-2"):
        site.volumes.make(pv(name, MIB), gids=TWO)
    with pytest.raises(CapacityError, match="pvc-3: volume vol has PVs with all 2 groups from 2000 to 2001"):
        site.volumes.make(pv("pvc-3", MIB), gids=TWO)
    assert site.volumes.promised().size_bytes == 2 * MIB
    free = site.gid("pvc-2")
    site.controllers[1].delete(PvName("pvc-2"))
    site.volumes.make(pv("pvc-3", MIB), gids=TWO)
    assert site.gid("pvc-3") == free


def test_what_another_controller_has_left_is_given_out_when_groups_are_scarce(site: Site) -> None:
    site.store.mkdir("info", 0o755)
    site.store.mkdir(GIDS_DIR, 0o755)
    for entry in ("2000.pvc-8", "2001.pvc-9", "2001", "x.pvc-9"):
        site.store.mkdir(f"{GIDS_DIR}/{entry}", 0o700)
    for name in ("pvc-1", "pvc-2"):
        site.volumes.make(pv(name, MIB), gids=TWO)
    assert {site.gid("pvc-1"), site.gid("pvc-2")} == {2000, 2001}


@pytest.mark.parametrize("steps", range(24))
def test_a_group_is_not_given_twice_if_the_one_that_had_left_it_comes_back(steps: int) -> None:
    store = Paused()
    site = Site(store)
    for path in ("info", GIDS_DIR, f"{GIDS_DIR}/2000.pvc-9"):
        store.mkdir(path, 0o755)
    one = Gids(least=2000, most=2000)

    def then() -> None:
        with suppress(CapacityError):
            site.controllers[1].make(pv("pvc-9", MIB), gids=one)

    store.at, store.then = store.calls + steps, then
    with suppress(CapacityError):
        site.volumes.make(pv("pvc-1", MIB), gids=one)
    assert len(site.records.names().whole) <= 1


def test_a_pv_that_another_controller_is_making_has_its_group(site: Site) -> None:
    site.records.stage(pv("pvc-9", MIB), "0" * 16)
    site.store.mkdir(GIDS_DIR, 0o755)
    site.store.mkdir(f"{GIDS_DIR}/2000.pvc-9", 0o700)
    site.volumes.make(pv("pvc-1", MIB), gids=TWO)
    assert site.gid("pvc-1") == 2001
    with pytest.raises(CapacityError):
        site.volumes.make(pv("pvc-2", MIB), gids=TWO)
    site.controllers[1].make(pv("pvc-9", MIB), gids=TWO)
    assert site.gid("pvc-9") == 2000


def test_another_range_or_none_is_a_conflict(site: Site) -> None:
    site.volumes.make(pv("pvc-1", MIB), gids=TWO)
    site.volumes.make(pv("pvc-2", MIB))
    with pytest.raises(ConflictError, match=r"pvc-1: exists with group 200., and was asked for with none"):
        site.volumes.make(pv("pvc-1", MIB))
    with pytest.raises(ConflictError, match=r"and was asked for with one from 3000 to 3000"):
        site.volumes.make(pv("pvc-1", MIB), gids=Gids(least=3000, most=3000))
    with pytest.raises(ConflictError, match=r"pvc-2: exists with no group of its own, and was asked for with one from"):
        site.volumes.make(pv("pvc-2", MIB), gids=TWO)


def test_a_copy_has_its_sources_group_which_stays_taken_until_the_last_of_them_is_gone(site: Site) -> None:
    one = Gids(least=2000, most=2000)
    site.volumes.make(pv("pvc-1", MIB), gids=one)
    site.volumes.snapshot(PvName("snapshot.s"), PvName("pvc-1"))
    site.volumes.fill(PvName("snapshot.s"), CopyProgress())
    site.volumes.delete(PvName("pvc-1"))
    with pytest.raises(CapacityError):
        site.volumes.make(pv("pvc-2", MIB), gids=one)
    site.volumes.make(replace(pv("pvc-3", MIB), source=PvName("snapshot.s"), filling=True), gids=TWO)
    site.volumes.fill(PvName("pvc-3"), CopyProgress())
    assert site.gid("pvc-3") == 2000
    site.volumes.delete(PvName("snapshot.s"))
    site.volumes.delete(PvName("pvc-3"))
    site.volumes.make(pv("pvc-2", MIB), gids=one)
    assert site.entries() == {"2000.pvc-2"}


def test_two_controllers_at_once_give_no_group_twice(site: Site) -> None:
    gids = Gids(least=2000, most=2031)
    names = [f"pvc-{number}" for number in range(32)]

    def make(number: int) -> None:
        for _ in range(50):  # two that meet may both refuse, and are asked again
            with suppress(CapacityError):
                site.controllers[number % 2].make(pv(names[number], MIB), gids=gids)
                return

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(make, range(32)))
    assert sorted(str(site.gid(name)) for name in names) == [str(gid) for gid in range(2000, 2032)]
