"""One line when a step starts, one with its duration when it ends; long commands say what they are at.

Everything goes to standard error, so that `status --json` and the like keep standard output for themselves.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from .errors import CommandFailed, Unmet

T = TypeVar("T")

_LEASH = ("setpriv", "--pdeathsig", "TERM")
# unshare passes over SIGTERM while its child runs.
_ISOLATION = ("setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")

_BEGAN = time.monotonic()


def say(text: str) -> None:
    """Print one line with the seconds since this process began."""
    print(f"[{time.monotonic() - _BEGAN:6.1f} s] {text}", file=sys.stderr, flush=True)


@contextmanager
def step(what: str) -> Iterator[None]:
    """Announce `what`, and when the block ends how long it took, or that it failed.  Usable from any thread."""
    start = time.monotonic()
    say(f"{what} …")
    try:
        yield
    except BaseException:
        say(f"{what}: FAILED after {time.monotonic() - start:.1f} s")
        raise
    say(f"{what}: {time.monotonic() - start:.1f} s")


def run_logged(
    argv: Sequence[str],
    *,
    log: Path,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    isolated: bool = False,
    every_seconds: float = 20,
) -> None:
    """Run a long command with its output appended to `log`; every `every_seconds` say its latest line.

    The command dies with the calling thread, so that a killed testbed leaves no build running; an `isolated` one with
    all processes and mounts that it has made.

    Raises:
        CommandFailed: with the last lines of the log.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as sink:
        process = subprocess.Popen(
            [*(_ISOLATION if isolated else _LEASH), *argv],
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            env=env,
            cwd=cwd,
            start_new_session=True,
        )
        try:
            while True:
                try:
                    status = process.wait(timeout=every_seconds)
                    break
                except subprocess.TimeoutExpired:
                    say(f"  {Path(argv[0]).name}: {tail(log, 1) or 'no output yet'}")
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise
    if status != 0:
        raise CommandFailed(argv, status, tail(log, 20))


def tail(log: Path, lines: int) -> str:
    """The last `lines` lines that are not blank of a text file; empty if there is no such file."""
    try:
        with log.open("rb") as source:
            size = source.seek(0, 2)
            source.seek(max(0, size - 200 * lines))
            text = source.read().decode(errors="replace")
    except FileNotFoundError:
        return ""
    return "\n".join([line for line in text.splitlines() if line.strip()][-lines:])


def wait_until(what: str, probe: Callable[[], T | None], *, seconds: float, interval: float = 0.1) -> T:
    """Call `probe` until it returns something true, and return that.

    Raises:
        Unmet: `what` did not come true within `seconds`.
    """
    deadline = time.monotonic() + seconds
    while True:
        found = probe()
        if found:
            return found
        if time.monotonic() > deadline:
            raise Unmet(f"waited {seconds:g} s in vain for: {what}")
        time.sleep(interval)
