"""The process of one libgfapi client: started by clientprocess.py, whose end of the control socket is its life.

    python3 -m kadalu_ext.gluster.clientmain VOLUME SOCKET LOG_FILE LOG_LEVEL

Its standard input is the control socket. On that comes one byte when the client may start, and it says whether it has;
then descriptors come, each the end of a channel, which gets a thread that carries out one request after the other.
"""

from __future__ import annotations

import faulthandler
import os
import socket
import sys
import threading
import traceback
from collections.abc import Callable
from errno import EOVERFLOW
from typing import Any, Final

from kadalu_ext.errors import DeadlineError
from kadalu_ext.gluster import libgfapi
from kadalu_ext.gluster.channel import Channel
from kadalu_ext.gluster.copyprogress import CopyProgress
from kadalu_ext.gluster.files import OPERATIONS, Files

LONGEST: Final = "longest"
ALLOW: Final = "allow"
"""Requests that are no operations: which call of libgfapi has been running for longest; until when a copy may go on."""

RESULT, ERROR, DEADLINE, CRASH, PROGRESS = range(5)
"""What an answer begins with."""

_TELL_S: Final = 0.5
"""How often it is told how far a copy is."""


def main(argv: list[str]) -> None:
    """Does not return: the process ends when the control socket does, whatever still runs."""
    faulthandler.enable()  # a crash of the library leaves a line of where it was called
    volume, path, log_file, log_level = argv
    libgfapi.load()
    run(lambda: Files.start(volume, socket=path, log_file=log_file, log_level=int(log_level)))


def run(start: Callable[[], Files]) -> None:
    """As `main`, with a client of any kind."""
    control = socket.socket(fileno=0)
    if not control.recv(1):
        os._exit(0)
    server = _Server(start)
    threading.Thread(target=server.start, args=(Channel(control),), daemon=True).start()
    while True:
        _, descriptors, _, _ = socket.recv_fds(control, 1, 1)
        if not descriptors:
            os._exit(0)
        channel = Channel(socket.socket(fileno=descriptors[0]))
        threading.Thread(target=server.serve, args=(channel,), daemon=True).start()


class _Server:
    def __init__(self, start: Callable[[], Files]) -> None:
        self._start = start
        self._files: Files | None = None
        self._copies: dict[int, CopyProgress] = {}

    def start(self, control: Channel) -> None:
        control.send(_answer(self._begin))

    def _begin(self) -> None:
        self._files = self._start()

    def serve(self, channel: Channel) -> None:
        try:
            while True:
                operation, args = channel.receive()
                answer = _answer(lambda: self._do(channel, operation, args))  # noqa: B023 (called at once)
                try:
                    channel.send(answer)
                except OverflowError as error:
                    channel.send([ERROR, EOVERFLOW, str(error), None])
        except (EOFError, OSError, ValueError):
            channel.close()

    def _do(self, channel: Channel, operation: str, args: list[Any]) -> Any:
        if operation == LONGEST:
            return libgfapi.longest()
        if operation == ALLOW:
            return self._allow(*args)
        if operation not in OPERATIONS or self._files is None:
            raise ValueError(f"{operation}: no such operation")
        if operation == "copy_tree":
            return self._copy(channel, self._files, *args)
        return self._files.call(operation, *args)

    def _allow(self, number: int, until: float) -> bool:
        """False if there is no such copy: it has not begun yet, or it has ended."""
        progress = self._copies.get(number)
        if progress is not None:
            progress.allow_until(until)
        return progress is not None

    def _copy(self, channel: Channel, files: Files, number: int, until: float, *args: Any) -> None:
        progress, done = CopyProgress(), threading.Event()
        progress.allow_until(until)
        self._copies[number] = progress

        def tell() -> None:
            ended = False
            while not ended:
                ended = done.wait(_TELL_S)
                try:
                    channel.send([PROGRESS, progress.files, progress.size_bytes])
                except OSError:
                    progress.stop()  # nobody waits for it any more: another may be begun
                    return

        telling = threading.Thread(target=tell, daemon=True)
        telling.start()
        try:
            files.call("copy_tree", *args, progress)
        finally:
            del self._copies[number]
            done.set()
            telling.join()


def _answer(work: Callable[[], Any]) -> list[Any]:
    """What kind of answer it is, and what belongs to it."""
    try:
        return [RESULT, work()]
    except OSError as error:
        about = error.filename if isinstance(error.filename, str) else None
        return [ERROR, error.errno, error.strerror or str(error), about]
    except DeadlineError as error:
        return [DEADLINE, str(error)]
    except Exception:
        return [CRASH, traceback.format_exc()]


if __name__ == "__main__":
    main(sys.argv[1:])
