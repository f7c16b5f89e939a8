"""All that is done on the bricks of one file system, by one thread: slices of work, and a crawl when it is asked for.

Whatever hangs in a system call on a brick hangs here, and keeps from its work nobody but the bricks beside it.
Nothing that is left in the middle needs cleaning up: it is begun again (plan.py).
"""

from __future__ import annotations

import os
import select
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from kadalu_ext.errors import QuotaError
from kadalu_ext.log import Logger
from kadalu_ext.quotad import scan
from kadalu_ext.quotad.bricks import Brick, Choice
from kadalu_ext.quotad.enforce import Enforcer, Outcome, Settling
from kadalu_ext.quotad.plan import Owner, State
from kadalu_ext.quotad.watch import Event, Watcher, What
from kadalu_ext.quotad.xfs import FileSystems

SLICE_S: Final = 0.02
"""How long one cycle works before it looks for events again."""
FIRST_RETRY_S: Final = 0.05
"""After this, then twice that and so on, what could not be done yet is tried again; from the crawl's interval on, by
the crawl."""
BATCH: Final = 64
"""How many enforced PVs the crawl looks at in one step: a few milliseconds."""
DEEP_S: Final = 0.5
"""For how long after a crawl trees are looked through whose top is as it should be; one that is begun is ended."""

_TRY_AGAIN: Final = frozenset({State.WAITING, State.UNENFORCED, State.FAILED})
_END: Final = object()
_log: Final = Logger(__name__)


@dataclass(frozen=True)
class _Retry:
    due: float
    delay_s: float


@dataclass(frozen=True, kw_only=True)
class _Orders:
    """What the next cycle takes up, whatever it is at."""

    bricks: tuple[Brick, ...] | None = None
    crawl: bool = False
    clear: bool = False


class Worker:
    """Made and told what to do by one thread; run by that one (`run_cycle`) or by one of its own (`start`).

    told: called, by whoever runs it, after each slice of work.
    """

    def __init__(self, systems: FileSystems, *, longest_retry_s: float, told: Callable[[], None]) -> None:
        self._systems = systems
        self._longest_retry_s = longest_retry_s
        self._told = told
        self._enforcer = Enforcer(systems)
        self._watcher = Watcher()
        self._all: tuple[Brick, ...] = ()
        self._bricks: dict[str, Brick] = {}
        self._in_use: set[str] = set()
        self._refused: dict[str, str] = {}
        self._outcomes: dict[Owner, Outcome] = {}
        self._states: Counter[State] = Counter()
        self._queue: dict[Owner, None] = {}
        self._jobs: dict[Owner, Settling] = {}
        self._again: set[Owner] = set()
        self._retries: dict[Owner, _Retry] = {}
        self._crawl: Iterator[None] | None = None
        self._deep: Iterator[None] | None = None
        self._deep_turn: list[Owner] = []
        self._deep_at: Owner | None = None
        self._clearable: tuple[Brick, ...] = ()
        self._unknown = False
        self._ready = False
        self._crawl_again = False
        self._lock = threading.Lock()
        self._orders = _Orders()
        self._ordered = self._taken = self._crawling = self._crawled = 0
        self._began: float | None = None
        self._stopping = False
        self._thread: threading.Thread | None = None
        self._wake, self._waker = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    # --- for who gives the orders ---

    def assign(self, bricks: tuple[Brick, ...], *, longest_retry_s: float) -> None:
        """These are the bricks of the file system from now on; they are looked through anew."""
        self._longest_retry_s = longest_retry_s
        self._ordered += 1
        self._order(_Orders(bricks=bricks, crawl=True))

    def clear(self) -> None:
        """Lifts limits without a record, as far as the last crawl has seen everything: nobody else's brick is
        missing."""
        self._order(_Orders(clear=True))

    def start(self) -> None:
        """Runs it in a thread of its own, until `stop`."""
        self._thread = threading.Thread(target=self._run, name="worker", daemon=True)
        self._thread.start()

    def stop(self, *, timeout_s: float) -> None:
        """Ends the thread after the slice at hand, and lets go of descriptors; one that hangs is left alone."""
        self._stopping = True
        os.write(self._waker, b"\0")
        if self._thread is not None:
            self._thread.join(timeout_s)
            if self._thread.is_alive():
                return
        self._crawl = self._deep = None
        for job in self._jobs.values():
            job.close()
        self._jobs.clear()
        self._watcher.close()
        os.close(self._wake)
        os.close(self._waker)

    def filenos(self) -> tuple[int, int]:
        """What to wait for, for who runs it."""
        return self._watcher.fileno(), self._wake

    def hangs_s(self, now: float) -> float:
        """For how many seconds the slice at hand has been at work; 0: it waits for something to do."""
        began = self._began
        return 0.0 if began is None else now - began

    @property
    def in_kernel(self) -> bool:
        """Whether its thread sleeps in a system call that not even a kill ends (proc(5), state D)."""
        try:
            with open(f"/proc/self/task/{self._thread.native_id if self._thread else 0}/stat") as file:
                return file.read().rpartition(") ")[2].startswith("D")
        except OSError:
            return False

    @property
    def busy(self) -> bool:
        """Whether something is at work or waits its turn; what is tried again later is not."""
        waits = self._queue or self._crawl_again or self._orders != _Orders()
        return bool(waits or self._jobs.keys() - {self._deep_at} or self._crawl is not None)

    @property
    def ready(self) -> bool:
        """Whether everything was looked through once."""
        return self._ready

    @property
    def sees_all(self) -> bool:
        """Whether the crawl that was ordered last is done and could look at every brick: none may be on another file
        system."""
        return self._crawled == self._ordered and not self._unknown

    @property
    def tagging(self) -> int:
        """How many records are at work."""
        return len(self._jobs.keys() - {self._deep_at})

    @property
    def in_use(self) -> frozenset[str]:
        """The bricks that are looked after, refused ones among them."""
        return frozenset(self._in_use.copy())

    @property
    def bricks(self) -> tuple[Brick, ...]:
        """All that were assigned."""
        return self._orders.bricks or self._all

    @property
    def outcomes(self) -> dict[Owner, Outcome]:
        return self._outcomes.copy()

    @property
    def states(self) -> Counter[State]:
        return self._states.copy()

    @property
    def refused(self) -> dict[str, str]:
        return self._refused.copy()

    def _order(self, orders: _Orders) -> None:
        with self._lock:
            waiting = self._orders
            self._orders = _Orders(
                bricks=waiting.bricks if orders.bricks is None else orders.bricks,
                crawl=waiting.crawl or orders.crawl,
                clear=waiting.clear or orders.clear,
            )
        os.write(self._waker, b"\0")

    # --- when ---

    def _run(self) -> None:
        while not self._stopping:
            poll = select.poll()
            for fd in self.filenos():
                poll.register(fd, select.POLLIN)
            poll.poll(None if (idle_s := self.idle_s()) is None else idle_s * 1000)
            self.run_cycle()

    def idle_s(self) -> float | None:
        """Until when nothing is to be done unless it is told something; None: for ever."""
        if self.busy or self._deep is not None:
            return 0.0
        due = min((retry.due for retry in self._retries.values()), default=None)
        return None if due is None else max(0.0, due - time.monotonic())

    def run_cycle(self) -> None:
        """Does a slice of what is to be done."""
        self._began = now = time.monotonic()
        try:
            os.read(self._wake, 4096)
        except BlockingIOError:
            pass
        self._take_orders()
        for event in self._watcher.read():
            self._heed(event)
        self._queue.update((owner, None) for owner, retry in self._retries.items() if retry.due <= now)
        if self._crawl is None and self._crawl_again:
            self._crawl, self._crawl_again, self._crawling = self._crawl_steps(), False, self._taken
        self._work(now + SLICE_S)
        self._began = None
        self._told()

    def _take_orders(self) -> None:
        with self._lock:
            orders, self._orders = self._orders, _Orders()
            self._taken = self._ordered
        if orders.bricks is not None:
            self._adopt(orders.bricks)
        self._crawl_again |= orders.crawl
        if orders.clear and self._crawl is None and not self._crawl_again:
            self._crawl = self._clear_steps()

    def _heed(self, event: Event) -> None:
        match event.what:
            case What.RECORD:
                owner = Owner(event.path, event.name)
                self._retries.pop(owner, None)
                self._queue[owner] = None
            case What.LOST:
                _log.warning("events lost, crawling")
                self._crawl_again = True
            case _:
                self._crawl_again = True

    def _work(self, until: float) -> None:
        # what just changed comes first; whatever takes long gets a step in each slice all the same
        while self._queue and time.monotonic() < until:
            self._begin(next(iter(self._queue)))
        while self._jobs or self._crawl is not None or self._deep is not None:
            for owner in list(self._jobs):
                self._advance(owner)
            if self._crawl is not None and next(self._crawl, _END) is _END:
                self._crawl, self._ready, self._crawled = None, True, self._crawling
                self._deep = self._deep or self._deep_steps()
            if self._deep is not None and next(self._deep, _END) is _END:
                self._deep = None
            if self._queue or time.monotonic() >= until:
                return

    # --- one record ---

    def _begin(self, owner: Owner) -> None:
        self._queue.pop(owner, None)
        brick = self._bricks.get(owner.brick)
        if brick is None or owner.brick in self._refused:
            self._retries.pop(owner, None)
        elif owner in self._jobs:
            self._again.add(owner)
        else:
            self._jobs[owner] = self._enforcer.settle(brick, owner.pv)
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
        if outcome is not None or owner != self._deep_at:
            self._settle_down(owner, outcome)
        if owner in self._again:
            self._again.discard(owner)
            self._queue[owner] = None

    def _settle_down(self, owner: Owner, outcome: Outcome | None) -> None:
        retry = self._retries.pop(owner, None)
        if outcome is not None and outcome.state in _TRY_AGAIN:
            delay = retry.delay_s * 2 if retry else FIRST_RETRY_S
            if delay < self._longest_retry_s:
                self._retries[owner] = _Retry(time.monotonic() + delay, delay)
        self._store(owner, outcome)

    def _store(self, owner: Owner, outcome: Outcome | None) -> None:
        before = self._forget(owner)
        if outcome is not None:
            self._outcomes[owner] = outcome
            self._states[outcome.state] += 1
        if outcome == before:
            return
        if outcome is None:
            _log.info("record gone, limit lifted", brick=owner.brick, pv=owner.pv)
            return
        fine = outcome.state in (State.ENFORCED, State.WAITING)
        # at a start most PVs are found as they should be: that is not worth a line each
        say = _log.warning if not fine else _log.info if outcome.acted else _log.debug
        say(
            "record settled", brick=owner.brick, pv=owner.pv, state=outcome.state, reason=outcome.reason,
            project_id=outcome.project_id, limit_bytes=outcome.limit_bytes,
        )  # fmt: skip

    def _forget(self, owner: Owner) -> Outcome | None:
        outcome = self._outcomes.pop(owner, None)
        if outcome is not None:
            self._states[outcome.state] -= 1
        return outcome

    # --- all of them ---

    def _deep_steps(self) -> Iterator[None]:
        # taken up by the next crawl where this one stops, until all have had their turn
        until = time.monotonic() + DEEP_S
        if not self._deep_turn:
            self._deep_turn = [owner for owner, outcome in self._outcomes.items() if outcome.state is State.ENFORCED]
        while self._deep_turn and time.monotonic() < until:
            owner = self._deep_turn.pop()
            brick = self._bricks.get(owner.brick)
            if brick is None or owner.brick in self._refused or self._is_at_work(owner):
                continue
            self._deep_at = owner
            self._jobs[owner] = self._enforcer.settle(brick, owner.pv, deep=True)
            while owner in self._jobs:
                yield
            self._deep_at = None

    def _adopt(self, bricks: tuple[Brick, ...]) -> None:
        self._all = bricks
        self._bricks = {brick.path: brick for brick in bricks if brick.choice is not Choice.LEFT_OUT}
        self._in_use &= set(self._bricks)
        for path in set(self._refused) - set(self._bricks):
            del self._refused[path]
        for owner in [owner for owner in self._outcomes if owner.brick not in self._bricks]:
            self._forget(owner)

    def _crawl_steps(self) -> Iterator[None]:
        # by device: a brick on it, or None if something on it could not be learnt; device None: not known which one
        devices: dict[int | None, Brick | None] = {}
        self._clearable = ()
        self._enforcer.end_sweep()
        self._enforcer.forget_bricks_but({brick.path for brick in self._all})
        for brick in self._all:
            yield from self._crawl_brick(brick, devices)
        self._unknown = None in devices
        self._clearable = tuple(filter(None, devices.values()))

    def _crawl_brick(self, brick: Brick, devices: dict[int | None, Brick | None]) -> Iterator[None]:
        served = brick.path in self._bricks and not brick.unsupported
        device: int | None = None
        # a brick that nobody named is nobody's as long as it holds no records: no reason to count it or to complain
        if brick.choice is Choice.NAMED or (brick.choice is Choice.IF_USED and scan.is_used(brick)):
            self._in_use.add(brick.path)
        else:
            self._in_use.discard(brick.path)
        try:
            with scan.open_brick(brick, self._systems, check=False) as opened:
                device = opened.device
                devices.setdefault(device, brick)
                self._systems.check(opened.root, brick.path)
                if served:
                    self._watch(brick, opened.root)
                names = scan.record_names(opened.root)
                lost = not names and scan.has_lost_records(opened.root)
                known = [] if lost else self._enforcer.known(opened)
                if served:
                    self._enforcer.sweep(opened)
                if not served:
                    self._enforcer.keep(opened, names)
        except (QuotaError, OSError) as error:
            devices[device] = None
            self._refuse(brick, str(error) if isinstance(error, QuotaError) else f"{brick.path}: {scan.reason(error)}")
            return
        if lost:
            devices[device] = None
        if not served:
            self._refuse(brick, brick.unsupported)
            return
        if self._refused.pop(brick.path, None):
            _log.info("brick accepted", brick=brick.path, volume=brick.volume)
        left = sorted({*names, *known})
        for start in range(0, len(left), BATCH):
            batch = left[start : start + BATCH]
            found = self._find_enforced(brick, batch)
            for name in batch:
                if name not in found:
                    self._begin(Owner(brick.path, name))
                    yield
            yield
        states = {name: outcome.state for name in names if (outcome := self._outcomes.get(Owner(brick.path, name)))}
        if State.FAILED in states.values() or not self._keep(brick, states):
            devices[device] = None

    def _find_enforced(self, brick: Brick, names: Sequence[str]) -> Collection[str]:
        """Those of `names` that need nothing. What is at work or waits its turn is left to that."""
        names = [name for name in names if not self._is_at_work(Owner(brick.path, name))]
        try:
            with scan.open_brick(brick, self._systems, check=False) as opened:
                found = self._enforcer.find_enforced(opened, names)
        except (QuotaError, OSError):
            return ()  # settling them tells why
        for name, outcome in found.items():
            owner = Owner(brick.path, name)
            self._retries.pop(owner, None)
            self._store(owner, outcome)
        return found

    def _is_at_work(self, owner: Owner) -> bool:
        return owner in self._jobs or owner in self._queue

    def _keep(self, brick: Brick, states: dict[str, State]) -> bool:
        """Whether it is certain that PVs whose record cannot be obeyed will keep what they have."""
        invalid = {name for name, state in states.items() if state is State.INVALID}
        if not invalid:
            return True
        try:
            with scan.open_brick(brick, self._systems, check=True) as opened:
                self._enforcer.keep(opened, invalid)
        except (QuotaError, OSError):
            return False
        return True

    def _clear_steps(self) -> Iterator[None]:
        for brick in self._clearable:
            gone = 0
            try:
                with scan.open_brick(brick, self._systems, check=True) as opened:
                    for project_id in self._enforcer.clear_orphans(opened):
                        gone += 1
                        _log.debug("limit without a record lifted", brick=brick.path, project_id=project_id)
                        yield
            except (QuotaError, OSError) as error:
                _log.error("cannot look for limits without a record", brick=brick.path, reason=str(error))
            if gone:
                _log.info("limits without a record lifted", brick=brick.path, count=gone)
        self._enforcer.end_sweep()

    def _watch(self, brick: Brick, root: int) -> None:
        try:
            self._watcher.watch_brick(brick.path, root)
        except OSError as error:
            _log.error("cannot watch a brick, crawling at the interval", brick=brick.path, reason=str(error))

    def _refuse(self, brick: Brick, reason: str) -> None:
        if brick.path not in self._in_use:
            return
        if self._refused.get(brick.path) != reason:
            _log.error("brick refused", brick=brick.path, volume=brick.volume, reason=reason)
        self._refused[brick.path] = reason
        for owner in [owner for owner in self._outcomes if owner.brick == brick.path]:
            self._forget(owner)
