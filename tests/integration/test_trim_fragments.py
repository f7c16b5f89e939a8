"""What a PV that gets full does to a disperse volume's files, and the way back from it: docs/troubleshooting.md.

That refused writes do this is in docs/facts.md; here it is brought about by hand, so that it is there each time.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kadalu_ext.gluster import feed, volfile
from kadalu_ext.gluster.clientvolfile import client_volfile
from kadalu_ext.gluster.feed import Source
from kadalu_ext.units import MIB
from tests.integration.limit_site import answers
from tests.integration.limit_writers import content
from tests.testbed import paths, progress
from tests.testbed.brickhosts import BrickHost, BrickHosts

VOLUME = "fragments"
BRICK = f"/bricks/{VOLUME}"
CONTENT = bytes(range(256)) * 2735
"""No whole number of stripes."""
PROJECT = "4711"
SECONDS = 300.0


@pytest.fixture(scope="module", autouse=True)
def volume(brick_hosts: BrickHosts) -> Iterator[None]:
    brick_hosts.create_volume(VOLUME, "disperse 2+1")
    yield
    brick_hosts.delete_volume(VOLUME)


@contextmanager
def mounted(directory: Path, *, without: str | None = None) -> Iterator[Path]:
    """A client that has read nothing yet, as gluster has it; with `without` one of ours, to whom that host is down."""
    directory.mkdir(exist_ok=True)
    source = feed.fetch(Source(volume=VOLUME, hosts=("brick1",)))
    ours = source if without is None else client_volfile(source, options={}, hidden={without})
    text = directory.with_suffix(".vol")
    text.write_text(volfile.render(ours))
    subprocess.run(["glusterfs", f"--volfile={text}", f"--log-file={text}.log", str(directory)], check=True)
    try:
        progress.wait_until("the client", lambda: answers(directory), seconds=SECONDS)
        yield directory
    finally:
        subprocess.run(["umount", "--lazy", str(directory)], check=True)


def heal(hosts: BrickHosts) -> None:
    """Until gluster says that there is nothing left to heal."""

    def healed() -> bool:
        # soon after a brick has started both are refused
        first = hosts.host("brick1")
        first.run(["gluster", "volume", "heal", VOLUME], check=False)
        info = first.run(["gluster", "volume", "heal", VOLUME, "info"], check=False)
        return info.stdout.count("Number of entries: 0") == 3

    progress.wait_until("heal to end", healed, seconds=SECONDS)


def test_fragments_of_different_length_are_read_and_healed_once_they_are_trimmed(
    brick_hosts: BrickHosts, tmp_path: Path
) -> None:
    with mounted(tmp_path / "mount") as mount:
        (mount / "file").write_bytes(CONTENT)
    for number, host in enumerate(brick_hosts.hosts, 1):
        host.run(["sh", "-c", f"head -c {number * 5120} /dev/urandom >> {BRICK}/file"])
    with mounted(tmp_path / "mount") as mount, pytest.raises(OSError, match="Input/output error"):
        (mount / "file").read_bytes()
    for host in brick_hosts.hosts:
        host.put(paths.REPOSITORY / "examples/trim-fragments.py", "/tmp/trim-fragments.py")
        for arguments, says in ((["--trim"], "should be"), ([], "")):
            said = host.run(["python3", "/tmp/trim-fragments.py", *arguments, BRICK]).stdout
            assert (says in said) if says else said == ""
        host.run(["rm", "/tmp/trim-fragments.py"])
    with mounted(tmp_path / "mount") as mount:
        assert (mount / "file").read_bytes() == CONTENT
    heal(brick_hosts)


def limit(host: BrickHost, kilobytes: int) -> None:
    host.run(["xfs_quota", "-x", "-c", f"limit -p bhard={kilobytes}k {PROJECT}", "/bricks"])


def used_kilobytes(host: BrickHost) -> int:
    shown = host.run(["xfs_quota", "-x", "-c", f"quota -p -N -b {PROJECT}", "/bricks"]).stdout
    return int(shown.split()[1])


def sparse(host: BrickHost) -> list[str]:
    """Fragments with a hole in them: the command of docs/troubleshooting.md."""
    found = host.run(["find", f"{BRICK}/pv", "-type", "f", "-printf", "%b %s %P\n"]).stdout.splitlines()
    return [name for blocks, size, name in map(str.split, found) if int(blocks) * 512 < int(size)]


def test_self_heal_without_room_leaves_wrong_bytes_that_are_read_without_an_error_and_there_is_a_way_back(
    brick_hosts: BrickHosts, tmp_path: Path
) -> None:
    """Why such volumes are refused (adr/0019): if gluster has mended it, think again."""
    full = brick_hosts.host("brick3")
    wanted, said = content("file", 0, 2 * MIB), MIB
    with mounted(tmp_path / "mount", without="") as mount:
        (mount / "pv").mkdir()
        full.run(["xfs_quota", "-x", "-c", f"project -s -p {BRICK}/pv {PROJECT}", "/bricks"])
        with open(mount / "pv/file", "wb", buffering=0) as file:
            file.write(wanted[:said])
            os.fsync(file.fileno())
            limit(full, used_kilobytes(full))
            while said < len(wanted):
                said += file.write(wanted[said:][: MIB // 8])
                os.fsync(file.fileno())
    heal(brick_hosts)
    with mounted(tmp_path / "mount", without="brick1") as mount:
        assert (mount / "pv/file").read_bytes() != wanted
    assert [sparse(host) for host in brick_hosts.hosts] == [[], [], ["file"]]
    limit(full, 0)
    full.run(["setfattr", "-n", "trusted.ec.version", "-v", f"0x{0:032x}", f"{BRICK}/pv/file"])
    with mounted(tmp_path / "mount", without="") as mount:
        # a client that has just started may not have all bricks yet
        progress.wait_until(
            "Good: 111", lambda: b"Good: 111" in os.getxattr(mount / "pv/file", "trusted.ec.heal"), seconds=SECONDS
        )
    with mounted(tmp_path / "mount", without="brick1") as mount:
        assert (mount / "pv/file").read_bytes() == wanted
