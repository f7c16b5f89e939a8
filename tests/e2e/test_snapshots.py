"""Components of the installation: VolumeSnapshots, and PVs with a group of their own; and claims that are copies."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from kadalu_ext.layout import record_path
from kadalu_ext.record import snapshot_name
from kadalu_ext.units import MIB
from tests.e2e.story import NAMESPACE, NO_ROOM, STORAGE, STORAGE_CLASS, VOLUME, Story, claim_manifest
from tests.e2e.test_operator_life import right
from tests.e2e.test_storages import pod
from tests.testbed import paths, snapshots
from tests.testbed.errors import CommandFailed

GROUPS = "groups"
"""A StorageClass whose PVs have the groups 5000 and 5001."""
CLAIMS = ("origin", "restored", "copy")
_greedy = itertools.count()


def copy_of(kind: str, source: str, name: str, mebibytes: int) -> dict[str, Any]:
    """A claim that is a copy of that claim or snapshot."""
    claim = claim_manifest(name, mebibytes, GROUPS)
    group = {} if kind == "PersistentVolumeClaim" else {"apiGroup": "snapshot.storage.k8s.io"}
    claim["spec"]["dataSource"] = {"kind": kind, "name": source, **group}
    return claim


def pod_of(name: str, *claims: str) -> dict[str, Any]:
    """A pod of an ordinary user, with each claim under its name."""
    made = pod(name, claims[0])
    made["spec"]["securityContext"] = {"runAsUser": 1000, "runAsGroup": 1000}
    made["spec"]["volumes"] = [{"name": each, "persistentVolumeClaim": {"claimName": each}} for each in claims]
    made["spec"]["containers"][0]["volumeMounts"] = [{"name": each, "mountPath": f"/{each}"} for each in claims]
    return made


@pytest.fixture(scope="module")
def everything(installed: Story) -> Iterator[Story]:
    """With both components, and what a cluster has that knows of VolumeSnapshots."""
    kubectl = installed.kube.kubectl
    for archive in snapshots.build():
        installed.kube.load_image(archive)
    for file in snapshots.definitions():
        kubectl("apply", "-f", str(file))
        kubectl("wait", "--for=condition=Established", "-f", str(file))
    kubectl("apply", "-f", "-", input=snapshots.controller())
    kubectl("apply", "-k", str(paths.REPOSITORY / "examples" / "everything"))
    installed.wait("the controller", lambda: installed.is_rolled_out("deploy/kadalu-ext-controller"))
    made = installed.get("sc", STORAGE_CLASS)
    parameters = {**made["parameters"], "gidMin": "5000", "gidMax": "5001"}
    kept = {key: made[key] for key in ("apiVersion", "kind", "provisioner", "reclaimPolicy")}
    installed.apply({**kept, "metadata": {"name": GROUPS}, "parameters": parameters})
    try:
        yield installed
    finally:
        kubectl("delete", "pod", "writer", "reader", "--ignore-not-found", "--grace-period=0", "--force")
        kubectl("delete", "volumesnapshot", "--all")
        kubectl("delete", "pvc", *CLAIMS, "--ignore-not-found")
        kubectl("delete", "sc", GROUPS)
        kubectl("apply", "-k", str(paths.REPOSITORY / "manifests"))
        installed.wait("the usual controller", lambda: installed.is_rolled_out("deploy/kadalu-ext-controller"))


def in_writer(on: Story, script: str) -> str:
    return on.in_pod("writer", "sh", "-ec", script)


def in_reader(on: Story, script: str) -> str:
    return on.in_pod("reader", "sh", "-ec", script)


def usable_bytes(on: Story) -> int:
    """What can be promised of the volume, by the controller's metrics."""
    (controller,) = on.get("pods", "-n", NAMESPACE, "-l", "app.kubernetes.io/component=controller")["items"]
    path = f"/api/v1/namespaces/{NAMESPACE}/pods/{controller['metadata']['name']}:8080/proxy/metrics"
    pattern = re.compile(rf'^kadalu_csi_usable_bytes{{storage="{STORAGE}"}} (.*)$', re.MULTILINE)
    found: re.Match[str] = on.wait("its size", lambda: pattern.search(on.try_kubectl("get", "--raw", path).stdout))
    return int(float(found[1]))


def snapshot(on: Story) -> dict[str, Any]:
    """Its status; empty while there is none."""
    found: dict[str, Any] = on.get("volumesnapshot", "taken").get("status", {})
    return found


def wait_promised(on: Story, what: str, mebibytes: int) -> None:
    """Until a claim of so much, which is all that the volume has, is refused with these words.

    Another claim each time: of one, csi-provisioner tells 25 events, two a try, and then one every five minutes.
    """

    def said() -> bool:
        name = f"greedy-{next(_greedy)}"
        on.apply(claim_manifest(name, mebibytes))
        try:
            refusal: str = on.wait("it to be refused", lambda: on.failure_event(name, "are promised to"))
        finally:
            on.kube.kubectl("delete", "pvc", name)
        return f"of which {what} PVs;" in refusal

    on.wait(f"{what} to be promised", said)


def test_a_snapshot_and_a_clone_have_what_was_there_and_each_is_enforced_and_charged(everything: Story) -> None:
    everything.apply(claim_manifest("origin", 16, GROUPS))
    everything.apply(pod_of("writer", "origin"))
    everything.wait_running("writer")
    all_of_it = usable_bytes(everything) // MIB - 8
    in_writer(everything, "cd /origin; mkdir d; echo mine > d/letter; ln d/letter same; touch big")
    taken = {"apiVersion": "snapshot.storage.k8s.io/v1", "kind": "VolumeSnapshot", "metadata": {"name": "taken"}}
    everything.apply({**taken, "spec": {"source": {"persistentVolumeClaimName": "origin"}}})
    everything.wait("it to be ready", lambda: snapshot(everything).get("readyToUse"))
    assert snapshot(everything)["restoreSize"] == "16Mi"

    in_writer(everything, "echo later > /origin/same; rm /origin/big")
    everything.apply(copy_of("VolumeSnapshot", "taken", "restored", 32))
    everything.apply(copy_of("PersistentVolumeClaim", "origin", "copy", 16))
    everything.apply(pod_of("reader", "restored", "copy"))
    everything.wait_running("reader")
    assert in_reader(everything, "cat /restored/d/letter /copy/d/letter; stat -c %h /restored/same") == "mine\nlater\n2"
    assert in_reader(everything, "ls /restored; ls /copy").split() == ["big", "d", "same", "d", "same"]
    for claim, mebibytes in (("restored", 32), ("copy", 16)):
        blocks, block_bytes = in_reader(everything, f"stat -f -c '%b %S' /{claim}").split()
        assert int(blocks) * int(block_bytes) == mebibytes * MIB
        with pytest.raises(CommandFailed, match=NO_ROOM):
            in_reader(everything, f"dd if=/dev/zero of=/{claim}/more bs=1M count={mebibytes} conv=fsync")
    wait_promised(everything, "80 MiB are promised to 4", all_of_it)

    record = record_path(snapshot_name(f"snapshot-{everything.get('volumesnapshot', 'taken')['metadata']['uid']}"))
    assert everything.on("brick1", "ls", "-d", f"/bricks/{VOLUME}/{record}")
    everything.kube.kubectl("delete", "volumesnapshot", "taken")
    listed = f"/bricks/{VOLUME}/{record.rpartition('/')[0]}"
    everything.wait("its record to be gone", lambda: "snapshot." not in everything.on("brick1", "ls", "-a", listed))
    wait_promised(everything, "64 MiB are promised to 3", all_of_it)


def test_pods_have_the_groups_of_their_pvs_and_so_has_what_they_write(everything: Story) -> None:
    pvs = {claim: everything.get("pv", everything.get("pvc", claim)["spec"]["volumeName"]) for claim in CLAIMS}
    gids = {claim: pv["spec"]["csi"]["volumeAttributes"]["kadalu.external/gid"] for claim, pv in pvs.items()}
    assert len(set(gids.values())) == 1 and set(gids.values()) < {"5000", "5001"}  # copies have their source's
    told = {claim: pv["metadata"]["annotations"]["pv.beta.kubernetes.io/gid"] for claim, pv in pvs.items()}
    assert told == gids
    gid = gids["origin"]
    assert in_writer(everything, "id -u; id -G; stat -c '%u %g %a' /origin").split("\n") == [
        "1000",
        f"1000 {gid}",
        f"0 {gid} 2775",
    ]
    assert in_writer(everything, "stat -c '%u %g' /origin/d/letter") == f"1000 {gid}"
    assert in_reader(everything, "stat -c '%u %g %a' /restored /copy /copy/d/letter").split("\n") == [
        f"0 {gid} 2775", f"0 {gid} 2775", f"1000 {gid} 644",
    ]  # fmt: skip


def test_every_right_for_snapshots_is_used_and_no_other_was_asked_for(everything: Story) -> None:
    user = f"system:serviceaccount:{NAMESPACE}:kadalu-ext-controller"
    records = [json.loads(line) for line in everything.kube.layout.audit_log.read_text().splitlines()]
    own = [record for record in records if record["user"]["username"] == user and "objectRef" in record]
    refused = [record for record in own if record.get("responseStatus", {}).get("code") == 403]
    # an API server that has just started again (test_api_server.py) refuses what it will allow
    allowed = {right(record["objectRef"], record["verb"]) for record in own if record not in refused}
    assert {right(record["objectRef"], record["verb"]) for record in refused} <= allowed
    used = {right(record["objectRef"], record["verb"]) for record in own}
    granted = {
        (group, resource, verb)
        for rule in everything.get("clusterrole", "kadalu-ext-snapshots")["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    assert granted == {each for each in used if each[0] == "snapshot.storage.k8s.io"}
