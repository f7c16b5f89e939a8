"""What is left of processes that were killed, and what is not."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from kadalu_ext.gluster import owndir
from kadalu_ext.gluster.owndir import OwnDirectory

KILLED = """
import os
from kadalu_ext.gluster.owndir import OwnDirectory
with open(os.path.join(OwnDirectory().path, "key"), "w") as key:
    key.write("KEY")
os._exit(0)
"""


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def left_by_a_killed_process(temporary: Path) -> Path:
    """The directory of a process that had no time to remove it."""
    before = set(temporary.iterdir())
    subprocess.run([sys.executable, "-c", KILLED], env={**os.environ, "TMPDIR": str(temporary)}, check=True)
    (left,) = set(temporary.iterdir()) - before
    return left


def test_what_a_killed_process_left_goes_and_what_others_use_stays(temporary: Path) -> None:
    mine = OwnDirectory()
    left = left_by_a_killed_process(temporary)
    others = [temporary / "kadalu-ext-gfapi-file", temporary / "kadalu-ext-gfapi-link", temporary / "tree"]
    others[0].write_text("of somebody")
    others[2].mkdir()
    others[1].symlink_to(others[2])
    assert (left / "key").read_text() == "KEY"
    owndir.sweep()
    assert sorted(temporary.iterdir()) == sorted([Path(mine.path), *others])
    mine.remove()
    assert sorted(temporary.iterdir()) == sorted(others)


def test_only_we_can_enter_it(temporary: Path) -> None:
    mine = OwnDirectory()
    assert os.stat(mine.path).st_mode & 0o777 == 0o700
    mine.remove()
