"""inotify(7) on what changes: glusterd's volumes, and each brick's records. Events are hints; the crawl is the truth.

Of a brick three directories are watched: its root for `info`, `info` for `quota`, and `info/quota` for records. An
xattr set on a record's directory is an ATTRIB event with its name there. Watches go away with what they watch, and are
set again by the next `watch_*`; to set one that is there is to change nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from inotify_simple import INotify, flags

from kadalu_ext.quotad import scan
from kadalu_ext.quotad.bricks import KADALU_FILE, VOLUMES_FILE
from kadalu_ext.record import RECORDS_DIR

_NAMES_CHANGE: Final = flags.CREATE | flags.DELETE | flags.MOVED_FROM | flags.MOVED_TO | flags.ONLYDIR
_GONE: Final = flags.DELETE_SELF | flags.MOVE_SELF
_RECORDS_CHANGE: Final = _NAMES_CHANGE | flags.ATTRIB | _GONE


class What(Enum):
    """What an event is about."""

    RECORD = auto()
    """The record `name` of the brick `path` came, changed or went."""
    BRICK = auto()
    """`info` or `info/quota` of the brick `path` came or went."""
    VOLUMES = auto()
    """glusterd's volumes, or the choice among them."""
    LOST = auto()
    """The kernel dropped events: only a crawl tells what happened."""


@dataclass(frozen=True, kw_only=True)
class Event:
    what: What
    path: str = ""
    name: str = ""


@dataclass(frozen=True)
class _Watch:
    path: str
    what: What
    names: frozenset[str] | None = None
    """Only these names matter; None: all."""


class Watcher:
    """One inotify instance. `fileno` for poll."""

    def __init__(self) -> None:
        self._inotify = INotify(nonblocking=True)
        self._watches: dict[int, _Watch] = {}

    def fileno(self) -> int:
        return int(self._inotify.fileno())

    def close(self) -> None:
        self._inotify.close()

    def watch_glusterd(self, directory: str) -> None:
        """Watches for volumes that come, change and go. Directories that are not there are passed over. Raises:
        OSError."""
        self._add(
            directory,
            _NAMES_CHANGE | flags.CLOSE_WRITE,
            _Watch(directory, What.VOLUMES, frozenset({VOLUMES_FILE, KADALU_FILE, "vols"})),
        )
        volumes = os.path.join(directory, "vols")
        self._add(volumes, _NAMES_CHANGE, _Watch(volumes, What.VOLUMES))
        try:
            names = [entry.path for entry in os.scandir(volumes) if entry.is_dir(follow_symlinks=False)]
        except FileNotFoundError:
            names = []
        for path in names:
            # glusterd's rename to `info` is the commit of whatever changed
            self._add(path, _NAMES_CHANGE, _Watch(path, What.VOLUMES, frozenset({"info"})))

    def watch_brick(self, path: str, root: int) -> None:
        """Watches for the records of the brick at `path`, whose root is open. Raises: OSError."""
        info, _, quota = RECORDS_DIR.partition("/")
        self._add_open(root, _NAMES_CHANGE, _Watch(path, What.BRICK, frozenset({info})))
        try:
            with scan.open_beneath(root, info) as parent:
                self._add_open(parent, _NAMES_CHANGE, _Watch(path, What.BRICK, frozenset({quota})))
                with scan.open_beneath(parent, quota) as records:
                    self._add_open(records, _RECORDS_CHANGE, _Watch(path, What.RECORD))
        except (FileNotFoundError, NotADirectoryError):
            pass

    def read(self) -> list[Event]:
        """What has happened, without waiting; the same thing is told once."""
        events: dict[Event, None] = {}
        for wd, mask, _, name in self._inotify.read(timeout=0):
            if mask & flags.Q_OVERFLOW:
                events[Event(what=What.LOST)] = None
            elif mask & flags.IGNORED:
                self._watches.pop(wd, None)
            elif wd in self._watches:
                events.update(dict.fromkeys(_meaning(self._watches[wd], mask, name)))
        return list(events)

    def _add_open(self, fd: int, mask: int, watch: _Watch) -> None:
        # by descriptor, so that what is watched is what was opened
        self._add(f"/proc/self/fd/{fd}", mask, watch)

    def _add(self, path: str, mask: int, watch: _Watch) -> None:
        try:
            self._watches[self._inotify.add_watch(path, mask)] = watch
        except FileNotFoundError:
            pass


def _meaning(watch: _Watch, mask: int, name: str) -> Iterable[Event]:
    if watch.what is What.RECORD:
        if not name:
            # gluster writes to the attributes of a directory with whatever is made in it: no reason for a crawl
            if mask & _GONE:
                yield Event(what=What.BRICK, path=watch.path)
        elif not name.startswith("."):
            yield Event(what=What.RECORD, path=watch.path, name=name)
    elif watch.names is None or name in watch.names:
        yield Event(what=watch.what, path=watch.path)
