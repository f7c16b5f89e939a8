"""What a storage's client knows of it at any moment, for whoever counts."""

from __future__ import annotations

from dataclasses import dataclass

from kadalu_ext.csi.promises import Promised
from kadalu_ext.csi.trash import Trash
from kadalu_ext.record import PvName
from kadalu_ext.storage import StorageName


@dataclass(frozen=True, kw_only=True)
class CopyFigures:
    """A copy that is being filled: so many bytes of about `known_bytes`, if that is known."""

    name: PvName
    size_bytes: int
    known_bytes: int | None


@dataclass(frozen=True, kw_only=True)
class Figures:
    """A storage as its client knows it, without asking anybody.

    connected: libgfapi's client is there. running: calls that its workers have not ended, and for how long the oldest
    has been at work. waiting: copies whose turn has not come.
    """

    storage: StorageName
    connected: bool
    running: int
    oldest_s: float
    promised: Promised | None
    trash: Trash
    waiting: int
    copies: tuple[CopyFigures, ...]
