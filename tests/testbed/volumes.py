"""What the testbed says to the gluster command, and what it reads from it.  No I/O here."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from xml.etree import ElementTree

from .errors import BedError

# Our short names for the kinds of volumes, in gluster's own words; any other kind is gluster's words already.
_KINDS = {
    "brick": "",
    "distribute": "",
    "replica 3": "replica 3",
    "arbiter": "replica 3 arbiter 1",
    "disperse 2+1": "disperse 3 redundancy 1",
}
_WORDS = re.compile(r"((replica|arbiter|disperse|disperse-data|redundancy) [1-9][0-9]? ?)+")
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Volume:
    """A volume as `gluster volume info` tells of it: `kind` ("Replicate") and `status` ("Started") in its words."""

    name: str
    kind: str
    status: str
    bricks: tuple[str, ...]


def create_argv(name: str, kind: str, hosts: Sequence[str]) -> list[str]:
    """The command that creates volume `name` of `kind` with one brick on each of `hosts`.

    `kind` is "brick", "distribute", "replica 3", "arbiter", "disperse 2+1", or gluster's own words such as "replica 2".
    A host named twice gets a second brick beside the first.

    Raises:
        BedError: gluster has no such name or kind.
    """
    if not _NAME.fullmatch(name):
        raise BedError(f"volume name {name!r}: use up to 64 of letters, digits, '-' and '_'")
    words = _KINDS.get(kind, kind)
    if words and not _WORDS.fullmatch(words):
        raise BedError(f"volume kind {kind!r}: use one of {', '.join(_KINDS)}, or words as in 'replica 3 arbiter 1'")
    bricks = [f"{host}:{path}" for host, path in zip(hosts, brick_paths(name, hosts), strict=True)]
    return ["gluster", "--mode=script", "volume", "create", name, *words.split(), *bricks]


def brick_paths(name: str, hosts: Sequence[str]) -> list[str]:
    """Where the bricks of volume `name` are: ``/bricks/<name>``, on a host's further turns ``/bricks/<name>-2``…"""
    turns = [list(hosts[: place + 1]).count(host) for place, host in enumerate(hosts)]
    return [f"/bricks/{name}" if turn == 1 else f"/bricks/{name}-{turn}" for turn in turns]


def parse_volumes(xml: str) -> list[Volume]:
    """Parse ``gluster volume info --xml``."""
    return [
        Volume(
            name=volume.findtext("name", ""),
            kind=volume.findtext("typeStr", ""),
            status=volume.findtext("statusStr", ""),
            bricks=tuple(brick.findtext("name", "") for brick in volume.iterfind("bricks/brick")),
        )
        for volume in ElementTree.fromstring(xml).iterfind("volInfo/volumes/volume")  # noqa: S314 (from our guest)
    ]


def online_bricks(xml: str) -> int:
    """How many bricks ``gluster volume status NAME --xml`` shows as online."""
    nodes = ElementTree.fromstring(xml).iterfind("volStatus/volumes/volume/node")  # noqa: S314 (from our guest)
    # Self-heal daemons are in the same list; only a brick's path is one.
    return sum(node.findtext("path", "").startswith("/") and node.findtext("status") == "1" for node in nodes)


def connected_peers(pool_list: str) -> int:
    """How many hosts, itself included, ``gluster pool list`` shows as connected."""
    return sum(line.split()[-1] == "Connected" for line in pool_list.splitlines() if line.strip())
