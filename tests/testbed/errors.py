"""What can go wrong with the testbed itself.  Each message is what a person reads: what, why, and the remedy."""

from __future__ import annotations

from collections.abc import Sequence


class BedError(Exception):
    """The testbed cannot do what was asked; the text is shown to the person as it is, without a traceback."""


class Unsuitable(BedError):
    """This machine lacks something that the testbed cannot do without."""


class NotRunning(BedError):
    """No sandbox of that name is up."""


class Unmet(BedError):
    """A condition that was waited for did not come true before its deadline."""


class CommandFailed(BedError):
    """A command ended with a status other than 0, or did not end in time (`status` is None then)."""

    def __init__(self, argv: Sequence[str], status: int | None, output: str) -> None:
        self.argv = list(argv)
        self.status = status
        self.output = output
        how = "did not end in time" if status is None else f"ended with status {status}"
        super().__init__(f"command {how}: {' '.join(argv)}\n{output.strip()}".rstrip())
