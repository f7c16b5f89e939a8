"""Which paths had their mount replaced after a client died, while containers hold the old one.

A container has a mount namespace of its own: what is mounted anew at a pod's path does not reach a container that runs.
The kernel shows a FUSE connection in /sys/fs/fuse/connections for as long as any namespace has a mount of it
(Linux, fs/fuse/control.c): so it is seen when the last such container is gone, though not whose it is.
"""

from __future__ import annotations

import json
import os
import threading
from typing import Final

from kadalu_ext import mounting

CONNECTIONS: Final = "/sys/fs/fuse/connections"


class Replaced:
    """Kept in the file `path`, since the plugin may be replaced meanwhile. Thread-safe."""

    def __init__(self, path: str, connections: str = CONNECTIONS) -> None:
        self._path = path
        self._connections = connections
        self._lock = threading.Lock()
        self._paths: dict[str, list[int]] = {}
        try:
            with open(path, encoding="utf-8") as file:
                known = json.load(file)
            self._paths = {str(key): [int(minor), int(inode)] for key, (minor, inode) in known.items()}
        except (FileNotFoundError, ValueError, TypeError, AttributeError):
            pass  # none, or not ours: it is a hint for people, and is made anew

    def prepare(self) -> None:
        """Lets this pod see the kernel's connections. Raises: OSError."""
        if not os.path.ismount(self._connections):
            mounting.mount("fusectl", self._connections)

    def connection(self, device: int) -> list[int]:
        """What tells the client's connection of `device` from all others, also from later ones on that number."""
        minor = os.minor(device)
        try:
            return [minor, os.stat(os.path.join(self._connections, str(minor))).st_ino]
        except FileNotFoundError:
            return []

    def note(self, path: str, connection: list[int]) -> None:
        """A mount of that connection was replaced at `path`. Raises: OSError."""
        with self._lock:
            if connection:
                self._paths[path] = connection
                self._write()

    def forget(self, paths_left: set[str]) -> None:
        """Whatever is not mounted any more, or nobody holds, is no matter any more. Raises: OSError."""
        with self._lock:
            kept = {
                path: connection
                for path, connection in self._paths.items()
                if path in paths_left and self._is_there(connection)
            }
            if kept != self._paths:
                self._paths = kept
                self._write()

    def is_held(self, path: str) -> bool:
        """Whether some container of this node still has a mount of the client that was replaced at `path`."""
        with self._lock:
            connection = self._paths.get(path)
            return connection is not None and self._is_there(connection)

    def _is_there(self, connection: list[int]) -> bool:
        minor, inode = connection
        try:
            return os.stat(os.path.join(self._connections, str(minor))).st_ino == inode
        except FileNotFoundError:
            return False

    def _write(self) -> None:
        with open(self._path + ".new", "w", encoding="utf-8") as file:
            json.dump(self._paths, file)
        os.replace(self._path + ".new", self._path)
