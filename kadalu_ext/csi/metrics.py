"""What the controller tells Prometheus. docs/metrics.md explains each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final

import grpc
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from kadalu_ext import __version__
from kadalu_ext.csi.figures import Figures
from kadalu_ext.storage import StorageName

_OF: Final = ["storage"]
_COPY: Final = [*_OF, "volume"]


class Metrics:
    """Thread-safe; a registry of its own. figures: of all storages; it must not wait for any."""

    def __init__(self, figures: Callable[[], Iterable[Figures]]) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry(auto_describe=False)
        self.registry.register(_Storages(figures))
        self._seconds = Histogram(
            "kadalu_csi_call_duration_seconds", "Calls that were answered.", ["method", "code"],
            buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30), registry=self.registry,
        )  # fmt: skip
        self._lost = Counter(
            "kadalu_csi_clients_lost", "Gluster clients that hung or crashed.", _OF, registry=self.registry
        )
        info = Gauge("kadalu_csi_info", "Always 1.", ["version"], registry=self.registry)
        info.labels(__version__).set(1)

    def called(self, method: str, code: grpc.StatusCode, seconds: float) -> None:
        """A call ended so, see rpc.Told."""
        self._seconds.labels(method, code.name).observe(seconds)

    def client_lost(self, storage: StorageName) -> None:
        """Its gluster client hung or crashed; another takes its place."""
        self._lost.labels(storage).inc()

    def text(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self.registry)


class _Storages(Collector):
    def __init__(self, figures: Callable[[], Iterable[Figures]]) -> None:
        self._figures = figures

    def collect(self) -> Iterator[Metric]:
        connected = _gauge("client_connected", "1 if there is a gluster client of the storage.")
        running = _gauge("calls_running", "Calls at work on the storage.")
        oldest = _gauge("oldest_call_seconds", "For how long the oldest of them has been.")
        promised = _gauge("promised_bytes", "Sizes of all PVs, snapshots and archives on the volume, summed.")
        count = _gauge("promised_volumes", "How many they are.")
        usable = _gauge("usable_bytes", "What can be written to the volume.")
        trash = _gauge("trash_volumes", "Deleted PVs whose files are still being removed.")
        emptied = CounterMetricFamily("kadalu_csi_trash_emptied", "Deleted PVs whose files are gone.", labels=_OF)
        copies = _gauge("copies", "Clones and snapshots that are not whole.", [*_OF, "state"])
        done = _gauge("copy_done_bytes", "What a copy at work has so far.", _COPY)
        known = _gauge("copy_source_bytes", "What its source had at its beginning.", _COPY)
        for each in self._figures():
            of = [each.storage]
            connected.add_metric(of, float(each.connected))
            running.add_metric(of, each.running)
            oldest.add_metric(of, each.oldest_s)
            if each.promised is not None:
                promised.add_metric(of, each.promised.size_bytes)
                count.add_metric(of, each.promised.pvs)
                usable.add_metric(of, each.promised.usable_bytes)
            if each.trash.waiting is not None:
                trash.add_metric(of, each.trash.waiting)
                emptied.add_metric(of, each.trash.emptied)
            copies.add_metric([*of, "waiting"], each.waiting)
            copies.add_metric([*of, "running"], len(each.copies))
            for copy in each.copies:
                done.add_metric([*of, copy.name], copy.size_bytes)
                if copy.known_bytes is not None:
                    known.add_metric([*of, copy.name], copy.known_bytes)
        yield from (connected, running, oldest, promised, count, usable, trash, emptied, copies, done, known)


def _gauge(name: str, what: str, labels: list[str] = _OF) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"kadalu_csi_{name}", what, labels=labels)
