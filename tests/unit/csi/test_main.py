"""What the controller does for itself before it serves."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from pathlib import Path

from kadalu_ext.csi import main
from tests.unit.gluster.test_owndir import left_by_a_killed_process

PATIENT_S = 60.0


def test_it_may_open_as_many_files_as_its_container_allows() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, hard) // 2, hard))
    try:
        main.allow_descriptors()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_controller_removes_what_the_one_before_it_left(tmp_path: Path) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    left = left_by_a_killed_process(temporary)
    argv = [sys.executable, "-m", "kadalu_ext.csi.main", "controller", f"--endpoint={tmp_path}/csi.sock"]
    with subprocess.Popen(
        [*argv, f"--storages={tmp_path}"], env={**os.environ, "TMPDIR": str(temporary)}
    ) as controller:
        try:
            deadline = time.monotonic() + PATIENT_S
            while left.exists():
                assert controller.poll() is None and time.monotonic() < deadline
                time.sleep(0.05)
        finally:
            controller.kill()
