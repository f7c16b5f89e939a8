"""A CSI driver that does nothing and answers at once: what a claim costs Kubernetes. Argument: the socket to serve."""

from __future__ import annotations

import sys
import threading
from typing import Final

import grpc

from kadalu_ext import log, rpc
from kadalu_ext.api import csi_pb2, csi_pb2_grpc

NAME: Final = "null.bench"
_THREADS: Final = 128
_Rpc = csi_pb2.ControllerServiceCapability.RPC
_Service = csi_pb2.PluginCapability.Service


class NullIdentity(csi_pb2_grpc.IdentityServicer):
    def GetPluginInfo(
        self, request: csi_pb2.GetPluginInfoRequest, context: grpc.ServicerContext
    ) -> csi_pb2.GetPluginInfoResponse:
        return csi_pb2.GetPluginInfoResponse(name=NAME, vendor_version="0")

    def GetPluginCapabilities(
        self, request: csi_pb2.GetPluginCapabilitiesRequest, context: grpc.ServicerContext
    ) -> csi_pb2.GetPluginCapabilitiesResponse:
        service = _Service(type=_Service.CONTROLLER_SERVICE)
        return csi_pb2.GetPluginCapabilitiesResponse(capabilities=[csi_pb2.PluginCapability(service=service)])

    def Probe(self, request: csi_pb2.ProbeRequest, context: grpc.ServicerContext) -> csi_pb2.ProbeResponse:
        return csi_pb2.ProbeResponse()


class NullController(csi_pb2_grpc.ControllerServicer):
    def ControllerGetCapabilities(
        self, request: csi_pb2.ControllerGetCapabilitiesRequest, context: grpc.ServicerContext
    ) -> csi_pb2.ControllerGetCapabilitiesResponse:
        capability = csi_pb2.ControllerServiceCapability(rpc=_Rpc(type=_Rpc.CREATE_DELETE_VOLUME))
        return csi_pb2.ControllerGetCapabilitiesResponse(capabilities=[capability])

    def CreateVolume(
        self, request: csi_pb2.CreateVolumeRequest, context: grpc.ServicerContext
    ) -> csi_pb2.CreateVolumeResponse:
        size_bytes = request.capacity_range.required_bytes
        return csi_pb2.CreateVolumeResponse(
            volume=csi_pb2.Volume(volume_id=request.name, capacity_bytes=size_bytes, volume_context=request.parameters)
        )

    def DeleteVolume(
        self, request: csi_pb2.DeleteVolumeRequest, context: grpc.ServicerContext
    ) -> csi_pb2.DeleteVolumeResponse:
        return csi_pb2.DeleteVolumeResponse()


def main() -> None:
    """Serves until it is killed."""
    log.configure("ERROR")
    server = rpc.serve_unix(sys.argv[1], log=log.Logger("null"), workers=_THREADS)
    csi_pb2_grpc.add_IdentityServicer_to_server(NullIdentity(), server)
    csi_pb2_grpc.add_ControllerServicer_to_server(NullController(), server)  # type: ignore[abstract]
    server.start()
    threading.Event().wait()


if __name__ == "__main__":
    main()
