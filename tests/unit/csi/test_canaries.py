"""The canary: it changes on every storage, it is in nobody's way, and it goes with its storage."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from kadalu_ext.csi import canaries, canary
from kadalu_ext.csi.canaries import Canaries
from kadalu_ext.csi.clients import Clients
from kadalu_ext.csi.promises import Promises
from kadalu_ext.csi.volumes import Bricks, Volumes
from kadalu_ext.errors import CapacityError, HostSilentError
from kadalu_ext.layout import pv_path, record_path, staged_record_path
from kadalu_ext.log import Logger
from kadalu_ext.record import CANARY, RECORD_XATTR
from kadalu_ext.storage import Storage, StorageName, to_json
from kadalu_ext.storages import Storages
from kadalu_ext.units import MIB
from tests.unit.csi.memory import STORAGE, Crash, MemoryBricks, MemoryConnector, MemoryStore, pv, recorded_size
from tests.unit.csi.test_clients import until

OTHER = replace(STORAGE, name=StorageName("other"))


def test_sizes_differ_from_each_other_and_stay_below_8_mib() -> None:
    sizes = [canary.next_size(None)]
    while (size := canary.next_size(sizes[-1])) != sizes[0]:
        sizes.append(size)
    assert len(set(sizes)) == len(sizes) == canary.STEPS
    assert (min(sizes), max(sizes)) == (4 * MIB, 8 * MIB - canary.STEP_BYTES)


@pytest.mark.parametrize("size", [None, 0, 4 * MIB - 1, 4 * MIB + 1, 8 * MIB, 1 << 60])
def test_a_size_that_is_none_of_its_is_followed_by_the_first(size: int | None) -> None:
    assert canary.next_size(size) == canary.SMALLEST_BYTES


class Site:
    """One volume that several storages may be on, and the mounted ConfigMap."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.store = MemoryStore()
        self.bricks = MemoryBricks(self.store)
        self.connector = MemoryConnector(self.store, self.bricks)
        self.clients = Clients(connector=self.connector, log=Logger("test"))
        self.canaries = Canaries(
            storages=Storages(str(directory)), clients=self.clients, log=Logger("test"), beat_s=3600.0
        )

    def add(self, storage: Storage) -> None:
        (self.directory / f"{storage.name}.json").write_text(to_json(storage))

    def remove(self, storage: Storage) -> None:
        (self.directory / f"{storage.name}.json").unlink()

    def turn(self) -> None:
        """One turn, and all that it began."""
        self.canaries.turn()
        until(lambda: all(step.future.done() for step in self.canaries._steps.values()))

    def volumes(self) -> Volumes:
        bricks = Bricks(geometry=self.bricks.geometry, probe=self.bricks)
        return Volumes(volume="vol", store=self.store, bricks=bricks, promises=Promises(volume="vol"))

    @property
    def size(self) -> int | None:
        return recorded_size(self.store, CANARY)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    yield site
    site.store.hold.set()
    site.canaries.stop()
    site.clients.close()


def test_each_turn_changes_the_size_and_every_brick_can_follow(site: Site) -> None:
    site.add(STORAGE)
    seen = []
    for _ in range(3):
        site.turn()
        seen.append({answer.stat.total_bytes for answer in site.bricks.stat_directory(pv_path(CANARY)) if answer.stat})
    first = canary.SMALLEST_BYTES
    assert seen == [{first}, {first + canary.STEP_BYTES}, {first + 2 * canary.STEP_BYTES}]


@pytest.mark.parametrize("steps", range(9))
def test_a_beat_that_was_killed_at_any_step_is_made_good_by_the_next(site: Site, steps: int) -> None:
    site.store.crash_at = steps
    with pytest.raises(Crash):
        site.volumes().beat()
    site.store.crash_at = None
    site.volumes().beat()
    assert site.size is not None
    assert pv_path(CANARY) in site.store.nodes
    assert staged_record_path(CANARY, canary.SUFFIX) not in site.store.nodes


def test_a_canary_that_was_damaged_or_lost_its_directory_is_mended(site: Site) -> None:
    site.volumes().beat()
    site.store.setxattr(record_path(CANARY), RECORD_XATTR, b"{")
    site.volumes().beat()
    assert site.size == canary.SMALLEST_BYTES
    site.store.rmdir(pv_path(CANARY))
    site.volumes().beat()
    assert pv_path(CANARY) in site.store.nodes


def test_the_canary_promises_nothing(site: Site) -> None:
    site.volumes().beat()
    site.volumes().make(pv("pvc-1", site.store.total_bytes))
    with pytest.raises(CapacityError, match="promised to 1 PVs"):
        site.volumes().make(pv("pvc-2", MIB))


def test_a_dead_storage_delays_no_other_and_is_asked_once_at_a_time(site: Site) -> None:
    site.add(STORAGE)
    site.store.hold.clear()
    for _ in range(3):
        site.canaries.turn()
    until(lambda: site.store.waiting == 2)  # whoever is first makes what all is in; and the trash is looked at
    assert site.clients.of(STORAGE)._workers._executor._work_queue.qsize() == 0
    site.store.hold.set()
    site.turn()
    assert site.size is not None


def test_a_failure_is_logged_once_and_so_is_its_end(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    site.add(STORAGE)
    caplog.set_level("INFO")
    site.connector.error = HostSilentError("h1:24007 does not answer")
    for _ in range(4):
        site.turn()
        site.clients.of(STORAGE)._session._looked_at = 0.0
    site.connector.error = None
    site.turn()
    site.turn()
    assert caplog.messages.count("canary not changed") == 1
    assert caplog.messages.count("canary changes again") == 1


def test_a_storage_that_leaves_takes_its_canary_along(site: Site) -> None:
    site.add(STORAGE)
    site.turn()
    site.remove(STORAGE)
    site.turn()
    until(lambda: not [path for path in site.store.nodes if CANARY in path])
    site.turn()
    assert not site.canaries._steps
    assert site.size is None
    until(lambda: site.clients.of(STORAGE).volume_id is None)  # what is not connected has no client process


def test_the_canary_of_a_storage_that_is_gone_and_dead_is_given_up(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(canaries, "REMOVALS", 3)
    site.add(STORAGE)
    site.turn()
    site.remove(STORAGE)
    site.connector.error = HostSilentError("h1:24007 does not answer")
    site.clients.of(STORAGE)._session._looked_at = 0.0
    for _ in range(4):
        site.turn()
    assert not site.canaries._steps
    assert "canary left behind" in caplog.messages
    until(lambda: site.clients.of(STORAGE).volume_id is None)


def test_a_canary_stays_as_long_as_another_storage_is_on_the_volume(site: Site) -> None:
    site.add(STORAGE)
    site.add(OTHER)
    site.turn()
    site.remove(STORAGE)
    site.turn()
    assert site.size is not None
    assert list(site.canaries._steps) == [OTHER.name]


def test_a_storage_whose_entry_is_wrong_is_told_of_and_keeps_its_canary(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    site.add(STORAGE)
    site.turn()
    (site.directory / "ext.json").write_text("{")
    site.turn()
    site.turn()
    assert site.size is not None
    assert caplog.messages.count("canary not changed") == 1
