"""Whether a PV that exists is the one that is asked for. Pure."""

from __future__ import annotations

from kadalu_ext.errors import ConflictError
from kadalu_ext.record import QuotaRecord
from kadalu_ext.units import format_bytes


def check_same(present: QuotaRecord, wanted: QuotaRecord) -> None:
    """Raises: ConflictError unless the record that there is promises what is wanted, to the same."""
    name = present.name
    if present.size_bytes != wanted.size_bytes:
        raise ConflictError(
            f"{name}: exists with {format_bytes(present.size_bytes)} ({present.size_bytes} bytes), and was asked for "
            f"with {format_bytes(wanted.size_bytes)} ({wanted.size_bytes} bytes)"
        )
    if present.inodes != wanted.inodes:
        raise ConflictError(
            f"{name}: exists with {_inodes(present)}, and was asked for with {_inodes(wanted)}; choose another name"
        )
    if present.kind != wanted.kind:
        raise ConflictError(f"{name}: exists as a {present.kind}, and was asked for as a {wanted.kind}")
    if present.source != wanted.source:
        raise ConflictError(
            f"{name}: exists as {_origin(present)}, and was asked for as {_origin(wanted)}; choose another name"
        )
    if present.made_for != wanted.made_for:
        raise ConflictError(
            f"{name}: this directory is that of {present.made_for or name}; {wanted.made_for or name} cannot have it"
        )


def _inodes(record: QuotaRecord) -> str:
    return "no limit of inodes" if record.inodes is None else f"{record.inodes} inodes"


def _origin(record: QuotaRecord) -> str:
    return f"a copy of {record.source}" if record.source else "an empty one"
