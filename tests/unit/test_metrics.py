"""docs/metrics.md has every metric of the programs in Kubernetes, with its labels, and none that there is not."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
from prometheus_client import CollectorRegistry

from kadalu_ext.csi.figures import CopyFigures, Figures
from kadalu_ext.csi.metrics import Metrics as Controller
from kadalu_ext.csi.promises import Promised
from kadalu_ext.csi.trash import Trash
from kadalu_ext.mounter.metrics import Metrics as Mounter
from kadalu_ext.mounter.status import State, Status
from kadalu_ext.operator.metrics import Metrics as Operator
from kadalu_ext.operator.pvs import Provisioned
from kadalu_ext.operator.reconcile import Done
from kadalu_ext.operator.report import report
from kadalu_ext.record import PvName
from kadalu_ext.storage import StorageName
from tests.unit.operator.samples import NOW, resource, usable

PAGE = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()

FIGURES = Figures(
    storage=StorageName("ext"),
    connected=True,
    running=2,
    oldest_s=12.5,
    promised=Promised(size_bytes=4096, pvs=1, usable_bytes=8192, archived=0),
    trash=Trash(waiting=3, emptied=4),
    waiting=5,
    copies=(CopyFigures(name=PvName("pvc-1"), size_bytes=10, known_bytes=40),),
)
STATUS = Status(
    name=StorageName("ext"),
    state=State.DEAD,
    path="/m",
    reason="its client ended",
    hidden_hosts=("node2",),
    down_bricks=(),
    restarts=7,
)


def operator() -> CollectorRegistry:
    metrics = Operator()
    (patch,) = (a.status for a in report(resource(), usable(offline=1), now=NOW) if hasattr(a, "status"))
    done = Done(outcome=usable(offline=1), status=patch, provisioned=Provisioned(pvs=2, total_bytes=4096))
    metrics.storages.put(("default", "ext"), done)
    metrics.seconds.labels("done").observe(0.1)
    metrics.host_failed("node1", "BrickSilent")
    return metrics.registry


def controller(figures: Figures = FIGURES) -> CollectorRegistry:
    metrics = Controller(lambda: [figures])
    metrics.called("CreateVolume", grpc.StatusCode.ABORTED, 0.3)
    metrics.client_lost(StorageName("ext"))
    return metrics.registry


def mounter() -> CollectorRegistry:
    return Mounter(lambda: [STATUS]).registry


def shown(registry: CollectorRegistry) -> Iterator[tuple[str, frozenset[str]]]:
    for family in registry.collect():
        name = family.name + ("_total" if family.type == "counter" else "")
        assert family.samples and family.documentation
        yield name, frozenset(family.samples[0].labels) - {"le"}


def documented(program: str) -> dict[str, frozenset[str]]:
    section = PAGE.partition(f"\n## {program}\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \|([^|]*)\|", section, re.MULTILINE)
    return {name: frozenset(re.findall(r"[a-z]+", re.sub(r"\([^)]*\)", "", labels))) for name, labels in rows}


@pytest.mark.parametrize(
    ("program", "registry"), [("Operator", operator()), ("CSI controller", controller()), ("Mounter", mounter())]
)
def test_every_metric_is_explained_with_its_labels(program: str, registry: CollectorRegistry) -> None:
    assert dict(shown(registry)) == documented(program)


def test_what_a_storage_does_is_seen() -> None:
    value, of = controller().get_sample_value, {"storage": "ext"}
    assert value("kadalu_csi_oldest_call_seconds", of) == 12.5
    assert value("kadalu_csi_promised_bytes", of) == 4096
    assert value("kadalu_csi_trash_volumes", of) == 3
    assert value("kadalu_csi_trash_emptied_total", of) == 4
    assert value("kadalu_csi_copies", {**of, "state": "waiting"}) == 5
    assert value("kadalu_csi_copy_done_bytes", {**of, "volume": "pvc-1"}) == 10
    assert value("kadalu_csi_call_duration_seconds_count", {"method": "CreateVolume", "code": "ABORTED"}) == 1
    assert mounter().get_sample_value("kadalu_mounter_mounted", of) == 0
    assert mounter().get_sample_value("kadalu_mounter_client_restarts_total", of) == 7


def test_what_is_not_known_is_not_said() -> None:
    copies = (replace(FIGURES.copies[0], known_bytes=None),)
    unknown = controller(replace(FIGURES, connected=False, promised=None, trash=Trash(), copies=copies))
    value, of = unknown.get_sample_value, {"storage": "ext"}
    assert value("kadalu_csi_client_connected", of) == 0
    assert value("kadalu_csi_promised_bytes", of) is None
    assert value("kadalu_csi_trash_volumes", of) is None
    assert value("kadalu_csi_copy_source_bytes", {**of, "volume": "pvc-1"}) is None
