"""csi-sanity against this driver: its three programs as processes, and what csi-sanity reported of them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import yaml

from kadalu_ext.storage import Storage, to_json, to_parameters
from kadalu_ext.units import MIB
from tests.integration.test_mounter import LONG_S, Node, listens
from tests.testbed import gobuild, paths, progress

SIZE_BYTES = 64 * MIB
MINUTES = 20.0
"""A bound for hangs; csi-sanity itself has none."""

SECRET = "it-is-no-secret-that-this-is-one"  # noqa: S105

_SECRETS = (
    "CreateVolume", "DeleteVolume", "ControllerValidateVolumeCapabilities", "NodeStageVolume", "NodePublishVolume",
    "CreateSnapshot", "DeleteSnapshot", "ControllerExpandVolume", "ControllerModifyVolume", "ListSnapshots",
    "GetSnapshot",
)  # fmt: skip
"""The calls that csi-sanity can send secrets with."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """What one run of csi-sanity has found, each test by its whole name."""

    passed: tuple[str, ...]
    failed: tuple[str, ...]
    """With the reason."""
    skipped: Counter[str]
    """How many tests by the reason that csi-sanity gave; those that it always leaves out have none."""

    @classmethod
    def read(cls, path: Path) -> Report:
        """Of ginkgo's --ginkgo.json-report."""
        specs = [spec for suite in json.loads(path.read_text()) for spec in suite["SpecReports"]]
        tests = [spec for spec in specs if spec["LeafNodeType"] == "It"]
        return cls(
            passed=tuple(_name(spec) for spec in tests if spec["State"] == "passed"),
            failed=tuple(
                f"{_name(spec)}: {spec.get('Failure', {}).get('Message', '')}"
                for spec in specs
                if spec["State"] not in ("passed", "skipped", "pending")
            ),
            skipped=Counter(
                spec.get("Failure", {}).get("Message", "") for spec in tests if spec["State"] in ("skipped", "pending")
            ),
        )

    def __str__(self) -> str:
        return f"{len(self.passed)} passed, {len(self.failed)} failed, {self.skipped.total()} skipped"


def _name(spec: dict[str, object]) -> str:
    words = spec["ContainerHierarchyTexts"] or []
    assert isinstance(words, list)
    return " / ".join([*words, str(spec["LeafNodeText"])])


class Driver:
    """Controller, node plugin and mounter of one node, with these storages in their ConfigMap."""

    def __init__(self, node: Node, storages: Sequence[Storage]) -> None:
        self.node = node
        directory = node.run / "storages"
        directory.mkdir(exist_ok=True)
        for storage in storages:
            (directory / f"{storage.name}.json").write_text(to_json(storage))
        self.controller_socket = node.run / "controller.sock"
        self._programs: list[subprocess.Popen[bytes]] = []

    @contextmanager
    def running(self) -> Iterator[Driver]:
        """The controller beside a node that runs."""
        words = ["controller", f"--endpoint={self.controller_socket}", f"--storages={self.node.run}/storages"]
        with (self.node.run / "controller.log").open("ab") as log:
            self._start([sys.executable, "-m", "kadalu_ext.csi.main", *words], log)
        try:
            progress.wait_until("the controller to listen", lambda: listens(self.controller_socket), seconds=LONG_S)
            yield self
        finally:
            for program in reversed(self._programs):
                program.terminate()
                try:
                    program.wait(timeout=60)
                except subprocess.TimeoutExpired:  # a csi-sanity that a failed test has left cleans up for long
                    program.kill()
                    program.wait()

    def logs(self) -> str:
        """What all three programs have logged."""
        return "".join(path.read_text() for path in self.node.run.glob("*.log"))

    def sanity(self, storage: Storage, *more: str) -> subprocess.Popen[bytes]:
        """csi-sanity, just started, on volumes of this storage."""
        run = self.node.run / f"sanity-{storage.name}"
        run.mkdir()
        files = {
            "parameters": to_parameters(storage),
            "mutable": {"inodes": "1000"},
            "secrets": {f"{call}Secret": {"key": SECRET} for call in _SECRETS},
        }
        for name, content in files.items():
            (run / name).write_text(yaml.safe_dump(content))
        argv = [
            str(gobuild.binary("csi-sanity")),
            f"-csi.endpoint={self.node.plugin}/csi.sock",
            f"-csi.controllerendpoint={self.controller_socket}",
            # csi-sanity makes and removes both for each test
            f"-csi.stagingdir={self.node.kubelet}/staging-{storage.name}",
            f"-csi.mountdir={self.node.kubelet}/target-{storage.name}",
            "-csi.testvolumeaccesstype=mount",
            f"-csi.testvolumesize={SIZE_BYTES}",
            f"-csi.testvolumeexpandsize={2 * SIZE_BYTES}",
            f"-csi.testvolumeparameters={run / 'parameters'}",
            f"-csi.testvolumemutableparameters={run / 'mutable'}",
            f"-csi.secrets={run / 'secrets'}",
            f"--ginkgo.json-report={run / 'report.json'}",
            "--ginkgo.no-color",
            "--ginkgo.v",
            *more,
        ]
        with (run / "output").open("wb") as output:
            return self._start(argv, output)

    def _start(self, argv: Sequence[str], output: IO[bytes]) -> subprocess.Popen[bytes]:
        program = subprocess.Popen(argv, stdout=output, stderr=subprocess.STDOUT, cwd=paths.REPOSITORY)
        self._programs.append(program)
        return program

    def report(self, storage: Storage, sanity: subprocess.Popen[bytes]) -> Report:
        """Of a csi-sanity that `sanity` has started, once it has ended."""
        run = self.node.run / f"sanity-{storage.name}"
        try:
            sanity.wait(timeout=MINUTES * 60)
        except subprocess.TimeoutExpired:
            sanity.kill()
            sanity.wait()
            raise AssertionError(f"csi-sanity hangs: {progress.tail(run / 'output', 40)}") from None
        found = Report.read(run / "report.json")
        progress.say(f"csi-sanity on {storage.name}: {found}")
        return found
