"""What the node plugin does by itself when clients die and storages go."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from kadalu_ext.csi.mender import RELEASE_S, Mender
from kadalu_ext.csi.mounterclient import StorageState
from kadalu_ext.csi.nodevolumes import NodeVolumes, Volume, volume_of
from kadalu_ext.csi.replaced import Replaced
from kadalu_ext.errors import VolumeIOError
from kadalu_ext.log import Logger
from kadalu_ext.record import PvName
from kadalu_ext.storage import Storage, StorageName, to_json
from kadalu_ext.storages import Storages

from .fakes import KUBELET, FakeMounter, FakeMounts, mount

EXT = Storage(name=StorageName("ext"), hosts=("h1",), volume="vol")
PV = Volume(storage=EXT.name, name=PvName("pv-1"))
STAGING, TARGET = f"{KUBELET}/plugins/kubernetes.io/csi/x/globalmount", f"{KUBELET}/pods/u1/mount"
SUB_PATH = f"{KUBELET}/pods/u1/volume-subpaths/pv/c/0"
MAIN = f"{KUBELET}/plugins/kadalu.external/mounts/ext"


class Bed:
    """A node with one PV staged, published, and published in part; clients have devices 101, 102, …"""

    def __init__(self, tmp_path: Path) -> None:
        self.now = 0.0
        self.entries = tmp_path / "storages"
        self.entries.mkdir()
        (self.entries / "ext.json").write_text(to_json(EXT))
        self.connections = tmp_path / "connections"
        for minor in (101, 102):
            (self.connections / str(minor)).mkdir(parents=True)
        self.mounts = FakeMounts(directories={PV.root})
        self.mounter = FakeMounter(self.mounts)
        self.volumes = NodeVolumes(self.mounts, self.mounter)
        self.replaced_file = str(tmp_path / "replaced.json")
        self.replaced = Replaced(self.replaced_file, str(self.connections))
        self.mender = Mender(
            mounts=self.mounts,
            volumes=self.volumes,
            mounter=self.mounter,
            storages=Storages(str(self.entries)),
            replaced=self.replaced,
            log=Logger("test"),
            now=lambda: self.now,
        )
        self.volumes.stage(PV, EXT, STAGING, timeout_s=10)
        self.volumes.publish(PV, EXT, STAGING, TARGET, frozenset({"ro"}), timeout_s=10)
        self.mounts.mounted[SUB_PATH] = mount(SUB_PATH, device=101, root=f"{PV.root}/a/b", source=PV.source)

    def look(self) -> None:
        self.mender.look()
        for worker in self.mender._workers.values():
            worker.join(10)

    def lose_client(self) -> None:
        self.mounts.dead.add(101)

    def devices(self) -> set[int]:
        return {self.mounts.mounted[path].device for path in (STAGING, TARGET, SUB_PATH)}


@pytest.fixture
def bed(tmp_path: Path) -> Bed:
    return Bed(tmp_path)


def test_what_works_is_left_alone(bed: Bed) -> None:
    before = dict(bed.mounts.mounted)
    bed.look()
    assert bed.mounts.mounted == before


def test_every_mount_of_a_client_that_died_is_replaced_once_there_is_another(bed: Bed) -> None:
    bed.lose_client()
    bed.look()
    assert bed.devices() == {101}, "the mounter is at it by itself"
    bed.mounter.mount(EXT, timeout_s=1)
    bed.look()
    assert bed.devices() == {102}
    assert "ro" in bed.mounts.mounted[TARGET].options
    assert bed.mounts.mounted[SUB_PATH].root == f"{PV.root}/a/b"


def test_a_client_that_lives_though_another_has_come_keeps_its_pods(bed: Bed) -> None:
    del bed.mounts.mounted[MAIN]
    bed.mounter.known.clear()
    bed.look()
    assert not bed.mounter.known, "and is not asked for"
    bed.mounter.mount(EXT, timeout_s=1)
    bed.look()
    assert bed.devices() == {101}


def test_a_mounter_that_knows_nothing_of_a_storage_in_use_is_asked_for_it(bed: Bed) -> None:
    bed.lose_client()
    del bed.mounts.mounted[MAIN]
    bed.mounter.known.clear()
    bed.look()
    bed.look()
    assert bed.devices() == {102}


def test_containers_with_the_dead_mount_are_told_of_until_the_last_is_gone(bed: Bed) -> None:
    bed.lose_client()
    bed.mounter.mount(EXT, timeout_s=1)
    bed.look()
    assert bed.replaced.is_held(TARGET)
    assert Replaced(bed.replaced_file, str(bed.connections)).is_held(TARGET), "also after the plugin was replaced"
    os.rename(bed.connections / "101", bed.connections / "gone")
    (bed.connections / "101").mkdir()  # the kernel gives the number to another client
    assert not bed.replaced.is_held(TARGET)


def test_a_pod_that_ended_is_not_told_of_any_more(bed: Bed) -> None:
    bed.lose_client()
    bed.mounter.mount(EXT, timeout_s=1)
    bed.look()
    del bed.mounts.mounted[TARGET]
    bed.look()
    assert not bed.replaced.is_held(TARGET)


def test_a_storage_that_is_gone_and_of_which_no_pv_is_here_is_released_after_a_while(bed: Bed) -> None:
    bed.mounter.known[StorageName("ext-1")] = StorageState(name=StorageName("ext-1"), mounted=True)
    (bed.entries / "ext.json").unlink()
    bed.look()
    bed.now = RELEASE_S + 1
    bed.look()
    assert bed.mounter.released == ["ext-1"], "of ext a PV is mounted"


def test_a_storage_that_comes_back_meanwhile_is_kept(bed: Bed) -> None:
    bed.mounts.mounted = {MAIN: bed.mounts.mounted[MAIN]}
    entry = (bed.entries / "ext.json").read_text()
    for present, now in ((False, 0), (True, RELEASE_S / 2), (False, RELEASE_S + 1)):
        (bed.entries / "ext.json").write_text(entry) if present else (bed.entries / "ext.json").unlink()
        bed.now = now
        bed.look()
    assert bed.mounter.released == []


def test_a_mounter_that_is_away_is_waited_for(bed: Bed) -> None:
    bed.lose_client()
    del bed.mounts.mounted[MAIN]
    bed.mounter.broken = "does not listen"
    bed.look()
    bed.mounter.broken, bed.mounter.known = "", {}
    bed.look()
    bed.look()
    assert bed.devices() == {102}


def test_one_mount_that_cannot_be_mended_keeps_no_other_from_it(bed: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    mend: Callable[..., bool] = bed.volumes.mend

    def unless_staging(there: object, *rest: object, **fields: object) -> bool:
        if there == bed.mounts.mounted[STAGING]:
            raise VolumeIOError(5, "broken")
        return mend(there, *rest, **fields)

    monkeypatch.setattr(bed.volumes, "mend", unless_staging)
    bed.lose_client()
    bed.mounter.mount(EXT, timeout_s=1)
    bed.look()
    assert bed.devices() == {101, 102}


@pytest.mark.parametrize("root", ["/", "/subvol", "/subvol/aa/bb", "/subvol/aa/bb/pv-1", "/other/aa/bb/pv-1"])
def test_what_is_no_pvs_directory_is_nobodys(root: str) -> None:
    assert volume_of(mount("/x", device=1, root=root, source=PV.source)) is None


def test_a_pv_is_known_by_its_mounts_root_also_of_a_part_and_when_it_is_gone() -> None:
    for root in (PV.root, f"{PV.root}/sub/path", f"{PV.root}//deleted"):
        assert volume_of(mount("/x", device=1, root=root, source=PV.source)) == PV
