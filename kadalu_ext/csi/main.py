"""kadalu-ext-csi: the command line of controller and node plugin."""

from __future__ import annotations

import argparse
import os
import resource
import signal
import sys
import threading
import uuid
from collections.abc import Sequence
from typing import Final

from kadalu_ext import log, rpc
from kadalu_ext.api import csi_pb2_grpc
from kadalu_ext.csi.identity import Identity, Prober
from kadalu_ext.storage import Storage
from kadalu_ext.storages import Storages

RPC_THREADS: Final = 256
"""More than are called at a time, so that Probe has one: csi-provisioner makes --worker-threads (100) for claims and
as many for deletions, csi-resizer and csi-snapshotter ten each."""

_QUIET: Final = frozenset({"Probe", "GetPluginInfo", "GetPluginCapabilities", "ControllerGetCapabilities"})
_STOP_GRACE_S: Final = 5.0


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one of the two until SIGTERM or SIGINT; the exit code."""
    args = parser().parse_args(argv)
    log.configure(args.log_level)
    if args.program == "node":
        from kadalu_ext.csi import node  # the controller has no need of it

        return node.main(args)
    return controller(args)


def parser() -> argparse.ArgumentParser:
    """The command line; what the node plugin does with its options is in node.py."""
    top = argparse.ArgumentParser(prog="kadalu-ext-csi", description="The CSI driver kadalu.external.")
    programs = top.add_subparsers(dest="program", required=True)
    both = argparse.ArgumentParser(add_help=False)
    both.add_argument("--endpoint", required=True, help="the unix socket to serve CSI on")
    both.add_argument("--storages", required=True, help="the directory where the ConfigMap of storages is mounted")
    both.add_argument("--log-level", default="INFO", choices=("DEBUG", "INFO", "WARNING", "ERROR"))

    one = programs.add_parser("controller", parents=[both], help="makes and deletes volumes; one for the whole cluster")
    one.add_argument("--identity", help="of a pod its name: one that is started anew goes on with its copies at once")
    one.add_argument("--port", type=int, help="serve /healthz and /metrics there, e.g. 8080")
    one.add_argument("--tls", default="/etc/kadalu-ext/tls", help="where the Secret with TLS files is mounted")
    node = programs.add_parser("node", parents=[both], help="mounts volumes for pods; one on each node")
    node.add_argument("--node-id", required=True, help="the name of this node")
    node.add_argument("--mounter", required=True, help="the unix socket of kadalu-ext-mounter on this node")
    node.add_argument("--registration-dir", required=True, help="where kubelet looks for plugins' sockets")
    node.add_argument("--kubelet-dir", required=True, help="kubelet's --root-dir")
    return top


def controller(args: argparse.Namespace) -> int:
    """Serves Identity and Controller until a signal comes."""
    from kadalu_ext.csi.canaries import Canaries  # the node plugin, on every node, has no need of them
    from kadalu_ext.csi.clients import Clients
    from kadalu_ext.csi.connection import GlusterConnector
    from kadalu_ext.csi.controller import Controller
    from kadalu_ext.csi.metrics import Metrics
    from kadalu_ext.csi.pools import Pools
    from kadalu_ext.gluster import owndir
    from kadalu_ext.httpd import HttpServer

    allow_descriptors()
    logger = log.Logger("csi-controller")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    owndir.sweep()  # of the one before in this pod: /tmp outlives a container
    storages = Storages(args.storages, args.tls)

    def lost(storage: Storage, why: str) -> None:
        logger.error("gluster client ended", storage=storage.name, volume=storage.volume, reason=why)
        metrics.client_lost(storage.name)

    connector = GlusterConnector(storages.tls, lost=lost)
    clients = Clients(connector=connector, log=logger, identity=args.identity or uuid.uuid4().hex)
    pools = Pools(connector=connector, log=logger)
    metrics = Metrics(clients.figures)
    socket = args.endpoint.removeprefix("unix://")
    server = rpc.serve_unix(socket, log=logger, workers=RPC_THREADS, quiet=_QUIET, told=metrics.called)
    # abstract by its stub; what it does not define answers UNIMPLEMENTED
    servicer = Controller(storages=storages, clients=clients, pools=pools)  # type: ignore[abstract]
    csi_pb2_grpc.add_IdentityServicer_to_server(Identity(), server)
    csi_pb2_grpc.add_ControllerServicer_to_server(servicer, server)
    server.start()
    logger.info("serving", endpoint=args.endpoint, storages=storages.names())
    if args.port is not None:
        HttpServer(args.port, program="kadalu-ext-csi", unhealthy=Prober(socket).unhealthy, metrics=metrics.text)
    pools.open(storages)
    Canaries(storages=storages, clients=clients, log=logger).start()
    stop.wait()
    logger.info("stopping")
    server.stop(_STOP_GRACE_S).wait()
    clients.close(wait_s=_STOP_GRACE_S)
    sys.stderr.flush()
    # Calls that hang on a dead storage would hold an ordinary exit up; the volume's state is whole at every step.
    os._exit(0)


def allow_descriptors() -> None:
    """Each call of a gluster client has one, each host and brick one or two: the usual 1,024 are soon used up."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


if __name__ == "__main__":
    sys.exit(main())
