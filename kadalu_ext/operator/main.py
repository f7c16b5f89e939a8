"""kadalu-ext-operator: options, and everything put together."""

from __future__ import annotations

import argparse
import os
import signal
import socket
import sys
import threading
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import urllib3
from kubernetes import client, config

from kadalu_ext import __version__
from kadalu_ext.errors import KadaluExtError, KubernetesError
from kadalu_ext.gluster.client import SHARED
from kadalu_ext.httpd import HttpServer
from kadalu_ext.log import Logger, configure
from kadalu_ext.operator.controller import HUNG_S, THREADS, Controller
from kadalu_ext.operator.following import Follower
from kadalu_ext.operator.kube import Kube
from kadalu_ext.operator.lease import Election
from kadalu_ext.operator.metrics import Metrics
from kadalu_ext.operator.observe import Observer
from kadalu_ext.operator.pvs import PvTable
from kadalu_ext.operator.reconcile import Reconciler
from kadalu_ext.operator.watching import GlusterWatcher


@dataclass(frozen=True, kw_only=True)
class Options:
    """As given on the command line.

    namespace: where the project is installed, its ConfigMap and its Lease. watch: namespaces whose KadaluStorages are
    served; empty means all. interval_s: each storage is looked at again after so many seconds. port: of /healthz and
    /metrics, or None.
    """

    namespace: str
    watch: tuple[str, ...]
    interval_s: float
    port: int | None
    log_level: str


def main(arguments: Sequence[str] | None = None) -> int:
    """The program. Runs until it is told to stop; 1 if it cannot start, or is no longer the one at work."""
    options = parse(arguments)
    configure(options.log_level)
    log = Logger("kadalu_ext.operator")
    try:
        kube = Kube(_api(), namespace=options.namespace)
    except KadaluExtError as error:
        log.error("operator cannot start", reason=str(error))  # noqa: TRY400 - the message says it all
        return 1
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return Operator(kube, options, log).run(stop)


class Operator:
    """All the parts, and their lives."""

    def __init__(self, kube: Kube, options: Options, log: Logger) -> None:
        self._kube = kube
        self._options = options
        self._log = log
        self._metrics = Metrics()
        self._election = Election(kube, _identity())
        self._metrics.leader.set_function(lambda: float(self._election.leading))
        pvs = PvTable(lambda storage: self._controller.poke(storage))
        observer = Observer(failed=self._metrics.host_failed)
        self._controller = Controller(
            Reconciler(kube, observer, pvs.of, may_write=lambda: self._election.leading),
            interval_s=options.interval_s,
            log=log,
            metrics=self._metrics,
            watchers=[observer],
        )
        self._controller.watchers.append(GlusterWatcher(SHARED.listen, self._controller.changed))
        follow_pvs = Follower(kube.pvs, replace=pvs.replace, changed=pvs.change, log=log)
        self._followers = [
            *(
                Follower(
                    kube.storages(namespace),
                    replace=partial(self._controller.replace, str(namespace)),
                    changed=partial(self._controller.change, str(namespace)),
                    log=log,
                )
                for namespace in options.watch or (None,)
            ),
            follow_pvs,
        ]

    def run(self, stop: threading.Event) -> int:
        """Until `stop`, or until another operator has the Lease."""
        http = None
        if self._options.port is not None:
            http = HttpServer(
                self._options.port,
                program="kadalu-ext-operator",
                unhealthy=self.unhealthy,
                metrics=self._metrics.text,
            )
        try:
            return self._run(stop)
        finally:
            self._controller.queue.stop()
            self._election.resign()  # nothing is written from now on
            if http is not None:
                http.close()

    def _run(self, stop: threading.Event) -> int:
        log, options = self._log, self._options
        log.info("operator started", version=__version__, namespace=options.namespace, watch=options.watch or "all")
        self._election.step()
        if not self._election.leading:
            log.info("waiting for the lease", holder=self._election.holder)
        if not (self._election.leading or self._election.campaign(stop)):
            return 0
        log.info("leading")
        if not self._serves_our_kind(stop):
            return 1
        for follower in self._followers:
            follower.thread.start()
        self._controller.start()
        if self._election.keep(stop):
            log.info("operator stopped")
            return 0
        log.error("lease lost", holder=self._election.holder)
        return 1

    def _serves_our_kind(self, stop: threading.Event) -> bool:
        try:
            reason = self._kube.no_kind()
        except KadaluExtError:
            return True  # the API server is away: the followers wait for it
        if reason:
            self._log.error("operator cannot start", reason=reason)
        return not reason

    def unhealthy(self) -> str:
        """Why this process should be restarted; '' if it should not. An API server that is away is no reason."""
        silent_s = time.monotonic() - self._election.tried_at
        if silent_s > HUNG_S:
            return f"the lease has not been tried for {silent_s:.0f} s"
        if self._followers[0].thread.ident is not None and not all(each.thread.is_alive() for each in self._followers):
            return "a thread that follows the API server has ended"
        return self._controller.unhealthy()


def parse(arguments: Sequence[str] | None) -> Options:
    """The options of a command line; prints what is wrong and exits with 2 for one that is not."""
    parser = argparse.ArgumentParser(prog="kadalu-ext-operator", description="Serves KadaluStorage objects.")
    parser.add_argument("--namespace", default=os.environ.get("POD_NAMESPACE", "kadalu-ext"),
                        help="where the project is installed (default: $POD_NAMESPACE, or kadalu-ext)")  # fmt: skip
    parser.add_argument("--watch-namespace", action="append", default=[], metavar="NAMESPACE",
                        help="serve only KadaluStorages of this namespace; may be repeated (default: all)")  # fmt: skip
    parser.add_argument("--interval", type=float, default=15.0, metavar="SECONDS",
                        help="look at each storage again after so long (default: %(default)s)")  # fmt: skip
    parser.add_argument("--port", type=int, help="serve /healthz and /metrics there, e.g. 8080")
    parser.add_argument("--log-level", default="INFO", choices=["DEBUG", "INFO", "WARNING", "ERROR"])
    found = parser.parse_args(arguments)
    return Options(
        namespace=found.namespace,
        watch=tuple(found.watch_namespace),
        interval_s=found.interval,
        port=found.port,
        log_level=found.log_level,
    )


def _identity() -> str:
    """Of a pod its name: when it is started anew, its earlier process is gone, and the Lease still its own."""
    name = socket.gethostname()
    return name if "KUBERNETES_SERVICE_HOST" in os.environ else f"{name}_{uuid.uuid4()}"


def _api() -> client.ApiClient:
    settings = client.Configuration()
    settings.connection_pool_maxsize = THREADS + 4
    # what fails is tried again by the queue and the followers, when Retry-After says; no thread is held meanwhile
    settings.retries = urllib3.Retry(total=2, status=0, redirect=0, other=0, respect_retry_after_header=False)
    try:
        try:
            config.load_incluster_config(client_configuration=settings)  # type: ignore[no-untyped-call]
        except config.ConfigException:
            config.load_kube_config(client_configuration=settings)  # type: ignore[no-untyped-call]
    except config.ConfigException as error:
        raise KubernetesError(f"there is neither a service account nor a kubeconfig: {error}") from error
    return client.ApiClient(settings)


if __name__ == "__main__":
    sys.exit(main())
