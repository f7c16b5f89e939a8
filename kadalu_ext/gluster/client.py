"""glusterd on TCP port 24007: what it knows of volumes. Every call is bounded."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from errno import ENOENT
from typing import Final, Self, TypeVar

from kadalu_ext.errors import HostUnreachableError, NotFoundError, VolumeStoppedError, WireError
from kadalu_ext.gluster import messages
from kadalu_ext.gluster.connection import Connection
from kadalu_ext.gluster.messages import Refused, VolumeInfo, VolumeStatus
from kadalu_ext.gluster.oncrpc import Procedure
from kadalu_ext.gluster.tls import Tls

T = TypeVar("T")

GLUSTERD_PORT: Final = 24007
_STAGGER_S: Final = 0.2
"""For how long a host is waited for before the next one is asked as well: many times what a live one takes."""


class Glusterd:
    """One glusterd. It connects at the first call; `timeout_s` bounds each call, connecting included.

    Every call raises HostUnreachableError (HostSilentError if there was no answer in time) or WireError, both naming
    host and port, besides what it says itself. Not for several threads at once.
    """

    def __init__(self, host: str, *, port: int = GLUSTERD_PORT, timeout_s: float = 2.0, tls: Tls | None = None) -> None:
        self.host = host
        self._connection = Connection(
            host, port, server="glusterd", tls=tls if tls is not None and tls.management else None
        )
        self._timeout_s = timeout_s

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

    def started_volume_info(self, volume: str) -> VolumeInfo:
        """The volume. Raises: NotFoundError; VolumeStoppedError if it is not started."""
        info = self.volume_info(volume)
        if info.status is not VolumeStatus.STARTED:
            raise VolumeStoppedError(
                f"{self._connection}: the gluster volume {volume} is {info.status}, not started; "
                f"start it: gluster volume start {volume}"
            )
        return info

    def brick_port(self, path: str) -> int | None:
        """The TCP port of this host's brick at `path`; None: no such brick, or it does not run."""
        return messages.read_port_by_brick_reply(self._call(messages.PORTBYBRICK, messages.port_by_brick_request(path)))

    def _call(self, procedure: Procedure, args: bytes) -> bytes:
        return self._connection.call(procedure, args, time.monotonic() + self._timeout_s)

    def _refused(
        self, reply: Refused, volume: str, *, missing: int = messages.EG_NOVOL
    ) -> NotFoundError | HostUnreachableError:
        if reply.errno == missing:
            return NotFoundError(
                f"{self._connection}: there is no gluster volume {volume}; see there: gluster volume list"
            )
        # Not a word about the volume: another glusterd may be in a better state.
        reason = f"errno {reply.errno} {reply.message}".rstrip()
        return HostUnreachableError(f"{self._connection}: glusterd tells nothing of volume {volume} ({reason})")

    def close(self) -> None:
        """Idempotent."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def first_answer(
    hosts: Iterable[str],
    call: Callable[[Glusterd], T],
    timeout_s: float = 2.0,
    *,
    port: int = GLUSTERD_PORT,
    tls: Tls | None = None,
) -> T:
    """What `call` returns or raises for the first host that answers.

    The hosts are asked in their order, each a moment after the one before it or as soon as that failed, and side by
    side. A host that cannot be reached or does not speak gluster is no answer; nor is a NotFoundError while another
    host may know better: one that was reinstalled knows of no volume. `timeout_s` bounds each call to each host; the
    threads of those that lost end by it.

    Raises: NotFoundError if a host said so and none knew better; HostUnreachableError with each host and its reason if
    none answered; whatever else `call` raised.
    """
    waiting = deque(dict.fromkeys(hosts))
    asked: set[Future[T]] = set()
    failures: list[HostUnreachableError | WireError] = []
    missing: NotFoundError | None = None

    def ask(host: str) -> T:
        with Glusterd(host, port=port, timeout_s=timeout_s, tls=tls) as glusterd:
            return call(glusterd)

    executor = ThreadPoolExecutor(max_workers=max(1, len(waiting)), thread_name_prefix="first-answer")
    try:
        while waiting or asked:
            if waiting:
                asked.add(executor.submit(ask, waiting.popleft()))
            for future in wait(asked, timeout=_STAGGER_S if waiting else None, return_when=FIRST_COMPLETED).done:
                asked.remove(future)
                try:
                    return future.result()
                except (HostUnreachableError, WireError) as error:
                    failures.append(error)
                except NotFoundError as error:
                    missing = missing or error
    finally:
        executor.shutdown(wait=False)
    if missing is not None:
        raise missing
    if len(failures) == 1:
        raise failures[0]
    raise HostUnreachableError("no host answers: " + "; ".join(map(str, failures)))
