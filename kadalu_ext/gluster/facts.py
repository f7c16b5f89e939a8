"""What must be known of a volume before it is used: that it is started, which one it is, and its bricks."""

from __future__ import annotations

from dataclasses import dataclass

from kadalu_ext.errors import UnsupportedVolumeError
from kadalu_ext.gluster.client import Glusterd
from kadalu_ext.gluster.geometry import Geometry, geometry
from kadalu_ext.gluster.volfile import parse


@dataclass(frozen=True, kw_only=True)
class VolumeFacts:
    """volume_id: gluster's UUID of it."""

    volume_id: str
    geometry: Geometry


def volume_facts(glusterd: Glusterd, volume: str) -> VolumeFacts:
    """As one glusterd has it.

    Raises: VolumeStoppedError; UnsupportedVolumeError naming host and volume; whatever Glusterd does.
    """
    info = glusterd.started_volume_info(volume)
    try:
        return VolumeFacts(volume_id=info.volume_id, geometry=geometry(parse(glusterd.getspec(volume))))
    except UnsupportedVolumeError as error:
        raise UnsupportedVolumeError(f"{glusterd.host}: volume {volume}: {error}") from error
