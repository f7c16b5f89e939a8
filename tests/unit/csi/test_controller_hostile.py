"""Whatever a request of the Controller service holds, the answer is a status of ours that says which field is wrong."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kadalu_ext.api import csi_pb2, csi_pb2_grpc
from kadalu_ext.csi.clients import Clients
from kadalu_ext.csi.controller import Controller
from kadalu_ext.csi.pools import Pools
from kadalu_ext.log import Logger
from kadalu_ext.storage import to_json, to_parameters
from kadalu_ext.storages import Storages
from kadalu_ext.units import MIB
from tests.messages import answer, check_answer, messages, request_type
from tests.unit.csi.memory import STORAGE, MemoryBricks, MemoryConnector, MemoryStore
from tests.unit.csi.test_params import capability, request

SERVED = sorted(name for name in vars(Controller) if name[0].isupper())
ALLOWED = {
    grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.ALREADY_EXISTS,
    grpc.StatusCode.OUT_OF_RANGE, grpc.StatusCode.ABORTED, grpc.StatusCode.UNAVAILABLE,
}  # fmt: skip

HOSTILE = st.one_of(
    st.text(max_size=300),
    st.sampled_from(
        ["", "/", "..", "\0", "ext/pvc-1", "ext-1/pvc-1", "ext/../../etc", "ext/pvc-1\n", "~", "-", "x" * 9000, "☃"]
    ),
)


class Context:
    """Of a call with a second left."""

    def time_remaining(self) -> float:
        return 1.5


CALL: Any = Context()


class Bed:
    """A controller with one storage, and the volume ext/pvc-1."""

    def __init__(self, directory: Path) -> None:
        (directory / "ext.json").write_text(to_json(STORAGE))
        self.store = MemoryStore()
        connector = MemoryConnector(self.store, MemoryBricks(self.store))
        self.clients = Clients(connector=connector, log=Logger("test"))
        self.controller: csi_pb2_grpc.ControllerServicer = Controller(  # type: ignore[abstract]
            storages=Storages(str(directory)),
            clients=self.clients,
            pools=Pools(connector=connector, log=Logger("test")),
        )
        self.controller.CreateVolume(request(), CALL)


@pytest.fixture(scope="module")
def bed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bed]:
    bed = Bed(tmp_path_factory.mktemp("storages"))
    yield bed
    bed.clients.close()


def check(bed: Bed, method: str, request: Message) -> None:
    check_answer(method, *answer(bed.controller, method, request, CALL), allowed=ALLOWED)


@pytest.mark.parametrize("method", SERVED)
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_request_of_anything_has_an_answer_of_ours(bed: Bed, method: str, data: st.DataObject) -> None:
    asked = data.draw(messages(request_type(method), HOSTILE))
    check(bed, method, asked)


@pytest.mark.parametrize("method", [method for method in SERVED if method != "ControllerGetCapabilities"])
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_right_request_with_one_field_of_something_else_has_too(bed: Bed, method: str, data: st.DataObject) -> None:
    right: dict[str, Any] = {
        "name": "pvc-1",
        "volume_id": "ext/pvc-1",
        "capacity_range": csi_pb2.CapacityRange(required_bytes=64 * MIB),
        "volume_capabilities": [capability()],
        "volume_capability": capability(),
        "parameters": to_parameters(STORAGE),
        "volume_context": to_parameters(STORAGE),
        "mutable_parameters": {"inodes": "1000"},
    }
    kind = request_type(method)
    names = sorted(kind.DESCRIPTOR.fields_by_name)
    asked = kind(**{name: right[name] for name in names if name in right})
    spoiled = data.draw(st.sampled_from(names))
    asked.ClearField(spoiled)
    asked.MergeFrom(data.draw(messages(kind, HOSTILE, only=spoiled)))
    check(bed, method, asked)
