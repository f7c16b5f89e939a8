"""The requests and replies of gluster that are used here. Pure.

Arguments and results as in rpc/xdr/src/glusterfs3-xdr.x, glusterfs4-xdr.x, cli1-xdr.x and portmap-xdr.x; numbers as in
rpc/rpc-lib/src/protocol-common.h, tag v10.3. `…_request` and `…_reply` encode, `read_…` decode; all `read_…` raise
WireError for bytes that are not what they should be, and return a `Refused` where the server said no.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, NewType

from kadalu_ext.errors import WireError
from kadalu_ext.gluster import oncrpc, wiredict, xdr
from kadalu_ext.gluster.oncrpc import Procedure

Gfid = NewType("Gfid", bytes)
"""A file's 16-byte identity, the same on all bricks."""

ROOT_GFID: Final = Gfid(bytes(15) + b"\1")

_HANDSHAKE: Final = 14398633
_FOPS: Final = 1298437
GETSPEC: Final = Procedure(program=_HANDSHAKE, version=2, number=2)
SETVOLUME: Final = Procedure(program=_HANDSHAKE, version=2, number=1)
GET_VOLUME_INFO: Final = Procedure(program=_HANDSHAKE, version=2, number=6)
LIST_PEERS: Final = Procedure(program=1238463, version=2, number=3)
GET_VOLUME: Final = Procedure(program=1238463, version=2, number=5)
PORTBYBRICK: Final = Procedure(program=34123456, version=1, number=1)
STATFS: Final = Procedure(program=_FOPS, version=400, number=14)
GETXATTR: Final = Procedure(program=_FOPS, version=400, number=18)
LOOKUP: Final = Procedure(program=_FOPS, version=400, number=27)
FETCHSPEC: Final = Procedure(program=52743234, version=1, number=1)
"""The callback by which a server tells its clients that their volfile changed."""

EG_NOVOL: Final = 30806
"""glusterd's op_errno for a volume that does not exist (libglusterfs/src/glusterfs/glusterfs.h has the range)."""

_OP_VERSIONS: Final = {"min-op-version": 1, "max-op-version": 100000}
_NO_DICT: Final = struct.pack(">IiI", 0, -1, 0)
"""A gfx_dict that is not there: size, count, no pairs."""
_IATT_BYTES: Final = 148
_STATVFS: Final = struct.Struct(">11Q")


_SAID: Final = 500
"""So much of what a server says goes on into messages."""


@dataclass(frozen=True, kw_only=True)
class Refused:
    """The server did what it was asked in vain. `errno` may be one of gluster's own, above 30000."""

    errno: int
    message: str = ""


class VolumeStatus(StrEnum):
    """glusterd_volume_status_t."""

    CREATED = "created"
    STARTED = "started"
    STOPPED = "stopped"


@dataclass(frozen=True, kw_only=True)
class BrickInfo:
    """A brick as glusterd lists it. host_uuid: of the glusterd that runs it."""

    host: str
    path: str
    host_uuid: str
    arbiter: bool


@dataclass(frozen=True, kw_only=True)
class Peer:
    """A host of the cluster, as the glusterd that was asked sees it: itself is `localhost`, and connected."""

    hostname: str
    uuid: str
    connected: bool


@dataclass(frozen=True, kw_only=True)
class VolumeInfo:
    """A volume as glusterd describes it. `type` is gluster's number: 0 distribute, 2 replicate, 4 disperse.

    options: only what was set, by the names of `gluster volume set`, with the values as they were written (`on`, `ON`,
        `1`): `features.shard`, `features.trash`, `features.quota` and `features.quota-deem-statfs`, `storage.reserve`,
        `client.ssl`, `server.ssl`, `auth.allow`, and every `user.*`. A volume of gluster-block is known by what its
        group of options sets (`features.shard` among it): no mark of its own is on the wire.
    thin_arbiter_count: 1 if it has one; its brick is not in `bricks`.
    The number of subvolumes is len(bricks) / (replica_count, or disperse_count if that is not 0). Whether a brick runs
    is not here: Glusterd.brick_port of the brick's own host says it, or the brick itself. shared-brick-count is in the
    bricks' volfiles only.
    """

    name: str
    volume_id: str
    status: VolumeStatus
    type: int
    replica_count: int
    arbiter_count: int
    disperse_count: int
    redundancy_count: int
    thin_arbiter_count: int = 0
    bricks: tuple[BrickInfo, ...]
    options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class StatFs:
    """statvfs(3) of a brick's directory. `blocks`, `free`, `available` count `fragment_bytes`."""

    block_bytes: int
    fragment_bytes: int
    blocks: int
    free: int
    available: int
    files: int
    files_free: int


# --- GETSPEC: a volfile by name --------------------------------------------------------------------------------------


def getspec_request(volfile_id: str) -> bytes:
    """gf_getspec_req. Without the op-versions glusterd answers ENOTSUP."""
    return xdr.u32(0) + xdr.string(volfile_id) + xdr.opaque(wiredict.encode_text(_OP_VERSIONS))


def read_getspec_request(body: bytes) -> str:
    """Which volfile is asked for. Raises: WireError."""
    reader = xdr.Reader(body)
    reader.u32()  # flags
    return reader.string()


def getspec_reply(volfile: str) -> bytes:
    """gf_getspec_rsp: op_ret is the text's length."""
    text = volfile.encode("utf-8", "surrogateescape")
    return xdr.i32(len(text)) + xdr.i32(0) + xdr.opaque(text) + xdr.opaque(b"")


def getspec_refusal(errno: int) -> bytes:
    """gf_getspec_rsp of a volfile that is not there."""
    return xdr.i32(-1) + xdr.i32(errno) + xdr.opaque(b"") + xdr.opaque(b"")


def read_getspec_reply(body: bytes) -> str | Refused:
    """The volfile's text."""
    reader = xdr.Reader(body)
    op_ret, op_errno, text = reader.i32(), reader.i32(), reader.string()
    return Refused(errno=op_errno) if op_ret < 0 else text


def fetchspec_call(xid: int) -> bytes:
    """The record, not framed, by which a server pushes FETCHSPEC. Nobody answers it."""
    return oncrpc.encode_call(xid, FETCHSPEC, b"")


# --- volumes ---------------------------------------------------------------------------------------------------------


def get_volume_request(volume: str) -> bytes:
    """gf_cli_req, flags 2 (GF_CLI_GET_VOLUME): one volume, whole."""
    return xdr.opaque(wiredict.encode_text({"flags": 2, "volname": volume}))


def read_get_volume_reply(body: bytes) -> VolumeInfo | Refused:
    """The volume."""
    pairs = _read_dict_reply(body)
    if isinstance(pairs, Refused):
        return pairs
    if _number(pairs, "count") != 1:
        return Refused(errno=EG_NOVOL)
    status = {0: VolumeStatus.CREATED, 1: VolumeStatus.STARTED, 2: VolumeStatus.STOPPED}.get(
        _number(pairs, "volume0.status")
    )
    if status is None:
        raise WireError("glusterd sent a volume status that is not known")
    prefix = "volume0.option."
    return VolumeInfo(
        name=_text(pairs, "volume0.name"),
        volume_id=_uuid(pairs, "volume0.volume_id"),
        status=status,
        type=_number(pairs, "volume0.type"),
        replica_count=_number(pairs, "volume0.replica_count"),
        arbiter_count=_number(pairs, "volume0.arbiter_count", 0),
        disperse_count=_number(pairs, "volume0.disperse_count", 0),
        redundancy_count=_number(pairs, "volume0.redundancy_count", 0),
        thin_arbiter_count=_number(pairs, "volume0.thin_arbiter_count", 0),
        bricks=tuple(_brick_info(pairs, n) for n in range(1, _count(pairs, "volume0.brick_count") + 1)),
        options={key.removeprefix(prefix): value for key, value in pairs.items() if key.startswith(prefix)},
    )


def _brick_info(pairs: Mapping[str, str], n: int) -> BrickInfo:
    host, colon, path = _text(pairs, f"volume0.brick{n}").rpartition(":/")
    if not colon:
        raise WireError("glusterd sent a brick that is not host:/path")
    arbiter = _number(pairs, f"volume0.brick{n}.isArbiter", 0) == 1
    return BrickInfo(host=host, path="/" + path, host_uuid=_text(pairs, f"volume0.brick{n}.uuid"), arbiter=arbiter)


def get_volume_info_request(volume: str) -> bytes:
    """gf_get_volume_info_req, flags 1 (GF_GET_VOLUME_UUID)."""
    return xdr.opaque(wiredict.encode_text({"flags": 1, "volname": volume}))


def read_get_volume_info_reply(body: bytes) -> str | Refused:
    """The volume's id. Laid out as a gf_cli_rsp."""
    pairs = _read_dict_reply(body)
    return pairs if isinstance(pairs, Refused) else _text(pairs, "volume_id")


def list_peers_request() -> bytes:
    """gf1_cli_peer_list_req, flags 2 (GF_CLI_LIST_POOL_NODES): all of the pool, the one asked included."""
    return xdr.i32(2) + xdr.opaque(b"")


def read_list_peers_reply(body: bytes) -> tuple[Peer, ...] | Refused:
    """gf1_cli_peer_list_rsp: op_ret, op_errno, dict."""
    reader = xdr.Reader(body)
    op_ret, op_errno, pairs = reader.i32(), reader.i32(), wiredict.decode_text(reader.opaque())
    if op_ret < 0:
        return Refused(errno=op_errno)
    return tuple(
        Peer(
            hostname=_text(pairs, f"friend{n}.hostname"),
            uuid=_text(pairs, f"friend{n}.uuid"),
            connected=_number(pairs, f"friend{n}.connected") == 1,
        )
        for n in range(1, _count(pairs, "count") + 1)
    )


def _count(pairs: Mapping[str, str], key: str) -> int:
    """A number of things that are in `pairs` themselves, so that there are not more of them than pairs."""
    if (count := _number(pairs, key)) > len(pairs):
        raise WireError(f"glusterd's reply has a {key} of more than it holds")
    return count


def _read_dict_reply(body: bytes) -> dict[str, str] | Refused:
    """gf_cli_rsp: op_ret, op_errno, op_errstr, dict."""
    reader = xdr.Reader(body)
    op_ret, op_errno, message = reader.i32(), reader.i32(), reader.string()
    return Refused(errno=op_errno, message=message[:_SAID]) if op_ret < 0 else wiredict.decode_text(reader.opaque())


def _text(pairs: Mapping[str, str], key: str) -> str:
    if key not in pairs:
        raise WireError(f"glusterd's reply has no {key}")
    return pairs[key]


def _uuid(pairs: Mapping[str, str], key: str) -> str:
    if re.fullmatch(r"[0-9a-f-]{36}", text := _text(pairs, key)) is None:
        raise WireError(f"glusterd's reply has a {key} that is no UUID")
    return text


def _number(pairs: Mapping[str, str], key: str, default: int | None = None) -> int:
    text = pairs.get(key) if default is not None else _text(pairs, key)
    if text is None:
        return default or 0
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise WireError(f"glusterd's reply has a {key} that is not a number")
    return int(text)


# --- bricks ----------------------------------------------------------------------------------------------------------


def port_by_brick_request(path: str) -> bytes:
    """pmap_port_by_brick_req."""
    return xdr.string(path)


def read_port_by_brick_reply(body: bytes) -> int | None:
    """The brick's TCP port; None: it does not run."""
    reader = xdr.Reader(body)
    op_ret, _op_errno, _status, port = reader.i32(), reader.i32(), reader.i32(), reader.i32()
    return port if op_ret >= 0 and port > 0 else None


def setvolume_request(*, volume: str, volume_id: str, path: str, process_uuid: str) -> bytes:
    """gf_setvolume_req: logs in to the brick `path`. `process_uuid` must be unlike that of every other connection."""
    return xdr.opaque(
        wiredict.encode_text(
            {
                "fops-version": _FOPS,
                "mgmt-version": _HANDSHAKE,
                "client-version": "10.3",
                "clnt-lk-version": 1,
                "opversion": _OP_VERSIONS["max-op-version"],
                "process-name": "kadalu-ext",
                "process-uuid": process_uuid,
                "remote-subvolume": path,
                "volfile-key": volume,
                "volume-id": volume_id,
            }
        )
    )


def read_setvolume_reply(body: bytes) -> dict[str, str] | Refused:
    """What the brick says of itself."""
    reader = xdr.Reader(body)
    op_ret, op_errno, pairs = reader.i32(), reader.i32(), wiredict.decode_text(reader.opaque())
    return Refused(errno=op_errno, message=pairs.get("ERROR", "")[:_SAID]) if op_ret < 0 else pairs


def lookup_request(parent: Gfid, name: str) -> bytes:
    """gfx_lookup_req of a name in a directory: gfid (asked for), parent, flags, name, no dictionary."""
    return bytes(16) + parent + xdr.u32(0) + xdr.string(name) + _NO_DICT


def read_lookup_reply(body: bytes) -> Gfid | Refused:
    """The gfid of what was looked up: gfx_common_2iatt_rsp, whose two gfx_iattx stand at the end, gfid first."""
    tail = _read_fop_reply(body, 2 * _IATT_BYTES)
    return tail if isinstance(tail, Refused) else Gfid(tail[:16])


def getxattr_request(gfid: Gfid, name: str) -> bytes:
    """gfx_getxattr_req; without a name it asks for all (server4_getxattr, v10.3), see `read_listxattr_reply`."""
    return gfid + xdr.u32(len(name)) + xdr.string(name) + _NO_DICT


def read_listxattr_reply(body: bytes) -> dict[str, bytes] | Refused:
    """All attributes but gluster's own: gfx_common_dict_rsp, whose second dictionary has them."""
    reader = xdr.Reader(body)
    op_ret, op_errno = reader.i32(), reader.i32()
    if op_ret < 0:
        return Refused(errno=op_errno)
    wiredict.read_typed(reader)
    found = wiredict.read_typed(reader)
    reader.fixed(2 * _IATT_BYTES)
    return found


def read_getxattr_reply(body: bytes, name: str) -> bytes | Refused:
    """The attribute's value. ENODATA if there is no such one."""
    found = read_listxattr_reply(body)
    if isinstance(found, Refused):
        return found
    value = found.get(name)
    if value is None:
        raise WireError(f"a brick's reply has no {name}")
    return value


def statfs_request(gfid: Gfid) -> bytes:
    """gfx_statfs_req."""
    return gfid + _NO_DICT


def read_statfs_reply(body: bytes) -> StatFs | Refused:
    """gfx_statfs_rsp, whose gf_statfs stands at the end."""
    tail = _read_fop_reply(body, _STATVFS.size)
    if isinstance(tail, Refused):
        return tail
    bsize, frsize, blocks, bfree, bavail, files, ffree, *_favail_fsid_flag_namemax = _STATVFS.unpack(tail)
    return StatFs(
        block_bytes=bsize,
        fragment_bytes=frsize,
        blocks=blocks,
        free=bfree,
        available=bavail,
        files=files,
        files_free=ffree,
    )


def _read_fop_reply(body: bytes, size: int) -> bytes | Refused:
    """The fixed part of a file operation's reply, taken from the end: before it stands a dictionary of any size."""
    reader = xdr.Reader(body)
    op_ret, op_errno, rest = reader.i32(), reader.i32(), reader.rest()
    if op_ret < 0:
        return Refused(errno=op_errno)
    if len(rest) < len(_NO_DICT) + size:
        raise WireError(f"a brick's reply has {len(rest)} bytes where at least {len(_NO_DICT) + size} belong")
    return rest[-size:]
