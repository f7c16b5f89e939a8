"""Which of a volume's options stand in the way of sizes that are enforced, and seen to be. Pure.

What its type says is in geometry.py. Options are those of GET_VOLUME: only what somebody has set, so a default that
matters is written here (glusterd_volopt_map, xlators/mgmt/glusterd/src/glusterd-volume-set.c, tag v10.3).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from kadalu_ext.errors import BlockHostingError, GlusterQuotaError, SharedFileSystemError, TrashError
from kadalu_ext.gluster.geometry import Brick
from kadalu_ext.gluster.messages import VolumeInfo
from kadalu_ext.gluster.volfile import Volfile
from kadalu_ext.units import GIB, KIB, MIB

BLOCK_META: Final = "block-meta"
"""The directory in a volume's root where gluster-block keeps what it knows of its block devices."""

_ON: Final = frozenset({"on", "yes", "true", "enable", "1"})
_UNITS: Final = {"": 1, "B": 1, "KB": KIB, "MB": MIB, "GB": GIB, "TB": 1024 * GIB}


def check_options(info: VolumeInfo) -> None:
    """Raises: TrashError, GlusterQuotaError, each with the command that mends it."""
    if _is_on(info.options, "features.trash"):
        raise TrashError(
            "features.trash is on: gluster keeps what pods remove, where they do not see it, and it goes on counting: "
            f"a full PV stays full; gluster volume set {info.name} features.trash off, then stop and start the "
            "volume, since running bricks keep it"
        )
    if _is_on(info.options, "features.quota") and _is_on(info.options, "features.quota-deem-statfs", default="on"):
        raise GlusterQuotaError(
            "gluster's own quota answers in place of the bricks (features.quota-deem-statfs), so that what these "
            f"enforce cannot be seen; gluster volume set {info.name} features.quota-deem-statfs off, or, if nobody "
            f"else needs it, gluster volume quota {info.name} disable"
        )


def block_hosting(volume: str) -> BlockHostingError:
    """For a volume that has BLOCK_META."""
    return BlockHostingError(
        f"volume {volume}: it hosts block devices of gluster-block (it has the directory {BLOCK_META}), whose space "
        f"nobody accounts to PVs; give Kubernetes a volume of its own (gluster-block list {volume} shows the devices)"
    )


# --- bricks of one volume on one file system -------------------------------------------------------------------------


def crowded_hosts(info: VolumeInfo) -> frozenset[str]:
    """The hosts with more than one of the volume's bricks: of these alone it must be asked whether they share."""
    counts = Counter(brick.host_uuid for brick in info.bricks)
    return frozenset(brick.host for brick in info.bricks if counts[brick.host_uuid] > 1)


def brick_volfile_id(volume: str, brick: Brick) -> str:
    """By which GETSPEC of the brick's own host gives the volfile of the brick (GLUSTERD_GET_BRICK_VOLFILE, v10.3)."""
    return f"{volume}.{brick.host}.{brick.path.strip('/').replace('/', '-')}"


def check_brick(volfile: Volfile, brick: Brick) -> None:
    """Of a brick's own volfile, as its own host has it: another one's says 0.

    Raises: SharedFileSystemError.
    """
    for xlator in volfile.xlators:
        count = xlator.options.get("shared-brick-count", "1")
        if xlator.type == "storage/posix" and count.isdigit() and int(count) > 1:
            raise SharedFileSystemError(
                f"{int(count)} bricks of the volume are on one file system of {brick.host}, one of them {brick.path}: "
                "gluster divides all sizes there by their number, so that what they enforce cannot be seen; have one "
                "brick of the volume on a file system (gluster volume replace-brick)"
            )


# --- storage.reserve -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Reserve:
    """What each brick keeps free for itself: writes that would need it are refused. A part of the size, or bytes."""

    percent: float = 0.0
    size_bytes: int = 0

    def usable_bytes(self, total_bytes: int, *, data_bricks: int) -> int:
        """What of a volume of that size can be written."""
        kept = self.size_bytes * data_bricks or int(total_bytes * self.percent / 100)
        return max(0, total_bytes - kept)

    def __str__(self) -> str:
        return f"{self.size_bytes} bytes" if self.size_bytes else f"{self.percent:g} %"


USUAL_RESERVE: Final = Reserve(percent=1.0)
"""gluster's default."""


def reserve(options: Mapping[str, str]) -> Reserve:
    """The volume's storage.reserve: a percentage or, since gluster 7, a size; anything else counts as the default."""
    text = options.get("storage.reserve", "").strip().upper()
    match = re.fullmatch(r"([0-9]{1,15}(?:\.[0-9]{1,6})?)(%|B|KB|MB|GB|TB)?", text, re.ASCII)
    if match is None:
        return USUAL_RESERVE
    number, unit = float(match[1]), match[2]
    if unit in (None, "%") and number <= 100:
        return Reserve(percent=number)
    return Reserve(size_bytes=int(number * _UNITS.get(unit or "", 1)))


def _is_on(options: Mapping[str, str], key: str, *, default: str = "off") -> bool:
    return options.get(key, default).lower() in _ON
