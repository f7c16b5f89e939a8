"""One KadaluStorage, once: look, think, do. It knows neither a thread nor a socket; both are given to it.

It is told that something may have changed, not what: each time it looks at everything again. So it may be stopped at
any step, and run anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Protocol

from kadalu_ext.errors import BusyError, ConflictError, InvalidInputError, KubernetesError, NotFoundError
from kadalu_ext.operator.actions import Action, Existing, PatchStatus, PostEvent, Problem, Resource, Usable
from kadalu_ext.operator.eventbudget import EventBudget
from kadalu_ext.operator.plan import accept, needs_files, needs_pvs, plan, plan_removal
from kadalu_ext.operator.pvs import Provisioned
from kadalu_ext.operator.reasons import Reason
from kadalu_ext.operator.render import FINALIZER
from kadalu_ext.operator.report import report
from kadalu_ext.operator.spec import StorageSpec, is_ours

if TYPE_CHECKING:
    from kadalu_ext.gluster.tls import Tls

_ATTEMPTS: Final = 3


class Cluster(Protocol):
    """What is needed of kube.Kube."""

    def resource(self, namespace: str, name: str) -> Resource | None: ...
    def existing(self, resource: Resource) -> Existing: ...
    def pvs_of(self, name: str) -> tuple[str, ...]: ...
    def tls(self, namespace: str, spec: StorageSpec) -> Tls | None: ...
    def files(self, name: str) -> Mapping[str, bytes]: ...
    def apply(self, action: Action) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Done:
    """What became of one look at a KadaluStorage.

    actions: what was done. gone: it is not there any more, or about to go. spec: what is asked for, if that is
    understood. outcome: what was found, if it was looked for. status: as it is now. provisioned: what is promised of
    it, if that is known. tls: what its cluster was spoken to with.
    """

    actions: tuple[Action, ...] = ()
    gone: bool = False
    spec: StorageSpec | None = None
    outcome: Usable | Problem | None = None
    status: Mapping[str, Any] = field(default_factory=dict)
    provisioned: Provisioned | None = None
    tls: Tls | None = None


class Reconciler:
    """Thread-safe; calls for one KadaluStorage should follow one another.

    observe: observe.Observer, or a fake of it. provisioned: what is promised of a storage, None if that is not known.
    may_write: whether this is the operator at work, asked before everything that is written.
    """

    def __init__(
        self,
        cluster: Cluster,
        observe: Callable[[StorageSpec, Tls | None], Usable | Problem],
        provisioned: Callable[[str], Provisioned | None] = lambda _: None,
        may_write: Callable[[], bool] = lambda: True,
    ) -> None:
        self._cluster = cluster
        self._observe = observe
        self._provisioned = provisioned
        self._may_write = may_write
        self._events = EventBudget()

    def reconcile(self, namespace: str, name: str) -> Done:
        """Brings the cluster to what the KadaluStorage asks for, and says in its status how that went.

        One that is being deleted is let go once its PVs are, and all that was made for it. Nothing is done for one that
        is another operator's.
        Raises: KubernetesError, ConflictError if the API server could not be made to take it; nothing is lost.
        """
        for _attempt in range(_ATTEMPTS):
            resource = self._cluster.resource(namespace, name)
            if resource is None or not is_ours(resource.spec):
                return Done(gone=True)
            with suppress(ConflictError):  # somebody else was first: look again
                return self._remove(resource) if resource.deleting else self._once(resource)
        raise ConflictError(f"KadaluStorage {namespace}/{name}: what it needs was changed by others {_ATTEMPTS} times")

    def _remove(self, resource: Resource) -> Done:
        if FINALIZER not in resource.finalizers:
            return Done(gone=True)
        existing = replace(
            self._cluster.existing(resource),
            pvs=self._cluster.pvs_of(resource.name),
            files=self._cluster.files(resource.name),
        )
        actions, gone = plan_removal(resource, existing, now=_now())
        self._apply(actions)
        return Done(actions=tuple(actions), gone=gone, status=_status(resource, actions))

    def _once(self, resource: Resource) -> Done:
        existing = self._cluster.existing(resource)
        accepted = accept(resource, existing)
        try:
            outcome, tls = (accepted, None) if isinstance(accepted, Problem) else self._look(resource, accepted)
            if needs_pvs(resource, outcome, existing):
                existing = replace(existing, pvs=self._cluster.pvs_of(resource.name))
            if needs_files(outcome, existing):
                existing = replace(existing, files=self._cluster.files(resource.name))
            existing = replace(existing, provisioned=self._provisioned(resource.name))
            files = {} if tls is None else tls.files
            actions = plan(resource, outcome, existing, now=_now(), files=files)
            self._apply(actions)
        except BusyError:
            raise
        except KubernetesError as error:
            # if the API server takes this: what it refused; if it takes nothing at all: the next time
            with suppress(KubernetesError, ConflictError):
                self._apply(report(resource, Problem.of(error), now=_now()))
            raise
        return Done(
            actions=tuple(actions),
            spec=None if isinstance(accepted, Problem) else accepted,
            outcome=outcome,
            status=_status(resource, actions),
            provisioned=existing.provisioned,
            tls=tls,
        )

    def _look(self, resource: Resource, spec: StorageSpec) -> tuple[Usable | Problem, Tls | None]:
        volume = spec.volume
        try:
            tls = self._cluster.tls(resource.namespace, spec)
        except NotFoundError as error:
            return Problem(reason=Reason.SECRET_NOT_FOUND, details=str(error), volume=volume), None
        except InvalidInputError as error:
            return Problem(reason=Reason.SECRET_UNUSABLE, details=str(error), volume=volume), None
        return self._observe(spec, tls), tls

    def _apply(self, actions: Iterable[Action]) -> None:
        for action in actions:
            if not self._may_write():
                raise KubernetesError("nothing is written: this operator has no Lease any more, and another one may")
            if not isinstance(action, PostEvent) or self._events.allows(action.manifest["involvedObject"]["uid"]):
                self._cluster.apply(action)


def _status(resource: Resource, actions: Iterable[Action]) -> Mapping[str, Any]:
    status = dict(resource.status)
    for action in actions:
        if isinstance(action, PatchStatus):
            status |= action.status
    return status


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
