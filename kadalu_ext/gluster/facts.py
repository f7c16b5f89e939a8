"""What must be known of a volume before it is used: that it is started, which one it is, its bricks, and what stands in
the way of sizes that are enforced."""

from __future__ import annotations

from dataclasses import dataclass, field

from kadalu_ext.errors import HostUnreachableError, NotFoundError, UnsupportedVolumeError, WireError
from kadalu_ext.gluster import support
from kadalu_ext.gluster.client import Glusterd
from kadalu_ext.gluster.geometry import Geometry, geometry
from kadalu_ext.gluster.messages import VolumeInfo
from kadalu_ext.gluster.support import Reserve
from kadalu_ext.gluster.tls import Tls
from kadalu_ext.gluster.volfile import parse


@dataclass(frozen=True, kw_only=True)
class VolumeFacts:
    """volume_id: gluster's UUID of it. reserve: what its bricks keep free. tls: what its cluster is spoken to with."""

    volume_id: str
    geometry: Geometry
    reserve: Reserve = field(default_factory=Reserve)
    tls: Tls | None = None


def volume_facts(glusterd: Glusterd, volume: str, *, volume_id: str = "") -> VolumeFacts:
    """As one glusterd has it. volume_id: the volume's, if it is known.

    Raises: VolumeStoppedError; VolumeReplacedError if it has another id;
    UnsupportedVolumeError naming host and volume; whatever Glusterd does.
    """
    info = glusterd.started_volume_info(volume, volume_id=volume_id)
    try:
        shape = geometry(parse(glusterd.getspec(volume)))
        support.check_options(info)
        _check_file_systems(glusterd, info, shape)
    except UnsupportedVolumeError as error:
        raise type(error)(f"{glusterd.host}: volume {volume}: {error}") from error
    return VolumeFacts(volume_id=info.volume_id, geometry=shape, reserve=support.reserve(info.options))


def _check_file_systems(glusterd: Glusterd, info: VolumeInfo, shape: Geometry) -> None:
    """Only a brick's own host knows whether it shares a file system; one that does not answer tells nothing, and then
    the claims' own proof does."""
    crowded = set(support.crowded_hosts(info))
    for brick in shape.bricks:
        if brick.host not in crowded:
            continue
        try:
            with glusterd.beside(brick.host) as own:
                volfile = parse(own.getspec(support.brick_volfile_id(info.name, brick)))
        except NotFoundError:
            continue
        except (HostUnreachableError, WireError):
            crowded.remove(brick.host)  # others wait meanwhile: not once more for each of its bricks
            continue
        support.check_brick(volfile, brick)
