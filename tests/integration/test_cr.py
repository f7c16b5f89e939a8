"""KadaluStorages before a real API server: what is wrong is refused there with a sentence, and nothing is dropped.

Only the CustomResourceDefinition and its rules are there, no operator.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from kubernetes import config

from kadalu_ext.operator import kube as kube_module
from tests.crs.table import BY_CONDITION, GOOD, REFUSED, external, manifest
from tests.testbed import paths, progress
from tests.testbed.kube import Kube

MANIFESTS = paths.REPOSITORY / "manifests"
CRD = "crd/kadalustorages.kadalu-operator.storage"
KADALUS: dict[str, Any] = {
    "disperse": {"type": "object", "properties": {"data": {"type": "integer"}, "redundancy": {"type": "integer"}}},
    "type": {"type": "string"},
    "pvReclaimPolicy": {"type": "string", "default": "delete"},
    "volume_id": {"type": "string"},
    "kadalu_format": {"type": "string", "default": "native"},
    "single_pv_per_pool": {"type": "boolean", "default": False},
    "storage": {
        "type": "array",
        "items": {"type": "object", "properties": {"node": {"type": "string"}, "device": {"type": "string"}}},
    },
    "details": {
        "type": "object",
        "properties": {"gluster_host": {"type": "string"}, "gluster_volname": {"type": "string"}},
    },
}
"""What the schema of Kadalu 1.2 knows of a spec, as far as it matters here. It has no status, and no rules."""


@pytest.fixture(scope="module", autouse=True)
def api(kube: Kube) -> Iterator[Kube]:
    """An API server with our CRD and its rules in effect."""
    apply_ours(kube)
    yield kube
    kube.kubectl("delete", "-f", str(MANIFESTS / "crd.yaml"), "-f", str(MANIFESTS / "admission.yaml"))


def apply_ours(kube: Kube) -> None:
    kube.kubectl("apply", "-f", str(MANIFESTS / "crd.yaml"), "-f", str(MANIFESTS / "admission.yaml"))
    kube.kubectl("wait", "--for=condition=Established", CRD)
    # The first is the schema's work, the second the policy's.
    wait(lambda: "spec.type" in refusal(kube, manifest({"type": "external"})))
    wait(lambda: "flavour" in refusal(kube, manifest(external(flavour=1))))


def wait(probe: Any) -> None:
    progress.wait_until("the API server to take note", probe, seconds=300, interval=0.25)


def create(kube: Kube, thing: dict[str, Any], *flags: str) -> subprocess.CompletedProcess[str]:
    argv = kube.kubectl_argv("create", *flags, "-o", "json", "-f", "-")
    return kube.sandbox.run(argv, input=json.dumps(thing), check=False)


def refusal(kube: Kube, thing: dict[str, Any]) -> str:
    done = create(kube, thing, "--dry-run=server")
    return done.stderr if done.returncode else ""


def without_nulls(spec: dict[str, Any]) -> dict[str, Any]:
    return {
        key: without_nulls(value) if isinstance(value, dict) else value
        for key, value in spec.items()
        if value is not None
    }


@pytest.mark.parametrize("spec", [*GOOD.values(), *(spec for spec, _ in BY_CONDITION.values())])
def test_what_is_not_refused_is_kept_as_it_stands(api: Kube, spec: dict[str, Any]) -> None:
    done = create(api, manifest(spec), "--dry-run=server")
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    assert json.loads(done.stdout)["spec"] == without_nulls(spec)


@pytest.mark.parametrize(("spec", "words"), REFUSED.values(), ids=REFUSED)
def test_what_is_wrong_is_refused_with_its_path_and_what_is_allowed(
    api: Kube, spec: dict[str, Any], words: str
) -> None:
    assert words in refusal(api, manifest(spec))


def test_a_name_that_is_too_long_for_a_storage_is_refused(api: Kube) -> None:
    assert "metadata.name: at most 63 characters" in refusal(api, manifest(external(), name="x" * 64))


def test_the_policy_has_no_expression_that_the_api_server_warns_of(api: Kube) -> None:
    def policy() -> Any:
        return api.get("validatingadmissionpolicy", "kadalustorage.kadalu.external")

    wait(lambda: policy().get("status", {}).get("observedGeneration") == policy()["metadata"]["generation"])
    assert not policy()["status"].get("typeChecking")


def test_a_storage_of_the_largest_size_is_still_looked_at(api: Kube) -> None:
    hosts = [f"host-{n}.{'x' * 60}.example.com" for n in range(64)]
    long = {f"unknown-{n}": "x" * 10 for n in range(1000)}
    options = ",".join("log-level=DEBUG" for _ in range(1000))
    spec = external({"gluster_hosts": hosts, "gluster_volname": "v", "gluster_options": options})
    assert refusal(api, manifest(spec)) == ""
    assert "spec.details.unknown-" in refusal(api, manifest(external({**spec["details"], **long})))


def test_the_type_of_a_storage_cannot_be_changed_and_what_is_changed_otherwise_is_looked_at(api: Kube) -> None:
    assert create(api, manifest(external())).returncode == 0
    try:
        for change, words in (
            ({"type": "Replica3"}, 'spec.type: Invalid value: "Replica3": cannot be changed'),
            ({"overcommit": 0}, "spec.overcommit: allowed: a ratio"),
            ({"flavour": 1}, "spec.flavour: unknown field"),
        ):
            patch = ["patch", "kds", "ext-storage", "--type=merge", "-p", json.dumps({"spec": change})]
            assert words in api.sandbox.run(api.kubectl_argv(*patch), check=False).stderr
        api.kubectl("patch", "kds", "ext-storage", "--type=merge", "-p", '{"spec": {"overcommit": 2}}')
    finally:
        api.kubectl("delete", "kds", "ext-storage")


def test_every_field_is_explained(api: Kube) -> None:
    for path, fields in described(yaml.safe_load((MANIFESTS / "crd.yaml").read_text())).items():
        explained = " ".join(api.kubectl("explain", path).split())
        assert [name for name, text in fields.items() if f" {name} <" not in explained or text not in explained] == []


def described(crd: dict[str, Any]) -> dict[str, dict[str, str]]:
    """The paths of `kubectl explain` that have fields, and what is said of each."""
    found: dict[str, dict[str, str]] = {}

    def walk(path: str, schema: dict[str, Any]) -> None:
        properties = schema.get("items", schema).get("properties", {})
        if properties:
            found[path] = {name: " ".join(inner["description"].split()) for name, inner in properties.items()}
        for name, inner in properties.items():
            walk(f"{path}.{name}", inner)

    for name in ("spec", "status"):
        walk(f"kds.{name}", crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"][name])
    return found


def test_a_definition_that_kadalu_installed_is_replaced_and_its_own_storages_stay_as_they_are(api: Kube) -> None:
    ours = yaml.safe_load((MANIFESTS / "crd.yaml").read_text())
    theirs = json.loads(json.dumps(ours))
    (version,) = theirs["spec"]["versions"]
    del version["subresources"], version["additionalPrinterColumns"]
    spec = {"type": "object", "x-kubernetes-preserve-unknown-fields": True, "properties": KADALUS}
    version["schema"] = {"openAPIV3Schema": {"type": "object", "properties": {"spec": spec}}}
    api.kubectl("apply", "-f", "-", input=json.dumps(theirs))
    wait(lambda: create(api, manifest({"type": "anything"}), "--dry-run=server").returncode == 0)
    client = config.new_client_from_config(str(api.kubeconfig))  # type: ignore[no-untyped-call]
    operators = kube_module.Kube(client, namespace="default")
    wait(lambda: "is Kadalu's, under which storages have no status" in operators.no_kind())
    native = {"type": "Replica1", "storage": [{"node": "n1", "device": "/dev/vdb"}], "options": [{"key": "a"}]}
    kept = json.loads(create(api, manifest(native, name="pool")).stdout)["spec"]
    own_form = external({"gluster_host": "a", "gluster_volname": "v"})
    assert create(api, manifest(own_form)).returncode == 0
    # Kadalu's schema refuses the RFC's list; the policy needs no schema
    assert "details" in refusal(api, manifest(external([{"gluster_node": "a", "gluster_volname": "v"}]), name="b"))
    assert "spec.flavour: unknown field" in refusal(api, manifest(own_form | {"flavour": 1}, name="b"))
    try:
        apply_ours(api)
        wait(lambda: operators.no_kind() == "")
        assert api.get("kds", "pool")["spec"] == kept == native | {
            "pvReclaimPolicy": "delete", "kadalu_format": "native", "single_pv_per_pool": False
        }  # fmt: skip
        api.kubectl("label", "kds", "pool", "kept=yes")
        api.kubectl("patch", "kds", "pool", "--type=merge", "-p", '{"spec": {"storage": [{"node": "n2"}]}}')
        status = [
            "patch",
            "kds",
            "ext-storage",
            "--subresource=status",
            "--type=merge",
            "-p",
            '{"status": {"volume": "v"}}',
        ]
        api.kubectl(*status)
        assert api.get("kds", "ext-storage")["status"] == {"volume": "v"}
    finally:
        api.kubectl("delete", "kds", "pool", "ext-storage", "--ignore-not-found")


def test_what_was_wrong_before_the_rules_came_can_be_labelled_and_deleted(api: Kube) -> None:
    api.kubectl("delete", "validatingadmissionpolicybinding", "kadalustorage.kadalu.external")
    wrong = manifest(external(flavour=1), name="wrong")
    wait(lambda: create(api, wrong).returncode == 0)
    apply_ours(api)
    api.kubectl("label", "kds", "wrong", "seen=yes")
    api.kubectl("delete", "kds", "wrong")
