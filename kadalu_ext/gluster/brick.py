"""What each brick of a volume itself says of a directory: the proof that every one of them enforces its size.

A statvfs through a client proves one brick only; here each brick is asked on its own connection, all side by side.
"""

from __future__ import annotations

import os
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from errno import EAGAIN, ENOENT
from types import TracebackType
from typing import Final, Self

from kadalu_ext.errors import HostSilentError, HostUnreachableError, WireError
from kadalu_ext.gluster import messages, oncrpc
from kadalu_ext.gluster.client import GLUSTERD_PORT
from kadalu_ext.gluster.connection import Connection
from kadalu_ext.gluster.geometry import Brick, Geometry
from kadalu_ext.gluster.messages import Refused, StatFs

_CALLERS: Final = 4
"""How many callers of one BrickProbe are served side by side; more wait."""


@dataclass(frozen=True, kw_only=True)
class BrickStat:
    """statvfs of the directory on one brick: under an XFS project quota, total_bytes is the project's limit.

    block_bytes: the file system's block, which limits are rounded to.
    """

    total_bytes: int
    free_bytes: int
    block_bytes: int


@dataclass(frozen=True, kw_only=True)
class BrickAnswer:
    """What one brick answered.

    up: it runs and takes connections. Not up: refused, not running, or silent.
    stat: None unless it is up and knows the directory.
    error: why there is no stat, for people, naming the brick.
    """

    brick: Brick
    stat: BrickStat | None
    error: str | None
    up: bool


class BrickProbe:
    """Asks every brick of one volume. Thread-safe; connections and logins are kept from call to call.

    timeout_s bounds `stat_directory` as a whole, and with it each thread. A brick that was silent is taken for silent
    for as long again, so that who asks all the time does not always wait for it.
    """

    def __init__(self, volume: str, volume_id: str, geometry: Geometry, timeout_s: float = 1.0) -> None:
        self._timeout_s = timeout_s
        self._channels = [_Channel(volume, volume_id, brick, timeout_s) for brick in geometry.bricks]
        self._executor = ThreadPoolExecutor(_CALLERS * len(self._channels), thread_name_prefix=f"bricks-{volume}")

    def stat_directory(self, path: str) -> list[BrickAnswer]:
        """The answers of all bricks, in their order, for the directory at `path`, relative to the volume's root."""
        deadline = time.monotonic() + self._timeout_s
        return list(self._executor.map(lambda channel: channel.stat_directory(path, deadline), self._channels))

    def close(self) -> None:
        """Idempotent. Threads that still wait end by the timeout."""
        self._executor.shutdown(wait=False)
        for channel in self._channels:
            channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _NotUpError(Exception):
    """The brick does not run, or is not ready yet."""


class _RefusedError(Exception):
    """The brick is up and said no."""


class _Channel:
    """The connection to one brick: one conversation at a time."""

    def __init__(self, volume: str, volume_id: str, brick: Brick, timeout_s: float) -> None:
        self._volume = volume
        self._volume_id = volume_id
        self._brick = brick
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._connection: Connection | None = None
        self._silent_until = 0.0
        self._silence = ""

    def stat_directory(self, path: str, deadline: float) -> BrickAnswer:
        if not self._lock.acquire(timeout=max(0.0, deadline - time.monotonic())):
            return self._answer(error="another question to it is still unanswered", up=False)
        try:
            if time.monotonic() < self._silent_until:
                return self._answer(error=self._silence, up=False)
            stat = self._stat(path, deadline)
        except HostSilentError as error:
            self._silence, self._silent_until = str(error), time.monotonic() + self._timeout_s
            return self._answer(error=str(error), up=False)
        except (HostUnreachableError, _NotUpError) as error:
            return self._answer(error=str(error), up=False)
        except (WireError, _RefusedError) as error:
            return self._answer(error=str(error), up=True)
        finally:
            self._lock.release()
        return BrickAnswer(brick=self._brick, stat=stat, error=None, up=True)

    def _answer(self, *, error: str, up: bool) -> BrickAnswer:
        return BrickAnswer(brick=self._brick, stat=None, error=f"brick {self._brick}: {error}", up=up)

    def _stat(self, path: str, deadline: float) -> BrickStat:
        if self._connection is not None and self._connection.connected:
            try:
                return self._ask(self._connection, path, deadline)
            except HostSilentError:
                raise
            except HostUnreachableError:
                pass  # the brick was restarted since, perhaps on another port: once more from the beginning
        self._connection = self._log_in(deadline)
        return self._ask(self._connection, path, deadline)

    def _log_in(self, deadline: float) -> Connection:
        brick = self._brick
        with Connection(brick.host, GLUSTERD_PORT, server="glusterd") as glusterd:
            request = messages.port_by_brick_request(brick.path)
            port = messages.read_port_by_brick_reply(glusterd.call(messages.PORTBYBRICK, request, deadline))
        if port is None:
            raise _NotUpError(f"its process does not run; on {brick.host}: gluster volume start {self._volume} force")
        connection = Connection(brick.host, port, server="the brick's process", credential=oncrpc.AUTH_GLUSTERFS_V3)
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
            raise kind(f"it refuses the login ({_reason(reply)}); does the volume's auth.allow name this host?")
        return connection

    def _ask(self, connection: Connection, path: str, deadline: float) -> BrickStat:
        gfid = messages.ROOT_GFID
        for name in filter(None, path.split("/")):
            found = messages.read_lookup_reply(
                connection.call(messages.LOOKUP, messages.lookup_request(gfid, name), deadline)
            )
            if isinstance(found, Refused):
                raise _RefusedError(f"it has no directory {path} ({_reason(found)})")
            gfid = found
        stat = messages.read_statfs_reply(connection.call(messages.STATFS, messages.statfs_request(gfid), deadline))
        if isinstance(stat, Refused):
            raise _RefusedError(f"statvfs of {path} failed ({_reason(stat)})")
        return _to_brick_stat(stat)

    def close(self) -> None:
        if self._lock.acquire(timeout=self._timeout_s):
            try:
                if self._connection is not None:
                    self._connection.close()
            finally:
                self._lock.release()


def _reason(refused: Refused) -> str:
    return refused.message or os.strerror(refused.errno)


def _to_brick_stat(stat: StatFs) -> BrickStat:
    return BrickStat(
        total_bytes=stat.blocks * stat.fragment_bytes,
        free_bytes=stat.available * stat.fragment_bytes,
        block_bytes=stat.fragment_bytes,
    )
