"""kadalu-ext-mounter: owns this node's glusterfs clients."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from typing import Final

from kadalu_ext import log
from kadalu_ext.api import mounter_pb2_grpc
from kadalu_ext.gluster.feed import REFRESH_S
from kadalu_ext.mounter.servicer import MounterServicer
from kadalu_ext.mounter.storages import Settings, Storages
from kadalu_ext.mounter.world import World
from kadalu_ext.rpc import serve_unix
from kadalu_ext.storages import Storages as StorageFiles

WORKERS: Final = 256
"""Calls at a time: several storages' worth of calls that wait (supervisor.CALLERS)."""


def main(argv: list[str] | None = None) -> int:
    """Serves until SIGTERM. The clients live on, for as long as whatever contains this process does."""
    parser = argparse.ArgumentParser(prog="kadalu-ext-mounter", description=__doc__)
    parser.add_argument("--dir", default="/var/lib/kubelet/plugins/kadalu.external", help="mounter.sock, mounts/, log/")
    parser.add_argument("--run-dir", default="/run/kadalu-ext-mounter", help="sockets of the volfile servers")
    parser.add_argument(
        "--refresh", type=float, default=REFRESH_S, metavar="SECONDS", help="how often volfiles are looked at"
    )
    parser.add_argument("--storages", default="/etc/kadalu-ext/storages", help="where the ConfigMap is mounted")
    parser.add_argument("--tls", default="/etc/kadalu-ext/tls", help="where the Secret with TLS files is mounted")
    parser.add_argument("--port", type=int, help="serve /healthz and /metrics there, on all of the node's addresses")
    parser.add_argument("--log-level", default="INFO")
    args = parser.parse_args(argv)

    log.configure(args.log_level)
    logger = log.Logger("kadalu_ext.mounter")
    directory = os.path.realpath(args.dir)
    files = StorageFiles(args.storages, args.tls)
    settings = Settings(
        mounts_dir=os.path.join(directory, "mounts"),
        run_dir=args.run_dir,
        log_dir=os.path.join(directory, "log"),
        refresh_s=args.refresh,
        world=World(fresher=files.fresher, entry=files.entry, tls=files.tls),
    )
    storages = Storages(settings, logger)
    storages.recover()
    server = serve_unix(os.path.join(directory, "mounter.sock"), log=logger, workers=WORKERS, quiet=frozenset({"List"}))
    mounter_pb2_grpc.add_MounterServicer_to_server(MounterServicer(storages), server)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    threading.Thread(target=storages.keep, args=(stop,), name="mounts", daemon=True).start()
    server.start()
    if args.port is not None:
        from kadalu_ext.httpd import HttpServer  # most nodes have no use for them, nor for what they take
        from kadalu_ext.mounter.metrics import Metrics

        HttpServer(args.port, program="kadalu-ext-mounter", unhealthy=lambda: "", metrics=Metrics(storages.list).text)
    logger.info("mounter started", dir=directory, storages=[status.name for status in storages.list()])
    stop.wait()
    server.stop(grace=2).wait()
    storages.close()
    logger.info("mounter stopped")
    sys.stderr.flush()
    # Calls that wait for a silent host would hold an ordinary exit up.
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
