"""What the running daemon last said of itself, for the commands that look on their own.

They look from outside of its sandbox: what it cannot reach from inside they can, and would not know. It says so in
/run, whenever it tells systemd how it is; the time is CLOCK_MONOTONIC's, which all processes share and nobody sets.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping, Set
from typing import Any, Final, Protocol

from kadalu_ext.quotad.status import Report
from kadalu_ext.quotad.systemd import Notifier

FILE: Final = "told.json"
STALE_S: Final = 120.0
"""Beyond its crawl interval: four times as long as it may be silent towards systemd's watchdog."""
MAX_BYTES: Final = 1 << 20

_UNREADABLE: Final = (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError)


class Source(Protocol):
    """What is asked of a Daemon."""

    @property
    def refused(self) -> dict[str, str]: ...
    @property
    def hung(self) -> dict[str, str]: ...


class TellingNotifier(Notifier):
    """A Notifier that leaves word in `directory` as well. `source` is set once there is one."""

    def __init__(self, environment: Mapping[str, str], directory: str, interval_s: float) -> None:
        super().__init__(environment)
        self._path = os.path.join(directory, FILE)
        self.interval_s = interval_s
        self.source: Source | None = None

    def send(self, *states: str) -> None:
        """As Notifier. What cannot be written is dropped: who reads it finds it old, and says so."""
        super().send(*states)
        refused, hung = (self.source.refused, self.source.hung) if self.source else ({}, {})
        fields = {"at_s": time.monotonic(), "interval_s": self.interval_s, "refused": refused, "hung": hung}
        try:
            with open(f"{self._path}.new", "w", encoding="utf-8", errors="backslashreplace") as file:
                json.dump(fields, file)
            os.rename(f"{self._path}.new", self._path)
        except OSError:
            pass


def doubts(directory: str, report: Report) -> tuple[str, ...]:
    """Why a daemon that runs does not do what it should, although all looks well from here; empty if it does."""
    return tuple(_doubts(directory, {brick.path for brick in report.bricks if not brick.refused}))


def _doubts(directory: str, fine: Set[str]) -> Iterator[str]:
    try:
        fields = _read(directory)
        silent_s = time.monotonic() - float(fields["at_s"])
        limit_s = STALE_S + float(fields["interval_s"])
        refused = dict(fields["refused"])
    except _UNREADABLE:
        return  # it has not said anything yet
    if silent_s > limit_s:
        yield f"kadalu-quotad runs but has not said anything for {silent_s:.0f} s: systemctl restart kadalu-quotad"
    for path in sorted(fine & refused.keys()):
        yield f"kadalu-quotad, as it runs, refuses {path}, which is fine as seen from here: {refused[path]}"


def hung(directory: str) -> dict[str, str]:
    """The bricks that answer nobody, by path, as the running daemon has said: they are not to be looked at."""
    try:
        return {str(path): str(reason) for path, reason in dict(_read(directory)["hung"]).items()}
    except _UNREADABLE:
        return {}


def _read(directory: str) -> Any:
    with open(os.path.join(directory, FILE), encoding="utf-8") as file:
        return json.loads(file.read(MAX_BYTES))
