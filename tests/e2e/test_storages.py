"""Several KadaluStorages that meet: of one name, on one volume, and one that is made anew while its PVs are there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests.crs.table import external, manifest
from tests.e2e.story import NAMESPACE, VOLUME, Story, claim_manifest, condition
from tests.testbed import paths

DETAILS = {"gluster_node": "brick1", "gluster_volname": VOLUME}


def storage(name: str, namespace: str = "default", **fields: Any) -> dict[str, Any]:
    made = manifest(external(DETAILS, **fields), name=name)
    made["metadata"]["namespace"] = namespace
    return made


def pod(name: str, claim: str) -> dict[str, Any]:
    """The example's, with that claim."""
    made: dict[str, Any] = yaml.safe_load((paths.REPOSITORY / "examples" / "pod.yaml").read_text())
    made["metadata"]["name"] = name
    made["spec"]["volumes"][0]["persistentVolumeClaim"]["claimName"] = claim
    return made


def conditions(on: Story, name: str, namespace: str = "default") -> dict[str, Any]:
    status = on.get("kds", name, "-n", namespace).get("status", {})
    return {item["type"]: item for item in status.get("conditions", [])}


def classes(on: Story) -> dict[str, Any]:
    found = on.get("sc")["items"]
    return {item["metadata"]["name"].removeprefix("kadalu.external."): item for item in found}


def wait_served(on: Story, name: str, namespace: str = "default") -> None:
    """Until its StorageClass is there: not for Ready, which may wait for the canary."""
    on.wait(
        f"{namespace}/{name} to be served",
        lambda: condition(on.get("kds", name, "-n", namespace), "Supported") == "True" and name in classes(on),
    )


@pytest.fixture
def other(installed: Story) -> Iterator[str]:
    """Another namespace."""
    installed.kube.kubectl("create", "namespace", "other")
    yield "other"
    installed.kube.kubectl("delete", "namespace", "other")


def test_the_second_of_one_name_is_refused_until_the_first_is_gone(installed: Story, other: str) -> None:
    installed.apply(storage("twin"))
    try:
        wait_served(installed, "twin")
        installed.apply(storage("twin", other))
        found = installed.wait("the other to be refused", lambda: conditions(installed, "twin", other).get("Accepted"))
        assert (found["status"], found["reason"]) == ("False", "NameTaken")
        assert "belongs to the KadaluStorage default/twin" in found["message"]
        assert classes(installed)["twin"]["metadata"]["annotations"]["kadalu.external/owner"] == "default/twin"
        installed.kube.kubectl("delete", "kds", "twin", "-n", "default")
        wait_served(installed, "twin", other)
        assert classes(installed)["twin"]["metadata"]["annotations"]["kadalu.external/owner"] == "other/twin"
    finally:
        for namespace in ("default", other):
            installed.kube.kubectl("delete", "kds", "twin", "-n", namespace, "--ignore-not-found")


def test_two_storages_on_one_volume_share_its_capacity_each_with_its_own_overcommit_and_mount_options(
    installed: Story,
) -> None:
    whole = int(installed.on("brick1", "df", "-m", "--output=size", "/bricks").split()[-1])
    installed.apply(storage("strict"))
    installed.apply(storage("loose", overcommit=2, mountOptions=["noatime", "nodev"]))
    try:
        wait_served(installed, "strict")
        wait_served(installed, "loose")
        assert classes(installed)["loose"]["mountOptions"] == ["noatime", "nodev"]
        installed.apply(claim_manifest("most", whole - 200, "kadalu.external.strict"))
        installed.wait_bound("most")
        installed.apply(claim_manifest("refused", 400, "kadalu.external.strict"))
        installed.wait("an event", lambda: installed.failure_event("refused", "promised to 1 PVs"))
        installed.apply(claim_manifest("taken", 400, "kadalu.external.loose"))
        installed.wait_bound("taken")
        volume = installed.get("pvc", "taken")["spec"]["volumeName"]
        assert installed.get("pv", volume)["spec"]["mountOptions"] == ["noatime", "nodev"]
        installed.apply(pod("reader", "taken"))
        installed.wait_running("reader")
        mounted = next(
            line for line in installed.in_pod("reader", "cat", "/proc/mounts").splitlines() if " /data " in line
        )
        assert {"noatime", "nodev"} <= set(mounted.split()[3].split(",")), mounted
        # Live: the storage that was strict is strict no longer, and the claim that waits is Bound.
        uid = classes(installed)["strict"]["metadata"]["uid"]
        installed.apply(storage("strict", overcommit=1.5, mountOptions=["noexec"]))
        installed.wait_bound("refused")
        changed = classes(installed)["strict"]
        assert (changed["metadata"]["uid"], changed["mountOptions"]) == (uid, ["noexec"])
    finally:
        installed.kube.kubectl("delete", "pod", "reader", "--ignore-not-found", "--grace-period=1")
        installed.kube.kubectl("delete", "pvc", "most", "refused", "taken", "--ignore-not-found")
        installed.kube.kubectl("delete", "kds", "strict", "loose")


def test_a_storage_whose_finalizer_was_taken_by_hand_is_made_anew_and_has_its_pvs_again(installed: Story) -> None:
    installed.apply(storage("again"))
    try:
        wait_served(installed, "again")
        installed.apply(claim_manifest("kept", 64, "kadalu.external.again"))
        installed.wait_bound("kept")
        installed.kube.kubectl("delete", "kds", "again", "--wait=false")
        installed.wait(
            "the deletion to be held",
            lambda: conditions(installed, "again").get("Ready", {}).get("reason") == "HeldByVolumes",
        )
        create = installed.kube.kubectl_argv("create", "-f", "-")
        done = installed.kube.sandbox.run(create, input=json.dumps(storage("again")), check=False)
        assert "already exists" in done.stderr or "AlreadyExists" in done.stderr, done.stderr
        installed.kube.kubectl("patch", "kds", "again", "--type=merge", "-p", '{"metadata": {"finalizers": null}}')
        assert "again" in classes(installed)
        entries = installed.get("configmap", "kadalu-ext-storages", "-n", NAMESPACE)["data"]
        assert "again.json" in entries
        installed.apply(storage("again"))
        wait_served(installed, "again")
        installed.kube.kubectl("delete", "pvc", "kept")
        installed.kube.kubectl("delete", "kds", "again")
        installed.wait("its class to go", lambda: "again" not in classes(installed))
    finally:
        installed.kube.kubectl("delete", "pvc", "kept", "--ignore-not-found")
        installed.kube.kubectl("delete", "kds", "again", "--ignore-not-found")
