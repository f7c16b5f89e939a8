"""CSI's Node service: requests checked and handed to nodevolumes."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from collections.abc import Mapping
from typing import Final

import grpc

from kadalu_ext import log, rpc
from kadalu_ext.api import csi_pb2, csi_pb2_grpc
from kadalu_ext.csi import replies
from kadalu_ext.csi.condition import Status
from kadalu_ext.csi.health import Space, conditions
from kadalu_ext.csi.identity import Identity
from kadalu_ext.csi.mender import Mender
from kadalu_ext.csi.mounterclient import MounterClient
from kadalu_ext.csi.mounts import FLAGS, PLUGIN_DIR, Mounts
from kadalu_ext.csi.nodehealth import NodeHealth
from kadalu_ext.csi.nodevolumes import NodeVolumes, Volume
from kadalu_ext.csi.params import check_capability
from kadalu_ext.csi.registration import Registration
from kadalu_ext.csi.replaced import Replaced
from kadalu_ext.errors import InvalidInputError, NotFoundError, PreconditionError
from kadalu_ext.storage import Storage, from_parameters, parse_volume_id
from kadalu_ext.storages import Storages

RPC_THREADS: Final = 256
"""A node has some hundred volumes, and kubelet asks for all of them at once after a restart, dead storages' too."""

_QUIET: Final = frozenset(
    {
        "Probe",
        "GetPluginInfo",
        "GetPluginCapabilities",
        "NodeGetCapabilities",
        "NodeGetVolumeStats",
        "NodeGetInfo",
        "NodeGetVolumeHealth",
        "NodeGetStorageHealth",
    }
)
_LONGEST_S: Final = 60.0
"""The bound of a call without a deadline, or with a longer one; kubelet's is two minutes, a client starts in 20 s."""

_MARGIN_S: Final = 1.0
"""So much before its deadline a caller is told the reason, rather than left to find out that time is up."""

_Mode = csi_pb2.VolumeCapability.AccessMode
_READ_ONLY: Final = frozenset({_Mode.SINGLE_NODE_READER_ONLY, _Mode.MULTI_NODE_READER_ONLY})

_STORAGE_STATUS: Final = {
    Status.DEGRADED: csi_pb2.STORAGE_DEGRADED,
    Status.INACCESSIBLE: csi_pb2.STORAGE_UNREACHABLE,
}
_ALL_WELL: Final = "nothing is known to be wrong on this node"

_Capability = csi_pb2.NodeServiceCapability
_Usage = csi_pb2.VolumeUsage


class Node(csi_pb2_grpc.NodeServicer):
    """See csi.proto. What is not defined here is not announced, and answers UNIMPLEMENTED.

    What a request lacks is told before whether there is such a volume. SINGLE_NODE_WRITER goes to any number of pods of
    the node, as kubelets before SINGLE_NODE_MULTI_WRITER mean it.
    """

    def __init__(
        self, *, node_id: str, mounts: Mounts, volumes: NodeVolumes, health: NodeHealth, storages: Storages
    ) -> None:
        self._node_id = node_id
        self._health = health
        self._mounts = mounts
        self._volumes = volumes
        self._storages = storages

    def NodeGetInfo(
        self, request: csi_pb2.NodeGetInfoRequest, context: grpc.ServicerContext
    ) -> csi_pb2.NodeGetInfoResponse:
        return csi_pb2.NodeGetInfoResponse(node_id=self._node_id)

    def NodeGetCapabilities(
        self, request: csi_pb2.NodeGetCapabilitiesRequest, context: grpc.ServicerContext
    ) -> csi_pb2.NodeGetCapabilitiesResponse:
        kinds = (
            _Capability.RPC.STAGE_UNSTAGE_VOLUME,
            _Capability.RPC.GET_VOLUME_STATS,
            _Capability.RPC.SINGLE_NODE_MULTI_WRITER,
            _Capability.RPC.VOLUME_CONDITION,
            _Capability.RPC.GET_VOLUME_HEALTH,
            _Capability.RPC.GET_STORAGE_HEALTH,
        )
        return csi_pb2.NodeGetCapabilitiesResponse(
            capabilities=[_Capability(rpc=_Capability.RPC(type=kind)) for kind in kinds]
        )

    def NodeStageVolume(
        self, request: csi_pb2.NodeStageVolumeRequest, context: grpc.ServicerContext
    ) -> csi_pb2.NodeStageVolumeResponse:
        _check_id(request.volume_id)
        staging = self._mounts.check(request.staging_target_path, field="staging_target_path")
        _mount_options(request.volume_capability)
        volume = _volume(request.volume_id)
        storage = self._storage(volume, request.volume_context)
        self._volumes.stage(volume, storage, staging, timeout_s=_left(context))
        return csi_pb2.NodeStageVolumeResponse()

    def NodeUnstageVolume(
        self, request: csi_pb2.NodeUnstageVolumeRequest, context: grpc.ServicerContext
    ) -> csi_pb2.NodeUnstageVolumeResponse:
        _check_id(request.volume_id)
        staging = self._mounts.check(request.staging_target_path, field="staging_target_path")
        volume = _volume(request.volume_id)
        self._volumes.unstage(volume, staging, timeout_s=_left(context))
        return csi_pb2.NodeUnstageVolumeResponse()

    def NodePublishVolume(
        self, request: csi_pb2.NodePublishVolumeRequest, context: grpc.ServicerContext
    ) -> csi_pb2.NodePublishVolumeResponse:
        _check_id(request.volume_id)
        target = self._mounts.check(request.target_path, field="target_path")
        options = _mount_options(request.volume_capability) | (frozenset({"ro"}) if request.readonly else frozenset())
        if not request.staging_target_path:
            raise PreconditionError("staging_target_path: missing; NodeStageVolume comes before NodePublishVolume")
        staging = self._mounts.check(request.staging_target_path, field="staging_target_path")
        if f"{target}/".startswith(f"{staging}/") or f"{staging}/".startswith(f"{target}/"):
            raise InvalidInputError(f"target_path: {target[:200]!r} and staging_target_path lie within each other")
        alone = request.volume_capability.access_mode.mode == _Mode.SINGLE_NODE_SINGLE_WRITER
        volume = _volume(request.volume_id)
        storage = self._storage(volume, request.volume_context)
        self._volumes.publish(volume, storage, staging, target, options, alone=alone, timeout_s=_left(context))
        return csi_pb2.NodePublishVolumeResponse()

    def NodeUnpublishVolume(
        self, request: csi_pb2.NodeUnpublishVolumeRequest, context: grpc.ServicerContext
    ) -> csi_pb2.NodeUnpublishVolumeResponse:
        _check_id(request.volume_id)
        target = self._mounts.check(request.target_path, field="target_path")
        volume = _volume(request.volume_id)
        self._volumes.unpublish(volume, target, timeout_s=_left(context))
        return csi_pb2.NodeUnpublishVolumeResponse()

    def NodeGetVolumeStats(
        self, request: csi_pb2.NodeGetVolumeStatsRequest, context: grpc.ServicerContext
    ) -> csi_pb2.NodeGetVolumeStatsResponse:
        _check_id(request.volume_id)
        if not request.volume_path:
            raise InvalidInputError("volume_path: missing")
        volume = _volume(request.volume_id)
        # nothing is mounted at a path that makes no sense: looked for in mountinfo alone, and not found
        look = self._health.look(volume, request.volume_path.rstrip("/"))
        wrong = [f"{each.reason}: {each.message}" for each in conditions(look)]
        return csi_pb2.NodeGetVolumeStatsResponse(
            usage=_usage(look.space) if look.space is not None else [],
            volume_condition=csi_pb2.VolumeCondition(abnormal=bool(wrong), message="; ".join(wrong) or _ALL_WELL),
        )

    def NodeGetVolumeHealth(
        self, request: csi_pb2.NodeGetVolumeHealthRequest, context: grpc.ServicerContext
    ) -> csi_pb2.NodeGetVolumeHealthResponse:
        _check_id(request.volume_id)
        paths = {name: getattr(request, name) for name in ("volume_publish_path", "staging_target_path")}
        checked = [self._mounts.check(path, field=name) for name, path in paths.items() if path]
        volume = _volume(request.volume_id)
        wrong = self._health.volume(volume, checked[0] if checked else "")
        return csi_pb2.NodeGetVolumeHealthResponse(volume_health=replies.health(request.volume_id, wrong))

    def NodeGetStorageHealth(
        self, request: csi_pb2.NodeGetStorageHealthRequest, context: grpc.ServicerContext
    ) -> csi_pb2.NodeGetStorageHealthResponse:
        reply = csi_pb2.NodeGetStorageHealthResponse()
        for each in self._health.storages():
            reply.backend_health.add(status=_STORAGE_STATUS[each.status], reason=each.reason, message=each.message)
        return reply

    def _storage(self, volume: Volume, context: Mapping[str, str]) -> Storage:
        """What the ConfigMap says of the volume's storage, else what its StorageClass said when it was made."""
        if not any("/" not in key for key in context):
            return _with_volume(self._storages.find(volume.storage))
        try:
            storage = from_parameters(context)
        except InvalidInputError as error:
            raise InvalidInputError(f"volume_context: {error}") from error
        if storage.name != volume.storage:
            raise InvalidInputError(f"volume_context.storage: {storage.name} is not the storage of {volume}")
        if storage.whole not in (None, volume.name):
            raise InvalidInputError(f"volume_context.pv: {storage.whole} is not {volume}")
        _with_volume(storage)
        return self._storages.fresher(storage)


def _with_volume(storage: Storage) -> Storage:
    """Raises: InvalidInputError for a pool: which of its volumes the PV is, nobody but its context knows."""
    if storage.pool:
        raise InvalidInputError(
            f"volume_context: storage {storage.name} has whole volumes as PVs; needed are storage, hosts, volume and pv"
        )
    return storage


def _check_id(volume_id: str) -> None:
    if not volume_id:
        raise InvalidInputError("volume_id: missing")


def _volume(volume_id: str) -> Volume:
    try:
        storage, name = parse_volume_id(volume_id)
    except InvalidInputError as error:
        raise NotFoundError(f"volume_id: there is no such volume: {error}") from error
    return Volume(storage=storage, name=name)


def _mount_options(capability: csi_pb2.VolumeCapability) -> frozenset[str]:
    """The options of the bind mount. Raises: InvalidInputError naming what cannot be had."""
    check_capability(capability)
    options = frozenset(capability.mount.mount_flags) - {"rw"}
    if not options <= FLAGS.keys():
        raise InvalidInputError(
            f"volume_capability.mount.mount_flags: {', '.join(sorted(options - FLAGS.keys()))[:100]}: not an option of "
            f"a bind mount; allowed are {', '.join(FLAGS)}; options of the gluster client belong to the KadaluStorage"
        )
    return options | ({"ro"} if capability.access_mode.mode in _READ_ONLY else set())


def _usage(space: Space) -> list[csi_pb2.VolumeUsage]:
    return [
        _Usage(
            unit=_Usage.BYTES,
            total=space.total_bytes,
            available=space.available_bytes,
            used=space.used_bytes,
        ),
        _Usage(unit=_Usage.INODES, total=space.inodes, available=space.available_inodes, used=space.used_inodes),
    ]


def _left(context: grpc.ServicerContext) -> float:
    remaining = context.time_remaining()
    return min(_LONGEST_S, max(0.1, remaining - _MARGIN_S)) if remaining is not None else _LONGEST_S


def main(args: argparse.Namespace) -> int:
    """Serves Identity, Node and the registration until SIGTERM or SIGINT. `args`: of csi.main.parser."""
    logger = log.Logger("csi-node")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    endpoint = args.endpoint.removeprefix("unix://")
    mounts = Mounts(args.kubelet_dir)
    mounter = MounterClient(args.mounter.removeprefix("unix://"))
    volumes = NodeVolumes(mounts, mounter)
    storages = Storages(args.storages)
    replaced = Replaced(os.path.join(mounts.kubelet_dir, PLUGIN_DIR, "replaced.json"))
    try:
        replaced.prepare()
    except OSError as error:
        logger.warning("containers that keep a dead mount will not be told of", reason=str(error))
    server = rpc.serve_unix(endpoint, log=logger, workers=RPC_THREADS, quiet=_QUIET)
    csi_pb2_grpc.add_IdentityServicer_to_server(Identity(), server)
    servicer = Node(  # type: ignore[abstract]  # abstract by its stub; what it does not define answers UNIMPLEMENTED
        node_id=args.node_id,
        mounts=mounts,
        volumes=volumes,
        health=NodeHealth(mounts, mounter, replaced.is_held),
        storages=storages,
    )
    csi_pb2_grpc.add_NodeServicer_to_server(servicer, server)
    server.start()
    logger.info("serving", endpoint=endpoint, node_id=args.node_id)
    mender = Mender(mounts=mounts, volumes=volumes, mounter=mounter, storages=storages, replaced=replaced, log=logger)
    threading.Thread(target=mender.keep, args=(stop,), name="mender", daemon=True).start()
    Registration(args.registration_dir, endpoint, logger).keep(stop)
    logger.info("stopping")
    server.stop(grace=5).wait()
    sys.stderr.flush()
    # Calls that hang on a dead mount would hold an ordinary exit up; what they do, they do whole or not at all.
    os._exit(0)
