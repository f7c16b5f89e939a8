"""Bytes, and what people write and read for them."""

from __future__ import annotations

import re
from typing import Final

from kadalu_ext.errors import InvalidInputError

KIB: Final = 1 << 10
MIB: Final = 1 << 20
GIB: Final = 1 << 30

_SUFFIXES: Final = {
    "": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "P": 10**15, "E": 10**18,
    "Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40, "Pi": 1 << 50, "Ei": 1 << 60,
}  # fmt: skip
_QUANTITY: Final = re.compile(r"([0-9]{1,19})(k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?")


def parse_quantity(text: str, *, field: str) -> int:
    """The bytes of a Kubernetes quantity in whole numbers ("64Mi", "2G", "1048576").

    Raises: InvalidInputError naming `field` for anything else; fractions and exponents are refused, since a size that
    is not whole bytes is a mistake.
    """
    match = _QUANTITY.fullmatch(text)
    if match is None:
        raise InvalidInputError(
            f"{field}: {text[:64]!r} is not a size; write whole bytes with a suffix, such as 64Mi or 10Gi"
        )
    return int(match[1]) * _SUFFIXES[match[2] or ""]


def format_bytes(count: int) -> str:
    """For people: `64 MiB`, `1.5 GiB`, `0 B`; exact when it can be, one decimal otherwise."""
    for name, size in (("TiB", 1 << 40), ("GiB", GIB), ("MiB", MIB), ("KiB", KIB)):
        if abs(count) >= size:
            return f"{count // size} {name}" if count % size == 0 else f"{count / size:.1f} {name}"
    return f"{count} B"


def format_quantity(count: int) -> str:
    """As a Kubernetes quantity, short enough to be read: `64Mi`, `7.9Gi`, `0`; rounded down to one decimal."""
    for suffix, size in (("Ti", 1 << 40), ("Gi", GIB), ("Mi", MIB), ("Ki", KIB)):
        if count >= size:
            tenths = count * 10 // size
            return f"{tenths // 10}{suffix}" if tenths % 10 == 0 else f"{tenths // 10}.{tenths % 10}{suffix}"
    return str(count)


def round_up(count: int, multiple: int) -> int:
    """The smallest multiple of `multiple` (> 0) that is at least `count` (>= 0)."""
    return -(-count // multiple) * multiple
