"""The process tree that an instance lives in: its own mounts, network and process ids.

Everything of an instance is started in it.  When its first process ends, the kernel kills every other process in
it and takes its mounts, taps and bridges away: cleaning up is killing one process, whatever happened before.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

from . import cgroups, paths
from .errors import BedError, CommandFailed, NotRunning
from .progress import wait_until

BRIDGE = "br0"
BRIDGE_ADDRESS = "10.77.0.1"
BRIDGE_MAC = "02:00:0a:4d:00:01"
NODE_ADDRESS = "10.88.0.1"
BRICK_ADDRESSES = {f"brick{n}": f"10.77.0.{10 + n}" for n in (1, 2, 3)}

INSIDE = "KADALU_EXT_TESTBED_INSIDE"
"""Environment variable: the name of the sandbox that a process already runs in (`Sandbox.attach` then stays there)."""

# `--kill-child`: the helper in between must not outlive, nor be outlived by, the first process.
_UNSHARE = ("unshare", "--mount", "--net", "--pid", "--fork", "--kill-child=KILL", "--mount-proc", "--")
_INIT = ("tini", "-s", "--", "sleep", "infinity")


class Sandbox:
    """A running sandbox.  Get one with `start` or `attach`."""

    def __init__(self, name: str, pid: int, *, inside: bool = False) -> None:
        self.name = name
        self.pid = pid
        self.inside = inside
        self.run_dir = paths.run_dir(name)
        self.disk_dir = paths.disk_dir(name)
        self.log_dir = self.run_dir / "log"

    @classmethod
    def start(cls, name: str, *, dies_with_parent: bool) -> Sandbox:
        """Start sandbox `name`, first clearing what a killed one of that name left.

        With `dies_with_parent` it ends when the calling thread does, however that ends; call it from the main thread.

        Raises:
            BedError: it runs already.
        """
        with paths.lock(paths.cache_root() / f".sandbox-{paths.check_name(name)}.lock"):
            return cls._start(name, dies_with_parent)

    @classmethod
    def _start(cls, name: str, dies_with_parent: bool) -> Sandbox:
        try:
            running = cls.attach(name)
        except NotRunning:
            clear(name)
        else:
            raise BedError(f"{name!r} is up already (process {running.pid}): take it down first, or use another --name")
        self = cls(name, 0)
        for directory in (self.log_dir, self.disk_dir):
            directory.mkdir(parents=True)
        leash = ("setpriv", "--pdeathsig", "KILL") if dies_with_parent else ()
        with (self.log_dir / "sandbox.log").open("wb") as log:
            # A session of its own: Ctrl-C is for the testbed, which then takes things down in order.
            outer = subprocess.Popen(
                [*leash, *_UNSHARE, *_INIT],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                start_new_session=True,
            )
        try:
            self.pid = wait_until("the sandbox's first process", lambda: _first_process(outer), seconds=10)
            self.save_state({"name": name, "pid": self.pid, "started": _process_start(self.pid)})
            self._furnish()
        except BaseException:
            outer.kill()
            outer.wait()
            clear(name)
            raise
        return self

    @classmethod
    def attach(cls, name: str) -> Sandbox:
        """The running sandbox `name`, from outside or, where `INSIDE` says so, from inside it.

        Raises:
            NotRunning: there is none.
        """
        if os.environ.get(INSIDE) == name:
            return cls(name, 1, inside=True)
        state = read_state(name)
        # A process id is used again one day: only together with its start time does it name the process.
        if not state or _process_start(state["pid"]) != state["started"]:
            raise NotRunning(f"{name!r} is not up: start it with 'python3 -m tests.testbed --name {name} up'")
        return cls(name, state["pid"])

    def stop(self) -> None:
        """Kill everything in the sandbox and remove what it had on the host; the caches stay.

        A second Ctrl-C does not stop it half-way.
        """
        with _uninterrupted():
            clear(self.name)

    def state(self) -> dict[str, Any]:
        """What is written down about this instance: `name`, `pid`, `started`, and what the parts have added."""
        return read_state(self.name)

    def save_state(self, fields: Mapping[str, Any]) -> None:
        """Add `fields` to the state, in one rename; writers of other fields may run at the same time."""
        path = self.run_dir / "state.json"
        fresh = path.with_suffix(".new")
        with paths.lock(path.with_suffix(".lock")):
            fresh.write_text(json.dumps({**read_state(self.name), **fields}, indent=1))
            fresh.rename(path)

    def enter_argv(self, *, cwd: str = "/") -> list[str]:
        """The words to put before a command so that it runs in the sandbox, in directory `cwd`."""
        if self.inside:
            return ["env", f"--chdir={cwd}"]
        return ["nsenter", "-t", str(self.pid), "-m", "-n", "-p", f"--wdns={cwd}", "--"]

    def run(
        self,
        argv: Sequence[str],
        *,
        check: bool = True,
        timeout: float | None = None,
        input: str | None = None,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run `argv` in the sandbox and return its output; `env` is added to the environment.

        Raises:
            CommandFailed: it ended with another status than 0 (with `check`), or not within `timeout` seconds; then
                it and its children are killed.
        """
        # Files, not pipes: what the command leaves running, or an ssh master, may hold its end of a pipe for ever.
        with TemporaryFile("w+") as stdin, TemporaryFile("w+") as stdout, TemporaryFile("w+") as stderr:
            stdin.write(input or "")
            stdin.seek(0)
            process = subprocess.Popen(
                [*self.enter_argv(), *argv],
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                env={**os.environ, **(env or {})},
                start_new_session=True,
            )
            status: int | None = None
            try:
                status = process.wait(timeout)
            except subprocess.TimeoutExpired:
                pass
            finally:
                if status is None:
                    # nsenter waits in between for its child: only the whole group ends both.
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
            texts = [_whole(sink) for sink in (stdout, stderr)]
        if status is None or (check and status != 0):
            raise CommandFailed(argv, status, "".join(texts))
        return subprocess.CompletedProcess(list(argv), status, *texts)

    def popen(self, argv: Sequence[str], *, log: Path, env: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
        """Start a daemon in the sandbox, its output appended to `log`.

        It lives until the sandbox ends, not until the caller does.  It is in a process group of its own, which is
        what signals must go to: ``os.killpg(process.pid, …)``.
        """
        return self._spawn(argv, log, env)

    def detach(self, argv: Sequence[str], *, log: Path, env: Mapping[str, str] | None = None) -> None:
        """As `popen`, but as a child of the sandbox's init: the caller need not (and cannot) wait for its end."""
        self._spawn(["setsid", "--fork", *argv], log, env).wait()

    def _spawn(self, argv: Sequence[str], log: Path, env: Mapping[str, str] | None) -> subprocess.Popen[bytes]:
        with log.open("ab") as sink:
            return subprocess.Popen(
                [*self.enter_argv(), *argv],
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                env={**os.environ, **(env or {})},
                start_new_session=True,
            )

    def _furnish(self) -> None:
        hosts = self.run_dir / "hosts"
        bricks = "".join(f"{address} {brick}\n" for brick, address in BRICK_ADDRESSES.items())
        hosts.write_text(Path("/etc/hosts").read_text().rstrip("\n") + "\n" + bricks)
        held = self.run_dir / "cgroup"
        held.mkdir()
        # A new sysfs shows the network of this namespace; it hides the cgroups, which are bound back into it.
        for argv in (
            ["mount", "--rbind", "/sys/fs/cgroup", str(held)],
            ["mount", "-t", "sysfs", "sysfs", "/sys"],
            ["mount", "--rbind", str(held), "/sys/fs/cgroup"],
            ["umount", "--recursive", str(held)],
            ["mount", "-t", "fusectl", "fusectl", "/sys/fs/fuse/connections"],
            ["mount", "--bind", str(hosts), "/etc/hosts"],
            # The brick hosts' memory: elsewhere it may be small (containers) or forbid what a kernel needs (noexec).
            ["mount", "-t", "tmpfs", "-o", "mode=1777,size=75%", "tmpfs", "/dev/shm"],
            # Only now: pods' Bidirectional mounts need shared ones, and what came before must not be repeated.
            ["mount", "--make-rshared", "/"],
            ["ip", "link", "set", "lo", "up"],
            ["ip", "address", "add", f"{NODE_ADDRESS}/32", "dev", "lo"],
            # An address of its own: otherwise it is the lowest of its ports' and changes when one leaves.
            ["ip", "link", "add", BRIDGE, "address", BRIDGE_MAC, "type", "bridge"],
            ["ip", "address", "add", f"{BRIDGE_ADDRESS}/24", "dev", BRIDGE],
            ["ip", "link", "set", BRIDGE, "up"],
        ):
            self.run(argv)
        held.rmdir()


def clear(name: str) -> None:
    """Kill sandbox `name` if it runs, and remove its state, disks and control groups; nothing to do is no error."""
    state = read_state(name)
    if state and _process_start(state["pid"]) == state["started"]:
        _kill(state["pid"])
    cgroups.remove(name)
    # The mounter makes its empty mount points immutable, and it was killed just now.
    subprocess.run(["chattr", "-R", "-i", str(paths.disk_dir(name))], capture_output=True, check=False)
    for directory in (paths.run_dir(name), paths.disk_dir(name)):
        wait_until(f"{directory} to be gone", partial(_removed, directory), seconds=20)


@contextmanager
def _uninterrupted() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    former = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def _removed(directory: Path) -> bool:
    # Not at the first try if somebody who worked on the instance has yet to notice that it is gone.
    shutil.rmtree(directory, ignore_errors=True)
    return not directory.exists()


def read_state(name: str) -> dict[str, Any]:
    """The state file of instance `name`; empty if there is none, or it was never finished."""
    try:
        state = json.loads((paths.run_dir(name) / "state.json").read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return {}
    return state if isinstance(state, dict) and {"pid", "started"} <= state.keys() else {}


def start_time(stat: str) -> int | None:
    """Field 22 of /proc/PID/stat (proc(5)): when the process began, in clock ticks after boot; None for a dead one."""
    # The command's name is in parentheses, and may have spaces and parentheses of its own.
    fields = stat.rpartition(")")[2].split()
    # A zombie is only waiting for its parent to take note.
    return None if fields[0] in ("Z", "X") else int(fields[19])


def _process_start(pid: int) -> int | None:
    try:
        return start_time(Path(f"/proc/{pid}/stat").read_text())
    except (FileNotFoundError, ProcessLookupError):
        return None


def _whole(sink: IO[str]) -> str:
    sink.seek(0)
    return sink.read()


def _first_process(outer: subprocess.Popen[bytes]) -> int | None:
    """The host's process id of the sandbox's init, once it has become `tini` (its mounts are in place then)."""
    if outer.poll() is not None:
        raise BedError(f"the sandbox ended at once with status {outer.returncode}: are namespaces forbidden here?")
    children = Path(f"/proc/{outer.pid}/task/{outer.pid}/children").read_text().split()
    try:
        return int(children[0]) if children and Path(f"/proc/{children[0]}/comm").read_text() == "tini\n" else None
    except (FileNotFoundError, ProcessLookupError):
        return None


def _kill(pid: int) -> None:
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        signal.pidfd_send_signal(handle, signal.SIGKILL)
        # The first process of a pid namespace is gone only after all the others are.
        if not select.select([handle], [], [], 60)[0]:
            raise BedError(f"process {pid} does not end 60 s after SIGKILL: something in it hangs in the kernel")
    finally:
        os.close(handle)
