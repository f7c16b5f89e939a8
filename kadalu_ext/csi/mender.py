"""The node plugin's look around: mounts of clients that died are replaced, storages that are gone are let go.

kubelet publishes a volume once for a pod. When the glusterfs client behind it dies, the mounter starts another one, and
nobody but this driver would mount the PV anew where the pod has it. A container that is started afterwards works; one
that runs has a mount namespace of its own and keeps the dead mount (see replaced.py).
"""

from __future__ import annotations

import select
import threading
import time
from collections.abc import Callable, Iterable
from typing import Final

from kadalu_ext import mountinfo
from kadalu_ext.csi.mounterclient import StorageMounter
from kadalu_ext.csi.nodevolumes import MountTable, NodeVolumes, is_main, storage_mounts, volume_of
from kadalu_ext.csi.replaced import Replaced
from kadalu_ext.errors import InProgressError, KadaluExtError
from kadalu_ext.log import Logger
from kadalu_ext.mountinfo import Mount
from kadalu_ext.storage import StorageName, mount_source
from kadalu_ext.storages import Storages

LOOK_S: Final = 10.0
"""How often it is looked at the least; any mount or unmount on the node is a reason to look."""

SETTLE_S: Final = 0.3
"""A pod that starts makes many mounts: so long to wait before the next look."""

RELEASE_S: Final = 20.0
"""So long a storage must have been without an entry and without a PV on this node before its client is let go."""

_MEND_S: Final = 30.0


class Mender:
    """`keep` runs in a thread of its own. `now`: a clock in seconds."""

    def __init__(
        self,
        *,
        mounts: MountTable,
        volumes: NodeVolumes,
        mounter: StorageMounter,
        storages: Storages,
        replaced: Replaced,
        log: Logger,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._mounts = mounts
        self._volumes = volumes
        self._mounter = mounter
        self._storages = storages
        self._replaced = replaced
        self._log = log
        self._now = now
        self._unused: dict[StorageName, float] = {}
        self._told: dict[str, str] = {}
        self._workers: dict[str, threading.Thread] = {}

    def keep(self, stop: threading.Event) -> None:
        """Looks around until `stop` is set, whenever mounts of the node change and every LOOK_S."""
        with open(mountinfo.MOUNTINFO, "rb") as changes:
            poll = select.poll()
            poll.register(changes, select.POLLERR | select.POLLPRI)  # proc(5)
            while not stop.is_set():
                try:
                    self.look()
                except Exception:  # a pod's mount would stay dead for good
                    self._log.exception("looking around crashed")
                poll.poll(LOOK_S * 1000)
                stop.wait(SETTLE_S)

    def look(self) -> None:
        """Once. Raises: OSError, KadaluExtError if the ConfigMap or mountinfo cannot be read."""
        table = self._mounts.table()
        shown = {each.path: each for each in table if not is_main(each)}
        mains = storage_mounts(table)
        stale: dict[str, list[Mount]] = {}
        for path in shown:
            top = mountinfo.at(table, path)
            if top is not None and ((main := mains.get(top.source)) is None or main.device != top.device):
                stale.setdefault(top.source, []).append(top)
        for source, tops in stale.items():
            if (worker := self._workers.get(source)) is None or not worker.is_alive():
                work = threading.Thread(target=self._mend_all, args=(tops, mains.get(source)), name="mend", daemon=True)
                self._workers[source] = work
                work.start()
        self._replaced.forget(set(shown))
        used = {each.source for each in shown.values()}
        self._tidy(used, {volume.client for each in shown.values() if (volume := volume_of(each)) is not None})
        self._told = {what: reason for what, reason in self._told.items() if what in shown or what in self._unused}

    def _mend_all(self, tops: list[Mount], main: Mount | None) -> None:
        """Of one storage: one that does not answer keeps no other waiting."""
        try:
            for each in tops:
                self._mend(each, main)
        except Exception:
            self._log.exception("mending crashed", source=tops[0].source)

    def _mend(self, there: Mount, main: Mount | None) -> None:
        volume = volume_of(there)
        if volume is None:
            return
        try:
            if main is None:
                if not self._volumes.answers(there, timeout_s=_MEND_S):
                    self._ask(volume.client)
                return  # its mount is a change of the node's mounts
            connection = self._replaced.connection(there.device)
            if self._volumes.mend(there, main, timeout_s=_MEND_S):
                self._replaced.note(there.path, connection)
                self._log.warning("mount of a client that died replaced", volume_id=str(volume), path=there.path)
        except InProgressError:
            pass  # kubelet's call for it, or an earlier look of ours
        except KadaluExtError as error:
            self._tell("mount not mended", there.path, str(error))

    def _ask(self, name: StorageName) -> None:
        """A mounter that was replaced knows nothing of what was mounted before; one that knows is at it by itself."""
        if name in self._mounter.states():
            return
        storage = self._storages.entry(name)
        if storage is not None:  # else there is nothing to mount it with; kubelet's calls bring their own
            self._mounter.mount(storage, timeout_s=_MEND_S)

    def _tidy(self, used: Iterable[str], clients: Iterable[StorageName]) -> None:
        """used: sources of PVs' mounts. A PV that is a whole volume has a client of its own, which goes with it."""
        try:
            known = self._mounter.states()
        except KadaluExtError:
            return  # not there; whoever mounts is told so
        names = {*self._storages.names(), *clients}
        unused = {name for name in known if name not in names and mount_source(name) not in used}
        self._unused = {name: self._unused.get(name, self._now()) for name in unused}
        for name, since in list(self._unused.items()):
            if self._now() - since < RELEASE_S:
                continue
            try:
                self._mounter.release(name)
            except KadaluExtError as error:
                self._tell("storage not released", name, str(error))
            else:
                self._log.info("storage released: it is gone, and no PV of it is on this node", storage=name)
                del self._unused[name]

    def _tell(self, event: str, what: str, reason: str) -> None:
        """Once for each reason."""
        if self._told.get(what) != reason:
            self._told[what] = reason
            self._log.warning(event, what=what, reason=reason)
