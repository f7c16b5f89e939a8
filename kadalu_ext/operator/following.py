"""What the API server has of one kind, followed: listed once, then every change as it is told. I/O: through kube."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, Protocol

from kadalu_ext.errors import BusyError, GoneError, KubernetesError
from kadalu_ext.log import Logger

_PAUSE_S: Final = (0.5, 15.0)
"""After the first failure, and at most."""

Seen = Mapping[str, Any]


class Source(Protocol):
    """One kind of objects: kube.Kind, or a fake of it. Both raise KubernetesError."""

    @property
    def what(self) -> str: ...

    def listed(self) -> tuple[Sequence[Seen], str]:
        """All of them, and the version that this is."""
        ...

    def changes(self, version: str) -> Iterator[tuple[str, Seen, str]]:
        """What came after `version`: ADDED, MODIFIED, DELETED or BOOKMARK, the object, and its version.

        Ends after a while by itself. Raises: GoneError if that version is too old: list again.
        """
        ...


class Follower:
    """Tells `replace` of all objects, and `changed` of each that changes; goes on for ever, in a thread of its own.

    An API server that is away is asked again, ever more patiently, and not before it said; then everything is listed
    anew.
    """

    def __init__(
        self,
        source: Source,
        *,
        replace: Callable[[Sequence[Seen]], None],
        changed: Callable[[str, Seen], None],
        log: Logger,
    ) -> None:
        self._source = source
        self._replace = replace
        self._changed = changed
        self._log = log
        self._failures = 0
        self._broken = False
        self.thread = threading.Thread(target=self.run, name=f"follow-{source.what}", daemon=True)

    def run(self, stop: threading.Event | None = None) -> None:
        """Until `stop`; without one, for as long as the process lives."""
        stop = stop or threading.Event()
        while not stop.is_set():
            try:
                self._follow(stop)
            except (GoneError, KubernetesError) as error:
                self._failures += 1
                if not (self._broken or isinstance(error, GoneError)):
                    self._broken = True
                    self._log.warning("watch broken", what=self._source.what, reason=str(error))
                least, most = _PAUSE_S
                pause_s = min(most, least * 2 ** min(self._failures, 10)) * random.uniform(0.5, 1.0)  # noqa: S311
                stop.wait(max(pause_s, error.retry_after_s) if isinstance(error, BusyError) else pause_s)

    def _follow(self, stop: threading.Event) -> None:
        objects, version = self._source.listed()
        self._replace(objects)
        while not stop.is_set():
            for kind, seen, newer in self._source.changes(version):
                version = newer
                self._mended()
                if kind != "BOOKMARK":
                    self._changed(kind, seen)
            self._mended()
            stop.wait(_PAUSE_S[0])  # lest one whose watches end at once be asked without end

    def _mended(self) -> None:
        """It lists, and it watches: either alone is none the better for being asked all the time."""
        if self._broken:
            self._log.info("watch mended", what=self._source.what, failures=self._failures)
        self._failures, self._broken = 0, False
