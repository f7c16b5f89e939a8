"""Requests and replies, against what glusterd and bricks of gluster 10.3 really sent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kadalu_ext.errors import WireError
from kadalu_ext.gluster import messages, oncrpc, volfile, wiredict, xdr
from kadalu_ext.gluster.messages import Gfid, Refused, VolumeInfo, VolumeStatus
from kadalu_ext.record import RECORD_XATTR
from tests.unit.gluster.golden import wire

READERS: list[Callable[[bytes], Any]] = [
    messages.read_getspec_reply,
    messages.read_get_volume_reply,
    messages.read_port_by_brick_reply,
    messages.read_setvolume_reply,
    messages.read_lookup_reply,
    messages.read_statfs_reply,
    lambda body: messages.read_getxattr_reply(body, RECORD_XATTR),
]


def volume(name: str) -> VolumeInfo:
    info = messages.read_get_volume_reply(wire(f"get-volume-{name}.reply"))
    assert isinstance(info, VolumeInfo)
    return info


def test_requests_are_what_glusterd_answered() -> None:
    assert messages.getspec_request("one") == wire("getspec-one.request")
    assert messages.get_volume_request("rep") == wire("get-volume-rep.request")
    assert messages.port_by_brick_request("/run/b/1/rep") == wire("port-by-brick.request")


def test_requests_are_what_a_brick_answered() -> None:
    assert messages.lookup_request(messages.ROOT_GFID, "subvol") == wire("lookup.request")
    gfid = messages.read_lookup_reply(wire("lookup.reply"))
    assert isinstance(gfid, bytes)
    assert messages.statfs_request(Gfid(gfid)) == wire("statfs.request")
    asked = wire("getxattr.request")
    assert messages.getxattr_request(Gfid(asked[:16]), RECORD_XATTR) == asked


def test_a_volfile_is_read() -> None:
    text = messages.read_getspec_reply(wire("getspec-one.reply"))
    assert isinstance(text, str)
    assert volfile.parse(text).xlators[0].name == "one-client-0"


def test_volumes_that_do_not_exist_are_refused_each_call_in_its_way() -> None:
    assert messages.read_getspec_reply(wire("getspec-missing.reply")) == Refused(errno=2)
    refused = messages.read_get_volume_reply(wire("get-volume-missing.reply"))
    assert refused == Refused(errno=messages.EG_NOVOL, message="Volume does not exist")


def test_a_replicate_volume_is_read() -> None:
    info = volume("rep")
    assert (info.name, info.status, info.type, info.replica_count) == ("rep", VolumeStatus.STARTED, 2, 3)
    assert [(brick.host, brick.path, brick.arbiter) for brick in info.bricks] == [
        (f"10.99.0.{n}", f"/run/b/{n}/rep", False) for n in (1, 2, 3)
    ]
    assert info.options["user.kadalu-ext.export"] == "on"


def test_arbiter_disperse_and_stopped_volumes_are_read() -> None:
    assert [brick.arbiter for brick in volume("arb").bricks] == [False, False, True]
    assert (volume("ec").disperse_count, volume("ec").redundancy_count) == (3, 1)
    assert volume("halt").status is VolumeStatus.STOPPED


def test_a_bricks_port_is_read_and_a_brick_that_does_not_run_has_none() -> None:
    assert messages.read_port_by_brick_reply(wire("port-by-brick.reply")) == 60988
    assert messages.read_port_by_brick_reply(wire("port-by-brick-down.reply")) is None


def test_a_login_is_read_and_so_are_its_refusals() -> None:
    accepted = messages.read_setvolume_reply(wire("setvolume.reply"))
    assert isinstance(accepted, dict)
    assert accepted["child_up"] == "1"
    assert messages.read_setvolume_reply(wire("setvolume-auth.reply")) == Refused(
        errno=13, message="Authentication failed"
    )
    other = messages.read_setvolume_reply(wire("setvolume-other-volume.reply"))
    assert isinstance(other, Refused)
    assert other.message.startswith("Volume-ID different")


def test_statfs_of_a_brick_is_read() -> None:
    stat = messages.read_statfs_reply(wire("statfs.reply"))
    assert isinstance(stat, messages.StatFs)
    assert (stat.fragment_bytes, stat.blocks * stat.fragment_bytes) == (4096, 256 << 20)


def test_an_attribute_of_a_brick_is_read_and_one_that_is_not_there_is_refused() -> None:
    value = messages.read_getxattr_reply(wire("getxattr.reply"), RECORD_XATTR)
    assert value == b'{"v":1,"path":"subvol/7c/15/kadalu-canary","size":4194304}'
    assert messages.read_getxattr_reply(wire("getxattr-missing.reply"), "user.nothing") == Refused(errno=61)
    with pytest.raises(WireError, match=r"has no user\.other"):
        messages.read_getxattr_reply(wire("getxattr.reply"), "user.other")


def test_a_name_that_a_brick_does_not_have_is_refused() -> None:
    assert messages.read_lookup_reply(wire("lookup-missing.reply")) == Refused(errno=2)


def test_our_fetchspec_is_glusterds() -> None:
    theirs = oncrpc.decode(wire("fetchspec.record"))
    ours = oncrpc.decode(messages.fetchspec_call(9))
    assert isinstance(theirs, oncrpc.Call)
    assert isinstance(ours, oncrpc.Call)
    assert (ours.xid, ours.procedure, ours.args) == (9, theirs.procedure, theirs.args)


@given(st.text(st.characters(codec="utf-8"), max_size=60))
def test_what_a_volfile_server_answers_is_read_by_its_client(text: str) -> None:
    assert messages.read_getspec_reply(messages.getspec_reply(text)) == text
    assert messages.read_getspec_reply(messages.getspec_refusal(2)) == Refused(errno=2)


@pytest.mark.parametrize("reader", READERS)
@given(body=st.binary(max_size=80))
def test_any_bytes_are_a_message_or_a_wire_error(reader: Callable[[bytes], Any], body: bytes) -> None:
    try:
        reader(body)
    except WireError:
        pass


CUT = ["getspec-one", "get-volume-rep", "port-by-brick", "setvolume", "lookup", "statfs", "getxattr"]


@pytest.mark.parametrize(("reader", "name"), list(zip(READERS, CUT, strict=True)))
@given(draw=st.data())
def test_a_reply_that_is_cut_short_is_refused(reader: Callable[[bytes], Any], name: str, draw: st.DataObject) -> None:
    body = wire(f"{name}.reply")
    with pytest.raises(WireError):
        reader(body[: draw.draw(st.integers(0, len(body) // 2 // 4 * 4))])


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("volume0.status", b"9"),
        ("volume0.type", b"x"),
        ("volume0.brick1", b"10.99.0.1"),
        ("count", b"9" * 5000),
        ("volume0.volume_id", b"x" * 36),
    ],
)
def test_a_volume_with_a_nonsensical_value_is_refused(key: str, value: bytes) -> None:
    reader = xdr.Reader(wire("get-volume-rep.reply"))
    head = reader.fixed(8) + xdr.opaque(reader.opaque())
    pairs = wiredict.decode(reader.opaque())
    body = head + xdr.opaque(wiredict.encode({**pairs, key: value + b"\0"}))
    with pytest.raises(WireError, match="glusterd"):
        messages.read_get_volume_reply(body)


def test_of_what_a_server_says_not_any_length_goes_on() -> None:
    words = xdr.string("x" * 100_000)
    refused = messages.read_get_volume_reply(xdr.i32(-1) + xdr.i32(5) + words + xdr.opaque(b""))
    assert isinstance(refused, messages.Refused)
    assert len(refused.message) == 500
