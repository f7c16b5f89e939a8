"""What the volfile of a remote glusterd may make of a client of ours. Pure.

A volfile names shared objects that a client loads (translators and transports, by paths below gluster's own
directories, where `..` leads out) and files that it uses. Whoever answers on port 24007 decides what it says: so a
client of ours is given only what a glusterd of version 6 or later writes into a client's volfile
(xlators/mgmt/glusterd/src/glusterd-volgen.c), and none of what is for gluster's own developers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from kadalu_ext.errors import VolfileError
from kadalu_ext.gluster.volfile import Volfile, Xlator

TYPES: Final = frozenset({
    "protocol/client",
    "cluster/replicate", "cluster/afr", "cluster/disperse",
    "cluster/distribute", "cluster/dht", "cluster/nufa", "cluster/switch",
    "features/utime", "features/shard", "features/read-only", "features/snapview-client",
    "performance/write-behind", "performance/read-ahead", "performance/readdir-ahead", "performance/io-cache",
    "performance/open-behind", "performance/quick-read", "performance/md-cache", "performance/stat-prefetch",
    "performance/nl-cache", "performance/io-threads",
    "debug/io-stats",
})  # fmt: skip
"""What a client may be made of: files on bricks, and what makes that quicker."""

_ADDED_BY: Final[Mapping[str, str]] = {
    "debug/trace": "debug.trace",
    "debug/error-gen": "debug.error-gen",
    "debug/delay-gen": "debug.delay-gen",
    "features/cloudsync": "features.cloudsync",
    "features/cdc": "network.compression",
    "features/quiesce": "features.quiesce",
    "features/quota": "features.quota",
}
"""The volume option that puts a translator into a client's volfile."""

_OPTION: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_HOST: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:%-]{0,252}")
_LONGEST_VALUE: Final = 64 << 10
_SHOWN: Final = 64

_VALUES: Final[Mapping[str, re.Pattern[str]]] = {
    "transport-type": re.compile("tcp|socket|tcp,rdma|rdma,tcp"),
    "transport.address-family": re.compile("inet|inet6|inet/inet6"),
    "remote-host": _HOST,
    "remote-port": re.compile("[0-9]{1,5}"),
    "remote-subvolume": re.compile(r"[/A-Za-z0-9_][^\0\n]{0,4095}"),
}
"""What the options of protocol/client that say where a brick is may be; the transport is a shared object's name."""

_PATHS: Final = re.compile(r"remote-subvolume|transport\.socket\.ssl-(own-cert|private-key|ca-list|crl-path|dh-param)")
"""Options whose values are paths: on the brick host, or of files that are only read, as PEM."""


def vet(volfile: Volfile, *, host: str, volume: str) -> Volfile:
    """`volfile` itself, which glusterd on `host` sent for `volume`.

    Raises: VolfileError if a client that is given it might do other than use that volume: with host, volume, what is
    wrong and the remedy, and never an option's value, which may be a password.
    """
    for xlator in volfile.xlators:
        if (wrong := _wrong(xlator)) is not None:
            what, option = wrong
            remedy = (
                f"gluster volume reset {volume} {option}"
                if option
                else f"see there what was set: gluster volume info {volume}; and whether that host is still your own"
            )
            raise VolfileError(f"{host}: the volfile of volume {volume} is not used: {what}; {remedy}")
    return volfile


def _wrong(xlator: Xlator) -> tuple[str, str | None] | None:
    """What is wrong, and the volume option to reset if that is known."""
    name = xlator.type[:_SHOWN]
    if xlator.type not in TYPES:
        return f"it has a translator of type {name!r}, which no client of ours may have", _ADDED_BY.get(xlator.type)
    for option, value in xlator.options.items():
        if _OPTION.fullmatch(option) is None:
            return f"a translator of type {name} has an option without a proper name", None
        if (
            len(value) > _LONGEST_VALUE
            or not value.isprintable()
            or "`" in value
            or (value.startswith("/") and _PATHS.fullmatch(option) is None)
            or (xlator.type == "protocol/client" and not _VALUES.get(option, re.compile(".*")).fullmatch(value))
            or option.endswith("connect-path")
        ):
            return f"the option {option} of a translator of type {name} has a value that it may not have", None
    if (xlator.type == "protocol/client") == bool(xlator.subvolumes):
        return f"a translator of type {name} has subvolumes where none belong, or none", None
    return None
