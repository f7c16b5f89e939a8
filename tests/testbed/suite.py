"""`make test`, `make demo`, `make bench`: a sandbox that dies with this process, slow builds beside the fast tests.

pytest runs inside the sandbox, where the brick hosts' network is; what needs the internet is built outside of it, in
the background. A fixture that needs a build waits for its mark (`wait_built`), and fails if the build did.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from . import host, paths, progress
from .errors import BedError
from .sandbox import INSIDE, Sandbox

PARTS = ("descriptors", "bricks", "project", "sanity", "kube")
"""What is built in the background, in this order: CSI's published descriptors; the brick hosts' image; the project's
image and .deb; csi-sanity; Kubernetes, which takes longest."""

_BUILD_MINUTES = 60.0


def run_inside(name: str, argv: Sequence[str]) -> int:
    """Runs `argv` in a fresh sandbox `name` with the builds beside it, and returns its exit status.

    The sandbox is gone when this returns, also after Ctrl-C; after SIGKILL, the kernel ends it with this process.
    """
    host.preflight()
    host.install(host.SANDBOX_PACKAGES)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sandbox = Sandbox.start(name, dies_with_parent=True)
    try:
        builder = _start_builder(sandbox)
        try:
            return _run(sandbox, argv, builder)
        finally:
            _end(builder)
    except KeyboardInterrupt:
        progress.say("interrupted: cleaning up")
        return 130
    finally:
        sandbox.stop()


def _run(sandbox: Sandbox, argv: Sequence[str], builder: subprocess.Popen[bytes]) -> int:
    enter = sandbox.enter_argv(cwd=str(paths.REPOSITORY))
    process = subprocess.Popen([*enter, *argv], env={**os.environ, INSIDE: sandbox.name})
    try:
        _wait_either(process, builder)
        if (status := builder.poll()) is not None:
            # However it ended: nobody waits on for what it has not built.
            _mark_unbuilt(sandbox.name, status)
        return process.wait()
    except BaseException:
        # Ctrl-C has reached the whole foreground group: let it end in its own way, but not for ever.
        try:
            process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            process.kill()
        raise


def _start_builder(sandbox: Sandbox) -> subprocess.Popen[bytes]:
    argv = ["setpriv", "--pdeathsig", "TERM", sys.executable, "-m", "tests.testbed", "--name", sandbox.name, "build"]
    return subprocess.Popen(argv, stdin=subprocess.DEVNULL, cwd=paths.REPOSITORY, start_new_session=True)


def _wait_either(*processes: subprocess.Popen[bytes]) -> None:
    handles = [os.pidfd_open(process.pid) for process in processes]
    try:
        select.select(handles, [], [])
    finally:
        for handle in handles:
            os.close(handle)


def _mark_unbuilt(name: str, status: int) -> None:
    for part in PARTS:
        if not _mark(name, part).exists():
            mark_built(name, part, f"the builder ended with status {status}; what it said is above")


def _end(builder: subprocess.Popen[bytes]) -> None:
    if builder.poll() is None:
        os.killpg(builder.pid, signal.SIGTERM)
        builder.wait()


def mark_built(name: str, part: str, error: str = "") -> None:
    """Tells whoever waits in sandbox `name` that `part` is built, or why it is not."""
    directory = paths.run_dir(name)
    if directory.exists():
        fresh = directory / f".built-{part}.new"
        fresh.write_text(error)
        fresh.rename(_mark(name, part))


def wait_built(name: str, part: str) -> None:
    """Returns when the background build of `part` is done.

    Raises:
        BedError: it failed, with its reason.
    """
    mark = _mark(name, part)
    progress.wait_until(f"the build of {part}", mark.exists, seconds=_BUILD_MINUTES * 60)
    if error := mark.read_text():
        raise BedError(f"the build of {part} failed: {error}")


def _mark(name: str, part: str) -> Path:
    return paths.run_dir(name) / f"built-{part}"
