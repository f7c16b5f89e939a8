"""Records and messages: whole, byte by byte, with bytes trailing, and hostile."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kadalu_ext.errors import WireError
from kadalu_ext.gluster import oncrpc, xdr
from kadalu_ext.gluster.oncrpc import Accepted, Call, Deframer, Procedure, Rejected
from tests.unit.gluster import golden

U32 = st.integers(0, 2**32 - 1)
PROCEDURES = st.builds(Procedure, program=U32, version=U32, number=U32)
RECORDS = st.lists(st.binary(max_size=30), min_size=1, max_size=5)


def pieces(stream: bytes, size: int) -> list[bytes]:
    return [stream[at : at + size] for at in range(0, len(stream), size)]


def records(deframer: Deframer) -> list[bytes]:
    return list(iter(deframer.next_record, None))


@given(RECORDS, st.integers(1, 40))
def test_records_come_out_as_they_went_in_whatever_the_pieces(sent: list[bytes], size: int) -> None:
    deframer, received = Deframer(), list[bytes]()
    for piece in pieces(b"".join(map(oncrpc.frame, sent)), size):
        deframer.feed(piece)
        received += records(deframer)
    assert received == sent


@given(st.binary(min_size=1, max_size=30), st.integers(1, 30))
def test_a_record_of_several_fragments_is_put_together(record: bytes, size: int) -> None:
    *first, last = pieces(record, size)
    deframer = Deframer()
    for fragment in first:
        deframer.feed(xdr.u32(len(fragment)) + fragment)
        assert deframer.next_record() is None
    deframer.feed(oncrpc.frame(last))
    assert records(deframer) == [record]


def test_bytes_of_the_next_record_wait_for_its_end() -> None:
    deframer = Deframer()
    deframer.feed(oncrpc.frame(b"one") + oncrpc.frame(b"two")[:-1])
    assert records(deframer) == [b"one"]
    deframer.feed(b"o")
    assert records(deframer) == [b"two"]


@pytest.mark.parametrize("header", [b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x80\x00\x00\x09", b"\x00\x00\x00\x09"])
def test_a_length_beyond_the_limit_is_refused_at_its_header(header: bytes) -> None:
    deframer = Deframer(max_bytes=8)
    deframer.feed(header)
    with pytest.raises(WireError, match="more than 8 bytes"):
        deframer.next_record()


def test_fragments_that_together_exceed_the_limit_are_refused() -> None:
    deframer = Deframer(max_bytes=8)
    deframer.feed(xdr.u32(5) + b"12345" + xdr.u32(4))
    with pytest.raises(WireError, match="more than 8 bytes"):
        deframer.next_record()


def test_what_glusterd_would_refuse_is_not_sent() -> None:
    with pytest.raises(WireError, match="larger"):
        oncrpc.frame(bytes(oncrpc.MAX_RECORD_BYTES + 1))


@given(U32, PROCEDURES, st.binary(max_size=40), st.sampled_from([oncrpc.AUTH_NONE, oncrpc.AUTH_GLUSTERFS_V3]))
def test_a_call_is_read_as_it_was_written(xid: int, procedure: Procedure, args: bytes, auth: oncrpc.Credential) -> None:
    record = oncrpc.encode_call(xid, procedure, args, auth)
    assert oncrpc.decode(record) == Call(xid=xid, procedure=procedure, args=args)


@given(U32, st.binary(max_size=40))
def test_a_reply_is_read_as_it_was_written(xid: int, body: bytes) -> None:
    assert oncrpc.decode(oncrpc.encode_reply(xid, body)) == Accepted(xid=xid, body=body)


def test_a_procedure_that_is_not_served_is_answered_with_a_reason() -> None:
    rejected = Rejected(xid=7, reason="it does not serve this procedure")
    assert oncrpc.decode(oncrpc.encode_unavailable(7)) == rejected


def test_a_brick_that_denies_unprivileged_ports_is_understood() -> None:
    answer = oncrpc.decode(golden.wire("denied.record"))
    assert isinstance(answer, Rejected)
    assert "server.allow-insecure" in answer.reason


@given(st.binary(max_size=60))
def test_any_bytes_are_a_message_or_a_wire_error(record: bytes) -> None:
    try:
        oncrpc.decode(record)
    except WireError:
        pass


@given(st.data())
def test_a_call_that_is_cut_short_is_refused(draw: st.DataObject) -> None:
    record = oncrpc.encode_call(1, Procedure(program=1, version=2, number=3), b"", oncrpc.AUTH_GLUSTERFS_V3)
    with pytest.raises(WireError):
        oncrpc.decode(record[: draw.draw(st.integers(0, len(record) - 1))])


@pytest.mark.parametrize(
    "record",
    [
        xdr.u32(1) + xdr.u32(2),  # neither call nor reply
        xdr.u32(1) + xdr.u32(0) + xdr.u32(3),  # RPC version 3
        xdr.u32(1) + xdr.u32(1) + xdr.u32(2),  # neither accepted nor denied
    ],
)
def test_what_is_not_rpc_version_2_is_refused(record: bytes) -> None:
    with pytest.raises(WireError, match="RPC"):
        oncrpc.decode(record)
