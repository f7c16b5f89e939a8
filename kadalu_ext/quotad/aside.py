"""What looks at bricks for the commands: a child process, which can be left behind.

A system call on a file system that hangs does not come back, and cannot be interrupted. A thread in one keeps its whole
process from ending, so that whoever waits for it, a shell or monitoring, would wait, too; a child does not. It says
where it is; what is silent for too long hangs where it was last, and another looks at the rest. Only for processes of
one thread (fork(2)).
"""

from __future__ import annotations

import io
import json
import os
import pickle
import select
import signal
import sys
import time
from collections.abc import Callable, Collection, Mapping
from functools import partial
from types import MappingProxyType
from typing import Final, NoReturn, TypeVar

from kadalu_ext.errors import DeadlineError
from kadalu_ext.quotad.daemon import HANG_S, HANGS
from kadalu_ext.quotad.status import At, Progress

T = TypeVar("T")

Work = Callable[[Mapping[str, str], At, Progress], T]
"""Is called with the bricks, by path, that it must not touch, and why; calls the others to say how far it is."""

PAUSE_S: Final = 0.1
"""Between two words about progress."""


class _Hung(Exception):
    """What was looked at hangs; its argument is where: the path of a brick, or ''."""


def look(
    work: Work[T],
    *,
    beside: Callable[[str], Collection[str]],
    hung: Mapping[str, str] = MappingProxyType({}),
    progress: Progress = lambda done, total: None,
    patience_s: float = HANG_S,
) -> T:
    """What `work` returns, or what it raises; both come as copies. It is called again, without them, when bricks hang.

    beside: which bricks are on the same file system as the one at a path; not asked of the file system itself.
    hung: bricks that are known to hang, with the reason. patience_s: how long it may say nothing.
    Raises: DeadlineError if it hangs elsewhere than on a brick.
    """
    known = dict(hung)
    while True:
        try:
            return _in_child(partial(work, known.copy()), progress, patience_s)
        except _Hung as error:
            path = str(error)
            if not path or path in known:
                raise DeadlineError(f"glusterd's files: no answer within {patience_s:g} s: see dmesg") from None
            known |= {each: f"{each}: {HANGS}" for each in {path, *beside(path)}}


def _in_child(work: Callable[[At, Progress], T], progress: Progress, patience_s: float) -> T:
    reader, writer = os.pipe2(os.O_CLOEXEC)
    result = os.memfd_create("result", os.MFD_CLOEXEC)
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        _be_the_child(work, writer, result)
    os.close(writer)
    with open(reader, "rb", buffering=0) as words, open(result, "rb") as outcome:
        try:
            _listen(words, progress, patience_s)
        except BaseException:
            os.kill(child, signal.SIGKILL)  # it ends when its call comes back
            raise
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if status != 0:
            raise ChildProcessError(f"the process that looked at the bricks ended with status {status}")
        outcome.seek(0)
        value, error = pickle.load(outcome)  # noqa: S301 (it is our own process's)
    if error is not None:
        raise error
    return value  # type: ignore[no-any-return]


def _listen(words: io.FileIO, progress: Progress, patience_s: float) -> None:
    at, rest, ready = "", b"", select.poll()
    ready.register(words, select.POLLIN)
    while True:
        if not ready.poll(patience_s * 1000):
            raise _Hung(at)
        read = words.read(1 << 16)
        if not read:
            return
        *lines, rest = (rest + read).split(b"\n")
        for line in lines:
            match json.loads(line):
                case str(path):
                    at = path
                case [done, total]:
                    progress(done, total)


def _be_the_child(work: Callable[[At, Progress], T], writer: int, result: int) -> NoReturn:
    status = 1
    try:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        # who waits for the end of what the command writes must not wait for this process
        nothing = os.open(os.devnull, os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(nothing, fd)
        said_at = time.monotonic()

        def say(word: object) -> None:
            os.write(writer, json.dumps(word).encode() + b"\n")

        def tell(done: int, total: int) -> None:
            nonlocal said_at
            if time.monotonic() - said_at >= PAUSE_S:
                said_at = time.monotonic()
                say([done, total])

        value: object = None
        failure: Exception | None = None
        try:
            value = work(say, tell)
        except Exception as error:
            failure = error
        with open(result, "wb") as file:
            pickle.dump((value, failure), file)
        status = 0
    finally:
        os._exit(status)
