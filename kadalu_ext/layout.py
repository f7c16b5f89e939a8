"""Names to paths on the volume. Pure; golden-tested: it is a format on disk.

All paths are relative to the volume's root:

    subvol/<aa>/<bb>/<pv>/     the PV: all that a pod ever sees; aabb… is the xxh64 hex digest of the PV's name
                               (Kadalu's scheme, so that a pool of Kadalu's can be adopted in place)
    info/quota/<pv>/           its quota record, see record.py
    info/quota/.<pv>.<suffix>.new/       a record in preparation; each call that prepares one has its own
    info/quota/.<pv>.<suffix>.changed/   its size was changed, see csi/changes.py
    info/quota/.<pv>.<mark>.filler/      who fills that copy, see csi/leases.py
    info/quota/.<pv>.<suffix>.archived/  the record of what is archived: no brick enforces it, and it counts
    info/gid/<gid>.<pv>/       the PV has that group, and no other PV; see csi/groups.py
    archived/<pv>.<suffix>/    deleted, and kept for people
    trash/<pv>.<suffix>/       deleted: moved here in one rename, emptied afterwards; 16 hexadecimal digits
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import xxhash

from kadalu_ext.errors import PvNameError
from kadalu_ext.record import RECORDS_DIR, SUBVOL_DIR, PvName, changed_name, check_pv_name, staging_name

TRASH_DIR: Final = "trash"
ARCHIVE_DIR: Final = "archived"
GIDS_DIR: Final = "info/gid"

_TRASH_NAME: Final = re.compile(r".+\.[0-9a-f]{16}")
_STAGED: Final = re.compile(r"\.(.+)\.([0-9a-f]{16})\.new")
_OUTDATED: Final = re.compile(r"\.(.+)\.(new|abandoned)")
_ARCHIVED: Final = re.compile(r"\.(.+\.[0-9a-f]{16})\.archived")
_FILLER: Final = re.compile(r"\.(.+)\.([0-9a-f]{16})\.filler")
_CHANGED: Final = re.compile(r"\.(.+)\.([0-9a-f]{16})\.changed")


def pv_path(name: PvName) -> str:
    """`subvol/<aa>/<bb>/<name>`."""
    digest: str = xxhash.xxh64(name.encode("utf-8")).hexdigest()
    return f"{SUBVOL_DIR}/{digest[0:2]}/{digest[2:4]}/{name}"


def parents(path: str) -> list[str]:
    """The directories above `path`, from the volume's root down: of `a/b/c` these are `a` and `a/b`."""
    names = path.split("/")
    return ["/".join(names[:depth]) for depth in range(1, len(names))]


def record_path(name: PvName) -> str:
    """`info/quota/<name>`: the record, whole."""
    return f"{RECORDS_DIR}/{name}"


def staged_record_path(name: PvName, suffix: str) -> str:
    """`info/quota/.<name>.<suffix>.new`: the record while it is being prepared."""
    return f"{RECORDS_DIR}/{staging_name(name, suffix)}"


def changed_path(name: PvName, suffix: str) -> str:
    """`info/quota/.<name>.<suffix>.changed`; `suffix`, 16 hexadecimal digits, is new with each change."""
    return f"{RECORDS_DIR}/{changed_name(name, suffix)}"


def filler_path(name: PvName, mark: str) -> str:
    """`info/quota/.<name>.<mark>.filler`; `mark`, 16 hexadecimal digits, is a controller's."""
    return f"{RECORDS_DIR}/{filler_name(name, mark)}"


def filler_name(name: PvName, mark: str) -> str:
    """The last name of `filler_path`."""
    return f".{name}.{mark}.filler"


@dataclass(frozen=True, kw_only=True)
class RecordNames:
    """What `info/quota` holds: records; for each name the suffixes of those in preparation, and of its changes; those
    entries of `archived` that have a record; the marks of those who fill copies; and, as they are called there, what
    only earlier versions prepared."""

    whole: frozenset[PvName]
    staged: Mapping[PvName, frozenset[str]]
    changes: Mapping[PvName, frozenset[str]]
    archived: frozenset[str]
    fillers: Mapping[PvName, frozenset[str]]
    outdated: frozenset[str]

    def of(self, name: PvName) -> frozenset[str]:
        """The suffixes of its changes."""
        return self.changes.get(name, frozenset())

    def left(self) -> frozenset[str]:
        """The names of all that is needed for a moment, or was left by somebody: what is in preparation, and what
        belongs to no record, nor to one in preparation."""
        marks = [staging_name(name, each) for name, suffixes in self.staged.items() for each in suffixes]
        for form, found in ((changed_name, self.changes), (filler_name, self.fillers)):
            without = found.keys() - self.whole - self.staged.keys()
            marks += [form(name, each) for name in without for each in found[name]]
        return self.outdated.union(marks)


def record_names(entries: Iterable[str]) -> RecordNames:
    """The names in `info/quota` told apart; what is none of ours, or of a name that no PV has, is passed over."""
    whole, archived, outdated = set(), set(), set()
    staged, changes, fillers = dict[PvName, set[str]](), dict[PvName, set[str]](), dict[PvName, set[str]]()
    for entry in entries:
        if not entry.startswith("."):
            if _is_pv_name(entry):
                whole.add(PvName(entry))
        elif (match := _STAGED.fullmatch(entry)) and _is_pv_name(match[1]):
            staged.setdefault(PvName(match[1]), set()).add(match[2])
        elif (match := _ARCHIVED.fullmatch(entry)) and _is_pv_name(owner(match[1])):
            archived.add(match[1])
        elif (match := _CHANGED.fullmatch(entry)) and _is_pv_name(match[1]):
            changes.setdefault(PvName(match[1]), set()).add(match[2])
        elif (match := _FILLER.fullmatch(entry)) and _is_pv_name(match[1]):
            fillers.setdefault(PvName(match[1]), set()).add(match[2])
        elif (match := _OUTDATED.fullmatch(entry)) and _is_pv_name(match[1]):
            outdated.add(entry)
    return RecordNames(
        whole=frozenset(whole),
        staged={name: frozenset(suffixes) for name, suffixes in staged.items()},
        changes={name: frozenset(suffixes) for name, suffixes in changes.items()},
        fillers={name: frozenset(marks) for name, marks in fillers.items()},
        archived=frozenset(archived),
        outdated=frozenset(outdated),
    )


def _is_pv_name(name: str) -> bool:
    try:
        check_pv_name(name)
    except PvNameError:
        return False
    return True


def gid_path(gid: int, name: PvName) -> str:
    """`info/gid/<gid>.<name>`."""
    return f"{GIDS_DIR}/{gid}.{name}"


def trash_path(name: PvName, suffix: str) -> str:
    """`trash/<name>.<suffix>`; `suffix`, 16 hexadecimal digits, tells apart PVs of one name that were deleted at
    different times."""
    return f"{TRASH_DIR}/{name}.{suffix}"


def archive_path(entry: str) -> str:
    """`archived/<entry>`; an entry is `<name>.<suffix>`, as in the trash."""
    return f"{ARCHIVE_DIR}/{entry}"


def archive_entry(name: PvName, suffix: str) -> str:
    """What a PV is called in `archived`; `suffix` as that of `trash_path`."""
    return f"{name}.{suffix}"


def owner(entry: str) -> PvName:
    """Whose `<name>.<suffix>` is."""
    return PvName(entry.rpartition(".")[0])


def archived_record_path(entry: str) -> str:
    """`info/quota/.<entry>.archived`."""
    return f"{RECORDS_DIR}/.{entry}.archived"


def is_archive_of(entry: str, name: PvName) -> bool:
    """Whether an entry of `archived` has a name that `archive_entry` makes for that PV."""
    return is_trash_name(entry) and owner(entry) == name


def is_trash_name(entry: str) -> bool:
    """Whether an entry of `trash` has a name that `trash_path` makes. Anything else there is somebody else's."""
    return _TRASH_NAME.fullmatch(entry) is not None
