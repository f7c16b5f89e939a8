"""The canary of every storage gets another size every BEAT_S. See canary.py for what it is good for."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Final

from kadalu_ext.csi.clients import Clients
from kadalu_ext.errors import KadaluExtError
from kadalu_ext.log import Logger
from kadalu_ext.record import CANARY
from kadalu_ext.storage import Quota, StorageName
from kadalu_ext.storages import Storages

BEAT_S: Final = 20.0
"""A brick host that stops enforcing is found out by the first change after that, and by the operator's next look."""

REMOVALS: Final = 30
"""Of a storage that is gone, and whose volume does not answer, the canary is given up after so many tries: ten minutes
or more."""


@dataclass(frozen=True, kw_only=True)
class _Step:
    """What was begun last for one storage: its canary is changed, or removed."""

    future: Future[None]
    removals: int = 0
    """How often it was tried to remove it."""


class Canaries:
    """One thread, which waits for no storage: what is to be done is done by the storage's own workers, one step at a
    time. Where nobody wants sizes enforced, no canary is made.

    A storage that leaves the ConfigMap has its canary removed, unless another storage is on the same volume, and its
    connection ended.

    The first round opens every storage: its first claim is quicker, and the trash of an earlier process is emptied.
    """

    def __init__(self, *, storages: Storages, clients: Clients, log: Logger, beat_s: float = BEAT_S) -> None:
        self._storages = storages
        self._clients = clients
        self._log = log
        self._beat_s = beat_s
        self._steps: dict[StorageName, _Step] = {}
        self._failures: dict[StorageName, str] = {}
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="canaries", daemon=True)

    def start(self) -> None:
        """The first round begins now."""
        self._thread.start()

    def stop(self) -> None:
        """Does not wait."""
        self._stopped.set()

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                self.turn(self._stopped.wait)
            except Exception:
                self._log.exception("changing the canaries crashed")
                self._stopped.wait(self._beat_s)

    def turn(self, pause: Callable[[float], object] = lambda _seconds: None) -> None:
        """The next step of every storage's canary is begun, where the one before has ended.

        `pause` is called after each with its part of beat_s: a hundred changes at once are too much for one glusterd.
        Raises: OSError.
        """
        names = [name for name in self._storages.names() if not self._whole(name)]
        everyone = {**dict.fromkeys(names), **self._steps}
        for name in everyone:
            self._step(name, names)
            pause(self._beat_s / len(everyone))
        if not everyone:
            pause(self._beat_s)

    def _step(self, name: StorageName, names: Sequence[StorageName]) -> None:
        step = self._steps.get(name)
        if step is not None and not step.future.done():
            return  # the storage does not answer: of one that is dead, one worker waits and no more
        done = step is not None and self._succeeded(name, step.future)
        if name in names:
            self._steps[name] = _Step(future=self._beat(name))
        elif step is not None and step.removals and (done or step.removals >= REMOVALS):
            if not done:
                self._log.warning("canary left behind", storage=name, canary=CANARY)
            self._forget(name)
        else:
            self._leave(name, names, removals=step.removals if step is not None else 0)

    def _whole(self, name: StorageName) -> bool:
        """Nothing is enforced on whole volumes, and nothing but the PV's own files is on one."""
        try:
            return bool(self._storages.find(name).pool)
        except KadaluExtError:
            return False

    def _beat(self, name: StorageName) -> Future[None]:
        try:
            storage = self._storages.find(name)
            client = self._clients.of(storage)
            return client.beat() if storage.quota is not Quota.NONE else client.open()
        except KadaluExtError as error:
            failed: Future[None] = Future()
            failed.set_exception(error)
            return failed

    def _leave(self, name: StorageName, left: Iterable[StorageName], *, removals: int) -> None:
        client = self._clients.known(name)
        others = {other.volume_id for other in map(self._clients.known, left) if other is not None}
        if client is None or client.volume_id is None or client.volume_id in others:
            self._forget(name)
        else:
            self._steps[name] = _Step(future=client.remove_canary(), removals=removals + 1)

    def _forget(self, name: StorageName) -> None:
        """Nobody has a use for it but who deletes a PV that is left: its gluster client would stay for ever."""
        del self._steps[name]
        if (client := self._clients.known(name)) is not None:
            client.rest()

    def _succeeded(self, name: StorageName, future: Future[None]) -> bool:
        error = future.exception()
        if error is None:
            if self._failures.pop(name, None) is not None:
                self._log.info("canary changes again", storage=name)
            return True
        self._tell(name, error)
        return False

    def _tell(self, name: StorageName, error: BaseException) -> None:
        """Once for each reason: it is tried again for ever."""
        reason = str(error) or type(error).__name__
        if self._failures.get(name) != reason:
            self._failures[name] = reason
            self._log.warning("canary not changed", storage=name, canary=CANARY, reason=reason)
