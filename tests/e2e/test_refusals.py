"""What cannot work is refused with a reason and a remedy, and nothing that cannot work is offered."""

from __future__ import annotations

import json
import re
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


BRICK1 = {"gluster_node": "brick1", "gluster_volname": "exported"}


@pytest.mark.parametrize(
    ("details", "condition", "words"),
    [
        (BRICK1 | {"flavour": "x"}, "Accepted", ["flavour", "allowed"]),
        ({"gluster_volname": "exported"}, "Accepted", ["gluster_node"]),
        (BRICK1 | {"gluster_volname": "no-such"}, "Supported", ["no-such", "brick1"]),
        (BRICK1 | {"gluster_volname": "halted"}, "Supported", ["gluster volume start halted"]),
        (BRICK1 | {"gluster_volname": "spread"}, "Supported", ["spread", "distribute"]),
        (BRICK1 | {"gluster_node": SILENT}, "Reachable", [SILENT, "24007"]),
        (BRICK1 | {"Gluster_options": "volfile=1"}, "Accepted", ["Gluster_options", "'volfile'", "allowed"]),
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
        assert re.search(r"1 TiB is more than the whole volume exported has: \d+(\.\d+)? [MG]iB", event), event
        assert installed.get("pvc", "huge")["status"]["phase"] == "Pending"
    finally:
        installed.kube.kubectl("delete", "pvc", "huge")


def test_claims_that_the_volume_cannot_hold_together_are_refused_with_what_is_left(installed: Story) -> None:
    whole = int(installed.on("brick1", "df", "-m", "--output=size", "/bricks").split()[-1])
    installed.apply(claim_manifest("first", whole - 100))
    try:
        installed.wait_bound("first")
        installed.apply(claim_manifest("too-much", 200))
        event = installed.wait("an event", lambda: installed.failure_event("too-much", "200 MiB"))
        assert re.search(r"promised to 1 PVs; at most \d+(\.\d+)? MiB can be had", event), event
    finally:
        installed.kube.kubectl("delete", "pvc", "first", "too-much", "--ignore-not-found")


def test_a_claim_of_size_0_is_refused_by_the_api_server_already(installed: Story) -> None:
    claim = json.dumps(claim_manifest("nothing", 0))
    command = installed.kube.kubectl_argv("create", "-f", "-")
    refused = installed.kube.sandbox.run(command, input=claim, check=False)
    assert refused.returncode != 0
    assert "must be greater than zero" in refused.stderr, refused.stderr
