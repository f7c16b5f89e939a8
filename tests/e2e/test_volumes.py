"""Claims that change under a pod that runs: larger, and of another VolumeAttributesClass."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.story import NAMESPACE, NO_ROOM, STORAGE_CLASS, Story, claim_manifest
from tests.e2e.test_storages import pod
from tests.testbed.errors import CommandFailed

NAME = "changing"
SIZE_MIB = 32


def attributes(name: str, **parameters: str) -> dict[str, Any]:
    return {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "VolumeAttributesClass",
        "metadata": {"name": name},
        "driverName": "kadalu.external",
        "parameters": parameters,
    }


def patch(on: Story, **spec: Any) -> None:
    on.kube.kubectl("patch", "pvc", NAME, "--type=merge", "--patch", json.dumps({"spec": spec}))


def resize(on: Story, mebibytes: int) -> None:
    """Until the pod sees it."""
    size = f"{mebibytes}Mi"
    patch(on, resources={"requests": {"storage": size}})
    on.wait(f"the claim to have {size}", lambda: on.get("pvc", NAME)["status"]["capacity"]["storage"] == size)
    assert str(mebibytes) in df(on, "-m")


def df(on: Story, *options: str) -> list[str]:
    """The last line of df in the pod."""
    return on.in_pod(NAME, "df", *options, "/data").splitlines()[-1].split()


@pytest.fixture(scope="module")
def changing(installed: Story) -> Iterator[Story]:
    """A pod with a PV of its own."""
    installed.apply(claim_manifest(NAME, SIZE_MIB))
    installed.apply(pod(NAME, NAME))
    installed.wait_running(NAME)
    yield installed
    pv = installed.get("pvc", NAME)["spec"]["volumeName"]
    installed.kube.kubectl("delete", "pod", NAME, "--grace-period=0", "--force")
    installed.kube.kubectl("delete", "pvc", NAME)
    installed.wait("the PV to be gone", lambda: not installed.left_on_bricks({pv}))
    installed.kube.kubectl("delete", "volumeattributesclass", "few", "more", "--ignore-not-found")


def test_the_class_lets_claims_grow(changing: Story) -> None:
    assert changing.get("sc", STORAGE_CLASS)["allowVolumeExpansion"] is True


def test_a_claim_that_is_made_larger_is_larger_in_the_pod_that_runs(changing: Story) -> None:
    write = ("dd", "if=/dev/zero", "of=/data/big", "bs=1M", f"count={SIZE_MIB + 16}", "conv=fsync")
    with pytest.raises(CommandFailed, match=NO_ROOM):
        changing.in_pod(NAME, *write)
    resize(changing, 2 * SIZE_MIB)
    changing.in_pod(NAME, *write)
    changing.in_pod(NAME, "rm", "/data/big")


def test_a_claim_cannot_grow_beyond_the_volume_and_says_why_and_may_ask_for_less_then(changing: Story) -> None:
    patch(changing, resources={"requests": {"storage": "100Gi"}})
    event = changing.wait("an event that says why", lambda: changing.failure_event(NAME, "is more than"))
    assert "100 GiB is more than the whole volume" in event
    assert str(2 * SIZE_MIB) in df(changing, "-m")
    resize(changing, 2 * SIZE_MIB + 4)


def test_a_class_of_attributes_limits_the_inodes_of_a_pv_in_use(changing: Story) -> None:
    for name, inodes in (("few", 10), ("more", 1000)):
        changing.apply(attributes(name, inodes=str(inodes)))
        patch(changing, volumeAttributesClassName=name)

        def modified(name: str = name) -> bool:
            return bool(changing.get("pvc", NAME)["status"].get("currentVolumeAttributesClassName") == name)

        changing.wait(f"the claim to have class {name}", modified)
        assert str(inodes) in df(changing, "-i")
        made = changing.in_pod(NAME, "sh", "-c", "for n in $(seq 20); do touch /data/f$n && echo made; done || true")
        assert (made.count("made") == 20) is (inodes > 20)


def test_the_controller_tells_whether_it_is_well_and_what_it_does(changing: Story) -> None:
    pods = changing.get("pods", "-n", NAMESPACE, "-l", "app.kubernetes.io/component=controller")
    (name,) = (each["metadata"]["name"] for each in pods["items"])
    at = f"/api/v1/namespaces/{NAMESPACE}/pods/{name}:8080/proxy"
    assert changing.kube.kubectl("get", "--raw", f"{at}/healthz") == "ok\n"
    told = changing.kube.kubectl("get", "--raw", f"{at}/metrics")
    storage = STORAGE_CLASS.removeprefix("kadalu.external.")
    assert f'kadalu_csi_client_connected{{storage="{storage}"}} 1.0' in told
    assert f'kadalu_csi_promised_bytes{{storage="{storage}"}}' in told
    assert re.search(r'kadalu_csi_call_duration_seconds_count{code="OK",method="CreateVolume"} [1-9]', told), told
