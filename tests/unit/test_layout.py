"""Golden: the paths on the volume, which are Kadalu's where a pool of Kadalu's is to be adopted."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kadalu_ext import layout
from kadalu_ext.record import PvName, QuotaRecord, check_pv_name, decode, encode

NAMES = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,40}", fullmatch=True).map(check_pv_name)


@pytest.mark.parametrize(
    ("name", "path"),
    [
        # as xxHash's own tool says: printf NAME | xxhsum -H1
        ("a", "subvol/d2/4e/a"),
        ("abc", "subvol/44/bc/abc"),
        ("pvc-4c64fcd4-2c0f-4a7a-9f4e-2a2f0d3a1b5c", "subvol/89/85/pvc-4c64fcd4-2c0f-4a7a-9f4e-2a2f0d3a1b5c"),
    ],
)
def test_the_path_of_a_pv_never_changes(name: str, path: str) -> None:
    assert layout.pv_path(check_pv_name(name)) == path


@given(NAMES, st.integers(1, 1 << 40))
def test_the_path_of_every_pv_fits_into_a_record(name: str, size: int) -> None:
    pv = check_pv_name(name)
    record = QuotaRecord(path=layout.pv_path(pv), size_bytes=size)
    assert decode(name, encode(record)) == record


def test_records_and_trash_stand_outside_of_what_pods_see() -> None:
    pv = check_pv_name("pvc-1")
    assert layout.record_path(pv) == "info/quota/pvc-1"
    assert layout.staged_record_path(pv, "0123456789abcdef") == "info/quota/.pvc-1.0123456789abcdef.new"
    assert layout.changed_path(pv, "0123456789abcdef") == "info/quota/.pvc-1.0123456789abcdef.changed"
    assert layout.trash_path(pv, "0123456789abcdef") == "trash/pvc-1.0123456789abcdef"


@given(NAMES, st.binary(min_size=8, max_size=8))
def test_what_we_put_into_the_trash_is_known_for_ours(name: str, suffix: bytes) -> None:
    path = layout.trash_path(check_pv_name(name), suffix.hex())
    assert layout.is_trash_name(path.removeprefix("trash/"))


@given(st.sets(NAMES), st.sets(NAMES), st.sets(NAMES), st.sets(NAMES))
def test_records_those_in_preparation_and_what_tells_of_changes_are_told_apart(
    whole: set[PvName], staged: set[PvName], changed: set[PvName], filling: set[PvName]
) -> None:
    suffix = "0123456789abcdef"

    def entries(names: set[PvName], *ends: str) -> list[str]:
        return [f".{name}.{suffix}.{end}" for name in names for end in ends]

    listed = entries(staged, "new", "abandoned") + entries(changed, "changed") + entries(filling, "filler")
    found = layout.record_names([*whole, *listed, ".other"])
    assert set(found.whole) == whole
    for names, expected in ((found.staged, staged), (found.changes, changed), (found.fillers, filling)):
        assert names == dict.fromkeys(expected, frozenset({suffix}))
    needless = entries(changed - whole - staged, "changed") + entries(filling - whole - staged, "filler")
    assert found.left() == {*entries(staged, "new", "abandoned"), *needless}


@pytest.mark.parametrize("name", ["-a", "no\udcffutf8", "a b", "a" * 254])
def test_what_no_pv_can_be_called_is_no_record(name: str) -> None:
    suffix = "0123456789abcdef"
    ends = ("new", f"{suffix}.changed", f"{suffix}.archived", f"{suffix}.abandoned", f"{suffix}.filler")
    assert layout.record_names([name, *(f".{name}.{end}" for end in ends)]) == layout.record_names([])
