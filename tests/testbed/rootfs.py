"""The root file system of the brick hosts: a plain Debian with Gluster's own packages, built once and kept.

The files of `brick_root/` are laid over it as they are.  What differs between hosts (name, address, machine id) comes
from the kernel's command line, so that all share one image below their copy-on-write files.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from . import host, paths, progress
from .errors import BedError, CommandFailed

PACKAGES = (
    "systemd-sysv",
    "udev",
    "iproute2",
    "procps",
    "kmod",
    "netbase",
    "openssh-server",
    "xfsprogs",
    "attr",
    "python3",
    "fuse3",
    "glusterfs-server",
    "glusterfs-client",
)
# Nothing that a brick host does, and each costs boot time in a guest.
MASKED = (
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "fstrim.timer",
    "getty.target",
    "systemd-logind.service",
    "systemd-user-sessions.service",
    "systemd-update-utmp.service",
    "systemd-update-utmp-runlevel.service",
    "systemd-random-seed.service",
    "systemd-pstore.service",
    "systemd-binfmt.service",
    "proc-sys-fs-binfmt_misc.automount",
    "dev-hugepages.mount",
    "sys-kernel-debug.mount",
    "sys-kernel-tracing.mount",
    "sys-kernel-config.mount",
    "dev-mqueue.mount",
    "kmod-static-nodes.service",
    "modprobe@configfs.service",
    "modprobe@dm_mod.service",
    "modprobe@efi_pstore.service",
    "modprobe@loop.service",
    "systemd-modules-load.service",
    "systemd-sysctl.service",
    "systemd-sysusers.service",
)
ENABLED = ("brick-network.service", "glusterd.service", "ssh.service")
IMAGE = "root.img"
KEY = "id_ed25519"
KERNEL = Path("/usr/bin/linux.uml")

_SUITE = "bookworm"
_IMAGE_SIZE = "3G"
_OVERLAY = Path(__file__).with_name("brick_root")
_MODULES = Path("/usr/lib/uml/modules")
# Documentation and translations are read by nobody here.  gsyncd is geo-replication, on other systems a package of
# its own: where glusterd finds it, it runs it a dozen times at each start (8 to 20 s in a guest). Its hooks are for
# Samba, CTDB, Ganesha, SELinux and geo-replication, none of which is here: 7 s from a volume's creation to its end.
# systemd's generators but that of fstab find nothing to do, at the boot and at each reload, of which a package has two.
_EXCLUDED = (
    "/usr/share/doc/*",
    "/usr/share/man/*",
    "/usr/share/locale/*",
    "/usr/share/info/*",
    "/usr/lib/*/glusterfs/gsyncd",
    "/var/lib/glusterd/hooks/*",
    "/lib/systemd/system-generators/systemd-[!f]*",
)


def image() -> Path:
    """The finished root image, built if need be (half a minute); beside it lies the ssh key `KEY`.

    Images of other keys are thrown away: running brick hosts have a name of their own for theirs.
    """
    newest = paths.cached("rootfs", key(), _build)
    for old in paths.cache_root().glob("rootfs-*"):
        if old != newest:
            shutil.rmtree(old, ignore_errors=True)
    return newest / IMAGE


def key() -> str:
    """The cache key: this file, the kernel and `brick_root/`, but not the day's versions of Debian's packages."""
    overlay = [part for file in overlay_files() for part in (str(file.relative_to(_OVERLAY)), file)]
    return paths.cache_key(Path(__file__), kernel_version(), *overlay)


def overlay_files() -> list[Path]:
    """Every file of `brick_root/`, in a fixed order."""
    return sorted(path for path in _OVERLAY.rglob("*") if path.is_file())


def kernel_version() -> str:
    """The release of the installed user-mode-linux kernel, whose modules the guests load.

    Raises:
        BedError: its package is not installed.
    """
    try:
        (release,) = (path.name for path in _MODULES.iterdir())
    except (FileNotFoundError, ValueError) as error:
        raise BedError(f"{_MODULES} should hold the modules of one kernel: is user-mode-linux installed?") from error
    return release


def _build(target: Path) -> None:
    log = paths.cache_root() / "rootfs.log"
    root = target / "root"
    with progress.step("Debian root for the brick hosts (mmdebstrap)"):
        argv = ["mmdebstrap", "--mode=root", "--variant=minbase", f"--include={','.join(PACKAGES)}"]
        argv += [f"--dpkgopt=path-exclude={pattern}" for pattern in _EXCLUDED]
        try:
            progress.run_logged([*argv, _SUITE, str(root)], log=log, isolated=True)
        except CommandFailed as error:
            raise BedError(f"cannot build the brick hosts' root: {host.apt_reason(log)}") from error
    with progress.step("Brick hosts' root image (mke2fs)"):
        _furnish(root, target)
        # With a journal, though small: tests cut these hosts' power.
        argv = ["mke2fs", "-q", "-t", "ext4", "-J", "size=16", "-d", str(root), str(target / IMAGE), _IMAGE_SIZE]
        progress.run_logged(argv, log=log)
        shutil.rmtree(root)


def _furnish(root: Path, target: Path) -> None:
    for source in overlay_files():
        copy = root / source.relative_to(_OVERLAY)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, copy)
        copy.chmod(0o644)
    # mmdebstrap copies these two from the host; the machine id must be there, or systemd takes it for a first boot.
    (root / "etc/hostname").write_text("brick\n")
    (root / "etc/resolv.conf").write_text("")
    (root / "etc/machine-id").write_text("0123456789abcdef0123456789abcdef\n")
    (root / "bricks").mkdir()
    _install_modules(root)
    _command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "testbed", "-f", str(target / KEY))
    ssh = root / "root/.ssh"
    ssh.mkdir(mode=0o700, exist_ok=True)
    shutil.copyfile(target / f"{KEY}.pub", ssh / "authorized_keys")
    _command("chroot", str(root), "systemctl", "enable", *ENABLED)
    _command("chroot", str(root), "systemctl", "mask", *MASKED)
    _command("chroot", str(root), "systemctl", "set-default", "multi-user.target")


def _install_modules(root: Path) -> None:
    """Only FUSE: everything else that a brick host needs is built in, and udev's look at each module costs time."""
    release = kernel_version()
    modules = root / "lib/modules" / release
    shutil.copytree(_MODULES / release / "kernel/fs/fuse", modules / "kernel/fs/fuse")
    for listing in ("modules.order", "modules.builtin", "modules.builtin.modinfo"):
        shutil.copy(_MODULES / release / listing, modules)
    _command("chroot", str(root), "depmod", release)


def _command(*argv: str) -> None:
    environment = os.environ | {"SYSTEMD_OFFLINE": "1"}
    done = subprocess.run(argv, capture_output=True, text=True, check=False, env=environment)
    if done.returncode != 0:
        raise BedError(f"{' '.join(argv)} failed: {(done.stdout + done.stderr).strip()}")
