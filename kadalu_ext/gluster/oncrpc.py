"""ONC RPC version 2 (RFC 5531) over TCP's record marking. Pure: bytes in, messages out, no sockets.

Both sides are here: the client of glusterd and bricks, and the server that the mounter is to its glusterfs clients.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from kadalu_ext.errors import WireError
from kadalu_ext.gluster import xdr

MAX_RECORD_BYTES: Final = 16 << 20
"""What a peer may send as one record. The largest real one is a volfile or a volume's dictionary: some hundred KiB."""

_CALL: Final = 0
_REPLY: Final = 1
_RPC_VERSION: Final = 2
_MSG_ACCEPTED: Final = 0
_SUCCESS: Final = 0
_PROC_UNAVAIL: Final = 3
_LAST_FRAGMENT: Final = 1 << 31

_ACCEPT_STATS: Final = {
    1: "it does not serve this program",
    2: "it serves another version of this program",
    3: "it does not serve this procedure",
    4: "it could not read the arguments",
    5: "it had an internal error",
}
_DENIED: Final = (
    "it denied the call: it may take none from ports above 1023; allow them with `gluster volume set VOLUME "
    "server.allow-insecure on`, or, for glusterd, rpc-auth-allow-insecure on in its glusterd.vol"
)
_NO_AUTH: Final = xdr.u32(0) + xdr.opaque(b"")


@dataclass(frozen=True, kw_only=True)
class Procedure:
    """What is called: numbers as in gluster's rpc/rpc-lib/src/protocol-common.h."""

    program: int
    version: int
    number: int


@dataclass(frozen=True, kw_only=True)
class Credential:
    """An RPC credential: `flavor` as in RFC 5531 §8.2 or gluster's rpc/rpc-lib/src/xdr-rpc.h, `body` as it says."""

    flavor: int
    body: bytes


AUTH_NONE: Final = Credential(flavor=0, body=b"")
"""Enough for glusterd."""

AUTH_GLUSTERFS_V3: Final = Credential(
    # pid, uid, gid, flags, ctime nanoseconds, ctime seconds (64 bits), groups<>, lock owner<>
    flavor=390040,
    body=struct.pack(">iIIIIQ", 0, 0, 0, 0, 0, 0) + xdr.u32(0) + xdr.opaque(bytes(4)),
)
"""What bricks want: here the superuser's, without groups (gluster's auth_glusterfs_params_v3)."""


@dataclass(frozen=True, kw_only=True)
class Call:
    """A CALL that a peer sent: a client's request, or a callback that glusterd pushes."""

    xid: int
    procedure: Procedure
    args: bytes


@dataclass(frozen=True, kw_only=True)
class Accepted:
    """A REPLY with the procedure's result."""

    xid: int
    body: bytes


@dataclass(frozen=True, kw_only=True)
class Rejected:
    """A REPLY that the call was not carried out. `reason` is for people."""

    xid: int
    reason: str


def encode_call(xid: int, procedure: Procedure, args: bytes, credential: Credential = AUTH_NONE) -> bytes:
    """The record of a CALL, not framed."""
    head = (xid, _CALL, _RPC_VERSION, procedure.program, procedure.version, procedure.number, credential.flavor)
    return b"".join(map(xdr.u32, head)) + xdr.opaque(credential.body) + _NO_AUTH + args


def encode_reply(xid: int, body: bytes) -> bytes:
    """The record of a REPLY that was carried out, not framed."""
    return _reply(xid, _SUCCESS) + body


def encode_unavailable(xid: int) -> bytes:
    """The record of a REPLY to a procedure that is not served here (PROC_UNAVAIL), not framed."""
    return _reply(xid, _PROC_UNAVAIL)


def _reply(xid: int, accept_stat: int) -> bytes:
    return xdr.u32(xid) + xdr.u32(_REPLY) + xdr.u32(_MSG_ACCEPTED) + _NO_AUTH + xdr.u32(accept_stat)


def decode(record: bytes) -> Call | Accepted | Rejected:
    """The message of a record. Raises: WireError if it is not RPC version 2."""
    reader = xdr.Reader(record)
    xid, kind = reader.u32(), reader.u32()
    if kind == _REPLY:
        return _decode_reply(xid, reader)
    if kind != _CALL:
        raise WireError(f"an RPC message of type {kind} is neither a call nor a reply")
    if (version := reader.u32()) != _RPC_VERSION:
        raise WireError(f"RPC version {version} is not {_RPC_VERSION}")
    procedure = Procedure(program=reader.u32(), version=reader.u32(), number=reader.u32())
    for _credential_and_verifier in range(2):
        reader.u32()
        reader.opaque()
    return Call(xid=xid, procedure=procedure, args=reader.rest())


def _decode_reply(xid: int, reader: xdr.Reader) -> Accepted | Rejected:
    if (reply_stat := reader.u32()) != _MSG_ACCEPTED:
        if reply_stat != 1:
            raise WireError(f"an RPC reply of status {reply_stat} is neither accepted nor denied")
        return Rejected(xid=xid, reason=_DENIED)
    reader.u32()
    reader.opaque()
    accept_stat = reader.u32()
    if accept_stat == _SUCCESS:
        return Accepted(xid=xid, body=reader.rest())
    reason = _ACCEPT_STATS.get(accept_stat, f"it answered with RPC status {accept_stat}")
    return Rejected(xid=xid, reason=reason)


def frame(record: bytes) -> bytes:
    """A record as one fragment (RFC 5531 §11). Raises: WireError if it is too large."""
    if len(record) > MAX_RECORD_BYTES:
        raise WireError(f"a record of {len(record)} bytes is larger than {MAX_RECORD_BYTES}")
    return xdr.u32(_LAST_FRAGMENT | len(record)) + record


class Deframer:
    """Cuts a stream into records: feed bytes as they come, take records until there is none.

    `max_bytes` bounds one record, and with it what is buffered. After a WireError the stream is lost: close it.
    """

    def __init__(self, max_bytes: int = MAX_RECORD_BYTES) -> None:
        self._max_bytes = max_bytes
        self._stream = bytearray()
        self._record = bytearray()

    def feed(self, data: bytes) -> None:
        """Bytes as they came from the peer, in any pieces."""
        self._stream += data

    def next_record(self) -> bytes | None:
        """The next whole record, or None: more bytes are needed.

        Raises: WireError as soon as a header announces more than `max_bytes`, before that much is waited for.
        """
        while len(self._stream) >= 4:
            header = int.from_bytes(self._stream[:4], "big")
            size = header & ~_LAST_FRAGMENT
            if len(self._record) + size > self._max_bytes:
                raise WireError(
                    f"a record of more than {self._max_bytes} bytes was announced: the peer does not speak gluster"
                )
            if len(self._stream) < 4 + size:
                return None
            self._record += self._stream[4 : 4 + size]
            del self._stream[: 4 + size]
            if header & _LAST_FRAGMENT:
                record, self._record = bytes(self._record), bytearray()
                return record
        return None
