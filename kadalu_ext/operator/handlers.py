"""kopf's part: to call the reconciler when a KadaluStorage changes, and at an interval. Nothing is decided here.

The handlers are plain functions, which kopf runs in its threads: as many storages as there are threads may be silent
at once before another one has to wait, and each is for seconds only.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from typing import Any, Final

import kopf

from kadalu_ext.errors import KadaluExtError
from kadalu_ext.log import Logger
from kadalu_ext.operator.actions import Action, PatchStatus, PostEvent
from kadalu_ext.operator.kube import GROUP, PLURAL, VERSION
from kadalu_ext.operator.reconcile import Reconciler

THREADS: Final = 64
RETRY_S: Final = 5.0
"""After the API server refused something, and while a deletion waits for PVs."""

_PREFIX: Final = "operator.kadalu.external"
FINALIZER: Final = f"{_PREFIX}/finalizer"


def registry(reconciler: Reconciler, *, interval_s: float, log: Logger) -> kopf.OperatorRegistry:
    """The handlers of KadaluStorage, each looked at again every `interval_s` seconds."""
    handlers = kopf.OperatorRegistry()
    kind = (GROUP, VERSION, PLURAL)
    # a change and the interval may come together: one after the other, or events would be told twice
    locks: dict[str, threading.Lock] = {}

    def reconcile(*, namespace: str | None, name: str, uid: str, **_: Any) -> None:
        with locks.setdefault(uid, threading.Lock()), _Shell(log, namespace, name) as shell:
            shell.tell(reconciler.reconcile(str(namespace), name))

    def remove(*, namespace: str | None, name: str, uid: str, **_: Any) -> None:
        with locks.setdefault(uid, threading.Lock()), _Shell(log, namespace, name) as shell:
            actions, done = reconciler.remove(str(namespace), name)
            shell.tell(actions)
        if not done:
            raise kopf.TemporaryError("its PVs are still there", delay=RETRY_S)
        locks.pop(uid, None)
        log.info("storage removed", namespace=namespace, storage=name)

    kopf.on.login(registry=handlers)(kopf.login_via_client)
    kopf.on.create(*kind, registry=handlers)(reconcile)
    kopf.on.update(*kind, registry=handlers)(reconcile)
    kopf.on.resume(*kind, registry=handlers)(reconcile)
    kopf.on.delete(*kind, registry=handlers)(remove)
    kopf.timer(*kind, registry=handlers, interval=interval_s, initial_delay=interval_s)(reconcile)
    return handlers


def settings() -> kopf.OperatorSettings:
    """kopf as this operator needs it: names of our own on the objects, events of our own, no rights for CRDs."""
    chosen = kopf.OperatorSettings()
    chosen.execution.max_workers = THREADS
    chosen.posting.enabled = False
    chosen.scanning.disabled = True
    chosen.persistence.finalizer = FINALIZER
    chosen.persistence.progress_storage = kopf.AnnotationsProgressStorage(prefix=_PREFIX)
    chosen.persistence.diffbase_storage = kopf.AnnotationsDiffBaseStorage(prefix=_PREFIX)
    chosen.networking.request_timeout = 30.0
    return chosen


def quieten() -> None:
    """What the handlers did is logged here; kopf's own log of it, and that of each probe, say nothing more."""
    logging.getLogger("kopf").setLevel(logging.WARNING)
    logging.getLogger("kopf.objects").setLevel(logging.CRITICAL)
    logging.getLogger("aiohttp.access").setLevel(logging.WARNING)


class _Shell:
    """Around one call of a handler: logs what it did, and has kopf try again whatever went wrong."""

    def __init__(self, log: Logger, namespace: str | None, name: str) -> None:
        self._log = log
        self._fields: dict[str, object] = {"namespace": namespace, "storage": name}

    def __enter__(self) -> _Shell:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, KadaluExtError):
            self._log.warning("storage not reconciled", **self._fields, reason=str(error))
        elif isinstance(error, Exception):
            self._log.exception("reconciling crashed", **self._fields)
        else:
            return
        raise kopf.TemporaryError(str(error), delay=RETRY_S) from error

    def tell(self, actions: Sequence[Action]) -> None:
        """Logs what was done. Events are left out: the line of the status has what they tell."""
        for action in actions:
            if isinstance(action, PostEvent):
                continue
            fields = {**self._fields, "action": type(action).__name__}
            if isinstance(action, PatchStatus):
                ready = action.status["conditions"][-1]
                fields |= {key: ready[key] for key in ("type", "status", "reason", "message")}
            self._log.info("storage changed", **fields)
