"""Makes the node plugin known to kubelet: a socket in plugins_registry that answers kubelet's questions."""

from __future__ import annotations

import os
import threading
from typing import Final

import grpc

from kadalu_ext import rpc
from kadalu_ext.api import pluginregistration_pb2 as pb
from kadalu_ext.api import pluginregistration_pb2_grpc as pb_grpc
from kadalu_ext.log import Logger
from kadalu_ext.storage import PROVISIONER

CHECK_S: Final = 5.0
"""How often it is looked whether the socket is still there, and whether kubelet took it."""


class Registration(pb_grpc.RegistrationServicer):
    """Kubelet's plugin registration, v1. `endpoint`: the driver's own socket, as kubelet sees it.

    kubelet asks once for each socket that appears, and forgets the driver when the socket goes. So the socket is made
    anew if it is gone (somebody emptied kubelet's directory) or if kubelet refused the driver: another one is another
    try.
    """

    def __init__(self, directory: str, endpoint: str, log: Logger) -> None:
        self._path = os.path.join(directory, f"{PROVISIONER}-reg.sock")
        self._endpoint = endpoint
        self._log = log
        self._server: grpc.Server | None = None
        self._inode = 0
        """Of the socket; 0 if it was gone as soon as it was made."""
        self._refused = threading.Event()

    def keep(self, stop: threading.Event) -> None:
        """Serves until `stop` is set. Raises: OSError if the socket cannot be made at first."""
        self._open()
        while not stop.wait(CHECK_S):
            if self._refused.is_set() or self._inode_now() != self._inode or not self._inode:
                self._log.warning("registering again", socket=self._path)
                self.close()
                try:
                    self._open()
                except OSError as error:
                    self._log.error("cannot register", socket=self._path, reason=str(error))
        self.close()

    def close(self) -> None:
        """kubelet forgets the driver; what is mounted stays mounted."""
        if self._server is not None:
            # Waited for: gRPC removes the socket's name at the end, and it must not be the next one's.
            self._server.stop(None).wait()
            self._server = None

    def _open(self) -> None:
        self._refused.clear()
        self._server = rpc.serve_unix(self._path, log=self._log, workers=2, quiet=frozenset({"GetInfo"}))
        pb_grpc.add_RegistrationServicer_to_server(self, self._server)
        self._server.start()
        self._inode = self._inode_now()

    def _inode_now(self) -> int:
        try:
            return os.stat(self._path).st_ino
        except FileNotFoundError:
            return 0

    def GetInfo(self, request: pb.InfoRequest, context: object) -> pb.PluginInfo:
        return pb.PluginInfo(type="CSIPlugin", name=PROVISIONER, endpoint=self._endpoint, supported_versions=["1.0.0"])

    def NotifyRegistrationStatus(
        self, request: pb.RegistrationStatus, context: object
    ) -> pb.RegistrationStatusResponse:
        if request.plugin_registered:
            self._log.info("registered with kubelet", endpoint=self._endpoint)
        else:
            self._log.error("kubelet refused the driver", reason=request.error)
            self._refused.set()
        return pb.RegistrationStatusResponse()
