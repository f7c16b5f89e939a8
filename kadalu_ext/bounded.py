"""Calls that may hang in the kernel when a server is silent, made in a thread that can be left behind."""

from __future__ import annotations

import concurrent.futures
import threading
import time
from collections.abc import Callable, Hashable
from typing import TypeVar

from kadalu_ext.errors import DeadlineError, InProgressError

T = TypeVar("T")


class SideThreads:
    """One call at a time for each key, each in a thread of its own.

    A key stays taken until its *work* ends, not until whoever asked has given up: so nothing happens twice, and what
    hangs costs one thread a key. Thread-safe.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._since: dict[Hashable, float] = {}

    def run(self, key: Hashable, call: Callable[[], T], *, timeout_s: float, what: str) -> T:
        """The result of `call`, or what it raises. `what` begins the messages.

        Raises: InProgressError if an earlier call for `key` has not ended; DeadlineError after `timeout_s`: the call
        goes on by itself.
        """
        with self._lock:
            if key in self._since:
                waited = time.monotonic() - self._since[key]
                raise InProgressError(f"{what}: an earlier call has been at work for {waited:.0f} s and has not ended")
            self._since[key] = time.monotonic()
        future: concurrent.futures.Future[T] = concurrent.futures.Future()
        try:
            threading.Thread(target=self._work, args=(key, call, future), name="side", daemon=True).start()
        except RuntimeError:  # no more threads
            self._free(key)
            raise
        concurrent.futures.wait([future], timeout_s)
        if not future.done():
            raise DeadlineError(f"{what}: no answer within {timeout_s:g} s; it is still being waited for")
        return future.result()

    def _work(self, key: Hashable, call: Callable[[], T], future: concurrent.futures.Future[T]) -> None:
        try:
            result = call()
        except BaseException as error:
            self._free(key)
            future.set_exception(error)
        else:
            self._free(key)
            future.set_result(result)

    def _free(self, key: Hashable) -> None:
        with self._lock:
            del self._since[key]
