"""One glusterfs client: a child process with one FUSE mount."""

from __future__ import annotations

import os
import re
import select
import signal
import stat
import subprocess
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from kadalu_ext import mountinfo
from kadalu_ext.bounded import SideThreads
from kadalu_ext.errors import KadaluExtError, MounterError
from kadalu_ext.gluster.clientvolfile import LOG_LEVEL
from kadalu_ext.storage import Storage, mount_source

PROGRAM: Final = "glusterfs"

_DEFAULTS: Final[Mapping[str, str]] = {
    "log-level": LOG_LEVEL,
    # Another node's changes show after a second at most; what is not there is always asked for again.
    "attribute-timeout": "1",
    "entry-timeout": "1",
    "negative-timeout": "0",
    # Inodes that the client keeps for the kernel: bounds its memory.
    "lru-limit": "65536",
}

OPTIONS: Final = frozenset(_DEFAULTS) | {
    "gid-timeout", "invalidate-limit", "background-qlen", "congestion-threshold", "reader-thread-count",
    "direct-io-mode", "use-readdirp", "fopen-keep-cache", "kernel-writeback-cache", "auto-invalidation",
    "event-history",
}  # fmt: skip
"""The options of glusterfs(8) that a storage may set: none that names a file, a server or a process."""

_LOG_LINE: Final = re.compile(rb"\[[^\]\n]+\] ([ACEW]) (?:\[[^\]\n]*\] ?)*(?:\d+-)?(\S+: .*)")
"""`[time] E [MSGID: n] [file.c:line:function] 0-translator: text` (libglusterfs/src/logging.c)."""

_AUTH_FAILED: Final = "authentication failed"
_AUTH_HINT: Final = " Does the volume's auth.allow have this node's address? See: gluster volume get VOLUME auth.allow"

_ROOT_INODE: Final = 1
_RETRY_S: Final = 0.25
_LOG_TAIL_BYTES: Final = 64 << 10


@dataclass(frozen=True, kw_only=True)
class Places:
    """Where the things of one storage are on this node."""

    mount: str
    socket: str
    log: str
    description: str


def arguments(storage: Storage, places: Places) -> list[str]:
    """The command line of the storage's client. Options that are not in OPTIONS are left out: they are for others."""
    options = {**_DEFAULTS, **{key: value for key, value in storage.options.items() if key in OPTIONS}}
    return [
        PROGRAM,
        "--no-daemon",
        "--process-name=fuse",
        f"--log-file={places.log}",
        f"--volfile-server={places.socket}",
        "--volfile-server-transport=unix",
        f"--volfile-id={storage.volume}",
        *(f"--{key}={value}" for key, value in sorted(options.items())),
        "--fuse-mountopts=nodev,nosuid,noatime",
        f"--fs-display-name={mount_source(storage.name, storage.whole)}",
        places.mount,
    ]


class Client:
    """A running client, ours or one that an earlier mounter started. Get one with `start` or `adopt`."""

    def __init__(self, pid: int, pidfd: int, places: Places, process: subprocess.Popen[bytes] | None = None) -> None:
        self.pid = pid
        self.places = places
        self.device: int | None = None
        """st_dev of its mount, once that was seen."""
        self._pidfd = pidfd
        self._woken = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._forgetting = threading.Lock()
        self._process = process
        self._ended = False
        self._threads = SideThreads()

    @classmethod
    def start(cls, storage: Storage, places: Places) -> Client:
        """Starts a client of `storage`, whose volfile must be served already; `wait_ready` waits for its mount.

        It is in a session of its own, and goes on if the mounter dies. Raises: MounterError if it cannot be started.
        """
        # glusterfs writes its whole volfile into its log, at any level: passwords are for root only
        os.makedirs(os.path.dirname(places.log), mode=0o700, exist_ok=True)
        if os.path.exists(places.log):
            os.replace(places.log, places.log + ".1")  # one log a client, and the one before
        try:
            process = subprocess.Popen(
                arguments(storage, places),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                start_new_session=True,
            )
        except OSError as error:
            raise MounterError(f"{storage.name}: {PROGRAM} cannot be started: {error.strerror}") from error
        return cls(process.pid, os.pidfd_open(process.pid), places, process)

    @classmethod
    def adopt(cls, pid: int, pidfd: int, places: Places, device: int) -> Client:
        """Takes over process `pid`, found by `processes.find`, whose mount is on `device`."""
        client = cls(pid, pidfd, places)
        client.device = device
        return client

    def wait_ready(self, timeout_s: float) -> None:
        """Waits until the mount is there and the volume's root answers through it.

        glusterfs shows its mount before any brick has answered, and ends with status 0 when the volume lets it in
        only to throw it out: so nothing but these two is believed.
        Raises: MounterError with what the client's log says.
        """
        deadline = time.monotonic() + timeout_s
        device = self._wait_mount(deadline)
        problem = "its mount did not appear" if device is None else ""
        while device is not None and not self.wait_end(_RETRY_S if problem else 0):
            if (remaining := deadline - time.monotonic()) <= 0:
                break
            try:
                self._check_root(device, remaining)
            except (OSError, KadaluExtError) as error:
                problem = f"the volume's root does not answer ({error})"  # ENOTCONN at once while no brick is up
            else:
                self.device = device
                return
        if self.ended():
            words = self.last_words()
            hint = _AUTH_HINT if _AUTH_FAILED in words else ""
            raise MounterError(f"{self.places.mount}: the glusterfs client ended: {words}{hint}")
        raise MounterError(f"{self.places.mount}: not usable after {timeout_s:g} s: {problem}; {self.last_words()}")

    def _wait_mount(self, deadline: float) -> int | None:
        """The device of the client's mount; None if the client ended or time is up."""
        with open(mountinfo.MOUNTINFO, "rb") as mounts:
            poll = select.poll()
            poll.register(self._pidfd, select.POLLIN)
            poll.register(mounts, select.POLLERR | select.POLLPRI)  # proc(5): a mount came or went
            while not self.ended():
                mount = mountinfo.at(mountinfo.read(), self.places.mount)
                if mount is not None and mount.fstype == mountinfo.FUSE_GLUSTERFS:
                    return mount.device
                if (remaining := deadline - time.monotonic()) <= 0:
                    break
                poll.poll(remaining * 1000)
        return None

    def _check_root(self, device: int, timeout_s: float) -> None:
        def look() -> os.stat_result:
            return os.stat(self.places.mount)

        root = self._threads.run("root", look, timeout_s=timeout_s, what="stat")
        if (root.st_dev, root.st_ino) != (device, _ROOT_INODE) or not stat.S_ISDIR(root.st_mode):
            raise MounterError("another directory is in its place")

    def wait_end(self, timeout_s: float) -> bool:
        """Whether the client has ended; waits up to `timeout_s` for it."""
        if self._ended:
            return True
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        if not poll.poll(timeout_s * 1000):
            return False
        if self._process is not None:
            self._process.wait()  # it is a zombie until somebody has asked
        self._ended = True
        return True

    def wake(self) -> None:
        """Ends the `rest` that is, or the next one. Called in any thread."""
        with self._forgetting:
            if self._woken >= 0:
                os.eventfd_write(self._woken, 1)

    def rest(self, timeout_s: float) -> bool:
        """Waits up to `timeout_s` for the client's end or a `wake`; True if it was the latter."""
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        poll.register(self._woken, select.POLLIN)
        poll.poll(timeout_s * 1000)
        try:
            os.eventfd_read(self._woken)
        except BlockingIOError:
            return False
        return True

    def ended(self) -> bool:
        """Whether the client has ended."""
        return self.wait_end(0)

    def kill(self) -> None:
        """Ends the client at once. Every call on its mount fails from then on, and calls that hang return."""
        if not self.ended():
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            self.wait_end(10)

    def rotate_log(self, max_bytes: int = 16 << 20) -> None:
        """Begins a new log, and keeps the one before, if it has grown beyond `max_bytes`."""
        try:
            if os.path.getsize(self.places.log) > max_bytes:
                os.replace(self.places.log, self.places.log + ".1")
                signal.pidfd_send_signal(self._pidfd, signal.SIGHUP)
        except (FileNotFoundError, ProcessLookupError):
            pass

    def last_words(self) -> str:
        """The last error in the client's log, or where the log is."""
        try:
            with open(self.places.log, "rb") as log:
                log.seek(max(0, os.path.getsize(self.places.log) - _LOG_TAIL_BYTES))
                lines = [match for line in log if (match := _LOG_LINE.match(line))]
        except OSError:
            lines = []
        errors = [line for line in lines if line[1] != b"W"] or lines
        if not errors:
            return f"see {self.places.log}"
        return errors[-1][2].decode("utf-8", "replace").strip()

    def forget(self) -> None:
        """Lets go of the process, which has ended, without a word more of it."""
        os.close(self._pidfd)
        with self._forgetting:
            os.close(self._woken)
            self._woken = -1
