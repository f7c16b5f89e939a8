"""Order, and the testbed as fixtures: one sandbox, three brick hosts and one Kubernetes for the whole run.

tests/unit needs none of it. Everything else runs under `make test` (`python -m tests.testbed test`), in the sandbox.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.testbed import suite
from tests.testbed.brickhosts import BrickHosts
from tests.testbed.kube import Kube
from tests.testbed.sandbox import INSIDE, Sandbox

ORDER = ("unit", "contract", "integration", "e2e")


def pytest_configure() -> None:
    """What the tests start gets signals as they are by default, also under nohup and CI systems, which ignore some.

    A handler of ours, unlike SIG_IGN, does not go to children; pytest itself goes on passing over the signal.
    """
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, lambda *_: None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Fast tests first: the slow builds run beside them. Kubernetes, which takes longest to build, as late as can be.
    The story before its failures, which use what it set up."""
    root = Path(__file__).parent

    def place(item: pytest.Item) -> tuple[int, bool, bool]:
        uses = getattr(item, "fixturenames", ())
        return ORDER.index(item.path.relative_to(root).parts[0]), "kube" in uses, item.path.name != "test_story.py"

    items.sort(key=place)


@pytest.fixture(scope="session")
def sandbox() -> Sandbox:
    """The sandbox that this pytest runs in."""
    name = os.environ.get(INSIDE)
    if not name:
        pytest.exit("these tests need the testbed: run them with 'python -m tests.testbed test PATH…'", returncode=2)
    return Sandbox.attach(name)


@pytest.fixture(scope="session")
def brick_hosts(sandbox: Sandbox) -> BrickHosts:
    """brick1, brick2, brick3: one trusted pool, /bricks with prjquota on each."""
    suite.wait_built(sandbox.name, "bricks")
    hosts = BrickHosts(sandbox)
    hosts.start()
    return hosts


@pytest.fixture(scope="session")
def kube(sandbox: Sandbox, brick_hosts: BrickHosts) -> Kube:
    """A cluster of one node that reaches the brick hosts."""
    suite.wait_built(sandbox.name, "kube")
    cluster = Kube(sandbox)
    cluster.start()
    return cluster
