"""Which of a brick's files wait for gluster's self-heal, and whose PV they are of. Only looks, and only so far.

gluster keeps a link for each file or directory that another brick lacks something of, named after its gfid, in
`.glusterfs/indices/xattrop` and `dirty` (gluster 10.3, xlators/features/index/src/index.c); one stands there also for
the moment of a write. `.glusterfs/ab/cd/<gfid>` is another link to the file, which carries its PV's project, or for a
directory a symlink `../../ab/cd/<gfid of the parent>/<name>` (posix-handle.c).
"""

from __future__ import annotations

import os
import re
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Final

from kadalu_ext.quotad import plan, scan
from kadalu_ext.quotad.plan import ProjectId
from kadalu_ext.quotad.scan import OpenBrick
from kadalu_ext.record import SUBVOL_DIR

INDICES: Final = (".glusterfs/indices/xattrop", ".glusterfs/indices/dirty")
MAX_ENTRIES: Final = 10_000
"""Of a brick; with more, what is said of them is "at least"."""
MAX_DEPTH: Final = 256
"""Levels from a directory up to the brick's root; what is deeper is not resolved."""

_HEX: Final = "[0-9a-f]"
_GFID: Final = re.compile(f"{_HEX}{{8}}-{_HEX}{{4}}-{_HEX}{{4}}-{_HEX}{{4}}-{_HEX}{{12}}")
_PARENT: Final = re.compile(rf"\.\./\.\./{_HEX}{{2}}/{_HEX}{{2}}/({_GFID.pattern})/([^/]+)")
_ROOT: Final = "00000000-0000-0000-0000-000000000001"


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """What waits on one brick. `total` has also what is of no PV; `whole`: nothing was left out."""

    total: int = 0
    whole: bool = True
    _by_project: Counter[ProjectId] = field(default_factory=Counter)
    _by_pv: Counter[str] = field(default_factory=Counter)

    def of(self, pv: str, project_id: ProjectId) -> int:
        """How many files and directories of this PV wait; files are known by its project."""
        return self._by_pv[pv] + (self._by_project[project_id] if plan.is_ours(project_id) else 0)


def waiting(opened: OpenBrick) -> Waiting:
    """What waits on this brick. Raises nothing: what cannot be seen is left out."""
    gfids = set[str]()
    whole = True
    for index in INDICES:
        for gfid in _gfids(opened.root, index):
            if len(gfids) >= MAX_ENTRIES:
                whole = False
                break
            gfids.add(gfid)
    by_project, by_pv = Counter[ProjectId](), Counter[str]()
    for gfid in gfids:
        try:
            owner = _owner(opened, gfid)
        except OSError:
            continue  # it was healed or removed just now
        if isinstance(owner, str):
            by_pv[owner] += 1
        elif owner is not None:
            by_project[owner] += 1
    return Waiting(total=len(gfids), whole=whole, _by_project=by_project, _by_pv=by_pv)


def count(root: int) -> int:
    """How many files and directories of a brick wait, up to MAX_ENTRIES; whosever they are. Raises nothing."""
    return len(set(islice(chain.from_iterable(_gfids(root, index) for index in INDICES), MAX_ENTRIES)))


def _gfids(root: int, index: str) -> Iterator[str]:
    try:
        with scan.open_beneath(root, index) as directory, os.scandir(directory) as entries:
            for entry in entries:
                if _GFID.fullmatch(entry.name):  # not `xattrop-…`, which the links are links of
                    yield entry.name
    except OSError:
        return


def _owner(opened: OpenBrick, gfid: str) -> ProjectId | str | None:
    """The project of a file, the PV's name of a directory, None if it is neither's. Raises: OSError."""
    names: list[str] = []
    while gfid != _ROOT:
        with scan.open_beneath(opened.root, f".glusterfs/{gfid[:2]}/{gfid[2:4]}") as directory:
            found = os.open(gfid, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
            try:
                mode = os.fstat(found).st_mode
                if stat.S_ISREG(mode) and not names:
                    return _project(opened, found)
                # a symlink of a pod's leads anywhere: nothing follows it, at worst it is counted for another PV
                link = _PARENT.fullmatch(os.readlink("", dir_fd=found)) if stat.S_ISLNK(mode) else None
            finally:
                os.close(found)
        if link is None or len(names) >= MAX_DEPTH:
            return None
        gfid = link[1]
        names.append(link[2])
    return names[-4] if len(names) >= 4 and names[-1] == SUBVOL_DIR else None


def _project(opened: OpenBrick, found: int) -> ProjectId:
    fd = os.open(f"/proc/self/fd/{found}", os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        return opened.table.get_tag(fd).project_id
    finally:
        os.close(fd)
