"""A glusterd of the machine's own beside the brick hosts: no emulated CPU between a call and its answer, and no quotas.

It lives in namespaces of its own, in which its directories are empty: killing the first process there ends all of it.
Each brick of a volume is on an XFS of its own, as the driver wants it, in a file.
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.testbed import progress
from tests.testbed.errors import CommandFailed
from tests.testbed.sandbox import Sandbox
from tests.testbed.volumes import online_bricks

ADDRESS: Final = "10.99.0.1"
"""Gluster takes no loopback address for a brick host's."""

_OWN: Final = ("/var/lib/glusterd", "/var/log/glusterfs", "/run")
_DISKS: Final = 3
_DISK_BYTES: Final = 20 << 30
_STARTED_S: Final = 60.0
_DESCRIPTORS: Final = 4096
"""Gluster's daemons close every descriptor that they might have."""

_VOLFILE: Final = f"""\
volume management
    type mgmt/glusterd
    option working-directory /var/lib/glusterd
    option transport-type socket
    option transport.socket.bind-address {ADDRESS}
    option transport.socket.listen-port 24007
    option ping-timeout 0
    option event-threads 1
    option max-port 60999
end-volume
"""


class Native:
    """A running one. Its volumes go with it."""

    def __init__(self, sandbox: Sandbox, pid: int, bricks: Path) -> None:
        self._sandbox = sandbox
        self._pid = pid
        self._bricks = bricks

    def gluster(self, *words: str) -> str:
        """What `gluster WORDS` prints. Raises: CommandFailed."""
        argv = ["nsenter", "-t", str(self._pid), "-m", "-p", "--", "gluster", "--mode=script", *words]
        return self._sandbox.run(argv, timeout=120).stdout

    def create(self, name: str, *, replicas: int = 3) -> None:
        """A started volume of `replicas` bricks, 1 for a plain brick."""
        kind = ["replica", str(replicas)] if replicas > 1 else []
        bricks = [f"{ADDRESS}:{self._bricks}/{n}/{name}" for n in range(replicas)]
        self.gluster("volume", "create", name, *kind, *bricks, "force")
        self.gluster("volume", "start", name)
        progress.wait_until(
            f"{name} to be served",
            lambda: online_bricks(self.gluster("volume", "status", name, "--xml")) == replicas,
            seconds=_STARTED_S,
        )

    def answers(self) -> bool:
        """Whether its glusterd does."""
        try:
            self.gluster("volume", "list")
        except CommandFailed:
            return False
        return True


@contextmanager
def running(sandbox: Sandbox) -> Iterator[Native]:
    """For a while; what it had is gone afterwards."""
    bricks = sandbox.disk_dir / "native"
    for number in range(_DISKS):
        _mount_disk(sandbox, bricks / str(number))
    sandbox.run(["ip", "address", "replace", f"{ADDRESS}/32", "dev", "lo"])
    unshare = ["unshare", "--mount", "--pid", "--fork", "--kill-child=KILL", "--mount-proc", "--"]
    with (sandbox.log_dir / "native.log").open("wb") as log:
        outer = subprocess.Popen([*unshare, sys.executable, "-m", "benchmarks.native"], stdout=log, stderr=log)
    try:
        children = Path(f"/proc/{outer.pid}/task/{outer.pid}/children")
        pid = int(progress.wait_until("glusterd's namespaces", lambda: children.read_text().split(), seconds=10)[0])
        native = Native(sandbox, pid, bricks)
        progress.wait_until("glusterd to answer", native.answers, seconds=_STARTED_S)
        yield native
    finally:
        outer.kill()
        outer.wait()
        for number in range(_DISKS):
            sandbox.run(["umount", "--lazy", str(bricks / str(number))])
        shutil.rmtree(bricks)


def _mount_disk(sandbox: Sandbox, directory: Path) -> None:
    directory.mkdir(parents=True)
    image = directory.with_suffix(".img")
    with image.open("wb") as file:
        file.truncate(_DISK_BYTES)
    sandbox.run(["mkfs.xfs", "-q", str(image)])
    sandbox.run(["mount", "-o", "loop", str(image), str(directory)])


def _main() -> None:
    """The first process of the namespaces: empty directories, then glusterd in the place of this program."""
    for directory in _OWN:
        os.makedirs(directory, exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", directory], check=True)
    os.mkdir("/run/gluster")
    Path("/run/glusterd.vol").write_text(_VOLFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (_DESCRIPTORS, _DESCRIPTORS))
    os.execvp("glusterd", ["glusterd", "-N", "-f", "/run/glusterd.vol", "-l", "/var/log/glusterfs/glusterd.log"])  # noqa: S606


if __name__ == "__main__":
    _main()
