"""The records of a worker's bricks: which wait their turn, which are at work, which are tried again, and what became
of each. Everything is done in steps of an inode at most, so that none delays the others.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from kadalu_ext.errors import QuotaError
from kadalu_ext.log import Logger
from kadalu_ext.quotad.enforce import Enforcer, Outcome, Settling
from kadalu_ext.quotad.plan import Owner, State
from kadalu_ext.quotad.share import Share
from kadalu_ext.record import CANARY

FIRST_RETRY_S: Final = 0.05
"""After this, then twice that and so on, what could not be done yet is tried again; from the crawl's interval on, by
the crawl."""
DEEP_S: Final = 0.5
"""For how long after a crawl trees are looked through whose top is as it should be; one that is begun is ended."""

FEW: Final = 4
"""So many PVs that are enforced at a time get a line of the journal each; more share one."""
NAMES_A_LINE: Final = 100
"""The journal breaks lines beyond 48 KiB (LineMax= in journald.conf(5)); a name has up to 200 bytes."""

_TRY_AGAIN: Final = frozenset({State.WAITING, State.UNENFORCED, State.FAILED})
_log: Final = Logger(__name__)


@dataclass(frozen=True)
class _Retry:
    due: float
    delay_s: float


class Records:
    """Changed by the worker alone; `outcomes` and `states` may be copied by anybody.

    longest_retry_s: from then on it is left to the crawl.
    """

    def __init__(self, share: Share, enforcer: Enforcer, *, longest_retry_s: float) -> None:
        self.outcomes: dict[Owner, Outcome] = {}
        self.states: Counter[State] = Counter()
        self.longest_retry_s = longest_retry_s
        self._share = share
        self._enforcer = enforcer
        self._queue: dict[Owner, None] = {}
        self._jobs: dict[Owner, Settling] = {}
        self._again: set[Owner] = set()
        self._retries: dict[Owner, _Retry] = {}
        self._enforced: list[tuple[Owner, Outcome]] = []
        self._deep_turn: list[Owner] = []
        self._deep_at: Owner | None = None

    @property
    def waiting(self) -> bool:
        """Whether one waits for its turn."""
        return bool(self._queue)

    @property
    def at_work(self) -> bool:
        """Whether there are steps to go."""
        return bool(self._jobs)

    @property
    def tagging(self) -> int:
        """How many are at work, but for what is looked through to be on the safe side."""
        return len(self._jobs.keys() - {self._deep_at})

    def has(self, owner: Owner) -> bool:
        """Whether it is at work or waits for its turn."""
        return owner in self._jobs or owner in self._queue

    def close(self) -> None:
        """Leaves what is at work where it is."""
        for job in self._jobs.values():
            job.close()
        self._jobs.clear()

    # --- when ---

    def changed(self, owner: Owner) -> None:
        """Something was heard of the record: it gets a turn."""
        self._retries.pop(owner, None)
        self._queue[owner] = None

    def retry_due(self) -> float | None:
        """When (time.monotonic) one is to be tried again; None: none is."""
        return min((retry.due for retry in self._retries.values()), default=None)

    def take_up_retries(self, now: float) -> None:
        """Those that are due get a turn."""
        self._queue.update((owner, None) for owner, retry in self._retries.items() if retry.due <= now)

    def begin_next(self) -> None:
        """The first step of the one that has waited longest."""
        self.begin(next(iter(self._queue)))

    # --- one ---

    def begin(self, owner: Owner) -> None:
        """Its first step; or, if it is at work already, it is begun anew after that."""
        self._queue.pop(owner, None)
        brick = self._share.get(owner.brick)
        if brick is None:
            self._retries.pop(owner, None)
        elif owner in self._jobs:
            self._again.add(owner)
        else:
            self._jobs[owner] = self._enforcer.settle(brick, owner.pv)
            self._advance(owner)

    def advance(self) -> None:
        """A step of each that is at work."""
        for owner in list(self._jobs):
            self._advance(owner)

    def _advance(self, owner: Owner) -> None:
        try:
            next(self._jobs[owner])
        except StopIteration as end:
            self._finish(owner, end.value)
        except QuotaError as error:
            self._finish(owner, Outcome(state=State.FAILED, reason=str(error)))
        except Exception as error:  # a mistake of ours in one record must not cost the others
            _log.exception("settling a record crashed", brick=owner.brick, pv=owner.pv)
            self._finish(owner, Outcome(state=State.FAILED, reason=f"kadalu-quotad: {error!r}; its journal has more"))

    def _finish(self, owner: Owner, outcome: Outcome | None) -> None:
        del self._jobs[owner]
        deep = owner == self._deep_at
        if deep:
            self._deep_at = None  # whatever is begun for this owner from now on is not that
        if outcome is not None or not deep:
            self._settle_down(owner, outcome)
        if owner in self._again:
            self._again.discard(owner)
            self._queue[owner] = None

    def _settle_down(self, owner: Owner, outcome: Outcome | None) -> None:
        retry = self._retries.pop(owner, None)
        if outcome is not None and outcome.state in _TRY_AGAIN:
            delay = retry.delay_s * 2 if retry else FIRST_RETRY_S
            if delay < self.longest_retry_s:
                self._retries[owner] = _Retry(time.monotonic() + delay, delay)
        self._store(owner, outcome)

    # --- what became of them ---

    def found_enforced(self, owner: Owner, outcome: Outcome) -> None:
        """It needs nothing."""
        self._retries.pop(owner, None)
        self._store(owner, outcome)

    def forget(self, which: Callable[[Owner], bool]) -> None:
        """Drops what became of these: nobody can tell any more."""
        for owner in [owner for owner in self.outcomes if which(owner)]:
            self._forget(owner)

    def _store(self, owner: Owner, outcome: Outcome | None) -> None:
        put_right = outcome is not None and outcome.state is State.ENFORCED and outcome.acted
        if outcome == self.outcomes.get(owner) and not put_right:
            return  # and what is known stays the same objects: at each crawl this is nearly all of them
        self._forget(owner)
        if outcome is None:
            _log.info("record gone, limit lifted", brick=owner.brick, pv=owner.pv)
            return
        self.outcomes[owner] = outcome
        self.states[outcome.state] += 1
        if put_right and owner.pv != CANARY:
            self._enforced.append((owner, outcome))
        else:
            # at a start most PVs are found as they should be, and the canary changes all the time: not worth a line
            self._say(owner, outcome, _log.debug if outcome.state in (State.ENFORCED, State.WAITING) else _log.warning)

    def report(self) -> None:
        """Tells the journal what was enforced since the last time."""
        enforced, self._enforced = self._enforced, []
        if len(enforced) <= FEW:
            for owner, outcome in enforced:
                self._say(owner, outcome, _log.info)
            return
        bricks: dict[str, list[str]] = {}
        for owner, _ in enforced:
            bricks.setdefault(owner.brick, []).append(owner.pv)
        for brick, pvs in bricks.items():
            for start in range(0, len(pvs), NAMES_A_LINE):
                some = pvs[start : start + NAMES_A_LINE]
                _log.info("records settled", brick=brick, state=State.ENFORCED, count=len(some), pvs=some)

    def _say(self, owner: Owner, outcome: Outcome, say: Callable[..., None]) -> None:
        say(
            "record settled", brick=owner.brick, pv=owner.pv, state=outcome.state, reason=outcome.reason,
            project_id=outcome.project_id, limit_bytes=outcome.limit_bytes,
        )  # fmt: skip

    def _forget(self, owner: Owner) -> None:
        outcome = self.outcomes.pop(owner, None)
        if outcome is not None:
            self.states[outcome.state] -= 1

    # --- to be on the safe side ---

    def deep_steps(self) -> Iterator[None]:
        """Looks through trees of enforced PVs, for DEEP_S; the next time goes on where this one stops, until all have
        had their turn."""
        until = time.monotonic() + DEEP_S
        if not self._deep_turn:
            self._deep_turn = [owner for owner, outcome in self.outcomes.items() if outcome.state is State.ENFORCED]
        while self._deep_turn and time.monotonic() < until:
            owner = self._deep_turn.pop()
            brick = self._share.get(owner.brick)
            if brick is None or self.has(owner):
                continue
            self._deep_at = owner
            self._jobs[owner] = self._enforcer.settle(brick, owner.pv, deep=True)
            while self._deep_at == owner:
                yield
