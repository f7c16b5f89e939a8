"""XDR (RFC 4506), as much of it as gluster uses: integers, opaques, strings. Pure.

Every item is big-endian and fills a multiple of four bytes.
"""

from __future__ import annotations

import struct
from typing import Final

from kadalu_ext.errors import WireError

_U32: Final = struct.Struct(">I")
_I32: Final = struct.Struct(">i")


def u32(value: int) -> bytes:
    """An unsigned integer (§4.2). Raises: WireError if it does not fit."""
    return _pack(_U32, value)


def i32(value: int) -> bytes:
    """An integer (§4.1). Raises: WireError if it does not fit."""
    return _pack(_I32, value)


def opaque(data: bytes) -> bytes:
    """Variable-length opaque data (§4.10): length, bytes, padding."""
    return u32(len(data)) + data + bytes(-len(data) % 4)


def string(text: str) -> bytes:
    """A string (§4.11), in UTF-8."""
    return opaque(text.encode("utf-8", "surrogateescape"))


def _pack(item: struct.Struct, value: int) -> bytes:
    try:
        return item.pack(value)
    except struct.error as error:
        raise WireError(f"{value} does not fit into 32 bits") from error


class Reader:
    """Reads XDR items one after the other. Every method raises WireError where the data ends too early."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def u32(self) -> int:
        value: int = _U32.unpack(self.fixed(4))[0]
        return value

    def i32(self) -> int:
        value: int = _I32.unpack(self.fixed(4))[0]
        return value

    def fixed(self, size: int) -> bytes:
        """Fixed-length opaque data (§4.9) of `size` bytes, which must be a multiple of four."""
        end = self._at + size
        if end > len(self._data):
            raise WireError(f"the message ends early: {size} bytes wanted at {self._at} of {len(self._data)}")
        self._at, start = end, self._at
        return self._data[start:end]

    def opaque(self) -> bytes:
        """Variable-length opaque data. A length beyond the message's end is refused before anything is allocated."""
        size = self.u32()
        return self.fixed(size + -size % 4)[:size]

    def string(self) -> str:
        """A string; bytes that are not UTF-8 are kept as surrogates, as Python does for file names."""
        return self.opaque().decode("utf-8", "surrogateescape")

    def rest(self) -> bytes:
        """All that is left."""
        return self.fixed(len(self._data) - self._at)
