"""The record is a format on disk: what these golden values say holds for years."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kadalu_ext.errors import KadaluExtError, RecordError
from kadalu_ext.record import (
    MAX_GID,
    MAX_NAME_BYTES,
    MAX_RECORD_BYTES,
    MAX_SIZE_BYTES,
    QuotaRecord,
    brick_limit_bytes,
    check_pv_name,
    decode,
    encode,
    staging_name,
)

GOLDEN = json.loads((Path(__file__).parent / "golden" / "records.json").read_text())
NAMES = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,40}", fullmatch=True)
COUNTS = st.integers(1, MAX_SIZE_BYTES)
RECORDS = st.builds(
    QuotaRecord,
    path=st.builds("subvol/{:02x}/{:02x}/{}".format, st.integers(0, 255), st.integers(0, 255), NAMES),
    size_bytes=COUNTS,
    inodes=st.none() | COUNTS,
    made_for=st.none() | NAMES.map(check_pv_name),
    kind=st.sampled_from(["pv", "snapshot"]),
    source=st.none() | NAMES.map(check_pv_name),
    filling=st.booleans(),
    made_s=st.none() | COUNTS,
    gid=st.none() | st.integers(1, MAX_GID),
)


@pytest.mark.parametrize("golden", GOLDEN, ids=lambda golden: golden["name"])
def test_a_record_of_version_1_is_written_and_read_as_it_always_was(golden: dict[str, Any]) -> None:
    record = decode(golden["name"], golden["value"].encode())
    assert record == QuotaRecord(**golden["record"])
    assert encode(record) == golden["value"].encode()


@given(RECORDS)
def test_what_is_encoded_is_decoded(record: QuotaRecord) -> None:
    assert decode(record.path.rpartition("/")[2], encode(record)) == record


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_bytes_are_a_record_or_a_record_error(value: bytes) -> None:
    try:
        decode("pvc-1", value)
    except KadaluExtError as error:
        assert "pvc-1" in str(error)


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.integers() | st.text(), st.lists))
def test_a_size_that_is_not_a_count_is_refused(size: object) -> None:
    if type(size) is int and 1 <= size <= MAX_SIZE_BYTES:
        return
    value = json.dumps({"v": 1, "path": "subvol/ab/cd/pvc-1", "size": size}).encode()
    with pytest.raises(RecordError, match=r"size|not JSON|bytes, more than"):
        decode("pvc-1", value)


@pytest.mark.parametrize(
    "path",
    [
        "subvol/../etc/pvc-1",
        "/subvol/ab/cd/pvc-1",
        "subvol/ab/cd/pvc-1/..",
        "subvol/ab/cd/../pvc-1",
        "subvol/ab/cd/pvc-2",
        "subvol/ab/cd/x/pvc-1",
        "subvol/AB/cd/pvc-1",
        "trash/ab/cd/pvc-1",
        ".glusterfs/ab/cd/pvc-1",
        "subvol/ab/cd/pvc-1\n",
        "",
        None,
        7,
        ["subvol/ab/cd/pvc-1"],
    ],
)
def test_a_path_that_is_not_the_pvs_own_is_refused_by_name(path: object) -> None:
    with pytest.raises(RecordError, match="record pvc-1: path"):
        decode("pvc-1", json.dumps({"v": 1, "path": path, "size": 1}).encode())


@pytest.mark.parametrize(
    "name", ["", ".", "..", ".pvc", "-pvc", "a/b", "a b", "pvc\n", "é", "x" * (MAX_NAME_BYTES + 1)]
)
def test_a_name_that_could_leave_its_directory_is_refused(name: str) -> None:
    with pytest.raises(RecordError, match="name"):
        check_pv_name(name)


def test_a_later_version_says_to_upgrade() -> None:
    with pytest.raises(RecordError, match="upgrade kadalu-quotad"):
        decode("pvc-1", b'{"v":2,"path":"subvol/ab/cd/pvc-1","size":1}')


def test_keys_that_version_1_does_not_know_are_passed_over() -> None:
    assert decode("pvc-1", b'{"v":1,"path":"subvol/ab/cd/pvc-1","size":1,"note":{}}').size_bytes == 1


def test_an_oversized_record_is_refused_unread() -> None:
    with pytest.raises(RecordError, match=str(MAX_RECORD_BYTES)):
        decode("pvc-1", b"[" * (MAX_RECORD_BYTES + 1))


@pytest.mark.parametrize(
    ("field", "value"),
    [("for", 1), ("for", "a/b"), ("from", ".."), ("from", "x" * 201), ("kind", []), ("filling", 1), ("made", -1)],
)
def test_what_is_for_the_controller_is_checked_too(field: str, value: object) -> None:
    fields = {"v": 1, "path": "subvol/aa/bb/pvc-1", "size": 4096, field: value}
    with pytest.raises(RecordError, match=f"record pvc-1: {field} "):
        decode("pvc-1", json.dumps(fields).encode())


def test_a_record_that_could_not_be_read_is_never_written() -> None:
    with pytest.raises(RecordError, match="size"):
        encode(QuotaRecord(path="subvol/ab/cd/pvc-1", size_bytes=0))


def test_a_record_in_preparation_has_a_name_that_no_pv_has() -> None:
    with pytest.raises(RecordError):
        check_pv_name(staging_name(check_pv_name("pvc-1"), "0" * 16))


@given(st.integers(1, MAX_SIZE_BYTES), st.integers(1, 16), st.sampled_from([512, 1024, 4096, 65536]))
def test_the_bricks_limits_hold_the_size_and_waste_less_than_a_block_a_brick(size: int, data: int, block: int) -> None:
    limit = brick_limit_bytes(size, data_bricks=data, block_bytes=block)
    assert limit % block == 0
    assert size <= limit * data < size + (block + 1) * data
