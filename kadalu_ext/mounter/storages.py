"""All storages of this node, by name."""

from __future__ import annotations

import os
import select
import threading
from dataclasses import dataclass, field
from typing import Final

from kadalu_ext import mountinfo
from kadalu_ext.errors import InvalidInputError
from kadalu_ext.gluster.feed import REFRESH_S
from kadalu_ext.log import Logger
from kadalu_ext.mounter.client import Places
from kadalu_ext.mounter.status import Status
from kadalu_ext.mounter.supervisor import Supervisor
from kadalu_ext.mounter.world import World
from kadalu_ext.storage import Storage, StorageName, check_mount_name, mount_name

_LOOK_S: Final = 30.0
_SETTLE_S: Final = 0.3
"""A node that starts pods has many mounts come and go: so long to wait before the next look."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """mounts_dir: on the host, one mount below it for each storage. run_dir: ours alone; may be gone after a restart.

    refresh_s: how often a changed volfile, and hidden hosts that answer again, are looked for.
    """

    mounts_dir: str
    run_dir: str
    log_dir: str
    refresh_s: float = REFRESH_S
    world: World = field(default_factory=World)


def places(settings: Settings, name: StorageName) -> Places:
    """Where the things of one storage are. A name is one path component, and no name's files can be another's.

    How to reach the volume of one PV, only its calls tell, and not the ConfigMap: that has to outlive this pod.
    """
    described = settings.log_dir if "@" in name else settings.run_dir
    return Places(
        mount=os.path.join(settings.mounts_dir, name),
        socket=os.path.join(settings.run_dir, f"{name}.sock"),
        log=os.path.join(settings.log_dir, f"{name}.log"),
        description=os.path.join(described, f"{name}.json"),
    )


class Storages:
    """One Supervisor a storage: one that is dead never keeps another waiting. Thread-safe."""

    def __init__(self, settings: Settings, log: Logger) -> None:
        self._settings = settings
        self._log = log
        self._lock = threading.Lock()
        self._supervisors: dict[StorageName, Supervisor] = {}

    def recover(self) -> None:
        """Finds what an earlier mounter of this node has left. Call it once, before anything else.

        Raises: OSError if the directories cannot be read or made.
        """
        os.makedirs(self._settings.mounts_dir, exist_ok=True)
        for entry in os.listdir(self._settings.mounts_dir):
            try:
                name = check_mount_name(entry)
            except InvalidInputError:
                self._log.warning("not a storage's mount point", path=os.path.join(self._settings.mounts_dir, entry))
                continue
            self._supervisor(name).recover()

    def mount(self, storage: Storage) -> str:
        """The path of the storage's mount. Raises: what Supervisor.mount raises."""
        return self._supervisor(mount_name(storage)).mount(storage)

    def keep(self, stop: threading.Event) -> None:
        """Sees within a moment when the mount of a storage goes, until `stop` is set. To be run in a thread."""
        with open(mountinfo.MOUNTINFO, "rb") as changes:
            poll = select.poll()
            poll.register(changes, select.POLLERR | select.POLLPRI)  # proc(5)
            while not stop.is_set():
                poll.poll(_LOOK_S * 1000)
                stop.wait(_SETTLE_S)
                try:
                    self.look()
                except Exception:  # no storage's mount would be seen to go any more
                    self._log.exception("looking at mounts crashed")

    def look(self) -> None:
        """Once. Raises: OSError."""
        mounts = self._settings.world.mounts()
        with self._lock:
            supervisors = list(self._supervisors.values())
        for supervisor in supervisors:
            supervisor.look(mounts)

    def release(self, name: StorageName) -> None:
        """Takes the storage's mount away. Raises: what Supervisor.release raises."""
        self._supervisor(name).release()

    def list(self) -> list[Status]:
        """Every storage that somebody has asked for, or that was found, by name."""
        with self._lock:
            supervisors = sorted(self._supervisors.items())
        return [status for _, supervisor in supervisors if (status := supervisor.status()) is not None]

    def close(self) -> None:
        """Stops serving volfiles. Clients and mounts go on."""
        with self._lock:
            for supervisor in self._supervisors.values():
                supervisor.close()

    def _supervisor(self, name: StorageName) -> Supervisor:
        with self._lock:
            if name not in self._supervisors:
                self._supervisors[name] = Supervisor(
                    name,
                    places(self._settings, name),
                    log=self._log,
                    world=self._settings.world,
                    refresh_s=self._settings.refresh_s,
                )
            return self._supervisors[name]
