"""The brick hosts: real Debian installations in user-mode-linux guests, with systemd, glusterd and an XFS brick.

They are ``brick1`` to ``brick3`` in the sandbox's network and in each other's eyes.  A brick host is a process here:
killing it is a power cut, taking its tap out of the bridge is a cut network cable.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from . import progress, rootfs, uml
from .errors import BedError, CommandFailed, Unmet
from .rootfs import IMAGE, KEY
from .sandbox import BRICK_ADDRESSES, BRIDGE, Sandbox
from .volumes import Volume, connected_peers, create_argv, online_bricks, parse_volumes

T = TypeVar("T")

BRICK_SIZE_BYTES = 8 << 30

_BOOT_SECONDS = 180
# A bound for hangs, far above what anything takes: guests have one emulated processor, and may get little of it.
_SLOW_SECONDS: Final = 300.0
_SSH_FAILED = 255


class BrickHost:
    """One brick host, on or off."""

    def __init__(self, sandbox: Sandbox, name: str) -> None:
        self.name = name
        self.address = BRICK_ADDRESSES[name]
        self.log = sandbox.log_dir / f"{name}.log"
        self._sandbox = sandbox
        self._key = sandbox.disk_dir / KEY
        self._guest = uml.Guest(
            name=name,
            number=int(name.removeprefix("brick")),
            address=self.address,
            image=sandbox.disk_dir / IMAGE,
            cow=sandbox.disk_dir / f"{name}.cow",
            brick=sandbox.disk_dir / f"{name}.img",
            second=sandbox.disk_dir / f"{name}-second.img",
            socket_dir=sandbox.run_dir / "uml",
        )

    @property
    def state(self) -> str:
        """``on``, ``off``, or ``cut`` (on, but its network is cut)."""
        if self._process() is None:
            return "off"
        return "cut" if self._remembered().get("cut") else "on"

    def run(
        self,
        argv: Sequence[str],
        *,
        check: bool = True,
        timeout: float | None = _SLOW_SECONDS,
        input: str | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run `argv` on it as root over ssh (about 0.1 s, for the connection is kept).

        Raises:
            CommandFailed: it ended with another status than 0 (with `check`; 255 also means that ssh itself failed), or
                not within `timeout` seconds; then it may still run.
        """
        try:
            done = self._sandbox.run([*self.ssh_argv(), shlex.join(argv)], timeout=timeout, input=input, check=check)
        except CommandFailed as error:
            raise CommandFailed([f"{self.name}:", *argv], error.status, error.output) from None
        return subprocess.CompletedProcess(list(argv), done.returncode, done.stdout, done.stderr)

    def put(self, local: Path, remote: str) -> None:
        """Copy the file or directory `local` to path `remote` on it."""
        target = f"root@{self.address}:{remote}"
        copy = ["scp", "-q", "-r", *self._ssh_options(), str(Path(local).absolute()), target]
        self._sandbox.run(copy, timeout=_SLOW_SECONDS)

    def ssh_argv(self, *flags: str) -> list[str]:
        """The words before a shell command line that run it on this host, from within the sandbox."""
        return ["ssh", *flags, *self._ssh_options(), f"root@{self.address}"]

    def install_disks(self) -> None:
        """Give it an empty XFS brick and its tap: what happens once, before it is first switched on."""
        with self._guest.brick.open("wb") as brick:
            brick.truncate(BRICK_SIZE_BYTES)
        self._sandbox.run(["mkfs.xfs", "-q", str(self._guest.brick)])
        self._sandbox.run(["ip", "tuntap", "add", self._guest.tap, "mode", "tap"])
        self._sandbox.run(["ip", "link", "set", self._guest.tap, "master", BRIDGE, "up"])
        self._remember(cut=False)

    def plug_disk(self, size_bytes: int, *, stays: bool = False) -> str:
        """Give it one more empty disk while it runs; its device there.

        It is gone when the host is switched off, unless it `stays`: such a one is never taken out again.
        """
        disk = self._guest.second if stays else self._guest.brick.with_name(f"{self.name}-more.img")
        with disk.open("wb") as content:
            content.truncate(size_bytes)
        return uml.plug_disk(self._guest, disk)

    def power_on(self) -> None:
        """Boot it and wait until systemd has started everything, which does not mean that nothing failed.

        Its peers and clients find it a little later: see `BrickHosts.wait_joined` and `BrickHosts.wait_online`.

        Raises:
            BedError: it is on, its network is cut, or it ended instead of booting.
            Unmet: it does not answer in time.
        """
        if self.state != "off":
            raise BedError(f"{self.name} is on already")
        if self._remembered().get("cut"):
            raise BedError(f"{self.name}'s network is cut: uncut it before it is switched on")
        self._forget_boot()
        self._guest.socket_dir.mkdir(exist_ok=True)
        self._sandbox.detach(self._guest.argv(), log=self.log, env=uml.environment())
        try:
            progress.wait_until(f"{self.name} to be switched on", self._process, seconds=60)
            progress.wait_until(f"{self.name} to boot", self._booted, seconds=_BOOT_SECONDS)
        except Unmet as error:
            raise Unmet(f"{error}; its console says:\n{progress.tail(self.log, 20)}") from None

    def power_off(self) -> None:
        """Cut its power: what it has not written to its disks is lost.  Nothing to do if it is off."""
        pid = self._process()
        if pid is None:
            return
        # The kernel made itself the leader of a group that holds its guest processes, which must not outlive it.
        group = ["--", f"-{pid}"]
        self._sandbox.run(["kill", "-KILL", *group], check=False)
        progress.wait_until(
            f"{self.name}'s processes to end",
            lambda: self._sandbox.run(["kill", "-0", *group], check=False).returncode != 0,
            seconds=60,
        )
        self._forget_boot()

    def shut_down(self) -> None:
        """Let systemd power it off in order.

        Raises:
            Unmet: it is still on after five minutes; systemd gives each service one and a half.
        """
        self.run(["systemctl", "--no-block", "poweroff"])
        progress.wait_until(f"{self.name} to shut down", lambda: self._process() is None, seconds=_SLOW_SECONDS)
        self._forget_boot()

    def cut(self) -> None:
        """Cut its network: it lives on, and packets to and from it vanish without an answer."""
        # Without an entry the sandbox would say EHOSTUNREACH after three seconds, which silence does not.
        entry = ["ip", "neighbour", "replace", self.address, "lladdr", self._guest.mac, "dev", BRIDGE]
        self._sandbox.run([*entry, "nud", "permanent"])
        # Setting the tap down instead would leave the guest's network dead for good.
        self._sandbox.run(["ip", "link", "set", self._guest.tap, "nomaster"])
        self._remember(cut=True)
        # TCP would wait longer and longer before it tries again, and the first command after `uncut` with it.
        self._hang_up()

    def uncut(self) -> None:
        """Undo `cut`; nothing to do is no error."""
        self._sandbox.run(["ip", "link", "set", self._guest.tap, "master", BRIDGE])
        self._sandbox.run(["ip", "neighbour", "delete", self.address, "dev", BRIDGE], check=False)
        self._remember(cut=False)

    def _ssh_options(self) -> list[str]:
        options = {
            "BatchMode": "yes",
            "StrictHostKeyChecking": "no",
            "UserKnownHostsFile": "/dev/null",
            "LogLevel": "ERROR",
            "ConnectTimeout": "15",
            "ControlMaster": "auto",
            "ControlPersist": "yes",
            "ControlPath": str(self._control_socket),
        }
        return ["-F", "none", "-i", str(self._key), *(f"-o{name}={value}" for name, value in options.items())]

    @property
    def _control_socket(self) -> Path:
        return self._sandbox.run_dir / f"ssh-{self.name}"

    def _hang_up(self) -> None:
        """End the kept connection, if there is one."""
        self._sandbox.run(["ssh", "-O", "exit", *self.ssh_argv()[1:]], check=False, timeout=60)
        self._control_socket.unlink(missing_ok=True)

    def _forget_boot(self) -> None:
        """Drop what belongs to one boot: the kept connection, on which commands would wait, and the kernel's pid."""
        self._hang_up()
        shutil.rmtree(self._guest.socket_dir / self.name, ignore_errors=True)

    def _booted(self) -> bool:
        if self._process() is None:
            raise BedError(f"{self.name} ended while it booted; its console says:\n{progress.tail(self.log, 20)}")
        try:
            done = self.run(["systemctl", "is-system-running", "--wait"], check=False, timeout=_BOOT_SECONDS)
        except CommandFailed:
            return False
        return done.returncode != _SSH_FAILED and done.stdout.strip() in ("running", "degraded")

    def _process(self) -> int | None:
        """The process id of its kernel, as the sandbox sees it, if it is on."""
        try:
            pid = (self._guest.socket_dir / self.name / "pid").read_text().strip()
        except FileNotFoundError:
            return None
        # The file outlives a killed kernel, and its number may be someone else's by now.
        command = self._sandbox.run(["cat", f"/proc/{pid}/cmdline"], check=False).stdout.split("\0")
        return int(pid) if f"umid={self.name}" in command else None

    def _remembered(self) -> dict[str, Any]:
        known = self._sandbox.state().get(self.name, {})
        return known if isinstance(known, dict) else {}

    def _remember(self, **fields: bool) -> None:
        self._sandbox.save_state({self.name: {**self._remembered(), **fields}})


class BrickHosts:
    """The brick hosts of one sandbox, and the Gluster cluster that they form."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox
        known = sandbox.state()
        self.hosts = [BrickHost(sandbox, name) for name in BRICK_ADDRESSES if name in known]

    def start(self, n: int = 3) -> None:
        """Install, boot and join `n` brick hosts.

        Raises:
            BedError: there are some already, or one does not come up.
        """
        if self.hosts:
            raise BedError("this sandbox has brick hosts already")
        image = rootfs.image()
        uml.environment()
        for name in (IMAGE, KEY):
            # A name of our own for it: the cache may be renewed or emptied while these hosts live.
            os.link(image.with_name(name), self.sandbox.disk_dir / name)
        hosts = [BrickHost(self.sandbox, name) for name in list(BRICK_ADDRESSES)[:n]]
        with progress.step(f"Brick hosts boot ({', '.join(host.name for host in hosts)})"):
            for host in hosts:
                host.install_disks()
            self.hosts = hosts
            self.together(BrickHost.power_on)
        with progress.step("Gluster peers"):
            self._join()

    def wait_joined(self, *, seconds: float = _SLOW_SECONDS) -> None:
        """Wait until every host sees every other as a connected peer; until then gluster refuses some commands.

        Raises:
            Unmet: they do not within `seconds`.
        """

        def wait(host: BrickHost) -> None:
            progress.wait_until(f"{host.name} to see all peers", partial(self._sees_all, host), seconds=seconds)

        self.together(wait)

    def host(self, name: str) -> BrickHost:
        """The brick host `name`.

        Raises:
            BedError: there is none.
        """
        for host in self.hosts:
            if host.name == name:
                return host
        raise BedError(f"no brick host {name!r}: there are {', '.join(h.name for h in self.hosts) or 'none'}")

    def together(self, action: Callable[[BrickHost], T]) -> list[T]:
        """What ``action(host)`` returns for each host, called for all at the same time; the first error is raised."""
        pool = ThreadPoolExecutor(len(self.hosts))
        try:
            return [outcome.result() for outcome in [pool.submit(action, host) for host in self.hosts]]
        finally:
            # Not wait for the others: after Ctrl-C they end when the sandbox does.
            pool.shutdown(wait=False)

    def gluster(self, *words: str, timeout: float = _SLOW_SECONDS) -> str:
        """Run ``gluster WORDS`` on the first host that answers to commands; its standard output."""
        return self._first_on().run(["gluster", "--mode=script", *words], timeout=timeout).stdout

    def create_volume(self, name: str, kind: str, bricks: Sequence[str] | None = None, *, start: bool = True) -> None:
        """Create volume `name` with a brick on each host of `bricks` (all hosts, if not given), and start it.

        For `kind` see `volumes.create_argv`.  A started volume has all its bricks online when this returns.
        """
        hosts = list(bricks) if bricks is not None else [host.name for host in self.hosts]
        self._first_on().run(create_argv(name, kind, hosts))
        if start:
            self.start_volume(name)
        self._sync()

    def start_volume(self, name: str) -> None:
        """Start volume `name` and wait until every brick of it is online."""
        self.gluster("volume", "start", name)
        self.wait_online(name)

    def wait_online(self, name: str, *, seconds: float = _SLOW_SECONDS) -> None:
        """Wait until every brick of the started volume `name` is online, as after `BrickHost.power_on`.

        Raises:
            Unmet: one is not within `seconds`.
        """
        count = len(self._volume(name).bricks)

        def online() -> bool:
            # The bricks of a host whose glusterd the others do not see are not even in the list.
            # And while peers come and go, or another command has the cluster's lock, it is refused.
            done = self._first_on().run(["gluster", "--mode=script", "volume", "status", name, "--xml"], check=False)
            return done.returncode == 0 and online_bricks(done.stdout) == count

        progress.wait_until(f"the bricks of {name} to be online", online, seconds=seconds)

    def delete_volume(self, name: str) -> None:
        """Stop volume `name`, delete it, and remove its bricks' contents, so that the name can be used again."""
        volume = self._volume(name)
        if volume.status == "Started":
            self.gluster("volume", "stop", name, "force")
        # While a host does not see another, as when that was cut off or restarted just now, none is deleted.
        self.wait_joined()
        self.gluster("volume", "delete", name)
        paths = [brick.partition(":")[::2] for brick in volume.bricks]

        def remove(host: BrickHost) -> None:
            if own := [path for name, path in paths if name == host.name]:
                # A brick that is still ending may write what a health check writes, into what is being removed.
                progress.wait_until(
                    f"{', '.join(own)} to be gone from {host.name}",
                    lambda: host.run(["rm", "-rf", "--one-file-system", *own], check=False).returncode == 0,
                    seconds=_SLOW_SECONDS,
                )

        self.together(remove)

    def volumes(self) -> list[Volume]:
        """Every volume of the cluster."""
        return parse_volumes(self.gluster("volume", "info", "--xml"))

    def _volume(self, name: str) -> Volume:
        for volume in self.volumes():
            if volume.name == name:
                return volume
        raise BedError(f"there is no volume {name!r}")

    def status(self) -> dict[str, Any]:
        """What `status --json` says of the brick hosts and volumes; no volumes if no host can be asked."""
        hosts = [{"name": host.name, "address": host.address, "state": host.state} for host in self.hosts]
        try:
            known = self.volumes()
        except BedError:
            known = []
        listed = [{"name": v.name, "kind": v.kind, "status": v.status, "bricks": list(v.bricks)} for v in known]
        return {"brick_hosts": hosts, "volumes": listed}

    def _first_on(self) -> BrickHost:
        for host in self.hosts:
            if host.state == "on":
                return host
        raise BedError("no brick host is on")

    def _join(self) -> None:
        for host in self.hosts:
            if host.run(["systemctl", "is-active", "glusterd"], check=False).returncode != 0:
                journal = host.run(["journalctl", "--no-pager", "-n", "20", "-u", "glusterd"], check=False).stdout
                raise BedError(f"{host.name}: glusterd is not active:\n{journal}")
        for host in self.hosts[1:]:
            self.hosts[0].run(["gluster", "peer", "probe", host.name])
        self.wait_joined()
        self._sync()

    def _sync(self) -> None:
        """Put on disk what was set up: gluster does not, and a power cut within half a minute would undo it."""
        self.together(lambda host: host.run(["sync"]) if host.state == "on" else None)

    def _sees_all(self, host: BrickHost) -> bool:
        shown = host.run(["gluster", "pool", "list"], check=False).stdout
        return connected_peers(shown) == len(self.hosts)
