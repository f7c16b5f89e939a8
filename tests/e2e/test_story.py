"""The story of `make demo`, step by step, as tests; each builds on the ones before."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.e2e.conftest import perform
from tests.e2e.story import STEPS, Story
from tests.testbed import progress


@pytest.mark.parametrize("step", [step for _, step in STEPS], ids=[title for title, _ in STEPS])
def test_the_story(story: Story, step: Callable[[Story], str]) -> None:
    progress.say(perform(story, step))
