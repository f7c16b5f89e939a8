"""glusterd on TCP port 24007: what it knows of volumes. Every call is bounded."""

from __future__ import annotations

import time
from collections.abc import Callable
from errno import EINVAL, ENOENT
from typing import Final, Self

from kadalu_ext.errors import HostUnreachableError, NotFoundError, VolumeReplacedError, VolumeStoppedError
from kadalu_ext.gluster import messages
from kadalu_ext.gluster.connection import Connection
from kadalu_ext.gluster.messages import Peer, Refused, VolumeInfo, VolumeStatus
from kadalu_ext.gluster.oncrpc import Call, Procedure
from kadalu_ext.gluster.tls import Tls

GLUSTERD_PORT: Final = 24007


class Glusterd:
    """One glusterd. It connects at the first call; `timeout_s` bounds each call, connecting included.

    Every call raises HostUnreachableError (HostSilentError if there was no answer in time) or WireError, both naming
    host and port, besides what it says itself. Not for several threads at once.
    """

    def __init__(
        self,
        host: str,
        *,
        port: int = GLUSTERD_PORT,
        timeout_s: float = 2.0,
        tls: Tls | None = None,
        on_call: Callable[[Call], None] | None = None,
    ) -> None:
        self.host = host
        self._port = port
        self._tls = tls
        self.connection = Connection(
            host, port, server="glusterd", tls=tls if tls is not None and tls.management else None, on_call=on_call
        )
        self.timeout_s = timeout_s

    def beside(self, host: str) -> Glusterd:
        """The glusterd of another host of the same cluster, on a connection of its own, asked in the same way."""
        return Glusterd(host, port=self._port, timeout_s=self.timeout_s, tls=self._tls)

    def getspec(self, volume: str) -> str:
        """The volume's client volfile, also of a stopped volume. Never log it: a volfile may hold passwords.

        Raises: NotFoundError.
        """
        reply = messages.read_getspec_reply(self._call(messages.GETSPEC, messages.getspec_request(volume)))
        if isinstance(reply, Refused):
            raise self._refused(reply, volume, missing=ENOENT)
        return reply

    def volume_info(self, volume: str) -> VolumeInfo:
        """The volume, started or not. Raises: NotFoundError."""
        reply = messages.read_get_volume_reply(self._call(messages.GET_VOLUME, messages.get_volume_request(volume)))
        if isinstance(reply, Refused):
            raise self._refused(reply, volume)
        return reply

    def started_volume_info(self, volume: str, *, volume_id: str = "") -> VolumeInfo:
        """The volume. Raises: NotFoundError; VolumeStoppedError if it is not started; VolumeReplacedError if it has not
        this `volume_id`, if that is known: it was deleted and made anew under its old name."""
        info = self.volume_info(volume)
        if volume_id not in ("", info.volume_id):
            raise VolumeReplacedError(
                f"{self.connection}: the gluster volume {volume} has the id {info.volume_id}, but this storage is on "
                f"the one with the id {volume_id}: it was deleted and made anew; see `kubectl describe kds`"
            )
        if info.status is not VolumeStatus.STARTED:
            raise VolumeStoppedError(
                f"{self.connection}: the gluster volume {volume} is {info.status}, not started; "
                f"start it: gluster volume start {volume}"
            )
        return info

    def volume_id(self, volume: str) -> str:
        """The volume's id alone: cheap, to see that a volume is still the one it was. Raises: NotFoundError."""
        reply = messages.read_get_volume_info_reply(
            self._call(messages.GET_VOLUME_INFO, messages.get_volume_info_request(volume))
        )
        if isinstance(reply, Refused):
            raise self._refused(reply, volume, missing=EINVAL)
        return reply

    def peers(self) -> tuple[Peer, ...]:
        """The hosts of its cluster, itself included, as this glusterd sees them.

        One that sees few of them may hand out an old description of a volume: nothing on the wire dates it.
        """
        reply = messages.read_list_peers_reply(self._call(messages.LIST_PEERS, messages.list_peers_request()))
        if isinstance(reply, Refused):
            raise HostUnreachableError(f"{self.connection}: glusterd does not tell its peers (errno {reply.errno})")
        return reply

    def brick_port(self, path: str) -> int | None:
        """The TCP port of this host's brick at `path`; None: no such brick, or it does not run."""
        return messages.read_port_by_brick_reply(self._call(messages.PORTBYBRICK, messages.port_by_brick_request(path)))

    def _call(self, procedure: Procedure, args: bytes) -> bytes:
        return self.connection.call(procedure, args, time.monotonic() + self.timeout_s)

    def _refused(
        self, reply: Refused, volume: str, *, missing: int = messages.EG_NOVOL
    ) -> NotFoundError | HostUnreachableError:
        if reply.errno == missing:
            return NotFoundError(
                f"{self.connection}: there is no gluster volume {volume}; see there: gluster volume list"
            )
        # Not a word about the volume: another glusterd may be in a better state.
        reason = f"errno {reply.errno} {reply.message}".rstrip()
        return HostUnreachableError(f"{self.connection}: glusterd tells nothing of volume {volume} ({reason})")

    def close(self) -> None:
        """Idempotent."""
        self.connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
