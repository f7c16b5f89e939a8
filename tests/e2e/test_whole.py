"""Whole volumes as PVs (kadalu-format: false), in Kubernetes: from the KadaluStorage to the pod, and back."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from kadalu_ext.units import parse_quantity
from tests.crs.table import external, manifest
from tests.e2e.story import VOLUME, Story, claim_manifest, condition
from tests.e2e.test_storages import classes, conditions, pod

VOLUMES = ("vol-one", "vol-two")
CLASS = "kadalu.external.heketi"


@pytest.fixture
def whole(installed: Story) -> Iterator[Story]:
    """A storage of two whole volumes."""
    for volume in VOLUMES:
        installed.hosts.create_volume(volume, "replica 3")
    details = [{"gluster_node": "brick1,brick2", "gluster_volname": volume} for volume in VOLUMES]
    installed.apply(manifest(external(details, **{"kadalu-format": False}), name="heketi"))
    try:
        # its class comes before its status
        installed.wait("the storage to be Ready", lambda: condition(installed.get("kds", "heketi"), "Ready") == "True")
        yield installed
    finally:
        kubectl = installed.kube.kubectl
        kubectl("delete", "pod", "heir", "--ignore-not-found", "--grace-period=1")
        kubectl("delete", "pvc", "first", "second", "third", "--ignore-not-found")
        kubectl("delete", "kds", "heketi", "both", "--ignore-not-found")
        for volume in VOLUMES:
            installed.hosts.delete_volume(volume)


def states(on: Story) -> dict[str, str]:
    status = on.get("kds", "heketi").get("status", {})
    return {each["name"]: each["state"] for each in status.get("volumes") or []}


def test_claims_get_a_volume_each_and_give_it_back_empty(whole: Story) -> None:
    told = conditions(whole, "heketi")
    assert (told["QuotaEnforced"]["reason"], told["Ready"]["status"]) == ("WholeVolumes", "True")
    assert classes(whole)["heketi"].get("allowVolumeExpansion", False) is False

    for claim in ("first", "second"):
        whole.apply(claim_manifest(claim, 64, CLASS))
        whole.wait_bound(claim)
    pvs = {claim: whole.get("pv", whole.get("pvc", claim)["spec"]["volumeName"]) for claim in ("first", "second")}
    assert {pv["spec"]["csi"]["volumeAttributes"]["volume"] for pv in pvs.values()} == set(VOLUMES)
    size = int(whole.on("brick1", "df", "-k", "--output=size", "/bricks").split()[-1]) << 10
    told_sizes = {parse_quantity(pv["spec"]["capacity"]["storage"], field="capacity") for pv in pvs.values()}
    assert told_sizes == {size}
    whole.wait("both to be claimed", lambda: set(states(whole).values()) == {"Claimed"})
    whole.apply(claim_manifest("third", 64, CLASS))
    assert "is on it" in whole.wait("an event", lambda: whole.failure_event("third", "it has no free volume of"))

    # as kubelet has it of heketi's PVs: the annotation's group is one of the pod's
    whole.kube.kubectl("annotate", "pv", pvs["first"]["metadata"]["name"], "pv.beta.kubernetes.io/gid=4711")
    whole.apply(pod("heir", "first"))
    whole.wait_running("heir")
    whole.in_pod("heir", "sh", "-c", "echo mine > /data/letter")
    assert "4711" in whole.in_pod("heir", "id", "-G").split()
    assert whole.in_pod("heir", "ls", "-a", "/data").split() == [".", "..", "letter"]
    whole.kube.kubectl("delete", "pod", "heir", "--grace-period=1")
    whole.kube.kubectl("delete", "pvc", "first")
    whole.wait_bound("third")
    whole.apply(pod("heir", "third"))
    whole.wait_running("heir")
    assert whole.in_pod("heir", "ls", "-a", "/data").split() == [".", ".."]


def test_a_volume_is_not_had_whole_and_in_directories(whole: Story) -> None:
    whole.apply(manifest(external({"gluster_node": "brick1", "gluster_volname": VOLUMES[0]}), name="both"))
    found = whole.wait("it to be refused", lambda: conditions(whole, "both").get("Accepted"))
    assert (found["status"], found["reason"]) == ("False", "VolumeShared") and "default/heketi" in found["message"]
    whole.kube.kubectl("delete", "kds", "both")
    details = [{"gluster_node": "brick1", "gluster_volname": VOLUME}]
    whole.apply(manifest(external(details, single_pv_per_pool=True), name="both"))
    found = whole.wait("it to be refused", lambda: conditions(whole, "both").get("Accepted"))
    assert (found["status"], found["reason"]) == ("False", "VolumeShared")
