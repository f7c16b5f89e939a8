"""How PVs and storages do on this node: looked at when somebody asks, and never for longer than LOOK_S."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from kadalu_ext.bounded import SideThreads
from kadalu_ext.csi.condition import Condition, Status
from kadalu_ext.csi.health import Look, Space, conditions, of_storage
from kadalu_ext.csi.mounterclient import StorageMounter, StorageState
from kadalu_ext.csi.nodevolumes import MountTable, Volume, as_mounted, storage_mounts
from kadalu_ext.errors import DeadlineError, InProgressError, KadaluExtError, NotFoundError
from kadalu_ext.storage import StorageName

LOOK_S: Final = 10.0
"""How long a statvfs may take: kubelet asks for it every minute or so."""


class NodeHealth:
    """Thread-safe. is_replaced: see replaced.Replaced.is_held."""

    def __init__(self, mounts: MountTable, mounter: StorageMounter, is_replaced: Callable[[str], bool]) -> None:
        self._mounts = mounts
        self._mounter = mounter
        self._is_replaced = is_replaced
        self._threads = SideThreads()

    def look(self, volume: Volume, path: str) -> Look:
        """The PV as it is at `path`. Raises: NotFoundError if it is not mounted there; OSError."""
        table = self._mounts.table()
        volume = as_mounted(volume, table)
        for_all = self._of_storage(volume.client)
        mains = storage_mounts(table)
        there = self._mounts.at(path)
        if there is None or there.source != volume.source:
            raise NotFoundError(f"volume_path: {volume} is not mounted at {path[:200]}")
        main = mains.get(volume.source)
        look = replace(
            for_all,
            path=path,
            current=main is not None and main.device == there.device,
            replaced=self._is_replaced(path),
        )
        try:
            stat = self._threads.run(path, lambda: self._mounts.statvfs(path), timeout_s=LOOK_S, what="statvfs")
        except (DeadlineError, InProgressError) as error:
            return replace(look, error_text=str(error))
        except OSError as error:
            return replace(look, error=error.errno or -1, error_text=error.strerror or str(error))
        return replace(look, space=_space(stat))

    def volume(self, volume: Volume, path: str) -> list[Condition]:
        """What is wrong with the PV at `path`, or anywhere on this node if that is empty, or with a storage because of
        which it is not mounted. Raises: NotFoundError if it is not on this node; OSError."""
        volume = as_mounted(volume, self._mounts.table())
        paths = [path] if path else self._paths(volume)
        found: list[Condition] = []
        try:
            for each in paths:
                found += conditions(self.look(volume, each))
        except NotFoundError:
            pass  # unpublished meanwhile, or never there
        else:
            if paths:
                return _by_reason(found)
        state = self._of_storage(volume.client).storage
        if state is None or state.mounted:
            where = f"mounted at {path[:200]}" if path else "mounted on this node"
            raise NotFoundError(f"volume_id: {volume} is not {where}")
        return list(of_storage(state))

    def storages(self) -> list[Condition]:
        """What is wrong with the storages that this node uses; several with the same trouble share one."""
        try:
            states = self._mounter.states()
        except KadaluExtError as error:
            words = f"{error}; nothing new can be mounted on this node, and clients that end are not started again"
            return [Condition(status=Status.DEGRADED, reason="MounterNotThere", message=words)]
        return _by_reason([each for _, state in sorted(states.items()) for each in of_storage(state)])

    def _paths(self, volume: Volume) -> list[str]:
        return sorted({each.path for each in self._mounts.table() if volume.is_at(each)})

    def _of_storage(self, name: StorageName) -> Look:
        try:
            state: StorageState | None = self._mounter.states().get(name)
        except KadaluExtError as error:
            return Look(path="", mounter=str(error))
        return Look(path="", storage=state)


def _by_reason(found: list[Condition]) -> list[Condition]:
    """The specification allows each pair of status and reason once."""
    words: dict[tuple[Status, str], dict[str, None]] = {}
    for each in found:
        words.setdefault((each.status, each.reason), {})[each.message] = None
    return [
        Condition(status=status, reason=reason, message="; ".join(messages))
        for (status, reason), messages in sorted(words.items(), key=lambda item: -item[0][0])
    ]


def _space(stat: os.statvfs_result) -> Space:
    return Space(
        total_bytes=stat.f_blocks * stat.f_frsize,
        available_bytes=stat.f_bavail * stat.f_frsize,
        used_bytes=(stat.f_blocks - stat.f_bfree) * stat.f_frsize,
        inodes=stat.f_files,
        available_inodes=stat.f_favail,
        used_inodes=stat.f_files - stat.f_ffree,
    )
