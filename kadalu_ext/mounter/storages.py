"""All storages of this node, by name."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass, field

from kadalu_ext.errors import InvalidInputError
from kadalu_ext.gluster.feed import REFRESH_S
from kadalu_ext.log import Logger
from kadalu_ext.mounter.client import Places
from kadalu_ext.mounter.supervisor import Status, Supervisor, World
from kadalu_ext.storage import Storage, StorageName, check_storage_name


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
    """Where the things of one storage are. A name is one path component, and no name's files can be another's."""
    return Places(
        mount=os.path.join(settings.mounts_dir, name),
        socket=os.path.join(settings.run_dir, f"{name}.sock"),
        log=os.path.join(settings.log_dir, f"{name}.log"),
        description=os.path.join(settings.run_dir, f"{name}.json"),
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
                name = check_storage_name(entry)
            except InvalidInputError:
                self._log.warning("not a storage's mount point", path=os.path.join(self._settings.mounts_dir, entry))
                continue
            self._supervisor(name).recover()

    def mount(self, storage: Storage) -> str:
        """The path of the storage's mount. Raises: what Supervisor.mount raises."""
        return self._supervisor(storage.name).mount(storage)

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
