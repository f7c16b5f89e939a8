"""Gluster's dictionary as it travels (libglusterfs/src/dict.c, dict_serialize): names to bytes. Pure.

    be32 count, then for each pair: be32 key length, be32 value length, key, NUL, value

Nothing is padded. Text and numbers are ASCII with a NUL that counts as part of the value. File operations of protocol 4
carry another form, whose values have types (gfx_dict in rpc/xdr/src/glusterfs4-xdr.x, tag v10.3): `read_typed`.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Final

from kadalu_ext.errors import WireError
from kadalu_ext.gluster.xdr import Reader

_PAIR: Final = struct.Struct(">ii")

_SIZED: Final = frozenset({1, 5, 6})
"""gf_dict_data_type_t: text of old, text, bytes."""
_FIXED: Final[Mapping[int, int]] = {2: 8, 3: 8, 4: 8, 7: 16, 8: 148, 9: 36}
"""Integers, a double, a gfid, a gfx_iattx, a gfx_mdata_iatt: their sizes in bytes."""


def encode(pairs: Mapping[str, bytes]) -> bytes:
    """The dictionary in wire form, in the mapping's order. Raises: WireError if a key holds a NUL."""
    out = [struct.pack(">i", len(pairs))]
    for key, value in pairs.items():
        name = key.encode("utf-8", "surrogateescape")
        if b"\0" in name:
            raise WireError(f"the key {key!r} holds a NUL")
        out += [_PAIR.pack(len(name), len(value)), name, b"\0", value]
    return b"".join(out)


def decode(data: bytes) -> dict[str, bytes]:
    """The pairs of a dictionary; no bytes at all, and a count of -1, are an empty one. What follows them is ignored.

    Raises: WireError if it is cut short, a length is negative, or a key does not end where it should.
    """
    if not data:
        return {}
    if len(data) < 4:
        raise WireError("a dictionary ends within its count")
    count, at = int.from_bytes(data[:4], "big", signed=True), 4
    pairs: dict[str, bytes] = {}
    for _ in range(count):
        if at + _PAIR.size > len(data):
            raise WireError(f"a dictionary of {count} pairs ends after {len(pairs)}")
        key_size, value_size = _PAIR.unpack_from(data, at)
        at += _PAIR.size
        end = at + key_size + 1 + value_size
        if key_size < 0 or value_size < 0 or end > len(data) or data[at + key_size] != 0:
            raise WireError(f"a dictionary's pair {len(pairs)} is broken")
        key = data[at : at + key_size].decode("utf-8", "surrogateescape")
        pairs[key] = data[at + key_size + 1 : end]
        at = end
    return pairs


def encode_text(pairs: Mapping[str, str | int]) -> bytes:
    """`encode` for text and numbers."""
    return encode({key: str(value).encode("utf-8", "surrogateescape") + b"\0" for key, value in pairs.items()})


def decode_text(data: bytes) -> dict[str, str]:
    """`decode` for text and numbers: values up to their first NUL. Raises: WireError."""
    return {key: value.partition(b"\0")[0].decode("utf-8", "surrogateescape") for key, value in decode(data).items()}


def read_typed(reader: Reader) -> dict[str, bytes]:
    """The pairs of a gfx_dict, values as they are; empty if there is none. Raises: WireError."""
    reader.u32()  # its size in the other form
    reader.i32()  # its count, -1 for none; the pairs have one of their own
    pairs: dict[str, bytes] = {}
    for _ in range(reader.u32()):
        key, kind = reader.opaque(), reader.u32()
        if kind not in _SIZED and kind not in _FIXED:
            raise WireError(f"a dictionary has a value of the unknown type {kind}")
        value = reader.opaque() if kind in _SIZED else reader.fixed(_FIXED[kind])
        pairs[key.rstrip(b"\0").decode("utf-8", "surrogateescape")] = value
    return pairs
