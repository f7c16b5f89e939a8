"""Volumes of every kind that must hold at the limit, PVs made on them as the CSI controller makes them, and two nodes
whose clients are those of the real mounter."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from errno import ENOTCONN
from functools import partial
from pathlib import Path
from typing import Final

import grpc

from kadalu_ext import mountinfo, mounting
from kadalu_ext.api import mounter_pb2, mounter_pb2_grpc
from kadalu_ext.csi.clients import Clients, StorageClient
from kadalu_ext.csi.connection import GlusterConnector
from kadalu_ext.errors import InProgressError, NotEnforcedError, UnavailableError, VolumeIOError
from kadalu_ext.gluster import feed, volfile
from kadalu_ext.gluster.clientvolfile import client_volfile
from kadalu_ext.gluster.feed import Source
from kadalu_ext.layout import pv_path
from kadalu_ext.log import Logger
from kadalu_ext.record import PvName, QuotaRecord
from kadalu_ext.storage import Storage, StorageName
from tests.testbed import deb, paths, progress
from tests.testbed.brickhosts import BrickHost, BrickHosts
from tests.testbed.errors import Unmet

HOSTS: Final = ("brick1", "brick2", "brick3")
KINDS: Final = {
    "lim-rep": "replica 3",
    "lim-arb": "replica 3 arbiter 1",
    "lim-ec3": "disperse 3 redundancy 1",
    "lim-ec6": "disperse 6 redundancy 2",
}
SECONDS: Final = 240.0
CALL_S: Final = 20.0
HEAL_SECONDS: Final = 600.0
TRIM: Final = paths.REPOSITORY / "examples/trim-fragments.py"
SECOND: Final = "/bricks2"
"""Where each host's second file system is: two bricks of a volume on one are refused (SharedFileSystem)."""

_SECOND_DISK_BYTES: Final = 2 << 30


def storage(volume: str, hosts: Sequence[str] = HOSTS, options: Mapping[str, str] | None = None) -> Storage:
    return Storage(name=StorageName(volume), hosts=tuple(hosts), volume=volume, options=options or {})


class Node:
    """A node of Kubernetes as far as its mounter."""

    def __init__(self, directory: Path, run: Path) -> None:
        self.directory = directory
        self._pids: dict[str, int] = {}
        words = [f"--dir={directory}", f"--run-dir={run}/volfiles", f"--storages={run}/storages", f"--tls={run}/tls"]
        with (run / "mounter.log").open("ab") as log:
            argv = [sys.executable, "-m", "kadalu_ext.mounter.main", *words]
            self._mounter = subprocess.Popen(argv, stderr=log, cwd=paths.REPOSITORY)
        self._channel = grpc.insecure_channel(f"unix:{directory}/mounter.sock")
        self._stub = mounter_pb2_grpc.MounterStub(self._channel)

    def mount(self, storage: Storage) -> Path:
        """The storage's mount on this node."""
        request = mounter_pb2.MountRequest(
            storage=storage.name, hosts=storage.hosts, volume=storage.volume, options=storage.options
        )
        return Path(self._stub.Mount(request, timeout=SECONDS, wait_for_ready=True).path)

    def mounts(self, volumes: Iterable[str]) -> Path:
        """The directory with the mounts of all these volumes, by their names."""
        (found,) = {self.mount(storage(volume)).parent for volume in volumes}
        return found

    def clients(self) -> dict[str, str]:
        """The state of each storage's client."""
        known = self._stub.List(mounter_pb2.ListRequest(), timeout=20, wait_for_ready=True).storages
        return {each.storage: f"{mounter_pb2.StorageStatus.State.Name(each.state)} {each.reason}" for each in known}

    def processes(self) -> dict[str, int]:
        """The clients' process ids, by mount."""
        found = {}
        for pid in filter(str.isdecimal, os.listdir("/proc")):
            try:
                words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")[:-1]
            except (FileNotFoundError, ProcessLookupError):
                continue
            if words and os.path.basename(words[0]) == "glusterfs" and words[-1].startswith(f"{self.directory}/"):
                found[os.path.basename(words[-1])] = int(pid)
        return found

    def stop(self) -> None:
        self._channel.close()
        self._mounter.kill()
        self._mounter.wait()
        for pid in self.processes().values():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for mount in reversed([each for each in mountinfo.read() if each.path.startswith(f"{self.directory}")]):
            mounting.unmount(mount.path, lazily=True)


class Site:
    """The volumes, the CSI controller's half of a PV, and two nodes. kinds: of the volumes, by their names."""

    def __init__(
        self, hosts: BrickHosts, kinds: Mapping[str, str], nodes: Sequence[Node], clients: Clients, scratch: Path
    ) -> None:
        self.hosts = hosts
        self.kinds = kinds
        self.nodes = nodes
        self._clients = clients
        self._scratch = scratch

    def create(self, volume: str, name: str, size_bytes: int) -> list[Path]:
        """A PV that every brick that is up was seen to enforce; where it is on each node."""
        record = QuotaRecord(path=pv_path(PvName(name)), size_bytes=size_bytes)
        self._retry(volume, lambda client: client.create(record, timeout_s=CALL_S))
        return [node.mount(storage(volume)) / pv_path(PvName(name)) for node in self.nodes]

    def expand(self, volume: str, name: str, size_bytes: int) -> None:
        """It has another size, and every brick that is up enforces it."""
        self._retry(volume, lambda client: client.grow(PvName(name), size_bytes, timeout_s=CALL_S))

    def _retry(self, volume: str, call: Callable[[StorageClient], object]) -> None:
        """As Kubernetes calls, again and again. A brick that a client has missed at its start needs a heal."""
        said = [""]

        def done() -> bool:
            try:
                call(self._clients.of(storage(volume)))
            except (NotEnforcedError, UnavailableError, InProgressError, VolumeIOError) as error:
                # a full PV with an arbiter has another size at once, and cannot be looked up before it has healed
                if isinstance(error, VolumeIOError) and error.errno != ENOTCONN:
                    raise
                said.append(str(error))
                on = next(host for host in self.hosts.hosts if host.state == "on")
                on.run(["gluster", "volume", "heal", volume], check=False)
                return False
            return True

        try:
            progress.wait_until(f"a PV on {volume}", done, seconds=SECONDS)
        except Unmet as error:
            raise Unmet(f"{error}: {said[-1]}") from error

    def delete(self, volume: str, name: str) -> None:
        self._clients.of(storage(volume)).delete(PvName(name), timeout_s=SECONDS)

    def heal(self, volumes: Sequence[str]) -> None:
        """Returns when nothing on any brick waits for self-heal any more."""
        for volume in volumes:
            healed = partial(self._healed, volume)
            progress.wait_until(f"{volume} to be healed", healed, seconds=HEAL_SECONDS, interval=1)

    def trim(self, volume: str) -> None:
        """What an administrator does for a disperse volume whose files cannot be read or healed."""
        for host in self.hosts.hosts:
            host.run(["python3", "-", "--trim", *bricks_on(volume, host)], input=TRIM.read_text())

    def _healed(self, volume: str) -> bool:
        # soon after a brick has started it is refused
        first = self.hosts.host("brick1")
        first.run(["gluster", "volume", "heal", volume], check=False)
        if any(self.waiting(volume).values()):
            return False
        shown = first.run(["gluster", "volume", "heal", volume, "info"], check=False).stdout.splitlines()
        counts = {line for line in shown if line.startswith("Number of entries:")}
        return counts == {"Number of entries: 0"} and "Transport endpoint" not in str(shown)

    def waiting(self, volume: str) -> dict[str, int]:
        """How many files wait for heal, by brick; a host that cannot be asked is left out."""
        found = {}
        for host in self.hosts.hosts:
            if host.state == "on":
                for brick in bricks_on(volume, host):
                    indices = [f"{brick}/.glusterfs/indices/{index}" for index in ("xattrop", "dirty")]
                    find = ["find", *indices, "-type", "f", "!", "-name", "xattrop-*", "!", "-name", "dirty-*"]
                    found[f"{host.name}:{brick}"] = len(host.run(find, check=False).stdout.splitlines())
        return found

    def wait_back(self, host: BrickHost, volumes: Sequence[str]) -> None:
        """After it was away: its bricks are online, and kadalu-quotad runs."""
        for volume in volumes:
            self.hosts.wait_online(volume, seconds=SECONDS)
        progress.wait_until(
            f"kadalu-quotad on {host.name}",
            lambda: host.run(["systemctl", "is-active", "kadalu-quotad"], check=False).returncode == 0,
            seconds=SECONDS,
        )

    @contextmanager
    def reader(self, volume: str, *, without: str | None = None) -> Iterator[Path]:
        """A new client of ours, as the mounter would start it if the host `without` were silent."""
        where = storage(volume)
        text = volfile.render(
            client_volfile(
                feed.fetch(Source(volume=volume, hosts=where.hosts)), options={}, hidden={without} if without else ()
            )
        )
        target = self._scratch / f"{volume}-without-{without}-{time.monotonic_ns()}"
        target.mkdir()
        target.with_suffix(".vol").write_text(text)
        log = target.with_suffix(".log")
        argv = ["glusterfs", f"--volfile={target}.vol", f"--log-file={log}", "--attribute-timeout=0", str(target)]
        progress.run_logged(argv, log=target.with_suffix(".out"))
        try:
            progress.wait_until(f"the client of {volume}", partial(answers, target), seconds=SECONDS)
            yield target
        finally:
            progress.run_logged(["umount", "--lazy", str(target)], log=target.with_suffix(".out"))


def answers(mount: Path) -> bool:
    """Whether a client that has just started does; until then its root may be another file system's, or an error."""
    try:
        return mount.stat().st_ino == 1
    except OSError:
        return False


def bricks_on(volume: str, host: BrickHost) -> list[str]:
    """Paths of the volume's bricks on a host."""
    return [f"/bricks/{volume}"] + [f"{SECOND}/{volume}"] * (volume == "lim-ec6")


def _add_file_system(host: BrickHost) -> None:
    """One that is there again after a power cut."""
    if host.run(["mountpoint", "-q", SECOND], check=False).returncode == 0:
        return
    device = host.plug_disk(_SECOND_DISK_BYTES, stays=True)
    progress.wait_until(device, lambda: host.run(["test", "-b", device], check=False).returncode == 0, seconds=SECONDS)
    host.run(["mkfs.xfs", "-q", device])
    host.run(["mkdir", "-p", SECOND])
    host.run(["tee", "-a", "/etc/fstab"], input=f"{device} {SECOND} xfs prjquota 0 0\n")
    host.run(["systemctl", "daemon-reload"])
    host.run(["mount", SECOND])
    host.run(["sync"])


def create_volume(hosts: BrickHosts, volume: str) -> None:
    words = [f"{host.name}:{brick}" for host in hosts.hosts for brick in bricks_on(volume, host)]
    hosts.gluster("volume", "create", volume, *KINDS[volume].split(), *words, "force")
    threads = "disperse.shd-max-threads" if "disperse" in KINDS[volume] else "cluster.shd-max-threads"
    hosts.gluster("volume", "set", volume, threads, "4")
    hosts.start_volume(volume)


@contextmanager
def connected(hosts: BrickHosts, kinds: Mapping[str, str], directory: Path) -> Iterator[Site]:
    """A controller's clients and two nodes, of volumes that there are, and that kadalu-quotad serves."""
    nodes: list[Node] = []
    clients = Clients(connector=GlusterConnector(), log=Logger("test"))
    try:
        for number in (1, 2):
            node, run = directory / f"node{number}", directory / f"run{number}"
            node.mkdir()
            run.mkdir()
            # on a file system of its own: mount points are immutable, and pytest could not remove them
            subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=0755", "tmpfs", str(node)], check=True)
            nodes.append(Node(node, run))
        yield Site(hosts, kinds, nodes, clients, directory)
    finally:
        clients.close()
        for each in nodes:
            each.stop()


@contextmanager
def served(hosts: BrickHosts, volumes: Sequence[str], directory: Path) -> Iterator[Site]:
    """All of it, with kadalu-quotad on every host; nothing is left afterwards but the second file systems."""
    if "lim-ec6" in volumes:
        hosts.together(_add_file_system)
    for volume in volumes:
        create_volume(hosts, volume)
    package = deb.install(hosts, list(volumes))
    # a power cut would undo it within half a minute
    hosts.together(lambda host: host.run(["sync"]))
    try:
        with connected(hosts, {volume: KINDS[volume] for volume in volumes}, directory) as site:
            yield site
    finally:

        def purge(host: BrickHost) -> None:
            host.run(["dpkg", "--purge", "kadalu-quotad"])
            host.run(["rm", deb.LIST, f"/tmp/{package}"])

        for volume in volumes:
            hosts.delete_volume(volume)
        hosts.together(purge)
