"""kadalu-ext-operator: options, and everything put together."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import kopf
from kubernetes import client, config

from kadalu_ext import __version__
from kadalu_ext.errors import KadaluExtError, KubernetesError
from kadalu_ext.log import Logger, configure
from kadalu_ext.operator import handlers
from kadalu_ext.operator.kube import GROUP, PLURAL, Kube
from kadalu_ext.operator.observe import observe
from kadalu_ext.operator.reconcile import Reconciler


@dataclass(frozen=True, kw_only=True)
class Options:
    """As given on the command line.

    namespace: where the project is installed, and its ConfigMap. watch: namespaces whose KadaluStorages are served;
    empty means all. interval_s: each storage is looked at again after so many seconds. liveness: URL to serve, or None.
    """

    namespace: str
    watch: tuple[str, ...]
    interval_s: float
    liveness: str | None
    log_level: str


def main(arguments: Sequence[str] | None = None) -> int:
    """The program. Runs until it is told to stop; 1 if it cannot start, for a reason that it says."""
    options = parse(arguments)
    configure(options.log_level)
    handlers.quieten()
    log = Logger("kadalu_ext.operator")
    try:
        kube = Kube(_api(), namespace=options.namespace)
        if not kube.serves_our_kind():
            raise KubernetesError(f"the API server knows no {PLURAL}.{GROUP}: kubectl apply -k manifests/")
    except KadaluExtError as error:
        log.error("operator cannot start", reason=str(error))  # noqa: TRY400 - the message says it all
        return 1
    log.info("operator started", version=__version__, namespace=options.namespace, watch=options.watch or "all")
    kopf.run(
        registry=handlers.registry(Reconciler(kube, observe), interval_s=options.interval_s, log=log),
        settings=handlers.settings(),
        standalone=True,
        clusterwide=not options.watch,
        namespaces=options.watch,
        liveness_endpoint=options.liveness,
    )
    return 0


def parse(arguments: Sequence[str] | None) -> Options:
    """The options of a command line; prints what is wrong and exits with 2 for one that is not."""
    parser = argparse.ArgumentParser(prog="kadalu-ext-operator", description="Serves KadaluStorage objects.")
    parser.add_argument("--namespace", default=os.environ.get("POD_NAMESPACE", "kadalu-ext"),
                        help="where the project is installed (default: $POD_NAMESPACE, or kadalu-ext)")  # fmt: skip
    parser.add_argument("--watch-namespace", action="append", default=[], metavar="NAMESPACE",
                        help="serve only KadaluStorages of this namespace; may be repeated (default: all)")  # fmt: skip
    parser.add_argument("--interval", type=float, default=15.0, metavar="SECONDS",
                        help="look at each storage again after so long (default: %(default)s)")  # fmt: skip
    parser.add_argument("--liveness", metavar="URL", help="serve this for probes, e.g. http://0.0.0.0:8080/healthz")
    parser.add_argument("--log-level", default="INFO", choices=["DEBUG", "INFO", "WARNING", "ERROR"])
    found = parser.parse_args(arguments)
    return Options(
        namespace=found.namespace,
        watch=tuple(found.watch_namespace),
        interval_s=found.interval,
        liveness=found.liveness,
        log_level=found.log_level,
    )


def _api() -> client.ApiClient:
    settings = client.Configuration()
    settings.connection_pool_maxsize = handlers.THREADS
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
