"""The Go modules of the testbed, and the toolchain that builds them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.testbed import gobuild
from tests.testbed.errors import BedError

GO_MOD = """module x

go 1.26.0

tool example.org/one/cmd/first

tool (
	k8s.io/kubernetes/cmd/kubelet
	example.org/one/cmd/second
)

require example.org/one v1.2.3

require (
	k8s.io/kubernetes v1.36.3 // indirect
)
"""


def test_tools_are_found_in_lines_and_in_blocks() -> None:
    assert gobuild.tool_packages(GO_MOD) == [
        "example.org/one/cmd/first",
        "k8s.io/kubernetes/cmd/kubelet",
        "example.org/one/cmd/second",
    ]


def test_the_version_of_a_tool_is_that_of_its_module() -> None:
    assert gobuild.module_version(GO_MOD, "example.org/one/cmd/second") == "v1.2.3"
    with pytest.raises(BedError, match="go mod tidy"):
        gobuild.module_version(GO_MOD, "example.org/onetwo/cmd/second")


def test_the_linker_is_told_the_version_of_kubernetes() -> None:
    flags = gobuild.ldflags(GO_MOD, "k8s.io/kubernetes/cmd/kubelet")
    assert "version.gitVersion=v1.36.3 " in flags
    assert flags.endswith("version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=36")


def test_every_tool_has_one_module_and_kubernetes_comes_first() -> None:
    tools = gobuild.tools()
    assert set(list(tools)[: len(gobuild.KUBERNETES)]) == set(gobuild.KUBERNETES)
    assert {"csi-provisioner", "csi-sanity", "nfpm"} <= tools.keys()
    assert all(gobuild.version(tool).startswith("v") for tool in tools)


def test_the_fetched_toolchain_is_new_enough_for_every_module() -> None:
    wanted = [tuple(map(int, gobuild.go_directive(module).split("."))) for module in gobuild.MODULES]
    assert tuple(map(int, gobuild.TOOLCHAIN.split("."))) >= max(wanted)


def test_a_toolchain_module_gets_back_what_a_module_cannot_hold(tmp_path: Path) -> None:
    for name in ("bin/go", "pkg/tool/linux_amd64/compile", "src/_go.mod", "src/cmd/_go.mod"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch(mode=0o444)
    gobuild.prepare_toolchain(tmp_path)
    assert os.access(tmp_path / "bin/go", os.X_OK)
    assert (tmp_path / "pkg/tool/linux_amd64/compile").stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "src/go.mod").exists()
    assert (tmp_path / "src/cmd/go.mod").exists()
