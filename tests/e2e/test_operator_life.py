"""A KadaluStorage lives through edits, outages of everything around it, and its deletion; and all is told once."""

from __future__ import annotations

import base64
import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from kadalu_ext.gluster.tls import CERTIFICATE
from kadalu_ext.layout import pv_path
from kadalu_ext.operator.secrets import KEYS
from kadalu_ext.storage import TLS_FILES
from tests.certificates import Authority
from tests.e2e.story import NAMESPACE, VOLUME, Story, claim_manifest, condition, finding
from tests.integration.encrypted import encrypted
from tests.testbed import deb, paths

LIFE = "life"
LIFE_CLASS = f"kadalu.external.{LIFE}"
OPERATOR = "deploy/kadalu-ext-operator"
PROGRAM = "bin/kadalu-ext-operator"


def storage(name: str = LIFE, hosts: str = "brick1", volume: str = VOLUME, **fields: Any) -> dict[str, Any]:
    details = {"gluster_hosts": hosts, "gluster_volname": volume}
    return {
        "apiVersion": "kadalu-operator.storage/v1alpha1",
        "kind": "KadaluStorage",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"type": "External", "details": [details], **fields},
    }


def ready(story: Story, name: str = LIFE) -> dict[str, Any]:
    """The storage, once it is Ready in its newest form."""

    def look() -> dict[str, Any] | None:
        found = story.get("kds", name, "-n", "default")
        current = found.get("status", {}).get("observedGeneration") == found["metadata"]["generation"]
        return found if current and condition(found, "Ready") == "True" else None

    found: dict[str, Any] = story.wait(f"KadaluStorage {name} to be Ready", look)
    return found


def events(story: Story, uid: str) -> list[tuple[str, str]]:
    """Reason and message of all events about the KadaluStorage with `uid`."""
    found = story.get("events", "-n", "default", "--field-selector", f"involvedObject.uid={uid}")["items"]
    return [(event["reason"], event["message"]) for event in found]


def assert_told_once(story: Story, uid: str) -> None:
    """But for what came true again after it was not: a busy glusterd may be silent for longer than it is waited for."""
    found = story.get("events", "-n", "default", "--field-selector", f"involvedObject.uid={uid}")["items"]
    told = Counter((event["type"], event["reason"], event["message"]) for event in found)
    between = Counter(event["type"] for event in found)
    other = {"Normal": "Warning", "Warning": "Normal"}
    assert [what for what, count in told.items() if count > 1 + between[other[what[0]]]] == []


def entry(story: Story, name: str = LIFE) -> dict[str, Any] | None:
    """What CSI driver and mounter are told of it."""
    data = story.get("configmap", "kadalu-ext-storages", "-n", NAMESPACE).get("data") or {}
    return json.loads(data[f"{name}.json"]) if f"{name}.json" in data else None


def holder(story: Story) -> str:
    """The pod that has the Lease."""
    found = story.kube.sandbox.run(
        story.kube.kubectl_argv("get", "lease", "kadalu-ext-operator", "-n", NAMESPACE, "-o", "json"), check=False
    )
    spec = json.loads(found.stdout)["spec"] if found.returncode == 0 else {}
    return str(spec.get("holderIdentity", "")).partition("_")[0]


def processes(story: Story) -> set[str]:
    return set(story.kube.sandbox.run(["pgrep", "-f", PROGRAM], check=False).stdout.split())


@pytest.fixture
def life(installed: Story) -> Iterator[Story]:
    """A second storage on the story's volume, Ready."""
    installed.apply(storage())
    try:
        ready(installed)
        yield installed
    finally:
        # of a test that has failed: the storage would be held by them, and every later test of it fail
        installed.kube.kubectl("delete", "pvc", "stays", "held", "--ignore-not-found")
        installed.kube.kubectl("delete", "kds", LIFE, "-n", "default", "--ignore-not-found")


def test_an_edit_is_in_effect_without_a_new_pv_and_an_event_says_what_changed(life: Story) -> None:
    life.apply(claim_manifest("stays", 8, LIFE_CLASS))
    life.wait_bound("stays")
    try:
        pv = life.get("pvc", "stays")["spec"]["volumeName"]
        uid = ready(life)["metadata"]["uid"]
        life.apply(storage(hosts="brick2,brick3", overcommit=2))
        ready(life)
        told = life.wait("an event", lambda: [text for why, text in events(life, uid) if why == "StorageChanged"])
        assert told == ["hosts: brick1 -> brick2, brick3; overcommit: 1.0 -> 2.0"]
        assert (entry(life) or {})["hosts"] == ["brick2", "brick3"]
        assert life.get("sc", LIFE_CLASS)["parameters"]["hosts"] == "brick2,brick3"
        life.wait("the PV to be counted", lambda: ready(life)["status"].get("pvs") == 1)
        provisioned = ready(life)["status"]["provisioned"]
        assert (life.get("pvc", "stays")["spec"]["volumeName"], provisioned) == (pv, "8Mi")
        assert_told_once(life, uid)
    finally:
        life.kube.kubectl("delete", "pvc", "stays")
    life.wait("no PV to be counted any more", lambda: ready(life)["status"]["pvs"] == 0)


def test_a_deletion_waits_for_the_last_pv_and_then_takes_all_that_was_made_and_nothing_on_the_volume(
    life: Story,
) -> None:
    life.apply(claim_manifest("held", 8, LIFE_CLASS))
    life.wait_bound("held")
    uid, pv = ready(life)["metadata"]["uid"], life.get("pvc", "held")["spec"]["volumeName"]
    life.kube.kubectl("delete", "kds", LIFE, "-n", "default", "--wait=false")
    life.wait("an event that lists the PV", lambda: [text for _, text in events(life, uid) if pv in text])
    # events come before the status
    life.wait("it not to be Ready", lambda: condition(life.get("kds", LIFE, "-n", "default"), "Ready") == "False")
    assert LIFE_CLASS in life.kube.kubectl("get", "sc", "-o", "name")
    life.kube.kubectl("delete", "pvc", "held")
    life.wait("the PV to be gone", lambda: pv not in life.kube.kubectl("get", "pv", "-o", "name"))
    life.wait("the storage to be gone", lambda: LIFE not in life.kube.kubectl("get", "kds", "-A", "-o", "name"))
    assert LIFE_CLASS not in life.kube.kubectl("get", "sc", "-o", "name")
    assert entry(life) is None
    kept = life.on("brick1", "ls", f"/bricks/{VOLUME}").split()
    assert {"info", "subvol"} <= set(kept), kept


def test_a_brick_that_is_offline_is_named_and_gone_from_the_status_when_it_is_back(life: Story) -> None:
    life.on("brick3", "pkill", "-KILL", "glusterfsd")
    try:
        named = life.wait(
            "the brick to be named",
            lambda: re.search(r"offline: brick3:/bricks/\S+", life.kube.kubectl("get", "kds", LIFE, "-o", "wide")),
        )
        assert "2/3" in life.kube.kubectl("get", "kds", LIFE), named
        found = life.get("kds", LIFE)
        assert condition(found, "Ready") == "True"
        assert [brick["online"] for brick in found["status"]["bricks"]] == [True, True, False]
        offline = re.compile(r'kadalu_storage_brick_online{host="brick3".*storage="life"} 0.0')
        path = metrics_path(life)
        life.wait("the metrics to have it", lambda: offline.search(life.try_kubectl("get", "--raw", path).stdout))
    finally:
        life.on("brick1", "gluster", "volume", "start", VOLUME, "force")
    life.wait("all to be online", lambda: "3/3" in life.kube.kubectl("get", "kds", LIFE))
    uid = ready(life)["metadata"]["uid"]
    told = Counter(reason for reason, _ in events(life, uid))
    assert told["StorageReady"] >= 2 and told["StorageDegraded"] >= 1, told
    assert_told_once(life, uid)


def metrics_path(story: Story) -> str:
    return f"/api/v1/namespaces/{NAMESPACE}/pods/{holder(story)}:8080/proxy/metrics"


@pytest.fixture
def told(installed: Story) -> Iterator[Story]:
    """A volume `told` with a storage of that name, and an operator that looks at nothing by itself for an hour."""
    installed.hosts.create_volume("told", "replica 3", installed.names)
    add = [{"op": "add", "path": "/spec/template/spec/containers/0/args/-", "value": "--interval=3600"}]
    installed.kube.kubectl("patch", OPERATOR, "-n", NAMESPACE, "--type=json", "-p", json.dumps(add))
    try:
        installed.wait("the patient operator", lambda: is_alone(installed, patient=True))
        installed.apply(storage("told", volume="told"))
        ready(installed, "told")
        yield installed
    finally:
        installed.kube.kubectl("delete", "kds", "told", "-n", "default", "--ignore-not-found")
        installed.kube.kubectl("apply", "-k", str(paths.REPOSITORY / "manifests"))
        installed.wait("the usual operator", lambda: is_alone(installed, patient=False))
        installed.hosts.delete_volume("told")


def is_alone(story: Story, *, patient: bool) -> bool:
    """Whether there is one operator, and it is such a one. Any may end between two looks."""
    run = story.kube.sandbox.run
    commands = [run(["cat", f"/proc/{pid}/cmdline"], check=False).stdout for pid in processes(story)]
    return len(commands) == 1 and commands[0] != "" and ("--interval=3600" in commands[0]) is patient


def test_what_glusterd_tells_is_seen_at_once_and_not_at_the_interval(told: Story) -> None:
    def seen() -> dict[str, Any]:
        return told.get("kds", "told", "-n", "default")

    replaced = ["brick3:/bricks/told", "brick3:/bricks/told-new"]
    told.on("brick1", "gluster", "volume", "replace-brick", "told", *replaced, "commit", "force")
    told.wait("the new brick", lambda: seen()["status"]["bricks"][2]["path"] == "/bricks/told-new")
    told.on("brick1", "gluster", "volume", "set", "told", "features.shard", "on")
    told.wait("shards to be refused", lambda: condition(seen(), "Supported") == "False")
    told.wait("its class to be withdrawn", lambda: "kadalu.external.told" not in told.kube.kubectl("get", "sc"))
    told.on("brick1", "gluster", "volume", "set", "told", "features.shard", "off")
    told.wait("it to be supported again", lambda: condition(seen(), "Supported") == "True")


def test_of_two_operators_one_works_and_the_other_follows_at_once(life: Story) -> None:
    life.kube.kubectl("scale", OPERATOR, "-n", NAMESPACE, "--replicas=2")
    try:
        life.wait("two operators", lambda: life.is_rolled_out(OPERATOR))
        first = holder(life)
        uid = ready(life)["metadata"]["uid"]
        life.kube.kubectl("delete", "pod", first, "-n", NAMESPACE, "--wait=false")
        life.wait("another one to lead", lambda: holder(life) not in ("", first))
        life.apply(storage(mountOptions=["noatime"]))
        ready(life)
        assert life.get("sc", LIFE_CLASS)["mountOptions"] == ["noatime"]
        assert_told_once(life, uid)
    finally:
        life.kube.kubectl("scale", OPERATOR, "-n", NAMESPACE, "--replicas=1")
        life.wait("one operator", lambda: len(processes(life)) == 1 and life.is_rolled_out(OPERATOR))


def test_killed_it_makes_and_removes_what_is_asked_for_and_tells_it_once(installed: Story) -> None:
    """kubelet starts it anew, each time later: so not often. Killed at each step it is in test_api_server.py."""
    installed.apply(storage("killed"))
    installed.kube.sandbox.run(["pkill", "-KILL", "-f", PROGRAM], check=False)
    found = ready(installed, "killed")
    assert {"Valid", "VolumeUsable"} <= {reason for reason, _ in events(installed, found["metadata"]["uid"])}
    assert_told_once(installed, found["metadata"]["uid"])
    installed.kube.sandbox.run(["pkill", "-KILL", "-f", PROGRAM], check=False)
    installed.kube.kubectl("delete", "kds", "killed", "-n", "default", timeout=300)
    assert "kadalu.external.killed" not in installed.kube.kubectl("get", "sc", "-o", "name")
    assert entry(installed, "killed") is None


def test_it_has_no_privilege_and_its_image_is_read_only(installed: Story) -> None:
    def inside(path: str) -> str:
        return installed.kube.kubectl("exec", "-n", NAMESPACE, OPERATOR, "--", "cat", path)

    status = dict(line.split(":", 1) for line in inside("/proc/1/status").splitlines())
    assert status["Uid"].split() == ["65532"] * 4
    assert {status[name].strip("\t0") for name in ("CapEff", "CapPrm", "CapInh", "CapBnd", "CapAmb")} == {""}
    assert (status["NoNewPrivs"].strip(), status["Seccomp"].strip()) == ("1", "2")
    root = next(line for line in inside("/proc/1/mountinfo").splitlines() if line.split()[4] == "/")
    assert "ro" in root.split()[5].split(","), root


@dataclass(frozen=True, kw_only=True)
class Safe:
    """A volume that is encrypted, as glusterd is, with a storage of its name."""

    story: Story
    authority: Authority
    name: str

    def ask(self, **tls: Any) -> None:
        """For the storage, with this spec.tls; without any if there is none."""
        fields: dict[str, Any] = {"tls": tls} if tls else {}
        self.story.apply(storage(self.name, volume=self.name, **fields))

    def give(self, files: dict[str, bytes]) -> None:
        """The Secret that the storage names."""
        data = {key: base64.b64encode(files[file]).decode() for file, key in KEYS.items()}
        secret = {"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls", "data": data}
        self.story.apply({**secret, "metadata": {"name": self.name, "namespace": "default"}})

    def failed(self, reason: str) -> None:
        self.story.wait(reason, lambda: finding(self.story.get("kds", self.name), "Ready").get("reason") == reason)

    def handed_on(self) -> dict[str, bytes]:
        """TLS files that controller and mounters are given."""
        found = self.story.kube.kubectl("get", "secret", TLS_FILES, "-n", NAMESPACE, "--ignore-not-found", "-o", "json")
        data = json.loads(found or "{}").get("data") or {}
        return {key: base64.b64decode(text) for key, text in data.items()}


@pytest.fixture
def safe(installed: Story, tmp_path: Path) -> Iterator[Safe]:
    """All of the cluster encrypted, so that storages in the clear have an outage meanwhile. One volume's bricks alone:
    test_encrypted.py, in integration."""
    name, authority = "safe", Authority(tmp_path)
    installed.hosts.create_volume(name, "replica 3", installed.names)
    deb.install(installed.hosts, [VOLUME, name])
    try:
        with encrypted(installed.hosts, authority, tmp_path, name, management=True):
            yield Safe(story=installed, authority=authority, name=name)
    finally:
        # whatever a test that has failed left of them, the volume is not to stay
        installed.try_kubectl("delete", "pod", name, "--ignore-not-found", "--grace-period=0", "--force")
        installed.try_kubectl("delete", "pvc", name, "--ignore-not-found", "--timeout=240s")
        installed.try_kubectl("delete", "kds", name, "-n", "default", "--ignore-not-found", "--timeout=240s")
        installed.try_kubectl("delete", "secret", name, "-n", "default", "--ignore-not-found")
        installed.hosts.delete_volume(name)
        deb.install(installed.hosts, [VOLUME])


def assert_spec_tls_is_followed_until_it_is_as_the_cluster_is(safe: Safe) -> None:
    safe.ask()
    safe.failed("TlsMismatch")
    safe.ask(secretName=safe.name, management=False)
    safe.failed("SecretNotFound")
    safe.give(safe.authority.issue("client"))
    safe.failed("TlsMismatch")
    assert safe.handed_on() == {}
    safe.ask(secretName=safe.name, management=True)
    ready(safe.story, safe.name)


def test_a_claim_of_an_encrypted_cluster_is_bound_and_written_and_its_certificate_renewed(safe: Safe) -> None:
    assert_spec_tls_is_followed_until_it_is_as_the_cluster_is(safe)
    story, name = safe.story, safe.name
    story.apply(claim_manifest(name, 16, f"kadalu.external.{name}"))
    story.wait_bound(name)
    pod = yaml.safe_load((paths.REPOSITORY / "examples" / "pod.yaml").read_text())
    pod["metadata"]["name"] = name
    pod["spec"]["volumes"][0]["persistentVolumeClaim"]["claimName"] = name
    story.apply(pod)
    story.wait_running(name)
    story.in_pod(name, "sh", "-c", "echo secret > /data/file")
    pv = story.get("pvc", name)["spec"]["volumeName"]
    assert story.on("brick2", "cat", f"/bricks/{name}/{pv_path(pv)}/file") == "secret"
    renewed = safe.authority.issue("renewed")
    safe.give(renewed)
    story.wait(
        "the renewed certificate to be handed on", lambda: safe.handed_on()[f"{name}.crt"] == renewed[CERTIFICATE]
    )
    story.kube.kubectl("delete", "pod", name, "--grace-period=0", "--force")
    story.kube.kubectl("delete", "pvc", name)
    story.wait("the PV to be gone", lambda: pv not in story.kube.kubectl("get", "pv", "-o", "name"))
    story.kube.kubectl("delete", "kds", name, "-n", "default", timeout=300)
    assert safe.handed_on() == {}


def test_every_right_that_it_has_is_used_and_it_asked_for_no_other(installed: Story) -> None:
    """By what the API server's audit log has of this run, in which every kind of change was made."""
    user = f"system:serviceaccount:{NAMESPACE}:kadalu-ext-operator"
    records = [json.loads(line) for line in (installed.kube.layout.audit_log).read_text().splitlines()]
    own = [record for record in records if record["user"]["username"] == user and "objectRef" in record]
    denied = [record for record in own if record.get("responseStatus", {}).get("code") == 403]
    # an API server that has just started again (test_api_server.py) refuses what it will allow
    allowed = {right(record["objectRef"], record["verb"]) for record in own if record not in denied}
    assert {right(record["objectRef"], record["verb"]) for record in denied} - allowed == set()
    used = {right(record["objectRef"], record["verb"]) for record in own}
    granted = set()
    for kind, name in (("clusterrole", ()), ("role", ("-n", NAMESPACE))):
        for rule in installed.get(kind, "kadalu-ext-operator", *name)["rules"]:
            granted |= {
                (group, resource, verb)
                for group in rule["apiGroups"]
                for resource in rule["resources"]
                for verb in rule["verbs"]
            }
    assert granted - used == set()
    assert used - granted == set()


def right(reference: dict[str, str], verb: str) -> tuple[str, str, str]:
    resource, sub = reference["resource"], reference.get("subresource")
    return reference.get("apiGroup", ""), f"{resource}/{sub}" if sub else resource, verb


def test_the_page_of_metrics_has_every_metric(life: Story) -> None:
    served = life.kube.kubectl("get", "--raw", metrics_path(life))
    names = {line.split()[2] for line in served.splitlines() if line.startswith("# TYPE kadalu_")}
    page = (paths.REPOSITORY / "docs" / "metrics.md").read_text()
    assert {name for name in names if f"`{name}`" not in page} == set()
    assert "kadalu_operator_leader 1.0" in served
