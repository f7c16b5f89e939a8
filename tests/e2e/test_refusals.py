"""What cannot work is refused with a reason and a remedy, and nothing that cannot work is offered."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.crs.table import BY_CONDITION, REFUSED, external, manifest
from tests.e2e.story import STORAGE_CLASS, Story, claim_manifest, finding
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


@pytest.mark.parametrize(("spec", "words"), BY_CONDITION.values(), ids=BY_CONDITION)
def test_what_the_api_servers_rules_let_through_is_refused_by_condition(
    installed: Story, spec: dict[str, Any], words: str
) -> None:
    installed.apply(manifest(spec, name="bad"))
    try:
        found = accepted(installed, "bad")
        assert (found["status"], found["reason"]) == ("False", "InvalidSpec")
        assert words in found["message"]
    finally:
        installed.kube.kubectl("delete", "kds", "bad")


@pytest.mark.parametrize(("spec", "words"), list(REFUSED.values())[:6])
def test_what_the_api_server_refuses_never_becomes_an_object(
    installed: Story, spec: dict[str, Any], words: str
) -> None:
    refused = installed.kube.kubectl_argv("create", "-f", "-")
    done = installed.kube.sandbox.run(refused, input=json.dumps(manifest(spec, name="bad")), check=False)
    assert words in done.stderr
    assert "bad" not in installed.kube.kubectl("get", "kds", "-o", "name")


def accepted(installed: Story, name: str) -> dict[str, Any]:
    """The condition Accepted of a storage, once it has one."""

    def conditions() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = installed.get("kds", name).get("status", {}).get("conditions", [])
        return [item for item in found if item["type"] == "Accepted"]

    return dict(installed.wait("the condition Accepted", conditions)[0])


def test_a_storage_of_kadalus_own_types_is_left_alone(installed: Story) -> None:
    native = {"type": "Replica3", "storage": [{"node": "n1", "device": "/dev/vdb"}]}
    installed.apply(manifest(native, name="pool"))
    installed.apply(manifest(external(quota="required", Quota="none"), name="bad"))
    try:
        accepted(installed, "bad")  # made later, and seen to: the operator has seen the pool as well
        pool = installed.get("kds", "pool")
        assert "status" not in pool
        assert "finalizers" not in pool["metadata"]
        assert not [key for key in pool["metadata"].get("annotations", {}) if "kadalu.external" in key]
        assert installed.get("events", "--field-selector=involvedObject.name=pool")["items"] == []
        assert "kadalu.external.pool" not in installed.kube.kubectl("get", "sc", "-o", "name")
    finally:
        installed.kube.kubectl("delete", "kds", "pool", "bad")


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
        (BRICK1 | {"gluster_volname": "no-such"}, "Supported", ["no-such", "brick1"]),
        (BRICK1 | {"gluster_volname": "halted"}, "Supported", ["gluster volume start halted"]),
        (BRICK1 | {"gluster_volname": "spread"}, "Supported", ["spread", "distribute"]),
        (BRICK1 | {"gluster_node": SILENT}, "Reachable", [SILENT, "24007"]),
    ],
    ids=["no such volume", "stopped", "distributed", "silent host"],
)
def test_a_storage_that_cannot_work_says_what_to_do(
    installed: Story, details: dict[str, Any], condition: str, words: list[str]
) -> None:
    installed.apply(storage("bad", **details))
    try:
        # brick1 may have been slow to answer at the first look
        bad: dict[str, Any] = installed.wait(f"{condition} to be False", lambda: failed(installed, condition))
        assert finding(bad, "Ready")["status"] == "False"
        for word in words:
            assert word in finding(bad, condition)["message"], bad["status"]
        assert "kadalu.external.bad" not in installed.kube.kubectl("get", "sc", "-o", "name")
    finally:
        installed.kube.kubectl("delete", "kds", "bad")


def failed(installed: Story, condition: str) -> dict[str, Any] | None:
    """The storage, once this condition of it is False."""
    found = installed.get("kds", "bad")
    return found if finding(found, condition).get("status") == "False" else None


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
        # PVs of the tests before may still be counted at the first try
        event = installed.wait("an event", lambda: installed.failure_event("too-much", "200 MiB", "promised to 1 PVs"))
        assert re.search(r"promised to 1 PVs; at most \d+(\.\d+)? MiB can be had", event), event
    finally:
        installed.kube.kubectl("delete", "pvc", "first", "too-much", "--ignore-not-found")


def test_a_claim_of_size_0_is_refused_by_the_api_server_already(installed: Story) -> None:
    claim = json.dumps(claim_manifest("nothing", 0))
    command = installed.kube.kubectl_argv("create", "-f", "-")
    refused = installed.kube.sandbox.run(command, input=claim, check=False)
    assert refused.returncode != 0
    assert "must be greater than zero" in refused.stderr, refused.stderr
