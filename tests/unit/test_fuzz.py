"""A few thousand damaged inputs for each parser; `make fuzz` has a million each."""

from __future__ import annotations

import pytest

from tests.fuzz.targets import TARGETS, Target, run


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
@pytest.mark.parametrize("seed", range(3))
def test_whatever_comes_in_is_read_or_refused(target: Target, seed: int) -> None:
    run(target, count=1000, seed=seed)
