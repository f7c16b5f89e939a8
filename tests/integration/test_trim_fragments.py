"""What refused writes leave behind the ends of a disperse volume's files, and the way back from it.

That gluster's writers do leave it is in docs/facts.md; here it is put there by hand, so that it is there each time.
"""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.testbed import paths, progress
from tests.testbed.brickhosts import BrickHosts

VOLUME = "fragments"
CONTENT = bytes(range(256)) * 2735
"""No whole number of stripes."""


@contextmanager
def mounted(directory: Path) -> Iterator[Path]:
    """A client that has read nothing yet."""
    directory.mkdir(exist_ok=True)
    subprocess.run(["glusterfs", "--volfile-server=brick1", f"--volfile-id={VOLUME}", str(directory)], check=True)
    yield directory
    subprocess.run(["umount", str(directory)], check=True)


def test_fragments_of_different_length_are_read_and_healed_once_they_are_trimmed(
    brick_hosts: BrickHosts, tmp_path: Path
) -> None:
    brick_hosts.create_volume(VOLUME, "disperse 2+1")
    with mounted(tmp_path / "mount") as mount:
        (mount / "file").write_bytes(CONTENT)
    brick = f"/bricks/{VOLUME}"
    for number, host in enumerate(brick_hosts.hosts, 1):
        host.run(["sh", "-c", f"head -c {number * 5120} /dev/urandom >> {brick}/file"])
    with mounted(tmp_path / "mount") as mount, pytest.raises(OSError, match="Input/output error"):
        (mount / "file").read_bytes()
    for host in brick_hosts.hosts:
        host.put(paths.REPOSITORY / "examples/trim-fragments.py", "/tmp/trim-fragments.py")
        for arguments, says in ((["--trim"], "should be"), ([], "")):
            said = host.run(["python3", "/tmp/trim-fragments.py", *arguments, brick]).stdout
            assert (says in said) if says else said == ""
        host.run(["rm", "/tmp/trim-fragments.py"])
    with mounted(tmp_path / "mount") as mount:
        assert hashlib.sha256((mount / "file").read_bytes()).digest() == hashlib.sha256(CONTENT).digest()

    def healed() -> bool:
        brick_hosts.host("brick1").run(["gluster", "volume", "heal", VOLUME], check=False)
        return brick_hosts.gluster("volume", "heal", VOLUME, "info").count("Number of entries: 0") == 3

    progress.wait_until("heal to end", healed, seconds=120)
    brick_hosts.delete_volume(VOLUME)
