"""The one that tells the workers what to do: which bricks there are and when to look through them; and tells systemd.

Events are for speed; a crawl at the start, when events were lost, when something was mounted or unmounted, and at an
interval, is for truth. What is done on bricks is worker.py's: one for each file system, so that one that hangs delays
no other. Nothing here touches a brick.
"""

from __future__ import annotations

import math
import os
import select
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from typing import Final

from kadalu_ext import mountinfo
from kadalu_ext.errors import InvalidInputError
from kadalu_ext.log import Logger
from kadalu_ext.quotad.bricks import Brick, read_inventory
from kadalu_ext.quotad.config import Config
from kadalu_ext.quotad.enforce import Outcome
from kadalu_ext.quotad.plan import Owner, State
from kadalu_ext.quotad.systemd import Notifier
from kadalu_ext.quotad.watch import Watcher, What
from kadalu_ext.quotad.worker import Worker
from kadalu_ext.quotad.xfs import FileSystems

SETTLE_S: Final = 0.1
"""How long glusterd's files, or the mounts, are left to settle after one of them changed: it is rarely one."""
HANG_S: Final = 10.0
"""A slice of work that takes longer hangs."""
LOOK_AGAIN_S: Final = 1.0
"""How long after something happened there may be more that nobody tells (worker.TELL_S), and how often it is passed
on to systemd."""
STOP_S: Final = 2.0
"""How long a worker is waited for at the end."""

HANGS: Final = "a system call on its file system does not come back: see dmesg for the reason"
_log: Final = Logger(__name__)


class Daemon:
    """Made and run in one thread; `stop` and `reload` may be called from a signal handler, the properties from
    anywhere.

    reread: the configuration as it is now; it raises InvalidInputError if it cannot be used.
    """

    def __init__(
        self, config: Config, *, systems: FileSystems, notifier: Notifier, reread: Callable[[], Config] | None = None
    ) -> None:
        self._config = config
        self._reread = reread
        self._systems = systems
        self._notifier = notifier
        self._watcher = Watcher()
        self._mounts = os.open(mountinfo.MOUNTINFO, os.O_RDONLY | os.O_CLOEXEC)
        self._bricks: tuple[Brick, ...] = ()
        self._complete = False
        self._problems: tuple[str, ...] = ()
        self._workers: dict[int | None, Worker] = {}
        self._places: dict[str, tuple[int, ...]] = {}
        self._hung: dict[str, str] = {}
        self._threads = False
        self._survey_due = time.monotonic()
        self._surveyed = False
        self._cleared = False
        self._ready = False
        self._stopping = False
        self._reloading = False
        self._told_ready = False
        self._told_at = 0.0
        self._look_again_at = math.inf
        self._wake, self._waker = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def run(self) -> None:
        """Cycles until `stop`, the workers in threads of their own."""
        _log.info("started", glusterd_dir=self._config.glusterd_dir, crawl_interval_s=self._config.crawl_interval_s)
        self._threads = True
        try:
            while not self._stopping:
                self.run_cycle()
        finally:
            self._notifier.send("STOPPING=1")
            self.close()
        _log.info("stopped")

    def stop(self) -> None:
        """Ends `run` after the slices at hand. The limits stay in force: they are the kernel's."""
        self._stopping = True
        self._nudge()

    def reload(self) -> None:
        """Takes the configuration as it is now; one that cannot be used changes nothing."""
        self._reloading = True
        self._nudge()

    def close(self) -> None:
        """Lets go of descriptors; what is under way is left as it is."""
        for worker in self._workers.values():
            worker.stop(timeout_s=STOP_S)
        self._watcher.close()
        os.close(self._mounts)
        # a worker that hangs may still nudge: the pipe is left to the end of the process
        if not self._hung:
            os.close(self._wake)
            os.close(self._waker)

    def run_cycle(self, *, patience_s: float | None = None) -> None:
        """Waits until there is something to do, `patience_s` at most, and does a slice of it."""
        idle_s = self._idle_s()
        self._wait(idle_s if patience_s is None else min(idle_s, patience_s))
        now = time.monotonic()
        for event in self._watcher.read():
            self._survey_due = min(self._survey_due, now if event.what is What.LOST else now + SETTLE_S)
        if self._reloading:
            self._take_configuration(now)
        if self._survey_due <= now:
            self._survey_due = now + self._config.crawl_interval_s
            self._survey()
        if not self._threads:
            for worker in self._workers.values():
                worker.run_cycle()
        self._look_after_workers()
        self._tell()

    def crawl(self) -> None:
        """Looks through everything once, now, and returns when all of it is settled that can be."""
        self._survey_due = time.monotonic()
        self.run_cycle(patience_s=0)
        while self.busy:
            self.run_cycle()

    @property
    def busy(self) -> bool:
        """Whether something is at work or waits its turn; what is tried again later is not."""
        return not self._surveyed or any(worker.busy for worker in self._workers.values())

    @property
    def settled(self) -> int:
        """Of how many records it is known what became of them."""
        return sum(worker.states.total() for worker in self._workers.copy().values())

    @property
    def ready(self) -> bool:
        """Whether everything was looked through once, but what hangs."""
        return self._ready

    @property
    def outcomes(self) -> dict[Owner, Outcome]:
        """What is known to have become of each record; nothing of those on bricks that hang."""
        found: dict[Owner, Outcome] = {}
        for worker in self._workers.copy().values():
            found.update(worker.outcomes)
        hung = self._hung
        return {owner: outcome for owner, outcome in found.items() if owner.brick not in hung} if hung else found

    @property
    def refused(self) -> dict[str, str]:
        """The bricks that cannot enforce, by path, and why."""
        found: dict[str, str] = {}
        for worker in self._workers.copy().values():
            found.update(worker.refused)
        return {**found, **self._hung}

    @property
    def hung(self) -> dict[str, str]:
        """Those of the refused bricks whose file system answers nobody: to look at one is to hang as well."""
        return dict(self._hung)

    @property
    def heal_pending(self) -> dict[str, int]:
        """How many files and directories waited for self-heal at the last crawl, by brick; heal.MAX_ENTRIES stands for
        more as well."""
        hung = self._hung
        found = {path: count for worker in self._workers.copy().values() for path, count in worker.heal_pending.items()}
        return {path: count for path, count in found.items() if path not in hung}

    @property
    def bricks(self) -> tuple[Brick, ...]:
        """The bricks that are looked after, refused ones among them."""
        in_use = {path for worker in self._workers.copy().values() for path in worker.in_use}
        return tuple(sorted((brick for brick in self._bricks if brick.path in in_use), key=lambda brick: brick.path))

    @property
    def problems(self) -> tuple[str, ...]:
        """What of glusterd's files was not understood."""
        return self._problems

    # --- when ---

    def _take_configuration(self, now: float) -> None:
        self._reloading = False
        try:
            self._config = self._reread() if self._reread else self._config
        except InvalidInputError as error:
            _log.error("configuration refused, the one before stays", reason=str(error))
            return
        self._survey_due = now
        _log.info("configuration taken", **asdict(self._config))

    def _idle_s(self) -> float:
        now = time.monotonic()
        due = min(self._survey_due, self._look_again_at)
        if self._notifier.watchdog_s is not None:
            due = min(due, self._told_at + self._notifier.watchdog_s / 2)
        if self._threads:
            if any(worker.busy or worker.hangs_s(now) for worker in self._workers.values()):
                due = min(due, now + LOOK_AGAIN_S)  # to see one that hangs, and to tell how far it is
        else:
            waits = [idle_s for worker in self._workers.values() if (idle_s := worker.idle_s()) is not None]
            due = min([due, *(now + idle_s for idle_s in waits)])
        return max(0.0, due - now)

    def _wait(self, seconds: float) -> None:
        poll = select.poll()
        poll.register(self._watcher.fileno(), select.POLLIN)
        poll.register(self._wake, select.POLLIN)
        poll.register(self._mounts, select.POLLPRI)
        for worker in () if self._threads else self._workers.values():
            for fd in worker.filenos():
                poll.register(fd, select.POLLIN)
        for fd, _ in poll.poll(seconds * 1000):
            if fd == self._wake:
                os.read(self._wake, 4096)
                self._look_again_at = time.monotonic() + LOOK_AGAIN_S
            elif fd == self._mounts and self._find_places() != self._places:
                self._survey_due = min(self._survey_due, time.monotonic() + SETTLE_S)

    def _nudge(self) -> None:
        try:
            os.write(self._waker, b"\0")
        except BlockingIOError:
            pass  # it is nudged enough

    # --- the workers ---

    def _survey(self) -> None:
        """Which bricks there are, on which file systems; all are looked through."""
        # first the watch, then the look: whatever changes in between is seen twice rather than never
        try:
            self._watcher.watch_glusterd(self._config.glusterd_dir)
        except OSError as error:
            _log.error("cannot watch glusterd's files, crawling at the interval", reason=str(error))
        inventory = read_inventory(self._config.glusterd_dir)
        for problem in sorted(set(inventory.problems) - set(self._problems)):
            _log.error("volumes not understood", reason=problem)
        self._problems = inventory.problems
        if not inventory.complete:
            # what cannot be read keeps its place: its records still hold their projects
            known = {brick.path for brick in inventory.bricks}
            self._bricks = (*inventory.bricks, *(brick for brick in self._bricks if brick.path not in known))
        else:
            self._bricks = inventory.bricks
        self._complete = inventory.complete
        self._places = self._find_places()
        shares: dict[int | None, list[Brick]] = {device: [] for device in self._workers}
        for brick in self._bricks:
            place = self._places[brick.path]
            shares.setdefault(place[0] if place else None, []).append(brick)
        for device, bricks in shares.items():
            if device not in self._workers:
                self._workers[device] = self._make_worker()
            self._workers[device].assign(tuple(bricks), longest_retry_s=self._config.crawl_interval_s)
        self._surveyed, self._cleared = True, False

    def _make_worker(self) -> Worker:
        worker = Worker(self._systems, longest_retry_s=self._config.crawl_interval_s, told=self._nudge)
        if self._threads:
            worker.start()
        return worker

    def _find_places(self) -> dict[str, tuple[int, ...]]:
        places = self._systems.places([brick.path for brick in self._bricks])
        return {brick.path: places.get(brick.path, ()) for brick in self._bricks}

    def _look_after_workers(self) -> None:
        now, hung = time.monotonic(), dict[str, str]()
        for worker in self._workers.values():
            if self._threads and worker.hangs_s(now) > HANG_S:
                hung.update((brick.path, f"{brick.path}: {HANGS}") for brick in worker.bricks)
        for path in sorted(set(hung) - set(self._hung)):
            _log.error("brick hangs", brick=path, reason=hung[path])
        for path in sorted(set(self._hung) - set(hung)):
            _log.info("brick answers again", brick=path)
        self._hung = hung
        workers = self._workers.values()
        if self._surveyed and not self._ready:
            self._ready = all(worker.ready or worker.hangs_s(now) > HANG_S for worker in workers)
        # a brick that nobody could look at may be on any file system, and a limit there be one of its PVs'
        if self._complete and not self._cleared and all(worker.sees_all for worker in workers):
            self._cleared = True
            for worker in workers:
                worker.clear()

    # --- telling systemd ---

    def _tell(self) -> None:
        now, ready = time.monotonic(), self._ready
        pause = min(LOOK_AGAIN_S, (self._notifier.watchdog_s or math.inf) / 2)
        if self._look_again_at <= now:
            self._look_again_at = math.inf
        if ready == self._told_ready and now < self._told_at + pause:
            self._look_again_at = min(self._look_again_at, self._told_at + pause)
            return
        # until then systemd counts how long the start takes; a first crawl takes as long as there are PVs
        start = "READY=1" if ready else "EXTEND_TIMEOUT_USEC=30000000"
        self._notifier.send(f"STATUS={self._status()}", *(["WATCHDOG=1"] if self._progresses(now) else []), start)
        self._told_ready, self._told_at = ready, now

    def _progresses(self, now: float) -> bool:
        """Whether every worker does. One that the kernel holds no kill would help, and its neighbours would pay."""
        return all(worker.hangs_s(now) <= HANG_S or worker.in_kernel for worker in self._workers.values())

    def _status(self) -> str:
        workers, refused = self._workers.values(), self.refused
        states: Counter[State] = Counter()
        for worker in workers:
            states.update(worker.states)
        enforced, in_use = states[State.ENFORCED], sum(len(worker.in_use) for worker in workers)
        parts = [_count(max(0, in_use - len(refused)), "brick"), f"{_count(enforced, 'PV')} enforced"]
        if others := states.total() - enforced:
            parts.append(f"{others} not")
        if tagging := sum(worker.tagging for worker in workers):
            parts.append(f"{tagging} being tagged")
        if refused:
            parts.append(f"{_count(len(refused), 'brick')} refused: {next(iter(refused.values()))}")
        return ", ".join(parts).replace("\n", " ")


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
