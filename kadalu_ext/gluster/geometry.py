"""Of which bricks a volume is made, and what that means for sizes and for bricks that are down. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from kadalu_ext.errors import (
    DistributedError,
    ShardedError,
    ThinArbiterError,
    UnsupportedVolumeError,
    VolfileError,
)
from kadalu_ext.gluster.volfile import Volfile, Xlator

_DISTRIBUTE: Final = frozenset({"cluster/distribute", "cluster/dht", "cluster/nufa", "cluster/switch"})
_SSL: Final = "transport.socket.ssl-enabled"
_TRUE: Final = frozenset({"1", "on", "yes", "true", "enable"})
"""gf_string2boolean in libglusterfs/src/common-utils.c; in any case of letters."""
_ONE_SUBVOLUME: Final = (
    "give Kubernetes a volume of one brick, or of one replica or disperse set: the size of a directory that is "
    "spread over several sets cannot be enforced"
)


class VolumeKind(StrEnum):
    """What the volume's one set of bricks is."""

    BRICK = "brick"
    REPLICATE = "replicate"
    DISPERSE = "disperse"


@dataclass(frozen=True, kw_only=True)
class Brick:
    """A brick as clients see it.

    name: of its protocol/client translator (`vol-client-0`), unique within the volume.
    arbiter: it holds names and attributes, but no data.
    ssl: clients must speak TLS to it.
    """

    name: str
    host: str
    path: str
    arbiter: bool = False
    ssl: bool = False

    def __str__(self) -> str:
        return f"{self.host}:{self.path}"


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """The volume's bricks, in gluster's order.

    redundancy: disperse: how many bricks may be lost.
    quorum: how many bricks must be up for writes, if the volume says so by a number; None: by its kind's own rule.
    """

    kind: VolumeKind
    bricks: tuple[Brick, ...]
    redundancy: int = 0
    quorum: int | None = None

    @property
    def data_bricks(self) -> int:
        """Into how many bricks a file's bytes are divided: the limit of a brick is size / data_bricks."""
        return len(self.bricks) - self.redundancy if self.kind is VolumeKind.DISPERSE else 1

    @property
    def data_carriers(self) -> tuple[Brick, ...]:
        """The bricks that hold blocks, and therefore have a limit: all but the arbiter."""
        return tuple(brick for brick in self.bricks if not brick.arbiter)

    @property
    def has_arbiter(self) -> bool:
        return any(brick.arbiter for brick in self.bricks)

    def takes_writes(self, up: Collection[str]) -> bool:
        """Whether the volume takes writes when the bricks of these names are up.

        A replicate volume needs more than half of its bricks, or just half with the first among them; a disperse
        volume its data bricks (afr_has_quorum in xlators/cluster/afr, ec in xlators/cluster/ec, tag v10.3).
        """
        count = sum(brick.name in up for brick in self.bricks)
        if self.kind is VolumeKind.DISPERSE:
            return count >= max(self.data_bricks, self.quorum or 0)
        if self.quorum is not None:
            return count >= self.quorum
        return 2 * count > len(self.bricks) or (2 * count == len(self.bricks) and self.bricks[0].name in up)


MAX_BRICKS: Final = 64
"""Twice what gluster allows of a disperse set (EC_MAX_NODES in xlators/cluster/ec/src/ec-types.h, tag v10.3: 31): each
costs us a connection and a thread, however many a stranger's volfile has."""
_MAX_HOST: Final = 255
_MAX_PATH: Final = 4096


def geometry(volfile: Volfile) -> Geometry:
    """The geometry of a volume by its client volfile.

    Raises: UnsupportedVolumeError for a volume on which sizes cannot be enforced, with what to do about it;
    VolfileError if it is no client volfile.
    """
    for xlator in volfile.xlators:
        if xlator.type == "features/shard":
            raise ShardedError(
                "the volume is sharded: the pieces of a file lie outside its directory, where no size is enforced; "
                "use a volume on which features.shard was never on"
            )
    tops = [xlator for xlator in volfile.xlators if xlator.type in _DISTRIBUTE]
    if len(tops) != 1:
        raise VolfileError(f"the volfile has {len(tops)} cluster/distribute translators where a client's has one")
    sets = list(_children(volfile, tops[0]))
    if len(sets) != 1:
        raise DistributedError(f"the volume is distributed over {len(sets)} subvolumes; {_ONE_SUBVOLUME}")
    return _of_set(volfile, sets[0])


def _children(volfile: Volfile, parent: Xlator) -> Iterator[Xlator]:
    for name in parent.subvolumes:
        child = volfile.xlator(name)
        while child.type == "performance/readdir-ahead" and len(child.subvolumes) == 1:
            child = volfile.xlator(child.subvolumes[0])
        yield child


def _of_set(volfile: Volfile, top: Xlator) -> Geometry:
    if len(top.subvolumes) > MAX_BRICKS:
        raise VolfileError(f"{top.name}: {len(top.subvolumes)} bricks are more than any set of bricks in gluster has")
    if top.type == "protocol/client":
        return Geometry(kind=VolumeKind.BRICK, bricks=(_brick(top, arbiter=False),))
    if top.type in ("cluster/replicate", "cluster/afr"):
        return _replicate(top, list(_children(volfile, top)))
    if top.type == "cluster/disperse":
        return _disperse(top, list(_children(volfile, top)))
    raise UnsupportedVolumeError(
        f"the volume's bricks are joined by {top.type}, which is not known here; {_ONE_SUBVOLUME}"
    )


def _replicate(top: Xlator, clients: list[Xlator]) -> Geometry:
    if "thin-arbiter" in top.options:
        raise ThinArbiterError(
            "the volume has a thin arbiter, which is not supported; use replica 3, or replica 3 arbiter 1"
        )
    arbiters = _number(top, "arbiter-count", 0)
    if arbiters >= len(clients):
        raise VolfileError(f"{top.name}: {arbiters} arbiters of {len(clients)} bricks cannot be")
    first_arbiter = len(clients) - arbiters
    bricks = tuple(_brick(client, arbiter=i >= first_arbiter) for i, client in enumerate(clients))
    # afr's own default (fix_quorum_options in xlators/cluster/afr/src/afr.c)
    rule = top.options.get("quorum-type", "auto" if len(clients) > 2 else "none")
    quorum = {"none": 1, "fixed": _number(top, "quorum-count", 1)}.get(rule)
    return Geometry(kind=VolumeKind.REPLICATE, bricks=bricks, quorum=quorum)


def _disperse(top: Xlator, clients: list[Xlator]) -> Geometry:
    redundancy = _number(top, "redundancy", 0)
    if not 0 < redundancy < len(clients):
        raise VolfileError(f"{top.name}: a redundancy of {redundancy} with {len(clients)} bricks cannot be")
    bricks = tuple(_brick(client, arbiter=False) for client in clients)
    quorum = _number(top, "quorum-count", 0) or None
    return Geometry(kind=VolumeKind.DISPERSE, bricks=bricks, redundancy=redundancy, quorum=quorum)


def _brick(client: Xlator, *, arbiter: bool) -> Brick:
    if client.type != "protocol/client":
        raise VolfileError(f"{client.name}: {client.type} stands where a brick's protocol/client was expected")
    host, path = client.options.get("remote-host"), client.options.get("remote-subvolume")
    if not host or not path:
        raise VolfileError(f"{client.name}: remote-host or remote-subvolume is missing")
    if len(host) > _MAX_HOST or len(path) > _MAX_PATH:
        raise VolfileError("a brick's remote-host or remote-subvolume is longer than names and paths can be")
    return Brick(name=client.name, host=host, path=path, arbiter=arbiter, ssl=_true(client, _SSL))


def _number(xlator: Xlator, option: str, default: int) -> int:
    text = xlator.options.get(option, str(default))
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise VolfileError(f"{xlator.name}: option {option} is not a number")
    return int(text)


def _true(xlator: Xlator, option: str) -> bool:
    return xlator.options.get(option, "").lower() in _TRUE
