"""The driver as csi-provisioner sees it: a gRPC server on a unix socket."""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest

from kadalu_ext import rpc
from kadalu_ext.api import csi_pb2, csi_pb2_grpc
from kadalu_ext.csi.clients import Clients
from kadalu_ext.csi.controller import Controller
from kadalu_ext.csi.identity import Identity, Prober
from kadalu_ext.csi.pools import Pools
from kadalu_ext.layout import pv_path, record_path
from kadalu_ext.log import Logger
from kadalu_ext.record import CANARY, PvName
from kadalu_ext.storage import GID_ATTRIBUTE, from_parameters, to_json
from kadalu_ext.storages import Storages
from kadalu_ext.units import MIB
from tests.unit.csi.memory import STORAGE, MemoryBricks, MemoryConnector, MemoryStore
from tests.unit.csi.test_params import capability, request

PV = PvName("pvc-1")


class Driver:
    """A server, and a client's stubs."""

    def __init__(self, directory: Path) -> None:
        self.store = MemoryStore()
        self.bricks = MemoryBricks(self.store)
        self.storages = directory / "storages"
        self.storages.mkdir()
        log = Logger("test")
        self.connector = MemoryConnector(self.store, self.bricks)
        self.clients = Clients(connector=self.connector, log=log)
        self.pools = Pools(connector=self.connector, log=log)
        self.server = rpc.serve_unix(str(directory / "csi.sock"), log=log, workers=8)
        servicer = Controller(  # type: ignore[abstract]
            storages=Storages(str(self.storages)), clients=self.clients, pools=self.pools
        )
        csi_pb2_grpc.add_ControllerServicer_to_server(servicer, self.server)
        csi_pb2_grpc.add_IdentityServicer_to_server(Identity(), self.server)
        self.server.start()
        self.channel = grpc.insecure_channel(f"unix:{directory}/csi.sock")
        self.controller = csi_pb2_grpc.ControllerStub(self.channel)
        self.identity = csi_pb2_grpc.IdentityStub(self.channel)

    def close(self) -> None:
        self.channel.close()
        self.server.stop(None).wait()
        self.clients.close()
        self.pools.close()

    @staticmethod
    def wait(probe: Callable[[], bool]) -> None:
        """Until it is true: what glusterd said is good for a second."""
        deadline = time.monotonic() + 20
        while not probe():
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def create(self, name: str = PV, size: int = 64 * MIB, *, timeout: float = 10.0) -> csi_pb2.Volume:
        return self.controller.CreateVolume(request(name, size), timeout=timeout).volume

    def delete(self, volume_id: str) -> None:
        self.controller.DeleteVolume(csi_pb2.DeleteVolumeRequest(volume_id=volume_id), timeout=10)

    def validate(self, volume_id: str, *capabilities: csi_pb2.VolumeCapability) -> str:
        """The message why not, or nothing if all is confirmed."""
        asked = csi_pb2.ValidateVolumeCapabilitiesRequest(volume_id=volume_id, volume_capabilities=capabilities)
        reply = self.controller.ValidateVolumeCapabilities(asked, timeout=10)
        assert reply.HasField("confirmed") != bool(reply.message)
        return reply.message


@pytest.fixture
def driver() -> Iterator[Driver]:
    with tempfile.TemporaryDirectory() as directory:  # pytest's own may be too long for a socket
        driver = Driver(Path(directory))
        yield driver
        driver.close()


@contextmanager
def refused(code: grpc.StatusCode, says: str) -> Iterator[None]:
    with pytest.raises(grpc.RpcError) as raised:
        yield
    assert raised.value.code() is code
    assert says in str(raised.value.details())


def test_a_server_that_answers_is_healthy_and_one_that_has_ended_is_not(tmp_path: Path) -> None:
    driver = Driver(tmp_path)
    prober = Prober(str(tmp_path / "csi.sock"))
    assert prober.unhealthy() == ""
    driver.close()
    assert re.search(r"csi\.sock does not answer Probe: (UNAVAILABLE|DEADLINE_EXCEEDED)", prober.unhealthy())


def test_it_says_who_it_is_and_that_it_is_ready(driver: Driver) -> None:
    info = driver.identity.GetPluginInfo(csi_pb2.GetPluginInfoRequest())
    assert (info.name, bool(info.vendor_version)) == ("kadalu.external", True)
    assert driver.identity.Probe(csi_pb2.ProbeRequest()).ready.value
    service, expansion = driver.identity.GetPluginCapabilities(csi_pb2.GetPluginCapabilitiesRequest()).capabilities
    assert service.service.type == csi_pb2.PluginCapability.Service.CONTROLLER_SERVICE
    assert expansion.volume_expansion.type == csi_pb2.PluginCapability.VolumeExpansion.ONLINE


def test_it_announces_what_works_and_nothing_else_is_served(driver: Driver) -> None:
    reply = driver.controller.ControllerGetCapabilities(csi_pb2.ControllerGetCapabilitiesRequest())
    names = {csi_pb2.ControllerServiceCapability.RPC.Type.Name(each.rpc.type) for each in reply.capabilities}
    assert names == {
        "CREATE_DELETE_VOLUME", "EXPAND_VOLUME", "MODIFY_VOLUME", "LIST_VOLUMES", "GET_VOLUME", "GET_CAPACITY",
        "VOLUME_CONDITION", "GET_VOLUME_HEALTH", "LIST_VOLUME_HEALTH",
        "SINGLE_NODE_MULTI_WRITER", "CLONE_VOLUME", "CREATE_DELETE_SNAPSHOT", "LIST_SNAPSHOTS",
        "GET_SNAPSHOT",
    }  # fmt: skip
    with refused(grpc.StatusCode.UNIMPLEMENTED, "not served, and not announced"):
        driver.controller.ControllerPublishVolume(csi_pb2.ControllerPublishVolumeRequest())


def test_a_volume_is_made_twice_and_deleted_twice(driver: Driver) -> None:
    volume = driver.create()
    assert (volume.volume_id, volume.capacity_bytes) == ("ext/pvc-1", 64 * MIB)
    assert from_parameters(volume.volume_context) == STORAGE
    assert driver.create() == volume
    driver.delete(volume.volume_id)
    driver.delete(volume.volume_id)
    assert pv_path(PV) not in driver.store.nodes and record_path(PV) not in driver.store.nodes


def test_a_class_with_groups_makes_pvs_with_one_and_tells_it(driver: Driver) -> None:
    asked = request()
    asked.parameters.update(gidMin="5000", gidMax="5001")
    made = [driver.controller.CreateVolume(asked, timeout=10).volume for _ in range(2)]
    assert made[0] == made[1]
    gid = int(made[0].volume_context[GID_ATTRIBUTE])
    assert (driver.store.nodes[pv_path(PV)].gid, gid in (5000, 5001)) == (gid, True)
    assert from_parameters(made[0].volume_context) == STORAGE
    found = csi_pb2.ControllerGetVolumeRequest(volume_id=made[0].volume_id)
    assert driver.controller.ControllerGetVolume(found, timeout=10).volume.volume_context == made[0].volume_context
    assert driver.controller.GetCapacity(csi_pb2.GetCapacityRequest(parameters=asked.parameters)).available_capacity
    asked.parameters["gidMin"] = "6000"
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "parameters.gidMin: 6000 is more than gidMax, 5001"):
        driver.controller.CreateVolume(asked, timeout=10)


def test_a_caller_without_a_deadline_is_served(driver: Driver) -> None:
    assert driver.controller.CreateVolume(request()).volume.volume_id == "ext/pvc-1"


def test_another_size_under_the_same_name_already_exists(driver: Driver) -> None:
    driver.create()
    with refused(grpc.StatusCode.ALREADY_EXISTS, "exists with 64 MiB"):
        driver.create(size=128 * MIB)


def test_a_claim_larger_than_the_volume_is_out_of_range(driver: Driver) -> None:
    with refused(grpc.StatusCode.OUT_OF_RANGE, "2 GiB is more than the whole volume vol has: 1 GiB"):
        driver.create(size=2048 * MIB)


def test_a_claim_of_size_0_is_an_invalid_argument_and_writes_nothing(driver: Driver) -> None:
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "a volume of 0 bytes cannot be had; ask for 4 KiB or more"):
        driver.create(size=0)
    assert record_path(PV) not in driver.store.nodes


def test_the_canary_is_nobodys_volume(driver: Driver) -> None:
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "kadalu-canary is reserved"):
        driver.controller.CreateVolume(request(CANARY))
    driver.clients.of(STORAGE).beat().result()
    driver.delete(f"ext/{CANARY}")
    assert record_path(CANARY) in driver.store.nodes


def test_the_reason_arrives_before_the_callers_deadline(driver: Driver) -> None:
    driver.bricks.idle = {"h2"}
    with refused(grpc.StatusCode.UNAVAILABLE, "brick h2:/bricks/b shows 1 GiB instead of 64 MiB"):
        driver.create(timeout=1.0)


def test_a_storage_that_hangs_is_told_before_the_callers_deadline(driver: Driver) -> None:
    driver.store.hold.clear()
    with refused(grpc.StatusCode.DEADLINE_EXCEEDED, "storage ext, volume vol: no answer within"):
        driver.create(timeout=1.0)
    with refused(grpc.StatusCode.ABORTED, "ext/pvc-1: an earlier call"):
        driver.create()
    driver.store.hold.set()


def test_what_no_volume_of_ours_is_called_is_deleted_already(driver: Driver) -> None:
    driver.delete("reallyfakevolumeid")
    driver.delete("ext/../etc")
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "volume_id: missing"):
        driver.delete("")


def test_a_volume_of_an_unknown_storage_is_not_called_deleted(driver: Driver) -> None:
    with refused(grpc.StatusCode.UNAVAILABLE, "Create the KadaluStorage ext again"):
        driver.delete("ext/pvc-1")
    (driver.storages / "ext.json").write_text(to_json(STORAGE))
    driver.delete("ext/pvc-1")


def test_capabilities_are_confirmed_or_the_reason_is_told(driver: Driver) -> None:
    volume_id = driver.create().volume_id
    assert driver.validate(volume_id, capability()) == ""
    block = csi_pb2.VolumeCapability(block=csi_pb2.VolumeCapability.BlockVolume())
    assert "cannot be had as a block device" in driver.validate(volume_id, capability(), block)
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "volume_capabilities: missing"):
        driver.validate(volume_id)
    for unknown in ("ext/pvc-2", "fake", "nowhere/pvc-1"):
        with refused(grpc.StatusCode.NOT_FOUND, ""):
            driver.validate(unknown, capability())
