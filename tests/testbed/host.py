"""What the testbed wants of the machine: checked first, in plain words, and installed only where it is missing."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path

from . import paths, progress
from .errors import BedError, CommandFailed, Unsuitable

SANDBOX_PACKAGES = ("tini", "iproute2", "procps")
BRICK_PACKAGES = (
    *SANDBOX_PACKAGES,
    "user-mode-linux",
    "mmdebstrap",
    "openssh-client",
    "e2fsprogs",
    "xfsprogs",
    "glusterfs-client",
    "glusterfs-cli",
    "openssl",
)
COMPILER_PACKAGES = ("gcc", "libc6-dev")
GLUSTERD_PACKAGES = ("glusterfs-server",)

_POLICY = Path("/usr/sbin/policy-rc.d")
_POLICY_MARK = "# kadalu-ext testbed, removed when its apt-get ends"
_DEVICES = {
    "/dev/net/tun": "the brick hosts' network cards (taps)",
    "/dev/fuse": "mounting Gluster volumes",
}


def preflight() -> None:
    """Check what no package can mend.

    Raises:
        Unsuitable: one line that says what is missing and what it is wanted for.
    """
    release = os_release(Path("/etc/os-release").read_text())
    if (release.get("ID"), release.get("VERSION_ID")) != ("debian", "12"):
        found = release.get("PRETTY_NAME", "something else")
        raise Unsuitable(f"the testbed needs Debian 12 (for its user-mode-linux and Gluster packages), this is {found}")
    if platform.machine() != "x86_64":
        raise Unsuitable(f"the testbed needs an amd64 machine (user-mode-linux), this is {platform.machine()}")
    if os.geteuid() != 0:
        raise Unsuitable("the testbed needs root (namespaces, taps, mounts): run it as root")
    for device, purpose in _DEVICES.items():
        try:
            os.close(os.open(device, os.O_RDWR))
        except OSError as error:
            raise Unsuitable(f"{device} cannot be opened ({error.strerror}); it is wanted for {purpose}") from error


def os_release(text: str) -> dict[str, str]:
    """Parse os-release(5)."""
    pairs = (line.split("=", 1) for line in text.splitlines() if "=" in line and not line.startswith("#"))
    return {key: value.strip("\"'") for key, value in pairs}


def has_amx(cpuinfo: str | None = None) -> bool:
    """Whether the CPU has AMX, which user-mode-linux 6.1 cannot bear without `xstate_shim.c`."""
    text = Path("/proc/cpuinfo").read_text() if cpuinfo is None else cpuinfo
    return any(line.startswith("flags") and " amx_tile" in line for line in text.splitlines())


def missing(packages: Sequence[str]) -> list[str]:
    """Those of `packages` that are not installed."""
    query = ["dpkg-query", "-W", "-f", "${db:Status-Status} ${Package}\n", *packages]
    present = installed(subprocess.run(query, capture_output=True, text=True, check=False).stdout)
    return [package for package in packages if package not in present]


def installed(listing: str) -> set[str]:
    """The packages that a listing of "status package" lines shows as installed, not merely as configured once."""
    return {line.split()[1] for line in listing.splitlines() if line.startswith("installed ")}


def install(packages: Sequence[str]) -> list[str]:
    """Install those of `packages` that are missing, starting none of their services; return what was installed.

    Raises:
        BedError: apt-get failed, mostly because there is no network or no package of that name.
    """
    wanted = missing(packages)
    if not wanted:
        return []
    log = paths.cache_root() / "apt.log"
    argv = ["apt-get", "-y", "-o", "DPkg::Lock::Timeout=600", "--no-install-recommends", "install", *wanted]
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    with paths.lock(paths.cache_root() / ".apt.lock"), progress.step(f"apt-get install {' '.join(wanted)}"):
        if not missing(wanted):
            return []
        _clear_policy()
        ours = not _POLICY.exists()
        if ours:
            # The way Debian has for "install, but start nothing": exit status 101 forbids it.
            _POLICY.write_text(f"#!/bin/sh\n{_POLICY_MARK}\nexit 101\n")
            _POLICY.chmod(0o755)
        try:
            try:
                progress.run_logged(argv, log=log, env=environment)
            except CommandFailed:
                # Old package lists name files that are gone: fetch the lists once, and only then.
                progress.run_logged(["apt-get", "update"], log=log, env=environment)
                progress.run_logged(argv, log=log, env=environment)
        except CommandFailed as error:
            raise BedError(f"cannot install {' '.join(wanted)}: {apt_reason(log)}") from error
        finally:
            if ours:
                _clear_policy()
    return wanted


def apt_reason(log: Path) -> str:
    """Why apt failed, from the end of its log: its first error, for the later ones follow from that."""
    lines = progress.tail(log, 12).splitlines()
    reason = next((line for line in lines if line.startswith("E: ")), lines[-1] if lines else "it said nothing")
    return f"{reason} (a network with Debian's packages is needed; see {log})"


def _clear_policy() -> None:
    """Remove our policy-rc.d, also one that a killed run left; never an administrator's."""
    try:
        if _POLICY_MARK in _POLICY.read_text():
            _POLICY.unlink()
    except FileNotFoundError:
        pass
