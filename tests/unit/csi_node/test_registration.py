"""kubelet's side of the registration, played over the real socket."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from kadalu_ext.api import pluginregistration_pb2 as pb
from kadalu_ext.api import pluginregistration_pb2_grpc as pb_grpc
from kadalu_ext.csi import registration
from kadalu_ext.csi.registration import Registration
from kadalu_ext.log import Logger


@pytest.fixture
def socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The registration's socket, looked after every few milliseconds."""
    monkeypatch.setattr(registration, "CHECK_S", 0.01)
    stop = threading.Event()
    service = Registration(str(tmp_path / "registry"), "/k/csi.sock", Logger("test"))
    thread = threading.Thread(target=service.keep, args=(stop,))
    thread.start()
    path = tmp_path / "registry" / "kadalu.external-reg.sock"
    wait_until(path.exists)
    yield path
    stop.set()
    thread.join()
    assert not path.exists()


def wait_until(condition: object) -> None:
    pause = threading.Event()
    for _ in range(6000):
        if callable(condition) and condition():
            return
        pause.wait(0.01)
    raise AssertionError("it did not happen within a minute")


def ask(path: Path) -> pb.PluginInfo:
    with grpc.insecure_channel(f"unix:{path}") as channel:
        return pb_grpc.RegistrationStub(channel).GetInfo(pb.InfoRequest(), timeout=10, wait_for_ready=True)


def notify(path: Path, status: pb.RegistrationStatus) -> None:
    with grpc.insecure_channel(f"unix:{path}") as channel:
        pb_grpc.RegistrationStub(channel).NotifyRegistrationStatus(status, timeout=10)


def test_kubelet_is_told_name_endpoint_and_version(socket: Path) -> None:
    info = ask(socket)
    assert (info.type, info.name, info.endpoint) == ("CSIPlugin", "kadalu.external", "/k/csi.sock")
    assert list(info.supported_versions) == ["1.0.0"]


def test_a_socket_that_somebody_removed_is_made_anew(socket: Path) -> None:
    os.unlink(socket)
    os.rmdir(socket.parent)
    wait_until(socket.exists)
    assert ask(socket).name == "kadalu.external"


def test_a_socket_that_is_removed_as_soon_as_it_is_made_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registration, "CHECK_S", 0.01)
    service, stop = Registration(str(tmp_path), "/k/csi.sock", Logger("test")), threading.Event()
    path = tmp_path / "kadalu.external-reg.sock"
    inode_now, removed = service._inode_now, threading.Event()

    def unlucky() -> int:
        if not removed.is_set():
            os.unlink(path)
            removed.set()
        return inode_now()

    monkeypatch.setattr(service, "_inode_now", unlucky)
    thread = threading.Thread(target=service.keep, args=(stop,))
    thread.start()
    assert removed.wait(10)
    try:
        wait_until(path.exists)
    finally:
        stop.set()
        thread.join()


def test_after_a_refusal_kubelet_sees_a_new_socket(socket: Path) -> None:
    before = os.stat(socket).st_ctime_ns
    notify(socket, pb.RegistrationStatus(plugin_registered=True))
    notify(socket, pb.RegistrationStatus(plugin_registered=False, error="NodeGetInfo failed"))
    wait_until(lambda: socket.exists() and os.stat(socket).st_ctime_ns != before)
    assert ask(socket).name == "kadalu.external"
