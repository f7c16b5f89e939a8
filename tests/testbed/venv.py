"""Makes `.venv` for this work tree from the locked dependencies: `python3 -m tests.testbed.venv`.

Runs with a bare python3. pip's own cache (XDG) makes the second time quick. What the project generates from its .proto
files is made here too.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from . import host, paths, progress
from .errors import BedError, CommandFailed

PYTHON_PACKAGES = ("python3-venv",)


def make() -> None:
    """Makes or renews the environment and its mark `.venv/ready`.

    Raises:
        BedError: python3 is older than 3.11, or a package cannot be had.
    """
    if sys.version_info < (3, 11):
        raise BedError(f"python3 is {sys.version.split()[0]}; 3.11 or newer is needed (Debian 12 has it)")
    venv = paths.REPOSITORY / ".venv"
    log = paths.cache_root() / "venv.log"
    with progress.step("Python environment .venv from requirements/dev.lock"):
        if not _has_pip(venv):
            try:
                import ensurepip  # noqa: F401  (Debian's python3 has it only with python3-venv)
            except ImportError:
                host.preflight()
                host.install(PYTHON_PACKAGES)
            progress.run_logged([sys.executable, "-m", "venv", "--clear", str(venv)], log=log)
        python = str(venv / "bin" / "python")
        lock = str(paths.REPOSITORY / "requirements" / "dev.lock")
        pip = [python, "-m", "pip", "install", "--disable-pip-version-check"]
        try:
            progress.run_logged([*pip, "--require-hashes", "-r", lock], log=log)
        except CommandFailed as error:
            raise BedError(f"cannot fetch the packages of requirements/dev.lock: {pip_reason(error, log)}") from error
        # The build tools are in the lock already: no second download of them for an isolated build.
        source = str(paths.REPOSITORY)
        progress.run_logged([*pip, "--no-deps", "--no-build-isolation", "--editable", source], log=log)
    (venv / "ready").touch()


def pip_reason(error: CommandFailed, log: Path) -> str:
    """Why pip failed, from the end of what it wrote: its last error, which is about the package, not the connection."""
    lines = error.output.splitlines()
    said = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")] or lines[-1:] or ["no word"]
    return f"{said[-1]} (a network with PyPI, or a full pip cache, is needed; see {log})"


def _has_pip(venv: Path) -> bool:
    python = venv / "bin" / "python"
    if not python.exists():
        return False
    return subprocess.run([str(python), "-m", "pip", "--version"], capture_output=True, check=False).returncode == 0


if __name__ == "__main__":
    try:
        make()
    except BedError as error:
        sys.exit(f"{error}")
