"""What there is outside of the mounter's process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from kadalu_ext import mountinfo, mounting, mountpoint
from kadalu_ext.gluster import feed
from kadalu_ext.gluster.client import SHARED
from kadalu_ext.gluster.clientvolfile import Brick
from kadalu_ext.gluster.feed import Listen, Probed, Source
from kadalu_ext.gluster.tls import Tls
from kadalu_ext.gluster.volfile import Volfile
from kadalu_ext.mounter import connected, processes
from kadalu_ext.mounter.client import Client, Places
from kadalu_ext.storage import Storage, StorageName


@dataclass(frozen=True, kw_only=True)
class World:
    """All that a supervisor touches outside of this process, so that a test can give it a small world."""

    fetch: Callable[[Source], Volfile] = feed.fetch
    probe: Callable[[Source, Volfile, frozenset[str] | None], Probed] = feed.probe
    listen: Listen = SHARED.listen
    fresher: Callable[[Storage], Storage] = lambda storage: storage
    entry: Callable[[StorageName], Storage | None] = lambda _name: None
    down: Callable[[str, Mapping[str, Brick]], tuple[str, ...]] = connected.down
    tls: Callable[[Storage], Tls | None] = lambda _storage: None
    start: Callable[[Storage, Places], Client] = Client.start
    find: Callable[[Places], list[tuple[int, int]]] = processes.find
    mounts: Callable[[], tuple[mountinfo.Mount, ...]] = mountinfo.read
    unmount: Callable[[str], bool] = lambda path: mounting.unmount(path, lazily=True)
    prepare: Callable[[str], bool] = mountpoint.prepare
    remove: Callable[[str], None] = mountpoint.remove
