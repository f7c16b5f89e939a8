"""Every use case killed before each of its steps, and after the last: a retry converges, a deletion leaves nothing.

The steps are taken from the use case itself, as it calls the volume, so that one more of either is covered.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import pytest

from kadalu_ext.csi.gids import Gids
from kadalu_ext.csi.ports import CopyProgress
from kadalu_ext.csi.promises import Promises
from kadalu_ext.csi.trash import empty
from kadalu_ext.csi.volumes import Bricks, Volumes
from kadalu_ext.layout import pv_path
from kadalu_ext.record import PvName
from kadalu_ext.units import MIB
from tests.unit.csi.memory import Crash, MemoryBricks, MemoryStore, pv, replica

PV = PvName("pvc-1")
GIDS = Gids(least=2000, most=2001)
Call = Callable[[Volumes], object]


def make(volumes: Volumes) -> object:
    return volumes.make(pv(PV, 64 * MIB))


def make_named(volumes: Volumes) -> object:
    return volumes.make(replace(pv(PV, 64 * MIB), made_for=PvName("other")))


def make_with_group(volumes: Volumes) -> object:
    return volumes.make(pv(PV, 64 * MIB), gids=GIDS)


def grow(volumes: Volumes) -> object:
    return volumes.grow(PV, 128 * MIB)


def limit_inodes(volumes: Volumes) -> object:
    return volumes.limit_inodes(PV, 1000)


def archive(volumes: Volumes) -> object:
    volumes.archive(PV)
    return None


def delete(volumes: Volumes) -> object:
    volumes.delete(PV)
    return None


def beat(volumes: Volumes) -> object:
    volumes.beat()
    return None


def make_source(volumes: Volumes) -> object:
    volumes.make(pv("pvc-0", 64 * MIB))
    volumes._store.mkdir(f"{pv_path(PvName('pvc-0'))}/data", 0o750)
    return None


def make_source_with_group(volumes: Volumes) -> object:
    return volumes.make(pv("pvc-0", 64 * MIB), gids=GIDS)


def clone(volumes: Volumes) -> object:
    record = replace(pv(PV, 64 * MIB), source=PvName("pvc-0"), filling=True)
    volumes.make(record)
    volumes.fill(PV, CopyProgress())
    return None


def snapshot(volumes: Volumes) -> object:
    volumes.snapshot(PV, PvName("pvc-0"))
    volumes.fill(PV, CopyProgress())
    return None


def leave_prepared(volumes: Volumes) -> object:
    """What a creation does that is killed in the middle, and never made again."""
    volumes._records.stage(pv(PV, 64 * MIB), "0" * 16)
    return None


def leave_grown(volumes: Volumes) -> object:
    """What a growth does that is killed before it has written what it has promised."""
    volumes._records.stage(pv(PV, 96 * MIB), "0" * 16)
    volumes._records.promise(PV, "0" * 16)
    return None


def sweep(volumes: Volumes) -> object:
    volumes.sweep(volumes.left())
    return None


def lose_directory(volumes: Volumes) -> object:
    """What a deletion does that is killed at once."""
    volumes._store.mkdir("trash", 0o700)
    volumes._store.rename(pv_path(PV), f"trash/{PV}.{'0' * 16}")
    return None


@pytest.fixture(autouse=True)
def one_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A snapshot's record has the time at which it was taken."""
    monkeypatch.setattr("kadalu_ext.csi.volumes.time.time", lambda: 1.0)


USE_CASES: dict[str, tuple[list[Call], Call]] = {
    "make": ([], make),
    "make, beside others": ([lambda volumes: volumes.make(pv("pvc-0", MIB))], make),
    "make, called otherwise": ([], make_named),
    "make again": ([make], make),
    "make, with a group": ([], make_with_group),
    "make again, with a group": ([make_source_with_group, make_with_group], make_with_group),
    "make, with the last group": ([make_source_with_group], make_with_group),
    "make what was half deleted, with a group": ([make_with_group, lose_directory], make_with_group),
    "grow": ([make], grow),
    "grow again": ([make, lambda volumes: volumes.grow(PV, 96 * MIB)], grow),
    "limit inodes": ([make], limit_inodes),
    "archive": ([make], archive),
    "archive what grew": ([make, grow], archive),
    "archive a second of that name": ([make, archive, make], archive),
    "archive what never was": ([], archive),
    "delete": ([make], delete),
    "delete what grew": ([make, grow], delete),
    "delete what had a group": ([make_with_group], delete),
    "delete what never was": ([], delete),
    "clone": ([make_source], clone),
    "clone what was half deleted": ([make_source, clone, lose_directory], clone),
    "clone with a group": ([make_source_with_group], clone),
    "snapshot": ([make_source], snapshot),
    "snapshot again": ([make_source, snapshot], snapshot),
    "delete a clone": ([make_source, clone], delete),
    "sweep": ([leave_prepared], sweep),
    "sweep what was to grow": ([make, leave_prepared], sweep),
    "grow what was to grow": ([make, leave_grown], grow),
    "limit inodes of what was to grow": ([make, leave_grown], limit_inodes),
    "the canary": ([], beat),
    "the canary again": ([beat], beat),
}
"""What was done before, and the use case."""


def test_every_use_case_that_writes_is_killed_here() -> None:
    reads = {
        "wait_enforced", "wait_present_enforced", "promised", "record", "names", "silent_bricks", "conditions",
        "left", "whose",
    }  # fmt: skip
    writes = {name for name in vars(Volumes) if not name.startswith("_")} - reads
    called = {name for _, call in USE_CASES.values() for name in call.__code__.co_names}
    assert writes == called & set(vars(Volumes)) - reads


class Site:
    """A volume, and a controller that is killed and started anew."""

    def __init__(self, before: list[Call]) -> None:
        self.store = MemoryStore()
        self.bricks = MemoryBricks(self.store, replica())
        for call in before:
            call(self.controller())
        empty(self.store)

    def controller(self) -> Volumes:
        bricks = Bricks(geometry=self.bricks.geometry, probe=self.bricks)
        return Volumes(volume="vol", store=self.store, bricks=bricks, promises=Promises(volume="vol"))

    def found(self) -> list[tuple[str, dict[str, bytes]]]:
        """All paths with their attributes; what is different each time made the same."""
        empty(self.store)
        self.store.nodes.pop("trash", None)
        self.store.nodes.pop("archived", None)  # the directories themselves may be there or not
        plain = ((re.sub(r"\.[0-9a-f]{16}", ".…", path), node.xattrs) for path, node in self.store.nodes.items())
        return sorted((path, xattrs) for path, xattrs in plain if "subvol/" not in path or path.count("/") > 2)


def killed(case: str) -> list[Site]:
    """The use case, killed before its first step, before its second, and so on, until it was not any more."""
    before, call = USE_CASES[case]
    sites: list[Site] = []
    while True:
        site = Site(before)
        site.store.crash_at = site.store.calls + len(sites)
        sites.append(site)
        try:
            call(site.controller())
        except Crash:
            site.store.crash_at = None
        else:
            site.store.crash_at = None
            return sites


@pytest.mark.parametrize("case", USE_CASES)
def test_a_retry_ends_where_an_undisturbed_call_does(case: str) -> None:
    *sites, undisturbed = killed(case)
    expected = undisturbed.found()
    promised = undisturbed.controller().promised().size_bytes
    assert sites
    for site in sites:
        if case != "the canary again":  # whose size is another each time
            USE_CASES[case][1](site.controller())
            assert site.found() == expected
            assert site.controller().promised().size_bytes == promised


@pytest.mark.parametrize("case", USE_CASES)
def test_a_deletion_after_it_leaves_nothing_but_what_is_archived(case: str) -> None:
    for site in killed(case):
        site.controller().delete(PV)
        assert not [each for each in site.controller().left() if PV in each and not each.endswith(".filler")]
        sweep(site.controller())
        mine = [path for path, _ in site.found() if PV in path]
        assert all(path.startswith(f"archived/{PV}.") or path.endswith(".archived") for path in mine)
        archived = {path.removeprefix("archived/") for path in mine if path.startswith("archived/")}
        assert ("archive" in case) >= bool(archived)
        assert pv_path(PV) not in site.store.nodes
