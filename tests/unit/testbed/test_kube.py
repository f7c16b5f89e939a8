"""The settings of the testbed's Kubernetes, and its control groups."""

from __future__ import annotations

import ipaddress
import json
import re
import tomllib
from pathlib import Path

import pytest

from tests.testbed import kube, kubeconf
from tests.testbed.errors import BedError
from tests.testbed.sandbox import BRICK_ADDRESSES, BRIDGE_ADDRESS

LAYOUT = kubeconf.Layout(run=Path("/run/x/kube"), disk=Path("/disk/x/kube"))


def test_containerd_keeps_everything_in_the_instance() -> None:
    config = tomllib.loads(kubeconf.containerd_toml(LAYOUT))
    assert config["root"].startswith("/disk/x/")
    assert config["state"].startswith("/run/x/")
    assert config["grpc"]["address"] == str(LAYOUT.containerd_socket)


def test_pods_get_addresses_that_no_brick_host_has() -> None:
    (plugin,) = json.loads(kubeconf.cni_conflist(LAYOUT))["plugins"]
    ((pods,),) = plugin["ipam"]["ranges"]
    first, last = (ipaddress.IPv4Address(pods[end]) for end in ("rangeStart", "rangeEnd"))
    taken = map(ipaddress.IPv4Address, (*BRICK_ADDRESSES.values(), BRIDGE_ADDRESS))
    assert not any(first <= address <= last for address in taken)
    assert {first, last} < set(ipaddress.IPv4Network(pods["subnet"]).hosts())


def test_the_api_server_answers_where_pods_look_for_it() -> None:
    assert ipaddress.IPv4Address(kubeconf.SERVICE_ADDRESS) == ipaddress.IPv4Network(kubeconf.SERVICE_RANGE)[1]
    names = " ".join(word for command in kubeconf.openssl(LAYOUT) for word in command)
    assert f"IP:{kubeconf.SERVICE_ADDRESS}" in names
    assert "DNS:kubernetes.default.svc" in names


def test_every_user_has_a_token_of_its_own() -> None:
    lines = kubeconf.tokens_csv({user: f"secret-{user}" for user in kubeconf.USERS}).splitlines()
    assert 'secret-admin,admin,admin,"system:masters"' in lines
    assert 'secret-kubelet,system:node:kube1,system:node:kube1,"system:nodes"' in lines


def test_a_daemon_is_found_by_the_pattern_made_from_its_command() -> None:
    command = ["/cache/kube-apiserver-0a/kube-apiserver", "--etcd-servers=http://127.0.0.1:2379", "--more"]
    assert re.search(kube.pattern(command), " ".join(command))
    assert not re.search(kube.pattern(command), "kube-scheduler --etcd-servers=http://127.0.0.1:2379")


def test_a_group_of_cpuset_gets_its_parents_processors(tmp_path: Path) -> None:
    cpuset, memory = tmp_path / "cpuset", tmp_path / "memory"
    for hierarchy in (cpuset, memory):
        hierarchy.mkdir()
    (cpuset / "cpuset.cpus").write_text("0-1\n")
    (cpuset / "cpuset.mems").write_text("0\n")
    kube.make_cgroups([cpuset, memory], "/bed")
    assert (cpuset / "bed/cpuset.cpus").read_text() == "0-1\n"
    assert list((memory / "bed").iterdir()) == []


def test_on_v2_every_controller_is_handed_down(tmp_path: Path) -> None:
    (tmp_path / "cgroup.controllers").write_text("cpu memory\n")
    kube.make_cgroups([tmp_path], "/bed")
    assert (tmp_path / "cgroup.subtree_control").read_text() == "+memory"
    assert (tmp_path / "bed").is_dir()


def test_a_root_that_hands_no_controllers_down_is_named(tmp_path: Path) -> None:
    (tmp_path / "cgroup.controllers").write_text("cpu memory\n")
    (tmp_path / "cgroup.subtree_control").mkdir()
    with pytest.raises(BedError, match="controller cpu"):
        kube.make_cgroups([tmp_path], "/bed")
