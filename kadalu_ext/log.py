"""Structured logging: a constant event text and fields, one line of JSON an event, on stderr.

Only the shells log (servicers, handlers, daemons); what is inside raises or returns. Never a secret, never a volfile.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any, Final

_RESERVED: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        event: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
        }
        event.update((key, value) for key, value in vars(record).items() if key not in _RESERVED)
        if record.exc_info:
            event["traceback"] = self.formatException(record.exc_info)
        return json.dumps(event, default=str)


class Logger:
    """`log.info("claim bound", volume_id=…)`: the event text is constant, what varies is a field."""

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)

    def debug(self, event: str, **fields: object) -> None:
        self._logger.debug(event, extra=_safe(fields))

    def info(self, event: str, **fields: object) -> None:
        self._logger.info(event, extra=_safe(fields))

    def warning(self, event: str, **fields: object) -> None:
        self._logger.warning(event, extra=_safe(fields))

    def error(self, event: str, **fields: object) -> None:
        self._logger.error(event, extra=_safe(fields))

    def exception(self, event: str, **fields: object) -> None:
        """With the traceback of the exception at hand: for what should not have happened."""
        self._logger.error(event, exc_info=sys.exc_info(), extra=_safe(fields))


def _safe(fields: dict[str, object]) -> dict[str, object]:
    # logging refuses fields that would overwrite a LogRecord's own
    return {(f"{key}_" if key in _RESERVED else key): value for key, value in fields.items()}


def configure(level: str = "INFO") -> None:
    """Sends every logger of this process to stderr as JSON lines. Called once, by each program's main."""
    # what the lines do not show is not collected (Python's logging HOWTO, "Optimization")
    logging._srcfile = None
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
