"""What the mounter says of a storage."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from kadalu_ext.storage import StorageName


class State(StrEnum):
    """What has become of a storage."""

    MOUNTING = "mounting"
    MOUNTED = "mounted"
    DEAD = "dead"


@dataclass(frozen=True, kw_only=True)
class Status:
    """A storage as the mounter sees it. `reason` says why it is dead, and what becomes of it.

    restarts: how often a client was started in the place of one that ended, or whose mount was taken away.
    down_bricks: host:path of those that the client has no connection to; hidden hosts' are not among them.
    """

    name: StorageName
    state: State
    path: str
    reason: str
    hidden_hosts: tuple[str, ...]
    down_bricks: tuple[str, ...]
    restarts: int = 0
