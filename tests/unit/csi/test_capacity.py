"""One table of sizes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kadalu_ext.csi.capacity import BLOCK_BYTES, available, check_promise, size_bytes
from kadalu_ext.errors import CapacityError, InvalidInputError
from kadalu_ext.record import MAX_SIZE_BYTES
from kadalu_ext.units import GIB, MIB


@pytest.mark.parametrize(
    ("required", "limit", "size"),
    [
        (64 * MIB, 0, 64 * MIB),
        (64 * MIB, 64 * MIB, 64 * MIB),
        (1, 0, 4096),
        (4097, 0, 8192),
        (10**9, 0, 1_000_001_536),
        (0, 2 * GIB, GIB),
        (0, 64 * MIB, 64 * MIB),
        (0, 5000, 4096),
    ],
)
def test_a_size_is_the_least_that_will_do_in_whole_blocks(required: int, limit: int, size: int) -> None:
    assert size_bytes(required_bytes=required, limit_bytes=limit) == size


@pytest.mark.parametrize(
    ("required", "limit", "error", "says"),
    [
        (0, 0, InvalidInputError, "0 bytes"),
        (-1, 0, InvalidInputError, "-1"),
        (2, 1, InvalidInputError, "required_bytes 2 is more than limit_bytes 1"),
        (1, 4095, CapacityError, "raise the limit to 4096"),
        (4097, 8000, CapacityError, "raise the limit to 8192"),
        (0, 4095, CapacityError, "raise the limit to 4096"),
        (MAX_SIZE_BYTES, 0, CapacityError, "more than any volume"),
    ],
)
def test_a_size_that_cannot_be_had_is_refused_with_the_figures(
    required: int, limit: int, error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        size_bytes(required_bytes=required, limit_bytes=limit)


@given(required=st.integers(0, 1 << 50), limit=st.integers(0, 1 << 50))
def test_a_size_lies_within_the_range_and_is_a_whole_number_of_blocks(required: int, limit: int) -> None:
    try:
        size = size_bytes(required_bytes=required, limit_bytes=limit)
    except (InvalidInputError, CapacityError):
        return
    assert size % BLOCK_BYTES == 0 and size >= max(1, required) and (limit == 0 or size <= limit)


def promise(size: int, promised: int, *, overcommit: float = 1.0) -> None:
    check_promise(size=size, promised=promised, pvs=3, total=GIB, overcommit=overcommit, volume="vol")


def test_the_last_byte_can_be_promised_and_not_one_more() -> None:
    promise(64 * MIB, GIB - 64 * MIB)
    with pytest.raises(
        CapacityError, match=r"vol: it has 1 GiB, of which 961 MiB are promised to 3 PVs; at most 63 MiB"
    ):
        promise(64 * MIB, GIB - 63 * MIB)


def test_overcommit_multiplies_the_volume_but_no_pv_is_larger_than_it() -> None:
    promise(64 * MIB, GIB, overcommit=1.5)
    with pytest.raises(CapacityError, match=r"1 GiB, times 1.5"):
        promise(600 * MIB, GIB, overcommit=1.5)
    with pytest.raises(CapacityError, match="more than the whole volume vol has: 1 GiB"):
        promise(GIB + 4096, 0, overcommit=10.0)


def test_what_is_promised_beyond_the_volume_already_leaves_nothing_and_not_less() -> None:
    with pytest.raises(CapacityError, match="at most 0 B"):
        promise(4096, 2 * GIB)


@pytest.mark.parametrize(
    ("promised", "overcommit", "left", "largest"),
    [
        (0, 1.0, GIB, GIB),
        (GIB - 5000, 1.0, 5000, 4096),
        (GIB, 1.0, 0, 0),
        (2 * GIB, 1.0, 0, 0),
        (GIB, 2.5, GIB * 3 // 2, GIB),
        (GIB // 2, 0.1, 0, 0),
    ],
)
def test_what_is_left_is_what_can_be_promised(promised: int, overcommit: float, left: int, largest: int) -> None:
    found = available(promised=promised, total=GIB, overcommit=overcommit)
    assert (found.size_bytes, found.largest_bytes) == (left, largest)
    if largest:
        check_promise(size=largest, promised=promised, pvs=1, total=GIB, overcommit=overcommit, volume="vol")
    with pytest.raises(CapacityError):
        check_promise(size=largest + 4096, promised=promised, pvs=1, total=GIB, overcommit=overcommit, volume="vol")
