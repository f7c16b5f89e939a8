"""Whatever a request of the Node service holds, the answer is a status of ours that says which field is wrong."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest
from google.protobuf.message import Message
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kadalu_ext import rpc
from kadalu_ext.api import csi_pb2
from tests.messages import answer, check_answer, messages, request_type

from .test_node import CALL, CONTEXT, Bed, capability

SERVED = (
    "NodeStageVolume", "NodeUnstageVolume", "NodePublishVolume", "NodeUnpublishVolume", "NodeGetVolumeStats",
    "NodeGetVolumeHealth", "NodeGetStorageHealth", "NodeGetCapabilities", "NodeGetInfo",
)  # fmt: skip
ALLOWED = {
    grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.ALREADY_EXISTS, grpc.StatusCode.UNAVAILABLE,
}  # fmt: skip

HOSTILE = st.one_of(
    st.text(max_size=300),
    st.sampled_from(
        ["", "/", "..", "\0", "ext/pv-1", "ext-1/pv-1", "ext/../../etc", "ext/pv-1\n", "-", "x" * 9000, "☃"]
    ),
)


@pytest.fixture(scope="module")
def bed(tmp_path_factory: pytest.TempPathFactory) -> Bed:
    return Bed(tmp_path_factory.mktemp("bed"))


def check(bed: Bed, method: str, request: Message) -> None:
    check_answer(method, *answer(bed.node, method, request, CALL), allowed=ALLOWED | {grpc.StatusCode.OK})


@pytest.mark.parametrize("method", SERVED)
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_request_of_anything_has_an_answer_of_ours(bed: Bed, method: str, data: st.DataObject) -> None:
    request = data.draw(messages(request_type(method), HOSTILE))
    check(bed, method, request)


@pytest.mark.parametrize(
    "method", ["NodeStageVolume", "NodePublishVolume", "NodeUnpublishVolume", "NodeGetVolumeStats"]
)
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_right_request_with_one_field_of_something_else_has_too(bed: Bed, method: str, data: st.DataObject) -> None:
    right = {
        "volume_id": "ext/pv-1",
        "staging_target_path": bed.staging,
        "target_path": bed.target,
        "volume_path": bed.target,
        "volume_capability": capability(),
        "volume_context": CONTEXT,
    }
    kind = request_type(method)
    names = sorted(kind.DESCRIPTOR.fields_by_name)
    request = kind(**{name: right[name] for name in names if name in right})
    spoiled = data.draw(st.sampled_from(names))
    request.ClearField(spoiled)
    request.MergeFrom(data.draw(messages(kind, HOSTILE, only=spoiled)))
    check(bed, method, request)


def test_a_secret_is_in_no_answer_and_in_no_line_of_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bed = Bed(tmp_path)
    secret = {"password": "hunter2"}
    bed.stage(secrets=secret)
    request = csi_pb2.NodeStageVolumeRequest(volume_id="ext/none", secrets=secret, staging_target_path=bed.staging)
    assert (
        "hunter2" not in f"{answer(bed.node, 'NodeStageVolume', request, CALL)} {rpc._identity(request)} {caplog.text}"
    )
