"""What the operator tells Prometheus. docs/metrics.md explains each."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from kadalu_ext import __version__
from kadalu_ext.operator.actions import Usable
from kadalu_ext.operator.reconcile import Done
from kadalu_ext.operator.render import plain

_STATUSES: Final = ("True", "False", "Unknown")
_OF: Final = ["namespace", "storage"]
_BRICK: Final = [*_OF, "host", "path"]

MAX_HOSTS: Final = 1000
"""So many hosts have their own label; all further ones share one."""

Key = tuple[str, str]
"""Namespace and name of a KadaluStorage."""


class Metrics:
    """Thread-safe; a registry of its own."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry(auto_describe=False)
        self.storages = _Storages()
        self.registry.register(self.storages)
        self.seconds = Histogram(
            "kadalu_operator_reconcile_duration_seconds", "One look at a KadaluStorage.", ["result"],
            buckets=(0.01, 0.05, 0.1, 0.5, 1, 2.5, 5, 10, 30), registry=self.registry,
        )  # fmt: skip
        self.host_errors = Counter(
            "kadalu_operator_host_errors_total", "Questions that a host did not answer.", ["host", "error"],
            registry=self.registry,
        )  # fmt: skip
        self._hosts_lock = threading.Lock()
        self._hosts: set[str] = set()
        self.leader = self._gauge("kadalu_operator_leader", "1 if this is the operator at work.")
        self.waiting = self._gauge("kadalu_operator_queue_waiting", "KadaluStorages that are due to be looked at.")
        self.running = self._gauge("kadalu_operator_queue_running", "KadaluStorages that are being looked at.")
        info = Gauge("kadalu_operator_info", "Always 1.", ["version"], registry=self.registry)
        info.labels(__version__).set(1)

    def host_failed(self, host: str, error: str) -> None:
        """`host` did not answer. Volfiles name hosts, and nothing is forgotten here: so not any number."""
        with self._hosts_lock:
            if len(self._hosts) < MAX_HOSTS:
                self._hosts.add(host)
            known = host in self._hosts
        self.host_errors.labels(plain(host) if known else "others", error).inc()

    def _gauge(self, name: str, what: str) -> Gauge:
        return Gauge(name, what, registry=self.registry)

    def text(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self.registry)


@dataclass(frozen=True, kw_only=True)
class _Shown:
    conditions: dict[str, str]
    usable: Usable | None
    done: Done


class _Storages(Collector):
    """The last look at each KadaluStorage; one that is gone has no metrics any more."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._shown: dict[Key, _Shown] = {}

    def put(self, key: Key, done: Done) -> None:
        conditions = {item["type"]: item["status"] for item in done.status.get("conditions") or []}
        usable = done.outcome if isinstance(done.outcome, Usable) else None
        with self._lock:
            self._shown[key] = _Shown(conditions=conditions, usable=usable, done=done)

    def forget(self, key: Key) -> None:
        with self._lock:
            self._shown.pop(key, None)

    def collect(self) -> Iterator[GaugeMetricFamily]:
        with self._lock:
            shown = dict(self._shown)
        condition = GaugeMetricFamily(
            "kadalu_storage_condition", "1 for the status that the condition has.", labels=[*_OF, "condition", "status"]
        )
        capacity = GaugeMetricFamily("kadalu_storage_capacity_bytes", "Size of the volume.", labels=_OF)
        provisioned = GaugeMetricFamily("kadalu_storage_provisioned_bytes", "Sizes of its PVs, summed.", labels=_OF)
        pvs = GaugeMetricFamily("kadalu_storage_persistentvolumes", "Its PVs.", labels=_OF)
        online = GaugeMetricFamily("kadalu_storage_brick_online", "1 if the brick answers.", labels=_BRICK)
        free = GaugeMetricFamily("kadalu_storage_brick_free_bytes", "What is free on the brick.", labels=_BRICK)
        for key, of in shown.items():
            for kind, status in of.conditions.items():
                for each in _STATUSES:
                    condition.add_metric([*key, kind, each.lower()], float(status == each))
            if of.done.provisioned is not None:
                provisioned.add_metric(key, of.done.provisioned.total_bytes)
                pvs.add_metric(key, of.done.provisioned.pvs)
            if of.usable is None:
                continue
            if of.usable.capacity_bytes is not None:
                capacity.add_metric(key, of.usable.capacity_bytes)
            for brick in of.usable.bricks:
                labels = [*key, plain(brick.brick.host), plain(brick.brick.path)]
                online.add_metric(labels, float(brick.online))
                if brick.free_bytes is not None:
                    free.add_metric(labels, brick.free_bytes)
        yield from (condition, capacity, provisioned, pvs, online, free)
