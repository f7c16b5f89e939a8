"""Volumes that are there: expanded, modified, looked at, listed; and what can be had besides."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import grpc
import pytest

from kadalu_ext.api import csi_pb2
from kadalu_ext.claim import Claim, ClaimState
from kadalu_ext.csi.condition import Status
from kadalu_ext.csi.wholevolume import Look
from kadalu_ext.csi.wholevolumes import Seen
from kadalu_ext.errors import VolumeStoppedError
from kadalu_ext.layout import pv_path
from kadalu_ext.record import PvName
from kadalu_ext.storage import PoolVolume, StorageName, to_json, to_parameters
from kadalu_ext.storages import Storages
from kadalu_ext.units import GIB, MIB
from tests.unit.csi.memory import STORAGE, recorded_size
from tests.unit.csi.test_controller import Driver, driver, refused
from tests.unit.csi.test_params import capability, request

__all__ = ["driver"]

PV = PvName("pvc-1")
TAKEN = Claim(number=2, state=ClaimState.TAKEN, pv=PvName("pvc-7"), storage=StorageName("pool"))


def expand(
    driver: Driver, size: int, *, limit: int = 0, volume_id: str = f"ext/{PV}"
) -> csi_pb2.ControllerExpandVolumeResponse:
    asked = csi_pb2.ControllerExpandVolumeRequest(
        volume_id=volume_id, capacity_range=csi_pb2.CapacityRange(required_bytes=size, limit_bytes=limit)
    )
    return driver.controller.ControllerExpandVolume(asked, timeout=2)


def modify(driver: Driver, volume_id: str = f"ext/{PV}", **parameters: str) -> None:
    asked = csi_pb2.ControllerModifyVolumeRequest(volume_id=volume_id, mutable_parameters=parameters)
    driver.controller.ControllerModifyVolume(asked, timeout=2)


def health(driver: Driver, volume_id: str = f"ext/{PV}") -> list[tuple[int, str]]:
    """The 1.13 call, which the 1.12 one must agree with."""
    asked = csi_pb2.ControllerGetVolumeHealthRequest(volume_id=volume_id)
    reply = driver.controller.ControllerGetVolumeHealth(asked, timeout=5).volume_health
    assert reply.volume_id == volume_id
    found = driver.controller.ControllerGetVolume(csi_pb2.ControllerGetVolumeRequest(volume_id=volume_id), timeout=5)
    assert found.volume.volume_id == volume_id
    assert found.status.volume_condition.abnormal is bool(reply.health_statuses)
    assert all(each.message in found.status.volume_condition.message for each in reply.health_statuses)
    return [(each.status, each.reason) for each in reply.health_statuses]


@pytest.fixture(autouse=True)
def known(driver: Driver) -> None:
    """The storage is in the ConfigMap, and has a volume."""
    (driver.storages / "ext.json").write_text(to_json(STORAGE))
    driver.create()


def test_a_volume_grows_and_never_shrinks(driver: Driver) -> None:
    for _ in range(2):
        reply = expand(driver, 128 * MIB)
        assert (reply.capacity_bytes, reply.node_expansion_required) == (128 * MIB, False)
    assert expand(driver, 64 * MIB).capacity_bytes == 128 * MIB
    assert recorded_size(driver.store, PV) == 128 * MIB
    with refused(grpc.StatusCode.OUT_OF_RANGE, "more than limit_bytes 67108864, and no volume shrinks"):
        expand(driver, 64 * MIB, limit=64 * MIB)


def test_growth_beyond_what_is_left_is_refused_and_changes_nothing(driver: Driver) -> None:
    driver.create("pvc-2", GIB // 2)
    with refused(grpc.StatusCode.OUT_OF_RANGE, "is more than is left of volume vol"):
        expand(driver, GIB)
    assert recorded_size(driver.store, PV) == 64 * MIB


def test_growth_is_answered_once_every_brick_was_seen_to_enforce_it(driver: Driver) -> None:
    driver.bricks.stopped = {"h2": 64 * MIB}
    with refused(grpc.StatusCode.UNAVAILABLE, "brick h2:/bricks/b shows 64 MiB instead of 128 MiB"):
        expand(driver, 128 * MIB)
    driver.bricks.stopped = {}
    assert expand(driver, 128 * MIB).capacity_bytes == 128 * MIB


def test_inodes_are_limited_when_a_volume_is_made_and_later(driver: Driver) -> None:
    asked = request("pvc-2")
    asked.mutable_parameters["inodes"] = "1000"
    driver.controller.CreateVolume(asked, timeout=2)
    with refused(grpc.StatusCode.ALREADY_EXISTS, "exists with 1000 inodes, and was asked for with no limit of inodes"):
        driver.create("pvc-2")
    modify(driver, inodes="500")
    modify(driver, inodes="500")
    driver.bricks.idle = {"h3"}
    with refused(grpc.StatusCode.UNAVAILABLE, "h3:/bricks/b"):
        modify(driver, inodes="600")


def test_growth_keeps_the_limit_of_inodes_and_the_other_way_round(driver: Driver) -> None:
    modify(driver, inodes="500")
    expand(driver, 128 * MIB)
    modify(driver, inodes="600")
    record = driver.clients.of(STORAGE).record(PV, timeout_s=5)
    assert record is not None
    assert (record.size_bytes, record.inodes) == (128 * MIB, 600)


def test_what_cannot_be_modified_changes_nothing(driver: Driver) -> None:
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "mutable_parameters.speed: unknown; allowed is inodes"):
        modify(driver, inodes="500", speed="high")
    record = driver.clients.of(STORAGE).record(PV, timeout_s=5)
    assert record is not None and record.inodes is None
    modify(driver)
    with refused(grpc.StatusCode.NOT_FOUND, "there is no volume ext/pvc-9"):
        modify(driver, "ext/pvc-9")
    with refused(grpc.StatusCode.NOT_FOUND, "pvc-9"):
        modify(driver, "ext/pvc-9", inodes="500")


def test_a_volume_that_is_well_has_no_condition(driver: Driver) -> None:
    assert health(driver) == []


def test_a_brick_that_is_down_degrades_and_too_many_make_inaccessible(driver: Driver) -> None:
    driver.bricks.down = {"h1"}
    assert health(driver) == [(Status.DEGRADED, "BrickDown")]
    driver.bricks.down = {"h1", "h2"}
    assert health(driver) == [(Status.INACCESSIBLE, "BricksDown")]


def test_a_volume_that_is_not_enforced_or_full_is_degraded(driver: Driver) -> None:
    driver.bricks.idle = {"h1"}
    assert health(driver) == [(Status.DEGRADED, "NotEnforced")]
    driver.bricks.idle = set()
    driver.bricks.used_bytes = 64 * MIB - 1000
    assert health(driver) == [(Status.DEGRADED, "Full")]
    driver.bricks.used_bytes = 0
    modify(driver, inodes="500")
    driver.bricks.used_inodes = 500
    assert health(driver) == [(Status.DEGRADED, "OutOfInodes")]


def test_a_volume_without_its_directory_has_lost_its_data(driver: Driver) -> None:
    driver.store.remove_tree(pv_path(PV))
    assert health(driver) == [(Status.DATA_LOSS, "DirectoryGone")]


def test_a_stopped_gluster_volume_makes_its_volumes_inaccessible(driver: Driver) -> None:
    driver.connector.error = VolumeStoppedError("volume vol is stopped; start it: gluster volume start vol")
    asked = csi_pb2.ControllerGetVolumeHealthRequest(volume_id=f"ext/{PV}")

    def stopped() -> bool:
        (status,) = driver.controller.ControllerGetVolumeHealth(asked, timeout=5).volume_health.health_statuses or [
            csi_pb2.VolumeHealth.VolumeHealthEntry()
        ]
        return status.reason == "VolumeStopped" and "gluster volume start vol" in status.message

    driver.wait(stopped)


def test_a_volume_on_a_storage_that_does_not_answer_is_inaccessible(driver: Driver) -> None:
    driver.store.hold.clear()
    asked = csi_pb2.ControllerGetVolumeHealthRequest(volume_id=f"ext/{PV}")
    (status,) = driver.controller.ControllerGetVolumeHealth(asked, timeout=1).volume_health.health_statuses
    driver.store.hold.set()
    assert (status.status, status.reason) == (csi_pb2.INACCESSIBLE, "NoAnswer")
    assert "storage ext, volume vol: no answer within" in status.message


def test_only_what_is_wrong_is_listed_as_health(driver: Driver) -> None:
    driver.create("pvc-2")
    asked = csi_pb2.ControllerListVolumeHealthRequest()
    assert not driver.controller.ControllerListVolumeHealth(asked, timeout=5).entries
    driver.store.remove_tree(pv_path(PV))
    (entry,) = driver.controller.ControllerListVolumeHealth(asked, timeout=5).entries
    assert (entry.volume_id, entry.health_statuses[0].status) == (f"ext/{PV}", csi_pb2.DATA_LOSS)


@pytest.mark.parametrize("call", ["ControllerGetVolume", "ControllerGetVolumeHealth", "ControllerExpandVolume"])
def test_a_volume_that_is_not_there_is_not_found(driver: Driver, call: str) -> None:
    kind = getattr(csi_pb2, f"{call}Request")
    more = {"capacity_range": csi_pb2.CapacityRange(required_bytes=MIB)} if call == "ControllerExpandVolume" else {}
    for volume_id in ("ext/pvc-9", "nowhere/pvc-1", "fake", "ext/../etc"):
        with refused(grpc.StatusCode.NOT_FOUND, ""):
            getattr(driver.controller, call)(kind(volume_id=volume_id, **more), timeout=5)
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "volume_id: missing"):
        getattr(driver.controller, call)(kind(**more), timeout=5)


def test_capacity_is_what_is_left_of_the_storage_or_of_all(driver: Driver) -> None:
    for parameters in (to_parameters(STORAGE), {}):
        reply = driver.controller.GetCapacity(csi_pb2.GetCapacityRequest(parameters=parameters), timeout=5)
        assert reply.available_capacity == reply.maximum_volume_size.value == GIB - 64 * MIB
    driver.create("pvc-2", reply.maximum_volume_size.value)
    asked = csi_pb2.GetCapacityRequest(volume_capabilities=[capability()])
    assert driver.controller.GetCapacity(asked, timeout=5).available_capacity == 0


def test_capacity_of_a_storage_that_does_not_answer_is_an_error_and_is_none_of_all(driver: Driver) -> None:
    driver.connector.error = VolumeStoppedError("volume vol is stopped")
    one = csi_pb2.GetCapacityRequest(parameters=to_parameters(STORAGE))

    def stopped() -> bool:
        try:
            driver.controller.GetCapacity(one, timeout=5)
        except grpc.RpcError as error:
            return "volume vol is stopped" in str(error)
        return False

    driver.wait(stopped)
    assert driver.controller.GetCapacity(csi_pb2.GetCapacityRequest(), timeout=5).available_capacity == 0


def test_what_was_asked_for_is_confirmed_only_if_it_is_the_volumes(driver: Driver) -> None:
    asked = csi_pb2.ValidateVolumeCapabilitiesRequest(
        volume_id=f"ext/{PV}", volume_capabilities=[capability()], mutable_parameters={"inodes": "5"}
    )
    reply = driver.controller.ValidateVolumeCapabilities(asked, timeout=5)
    assert reply.confirmed.mutable_parameters == {"inodes": "5"}
    asked.volume_context.update(to_parameters(STORAGE) | {"storage": "other"})
    assert "volume_context.storage: 'other'" in driver.controller.ValidateVolumeCapabilities(asked, timeout=5).message


@pytest.fixture
def whole(driver: Driver) -> str:
    """The id of a PV that is a whole volume; its storage has another one that is free."""
    members = (PoolVolume(volume="one", hosts=("h1",)), PoolVolume(volume="two", hosts=("h2",)))
    pool = replace(STORAGE, name=StorageName("pool"), hosts=(), volume="", pool=members)
    (driver.storages / "pool.json").write_text(to_json(pool))
    sizes = {"one": GIB, "two": 2 * GIB}
    seen = [
        Seen(
            volume=SimpleNamespace(volume=name, storage=pool.of_volume(name)),  # type: ignore[arg-type]
            look=Look(claim=Claim(), size_bytes=size, older=()),
        )
        for name, size in sizes.items()
    ]
    seen[0] = replace(seen[0], look=replace(seen[0].look, claim=TAKEN))
    driver.pools.of(pool)._look = lambda members: (seen, {})  # type: ignore[method-assign]
    return "pool/pvc-7"


def test_a_whole_volume_is_looked_at_and_listed_and_never_changed(driver: Driver, whole: str) -> None:
    assert health(driver, whole) == []
    assert expand(driver, GIB, volume_id=whole).capacity_bytes == GIB
    with refused(grpc.StatusCode.OUT_OF_RANGE, "is a whole gluster volume of 1073741824 bytes"):
        expand(driver, 2 * GIB, volume_id=whole)
    modify(driver, whole)
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "has all of its inodes"):
        modify(driver, whole, inodes="500")
    with refused(grpc.StatusCode.NOT_FOUND, "there is no volume pool/pvc-8"):
        expand(driver, GIB, volume_id="pool/pvc-8")
    listed = driver.controller.ListVolumes(csi_pb2.ListVolumesRequest(), timeout=5).entries
    assert {each.volume.volume_id: each.volume.capacity_bytes for each in listed} == {
        f"ext/{PV}": 64 * MIB,
        whole: GIB,
    }
    assert listed[1].volume.volume_context["pv"] == "pvc-7"


def test_capacity_of_whole_volumes_is_that_of_free_ones(driver: Driver, whole: str) -> None:
    pool = Storages(str(driver.storages)).find(StorageName("pool"))
    reply = driver.controller.GetCapacity(csi_pb2.GetCapacityRequest(parameters=to_parameters(pool)), timeout=5)
    assert (reply.available_capacity, reply.maximum_volume_size.value) == (2 * GIB, 2 * GIB)
