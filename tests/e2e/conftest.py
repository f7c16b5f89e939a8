"""One story for the whole run: test_story.py makes it, the other files add its failures."""

from __future__ import annotations

import pytest

from tests.e2e.story import SET_UP, Story
from tests.testbed import suite
from tests.testbed.brickhosts import BrickHosts
from tests.testbed.kube import Kube


@pytest.fixture(scope="session")
def story(brick_hosts: BrickHosts, kube: Kube) -> Story:
    """The story on the testbed, with the project's image and package built."""
    suite.wait_built(kube.sandbox.name, "project")
    return Story(brick_hosts, kube)


@pytest.fixture(scope="session")
def installed(story: Story) -> Story:
    """The story at the point where claims can be made, whether or not test_story.py ran before."""
    for step in SET_UP:
        story.perform(step)
    return story
