"""The glusterds that a process asks: one connection and one thread for each, kept while they are used, shared by all.

A host that falls silent holds up its own thread and a bounded queue, and is remembered: others are asked before it.
"""

from __future__ import annotations

import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from kadalu_ext.errors import (
    HostHungError,
    HostRefusedError,
    HostSilentError,
    HostUnreachableError,
    NotFoundError,
    TlsError,
    WireError,
)
from kadalu_ext.gluster import messages
from kadalu_ext.gluster.glusterd import GLUSTERD_PORT, Glusterd
from kadalu_ext.gluster.oncrpc import Call
from kadalu_ext.gluster.tls import Tls

T = TypeVar("T")
Listener = Callable[[str], None]

STAGGER_S: Final = 0.2
"""For how long a host is waited for before the next one is asked as well: many times what a live one takes."""

BACK_OFF_S: Final = 1.0
MAX_BACK_OFF_S: Final = 60.0
"""For how long a host that was silent is asked only where no other answers: doubled from silence to silence."""

QUESTIONS: Final = 32
"""How many may wait for one host."""

IDLE_S: Final = 60.0
"""After so long without a question a host's connection and thread go, unless somebody listens."""

_CONNECT_S: Final = 1.0


class Hosts:
    """Asks glusterds. Thread-safe."""

    def __init__(self, *, idle_s: float = IDLE_S) -> None:
        self._idle_s = idle_s
        self._lock = threading.Lock()
        self._hosts: dict[tuple[str, int, Tls | None], _Host] = {}
        self._closed = False

    def first_answer(
        self,
        hosts: Iterable[str],
        call: Callable[[Glusterd], T],
        timeout_s: float = 2.0,
        *,
        port: int = GLUSTERD_PORT,
        tls: Tls | None = None,
    ) -> T:
        """What `call` returns or raises for the first host that answers.

        The hosts are asked in their order, but those that failed lately after the others, each a moment after the one
        before it or as soon as that failed, and side by side; one that was silent lately only if all others fail. A
        host that cannot be reached or does not speak gluster is no answer; nor is a NotFoundError while another host
        may know better: one that was reinstalled knows of no volume.

        call: runs in the host's own thread; it may run twice, and keeps nothing of what it is given. Its questions may
        not change anything. `timeout_s` bounds each question to each host, and how long `call` waits for its turn.

        Raises: NotFoundError if a host said so and none knew better; HostUnreachableError with each host and its reason
        if none answered, TlsError if that was TLS everywhere; whatever else `call` raised; RuntimeError once closed.
        """
        known = [self._host(host, port, tls) for host in dict.fromkeys(hosts)]
        silent = [host for host in known if host.silent]
        waiting = deque(sorted((host for host in known if host not in silent), key=lambda host: host.failed))
        asked: set[Future[T]] = set()
        failures: list[HostUnreachableError | WireError] = []
        missing: NotFoundError | None = None
        try:
            while waiting or asked or silent:
                if not waiting and not asked:
                    waiting, silent = deque(silent), []
                if waiting:
                    asked.add(waiting.popleft().ask(call, timeout_s))
                for future in wait(asked, STAGGER_S if waiting else None, FIRST_COMPLETED).done:
                    asked.remove(future)
                    try:
                        return future.result()
                    except (HostUnreachableError, WireError) as error:
                        failures.append(error)
                    except NotFoundError as error:
                        missing = missing or error
        finally:
            for future in asked:
                future.cancel()
        if missing is not None:
            raise missing
        if len(failures) == 1:
            raise failures[0]
        # hosts that are up, and all of one mind about TLS, are another matter than hosts that are down
        kind = TlsError if all(isinstance(each, TlsError) for each in failures) else HostUnreachableError
        raise kind("no host answers: " + "; ".join(map(str, failures)))

    def silent(self) -> tuple[str, ...]:
        """The hosts that were silent lately, and are asked only where no other answers."""
        with self._lock:
            return tuple(dict.fromkeys(name for (name, _port, _tls), host in self._hosts.items() if host.silent))

    def listen(
        self, hosts: Iterable[str], listener: Listener, *, port: int = GLUSTERD_PORT, tls: Tls | None = None
    ) -> Callable[[], None]:
        """Keeps a connection to each of the hosts, and calls `listener` with a host's name whenever its glusterd says
        that volfiles have changed (after any `volume set`, add-brick and the like; not which volume), and whenever a
        connection was had on which something may have been missed. Returns what ends it.

        listener: called in the host's thread, often several times for one change; it must return at once.
        """
        known = [self._host(host, port, tls) for host in dict.fromkeys(hosts)]
        for host in known:
            host.listen(listener)

        def end() -> None:
            for host in known:
                host.listen(listener, False)

        return end

    def close(self) -> None:
        """Ends questions that are under way, connections and threads; waits for nothing. Idempotent."""
        with self._lock:
            self._closed = True
            hosts = list(self._hosts.values())
        for host in hosts:
            host.close()

    def _host(self, host: str, port: int, tls: Tls | None) -> _Host:
        with self._lock:
            if self._closed:
                raise RuntimeError("these hosts are closed")
            # What is known of hosts that nobody has asked for long is forgotten: names come and go.
            for key in [key for key, each in self._hosts.items() if each.forgotten]:
                del self._hosts[key]
            key = (host, port, tls)
            if key not in self._hosts:
                self._hosts[key] = _Host(host, port, tls, self._idle_s)
            return self._hosts[key]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Question:
    """To be begun by `until`, or not at all."""

    call: Callable[[Glusterd], Any]
    timeout_s: float
    until: float
    future: Future[Any]


class _Host:
    """One glusterd: a queue of questions, and a thread while there are any, or somebody listens."""

    def __init__(self, host: str, port: int, tls: Tls | None, idle_s: float) -> None:
        self._glusterd = Glusterd(host, port=port, tls=tls, on_call=self._called)
        self._idle_s = idle_s
        self._lock = threading.Lock()
        self._questions: deque[_Question] = deque()
        self._listeners: list[Listener] = []
        self._thread: threading.Thread | None = None
        self._wake = -1
        self._closed = False
        self._used = time.monotonic()
        self._silences = 0
        self._silent_until = 0.0
        self.failed = False
        """Whether what was asked last failed for the host's sake."""

    @property
    def silent(self) -> bool:
        """Whether it was silent lately."""
        return time.monotonic() < self._silent_until

    @property
    def forgotten(self) -> bool:
        """Whether nobody has asked it for long."""
        with self._lock:
            return self._thread is None and time.monotonic() - self._used > MAX_BACK_OFF_S

    def ask(self, call: Callable[[Glusterd], T], timeout_s: float) -> Future[T]:
        """What `call` will say; at once HostHungError if too many wait already."""
        future: Future[T] = Future()
        with self._lock:
            self._used = now = time.monotonic()
            if self._closed:
                raise RuntimeError("these hosts are closed")
            if len(self._questions) >= QUESTIONS:
                future.set_exception(HostHungError(f"{self._glusterd.connection}: too many questions wait already"))
                return future
            self._questions.append(_Question(call=call, timeout_s=timeout_s, until=now + timeout_s, future=future))
            self._run()
        return future

    def listen(self, listener: Listener, on: bool = True) -> None:
        with self._lock:
            if on:
                self._listeners.append(listener)
            elif listener in self._listeners:
                self._listeners.remove(listener)
            if on or self._thread is not None:
                self._run()

    def close(self) -> None:
        with self._lock:
            self._closed = True
            if self._thread is not None:
                self._run()
        self._glusterd.connection.abort()

    def _run(self) -> None:
        """Starts or wakes the thread. The lock is held."""
        if self._thread is None:
            self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            name = f"glusterd-{self._glusterd.host}"
            thread = threading.Thread(target=self._work, name=name, daemon=True)
            try:
                thread.start()
            except BaseException:
                os.close(self._wake)
                raise
            self._thread = thread
        else:
            os.eventfd_write(self._wake, 1)

    def _work(self) -> None:
        while (question := self._next()) is not None:
            if question.future.set_running_or_notify_cancel():
                self._answer(question)

    def _next(self) -> _Question | None:
        """The next question, once there is one. None, and the connection closed: the thread ends."""
        connection = self._glusterd.connection
        while True:
            try:
                if not connection.drain() and self._listeners:
                    self._reconnect()
            except Exception:  # nobody would ever answer what waits for a thread that has died
                connection.close()
                self._note_silence()
            with self._lock:
                if self._questions:
                    return self._questions.popleft()
                idle = self._used + self._idle_s - time.monotonic()
                if self._closed or (idle <= 0 and not self._listeners):
                    connection.close()
                    os.close(self._wake)
                    self._thread = None
                    return None
            self._wait(max(0.0, self._silent_until - time.monotonic()) if self._listeners else idle)

    def _wait(self, seconds: float) -> None:
        """For a word to us, or from the host; at most `seconds`, if it is not connected or nobody listens."""
        connection, poll = self._glusterd.connection, select.poll()
        poll.register(self._wake, select.POLLIN)
        if connection.connected:
            poll.register(connection.fileno(), select.POLLIN)
        poll.poll(None if connection.connected and self._listeners else seconds * 1000 + 1)
        try:
            os.eventfd_read(self._wake)
        except BlockingIOError:
            pass

    def _reconnect(self) -> None:
        if self.silent or self._questions:
            return
        try:
            self._glusterd.connection.connect(time.monotonic() + _CONNECT_S)
        except (HostUnreachableError, WireError):
            self._note_silence()
        else:
            self._tell()

    def _answer(self, question: _Question) -> None:
        began = time.monotonic()
        try:
            if began > question.until:
                raise HostHungError(f"{self._glusterd.connection}: it is still being asked something else")  # noqa: TRY301
            result = self._ask(question)
        except BaseException as error:
            self.failed = isinstance(error, HostUnreachableError | WireError)
            if isinstance(error, HostSilentError) or (self.failed and time.monotonic() - began > STAGGER_S):
                self._note_silence()
            question.future.set_exception(error)
        else:
            self.failed, self._silences, self._silent_until = False, 0, 0.0
            question.future.set_result(result)

    def _ask(self, question: _Question) -> Any:
        glusterd = self._glusterd
        glusterd.timeout_s = question.timeout_s
        kept = glusterd.connection.connected
        try:
            return question.call(glusterd)
        except HostRefusedError:
            if not kept or self._closed:
                raise
            return question.call(glusterd)  # it was restarted since; nothing that we ask changes anything

    def _note_silence(self) -> None:
        self.failed = True
        self._silent_until = time.monotonic() + min(MAX_BACK_OFF_S, BACK_OFF_S * 2**self._silences)
        self._silences = min(self._silences + 1, 10)

    def _called(self, call: Call) -> None:
        if call.procedure == messages.FETCHSPEC:
            self._tell()

    def _tell(self) -> None:
        for listener in list(self._listeners):
            listener(self._glusterd.host)
