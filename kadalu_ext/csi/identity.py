"""CSI's Identity service, the same for controller and node plugin."""

from __future__ import annotations

from typing import Final

import grpc
from google.protobuf import wrappers_pb2

from kadalu_ext import __version__
from kadalu_ext.api import csi_pb2, csi_pb2_grpc
from kadalu_ext.storage import PROVISIONER


class Identity(csi_pb2_grpc.IdentityServicer):
    """Touches no volume: what is wrong with one storage is no reason to restart the driver of all."""

    def GetPluginInfo(self, request: csi_pb2.GetPluginInfoRequest, context: object) -> csi_pb2.GetPluginInfoResponse:
        return csi_pb2.GetPluginInfoResponse(name=PROVISIONER, vendor_version=__version__)

    def GetPluginCapabilities(
        self, request: csi_pb2.GetPluginCapabilitiesRequest, context: object
    ) -> csi_pb2.GetPluginCapabilitiesResponse:
        service = csi_pb2.PluginCapability.Service(type=csi_pb2.PluginCapability.Service.CONTROLLER_SERVICE)
        expansion = csi_pb2.PluginCapability.VolumeExpansion(type=csi_pb2.PluginCapability.VolumeExpansion.ONLINE)
        return csi_pb2.GetPluginCapabilitiesResponse(
            capabilities=[
                csi_pb2.PluginCapability(service=service),
                csi_pb2.PluginCapability(volume_expansion=expansion),
            ]
        )

    def Probe(self, request: csi_pb2.ProbeRequest, context: object) -> csi_pb2.ProbeResponse:
        return csi_pb2.ProbeResponse(ready=wrappers_pb2.BoolValue(value=True))


PROBE_S: Final = 2.0


class Prober:
    """Asks the driver at a socket whether it is there, as its sidecars do. Thread-safe."""

    def __init__(self, socket: str) -> None:
        self._socket = socket
        self._stub = csi_pb2_grpc.IdentityStub(grpc.insecure_channel(f"unix:{socket}"))

    def unhealthy(self) -> str:
        """Why it should be started anew; '' if it should not."""
        try:
            self._stub.Probe(csi_pb2.ProbeRequest(), timeout=PROBE_S)
        except grpc.RpcError as error:
            return f"{self._socket} does not answer Probe: {error.code().name}"
        return ""
