"""How one brick host is booted: the command line of its user-mode-linux kernel, and what the CPU needs for it."""

from __future__ import annotations

import dataclasses
import hashlib
import socket
import struct
import subprocess
from pathlib import Path

from . import host, paths, progress, rootfs
from .errors import BedError

MEMORY = "640M"

_MCONSOLE_MAGIC = 0xCAFEBABE
_MCONSOLE_VERSION = 2
_SHIM = Path(__file__).with_name("xstate_shim.c")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Guest:
    """One brick host as its kernel is told of it.  Addresses and taps are those of the sandbox's network.

    second: the image of a second disk, which need not exist.
    """

    name: str
    number: int
    address: str
    image: Path
    cow: Path
    brick: Path
    second: Path
    socket_dir: Path

    @property
    def tap(self) -> str:
        """The guest's end of the bridge, in the sandbox."""
        return f"tap{self.number}"

    @property
    def mac(self) -> str:
        """The guest's own: locally administered, and the same after every boot."""
        return f"02:00:0a:4d:00:{10 + self.number:02x}"

    def argv(self) -> list[str]:
        """The command that boots it."""
        machine_id = hashlib.sha256(f"kadalu-ext {self.name}".encode()).hexdigest()[:32]
        return [
            str(rootfs.KERNEL),
            f"mem={MEMORY}",
            f"umid={self.name}",
            f"uml_dir={self.socket_dir}",
            f"ubda={self.cow},{self.image}",
            f"ubdb={self.brick}",
            *([f"ubdd={self.second}"] if self.second.exists() else []),
            f"vec0:transport=tap,ifname={self.tap},depth=128,gro=1,mac={self.mac}",
            "root=/dev/ubda",
            "rw",
            "net.ifnames=0",
            f"systemd.hostname={self.name}",
            f"systemd.machine_id={machine_id}",
            f"systemd.setenv=BRICK_ADDRESS={self.address}",
            "quiet",
            "con=null",
            "con0=fd:0,fd:1",
        ]


def plug_disk(guest: Guest, disk: Path) -> str:
    """Gives a running guest another disk, by its console's socket (Linux: arch/um/drivers/mconsole_kern.c); the device.

    Raises:
        BedError: the guest says no.
    """
    unit = "ubdd" if disk == guest.second else "ubdc"
    command = f"config {unit}={disk}".encode()
    here = guest.socket_dir / guest.name / "plug"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as console:
        console.settimeout(20)
        console.bind(str(here))
        try:
            request = struct.pack("=III512s", _MCONSOLE_MAGIC, _MCONSOLE_VERSION, len(command), command)
            console.sendto(request, str(guest.socket_dir / guest.name / "mconsole"))
            reply = console.recv(4096)
        finally:
            here.unlink()
    failed, _, length = struct.unpack_from("=III", reply)
    if failed:
        raise BedError(
            f"{guest.name} does not take the disk {disk}: {reply[12 : 12 + length].decode(errors='replace')}"
        )
    return f"/dev/{unit}"


def environment() -> dict[str, str]:
    """What to add to the kernel's environment: on a CPU with AMX the shim, built on first use."""
    if not host.has_amx():
        return {}
    return {"LD_PRELOAD": str(paths.cached("xstate-shim", paths.cache_key(_SHIM), _build_shim) / "xstate_shim.so")}


def _build_shim(target: Path) -> None:
    host.install(host.COMPILER_PACKAGES)
    argv = ["gcc", "-shared", "-fPIC", "-O2", "-Wall", "-Werror", "-o", str(target / "xstate_shim.so"), str(_SHIM)]
    with progress.step("xstate shim for the AMX CPU (gcc)"):
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BedError(f"{' '.join(argv)} failed: {done.stderr.strip()}")
