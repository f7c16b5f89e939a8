"""Names to paths on the volume. Pure; golden-tested: it is a format on disk.

All paths are relative to the volume's root:

    subvol/<aa>/<bb>/<pv>/     the PV: all that a pod ever sees; aabb… is the xxh64 hex digest of the PV's name
                               (Kadalu's scheme, so that a pool of Kadalu's can be adopted in place)
    info/quota/<pv>/           its quota record, see record.py
    trash/<pv>.<suffix>/       deleted: moved here in one rename, emptied afterwards; 16 hexadecimal digits
"""

from __future__ import annotations

import re
from typing import Final

import xxhash

from kadalu_ext.record import RECORDS_DIR, SUBVOL_DIR, PvName, staging_name

TRASH_DIR: Final = "trash"

_TRASH_NAME: Final = re.compile(r".+\.[0-9a-f]{16}")


def pv_path(name: PvName) -> str:
    """`subvol/<aa>/<bb>/<name>`."""
    digest: str = xxhash.xxh64(name.encode("utf-8")).hexdigest()
    return f"{SUBVOL_DIR}/{digest[0:2]}/{digest[2:4]}/{name}"


def record_path(name: PvName) -> str:
    """`info/quota/<name>`: the record, whole."""
    return f"{RECORDS_DIR}/{name}"


def staged_record_path(name: PvName) -> str:
    """`info/quota/.<name>.new`: the record while it is being prepared."""
    return f"{RECORDS_DIR}/{staging_name(name)}"


def trash_path(name: PvName, suffix: str) -> str:
    """`trash/<name>.<suffix>`; `suffix`, 16 hexadecimal digits, tells apart PVs of one name that were deleted at
    different times."""
    return f"{TRASH_DIR}/{name}.{suffix}"


def is_trash_name(entry: str) -> bool:
    """Whether an entry of `trash` has a name that `trash_path` makes. Anything else there is somebody else's."""
    return _TRASH_NAME.fullmatch(entry) is not None
