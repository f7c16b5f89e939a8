"""What the node plugin makes of the mounter's answers, over a real socket."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from kadalu_ext import rpc
from kadalu_ext.api import mounter_pb2, mounter_pb2_grpc
from kadalu_ext.csi.mounterclient import MounterClient
from kadalu_ext.errors import (
    HostUnreachableError,
    InProgressError,
    KadaluExtError,
    MounterError,
    NotFoundError,
    UnsupportedVolumeError,
    VolumeStoppedError,
)
from kadalu_ext.log import Logger
from kadalu_ext.storage import Storage, StorageName

EXT = Storage(name=StorageName("ext"), hosts=("h1", "h2"), volume="vol", options={"log-level": "DEBUG"})


class Servicer(mounter_pb2_grpc.MounterServicer):
    """Says what it is told to."""

    error: KadaluExtError | None = None
    asked: mounter_pb2.MountRequest | None = None

    def Mount(self, request: mounter_pb2.MountRequest, context: object) -> mounter_pb2.MountResponse:  # noqa: N802
        self.asked = request
        if self.error is not None:
            raise self.error
        return mounter_pb2.MountResponse(path="/m")


@pytest.fixture
def servicer(tmp_path: Path) -> Iterator[Servicer]:
    servicer = Servicer()  # type: ignore[abstract]
    server = rpc.serve_unix(str(tmp_path / "m.sock"), log=Logger("test"), workers=2)
    mounter_pb2_grpc.add_MounterServicer_to_server(servicer, server)
    server.start()
    yield servicer
    server.stop(None).wait()


@pytest.fixture
def client(tmp_path: Path) -> MounterClient:
    return MounterClient(str(tmp_path / "m.sock"))


def test_the_whole_storage_is_handed_over(servicer: Servicer, client: MounterClient) -> None:
    assert client.mount(EXT, timeout_s=10) == "/m"
    asked = servicer.asked
    assert asked is not None
    assert (asked.storage, list(asked.hosts), asked.volume) == ("ext", ["h1", "h2"], "vol")
    assert dict(asked.options) == {"log-level": "DEBUG"}


@pytest.mark.parametrize(
    ("told", "raised"),
    [
        (NotFoundError("no volume"), NotFoundError),
        (UnsupportedVolumeError("sharded"), UnsupportedVolumeError),
        (InProgressError("busy"), InProgressError),
        (VolumeStoppedError("stopped"), MounterError),
        (HostUnreachableError("silent"), MounterError),
    ],
)
def test_an_error_keeps_its_message_and_what_callers_tell_apart(
    servicer: Servicer, client: MounterClient, told: KadaluExtError, raised: type[KadaluExtError]
) -> None:
    servicer.error = told
    with pytest.raises(raised, match=str(told)):
        client.mount(EXT, timeout_s=10)


def test_a_mounter_that_is_not_there_is_named_and_found_as_soon_as_it_is(client: MounterClient, tmp_path: Path) -> None:
    with pytest.raises(MounterError, match=r"does not listen on .*m\.sock; is the pod kadalu-ext-mounter"):
        client.mount(EXT, timeout_s=10)
    server = rpc.serve_unix(str(tmp_path / "m.sock"), log=Logger("test"), workers=2)
    mounter_pb2_grpc.add_MounterServicer_to_server(Servicer(), server)  # type: ignore[abstract]
    server.start()
    assert client.mount(EXT, timeout_s=60) == "/m"
    server.stop(None).wait()
