"""A libgfapi client in a process of its own: what hangs or crashes in it is ended by the kernel, whole. See adr/0020.

The process has nothing but the client (clientmain.py). Its volfile it gets from this process, like any other client.
"""

from __future__ import annotations

import math
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from errno import EMFILE, ENFILE, ENOBUFS, ENOMEM, ETOOMANYREFS
from itertools import count
from typing import Any, Final, Self

from kadalu_ext.errors import DeadlineError, ShortageError, UnavailableError
from kadalu_ext.gluster import clientmain
from kadalu_ext.gluster.channel import Channel
from kadalu_ext.gluster.copyprogress import CopyProgress

START_S: Final = 120.0
"""A start that hangs for longer is ended. Replicate waits ten seconds for a brick host that falls silent."""

_ASKED_S: Final = 2.0
"""A process that lives says within this time what it is at."""
_UNANSWERED: Final = 3
"""So often in a row it has not: one that is short of processor time or memory may be late."""
_IDLE: Final = 8
"""Channels that are kept: each has two descriptors, and a thread in the other process."""
_SHORTAGES: Final = (EMFILE, ENFILE, ENOBUFS, ENOMEM, ETOOMANYREFS)
"""What is said of this process, or its host, and not of the one that is talked to."""
_ALLOW_S: Final = 0.2
"""So long after a copy was told to stop it hears of it."""
_ENDED_S: Final = 5.0
_COMMAND: Final = (sys.executable, "-P", "-m", "kadalu_ext.gluster.clientmain")

_copies: Final = count(1)


class ClientProcess:
    """As files.Files, whose operations it takes by their names. Thread-safe: each call has a channel for itself.

    Everything raises UnavailableError if the process has ended, also while it is waited for, and ShortageError if this
    one lacks descriptors or memory: then the operation may have been done or not. OSError EOVERFLOW: the result is
    larger than a message may be.
    """

    def __init__(self, volume: str, argv: list[str]) -> None:
        """Starts it: see `start`."""
        ours, theirs = socket.socketpair()
        with theirs:
            # A group of its own: Ctrl-C is for this process, which ends that one.
            self._process = subprocess.Popen(argv, stdin=theirs.fileno(), stdout=subprocess.DEVNULL, process_group=0)
        self._volume = volume
        self._control = ours
        self._lock = threading.Lock()
        self._idle: list[Channel] = []
        self._waiting: dict[object, float] = {}
        self._unanswered = 0
        self._why = ""

    @classmethod
    def start(
        cls,
        volume: str,
        *,
        socket: str,
        log_file: str,
        log_level: int,
        ready: Callable[[], None] = lambda: None,
        command: tuple[str, ...] = _COMMAND,
    ) -> Self:
        """As files.Files.start, and UnavailableError after START_S. `ready` is called while the process comes up."""
        client = cls(volume, [*command, volume, socket, log_file, str(log_level)])
        try:
            ready()
            client._wait_started()
        except BaseException:
            client.end()
            raise
        return client

    def _wait_started(self) -> None:
        try:
            self._control.sendall(b"s")
            answer = Channel(self._control).receive(START_S)
        except TimeoutError:
            self.kill(f"it has not started within {START_S:g} s")
            raise self._gone() from None
        except (EOFError, OSError, ValueError) as error:
            raise self._gone(error) from error
        _result(answer)

    def call(self, operation: str, *args: Any) -> Any:
        """The operation's result. Raises: OSError and DeadlineError, as the operation does."""
        with self._channel() as channel:
            channel.send([operation, args])
            answer = self._heard(channel)
        return _result(answer)

    def copy_tree(
        self, source: str, target: str, server_side: bool, deadline: float | None, progress: CopyProgress
    ) -> None:
        """The operation of that name, for which two processes have a CopyProgress each."""
        if progress.stopped:
            raise DeadlineError("the copy was stopped before it began; a later one makes it")
        number, allowed = next(_copies), progress.allowed_until
        with self._channel() as channel:
            channel.send(["copy_tree", [number, allowed, source, target, server_side, deadline]])
            while True:
                try:
                    answer = self._heard(channel, _ALLOW_S)
                except TimeoutError:
                    # what is told before it has begun there is not heard
                    if progress.allowed_until != allowed and self.call(
                        clientmain.ALLOW, number, progress.allowed_until
                    ):
                        allowed = progress.allowed_until
                    continue
                if answer[0] != clientmain.PROGRESS:
                    break
                progress.add(files=answer[1] - progress.files, size_bytes=answer[2] - progress.size_bytes)
        _result(answer)

    # --- its life ---

    def look(self, longest_s: float) -> str:
        """Why it is of no use any more, empty if it is not so: it has ended, or is killed now, since a single call of
        the library has been running for `longest_s`, or three looks in a row it does not say which has, nor answers
        any call. Waits two seconds at most.
        """
        oldest = min(list(self._waiting.values()), default=math.inf)
        if not self._why and self._process.poll() is None and time.monotonic() - oldest > longest_s:
            self._check(longest_s)
        return str(self._gone()) if self._why or self._process.poll() is not None else ""

    def _check(self, longest_s: float) -> None:
        try:
            with self._channel() as channel:
                channel.send([clientmain.LONGEST, []])
                found = _result(self._heard(channel, _ASKED_S))
        except TimeoutError:
            self._unanswered += 1
            if self._unanswered >= _UNANSWERED:
                self.kill("it does not say what it is at")
            return
        except UnavailableError:
            return
        if found is not None and found[1] > longest_s:
            self.kill(f"{found[0]} has hung in it for {found[1]:.0f} s")

    def kill(self, why: str) -> None:
        """Ends it, and with it what waits for it."""
        self._why = self._why or why
        self._process.kill()

    def end(self) -> None:
        """Ends it, and waits until it is gone. Idempotent."""
        self.kill("it is closed")
        with self._lock:
            idle, self._idle = self._idle, []
            self._control.close()
        for channel in idle:
            channel.close()
        try:
            self._process.wait(_ENDED_S)
        except subprocess.TimeoutExpired:  # it sleeps in the kernel: Popen reaps it later
            pass

    def _gone(self, broken: Exception | None = None) -> UnavailableError:
        """Says how it ended; it is ended now, if it is the talk with it that `broken` has broken."""
        if not self._why:
            try:
                code = self._process.wait(_ENDED_S)
            except subprocess.TimeoutExpired:
                self.kill(f"what it said is not understood: {broken}")
            else:
                self._why = (
                    f"it died of {signal.Signals(-code).name}" if code < 0 else f"it ended with exit code {code}"
                )
        return UnavailableError(self._why)

    def _heard(self, channel: Channel, timeout_s: float | None = None) -> Any:
        answer = channel.receive(timeout_s)
        self._unanswered = 0
        return answer

    @contextmanager
    def _channel(self) -> Iterator[Channel]:
        """For one request and its answer. What breaks it, or leaves it half used, ends it."""
        waits = object()
        self._waiting[waits] = time.monotonic()
        channel = None
        try:
            channel = self._taken()
            yield channel
        except BaseException as error:
            if channel is not None:
                channel.close()
            if isinstance(error, OSError) and error.errno in _SHORTAGES:
                raise ShortageError(
                    f"volume {self._volume}: there is no room for another call of its gluster client: {error.strerror}"
                ) from error
            if isinstance(error, OSError | EOFError | ValueError) and not isinstance(error, TimeoutError):
                raise self._gone(error) from error
            raise
        finally:
            del self._waiting[waits]
        with self._lock:
            if len(self._idle) < _IDLE:
                self._idle.append(channel)
                return
        channel.close()

    def _taken(self) -> Channel:
        with self._lock:
            if self._idle:
                return self._idle.pop()
            ours, theirs = socket.socketpair()
            with theirs:
                try:
                    socket.send_fds(self._control, [b"c"], [theirs.fileno()])
                except OSError:
                    ours.close()
                    raise
            return Channel(ours)


def _result(answer: list[Any]) -> Any:
    match answer:
        case [clientmain.RESULT, result]:
            return result
        case [clientmain.ERROR, *error]:
            raise OSError(*error)
        case [clientmain.DEADLINE, why]:
            raise DeadlineError(why)
        case _:
            raise RuntimeError(f"a gluster client's process: {answer[1:]}")
