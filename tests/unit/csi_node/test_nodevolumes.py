"""Stage, publish and back, as kubelet asks for them: repeated, out of order, and after a client has died."""

from __future__ import annotations

import threading

import pytest

from kadalu_ext.csi.nodevolumes import NodeVolumes, Volume
from kadalu_ext.errors import ConflictError, InProgressError, MounterError, NotFoundError, PreconditionError
from kadalu_ext.record import PvName
from kadalu_ext.storage import Storage, StorageName

from .fakes import KUBELET, FakeMounter, FakeMounts, mount

EXT = Storage(name=StorageName("ext"), hosts=("h1",), volume="vol")
PV = Volume(storage=EXT.name, name=PvName("pv-1"))
STAGING = f"{KUBELET}/plugins/kubernetes.io/csi/kadalu.external/abc/globalmount"
TARGET = f"{KUBELET}/pods/u1/volumes/kubernetes.io~csi/pv-1/mount"
NONE: frozenset[str] = frozenset()


@pytest.fixture
def mounts() -> FakeMounts:
    return FakeMounts(directories={PV.root})


@pytest.fixture
def mounter(mounts: FakeMounts) -> FakeMounter:
    return FakeMounter(mounts)


@pytest.fixture
def volumes(mounts: FakeMounts, mounter: FakeMounter) -> NodeVolumes:
    return NodeVolumes(mounts, mounter)


def stage(volumes: NodeVolumes) -> None:
    volumes.stage(PV, EXT, STAGING, timeout_s=10)


def publish(volumes: NodeVolumes, options: frozenset[str] = NONE, target: str = TARGET, *, alone: bool = False) -> None:
    volumes.publish(PV, EXT, STAGING, target, options, alone=alone, timeout_s=10)


def test_a_pod_sees_its_pv_and_nothing_above_it(volumes: NodeVolumes, mounts: FakeMounts) -> None:
    stage(volumes)
    publish(volumes)
    assert mounts.mounted[TARGET].root == mounts.mounted[STAGING].root == PV.root
    assert mounts.made == {TARGET}


def test_stage_and_publish_again_bind_nothing_again(volumes: NodeVolumes, mounts: FakeMounts) -> None:
    for _ in range(2):
        stage(volumes)
        publish(volumes)
    assert mounts.binds == 2


def test_unpublish_and_unstage_may_come_twice_or_alone(volumes: NodeVolumes, mounts: FakeMounts) -> None:
    volumes.unpublish(PV, TARGET, timeout_s=10)
    volumes.unstage(PV, STAGING, timeout_s=10)
    stage(volumes)
    publish(volumes)
    for _ in range(2):
        volumes.unpublish(PV, TARGET, timeout_s=10)
        volumes.unstage(PV, STAGING, timeout_s=10)
    assert not mounts.made and list(mounts.mounted) == [f"{KUBELET}/plugins/kadalu.external/mounts/ext"]


def test_a_read_only_pod_does_not_make_another_ones_mount_read_only(volumes: NodeVolumes, mounts: FakeMounts) -> None:
    stage(volumes)
    publish(volumes, frozenset({"ro"}))
    publish(volumes, target=TARGET + "2")
    assert "ro" in mounts.mounted[TARGET].options
    assert "ro" not in mounts.mounted[TARGET + "2"].options | mounts.mounted[STAGING].options


def test_a_pod_that_is_to_be_alone_on_its_node_is(volumes: NodeVolumes) -> None:
    stage(volumes)
    for _ in range(2):
        publish(volumes, alone=True)
    with pytest.raises(PreconditionError, match=f"allows one pod on a node, and it is published at {TARGET}"):
        publish(volumes, target=TARGET + "2", alone=True)
    volumes.unpublish(PV, TARGET, timeout_s=10)
    publish(volumes, target=TARGET + "2", alone=True)


def test_a_pv_of_another_storage_with_the_same_name_is_no_reason_not_to_be_alone(
    volumes: NodeVolumes, mounts: FakeMounts
) -> None:
    stage(volumes)
    mounts.mounted["/other"] = mount("/other", device=77, root=PV.root, source="kadalu.external:ext-1")
    publish(volumes, alone=True)


def test_what_a_pod_has_read_only_is_not_made_writable_under_it_and_what_is_missing_is_added(
    volumes: NodeVolumes, mounts: FakeMounts
) -> None:
    stage(volumes)
    publish(volumes)
    publish(volumes, frozenset({"ro"}))
    assert "ro" in mounts.mounted[TARGET].options
    with pytest.raises(ConflictError, match="published already with ro"):
        publish(volumes)


def test_what_another_pv_has_is_not_taken_away(volumes: NodeVolumes, mounts: FakeMounts) -> None:
    stage(volumes)
    publish(volumes)
    for other in (Volume(storage=EXT.name, name=PvName("pv-2")), Volume(storage=StorageName("ext-1"), name=PV.name)):
        with pytest.raises(PreconditionError, match="is mounted there, not"):
            volumes.unpublish(other, TARGET, timeout_s=10)
    assert TARGET in mounts.mounted


def test_a_target_that_cannot_be_had_is_left_as_it_was(volumes: NodeVolumes, mounts: FakeMounts) -> None:
    mounts.holding_files.add(TARGET)
    stage(volumes)
    with pytest.raises(PreconditionError, match="files of the node's own"):
        publish(volumes)
    assert not mounts.made and TARGET not in mounts.mounted


def test_a_pv_that_the_volume_does_not_have_is_not_found(volumes: NodeVolumes, mounts: FakeMounts) -> None:
    mounts.directories.clear()
    with pytest.raises(NotFoundError, match="no directory /subvol/"):
        stage(volumes)
    assert STAGING not in mounts.mounted


def test_a_pod_that_starts_after_the_client_died_gets_a_mount_that_works(
    volumes: NodeVolumes, mounts: FakeMounts
) -> None:
    stage(volumes)
    publish(volumes)
    mounts.dead.add(mounts.mounted[STAGING].device)
    publish(volumes, target=TARGET + "2")
    assert mounts.answers(mounts.mounted[TARGET + "2"]) and mounts.answers(mounts.mounted[STAGING])
    publish(volumes)
    assert mounts.answers(mounts.mounted[TARGET])


def test_publish_needs_no_mounter_while_what_is_staged_works(volumes: NodeVolumes, mounter: FakeMounter) -> None:
    stage(volumes)
    mounter.broken = "the mounter is being replaced"
    publish(volumes)
    with pytest.raises(MounterError, match="being replaced"):
        stage(volumes)


def test_a_mount_that_this_pod_does_not_see_is_not_bound(volumes: NodeVolumes, mounter: FakeMounter) -> None:
    mounter.mounts = FakeMounts()
    with pytest.raises(MounterError, match="Bidirectional"):
        stage(volumes)


def test_another_call_for_a_volume_is_refused_while_one_hangs(volumes: NodeVolumes, mounter: FakeMounter) -> None:
    hangs, go = threading.Event(), threading.Event()

    def hang(storage: Storage, *, timeout_s: float) -> str:
        hangs.set()
        go.wait()
        raise MounterError("late")

    def staged_in_vain() -> None:
        with pytest.raises(MounterError, match="late"):
            stage(volumes)

    mounter.mount = hang  # type: ignore[method-assign]
    first = threading.Thread(target=staged_in_vain)
    first.start()
    hangs.wait()
    with pytest.raises(InProgressError, match=r"ext/pv-1: unstaging"):
        volumes.unstage(PV, STAGING, timeout_s=10)
    go.set()
    first.join()
