"""One operator at a time: a Lease of coordination.k8s.io, taken and kept. I/O: through kube.

As client-go has it (tools/leaderelection): whoever holds the Lease renews it; another one takes it when it was not
renewed for its duration, by its own clock, so clocks need not agree. Unlike the Python client's own election, every
call here is bounded, an API server that is away is no crash, and a Lease that is no longer needed is given back.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from kadalu_ext.errors import ConflictError, KubernetesError

DURATION_S: Final = 15.0
"""Who has not renewed it for so long has lost it."""

RENEW_S: Final = 10.0
"""Who could not renew it for so long stops: safely before somebody else begins."""

RETRY_S: Final = 2.0
"""Whatever Retry-After says: who is not asked for the Lease in time has lost it, and a start costs more than a call."""


@dataclass(frozen=True, kw_only=True)
class LeaseState:
    """The Lease as the API server has it. version: None if it is not there yet. holder: '' if nobody has it."""

    version: str | None
    holder: str
    renewed: str


class Leases(Protocol):
    """What is needed of kube.Kube."""

    def lease(self) -> LeaseState: ...
    def write_lease(self, seen: LeaseState, *, holder: str, duration_s: int) -> None: ...


class Election:
    """`identity` is unique to this process. Used by one thread, but for `leading`."""

    def __init__(self, leases: Leases, identity: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._leases = leases
        self._identity = identity
        self._clock = clock
        self._seen: LeaseState | None = None
        self._seen_at = 0.0
        self._renewed_at = 0.0
        self._leads = False
        self.tried_at = clock()
        """When it last had an answer or an error: a thread that hangs would show here."""
        self.holder = ""
        """Who has it, as far as is known."""

    @property
    def leading(self) -> bool:
        """Whether the Lease is ours for certain at this moment: also while a call to renew it hangs. For any thread."""
        # nobody else can have taken it before its duration is over
        return self._leads and self._clock() - self._renewed_at < RENEW_S

    def campaign(self, stop: threading.Event) -> bool:
        """Waits until the Lease is ours; False if `stop` came first."""
        while not stop.is_set():
            if self.step():
                return True
            stop.wait(RETRY_S)
        return False

    def keep(self, stop: threading.Event) -> bool:
        """Renews the Lease until `stop` (True), or until it is lost (False)."""
        while not stop.wait(RETRY_S):
            self.step()
            if not self.leading:
                return False
        return True

    def step(self) -> bool:
        """Takes or renews the Lease, if it can be had. Whether it is ours now."""
        started = self._clock()
        try:
            self._leads = self._try(started)
        except ConflictError:
            self._leads = False  # somebody else wrote it at the same moment
        except KubernetesError:
            self._leads = self.leading
        self.tried_at = self._clock()
        return self.leading

    def resign(self) -> None:
        """Gives it back, so that the next one need not wait. Best effort."""
        if not self.leading:
            return
        self._leads = False
        try:
            seen = self._leases.lease()
            if seen.holder == self._identity:
                self._leases.write_lease(seen, holder="", duration_s=1)
        except (ConflictError, KubernetesError):
            pass

    def _try(self, started: float) -> bool:
        seen = self._leases.lease()
        if self._seen is None or (seen.holder, seen.renewed) != (self._seen.holder, self._seen.renewed):
            self._seen, self._seen_at = seen, started
        self.holder = seen.holder
        if seen.holder not in ("", self._identity) and started - self._seen_at < DURATION_S:
            return False
        self._leases.write_lease(seen, holder=self._identity, duration_s=int(DURATION_S))
        self._renewed_at, self.holder = started, self._identity
        return True
