"""XDR items: there and back, and cut short."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kadalu_ext.errors import WireError
from kadalu_ext.gluster import xdr
from kadalu_ext.gluster.xdr import Reader


@given(st.integers(0, 2**32 - 1), st.integers(-(2**31), 2**31 - 1), st.binary(max_size=50), st.text(max_size=50))
def test_items_are_read_as_they_were_written(unsigned: int, signed: int, data: bytes, text: str) -> None:
    text = text.encode("utf-8", "replace").decode()
    written = xdr.u32(unsigned) + xdr.i32(signed) + xdr.opaque(data) + xdr.string(text) + b"rest"
    reader = Reader(written)
    assert len(written) % 4 == 0
    assert (reader.u32(), reader.i32(), reader.opaque(), reader.string(), reader.rest()) == (
        unsigned,
        signed,
        data,
        text,
        b"rest",
    )


@given(st.binary(min_size=1, max_size=50), st.data())
def test_an_opaque_that_is_cut_short_is_refused(data: bytes, draw: st.DataObject) -> None:
    written = xdr.opaque(data)
    cut = draw.draw(st.integers(0, len(written) - 1))
    with pytest.raises(WireError):
        Reader(written[:cut]).opaque()


def test_a_length_of_all_ones_is_refused_and_nothing_is_allocated_for_it() -> None:
    with pytest.raises(WireError, match="ends early"):
        Reader(b"\xff\xff\xff\xff" + b"x" * 8).opaque()


@pytest.mark.parametrize("value", [-1, 2**32])
def test_a_number_that_does_not_fit_is_refused(value: int) -> None:
    with pytest.raises(WireError):
        xdr.u32(value)


def test_bytes_that_are_not_utf8_survive_as_in_file_names() -> None:
    text = Reader(xdr.opaque(b"a\xff")).string()
    assert Reader(xdr.string(text)).opaque() == b"a\xff"
