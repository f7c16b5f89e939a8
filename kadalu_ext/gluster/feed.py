"""What the glusterfs clients of one storage in this process's care are fed with: its volfile, asked of any host that
answers, vetted, made ours, without the hosts that are silent, and served on a unix socket of our own.

gluster's own way costs ten seconds for a brick host that drops packets and 45 for such a volfile server, and runs
whatever a volfile holds. Mounter and CSI controller both use this.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final

from kadalu_ext.errors import HostSilentError, HostUnreachableError, VolfileError, WireError
from kadalu_ext.gluster import volfile
from kadalu_ext.gluster.client import Glusterd, first_answer
from kadalu_ext.gluster.clientvolfile import client_volfile
from kadalu_ext.gluster.connection import Connection
from kadalu_ext.gluster.oncrpc import Procedure
from kadalu_ext.gluster.vetting import vet
from kadalu_ext.gluster.volfile import Volfile
from kadalu_ext.gluster.volserver import VolfileServer

TIMEOUT_S: Final = 1.0
"""How long a host may take. One that is alive answers within milliseconds."""

REFRESH_S: Final = 5.0
"""How often whoever owns a Feed lets it look for a changed volfile, and for hidden hosts that answer again."""

_NOTHING: Final = Procedure(program=14398633, version=2, number=0)
"""A call that does nothing: a brick that lives says that it does not serve it."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """A volume, the hosts whose glusterds know it, and client options as in clientvolfile.client_volfile."""

    volume: str
    hosts: tuple[str, ...]
    options: Mapping[str, str] = field(default_factory=dict)


def fetch(source: Source) -> Volfile:
    """The volume's volfile, vetted, from whichever of its hosts answers first.

    Raises: VolumeStoppedError, NotFoundError, HostUnreachableError with each host's reason, VolfileError with the host
    that sent it, WireError.
    """

    def ask(glusterd: Glusterd) -> Volfile:
        glusterd.started_volume_info(source.volume)  # the volfile of a stopped volume is served too
        text = glusterd.getspec(source.volume)
        try:
            parsed = volfile.parse(text)
        except VolfileError as error:
            raise VolfileError(
                f"{glusterd.host}: the volfile of volume {source.volume} is not used: {error}"
            ) from error
        return vet(parsed, host=glusterd.host, volume=source.volume)

    return first_answer(source.hosts, ask, TIMEOUT_S)


def silent(volume: Volfile, among: frozenset[str] | None) -> frozenset[str]:
    """The brick hosts, of those in `among` (None: of all), that are silent: glusterd, or a brick that should run, takes
    no question within TIMEOUT_S.

    A host that refuses is not silent: a client that asks it knows at once. All are asked side by side.
    """
    options = [xlator.options for xlator in volume.xlators if xlator.type == "protocol/client"]
    bricks = [(each.get("remote-host", ""), each.get("remote-subvolume", "")) for each in options]
    asked = [brick for brick in bricks if among is None or brick[0] in among]
    if not asked:
        return frozenset()
    with ThreadPoolExecutor(max_workers=len(asked), thread_name_prefix="probe") as pool:
        answers = list(pool.map(_takes_questions, asked))
    return frozenset(host for (host, _path), answer in zip(asked, answers, strict=True) if not answer)


def _takes_questions(brick: tuple[str, str]) -> bool:
    host, path = brick
    try:
        with Glusterd(host, timeout_s=TIMEOUT_S) as glusterd:
            port = glusterd.brick_port(path)
        if port is not None:
            with Connection(host, port, server="the brick") as connection:
                connection.call(_NOTHING, b"", time.monotonic() + TIMEOUT_S)
    except HostSilentError:
        return False
    except (HostUnreachableError, WireError):
        pass  # an answer, if not the one that was hoped for
    return True


class Feed:
    """The volfile of one storage's clients, at the unix socket `path` in a directory that only we can enter.

    Thread-safe. Both calls raise what `fetch` does, and OSError if the socket cannot be made; clients that are
    connected go on with what they have then.
    """

    def __init__(
        self,
        path: str,
        *,
        fetch: Callable[[Source], Volfile] = fetch,
        silent: Callable[[Volfile, frozenset[str] | None], frozenset[str]] = silent,
    ) -> None:
        self.path = path
        self._fetch = fetch
        self._silent = silent
        self._server = VolfileServer(path)
        self._lock = threading.Lock()
        self._begun = 0
        self._hidden: frozenset[str] | None = None

    @property
    def hidden(self) -> frozenset[str] | None:
        """Brick hosts that clients are not told of; None: not known, as before the first call."""
        return self._hidden

    def begin(self, source: Source) -> None:
        """Serves the volfile for a client that is about to start: without all hosts that are silent now."""
        volume = self._fetch(source)
        hidden = self._silent(volume, None)
        with self._lock:
            self._begun += 1
            self._serve(source, volume, hidden)

    def refresh(self, source: Source) -> bool:
        """Serves the volfile as it is now, with those hidden hosts that answer again; True if clients were told so.

        A host that falls silent is never hidden from a client that runs: the client has noticed by itself, and taking
        the connection away would cost it what it still waits for.
        """
        begun = self._begun
        volume = self._fetch(source)
        hidden = self._silent(volume, self._hidden)
        with self._lock:
            return begun == self._begun and self._serve(source, volume, hidden)

    def _serve(self, source: Source, volume: Volfile, hidden: frozenset[str]) -> bool:
        text = volfile.render(client_volfile(volume, options=source.options, hidden=hidden))
        pushed = self._server.serve(text)
        self._hidden = hidden
        return pushed

    def close(self) -> None:
        """Stops serving. Clients go on with what they have."""
        self._server.close()
