"""Clones and snapshots through the controller's own socket, on real bricks with real limits."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import grpc
import pytest

from kadalu_ext.api import csi_pb2, csi_pb2_grpc
from kadalu_ext.layout import pv_path
from kadalu_ext.record import PvName
from kadalu_ext.storage import Storage, StorageName, to_json, to_parameters
from kadalu_ext.units import MIB
from tests.integration.quotad_site import served
from tests.integration.test_copy import make_everything, mounted, seen
from tests.testbed import deb, paths
from tests.testbed.brickhosts import BrickHosts
from tests.testbed.progress import wait_until

HOSTS = ("brick1", "brick2", "brick3")
KINDS = {"clones-rep": "replica 3", "clones-dis": "disperse 2+1"}
ONE = "clones-one"
STORAGES = [Storage(name=StorageName(volume), hosts=HOSTS, volume=volume) for volume in (*KINDS, ONE)]
SIZE = 32 * MIB
AGAIN = (grpc.StatusCode.ABORTED, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)

T = TypeVar("T")


class Program:
    """The controller as a process, and its stubs."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.socket = directory / "csi.sock"
        (directory / "storages").mkdir()
        for storage in STORAGES:
            (directory / "storages" / f"{storage.name}.json").write_text(to_json(storage))
        self.start()

    def start(self) -> None:
        argv = [sys.executable, "-m", "kadalu_ext.csi.main", "controller", f"--endpoint={self.socket}", "--identity=c"]
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*argv, f"--storages={self.directory}/storages"], stdout=log, stderr=log, cwd=paths.REPOSITORY
            )
        self.channel = grpc.insecure_channel(f"unix:{self.socket}")
        grpc.channel_ready_future(self.channel).result(timeout=180)
        self.controller = csi_pb2_grpc.ControllerStub(self.channel)

    def kill(self, number: int = signal.SIGKILL) -> None:
        self.channel.close()
        self._process.send_signal(number)
        self._process.wait(timeout=60)

    def create(self, storage: Storage, name: str, size: int = SIZE, **source: str) -> csi_pb2.Volume:
        asked = request(storage, name, size, **source)
        return ask(f"{name} to be whole", lambda: self.controller.CreateVolume(asked, timeout=20)).volume

    def snapshot(self, name: str, source: csi_pb2.Volume) -> None:
        asked = csi_pb2.CreateSnapshotRequest(name=name, source_volume_id=source.volume_id)

        def whole() -> bool:
            reply = ask("the snapshot", lambda: self.controller.CreateSnapshot(asked, timeout=30))
            return bool(reply.snapshot.ready_to_use)

        wait_until(f"{name} to be whole", whole, seconds=300)

    def delete(self, volume_id: str) -> None:
        asked = csi_pb2.DeleteVolumeRequest(volume_id=volume_id)
        ask(f"{volume_id} to be deleted", lambda: self.controller.DeleteVolume(asked, timeout=60))


def ask(what: str, call: Callable[[], T]) -> T:
    """Asks as the sidecars do: again, while the answer is that it goes on."""
    answers: list[T] = []

    def asked() -> bool:
        try:
            answers.append(call())
        except grpc.RpcError as error:
            assert error.code() in AGAIN, error
            return False
        return True

    wait_until(what, asked, seconds=300)
    return answers[0]


def request(storage: Storage, name: str, size: int, **source: str) -> csi_pb2.CreateVolumeRequest:
    mode = csi_pb2.VolumeCapability.AccessMode(mode=csi_pb2.VolumeCapability.AccessMode.MULTI_NODE_MULTI_WRITER)
    asked = csi_pb2.CreateVolumeRequest(
        name=name,
        capacity_range=csi_pb2.CapacityRange(required_bytes=size),
        volume_capabilities=[csi_pb2.VolumeCapability(mount=csi_pb2.VolumeCapability.MountVolume(), access_mode=mode)],
        parameters=to_parameters(storage),
    )
    if "volume_id" in source:
        asked.volume_content_source.volume.volume_id = source["volume_id"]
    if "snapshot_id" in source:
        asked.volume_content_source.snapshot.snapshot_id = source["snapshot_id"]
    return asked


@pytest.fixture(scope="module")
def program(brick_hosts: BrickHosts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    with served(brick_hosts, KINDS, tmp_path_factory.mktemp("clients")):
        for option in ("eager-lock", "other-eager-lock", "parallel-writes"):
            # as the mounter has it: the mounts of this test are gluster's own
            brick_hosts.gluster("volume", "set", "clones-dis", f"disperse.{option}", "off")
        brick_hosts.create_volume(ONE, "brick", ["brick1"])
        try:
            listed = "".join(f"{volume}\n" for volume in (*KINDS, ONE))
            brick_hosts.host("brick1").run(["tee", deb.LIST], input=listed)
            program = Program(tmp_path_factory.mktemp("controller"))
            yield program
            program.kill(signal.SIGTERM)
        finally:
            brick_hosts.delete_volume(ONE)


@pytest.fixture(params=STORAGES, ids=lambda storage: storage.name)
def storage(request: Any) -> Storage:
    storage: Storage = request.param
    return storage


@pytest.fixture
def mount(storage: Storage, tmp_path: Path) -> Iterator[Path]:
    with mounted(storage.volume, tmp_path / "mount") as mount:
        yield mount


def test_a_clone_and_a_restored_snapshot_are_what_their_source_was_under_limits_of_their_own(
    program: Program, storage: Storage, mount: Path
) -> None:
    source = program.create(storage, "source")
    make_everything(mount / pv_path(PvName("source")))
    program.snapshot("then", source)
    clone = program.create(storage, "clone", volume_id=source.volume_id)
    was = seen(mount / pv_path(PvName("source")))
    assert seen(mount / pv_path(PvName("clone"))) == was
    program.delete(source.volume_id)
    program.delete(clone.volume_id)
    restored = program.create(storage, "restored", 2 * SIZE, snapshot_id=f"{storage.name}/snapshot.then")
    path = mount / pv_path(PvName("restored"))
    assert seen(path) == was
    assert os.statvfs(path).f_blocks * os.statvfs(path).f_frsize == 2 * SIZE
    with pytest.raises(OSError, match="No space left") as full, (path / "too much").open("wb") as file:
        for _ in range(3 * SIZE // MIB):
            file.write(bytes(MIB))
            os.fsync(file.fileno())
    assert full.value.errno == errno.ENOSPC
    program.delete(restored.volume_id)
    gone = csi_pb2.DeleteSnapshotRequest(snapshot_id=f"{storage.name}/snapshot.then")
    ask("the snapshot to be deleted", lambda: program.controller.DeleteSnapshot(gone, timeout=60))


def test_a_full_pv_can_be_cloned_into_its_own_size(program: Program, storage: Storage, mount: Path) -> None:
    source = program.create(storage, "full")
    path = mount / pv_path(PvName("full"))
    written: list[Path] = []
    with pytest.raises(OSError, match="No space left"):
        for number in range(3 * SIZE // MIB):
            written.append(path / f"f{number}")
            with written[-1].open("wb") as file:
                file.write(os.urandom(MIB))
                os.fsync(file.fileno())
    written[-1].unlink()  # what a refused write leaves is not the same on every brick until it is healed
    clone = program.create(storage, "as-full", volume_id=source.volume_id)
    assert seen(mount / pv_path(PvName("as-full"))) == seen(path)
    for volume in (clone, source):
        program.delete(volume.volume_id)


def test_a_clone_is_whole_though_the_controller_is_killed_again_and_again(
    program: Program, storage: Storage, mount: Path
) -> None:
    source = program.create(storage, "long")
    path, target = mount / pv_path(PvName("long")), mount / pv_path(PvName("killed"))
    for number in range(40):
        (path / f"d{number % 4}").mkdir(exist_ok=True)
        (path / f"d{number % 4}/f{number}").write_bytes(os.urandom(100_000))
    for kills in (1, 2):
        begun = program.controller.CreateVolume.future(
            request(storage, "killed", SIZE, volume_id=source.volume_id), timeout=60
        )
        wait_until("a part", lambda: begun.done() or len(list(target.rglob("f*"))) >= kills * 10, seconds=300)  # noqa: B023
        program.kill()
        program.start()
    clone = program.create(storage, "killed", volume_id=source.volume_id)
    assert seen(target) == seen(path)
    for volume in (clone, source):
        program.delete(volume.volume_id)
