"""Control groups, of both generations, without changing how the machine mounts them."""

from __future__ import annotations

import os
import signal
from functools import partial
from pathlib import Path

from . import paths
from .progress import wait_until

ROOT = Path("/sys/fs/cgroup")


def version() -> int:
    """2 where /sys/fs/cgroup is the unified hierarchy (cgroups(7)), 1 where controllers are mounted one by one."""
    return 2 if (ROOT / "cgroup.controllers").exists() else 1


def group(name: str) -> str:
    """The group below which instance `name` keeps all of its groups, as an absolute cgroup path."""
    return f"/kadalu-ext-{paths.check_name(name)}"


def hierarchies() -> list[Path]:
    """The mount points of every hierarchy: one on v2, one for each controller on v1."""
    if version() == 2:
        return [ROOT]
    return sorted(path for path in ROOT.iterdir() if (path / "cgroup.procs").exists() and not path.is_symlink())


def remove(name: str) -> None:
    """Kill what is still in the groups of instance `name` and remove them; nothing to do is not an error.

    Raises:
        Unmet: a group stays busy, that is, a process in it cannot be killed (state D).
    """
    for hierarchy in hierarchies():
        top = hierarchy / group(name).lstrip("/")
        if top.exists():
            wait_until(f"{top} to be empty", partial(_removed, top), seconds=20)


def _removed(top: Path) -> bool:
    for directory, _, _ in os.walk(top, topdown=False):
        for pid in (Path(directory) / "cgroup.procs").read_text().split():
            # 0 is a process of another pid namespace; ours are all visible from the host's.
            if pid != "0":
                os.kill(int(pid), signal.SIGKILL)
        try:
            os.rmdir(directory)
        except OSError:
            return False
    return True
