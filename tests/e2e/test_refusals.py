"""What cannot work is refused with a reason and a remedy, and nothing that cannot work is offered."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.story import STORAGE_CLASS, Story, claim_manifest
from tests.testbed.brickhosts import BrickHosts

SILENT = "10.77.0.50"
"""An address of the brick hosts' network where packets vanish."""


@pytest.fixture(scope="module", autouse=True)
def volumes(installed: Story, brick_hosts: BrickHosts) -> Iterator[None]:
    """A distributed volume, a stopped one, and a silent address."""
    brick_hosts.create_volume("spread", "distribute", installed.names[:2])
    brick_hosts.create_volume("halted", "replica 3", installed.names, start=False)
    # A permanent neighbour that does not exist: no ARP answer that could say "unreachable".
    neighbour = ["ip", "neighbour", "replace", SILENT, "lladdr", "02:00:00:00:00:01", "dev", "br0", "nud", "permanent"]
    installed.kube.sandbox.run(neighbour)
    yield
    brick_hosts.delete_volume("spread")
    brick_hosts.delete_volume("halted")


def storage(name: str, **details: Any) -> dict[str, Any]:
    return {
        "apiVersion": "kadalu-operator.storage/v1alpha1",
        "kind": "KadaluStorage",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"type": "External", "details": [details]},
    }


@pytest.mark.parametrize(
    ("details", "condition", "words"),
    [
        ({"gluster_node": "brick1", "gluster_volname": "exported", "flavour": "x"}, "Accepted", ["flavour", "allowed"]),
        ({"gluster_volname": "exported"}, "Accepted", ["gluster_node"]),
        ({"gluster_node": "brick1", "gluster_volname": "no-such"}, "Supported", ["no-such", "brick1"]),
        ({"gluster_node": "brick1", "gluster_volname": "halted"}, "Supported", ["gluster volume start halted"]),
        ({"gluster_node": "brick1", "gluster_volname": "spread"}, "Supported", ["spread", "distribute"]),
        ({"gluster_node": SILENT, "gluster_volname": "exported"}, "Reachable", [SILENT, "24007"]),
        ({"gluster_node": "brick1", "gluster_volname": "exported", "Gluster_options": "x=1"}, "Accepted", ["x"]),
    ],
    ids=["unknown field", "no host", "no such volume", "stopped", "distributed", "silent host", "unknown option"],
)
def test_a_storage_that_cannot_work_says_what_to_do(
    installed: Story, details: dict[str, Any], condition: str, words: list[str]
) -> None:
    installed.apply(storage("bad", **details))
    try:
        conditions = installed.wait(
            "conditions", lambda: installed.get("kds", "bad").get("status", {}).get("conditions")
        )
        found = {item["type"]: item for item in conditions}
        assert found["Ready"]["status"] == "False"
        assert found[condition]["status"] == "False", conditions
        for word in words:
            assert word in found[condition]["message"], found[condition]
        assert "kadalu.external.bad" not in installed.kube.kubectl("get", "sc", "-o", "name")
    finally:
        installed.kube.kubectl("delete", "kds", "bad")


def test_a_claim_that_the_volume_cannot_hold_is_refused_with_the_figures(installed: Story) -> None:
    installed.apply(claim_manifest("huge", "1Ti", STORAGE_CLASS))
    try:
        event = installed.wait("an event", lambda: installed.failure_event("huge", "1 TiB"))
        assert "GiB" in event, event
        assert installed.get("pvc", "huge")["status"]["phase"] == "Pending"
    finally:
        installed.kube.kubectl("delete", "pvc", "huge")
