"""Copies of trees on real volumes: what a client with a mount made, held against what it sees of the copy."""

from __future__ import annotations

import hashlib
import itertools
import os
import random
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from errno import EEXIST, EIO, ENOENT, ESTALE
from pathlib import Path

import pytest

from kadalu_ext import mounting
from kadalu_ext.errors import VolumeIOError
from kadalu_ext.gluster.copyprogress import CopyProgress
from kadalu_ext.gluster.gfapi import Volume
from tests.testbed.brickhosts import BrickHosts
from tests.testbed.progress import wait_until

HOSTS = ("brick1", "brick2", "brick3")
MIB = 1 << 20
CAPABILITY = bytes.fromhex("0100000200200000000000000000000000000000")
ACL = bytes.fromhex("02000000 01000600ffffffff 02000700e8030000 04000500ffffffff 10000700ffffffff 20000000ffffffff")
"""user::rw-, user:1000:rwx, group::r-x, mask::rwx, other::---; as acl(5) is kept in an attribute."""


@dataclass(frozen=True, kw_only=True)
class Site:
    """A volume, a client with a mount of it, and one without."""

    name: str
    mount: Path
    volume: Volume
    kind: str

    @property
    def server_side(self) -> bool:
        return self.kind == "brick"

    def copy(self, source: str, target: str) -> CopyProgress:
        progress = CopyProgress()
        self.volume.copy_tree(source, target, progress, server_side=self.server_side)
        return progress


def shows(mount: Path) -> bool:
    try:
        return mount.stat().st_ino == 1
    except OSError:
        return False  # no brick has answered yet


@contextmanager
def mounted(volume: str, at: Path) -> Iterator[Path]:
    at.mkdir()
    words = ["glusterfs", "--volfile-server=brick1", f"--volfile-id={volume}", "--acl", "--capability"]
    # what another client has changed is seen at once
    subprocess.run([*words, "--attribute-timeout=0", "--entry-timeout=0", str(at)], check=True)
    try:
        wait_until("the mount", lambda: shows(at), seconds=180)
        yield at
    finally:
        mounting.unmount(str(at), lazily=True)


@pytest.fixture(scope="module", params=["replica 3", "disperse 2+1", "brick"])
def site(
    request: pytest.FixtureRequest, brick_hosts: BrickHosts, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    brick_hosts.create_volume("copy", request.param, HOSTS[:1] if request.param == "brick" else None)
    # else a client may take what it knows of a file for true for a second, and these tests have no time to lose
    brick_hosts.gluster("volume", "set", "copy", "performance.stat-prefetch", "off")
    try:
        with (
            mounted("copy", tmp_path_factory.mktemp("copy") / "mount") as mount,
            Volume.open("copy", HOSTS, timeout_s=60) as volume,
        ):
            yield Site(name="copy", mount=mount, volume=volume, kind=request.param)
    finally:
        brick_hosts.delete_volume("copy")


def make_everything(top: Path) -> None:
    """One of each kind that a pod can make, odd names among them, with times of its own."""
    random.seed(top.name)
    (top / "a/b").mkdir(parents=True)
    (top / "big").write_bytes(random.randbytes(3 * MIB + 17))
    for link in ("a/b/big", "a/big"):
        os.link(top / "big", top / link)
    with open(top / "sparse", "wb") as file:
        file.write(b"x" * 70_000)
        file.seek(20 * MIB)
        file.write(b"in between")
        file.truncate(32 * MIB)
    (top / "empty").touch()
    os.symlink("/etc/passwd", top / "outside")
    os.symlink("../../../..", top / "a/up")
    os.lchown(top / "outside", 5, 6)
    os.link(top / "outside", top / "a/outside", follow_symlinks=False)
    os.mkfifo(top / "fifo", 0o640)
    os.mknod(top / "null", 0o600 | stat.S_IFCHR, os.makedev(1, 3))
    os.mknod(top / "disk", 0o600 | stat.S_IFBLK, os.makedev(259, 70_000))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(top / "socket"))
    (top / "setuid").write_text("#!")
    os.chown(top / "setuid", 1000, 1001)
    os.chmod(top / "setuid", 0o6755)  # noqa: S103
    os.setxattr(top / "setuid", "user.x", b"\0\xffbytes")
    (top / "acl").write_text("")
    os.setxattr(top / "acl", "system.posix_acl_access", ACL)
    (top / "able").write_text("x")
    os.setxattr(top / "able", "security.capability", CAPABILITY)
    os.setxattr(top / "able", "user.empty", b"")
    os.chmod(top / "a", 0o2775)  # noqa: S103
    os.setxattr(top / "a", "system.posix_acl_default", ACL)
    os.setxattr(top / "a", "user.large", b"v" * 3000)
    Path(os.fsdecode(os.fsencode(top) + b"/n\xff\n'\" name")).write_text("odd")
    (top / "locked").mkdir()
    (top / "locked" / ("x" * 250)).write_text("1")
    os.chmod(top / "locked" / ("x" * 250), 0)
    os.chmod(top / "locked", 0o500)
    (top / "/".join(["d"] * 20)).mkdir(parents=True)
    for number, (path, _, names) in enumerate(os.walk(top, topdown=False)):
        for name in names:
            os.utime(Path(path, name), ns=(10**18, 10**18 + number), follow_symlinks=False)
        os.utime(path, ns=(7 * 10**17, 9 * 10**17 + number))


def seen(top: Path) -> tuple[dict[str, object], set[frozenset[str]]]:
    """Everything by its path below `top`, and which paths are the same file."""
    found: dict[str, object] = {}
    inodes: dict[int, set[str]] = {}

    def look(path: str) -> None:
        status = os.lstat(path)
        mode, name = status.st_mode, os.path.relpath(path, top)
        entry: list[object] = [mode, status.st_uid, status.st_gid, status.st_mtime_ns]
        if stat.S_ISBLK(mode) or stat.S_ISCHR(mode):
            entry.append(status.st_rdev)
        if stat.S_ISREG(mode):
            entry += [status.st_size, hashlib.sha256(Path(path).read_bytes()).hexdigest()]
        if stat.S_ISLNK(mode):
            entry.append(os.readlink(path))
        else:
            entry.append({each: os.getxattr(path, each) for each in os.listxattr(path)})
        if not stat.S_ISDIR(mode):
            inodes.setdefault(status.st_ino, set()).add(name)
        found[name] = entry

    look(str(top))
    for path, directories, files in os.walk(top):
        for name in directories + files:
            look(os.path.join(path, name))
    return found, {frozenset(names) for names in inodes.values()}


def test_a_copy_is_what_the_source_is_for_a_client_that_has_the_volume_mounted(site: Site) -> None:
    source, target = site.mount / "source", site.mount / "target"
    source.mkdir()
    target.mkdir()
    make_everything(source)
    progress = site.copy("source", "target")
    assert seen(target) == seen(source)
    assert (target / "sparse").stat().st_blocks * 512 < MIB
    assert progress.files == 17
    (source / "a/big").unlink()
    (source / "empty").unlink()
    (source / "empty").mkdir()
    (target / "extra").mkdir()
    site.copy("source", "target")
    assert seen(target) == seen(source)


COPIER = """
import sys
from kadalu_ext.gluster.copyprogress import CopyProgress
from kadalu_ext.gluster.gfapi import Volume
volume = Volume.open("copy", ("brick1", "brick2", "brick3"), timeout_s=60)
volume.copy_tree("long", "again", CopyProgress(), server_side=sys.argv[1] == "True")
"""


def test_a_copier_that_is_killed_again_and_again_is_followed_by_one_that_ends_whole(site: Site) -> None:
    source, target = site.mount / "long", site.mount / "again"
    target.mkdir()
    for number in range(60):
        (source / f"d{number % 5}").mkdir(parents=True, exist_ok=True)
        (source / f"d{number % 5}/f{number}").write_bytes(os.urandom(50_000))
    for kills in range(1, 4):
        copier = subprocess.Popen([sys.executable, "-c", COPIER, str(site.server_side)])
        try:
            wait_until(f"{kills * 10} files", lambda: len(list(target.rglob("f*"))) >= kills * 10, seconds=300)  # noqa: B023
        finally:
            copier.send_signal(signal.SIGKILL)
            copier.wait()
    site.copy("long", "again")
    assert seen(target) == seen(source)


def test_a_pod_that_changes_its_tree_meanwhile_breaks_nothing_and_gets_nowhere(site: Site) -> None:
    source, target, secret = site.mount / "busy", site.mount / "image", site.mount / "secret"
    secret.mkdir()
    (secret / "file").write_text("not of this pod")
    target.mkdir()
    directories = [source / f"d{number}" for number in range(20)]
    for directory in directories:
        directory.mkdir(parents=True)
        (directory / "file").write_text("of this pod")
    stop = threading.Event()

    def change() -> None:
        for directory in itertools.cycle(directories[::2]):
            if stop.is_set():
                return
            directory.rename(source / "moved")
            directory.symlink_to("../secret")
            directory.unlink()
            (source / "moved").rename(directory)
            (directory / "file").unlink()
            (directory / "file").write_text("of this pod")

    with ThreadPoolExecutor() as threads:
        pod = threads.submit(change)
        try:
            for _ in range(3):
                with lost_by_gluster(site):
                    site.copy("busy", "image")
        finally:
            stop.set()
        with lost_by_gluster(site):
            pod.result()
    texts = {path.read_text() for path in target.glob("d*/file") if not path.parent.is_symlink()}
    assert texts <= {"of this pod", ""}
    for path in list(source.iterdir()):  # and what gluster has lost is found again
        path.rename(source / "elsewhere").rename(path)
    site.copy("busy", "image")
    assert {path.name for path in source.iterdir()} >= {directory.name for directory in directories[1::2]}
    assert seen(target) == seen(source)
    assert (secret / "file").read_text() == "not of this pod"


@contextmanager
def lost_by_gluster(site: Site) -> Iterator[None]:
    """What any two clients may see while one renames a directory and the other looks at it: docs/facts.md."""
    seen = (EEXIST, ENOENT, ESTALE, *((EIO,) if site.kind.startswith("disperse") else ()))
    try:
        yield
    except (OSError, VolumeIOError) as error:
        assert error.errno in seen, error
