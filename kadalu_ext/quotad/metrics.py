"""What the daemon knows and the kernel counts, as Prometheus reads it; to a file or over HTTP, if the configuration
says so (https://prometheus.io/docs/instrumenting/exposition_formats/, text format 0.0.4).

Written in a thread of its own: it only looks, and what it takes of the daemon are copies. Whatever fails here costs
the metrics, never a limit.
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Final, Protocol

from kadalu_ext import __version__
from kadalu_ext.errors import QuotaError
from kadalu_ext.log import Logger
from kadalu_ext.quotad import scan
from kadalu_ext.quotad.bricks import Brick
from kadalu_ext.quotad.config import Config, split_address
from kadalu_ext.quotad.enforce import Outcome
from kadalu_ext.quotad.heal import MAX_ENTRIES
from kadalu_ext.quotad.plan import FIRST_PROJECT_ID, LAST_PROJECT_ID, Owner, Project, ProjectId, State
from kadalu_ext.quotad.status import is_full
from kadalu_ext.quotad.xfs import FileSystems

if TYPE_CHECKING:
    from kadalu_ext.quotad.metrics_http import Server

_log: Final = Logger(__name__)


class Source(Protocol):
    """What is asked of a Daemon; each of these is a copy that may be taken from another thread."""

    @property
    def ready(self) -> bool: ...
    @property
    def bricks(self) -> tuple[Brick, ...]: ...
    @property
    def outcomes(self) -> dict[Owner, Outcome]: ...
    @property
    def refused(self) -> dict[str, str]: ...
    @property
    def heal_pending(self) -> dict[str, int]: ...
    @property
    def problems(self) -> tuple[str, ...]: ...


def render(source: Source, systems: FileSystems) -> str:
    """All metrics now: states from the daemon, used bytes and limits from the kernel, in one sweep a brick."""
    return "".join(f"{line}\n" for line in _render(source, systems))


def _render(source: Source, systems: FileSystems) -> Iterator[str]:
    bricks, outcomes, refused = source.bricks, source.outcomes, source.refused
    yield from _metric("build_info", "Which kadalu-quotad this is.", [({"version": __version__}, 1)])
    yield from _metric("ready", "Whether everything was looked through since the start.", [({}, int(source.ready))])
    yield from _metric("problems", "What of glusterd's files was not understood.", [({}, len(source.problems))])
    where = {brick.path: {"volume": brick.volume, "brick": brick.path} for brick in bricks}
    yield from _metric(
        "brick_refused",
        "Whether nothing on the brick can be enforced.",
        [(labels, int(path in refused)) for path, labels in where.items()],
    )
    yield from _metric(
        "brick_heal_pending",
        f"Files and directories that waited for self-heal at the last crawl; {MAX_ENTRIES} are that many or more.",
        [(where[path], count) for path, count in sorted(source.heal_pending.items()) if path in where],
    )
    states = Counter((owner.brick, outcome.state) for owner, outcome in outcomes.items())
    counts = [
        ({**labels, "state": state.value}, states[path, state]) for path, labels in where.items() for state in State
    ]
    yield from _metric("pvs", "Records by what became of them.", counts)
    rows = {brick.path: _rows(brick, systems) for brick in bricks if brick.path not in refused}
    pvs = [
        ({**where[owner.brick], "pv": owner.pv}, row)
        for owner, outcome in sorted(outcomes.items())
        if outcome.project_id is not None and (row := rows.get(owner.brick, {}).get(outcome.project_id))
    ]
    used = [(labels, row.used_bytes) for labels, row in pvs]
    limits = [(labels, row.limits.bhard_bytes) for labels, row in pvs if row.limits.bhard_bytes]
    yield from _metric("pv_used_bytes", "What the PV holds on the brick.", used)
    yield from _metric("pv_limit_bytes", "What the kernel lets the PV hold on the brick.", limits)
    full = [(labels, 1) for labels, row in pvs if is_full(row)]
    yield from _metric("pv_full", "Present for a PV that is at its limit on the brick.", full)


def _rows(brick: Brick, systems: FileSystems) -> Mapping[ProjectId, Project]:
    try:
        with scan.open_brick(brick, systems, check=False) as opened:
            return {row.project_id: row for row in opened.table.rows(FIRST_PROJECT_ID, LAST_PROJECT_ID)}
    except (QuotaError, OSError):
        return {}  # the brick went away just now: the daemon says so


def _metric(name: str, text: str, samples: Iterable[tuple[Mapping[str, str], int]]) -> Iterator[str]:
    yield f"# HELP kadalu_quotad_{name} {text}"
    yield f"# TYPE kadalu_quotad_{name} gauge"
    for labels, value in samples:
        inner = ",".join(f'{key}="{_escape(text)}"' for key, text in labels.items())
        yield f"kadalu_quotad_{name}{{{inner}}} {value}" if inner else f"kadalu_quotad_{name} {value}"


def _escape(text: str) -> str:
    # names come from the volume, in any bytes
    safe = text.encode("utf-8", "backslashreplace").decode()
    return safe.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


class Exporter:
    """Keeps the metrics where the configuration wants them. Not for threads; has up to two of its own."""

    def __init__(self, source: Source, systems: FileSystems) -> None:
        self._source = source
        self._systems = systems
        self._server: Server | None = None
        self._file: _File | None = None
        self._config: Config | None = None

    def take(self, config: Config) -> None:
        """Goes over to this configuration. What cannot be served is logged, and tried again by the next `take`."""
        if config == self._config and (self._server or not config.metrics_address):
            return
        self.close()
        self._config = config
        if config.metrics_address:
            self._serve(config.metrics_address)
        if config.metrics_textfile:
            self._file = _File(config.metrics_textfile, config.crawl_interval_s, self._text)

    def close(self) -> None:
        """Ends both. The file is removed: a daemon that does not run has no metrics."""
        if self._server is not None:
            self._server.close()
        if self._file is not None:
            self._file.close()
        self._server = self._file = None

    def _serve(self, address: str) -> None:
        # only now: what HTTP needs is a third of this daemon's memory
        from kadalu_ext.quotad.metrics_http import Server

        try:
            self._server = Server(split_address(address), self._text)
        except OSError as error:
            _log.error("cannot serve metrics", address=address, reason=scan.reason(error))

    def _text(self) -> str:
        return render(self._source, self._systems)


class _File:
    """node_exporter's textfile: written whole and renamed, at once and then every `interval_s`."""

    def __init__(self, path: str, interval_s: float, text: Callable[[], str]) -> None:
        self._path = path
        self._interval_s = interval_s
        self._text = text
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="metrics-textfile", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._end.set()
        self._thread.join()
        _unlink(self._path)

    def _run(self) -> None:
        before = ""
        while True:
            reason = ""
            try:
                _write(self._path, self._text())
            except OSError as error:
                reason = scan.reason(error)
            if reason and reason != before:
                _log.error("cannot write metrics", path=self._path, reason=reason)
            before = reason
            if self._end.wait(self._interval_s):
                return


def _write(path: str, text: str) -> None:
    directory, name = os.path.split(path)
    new = os.path.join(directory, f".{name}.new")
    _unlink(new)
    # made anew and not followed, whoever else may write to that directory
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    with open(fd, "w", encoding="utf-8") as file:
        os.fchmod(fd, 0o644)
        file.write(text)
    os.rename(new, path)


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass
