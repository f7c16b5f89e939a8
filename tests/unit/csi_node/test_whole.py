"""A PV that is a whole volume: a client of its own, and a root that looks like that client's own mount."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from kadalu_ext.csi.mender import RELEASE_S
from kadalu_ext.csi.nodehealth import NodeHealth
from kadalu_ext.csi.nodevolumes import Volume, as_mounted, is_main, storage_mounts, volume_of
from kadalu_ext.errors import PreconditionError
from kadalu_ext.record import PvName
from kadalu_ext.storage import PoolVolume, Storage, StorageName, mount_name, mount_source, to_json

from .fakes import KUBELET, STATVFS, mount
from .test_mender import Bed

POOL = Storage(name=StorageName("heketi"), hosts=(), volume="", pool=(PoolVolume(volume="vol_1", hosts=("h1",)),))
WHOLE = Storage(name=POOL.name, hosts=("h1",), volume="vol_1", whole=PvName("pv-1"))
PV = Volume(storage=POOL.name, name=PvName("pv-1"))
STAGING, TARGET = f"{KUBELET}/plugins/kubernetes.io/csi/y/globalmount", f"{KUBELET}/pods/u2/mount"
MAIN = f"{KUBELET}/plugins/kadalu.external/mounts/{mount_name(WHOLE)}"


class WholeBed(Bed):
    """With a PV of the one kind beside one of the other."""

    def __init__(self, tmp_path: Path) -> None:
        super().__init__(tmp_path)
        (self.entries / "heketi.json").write_text(to_json(POOL))
        self.mounts.directories.add("/")
        self.volumes.stage(PV, WHOLE, STAGING, timeout_s=10)
        self.volumes.publish(PV, WHOLE, STAGING, TARGET, frozenset(), timeout_s=10)


@pytest.fixture
def bed(tmp_path: Path) -> WholeBed:
    return WholeBed(tmp_path)


def test_a_pod_sees_the_volumes_root_through_a_client_of_the_pvs_own(bed: WholeBed) -> None:
    mounts = bed.mounts.mounted
    assert {(mounts[path].root, mounts[path].source) for path in (STAGING, TARGET)} == {
        ("/", "kadalu.external:heketi/pv-1")
    }
    assert (
        mounts[MAIN].device == mounts[TARGET].device != mounts[f"{KUBELET}/plugins/kadalu.external/mounts/ext"].device
    )


def test_the_clients_own_mount_is_told_from_the_pods(bed: WholeBed) -> None:
    mounts = bed.mounts.mounted
    assert is_main(mounts[MAIN]) and not is_main(mounts[TARGET])
    assert storage_mounts(bed.mounts.table())[mounts[TARGET].source] == mounts[MAIN]
    assert (volume_of(mounts[TARGET]), volume_of(mounts[MAIN])) == (PV, None)


def test_it_is_taken_from_where_it_is_and_its_client_goes_a_while_after_it(bed: WholeBed) -> None:
    for _ in range(2):
        bed.volumes.unpublish(PV, TARGET, timeout_s=10)
        bed.look()
        bed.volumes.unstage(PV, STAGING, timeout_s=10)
    assert MAIN in bed.mounts.mounted and not {STAGING, TARGET} & bed.mounts.mounted.keys()
    bed.look()
    bed.now += RELEASE_S
    bed.look()
    assert bed.mounter.released == [mount_name(WHOLE)]


def test_while_a_pod_has_it_its_client_stays(bed: WholeBed) -> None:
    bed.volumes.unstage(PV, STAGING, timeout_s=10)
    for _ in range(3):
        bed.look()
        bed.now += RELEASE_S
    assert bed.mounter.released == []


def test_another_pvs_mount_is_left_alone(bed: WholeBed) -> None:
    other = replace(PV, name=PvName("pv-2"))
    with pytest.raises(PreconditionError, match="heketi/pv-1 is mounted there"):
        bed.volumes.unstage(other, STAGING, timeout_s=10)


def test_for_one_pod_alone_its_clients_own_mount_is_no_other_pod(bed: WholeBed) -> None:
    bed.volumes.publish(PV, WHOLE, STAGING, TARGET, frozenset(), alone=True, timeout_s=10)
    with pytest.raises(PreconditionError, match="allows one pod"):
        bed.volumes.publish(PV, WHOLE, STAGING, f"{TARGET}2", frozenset(), alone=True, timeout_s=10)


def test_its_figures_and_health_are_those_of_its_own_client(bed: WholeBed) -> None:
    health = NodeHealth(bed.mounts, bed.mounter, lambda _: False)
    look = health.look(PV, TARGET)
    assert look.space is not None and look.space.inodes == STATVFS.f_files
    assert look.current and look.storage is not None and look.storage.name == mount_name(WHOLE)


def test_a_mount_whose_client_died_is_replaced_by_one_of_the_next(bed: WholeBed) -> None:
    dead = bed.mounts.mounted[TARGET].device
    bed.mounts.dead.add(dead)
    (bed.connections / str(dead)).mkdir(parents=True, exist_ok=True)
    bed.mounter.mount(WHOLE, timeout_s=10)
    bed.look()
    assert (
        {bed.mounts.mounted[path].device for path in (STAGING, TARGET)} == {bed.mounts.mounted[MAIN].device} != {dead}
    )


def test_a_directory_of_the_same_storages_name_is_not_taken_for_a_whole_volume() -> None:
    there = mount("/x", device=1, root=PV.root, source=mount_source(PV.storage))
    assert as_mounted(PV, [there]) == PV and not as_mounted(PV, [there]).whole
    assert volume_of(mount("/x", device=1, root="/", source="kadalu.external:heketi/../x")) is None
