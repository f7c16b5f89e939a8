"""One KadaluStorage, once: look, think, do. It knows neither kopf nor a socket; both are given to it.

It is told that something may have changed, not what: each time it looks at everything again. So it may be stopped at
any step, and run anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final, Protocol

from kadalu_ext.errors import ConflictError, KubernetesError
from kadalu_ext.operator.actions import Action, Existing, Problem, Resource, Usable
from kadalu_ext.operator.plan import accept, needs_pvs, plan, plan_removal
from kadalu_ext.operator.report import report
from kadalu_ext.operator.spec import StorageSpec

_ATTEMPTS: Final = 3


class Cluster(Protocol):
    """What is needed of kube.Kube."""

    def resource(self, namespace: str, name: str) -> Resource | None: ...
    def existing(self, resource: Resource) -> Existing: ...
    def pvs_of(self, name: str) -> tuple[str, ...]: ...
    def apply(self, action: Action) -> None: ...


class Reconciler:
    """Thread-safe; calls for one KadaluStorage should follow one another, or events may come twice.

    observe: observe.observe, or a fake of it.
    """

    def __init__(self, cluster: Cluster, observe: Callable[[StorageSpec], Usable | Problem]) -> None:
        self._cluster = cluster
        self._observe = observe

    def reconcile(self, namespace: str, name: str) -> list[Action]:
        """Brings the cluster to what the KadaluStorage asks for, and says in its status how that went.

        Returns what was done. Nothing is done for one that is gone, or going (that is remove()).
        Raises: KubernetesError, ConflictError if the API server could not be made to take it; nothing is lost.
        """
        for _attempt in range(_ATTEMPTS):
            resource = self._cluster.resource(namespace, name)
            if resource is None or resource.deleting:
                return []
            with suppress(ConflictError):  # somebody else was first: look again
                return self._once(resource)
        raise ConflictError(f"KadaluStorage {namespace}/{name}: what it needs was changed by others {_ATTEMPTS} times")

    def remove(self, namespace: str, name: str) -> tuple[list[Action], bool]:
        """Takes back what was made for a KadaluStorage that is being deleted; True: it may go now.

        Returns what was done, too. Raises: KubernetesError, ConflictError.
        """
        resource = self._cluster.resource(namespace, name)
        if resource is None:
            return [], True
        existing = replace(self._cluster.existing(resource), pvs=self._cluster.pvs_of(name))
        actions, done = plan_removal(resource, existing, now=_now())
        self._apply(actions)
        return actions, done

    def _once(self, resource: Resource) -> list[Action]:
        existing = self._cluster.existing(resource)
        accepted = accept(resource, existing)
        outcome = accepted if isinstance(accepted, Problem) else self._observe(accepted)
        if needs_pvs(outcome, existing):
            existing = replace(existing, pvs=self._cluster.pvs_of(resource.name))
        actions = plan(resource, outcome, existing, now=_now())
        try:
            self._apply(actions)
        except KubernetesError as error:
            # if the API server takes this: what it refused; if it takes nothing at all: the next time
            with suppress(KubernetesError, ConflictError):
                self._apply(report(resource, Problem.of(error), now=_now()))
            raise
        return actions

    def _apply(self, actions: Iterable[Action]) -> None:
        for action in actions:
            self._cluster.apply(action)


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
