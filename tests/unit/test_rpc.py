"""One table from errors to gRPC codes, and nothing of a crash but a sentence for the caller."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from kadalu_ext import errors, rpc
from kadalu_ext.log import Logger, configure


def leaves(cls: type[errors.KadaluExtError]) -> Iterator[type[errors.KadaluExtError]]:
    children = cls.__subclasses__()
    if not children:
        yield cls
    for child in children:
        yield from leaves(child)


@pytest.mark.parametrize("leaf", list(leaves(errors.KadaluExtError)), ids=lambda leaf: leaf.__name__)
def test_every_error_has_a_code_of_its_own_or_its_parents(leaf: type[errors.KadaluExtError]) -> None:
    assert any(cls in rpc.CODES for cls in leaf.__mro__)


def test_what_is_not_ours_is_internal() -> None:
    assert rpc.code_of(ZeroDivisionError()) is grpc.StatusCode.INTERNAL


class Raises(grpc.GenericRpcHandler):
    """A server of one method that raises what it is told to."""

    def __init__(self, error: Exception | None) -> None:
        self.error = error

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes]:
        return grpc.unary_unary_rpc_method_handler(self.answer)

    def answer(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        if self.error is not None:
            raise self.error
        return request


def call(tmp_path: Path, error: Exception | None) -> bytes:
    socket = str(tmp_path / "s")
    server = rpc.serve_unix(socket, log=Logger("test"), workers=1)
    server.add_generic_rpc_handlers((Raises(error),))
    server.start()
    try:
        with grpc.insecure_channel(f"unix:{socket}") as channel:
            method: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary("/x.Y/Do")
            return method(b"hello", timeout=10)
    finally:
        server.stop(None).wait()


def test_an_error_reaches_the_caller_with_its_whole_message(tmp_path: Path) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        call(tmp_path, errors.NotEnforcedError("brick1:/bricks/x: start kadalu-quotad"))
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert caught.value.details() == "brick1:/bricks/x: start kadalu-quotad"


def test_a_crash_tells_the_caller_where_to_look_and_nothing_else(tmp_path: Path) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        call(tmp_path, ZeroDivisionError("secret"))
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert "secret" not in str(caught.value.details())


def test_a_call_that_is_not_served_says_so(tmp_path: Path) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        call(tmp_path, NotImplementedError())
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_an_answer_passes_through(tmp_path: Path) -> None:
    assert call(tmp_path, None) == b"hello"


def test_a_log_line_is_one_json_object_with_its_fields(capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    try:
        configure("INFO")
        Logger("kadalu_ext.test").info("claim bound", volume_id="ext/pvc-1", name="shadowed")
    finally:
        root.handlers[:] = before
        root.setLevel(level)
    event = json.loads(capsys.readouterr().err)
    assert (event["event"], event["volume_id"], event["name_"]) == ("claim bound", "ext/pvc-1", "shadowed")
