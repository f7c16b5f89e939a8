"""The loop: events for speed, a crawl at the start, when events were lost, and at an interval for truth.

`run_cycle` waits until there is something to do and does a slice of it, so that a tree of a million files delays no
new record, the watchdog is told of progress and not of waiting, and SIGTERM is obeyed within a slice. Nothing that is
left in the middle needs cleaning up: it is begun again (plan.py).
"""

from __future__ import annotations

import os
import select
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Final

from kadalu_ext.errors import InvalidInputError, QuotaError
from kadalu_ext.log import Logger
from kadalu_ext.quotad import scan
from kadalu_ext.quotad.bricks import Brick, Choice, read_inventory
from kadalu_ext.quotad.config import Config
from kadalu_ext.quotad.enforce import Enforcer, Outcome, Settling
from kadalu_ext.quotad.plan import Owner, State
from kadalu_ext.quotad.systemd import Notifier
from kadalu_ext.quotad.watch import Event, Watcher, What
from kadalu_ext.quotad.xfs import FileSystems

SLICE_S: Final = 0.02
"""How long one cycle works before it looks for events again."""
FIRST_RETRY_S: Final = 0.05
"""After this, then twice that and so on, what could not be done yet is tried again; from the crawl's interval on, by
the crawl."""
SETTLE_S: Final = 0.1
"""How long glusterd's files are left to settle after one of them changed: it writes several."""

BATCH: Final = 64
"""How many enforced PVs the crawl looks at in one step: a few milliseconds."""

_TRY_AGAIN: Final = frozenset({State.WAITING, State.UNENFORCED, State.FAILED})
_END: Final = object()
_log: Final = Logger(__name__)


@dataclass(frozen=True)
class _Retry:
    due: float
    delay_s: float


class Daemon:
    """Made and run in one thread; `stop` and `reload` may be called from a signal handler.

    reread: the configuration as it is now; it raises InvalidInputError if it cannot be used.
    """

    def __init__(
        self, config: Config, *, systems: FileSystems, notifier: Notifier, reread: Callable[[], Config] | None = None
    ) -> None:
        self._config = config
        self._reread = reread
        self._systems = systems
        self._notifier = notifier
        self._enforcer = Enforcer(systems)
        self._watcher = Watcher()
        self._bricks: dict[str, Brick] = {}
        self._problems: tuple[str, ...] = ()
        self._in_use: set[str] = set()
        self._refused: dict[str, str] = {}
        self._outcomes: dict[Owner, Outcome] = {}
        self._states: Counter[State] = Counter()
        self._queue: dict[Owner, None] = {}
        self._jobs: dict[Owner, Settling] = {}
        self._again: set[Owner] = set()
        self._retries: dict[Owner, _Retry] = {}
        self._crawl: Iterator[None] | None = None
        self._crawl_due = time.monotonic()
        self._ready = False
        self._stopping = False
        self._reloading = False
        self._told = (False, "")
        self._told_at = 0.0
        self._wake, self._waker = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def run(self) -> None:
        """Cycles until `stop`."""
        _log.info("started", glusterd_dir=self._config.glusterd_dir, crawl_interval_s=self._config.crawl_interval_s)
        try:
            while not self._stopping:
                self.run_cycle()
        finally:
            self._notifier.send("STOPPING=1")
            self.close()
        _log.info("stopped")

    def stop(self) -> None:
        """Ends `run` after the slice at hand. The limits stay in force: they are the kernel's."""
        self._stopping = True
        os.write(self._waker, b"\0")

    def reload(self) -> None:
        """Takes the configuration as it is now, after the slice at hand; one that cannot be used changes nothing."""
        self._reloading = True
        os.write(self._waker, b"\0")

    def close(self) -> None:
        """Lets go of descriptors; what is under way is left as it is."""
        self._crawl = None
        for job in self._jobs.values():
            job.close()
        self._jobs.clear()
        self._watcher.close()
        os.close(self._wake)
        os.close(self._waker)

    def run_cycle(self, *, patience_s: float | None = None) -> None:
        """Waits until there is something to do, `patience_s` at most, and does a slice of it."""
        idle_s = self._idle_s()
        self._wait(idle_s if patience_s is None else min(idle_s, patience_s))
        for event in self._watcher.read():
            self._heed(event)
        if self._reloading:
            self._take_configuration()
        now = time.monotonic()
        self._queue.update((owner, None) for owner, retry in self._retries.items() if retry.due <= now)
        if self._crawl is None and self._crawl_due <= now:
            self._crawl_due = now + self._config.crawl_interval_s
            self._crawl = self._crawl_steps()
        self._work(now + SLICE_S)
        self._tell()

    def crawl(self) -> None:
        """Looks through everything once, now, and returns when all of it is settled that can be."""
        self._ready, self._crawl, self._crawl_due = False, None, time.monotonic()
        while not self._ready or self.busy:
            self.run_cycle()

    @property
    def busy(self) -> bool:
        """Whether something is at work or waits its turn; what is tried again later is not."""
        return bool(self._queue or self._jobs or self._crawl is not None)

    @property
    def settled(self) -> int:
        """Of how many records it is known what became of them."""
        return len(self._outcomes)

    @property
    def ready(self) -> bool:
        """Whether everything was looked through once."""
        return self._ready

    @property
    def outcomes(self) -> dict[Owner, Outcome]:
        """What is known to have become of each record."""
        return dict(self._outcomes)

    @property
    def refused(self) -> dict[str, str]:
        """The bricks that cannot enforce, by path, and why."""
        return dict(self._refused)

    @property
    def bricks(self) -> tuple[Brick, ...]:
        """The bricks that are looked after, refused ones among them."""
        return tuple(brick for path in sorted(self._in_use) if (brick := self._bricks.get(path)))

    @property
    def problems(self) -> tuple[str, ...]:
        """What of glusterd's files was not understood."""
        return self._problems

    # --- when ---

    def _take_configuration(self) -> None:
        self._reloading = False
        os.read(self._wake, 4096)
        try:
            self._config = self._reread() if self._reread else self._config
        except InvalidInputError as error:
            _log.error("configuration refused, the one before stays", reason=str(error))
            return
        self._crawl_due = time.monotonic()
        _log.info("configuration taken", **asdict(self._config))

    def _idle_s(self) -> float:
        if self.busy:
            return 0.0
        due = min([self._crawl_due, *(retry.due for retry in self._retries.values())])
        if self._notifier.watchdog_s is not None:
            due = min(due, self._told_at + self._notifier.watchdog_s / 2)
        return max(0.0, due - time.monotonic())

    def _wait(self, seconds: float) -> None:
        poll = select.poll()
        poll.register(self._watcher.fileno(), select.POLLIN)
        poll.register(self._wake, select.POLLIN)
        poll.poll(seconds * 1000)

    def _heed(self, event: Event) -> None:
        now = time.monotonic()
        match event.what:
            case What.RECORD:
                owner = Owner(event.path, event.name)
                self._retries.pop(owner, None)
                self._queue[owner] = None
            case What.VOLUMES:
                self._crawl_due = min(self._crawl_due, now + SETTLE_S)
            case What.LOST:
                _log.warning("events lost, crawling")
                self._crawl_due = now
            case What.BRICK:
                self._crawl_due = now

    def _work(self, until: float) -> None:
        # what just changed comes first; whatever takes long gets a step in each slice all the same
        while self._queue and time.monotonic() < until:
            self._begin(next(iter(self._queue)))
        while self._jobs or self._crawl is not None:
            for owner in list(self._jobs):
                self._advance(owner)
            if self._crawl is not None and next(self._crawl, _END) is _END:
                self._crawl = None
                self._ready = True
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
        retry = self._retries.pop(owner, None)
        if outcome is not None and outcome.state in _TRY_AGAIN:
            delay = retry.delay_s * 2 if retry else FIRST_RETRY_S
            if delay < self._config.crawl_interval_s:
                self._retries[owner] = _Retry(time.monotonic() + delay, delay)
        self._store(owner, outcome)
        if owner in self._again:
            self._again.discard(owner)
            self._queue[owner] = None

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

    def _crawl_steps(self) -> Iterator[None]:
        # first the watch, then the look: whatever changes in between is seen twice rather than never
        try:
            self._watcher.watch_glusterd(self._config.glusterd_dir)
        except OSError as error:
            _log.error("cannot watch glusterd's files, crawling at the interval", reason=str(error))
        inventory = read_inventory(self._config.glusterd_dir)
        for problem in sorted(set(inventory.problems) - set(self._problems)):
            _log.error("volumes not understood", reason=problem)
        self._problems = inventory.problems
        self._bricks = {brick.path: brick for brick in inventory.bricks if brick.choice is not Choice.LEFT_OUT}
        paths = {brick.path for brick in inventory.bricks}
        if inventory.complete:
            self._enforcer.forget_bricks_but(paths)
        self._in_use &= set(self._bricks)
        for path in set(self._refused) - set(self._bricks):
            del self._refused[path]
        for owner in [owner for owner in self._outcomes if owner.brick not in self._bricks]:
            self._forget(owner)
        # by device: a brick on it, or None if something on it could not be learnt; device None: not known which one
        devices: dict[int | None, Brick | None] = {}
        self._enforcer.end_sweep()
        for brick in inventory.bricks:
            yield from self._crawl_brick(brick, devices)
        if inventory.complete and None not in devices:
            for brick in filter(None, devices.values()):
                self._clear_orphans(brick)
                yield
        self._enforcer.end_sweep()

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

    def _clear_orphans(self, brick: Brick) -> None:
        try:
            with scan.open_brick(brick, self._systems, check=True) as opened:
                gone = self._enforcer.clear_orphans(opened)
        except (QuotaError, OSError) as error:
            _log.error("cannot look for limits without a record", brick=brick.path, reason=str(error))
            return
        if gone:
            _log.info("limits without a record lifted", brick=brick.path, project_ids=gone)

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

    # --- telling systemd ---

    def _tell(self) -> None:
        now, news = time.monotonic(), (self._ready, self._status())
        pause = min(1.0, (self._notifier.watchdog_s or 2.0) / 2)
        if news == self._told and now - self._told_at < pause:
            return
        # until then systemd counts how long the start takes; a first crawl takes as long as there are PVs
        start = "READY=1" if self._ready else "EXTEND_TIMEOUT_USEC=30000000"
        self._notifier.send(f"STATUS={news[1]}", "WATCHDOG=1", start)
        self._told, self._told_at = news, now

    def _status(self) -> str:
        enforced = self._states[State.ENFORCED]
        parts = [_count(len(self._in_use) - len(self._refused), "brick"), f"{_count(enforced, 'PV')} enforced"]
        if others := self._states.total() - enforced:
            parts.append(f"{others} not")
        if self._jobs:
            parts.append(f"{len(self._jobs)} being tagged")
        if self._refused:
            parts.append(f"{_count(len(self._refused), 'brick')} refused: {next(iter(self._refused.values()))}")
        return ", ".join(parts).replace("\n", " ")


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
