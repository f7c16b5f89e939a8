"""The quota record: the only contract between the CSI driver and kadalu-quotad. Pure; golden-tested; a format on disk.

A record is an empty directory `info/quota/<pv>/` on the volume whose xattr `user.kadalu.record` holds JSON:

    {"v":1,"path":"subvol/aa/bb/<pv>","size":<bytes>}      and, if inodes are limited, "inodes":<count>

What only the CSI controller needs may follow; kadalu-quotad does nothing with it:

    "for":<name>        whom the PV was made for, where its directory is called otherwise
    "kind":"snapshot"   it is no PV, but the copy of one
    "from":<name>       the directory that it is a copy of
    "filling":true      that copy is not whole yet
    "made":<seconds>    when a snapshot was taken, since 1970
    "storage":<name>    the storage that it was made of; several may share a volume
    "gid":<number>      the group of its files, if it has one of its own

A directory, because an xattr on a directory reaches every brick of every volume type verbatim, whereas a file's content
does not (an arbiter's is empty, a disperse brick holds fragments). It is prepared as `info/quota/.<pv>.<suffix>.new`
and renamed, so that it appears whole. A reader ignores names that begin with a dot, and keys of version 1 that it does
not know; what a reader must understand raises `v`.

quotad trusts nothing in it: `decode` accepts only a path of exactly this form whose last name is the record's own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NewType

from kadalu_ext.errors import PvNameError, RecordError
from kadalu_ext.units import round_up

PvName = NewType("PvName", str)

RECORDS_DIR: Final = "info/quota"
RECORD_XATTR: Final = "user.kadalu.record"
SUBVOL_DIR: Final = "subvol"
VERSION: Final = 1
MAX_RECORD_BYTES: Final = 4096
MAX_SIZE_BYTES: Final = (1 << 63) - 1
MAX_GID: Final = (1 << 32) - 2
"""(gid_t)-1 is none (chown(2))."""
CANARY: Final = PvName("kadalu-canary")
"""Reserved: a PV that nobody mounts. The CSI controller changes its size over and over, and the operator looks whether
every brick follows."""
SNAPSHOT_PREFIX: Final = "snapshot."
"""Reserved: begins the directory's name of every snapshot, so that no volume_id is one of a snapshot."""
MAX_NAME_BYTES: Final = 200
"""A PV's name; room is left below the file system's 255 for `.<pv>.<suffix>.archived` and the like."""

_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
_PATH: Final = re.compile(SUBVOL_DIR + r"/[0-9a-f]{2}/[0-9a-f]{2}/([^/]+)")


PV_KIND: Final = "pv"
SNAPSHOT_KIND: Final = "snapshot"


@dataclass(frozen=True, kw_only=True)
class QuotaRecord:
    """What one PV may use. `path` is relative to the volume's (and each brick's) root; `inodes` None means no limit.

    made_for: the name in the request for it, None if the directory is called so. kind: PV_KIND, SNAPSHOT_KIND, or what
    a later version has. source: the directory it is a copy of; filling: and is not whole yet. made_s: since 1970.
    gid: of its directory and what is made in it; None: no group of its own.
    """

    path: str
    size_bytes: int
    inodes: int | None = None
    made_for: PvName | None = None
    kind: str = PV_KIND
    source: PvName | None = None
    filling: bool = False
    made_s: int | None = None
    storage: str | None = None
    gid: int | None = None

    @property
    def name(self) -> PvName:
        """The record's own, which is the directory's."""
        return PvName(self.path.rpartition("/")[2])


def check_pv_name(name: str) -> PvName:
    """`name` as a PvName: one path component of ASCII letters, digits, `.`, `_`, `-`, not beginning with `.` or `-`.

    Raises: PvNameError saying what is allowed.
    """
    if len(name) > MAX_NAME_BYTES or _NAME.fullmatch(name) is None:
        raise PvNameError(
            f"name: {name[:80]!r} is not usable as a PV's name; allowed are up to {MAX_NAME_BYTES} letters, digits, "
            "'.', '_' and '-', beginning with a letter, digit or '_'"
        )
    return PvName(name)


def snapshot_name(name: str) -> PvName:
    """The directory's name of the snapshot `name`. Raises: PvNameError."""
    return check_pv_name(f"{SNAPSHOT_PREFIX}{name}")


def is_snapshot(name: str) -> bool:
    """Whether a directory's name is a snapshot's."""
    return name.startswith(SNAPSHOT_PREFIX)


def staging_name(name: PvName, suffix: str) -> str:
    """The directory's name in `info/quota` while the record is being prepared; readers ignore it. `suffix`, 16
    hexadecimal digits, is new with each call that prepares one."""
    return f".{name}.{suffix}.new"


def changed_name(name: PvName, suffix: str) -> str:
    """The name in `info/quota` of an empty directory that says: the size of `name` was changed, `suffix` tells when
    from when. If it has the xattr of a record, that is the size which is promised. Readers of records ignore it;
    controllers that remember sizes read this one again."""
    return f".{name}.{suffix}.changed"


def encode(record: QuotaRecord) -> bytes:
    """The xattr's value: the shortest JSON, keys in the order of the format. Raises: RecordError."""
    fields: dict[str, object] = {"v": VERSION, "path": record.path, "size": record.size_bytes}
    optional: dict[str, object] = {
        "inodes": record.inodes,
        "for": record.made_for,
        "kind": record.kind if record.kind != PV_KIND else None,
        "from": record.source,
        "filling": record.filling or None,
        "made": record.made_s,
        "storage": record.storage,
        "gid": record.gid,
    }
    fields |= {key: value for key, value in optional.items() if value is not None}
    value = json.dumps(fields, separators=(",", ":"), ensure_ascii=True).encode("ascii")
    decode(record.name, value)  # what would be refused on a brick is never written
    return value


def decode(name: str, value: bytes) -> QuotaRecord:
    """The record that the directory `info/quota/<name>` holds.

    Raises: RecordError naming the field, for anything but a whole record of this version whose path ends in `name`.
    """
    check_pv_name(name)
    if len(value) > MAX_RECORD_BYTES:
        raise RecordError(f"record {name}: {len(value)} bytes, more than the {MAX_RECORD_BYTES} that a record may have")
    try:
        fields = json.loads(value.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise RecordError(f"record {name}: not JSON ({error.__class__.__name__})") from error
    if not isinstance(fields, dict):
        raise RecordError(f"record {name}: a JSON object is expected, not {type(fields).__name__}")
    version = fields.get("v")
    if type(version) is not int or version != VERSION:
        raise RecordError(
            f"record {name}: v is {str(version)[:40]!r}, this program knows {VERSION}; if larger, upgrade kadalu-quotad"
        )
    path = fields.get("path")
    match = _PATH.fullmatch(path) if isinstance(path, str) else None
    if match is None or match[1] != name:
        raise RecordError(f"record {name}: path {str(path)[:120]!r} is not {SUBVOL_DIR}/<aa>/<bb>/{name}")
    return QuotaRecord(
        path=match[0],
        size_bytes=_count(name, "size", fields.get("size")),
        inodes=None if fields.get("inodes") is None else _count(name, "inodes", fields["inodes"]),
        made_for=_name(name, "for", fields),
        kind=_name(name, "kind", fields) or PV_KIND,
        source=_name(name, "from", fields),
        filling=_flag(name, "filling", fields),
        made_s=None if fields.get("made") is None else _count(name, "made", fields["made"]),
        storage=_name(name, "storage", fields),
        gid=None if fields.get("gid") is None else _count(name, "gid", fields["gid"], MAX_GID),
    )


def _name(name: str, field: str, fields: Mapping[str, object]) -> PvName | None:
    value = fields.get(field)
    if value is None:
        return None
    if not isinstance(value, str) or len(value) > MAX_NAME_BYTES or _NAME.fullmatch(value) is None:
        raise RecordError(f"record {name}: {field} {str(value)[:40]!r} is no name")
    return PvName(value)


def _flag(name: str, field: str, fields: Mapping[str, object]) -> bool:
    value = fields.get(field, False)
    if not isinstance(value, bool):
        raise RecordError(f"record {name}: {field} {str(value)[:40]!r} is neither true nor false")
    return value


def _count(name: str, field: str, value: object, most: int = MAX_SIZE_BYTES) -> int:
    # bool is an int to Python, and 1e300 a number to JSON: neither is a count
    if type(value) is not int or not 1 <= value <= most:
        raise RecordError(f"record {name}: {field} {str(value)[:40]!r} is not a whole number from 1 to {most}")
    return value


def brick_limit_bytes(size_bytes: int, *, data_bricks: int, block_bytes: int) -> int:
    """What one brick must enforce for a PV of `size_bytes`, in bytes: a whole number of its file system's blocks.

    `data_bricks` is 1 for a plain brick and for each replica, and bricks less redundancy for disperse, where every
    brick stores that part of each file. XFS keeps a project's limit in file system blocks, rounded up
    (fs/xfs/xfs_qm_syscalls.c, xfs_qm_scall_setqlim), so both who sets it and who checks it round the same way.
    """
    return round_up(-(-size_bytes // data_bricks), block_bytes)
