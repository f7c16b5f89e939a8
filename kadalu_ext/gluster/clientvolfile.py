"""The volfile that our clients get, made of the volume's own. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
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

DISPERSE_OPTIONS: Final[Mapping[str, str]] = {
    f"disperse.{name}": value for name, value in CLIENT_OPTIONS["cluster/disperse"].items()
}
"""These four by the names that `gluster volume set` has for them; a storage may set them otherwise, at its own risk."""

LOG_LEVEL: Final = "WARNING"
"""debug/io-stats sets the level of the whole client, whatever its command line says."""

PING_TIMEOUT_S: Final = 10
"""How long calls wait for a brick that falls silent, in place of gluster's default of 42: everything on the volume
stands still for that long. A volume whose administrator chose another number keeps it."""

_GLUSTER_PING_TIMEOUT: Final = "42"

_REFUSING: Final = {"remote-host": "127.0.0.1", "remote-port": "1"}
"""Where nothing listens: a brick that refuses is down at once, a silent one stops a client's start for ten seconds."""


_TRUE: Final = frozenset({"1", "on", "yes", "true", "enable"})
"""gf_string2boolean in libglusterfs/src/common-utils.c; it does not care for case."""

_MARK_LETTERS: Final = 12


def risks(options: Mapping[str, str]) -> dict[str, str]:
    """Those of a storage's options with which a full disperse volume loses data."""
    return {key: options[key] for key, safe in DISPERSE_OPTIONS.items() if options.get(key, safe) != safe}


@dataclass(frozen=True, kw_only=True)
class TlsFiles:
    """Paths of PEM files. A path's content never changes: what is renewed has another path."""

    certificate: str
    key: str
    ca: str


Brick = tuple[str, str]
"""The host and path that a protocol/client is told."""


def brick(client: Xlator) -> Brick:
    """Of a protocol/client."""
    return client.options.get("remote-host", ""), client.options.get("remote-subvolume", "")


def wants_tls(client: Xlator) -> bool:
    """Whether a protocol/client is told to speak TLS to its brick: the volume option client.ssl."""
    return client.options.get("transport.socket.ssl-enabled", "off").lower() in _TRUE


def client_volfile(
    volfile: Volfile,
    *,
    options: Mapping[str, str],
    hidden: Collection[str] = (),
    tls: TlsFiles | None = None,
    ports: Mapping[Brick, int] | None = None,
) -> Volfile:
    """The volfile for our client: with CLIENT_OPTIONS set, and the bricks of the hosts in `hidden` pointed to where
    they are refused.

    tls: for bricks to which clients speak TLS.
    ports: of bricks, by host and path; with it the client never asks glusterd for them, and those that are not in it
    are refused. libgfapi cannot speak TLS to one glusterd and not to another in the same process.

    gluster takes neither of the two into a client that runs, unless a translator's name changes: so the top one's has
    a mark of both.

    options: the storage's; those that are not for a client's command line are set here: `log-level`, DISPERSE_OPTIONS.
    No brick is ever left out: what replicate and disperse note on files counts bricks by position.
    """
    xlators = [_xlator(xlator, options, hidden) for xlator in volfile.xlators]
    if tls is not None or ports is not None:
        xlators = [_encrypted(xlator, tls, ports) for xlator in xlators]
        told = repr((tls, sorted((ports or {}).items()), [wants_tls(xlator) for xlator in xlators]))
        mark = hashlib.sha256(told.encode()).hexdigest()[:_MARK_LETTERS]
        xlators[-1] = replace(xlators[-1], name=f"{xlators[-1].name}-{mark}")
    return Volfile(xlators=tuple(xlators))


def _xlator(xlator: Xlator, wanted: Mapping[str, str], hidden: Collection[str]) -> Xlator:
    options = {**xlator.options, **CLIENT_OPTIONS.get(xlator.type, {})}
    if xlator.type == "cluster/disperse":
        options |= {key.removeprefix("disperse."): wanted[key] for key in DISPERSE_OPTIONS if key in wanted}
    if xlator.type == "debug/io-stats":
        options["log-level"] = wanted.get("log-level", LOG_LEVEL)
    if xlator.type == "protocol/client":
        if options.get("ping-timeout", _GLUSTER_PING_TIMEOUT) == _GLUSTER_PING_TIMEOUT:
            options["ping-timeout"] = str(PING_TIMEOUT_S)
        if options.get("remote-host") in hidden:
            options |= _REFUSING
    return replace(xlator, options=options)


def _encrypted(xlator: Xlator, tls: TlsFiles | None, ports: Mapping[Brick, int] | None) -> Xlator:
    if xlator.type != "protocol/client":
        return xlator
    options = dict(xlator.options)
    if tls is not None and wants_tls(xlator):
        options |= {
            "transport.socket.ssl-own-cert": tls.certificate,
            "transport.socket.ssl-private-key": tls.key,
            "transport.socket.ssl-ca-list": tls.ca,
        }
    if ports is not None and options.get("remote-host") != _REFUSING["remote-host"]:
        port = ports.get(brick(xlator))
        options |= _REFUSING if port is None else {"remote-port": str(port)}
    return replace(xlator, options=options)
