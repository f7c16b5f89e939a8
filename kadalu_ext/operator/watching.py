"""What glusterd tells of by itself, to the storages that it concerns. I/O: through kadalu_ext.gluster."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Final

from kadalu_ext.operator.metrics import Key
from kadalu_ext.operator.reconcile import Done

HOSTS: Final = 4
"""So many of a storage's hosts are listened to: every glusterd of a pool tells of every change."""

Listen = Callable[[Sequence[str], Callable[[str], None]], Callable[[], None]]
"""gluster.hosts.Hosts.listen: hosts, and what to call with a host's name; returns what ends it."""


class GlusterWatcher:
    """See controller.Watcher. changed: called, in any thread, for each storage whose hosts said that volfiles changed:
    not which, so it may be called for nothing, and several times for one change. Thread-safe.
    """

    def __init__(self, listen: Listen, changed: Callable[[Key], None]) -> None:
        self._listen = listen
        self._changed = changed
        self._lock = threading.Lock()
        self._watched: dict[Key, tuple[tuple[str, ...], Callable[[], None]]] = {}

    def watch(self, key: Key, done: Done) -> None:
        """Listens to the hosts of what was asked for; to those of before as long as that is not understood."""
        if done.spec is None:
            return
        hosts = done.spec.storage.hosts[:HOSTS]
        with self._lock:
            found = self._watched.get(key)
            if found is not None and found[0] == hosts:
                return
            self._watched[key] = (hosts, self._listen(hosts, lambda _host: self._changed(key)))
        if found is not None:
            found[1]()

    def forget(self, key: Key) -> None:
        """Nobody listens for it any more."""
        with self._lock:
            found = self._watched.pop(key, None)
        if found is not None:
            found[1]()
