"""What each brick of a volume itself says of a directory: the proof that every one of them enforces its size.

A statvfs through a client proves one brick only; here each brick is asked on its own connection, all side by side.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from errno import EACCES, EAGAIN, ENODATA, ENOENT, ESTALE
from typing import Final, Self

from kadalu_ext.errors import (
    HostHungError,
    HostRefusedError,
    HostSilentError,
    HostUnreachableError,
    TlsError,
    WireError,
)
from kadalu_ext.gluster import messages, oncrpc
from kadalu_ext.gluster.client import GLUSTERD_PORT
from kadalu_ext.gluster.connection import Connection
from kadalu_ext.gluster.geometry import Brick, Geometry
from kadalu_ext.gluster.messages import Gfid, Refused, StatFs
from kadalu_ext.gluster.tls import Tls

GIVEN_UP_S: Final = 10.0
"""For so long our gluster clients wait for a brick that falls silent, their ping-timeout, before they do without it."""


@dataclass(frozen=True, kw_only=True)
class BrickStat:
    """statvfs of the directory on one brick: under an XFS project quota, total_bytes is the project's limit, and
    total_inodes that of inodes where it has one.

    block_bytes: the file system's block, which limits are rounded to.
    """

    total_bytes: int
    free_bytes: int
    block_bytes: int
    total_inodes: int = 0
    free_inodes: int = 0


@dataclass(frozen=True, kw_only=True)
class BrickAnswer:
    """What one brick answered.

    up: clients may be writing to it. False only where it is known that they do without it: its host is silent or not to
        be reached, its glusterd says that it does not run, its port refuses, or it took a connection and has been
        silent for as long as clients wait. A brick that is merely slow, or of which nobody knows, is up.
    stat: None unless it is up and knows the directory.
    error: why there is no stat, for people, naming the brick.
    attribute: what was asked for besides, as this brick has it; None if it has not.
    attributes: those that begin with what was asked for, by name; None if it did not tell.
    """

    brick: Brick
    stat: BrickStat | None
    error: str | None
    up: bool
    attribute: bytes | None = None
    attributes: Mapping[str, bytes] | None = None


@dataclass(frozen=True, kw_only=True)
class Attribute:
    """An extended attribute of a directory, whose path is relative to the volume's root; with a `*` at the end of its
    name all that begin so, but for gluster's own, which a brick keeps to itself."""

    path: str
    name: str


class BrickProbe:
    """Asks every brick of one volume. Thread-safe; connections and logins are kept from call to call.

    timeout_s bounds what one brick is waited for, and with it each thread. A brick that was silent is taken for silent
    for as long again, so that who asks all the time does not always wait for it. given_up_s: see GIVEN_UP_S.
    """

    def __init__(
        self,
        volume: str,
        volume_id: str,
        geometry: Geometry,
        timeout_s: float = 1.0,
        *,
        given_up_s: float = GIVEN_UP_S,
        glusterd_port: int = GLUSTERD_PORT,
        tls: Tls | None = None,
    ) -> None:
        self._timeout_s = timeout_s
        self._channels = [
            _Channel(volume, volume_id, brick, timeout_s, given_up_s, glusterd_port, tls) for brick in geometry.bricks
        ]

    def stat_directory(
        self, path: str, attribute: Attribute | None = None, *, gfid: Gfid | None = None
    ) -> list[BrickAnswer]:
        """The answers of all bricks, in their order, for the directory at `path`, relative to the volume's root.

        gfid: of that directory, if it is known: then a brick is asked once, and not for each name in the path. A brick
        that has no directory of that gfid has not that directory, whatever is at the path.
        `attribute` is read before the directory is looked at. It takes at most twice the timeout: other callers'
        questions may come first. Raises: RuntimeError once closed.
        """
        deadline = time.monotonic() + 2 * self._timeout_s
        futures = [channel.submit(path, attribute, gfid) for channel in self._channels]
        wait(futures, timeout=max(0.0, deadline - time.monotonic()))
        return [
            channel.unanswered() if future.cancel() or not future.done() else future.result()
            for future, channel in zip(futures, self._channels, strict=True)
        ]

    def close(self) -> None:
        """Waits for nothing: threads that wait for a silent brick end by the timeout. Idempotent."""
        for channel in self._channels:
            channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _NotUpError(Exception):
    """The brick does not run, or is not ready yet."""


class _RefusedError(Exception):
    """The brick is up and said no, or nobody can tell whether it is up."""


class _Channel:
    """The connection to one brick, and its one thread: one conversation at a time."""

    def __init__(
        self,
        volume: str,
        volume_id: str,
        brick: Brick,
        timeout_s: float,
        given_up_s: float,
        glusterd_port: int,
        tls: Tls | None,
    ) -> None:
        self._volume = volume
        self._volume_id = volume_id
        self._brick = brick
        self._timeout_s = timeout_s
        self._given_up_s = given_up_s
        self._glusterd_port = glusterd_port
        self._tls = tls
        self._executor = ThreadPoolExecutor(1, thread_name_prefix=f"brick-{brick.name}")
        self._closed = False
        self._connection: Connection | None = None
        self._port: int | None = None
        self._silence: BrickAnswer | None = None
        self._silent_until = 0.0
        self._hung_since: float | None = None
        self._hung_last = 0.0

    def submit(self, path: str, attribute: Attribute | None, gfid: Gfid | None) -> Future[BrickAnswer]:
        return self._executor.submit(self._stat_directory, path, attribute, gfid)

    def unanswered(self) -> BrickAnswer:
        # up: to take a brick for down without having asked it would let a claim through unproven
        return self._answer(error="it is too slow: earlier questions are not answered yet", up=True)

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._executor.submit(self._disconnect)
            self._executor.shutdown(wait=False)

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()

    def _answer(self, *, error: str, up: bool) -> BrickAnswer:
        return BrickAnswer(brick=self._brick, stat=None, error=f"brick {self._brick}: {error}", up=up)

    def _stat_directory(self, path: str, attribute: Attribute | None, gfid: Gfid | None) -> BrickAnswer:
        started = time.monotonic()
        if self._silence is not None and started < self._silent_until:
            return self._silence
        try:
            answer = self._look(path, attribute, gfid, started + self._timeout_s)
        except HostSilentError as error:
            self._silence = self._answer(error=str(error), up=isinstance(error, HostHungError) and not self._given_up())
            self._silent_until = time.monotonic() + self._timeout_s
            return self._silence
        except (TlsError, WireError, _RefusedError) as error:
            return self._answer(error=str(error), up=True)
        except (HostUnreachableError, _NotUpError) as error:
            return self._answer(error=str(error), up=False)
        self._hung_since = None
        return answer

    def _given_up(self) -> bool:
        """Whether clients do without the brick, which has taken a connection and does not answer."""
        now = time.monotonic()
        if self._hung_since is None or now - self._hung_last > self._given_up_s:  # of long ago says nothing of now
            self._hung_since = now
        self._hung_last = now
        return now - self._hung_since >= self._given_up_s

    def _look(self, path: str, attribute: Attribute | None, gfid: Gfid | None, deadline: float) -> BrickAnswer:
        if self._connection is not None and self._connection.connected:
            try:
                return self._ask(self._connection, path, attribute, gfid, deadline)
            except HostSilentError:
                raise
            except HostUnreachableError:
                pass  # the brick was restarted since, perhaps on another port: once more from the beginning
        self._connection = self._log_in(deadline)
        return self._ask(self._connection, path, attribute, gfid, deadline)

    def _log_in(self, deadline: float) -> Connection:
        brick = self._brick
        port = self._ask_port(deadline)
        if port is None:
            raise _NotUpError(f"its process does not run; on {brick.host}: gluster volume start {self._volume} force")
        self._port = port
        if brick.ssl and self._tls is None:
            raise _RefusedError(
                "the volume wants TLS (client.ssl is on) and the storage has none; name a Secret with glusterfs.pem, "
                "glusterfs.key and glusterfs.ca in the storage"
            )
        connection = Connection(
            brick.host,
            port,
            server="the brick's process",
            credential=oncrpc.AUTH_GLUSTERFS_V3,
            tls=self._tls if brick.ssl else None,
        )
        request = messages.setvolume_request(
            volume=self._volume,
            volume_id=self._volume_id,
            path=brick.path,
            process_uuid=f"CTX_ID:{uuid.uuid4()}-GRAPH_ID:0-PID:{os.getpid()}-HOST:kadalu-ext-PC_NAME:{brick.name}-RECON_NO:-0",
        )
        reply = messages.read_setvolume_reply(connection.call(messages.SETVOLUME, request, deadline))
        if isinstance(reply, Refused):
            connection.close()
            # EAGAIN: its translators are not all ready. ENOENT: the process does not (yet) serve this brick.
            kind = _NotUpError if reply.errno in (EAGAIN, ENOENT) else _RefusedError
            remedy = f"; allow this host: gluster volume set {self._volume} auth.allow" if reply.errno == EACCES else ""
            raise kind(f"it refuses the login ({_reason(reply)}){remedy}")
        return connection

    def _ask_port(self, deadline: float) -> int | None:
        request = messages.port_by_brick_request(self._brick.path)
        now = time.monotonic()
        tls = self._tls if self._tls is not None and self._tls.management else None
        with Connection(self._brick.host, self._glusterd_port, server="glusterd", tls=tls) as glusterd:
            try:
                # Half of the time, as bricks outlive their glusterd: one that hangs must not use up all of it.
                reply = glusterd.call(messages.PORTBYBRICK, request, now + (deadline - now) / 2)
            except HostUnreachableError as error:
                if self._port is not None:
                    return self._port
                if isinstance(error, HostHungError | HostRefusedError | TlsError):
                    raise _RefusedError(f"{error}; only glusterd knows whether the brick runs, and where") from error
                raise
        return messages.read_port_by_brick_reply(reply)

    def _ask(
        self, connection: Connection, path: str, attribute: Attribute | None, gfid: Gfid | None, deadline: float
    ) -> BrickAnswer:
        value, values = None, None
        if attribute is not None and attribute.name.endswith("*"):
            values = self._attributes(connection, attribute, deadline)
        elif attribute is not None:
            value = self._attribute(connection, attribute, deadline)
        answer = self._find(connection, path, deadline) if gfid is None else gfid
        if not isinstance(answer, Refused):
            request = messages.statfs_request(answer)
            stat = messages.read_statfs_reply(connection.call(messages.STATFS, request, deadline))
            if isinstance(stat, StatFs):
                seen = _to_brick_stat(stat)
                return BrickAnswer(
                    brick=self._brick, stat=seen, error=None, up=True, attribute=value, attributes=values
                )
            if gfid is None or stat.errno not in (ENOENT, ESTALE):
                raise _RefusedError(f"statvfs of {path} failed ({_reason(stat)})")
            answer = stat
        error = f"brick {self._brick}: it has no directory {path} ({_reason(answer)})"
        return BrickAnswer(brick=self._brick, stat=None, error=error, up=True, attribute=value, attributes=values)

    def _attributes(self, connection: Connection, attribute: Attribute, deadline: float) -> dict[str, bytes] | None:
        gfid = self._find(connection, attribute.path, deadline)
        if isinstance(gfid, Refused):
            return None
        request = messages.getxattr_request(gfid, "")
        found = messages.read_listxattr_reply(connection.call(messages.GETXATTR, request, deadline))
        if isinstance(found, Refused):
            return {} if found.errno == ENODATA else None
        return {name: value for name, value in found.items() if name.startswith(attribute.name[:-1])}

    def _attribute(self, connection: Connection, attribute: Attribute, deadline: float) -> bytes | None:
        gfid = self._find(connection, attribute.path, deadline)
        if isinstance(gfid, Refused):
            return None
        request = messages.getxattr_request(gfid, attribute.name)
        value = messages.read_getxattr_reply(connection.call(messages.GETXATTR, request, deadline), attribute.name)
        return None if isinstance(value, Refused) else value

    @staticmethod
    def _find(connection: Connection, path: str, deadline: float) -> Gfid | Refused:
        gfid = messages.ROOT_GFID
        for name in filter(None, path.split("/")):
            found = messages.read_lookup_reply(
                connection.call(messages.LOOKUP, messages.lookup_request(gfid, name), deadline)
            )
            if isinstance(found, Refused):
                return found
            gfid = found
        return gfid


def _reason(refused: Refused) -> str:
    return refused.message or os.strerror(refused.errno)


def _to_brick_stat(stat: StatFs) -> BrickStat:
    return BrickStat(
        total_bytes=stat.blocks * stat.fragment_bytes,
        free_bytes=stat.available * stat.fragment_bytes,
        block_bytes=stat.fragment_bytes,
        total_inodes=stat.files,
        free_inodes=stat.files_free,
    )
