"""One story for the whole run: test_story.py makes it, the other files add its failures."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.e2e.story import SET_UP, Broken, Story
from tests.testbed import suite
from tests.testbed.brickhosts import BrickHosts
from tests.testbed.kube import Kube


@pytest.fixture(scope="session")
def story(brick_hosts: BrickHosts, kube: Kube) -> Story:
    """The story on the testbed, with the project's image and package built."""
    suite.wait_built(kube.sandbox.name, "project")
    return Story(brick_hosts, kube)


def perform(story: Story, step: Callable[[Story], str]) -> str:
    """`story.perform`; a test whose step was not tried ends with one line."""
    try:
        return story.perform(step)
    except Broken as error:
        pytest.fail(str(error).splitlines()[0], pytrace=False)


@pytest.fixture(scope="session")
def installed(story: Story) -> Story:
    """The story at the point where claims can be made, whether or not test_story.py ran before."""
    for step in SET_UP:
        perform(story, step)
    return story
