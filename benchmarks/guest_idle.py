"""Runs on a brick host, with its own python3: how often the threads of kadalu-quotad wake up; JSON on stdout.

Argument: from how many of its beats to systemd's watchdog. It says in told.json when the last one was.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

TOLD = Path("/run/kadalu-quotad/told.json")
PATIENCE_S = 500


def main() -> None:
    """Voluntary context switches, by thread: each is a sleep that a wake-up ended. And the seconds that it took."""
    beats = int(sys.argv[1])
    pid = subprocess.check_output(["systemctl", "show", "-p", "MainPID", "--value", "kadalu-quotad"], text=True).strip()
    _beat()
    _beat()  # what came of the start is over
    before, began = _switches(pid), time.monotonic()
    for _ in range(beats):
        _beat()
    after = _switches(pid)
    wakes = {thread: count - before.get(thread, 0) for thread, count in after.items()}
    print(json.dumps({"wakes": wakes, "seconds": time.monotonic() - began}))


def _switches(pid: str) -> dict[str, int]:
    tasks = Path("/proc", pid, "task").iterdir()
    return {
        task.name: int((task / "status").read_text().partition("\nvoluntary_ctxt_switches:")[2].split()[0])
        for task in tasks
    }


def _beat() -> None:
    """Returns soon after the next one."""
    seen, deadline = _told_at(), time.monotonic() + PATIENCE_S
    while _told_at() == seen:
        if time.monotonic() > deadline:
            raise SystemExit(f"kadalu-quotad has said nothing for {PATIENCE_S} s")
        time.sleep(0.2)


def _told_at() -> float:
    return float(json.loads(TOLD.read_text())["at_s"])


if __name__ == "__main__":
    main()
