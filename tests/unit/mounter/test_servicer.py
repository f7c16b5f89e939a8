"""The mounter's gRPC service: what a request may say."""

from __future__ import annotations

from pathlib import Path

import pytest

from kadalu_ext.api import mounter_pb2
from kadalu_ext.errors import InvalidInputError
from kadalu_ext.mounter.servicer import MounterServicer
from kadalu_ext.mounter.storages import Storages
from kadalu_ext.storage import Storage, StorageName


class Recorder(Storages):
    """Mounts nothing, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[Storage] = []

    def mount(self, storage: Storage) -> str:
        self.asked.append(storage)
        return "/m"


def test_a_request_is_the_storage_that_the_operator_wrote(tmp_path: Path) -> None:
    storages = Recorder()
    request = mounter_pb2.MountRequest(storage="ext", hosts=["h1", "h2"], volume="vol", options={"log-level": "DEBUG"})
    assert MounterServicer(storages).Mount(request, None).path == "/m"  # type: ignore[arg-type]
    assert storages.asked == [
        Storage(name=StorageName("ext"), hosts=("h1", "h2"), volume="vol", options={"log-level": "DEBUG"})
    ]


@pytest.mark.parametrize(
    "request_",
    [
        mounter_pb2.MountRequest(storage="../x", hosts=["h"], volume="v"),
        mounter_pb2.MountRequest(storage="x", hosts=["-rf"], volume="v"),
        mounter_pb2.MountRequest(storage="x", hosts=[], volume="v"),
        mounter_pb2.MountRequest(storage="x", hosts=["h"], volume="a/b"),
        mounter_pb2.MountRequest(storage="x", hosts=["h"], volume="v", options={"log-level": "a,log-file=/etc/passwd"}),
    ],
)
def test_names_that_are_none_go_no_further(request_: mounter_pb2.MountRequest) -> None:
    storages = Recorder()
    with pytest.raises(InvalidInputError):
        MounterServicer(storages).Mount(request_, None)  # type: ignore[arg-type]
    assert storages.asked == []
