"""Gluster's dictionary on the wire."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kadalu_ext.errors import WireError
from kadalu_ext.gluster import wiredict, xdr

KEYS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)
DICTS = st.dictionaries(KEYS, st.binary(max_size=20), max_size=6)


@given(DICTS, st.binary(max_size=8))
def test_a_dictionary_is_read_as_it_was_written(pairs: dict[str, bytes], trailing: bytes) -> None:
    assert wiredict.decode(wiredict.encode(pairs) + trailing) == pairs


@given(DICTS.filter(bool), st.data())
def test_a_dictionary_that_is_cut_short_is_refused(pairs: dict[str, bytes], draw: st.DataObject) -> None:
    data = wiredict.encode(pairs)
    with pytest.raises(WireError):
        wiredict.decode(data[: draw.draw(st.integers(1, len(data) - 1))])


@given(st.binary(max_size=60))
def test_any_bytes_are_a_dictionary_or_a_wire_error(data: bytes) -> None:
    try:
        wiredict.decode(data)
    except WireError:
        pass


@pytest.mark.parametrize("data", [b"", b"\xff\xff\xff\xff", b"\0\0\0\0"])
def test_no_dictionary_is_an_empty_one(data: bytes) -> None:
    assert wiredict.decode(data) == {}


@pytest.mark.parametrize(
    "pair",
    [
        b"\xff\xff\xff\xff\0\0\0\0",  # a key of -1 bytes
        b"\x7f\xff\xff\xff\0\0\0\0",
        b"\0\0\0\1\xff\xff\xff\xffk\0",  # a value of -1 bytes
        b"\0\0\0\1\0\0\0\1k!v",  # a key without its NUL
    ],
)
def test_a_broken_pair_is_refused(pair: bytes) -> None:
    with pytest.raises(WireError, match="pair 0 is broken"):
        wiredict.decode(b"\0\0\0\1" + pair)


def test_text_and_numbers_carry_a_nul_that_counts() -> None:
    data = wiredict.encode_text({"flags": 1})
    assert data == bytes.fromhex("00000001 00000005 00000002") + b"flags\0" + b"1\0"
    assert wiredict.decode_text(data) == {"flags": "1"}


def test_a_key_with_a_nul_is_not_sent() -> None:
    with pytest.raises(WireError, match="NUL"):
        wiredict.encode({"a\0b": b""})


def test_a_typed_dictionary_is_read_whatever_its_values_are() -> None:
    pairs = [(b"number\0", 2, bytes(8)), (b"stat", 8, bytes(148)), (b"text\0", 5, xdr.opaque(b"x"))]
    data = xdr.u32(0) + xdr.i32(3) + xdr.u32(3) + b"".join(xdr.opaque(k) + xdr.u32(t) + v for k, t, v in pairs)
    reader = xdr.Reader(data + b"next")
    assert wiredict.read_typed(reader) == {"number": bytes(8), "stat": bytes(148), "text": b"x"}
    assert reader.rest() == b"next"


def test_a_typed_dictionary_with_an_unknown_type_is_refused() -> None:
    with pytest.raises(WireError, match="unknown type 99"):
        wiredict.read_typed(xdr.Reader(xdr.u32(0) + xdr.i32(1) + xdr.u32(1) + xdr.opaque(b"k") + xdr.u32(99)))


@given(st.binary(max_size=100))
def test_any_bytes_are_a_typed_dictionary_or_a_wire_error(data: bytes) -> None:
    try:
        wiredict.read_typed(xdr.Reader(data))
    except WireError:
        pass
