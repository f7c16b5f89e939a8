"""Every call as it really was on the wire: what we send, byte for byte, and what we make of what comes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kadalu_ext.errors import WireError
from kadalu_ext.gluster import messages, oncrpc
from kadalu_ext.gluster.messages import Gfid, Peer, Refused
from kadalu_ext.gluster.oncrpc import Accepted, Credential, Deframer, Procedure
from tests import wire

VOLUME_ID = "00000000-0000-4000-8000-000000000001"
NONE, V3 = oncrpc.AUTH_NONE, oncrpc.AUTH_GLUSTERFS_V3


def directory() -> Gfid:
    gfid = messages.read_lookup_reply(wire.load("lookup").body)
    assert isinstance(gfid, bytes)
    return Gfid(gfid)


LOGIN = messages.setvolume_request(
    volume=wire.VOLUME, volume_id=VOLUME_ID, path=wire.BRICK, process_uuid=wire.PROCESS
)  # fmt: skip
ROOT = messages.ROOT_GFID
CALLS: dict[str, tuple[Procedure, Credential, bytes]] = {
    "getspec": (messages.GETSPEC, NONE, messages.getspec_request("wire")),
    "getspec-missing": (messages.GETSPEC, NONE, messages.getspec_request("missing")),
    "get-volume": (messages.GET_VOLUME, NONE, messages.get_volume_request("wire")),
    "get-volume-missing": (messages.GET_VOLUME, NONE, messages.get_volume_request("missing")),
    "get-volume-info": (messages.GET_VOLUME_INFO, NONE, messages.get_volume_info_request("wire")),
    "get-volume-info-missing": (messages.GET_VOLUME_INFO, NONE, messages.get_volume_info_request("missing")),
    "list-peers": (messages.LIST_PEERS, NONE, messages.list_peers_request()),
    "port-by-brick": (messages.PORTBYBRICK, NONE, messages.port_by_brick_request(wire.BRICK)),
    "port-by-brick-missing": (messages.PORTBYBRICK, NONE, messages.port_by_brick_request("/bricks/missing")),
    "setvolume": (messages.SETVOLUME, V3, LOGIN),
    "lookup": (messages.LOOKUP, V3, messages.lookup_request(ROOT, wire.DIRECTORY)),
    "lookup-missing": (messages.LOOKUP, V3, messages.lookup_request(ROOT, "missing")),
    "statfs": (messages.STATFS, V3, messages.statfs_request(directory())),
    "getxattr": (messages.GETXATTR, V3, messages.getxattr_request(directory(), wire.ATTRIBUTE)),
    "getxattr-missing": (messages.GETXATTR, V3, messages.getxattr_request(directory(), "user.missing")),
}
REFUSED = {
    "getspec-missing": 2, "get-volume-missing": messages.EG_NOVOL, "get-volume-info-missing": 22,
    "lookup-missing": 2, "getxattr-missing": 61,
}  # fmt: skip


def result(name: str) -> Any:
    return wire.load(name).result


def test_every_call_that_is_recorded_is_looked_at() -> None:
    assert wire.names() == sorted(CALLS)


@pytest.mark.parametrize("name", CALLS)
def test_what_is_sent_is_what_was_answered(name: str) -> None:
    procedure, credential, args = CALLS[name]
    sent = wire.load(name).sent
    xid = int.from_bytes(sent[4:8], "big")
    assert oncrpc.frame(oncrpc.encode_call(xid, procedure, args, credential)) == sent


@pytest.mark.parametrize("name", CALLS)
def test_a_reply_reads_alike_in_one_piece_byte_by_byte_and_with_more_behind_it(name: str) -> None:
    received = wire.load(name).received
    bodies = []
    for pieces in ([received], [bytes([byte]) for byte in received], [received + received[:-1]]):
        deframer, records = Deframer(), list[bytes]()
        for piece in pieces:
            deframer.feed(piece)
            records.extend(iter(deframer.next_record, None))
        assert len(records) == 1
        message = oncrpc.decode(records[0])
        assert isinstance(message, Accepted)
        bodies.append(message.body)
    assert bodies == [wire.load(name).body] * 3


@pytest.mark.parametrize("name", sorted(set(CALLS) - set(REFUSED) - {"port-by-brick", "port-by-brick-missing"}))
@given(draw=st.data())
def test_a_length_of_4_gib_anywhere_is_read_or_refused(name: str, draw: st.DataObject) -> None:
    body = wire.load(name).body
    at = draw.draw(st.integers(0, len(body) // 4 - 1)) * 4
    length = draw.draw(st.sampled_from([b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x80\0\0\0"]))
    try:
        wire.READERS[name.removesuffix("-missing")](body[:at] + length + body[at + 4 :])
    except WireError:
        pass


@pytest.mark.parametrize(("name", "errno"), REFUSED.items())
def test_each_refusal_has_its_number(name: str, errno: int) -> None:
    refused = result(name)
    assert isinstance(refused, Refused)
    assert refused.errno == errno


def test_what_is_told_is_read() -> None:
    assert result("getspec").startswith("volume wire-client-0\n")
    assert (result("get-volume").volume_id, result("get-volume-info")) == (VOLUME_ID, VOLUME_ID)
    assert (result("get-volume").replica_count, result("get-volume").thin_arbiter_count) == (3, 0)
    assert result("port-by-brick") > 0
    assert result("port-by-brick-missing") is None
    assert result("setvolume")["child_up"] == "1"
    assert result("statfs").blocks > 0
    assert result("getxattr") == b"value"


def test_a_hosts_peers_are_read_itself_among_them() -> None:
    peers = result("list-peers")
    assert [(peer.hostname, peer.connected) for peer in peers] == [
        ("brick3", True),
        ("brick2", True),
        ("localhost", True),
    ]
    assert peers[0] == Peer(hostname="brick3", uuid="00000000-0000-4000-8000-000000000002", connected=True)


def test_uuids_are_replaced_each_by_one_of_its_own() -> None:
    real, other, known = (
        b"8e57f9ae-e6c1-4415-9617-31bfa6eee567",
        b"8ce5bdfa-6c27-4c32-82ca-068049c6e9cf",
        dict[bytes, bytes](),
    )
    first = wire.made_up(real + other + real, known)
    assert first == b"".join(known[each] for each in (real, other, real))
    assert wire.made_up(first, known) == first
