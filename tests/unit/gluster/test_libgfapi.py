"""Which call hangs: each by what it may take. The calls themselves are in the integration tests."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from kadalu_ext.gluster import libgfapi
from kadalu_ext.gluster.gfapi import HUNG_S


@pytest.fixture
def running(monkeypatch: pytest.MonkeyPatch) -> dict[int, tuple[str, float]]:
    """What each thread is in, by the time at which it began; it is 10,000."""
    monkeypatch.setattr(libgfapi, "time", SimpleNamespace(monotonic=lambda: 10_000.0))
    calls: dict[int, tuple[str, float]] = {}
    monkeypatch.setattr(libgfapi, "_running", calls)
    return calls


def test_nothing_runs(running: dict[int, tuple[str, float]]) -> None:
    assert libgfapi.longest() is None


@pytest.mark.parametrize("name", ["glfs_fsync", "glfs_copy_file_range"])
def test_a_call_that_may_take_minutes_does_not_hang_until_it_has_taken_them(
    running: dict[int, tuple[str, float]], name: str
) -> None:
    running[1] = name, 10_000.0 - 600
    found = libgfapi.longest()
    assert found is not None and found[1] < HUNG_S
    running[1] = name, 10_000.0 - 600 - HUNG_S - 1
    assert libgfapi.longest() == (f"{name}, beyond the 600 s that it may take,", HUNG_S + 1)


def test_a_call_that_hangs_is_seen_behind_a_sync_that_was_begun_before_it(
    running: dict[int, tuple[str, float]],
) -> None:
    running[1] = "glfs_fsync", 10_000.0 - 500
    running[2] = "glfs_h_mkdir", 10_000.0 - 70
    running[3] = "glfs_h_stat", 10_000.0 - 1
    assert libgfapi.longest() == ("glfs_h_mkdir", 70.0)
