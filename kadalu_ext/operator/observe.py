"""What a gluster cluster says of a volume. I/O: through kadalu_ext.gluster only, bounded for each host."""

from __future__ import annotations

from typing import Final

from kadalu_ext.errors import KadaluExtError, UnsupportedVolumeError
from kadalu_ext.gluster.client import Glusterd, first_answer
from kadalu_ext.gluster.geometry import Geometry, geometry
from kadalu_ext.gluster.volfile import parse
from kadalu_ext.operator.actions import Problem, Usable
from kadalu_ext.operator.spec import StorageSpec

HOST_TIMEOUT_S: Final = 2.0
"""For one call to one host; a live one answers within milliseconds."""


def observe(spec: StorageSpec) -> Usable | Problem:
    """The volume of `spec`, or why it cannot be used. Bounded, whatever its hosts do."""
    volume = spec.storage.volume

    def ask(glusterd: Glusterd) -> tuple[str, Geometry]:
        info = glusterd.started_volume_info(volume)
        try:
            return info.volume_id, geometry(parse(glusterd.getspec(volume)))
        except UnsupportedVolumeError as error:
            raise UnsupportedVolumeError(f"{glusterd.host}: volume {volume}: {error}") from error

    try:
        volume_id, shape = first_answer(spec.storage.hosts, ask, timeout_s=HOST_TIMEOUT_S)
    except KadaluExtError as error:
        return Problem.of(error, volume=volume)
    return Usable(spec=spec, volume_id=volume_id, geometry=shape)
