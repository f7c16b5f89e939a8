"""A process and those that it has started, as the kernel sees them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_TICK_S: Final = 1 / os.sysconf("SC_CLK_TCK")


class Family:
    """Of a process id. Children of children are not looked for."""

    def __init__(self, pid: int) -> None:
        self._pid = pid

    def rss_mib(self) -> float:
        """Resident memory; what they share counts for each."""
        return sum(of_process(pid, "status", "VmRSS") for pid in self._pids()) / 1024

    def pss_mib(self) -> float:
        """Resident memory; what they share is divided by those who have it, so that it counts once."""
        return sum(of_process(pid, "smaps_rollup", "Pss") for pid in self._pids()) / 1024

    def threads(self) -> int:
        return sum(of_process(pid, "status", "Threads") for pid in self._pids())

    def cpu_s(self) -> float:
        """Processor time so far, of those that live."""
        return sum(map(_ticks, self._pids())) * _TICK_S

    def _pids(self) -> Iterator[int]:
        yield self._pid
        for pid in map(int, filter(str.isdecimal, os.listdir("/proc"))):
            if of_process(pid, "status", "PPid") == self._pid:
                yield pid


def _ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])  # utime and stime, see proc(5)


def of_process(pid: int, file: str, key: str) -> int:
    """What a line of /proc/PID/status or smaps_rollup says; 0 if the process is gone, or is only waited for."""
    try:
        lines = Path(f"/proc/{pid}/{file}").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(f"{key}:")), 0)
