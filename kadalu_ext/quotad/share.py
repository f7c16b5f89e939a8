"""The bricks of one file system, as their worker sees them: which are served, in use, refused."""

from __future__ import annotations

from kadalu_ext.log import Logger
from kadalu_ext.quotad.bricks import Brick, Choice

_log = Logger(__name__)


class Share:
    """One worker's bricks. Changed by the worker alone; what it has by path may be copied by anybody."""

    def __init__(self) -> None:
        self.all: tuple[Brick, ...] = ()
        self.refused: dict[str, str] = {}
        """By path, and why nothing on it is enforced."""
        self.in_use: set[str] = set()
        """Paths; a brick that nobody named is nobody's as long as it holds no records."""
        self.heal_pending: dict[str, int] = {}
        """By path, how much waited for self-heal on it at the last crawl."""
        self._served: dict[str, Brick] = {}

    def adopt(self, bricks: tuple[Brick, ...]) -> None:
        """These are the bricks from now on."""
        self.all = bricks
        self._served = {brick.path: brick for brick in bricks if brick.choice is not Choice.LEFT_OUT}
        self.in_use &= set(self._served)
        for known in (self.refused, self.heal_pending):
            for path in known.keys() - self._served.keys():
                del known[path]

    def serves(self, path: str) -> bool:
        """Whether records of the brick at `path` are to be obeyed, if it can be."""
        return path in self._served

    def get(self, path: str) -> Brick | None:
        """The brick at `path`; None if its records are not to be obeyed, or cannot be at present."""
        return None if path in self.refused else self._served.get(path)

    def use(self, brick: Brick, *, used: bool) -> None:
        """Whether somebody has a use for it: no reason to count it, or to complain of it, if not."""
        if used:
            self.in_use.add(brick.path)
        else:
            self.in_use.discard(brick.path)

    def refuse(self, brick: Brick, reason: str) -> bool:
        """Refuses a brick that is in use; returns whether it is."""
        if brick.path not in self.in_use:
            return False
        if self.refused.get(brick.path) != reason:
            _log.error("brick refused", brick=brick.path, volume=brick.volume, reason=reason)
        self.refused[brick.path] = reason
        self.heal_pending.pop(brick.path, None)
        return True

    def accept(self, brick: Brick) -> None:
        """Takes a refusal back."""
        if self.refused.pop(brick.path, None):
            _log.info("brick accepted", brick=brick.path, volume=brick.volume)
