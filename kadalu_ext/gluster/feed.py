"""What the glusterfs clients of one storage in this process's care are fed with: its volfile, asked of any host that
answers, vetted, made ours, without the hosts that are silent, and served on a unix socket of our own.

gluster's own way costs ten seconds for a brick host that drops packets and 45 for such a volfile server, and runs
whatever a volfile holds. Mounter and CSI controller both use this.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final, Protocol

from kadalu_ext.errors import (
    HostSilentError,
    HostUnreachableError,
    TlsError,
    UnavailableError,
    VolfileError,
    WireError,
)
from kadalu_ext.gluster import volfile
from kadalu_ext.gluster.client import SHARED, Glusterd, first_answer
from kadalu_ext.gluster.clientvolfile import Brick, TlsFiles, brick, client_volfile, wants_tls
from kadalu_ext.gluster.connection import Connection
from kadalu_ext.gluster.oncrpc import Procedure
from kadalu_ext.gluster.tls import Tls
from kadalu_ext.gluster.vetting import vet
from kadalu_ext.gluster.volfile import Volfile, Xlator
from kadalu_ext.gluster.volserver import VolfileServer

TIMEOUT_S: Final = 1.0
"""How long a host may take. One that is alive answers within milliseconds."""

REFRESH_S: Final = 5.0
"""How often whoever owns a Feed lets it look for a changed volfile, and for hidden hosts that answer again; for what
glusterd tells of, only a net."""

SETTLE_S: Final = 0.2
"""glusterd tells of one change several times within moments: so long to wait before the next look."""

_LISTENED: Final = 4
"""So many of a volume's hosts are listened to: every glusterd of a pool tells of every change."""

_NAME_LETTERS: Final = 16

_NOTHING: Final = Procedure(program=14398633, version=2, number=0)
"""A call that does nothing: a brick that lives says that it does not serve it."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """A volume, its id if that is known, the hosts whose glusterds know it, client options as in
    clientvolfile.client_volfile, and what an encrypted cluster is spoken to with."""

    volume: str
    hosts: tuple[str, ...]
    options: Mapping[str, str] = field(default_factory=dict)
    tls: Tls | None = None
    volume_id: str = ""

    @property
    def tells_ports(self) -> bool:
        """Whether clients are told the ports of bricks: they cannot ask a glusterd that speaks TLS."""
        return self.tls is not None and self.tls.management


@dataclass(frozen=True, kw_only=True)
class Probed:
    """silent: brick hosts that take no question. ports: of the bricks whose glusterd told it."""

    silent: frozenset[str]
    ports: Mapping[Brick, int]


def fetch(source: Source) -> Volfile:
    """The volume's volfile, vetted, from whichever of its hosts answers first.

    Raises: VolumeStoppedError, NotFoundError, VolumeReplacedError, HostUnreachableError with each host's reason,
    VolfileError with the host that sent it, WireError.
    """

    def ask(glusterd: Glusterd) -> Volfile:
        # the volfile of a stopped volume is served too
        glusterd.started_volume_info(source.volume, volume_id=source.volume_id)
        text = glusterd.getspec(source.volume)
        try:
            parsed = volfile.parse(text)
        except VolfileError as error:
            raise VolfileError(
                f"{glusterd.host}: the volfile of volume {source.volume} is not used: {error}"
            ) from error
        return vet(parsed, host=glusterd.host, volume=source.volume)

    return first_answer(source.hosts, ask, TIMEOUT_S, tls=source.tls)


def probe(source: Source, volume: Volfile, among: frozenset[str] | None) -> Probed:
    """Which brick hosts, of those in `among` (None: of all), are silent: glusterd, or a brick that should run, takes no
    question within TIMEOUT_S; and the ports of their bricks, or of all bricks where clients must be told.

    A host that refuses is not silent: a client that asks it knows at once. All are asked side by side.
    """

    def ask(client: Xlator) -> tuple[bool, int | None]:
        host, path = brick(client)
        port = None
        try:
            with Glusterd(host, timeout_s=TIMEOUT_S, tls=source.tls) as glusterd:
                port = glusterd.brick_port(path)
            if port is not None and (among is None or host in among):
                tls = source.tls if wants_tls(client) else None
                with Connection(host, port, server="the brick", tls=tls) as connection:
                    connection.call(_NOTHING, b"", time.monotonic() + TIMEOUT_S)
        except HostSilentError:
            return False, port
        except (HostUnreachableError, WireError):
            pass  # an answer, if not the one that was hoped for
        return True, port

    clients = [xlator for xlator in volume.xlators if xlator.type == "protocol/client"]
    asked = [client for client in clients if among is None or brick(client)[0] in among or source.tells_ports]
    if not asked:
        return Probed(silent=frozenset(), ports={})
    with ThreadPoolExecutor(max_workers=len(asked), thread_name_prefix="probe") as pool:
        found = list(zip(map(brick, asked), pool.map(ask, asked), strict=True))
    silent = frozenset(host for (host, _path), (answers, _port) in found if not answers)
    return Probed(
        silent=silent if among is None else silent & among,
        ports={where: port for where, (_answers, port) in found if port is not None},
    )


class Listen(Protocol):
    """hosts.Hosts.listen: whom to call with a host's name when its glusterd tells of a change; returns what ends it."""

    def __call__(
        self, hosts: Sequence[str], listener: Callable[[str], None], /, *, tls: Tls | None
    ) -> Callable[[], None]: ...


class Feed:
    """The volfile of one storage's clients, at the unix socket `path` in a directory that only we can enter.

    told: called, in any thread, when glusterd tells that volfiles changed: from the first `refresh` until `rest`. Not
    which, so it may be for nothing, and several times for one change; it must return at once.

    Thread-safe. `begin` and `refresh` raise what `fetch` does, and OSError if the socket cannot be made; clients that
    are connected go on with what they have then.
    """

    def __init__(
        self,
        path: str,
        *,
        fetch: Callable[[Source], Volfile] = fetch,
        probe: Callable[[Source, Volfile, frozenset[str] | None], Probed] = probe,
        listen: Listen = SHARED.listen,
        told: Callable[[], None] = lambda: None,
    ) -> None:
        self.path = path
        self._listen = listen
        self._told = told
        self._closed = False
        self._listening: tuple[tuple[tuple[str, ...], Tls | None], Callable[[], None]] | None = None
        self._fetch = fetch
        self._probe = probe
        self._server = VolfileServer(path)
        self._lock = threading.Lock()
        self._begun = 0
        """How often it was begun or stopped."""
        self._hidden: frozenset[str] | None = None
        self._bricks: Mapping[str, Brick] = {}
        self._ports: dict[Brick, int] = {}

    @property
    def hidden(self) -> frozenset[str] | None:
        """Brick hosts that clients are not told of; None: not known, as before the first call."""
        return self._hidden

    @property
    def bricks(self) -> Mapping[str, Brick]:
        """Those that clients are told of, by the names of their translators."""
        return self._bricks

    def begin(self, source: Source) -> None:
        """Serves the volfile for a client that is about to start: without all hosts that are silent now.

        Raises also: UnavailableError once it is closed.
        """
        volume = self._fetch(source)
        probed = self._probe(source, volume, None)
        with self._lock:
            if self._closed:
                raise UnavailableError(f"volume {source.volume}: its client is closed, its volfile no longer served")
            self._begun += 1
            self._ports = {}
            self._serve(source, volume, probed.silent, probed.ports)

    def refresh(self, source: Source) -> bool:
        """Serves the volfile as it is now, with those hidden hosts that answer again; True if clients were told so.

        A host that falls silent is never hidden from a client that runs: the client has noticed by itself, and taking
        the connection away would cost it what it still waits for.

        If it is stopped or closed meanwhile, nothing is served.
        """
        self._hear(source)
        begun, hidden = self._begun, self._hidden
        volume = self._fetch(source)
        probed = self._probe(source, volume, hidden)
        with self._lock:
            if self._closed or begun != self._begun:
                return False
            return self._serve(source, volume, probed.silent, probed.ports)

    def _serve(self, source: Source, volume: Volfile, hidden: frozenset[str], ports: Mapping[Brick, int]) -> bool:
        if source.tls is None and any(map(wants_tls, volume.xlators)):
            raise TlsError(
                f"volume {source.volume}: the volume wants TLS (client.ssl is on) and the storage has none; "
                "name a Secret with glusterfs.pem, glusterfs.key and glusterfs.ca in the storage"
            )
        self._ports.update(ports)
        text = volfile.render(
            client_volfile(
                volume,
                options=source.options,
                hidden=hidden,
                tls=None if source.tls is None else self._write(source.tls),
                ports=self._ports if source.tells_ports else None,
            )
        )
        pushed = self._server.serve(source.volume, text)
        self._hidden = hidden
        clients = {xlator.name: brick(xlator) for xlator in volume.xlators if xlator.type == "protocol/client"}
        self._bricks = {name: where for name, where in clients.items() if where[0] not in hidden}
        return pushed

    def _write(self, tls: Tls) -> TlsFiles:
        """The files that gluster reads when a translator is made; those of earlier ones go."""
        texts = {"certificate": tls.certificate, "key": tls.key, "ca": tls.ca}
        name = hashlib.sha256(repr(texts).encode()).hexdigest()[:_NAME_LETTERS]
        directory = self.path + ".tls"
        os.makedirs(directory, mode=0o700, exist_ok=True)
        there = set(os.listdir(directory))
        for kind, text in texts.items():
            if f"{name}.{kind}" not in there:
                new = os.path.join(directory, f".{kind}.new")
                with open(new, "w", encoding="ascii", opener=_private) as file:
                    file.write(text)
                os.replace(new, os.path.join(directory, f"{name}.{kind}"))
        for entry in there:
            if not entry.startswith(name):
                os.unlink(os.path.join(directory, entry))
        return TlsFiles(**{kind: os.path.join(directory, f"{name}.{kind}") for kind in texts})

    def _hear(self, source: Source) -> None:
        wanted = source.hosts[:_LISTENED], source.tls
        with self._lock:
            before = self._listening
            if self._closed or (before is not None and before[0] == wanted):
                return
            self._listening = wanted, self._listen(wanted[0], lambda _host: self._told(), tls=source.tls)
        if before is not None:
            before[1]()

    def rest(self) -> None:
        """Listens to nobody, until the next `refresh`: there is no client."""
        with self._lock:
            before, self._listening = self._listening, None
        if before is not None:
            before[1]()

    def stop(self) -> None:
        """Serves nobody and listens to nobody, until the next `begin`."""
        self.rest()
        with self._lock:
            self._begun += 1  # a refresh that is under way is of before
            self._server.close()

    def close(self) -> None:
        """Stops serving and listening. Clients go on with what they have."""
        with self._lock:
            self._closed = True
            self._server.close()
        self.rest()


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
