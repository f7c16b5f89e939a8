from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.quotad.fakes import FakeHost


@pytest.fixture
def host(tmp_path: Path) -> FakeHost:
    """A brick host without volumes."""
    return FakeHost(tmp_path)
