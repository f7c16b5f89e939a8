"""All that is done on the bricks of one file system, by one thread: slices of work, and a crawl when it is asked for.

Whatever hangs in a system call on a brick hangs here, and keeps from its work nobody but the bricks beside it.
Nothing that is left in the middle needs cleaning up: it is begun again (plan.py). One record is records.py's, all of
them crawl.py's.
"""

from __future__ import annotations

import os
import select
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from kadalu_ext.log import Logger
from kadalu_ext.quotad.bricks import Brick
from kadalu_ext.quotad.crawl import Crawler
from kadalu_ext.quotad.enforce import Enforcer, Outcome
from kadalu_ext.quotad.plan import Owner, State
from kadalu_ext.quotad.records import Records
from kadalu_ext.quotad.share import Share
from kadalu_ext.quotad.watch import Event, Watcher, What
from kadalu_ext.quotad.xfs import FileSystems

SLICE_S: Final = 0.02
"""How long one cycle works before it looks for events again."""

TELL_S: Final = 0.5
"""How often it tells that something happened, but for what is waited for."""

_END: Final = object()
_log: Final = Logger(__name__)


@dataclass(frozen=True, kw_only=True)
class _Orders:
    """What the next cycle takes up, whatever it is at."""

    bricks: tuple[Brick, ...] | None = None
    crawl: bool = False
    clear: bool = False


class Worker:
    """Made and told what to do by one thread; run by that one (`run_cycle`) or by one of its own (`start`).

    told: called, by whoever runs it, when everything was looked through, and every TELL_S while it has something to do.
    What happens within that time after a call is told by nobody: look again then.
    """

    def __init__(self, systems: FileSystems, *, longest_retry_s: float, told: Callable[[], None]) -> None:
        self._told = told
        self._watcher = Watcher()
        self._enforcer = Enforcer(systems)
        self._share = Share()
        self._records = Records(self._share, self._enforcer, longest_retry_s=longest_retry_s)
        self._crawler = Crawler(
            self._share, self._records, systems=systems, enforcer=self._enforcer, watcher=self._watcher
        )
        self._crawl: Iterator[None] | None = None
        self._deep: Iterator[None] | None = None
        self._ready = False
        self._told_at = 0.0
        self._told_news = (False, False)
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
        self._records.longest_retry_s = longest_retry_s
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
        self._records.close()
        self._enforcer.let_go()
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
        waits = self._records.waiting or self._crawl_again or self._orders != _Orders()
        return bool(waits or self._records.tagging or self._crawl is not None)

    @property
    def ready(self) -> bool:
        """Whether everything was looked through once."""
        return self._ready

    @property
    def sees_all(self) -> bool:
        """Whether the crawl that was ordered last is done and could look at every brick: none may be on another file
        system."""
        return self._crawled == self._ordered and not self._crawler.unknown

    @property
    def tagging(self) -> int:
        """How many records are at work."""
        return self._records.tagging

    @property
    def in_use(self) -> frozenset[str]:
        """The bricks that are looked after, refused ones among them."""
        return frozenset(self._share.in_use.copy())

    @property
    def bricks(self) -> tuple[Brick, ...]:
        """All that were assigned."""
        return self._orders.bricks or self._share.all

    @property
    def outcomes(self) -> dict[Owner, Outcome]:
        return self._records.outcomes.copy()

    @property
    def states(self) -> Counter[State]:
        return self._records.states.copy()

    @property
    def refused(self) -> dict[str, str]:
        return self._share.refused.copy()

    @property
    def heal_pending(self) -> dict[str, int]:
        return self._share.heal_pending.copy()

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
        due = self._records.retry_due()
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
        self._records.take_up_retries(now)
        if self._crawl is None and self._crawl_again:
            self._crawl, self._crawl_again, self._crawling = self._crawler.steps(), False, self._taken
        if self.busy and now - self._told_at >= TELL_S:
            # before it begins, so that somebody watches if it hangs
            self._told_at = now
            self._told()
        self._work(now + SLICE_S)
        self._enforcer.let_go()
        self._records.report()
        self._began = None
        news = (self._ready, self.sees_all)
        if news != self._told_news or now - self._told_at >= TELL_S:
            self._told_news, self._told_at = news, now
            self._told()

    def _take_orders(self) -> None:
        with self._lock:
            orders, self._orders = self._orders, _Orders()
            self._taken = self._ordered
        if orders.bricks is not None:
            self._share.adopt(orders.bricks)
            self._records.forget(lambda owner: not self._share.serves(owner.brick))
        self._crawl_again |= orders.crawl
        if orders.clear and self._crawl is None and not self._crawl_again:
            self._crawl = self._crawler.clear_steps()

    def _heed(self, event: Event) -> None:
        match event.what:
            case What.RECORD:
                self._records.changed(Owner(event.path, event.name))
            case What.LOST:
                _log.warning("events lost, crawling")
                self._crawl_again = True
            case _:
                self._crawl_again = True

    def _work(self, until: float) -> None:
        # what just changed comes first; whatever takes long gets a step in each slice all the same
        while self._records.waiting and time.monotonic() < until:
            self._records.begin_next()
        while self._records.at_work or self._crawl is not None or self._deep is not None:
            self._records.advance()
            if self._crawl is not None and next(self._crawl, _END) is _END:
                self._crawl, self._ready, self._crawled = None, True, self._crawling
                self._deep = self._deep or self._records.deep_steps()
            if self._deep is not None and next(self._deep, _END) is _END:
                self._deep = None
            if self._records.waiting or time.monotonic() >= until:
                return
