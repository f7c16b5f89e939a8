"""What glusterd tells of by itself, to the storages that it concerns. I/O: through kadalu_ext.gluster."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from kadalu_ext.gluster.tls import Tls
from kadalu_ext.operator.metrics import Key
from kadalu_ext.operator.reconcile import Done

HOSTS: Final = 4
"""So many of a storage's hosts are listened to: every glusterd of a pool tells of every change."""


class Listen(Protocol):
    """gluster.hosts.Hosts.listen: hosts, and what to call with a host's name; returns what ends it."""

    def __call__(
        self, hosts: Sequence[str], listener: Callable[[str], None], /, *, tls: Tls | None
    ) -> Callable[[], None]: ...


class GlusterWatcher:
    """See controller.Watcher. changed: called, in any thread, for each storage whose hosts said that volfiles changed:
    not which, so it may be called for nothing, and several times for one change. Thread-safe.
    """

    def __init__(self, listen: Listen, changed: Callable[[Key], None]) -> None:
        self._listen = listen
        self._changed = changed
        self._lock = threading.Lock()
        self._watched: dict[Key, tuple[tuple[tuple[str, ...], Tls | None], Callable[[], None]]] = {}

    def watch(self, key: Key, done: Done) -> None:
        """Listens to the hosts of what was asked for; to those of before as long as that is not understood."""
        if done.spec is None or (done.spec.tls_secret is not None and done.tls is None):
            return
        hosts = done.spec.hosts[:HOSTS]
        wanted = hosts, done.tls
        with self._lock:
            found = self._watched.get(key)
            if found is not None and found[0] == wanted:
                return
            self._watched[key] = (wanted, self._listen(hosts, lambda _host: self._changed(key), tls=done.tls))
        if found is not None:
            found[1]()

    def forget(self, key: Key) -> None:
        """Nobody listens for it any more."""
        with self._lock:
            found = self._watched.pop(key, None)
        if found is not None:
            found[1]()
