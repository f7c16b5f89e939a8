"""The volfile that our clients get, made of the volume's own. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Final

from kadalu_ext.gluster.volfile import Volfile, Xlator

CLIENT_OPTIONS: Final[Mapping[str, Mapping[str, str]]] = {
    # A full disperse volume whose client locks eagerly loses data that was fsynced: bricks refuse one by one, and a
    # write that some took and others did not leaves no two fragments of one version. Seen in 8 of 160 files; with these
    # four, in none of 144 (GlusterFS 10.3; gluster's issue 2021). They cost a fifth to a half of sequential writing.
    "cluster/disperse": {
        "eager-lock": "off",
        "other-eager-lock": "off",
        "parallel-writes": "off",
        "stripe-cache": "0",
    },
}
"""What is set on each translator of a type, whatever the volume's own options say: client options by volume type."""

LOG_LEVEL: Final = "WARNING"
"""debug/io-stats sets the level of the whole client, whatever its command line says."""

PING_TIMEOUT_S: Final = 10
"""How long calls wait for a brick that falls silent, in place of gluster's default of 42: everything on the volume
stands still for that long. A volume whose administrator chose another number keeps it."""

_GLUSTER_PING_TIMEOUT: Final = "42"

_REFUSING: Final = {"remote-host": "127.0.0.1", "remote-port": "1"}
"""Where nothing listens: a brick that refuses is down at once, a silent one stops a client's start for ten seconds."""


def client_volfile(volfile: Volfile, *, options: Mapping[str, str], hidden: Collection[str] = ()) -> Volfile:
    """The volfile for our client: with CLIENT_OPTIONS set, and the bricks of the hosts in `hidden` pointed to where
    they are refused.

    options: the storage's; those that are not for a client's command line are set here: `log-level`.
    No brick is ever left out: what replicate and disperse note on files counts bricks by position.
    """
    return Volfile(xlators=tuple(_xlator(xlator, options, hidden) for xlator in volfile.xlators))


def _xlator(xlator: Xlator, wanted: Mapping[str, str], hidden: Collection[str]) -> Xlator:
    options = {**xlator.options, **CLIENT_OPTIONS.get(xlator.type, {})}
    if xlator.type == "debug/io-stats":
        options["log-level"] = wanted.get("log-level", LOG_LEVEL)
    if xlator.type == "protocol/client":
        if options.get("ping-timeout", _GLUSTER_PING_TIMEOUT) == _GLUSTER_PING_TIMEOUT:
            options["ping-timeout"] = str(PING_TIMEOUT_S)
        if options.get("remote-host") in hidden:
            options |= _REFUSING
    return replace(xlator, options=options)
