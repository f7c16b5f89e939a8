"""What users apply fits the programs that run in it, and the API that they see is the one that is documented."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from kadalu_ext.csi import main as csi
from kadalu_ext.operator import kube, main, render
from kadalu_ext.operator.actions import PatchStatus, Problem
from kadalu_ext.operator.reasons import Condition, Reason
from kadalu_ext.operator.report import report
from kadalu_ext.storage import CONFIG_MAP, GID_ATTRIBUTE, PROVISIONER, TLS_FILES
from tests.unit.operator.samples import NOW, resource, usable

ROOT = Path(__file__).parents[3]
KUSTOMIZATION = yaml.safe_load((ROOT / "manifests" / "kustomization.yaml").read_text())
OBJECTS: list[dict[str, Any]] = [
    found
    for name in KUSTOMIZATION["resources"]
    for found in yaml.safe_load_all((ROOT / "manifests" / name).read_text())
]
IMAGE = "docker.io/kadalu/kadalu-ext"


def one(kind: str, name: str | None = None) -> dict[str, Any]:
    """The object of that kind and name; the only one if no name is given."""
    (found,) = (o for o in OBJECTS if o["kind"] == kind and name in (None, o["metadata"]["name"]))
    return found


WORKLOADS = [o for o in OBJECTS if o["kind"] in ("Deployment", "DaemonSet")]
CONTAINERS = {
    container["name"]: container for o in WORKLOADS for container in o["spec"]["template"]["spec"]["containers"]
}


def applied(directory: Path) -> set[str]:
    """The files that a kustomization names."""
    found = yaml.safe_load((directory / "kustomization.yaml").read_text())
    return {*found["resources"], *(patch["path"] for patch in found.get("patches", ()))}


def test_every_manifest_is_applied() -> None:
    everything = yaml.safe_load((ROOT / "examples" / "everything" / "kustomization.yaml").read_text())
    components = {path for path in (ROOT / "manifests").iterdir() if path.is_dir()}
    assert {(ROOT / "examples" / "everything" / name).resolve() for name in everything["components"]} == components
    for directory in (ROOT / "manifests", *components):
        files = {path.name for path in directory.iterdir() if path.is_file()} - {"kustomization.yaml"}
        assert files == applied(directory)


def test_a_pv_with_a_group_gets_the_annotation_of_what_the_driver_calls_it() -> None:
    policy, binding = yaml.safe_load_all((ROOT / "manifests" / "groups" / "policy.yaml").read_text())
    assert binding["spec"]["policyName"] == policy["metadata"]["name"]
    (condition,) = policy["spec"]["matchConditions"]
    assert (
        f"driver == '{PROVISIONER}'" in condition["expression"] and f"'{GID_ATTRIBUTE}' in" in condition["expression"]
    )
    (mutation,) = policy["spec"]["mutations"]
    assert f"volumeAttributes['{GID_ATTRIBUTE}']" in mutation["applyConfiguration"]["expression"]


def test_the_columns_of_kubectl_get_kds() -> None:
    crd = one("CustomResourceDefinition")["spec"]
    (version,) = crd["versions"]
    columns = [column["name"].upper() for column in version["additionalPrinterColumns"] if not column.get("priority")]
    assert columns == ["VOLUME", "TYPE", "BRICKS", "QUOTA", "READY", "AGE"]
    assert (crd["group"], version["name"], crd["names"]["plural"]) == (kube.GROUP, kube.VERSION, kube.PLURAL)
    assert crd["names"]["shortNames"] == ["kds"]


def schema() -> dict[str, Any]:
    (version,) = one("CustomResourceDefinition")["spec"]["versions"]
    found: dict[str, Any] = version["schema"]["openAPIV3Schema"]["properties"]
    return found


def below(found: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every field beneath, with its name."""
    for name, field in found.get("items", found).get("properties", {}).items():
        yield name, field
        yield from below(field)


def test_every_field_is_explained_and_none_of_the_spec_is_dropped_by_the_api_server() -> None:
    assert [
        name for part in ("spec", "status") for name, field in below(schema()[part]) if not field.get("description")
    ] == []
    spec = schema()["spec"]
    assert spec["x-kubernetes-preserve-unknown-fields"] is True
    assert {name for name, field in below(spec) if not field.get("x-kubernetes-preserve-unknown-fields")} == {"type"}


def test_no_field_has_a_default_since_it_would_contradict_another_spelling_of_the_same() -> None:
    assert [name for name, field in below(schema()["spec"]) if "default" in field] == []


@pytest.mark.parametrize("outcome", [usable(), Problem(reason=Reason.INVALID_SPEC, details="x")])
def test_the_api_server_keeps_every_field_of_the_status(outcome: Any) -> None:
    status = schema()["status"]["properties"]
    (patch,) = (action.status for action in report(resource(), outcome, now=NOW) if isinstance(action, PatchStatus))
    assert set(patch) <= set(status)
    assert set(patch["conditions"][0]) == set(status["conditions"]["items"]["properties"])
    assert all(status[key].get("nullable") for key, value in patch.items() if value is None)


def test_the_programs_take_their_arguments() -> None:
    assert main.parse(CONTAINERS["operator"]["args"]).port == 8080
    assert csi.parser().parse_args(["controller", *CONTAINERS["controller"]["args"]]).port == 8080
    for name in ("controller", "node"):
        container = CONTAINERS[name]
        assert csi.parser().parse_args([*container["command"][1:], *container["args"]]).program == name


def test_the_config_map_is_the_operators_and_no_other_may_be_changed_by_it() -> None:
    rules = one("Role", "kadalu-ext-operator")["rules"]
    assert {tuple(rule["verbs"]) for rule in rules if "resourceNames" not in rule} == {("create",)}
    named = {rule["resources"][0]: rule["resourceNames"] for rule in rules if "resourceNames" in rule}
    assert named == {"configmaps": [CONFIG_MAP], "secrets": [TLS_FILES], "leases": [kube.LEASE]}
    for name in ("kadalu-ext-controller", "kadalu-ext-node"):
        (workload,) = (o for o in WORKLOADS if o["metadata"]["name"] == name)
        volumes = {volume["name"]: volume for volume in workload["spec"]["template"]["spec"]["volumes"]}
        assert volumes["storages"]["configMap"] == {"name": CONFIG_MAP, "optional": True}


def test_only_what_mounts_is_privileged_and_nothing_writes_to_its_image() -> None:
    privileged = {name for name, one in CONTAINERS.items() if one["securityContext"].get("privileged")}
    assert privileged == {"node", "mounter"}
    assert all(one["securityContext"]["readOnlyRootFilesystem"] for one in CONTAINERS.values())
    for name in CONTAINERS.keys() - privileged:
        assert CONTAINERS[name]["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert CONTAINERS[name]["securityContext"]["allowPrivilegeEscalation"] is False


def test_a_new_mounter_comes_only_when_somebody_deletes_the_old_one() -> None:
    assert one("DaemonSet", "kadalu-ext-mounter")["spec"]["updateStrategy"] == {"type": "OnDelete"}


def test_our_image_is_named_in_one_place() -> None:
    ours = {one["image"] for one in CONTAINERS.values() if "sig-storage" not in one["image"]}
    assert ours == {IMAGE} == {image["name"] for image in KUSTOMIZATION["images"]}
    assert all(one["imagePullPolicy"] == "IfNotPresent" for one in CONTAINERS.values())


def test_the_csi_driver_is_announced_as_what_it_is() -> None:
    driver = one("CSIDriver")
    assert driver["metadata"]["name"] == PROVISIONER
    assert driver["spec"]["attachRequired"] is False


def test_examples_belong_together() -> None:
    storage, claim, pod = (
        yaml.safe_load((ROOT / "examples" / name).read_text())
        for name in ("storage-config.yaml", "pvc.yaml", "pod.yaml")
    )
    made = render.storage_class(
        usable(storage["spec"], name=storage["metadata"]["name"]).spec, owner="o", volume_id="v"
    )
    assert claim["spec"]["storageClassName"] == made["metadata"]["name"]
    assert pod["spec"]["volumes"][0]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]


@pytest.mark.parametrize("word", [*Reason, *Condition])
def test_every_reason_and_condition_has_its_place_in_the_troubleshooting_page(word: str) -> None:
    assert f"`{word}`" in (ROOT / "docs" / "troubleshooting.md").read_text()
