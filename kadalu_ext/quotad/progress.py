"""A bar on a terminal, for what may take long. On anything else nothing is written."""

from __future__ import annotations

import os
import time
from typing import Final, TextIO

PAUSE_S: Final = 0.1
"""Between two drawings."""
BEGIN_S: Final = 0.5
"""What is done sooner than this shows no bar."""
_WIDTH: Final = 30


class Bar:
    """`bar(done, total, what)` as often as one likes; leaves an empty line behind at the end of the block."""

    def __init__(self, stream: TextIO, *, begin_s: float = BEGIN_S) -> None:
        self._stream = stream
        self._shown = stream.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        self._next = time.monotonic() + begin_s
        self._drawn = False

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        if self._drawn:
            self._write("\r\x1b[K")

    def __call__(self, done: int, total: int, what: str = "PVs") -> None:
        now = time.monotonic()
        if not self._shown or now < self._next:
            return
        self._next = now + PAUSE_S
        self._drawn = True
        full = _WIDTH * min(done, total) // max(total, 1)
        self._write(f"\r[{'#' * full}{'.' * (_WIDTH - full)}] {done} of {total} {what}\x1b[K")

    def _write(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except OSError:
            self._shown = self._drawn = False  # the terminal went away: what is at work goes on
