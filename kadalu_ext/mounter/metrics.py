"""What the mounter tells Prometheus. docs/metrics.md explains each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from prometheus_client import CollectorRegistry, Gauge, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from kadalu_ext import __version__
from kadalu_ext.mounter.status import State, Status


class Metrics:
    """Thread-safe; a registry of its own. statuses: of all storages of this node; it must not wait for any."""

    def __init__(self, statuses: Callable[[], Sequence[Status]]) -> None:
        self.registry = CollectorRegistry(auto_describe=False)
        self.registry.register(_Storages(statuses))
        info = Gauge("kadalu_mounter_info", "Always 1.", ["version"], registry=self.registry)
        info.labels(__version__).set(1)

    def text(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self.registry)


class _Storages(Collector):
    def __init__(self, statuses: Callable[[], Sequence[Status]]) -> None:
        self._statuses = statuses

    def collect(self) -> Iterator[Metric]:
        of = ["storage"]
        mounted = GaugeMetricFamily("kadalu_mounter_mounted", "1 if a client serves its mount.", labels=of)
        restarts = CounterMetricFamily("kadalu_mounter_client_restarts", "Clients in another's place.", labels=of)
        bricks = GaugeMetricFamily("kadalu_mounter_bricks_down", "Bricks it has no connection to.", labels=of)
        hosts = GaugeMetricFamily("kadalu_mounter_hosts_hidden", "Brick hosts that are silent.", labels=of)
        for status in self._statuses():
            mounted.add_metric([status.name], float(status.state is State.MOUNTED))
            restarts.add_metric([status.name], status.restarts)
            bricks.add_metric([status.name], len(status.down_bricks))
            hosts.add_metric([status.name], len(status.hidden_hosts))
        yield from (mounted, restarts, bricks, hosts)
