"""kopf's part: to call the reconciler when a KadaluStorage changes, and at an interval. Nothing is decided here.

The handlers are plain functions, which kopf runs in its threads: as many storages as there are threads may be silent
at once before another one has to wait, and each is for seconds only.
"""

from __future__ import annotations

import threading
from typing import Any, Final

import kopf

from kadalu_ext.errors import KadaluExtError
from kadalu_ext.log import Logger
from kadalu_ext.operator.actions import Action, PatchStatus
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
        with locks.setdefault(uid, threading.Lock()):
            try:
                actions = reconciler.reconcile(str(namespace), name)
            except KadaluExtError as error:
                raise _again(log, namespace, name, error) from error
            _tell(log, namespace, name, actions)

    def remove(*, namespace: str | None, name: str, uid: str, **_: Any) -> None:
        with locks.setdefault(uid, threading.Lock()):
            try:
                actions, done = reconciler.remove(str(namespace), name)
            except KadaluExtError as error:
                raise _again(log, namespace, name, error) from error
            _tell(log, namespace, name, actions)
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


def _again(log: Logger, namespace: str | None, name: str, error: KadaluExtError) -> kopf.TemporaryError:
    log.warning("storage not reconciled", namespace=namespace, storage=name, reason=str(error))
    return kopf.TemporaryError(str(error), delay=RETRY_S)


def _tell(log: Logger, namespace: str | None, name: str, actions: list[Action]) -> None:
    for action in actions:
        fields: dict[str, object] = {"namespace": namespace, "storage": name, "action": type(action).__name__}
        if isinstance(action, PatchStatus):
            ready = action.status["conditions"][-1]
            fields |= {key: ready[key] for key in ("type", "status", "reason", "message")}
        log.info("storage changed", **fields)
