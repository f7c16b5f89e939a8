"""Sizes, read and written."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kadalu_ext.errors import InvalidInputError
from kadalu_ext.units import format_bytes, parse_quantity, round_up


@pytest.mark.parametrize(
    ("text", "count"), [("64Mi", 64 << 20), ("1", 1), ("2G", 2 * 10**9), ("0", 0), ("1Ei", 1 << 60)]
)
def test_a_quantity_is_whole_bytes(text: str, count: int) -> None:
    assert parse_quantity(text, field="size") == count


@pytest.mark.parametrize("text", ["", "-1", "1.5Gi", "1e3", "64 Mi", "64MiB", "NaN", "٣", "1" * 30])
def test_anything_else_is_refused_with_the_fields_name(text: str) -> None:
    with pytest.raises(InvalidInputError, match=r"spec\.size"):
        parse_quantity(text, field="spec.size")


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (4096, "4 KiB"), (64 << 20, "64 MiB"), (3 << 29, "1.5 GiB"), (1 << 41, "2 TiB")]
)
def test_people_read_round_figures(count: int, text: str) -> None:
    assert format_bytes(count) == text


@given(st.integers(0, 1 << 63), st.integers(1, 1 << 20))
def test_rounding_up_reaches_the_next_multiple(count: int, multiple: int) -> None:
    assert 0 <= round_up(count, multiple) - count < multiple
    assert round_up(count, multiple) % multiple == 0
