"""File systems that count what is changed on them; and, for a dry run, on which nothing is changed.

In a dry run what would have been set is remembered here and answered as if it stood, so that the very same code runs
as in earnest.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace

from kadalu_ext.quotad.plan import NO_LIMITS, Limits, Project, ProjectId, Tag
from kadalu_ext.quotad.xfs import FileSystems, QuotaState, QuotaTable


@dataclass(kw_only=True)
class Change:
    """What was done about one project of one file system. `limits` None: nothing was done about them."""

    inodes_tagged: int = 0
    limits: Limits | None = None


class _Tags:
    """The tags that inodes would have, by number. XFS allocates 64 inodes at a time, which are mostly one PV's: they
    share an entry, so that a million files take a few MiB."""

    def __init__(self) -> None:
        self._chunks: dict[int, dict[Tag, int]] = {}

    def get(self, inode: int) -> Tag | None:
        chunk, bit = self._chunks.get(inode >> 6, {}), 1 << (inode & 63)
        return next((tag for tag, inodes in chunk.items() if inodes & bit), None)

    def set(self, inode: int, tag: Tag) -> None:
        chunk, bit = self._chunks.setdefault(inode >> 6, {}), 1 << (inode & 63)
        for other in chunk:
            chunk[other] &= ~bit
        chunk[tag] = chunk.get(tag, 0) | bit


class Tally:
    """FileSystems around others. `changes`: by device and project, in the order of the first."""

    def __init__(self, systems: FileSystems, *, dry_run: bool) -> None:
        self._systems = systems
        self._dry_run = dry_run
        self._tags: dict[int, _Tags] = {}
        self.changes: dict[tuple[int, ProjectId], Change] = {}
        self.inodes_tagged = 0

    def check(self, fd: int, path: str) -> None:
        self._systems.check(fd, path)

    def table(self, fd: int) -> QuotaTable:
        device = os.fstat(fd).st_dev
        return _Table(
            self._systems.table(fd), self, device, self._tags.setdefault(device, _Tags()) if self._dry_run else None
        )

    def places(self, paths: Collection[str]) -> dict[str, tuple[int, ...]]:
        return self._systems.places(paths)

    def change(self, device: int, project_id: ProjectId) -> Change:
        """The change of this project so far, to be added to."""
        return self.changes.setdefault((device, project_id), Change())


class _Table:
    """`tags`: what would be on inodes, by number; None: it is set in earnest."""

    def __init__(self, table: QuotaTable, tally: Tally, device: int, tags: _Tags | None) -> None:
        self._table = table
        self._tally = tally
        self._device = device
        self._tags = tags

    def get(self, project_id: ProjectId, /) -> Project | None:
        return self._pretend(project_id, self._table.get(project_id))

    def rows(self, first: ProjectId, last: ProjectId) -> Iterator[Project]:
        ids = {project_id for device, project_id in self._tally.changes if device == self._device}
        new = sorted(number for number in ids if first <= number <= last) if self._tags is not None else []
        for row in self._table.rows(first, last):
            while new and new[0] <= row.project_id:
                if (number := new.pop(0)) < row.project_id and (pretended := self._pretend(number, None)):
                    yield pretended
            yield self._pretend(row.project_id, row) or row
        yield from filter(None, (self._pretend(number, None) for number in new))

    def state(self) -> QuotaState:
        return self._table.state()

    def set_limits(self, project_id: ProjectId, limits: Limits) -> None:
        if self._tags is None:
            self._table.set_limits(project_id, limits)
        self._tally.change(self._device, project_id).limits = limits

    def get_tag(self, fd: int) -> Tag:
        tag = self._tags.get(os.fstat(fd).st_ino) if self._tags is not None else None
        return tag or self._table.get_tag(fd)

    def set_tag(self, fd: int, tag: Tag) -> None:
        if self._tags is None:
            self._table.set_tag(fd, tag)
        else:
            self._tags.set(os.fstat(fd).st_ino, tag)
        self._tally.inodes_tagged += 1
        self._tally.change(self._device, tag.project_id).inodes_tagged += 1

    def _pretend(self, project_id: ProjectId, row: Project | None) -> Project | None:
        change = self._tally.changes.get((self._device, project_id)) if self._tags is not None else None
        if change is None or change.limits is None:
            return row
        if row is None:
            empty = Project(project_id=project_id, limits=change.limits, used_bytes=0, used_inodes=0)
            return empty if change.limits != NO_LIMITS else None
        return replace(row, limits=change.limits)
