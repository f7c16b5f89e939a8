"""What gluster says on the wire, call by call: recorded of real brick hosts, kept in tests/unit/golden/wire, replayed.

To record anew, with the testbed up (`make up`), in which a replica 3 volume `wire` is started:

    python3 -m tests.testbed run -- .venv/bin/python -m tests.wire brick1

A recording is lines of hexadecimal: `>` is a record that was sent, `<` one that came, both framed. Every UUID is
replaced by a made-up one.
"""

from __future__ import annotations

import re
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from errno import EEXIST
from pathlib import Path
from typing import Any

from kadalu_ext.errors import VolumeIOError
from kadalu_ext.gluster import messages, oncrpc
from kadalu_ext.gluster.gfapi import Volume
from kadalu_ext.gluster.messages import Gfid
from kadalu_ext.gluster.oncrpc import Accepted, Credential, Procedure

GOLDEN = Path(__file__).parent / "unit" / "golden" / "wire"
VOLUME = "wire"
DIRECTORY, ATTRIBUTE = "directory", "user.example"
BRICK = f"/bricks/{VOLUME}"
PROCESS = (
    "CTX_ID:00000000-0000-4000-8000-000000000099-GRAPH_ID:0-PID:1-HOST:kadalu-ext-PC_NAME:wire-client-0-RECON_NO:-0"
)
_UUID = re.compile(rb"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_TIMEOUT_S = 30.0


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """One call and its reply: whole streams, framing included."""

    name: str
    sent: bytes
    received: bytes

    @property
    def result(self) -> Any:
        """The reply, read."""
        return READERS[self.name.removesuffix("-missing")](self.body)

    @property
    def body(self) -> bytes:
        """The reply's result."""
        deframer = oncrpc.Deframer()
        deframer.feed(self.received)
        message = oncrpc.decode(deframer.next_record() or b"")
        assert isinstance(message, Accepted)
        return message.body


READERS: Mapping[str, Callable[[bytes], Any]] = {
    "getspec": messages.read_getspec_reply,
    "get-volume": messages.read_get_volume_reply,
    "get-volume-info": messages.read_get_volume_info_reply,
    "list-peers": messages.read_list_peers_reply,
    "port-by-brick": messages.read_port_by_brick_reply,
    "setvolume": messages.read_setvolume_reply,
    "lookup": messages.read_lookup_reply,
    "statfs": messages.read_statfs_reply,
    "getxattr": lambda body: messages.read_getxattr_reply(body, ATTRIBUTE),
}
"""What reads the reply of each call; `NAME-missing` is the same call, of what is not there."""


def load(name: str) -> Exchange:
    """A recording."""
    lines = (GOLDEN / f"{name}.hex").read_text(encoding="ascii").splitlines()
    streams = {mark: b"".join(bytes.fromhex(line[2:]) for line in lines if line[0] == mark) for mark in "<>"}
    return Exchange(name=name, sent=streams[">"], received=streams["<"])


def names() -> list[str]:
    """Of all recordings."""
    return sorted(path.stem for path in GOLDEN.glob("*.hex"))


def converse(host: str) -> Iterator[Exchange]:
    """Every call that this project makes, to the glusterd of `host` and its brick of VOLUME."""
    with Volume.open(VOLUME, [host], timeout_s=_TIMEOUT_S) as volume:
        try:
            volume.mkdir(DIRECTORY, 0o755)
        except VolumeIOError as error:
            if error.errno != EEXIST:
                raise
        volume.setxattr(DIRECTORY, ATTRIBUTE, b"value")
    with _Line(host, 24007, oncrpc.AUTH_NONE) as glusterd:
        yield glusterd.ask("getspec", messages.GETSPEC, messages.getspec_request(VOLUME))
        yield glusterd.ask("getspec-missing", messages.GETSPEC, messages.getspec_request("missing"))
        yield glusterd.ask("get-volume", messages.GET_VOLUME, messages.get_volume_request(VOLUME))
        yield glusterd.ask("get-volume-missing", messages.GET_VOLUME, messages.get_volume_request("missing"))
        info = glusterd.ask("get-volume-info", messages.GET_VOLUME_INFO, messages.get_volume_info_request(VOLUME))
        yield info
        missing = messages.get_volume_info_request("missing")
        yield glusterd.ask("get-volume-info-missing", messages.GET_VOLUME_INFO, missing)
        yield glusterd.ask("list-peers", messages.LIST_PEERS, messages.list_peers_request())
        ports = glusterd.ask("port-by-brick", messages.PORTBYBRICK, messages.port_by_brick_request(BRICK))
        yield ports
        none = messages.port_by_brick_request("/bricks/missing")
        yield glusterd.ask("port-by-brick-missing", messages.PORTBYBRICK, none)
    port, volume_id = messages.read_port_by_brick_reply(ports.body), messages.read_get_volume_info_reply(info.body)
    assert port is not None
    assert isinstance(volume_id, str)
    with _Line(host, port, oncrpc.AUTH_GLUSTERFS_V3) as brick:
        login = messages.setvolume_request(volume=VOLUME, volume_id=volume_id, path=BRICK, process_uuid=PROCESS)
        yield brick.ask("setvolume", messages.SETVOLUME, login)
        root = messages.ROOT_GFID
        lookup = brick.ask("lookup", messages.LOOKUP, messages.lookup_request(root, DIRECTORY))
        yield lookup
        yield brick.ask("lookup-missing", messages.LOOKUP, messages.lookup_request(root, "missing"))
        gfid = messages.read_lookup_reply(lookup.body)
        assert isinstance(gfid, bytes)
        yield brick.ask("statfs", messages.STATFS, messages.statfs_request(Gfid(gfid)))
        for name, attribute in (("getxattr", ATTRIBUTE), ("getxattr-missing", "user.missing")):
            yield brick.ask(name, messages.GETXATTR, messages.getxattr_request(Gfid(gfid), attribute))


class _Line:
    """A connection on which every byte is kept."""

    def __init__(self, host: str, port: int, credential: Credential) -> None:
        self._socket = socket.create_connection((host, port), timeout=_TIMEOUT_S)
        self._credential = credential
        self._xid = 0

    def ask(self, name: str, procedure: Procedure, args: bytes) -> Exchange:
        self._xid += 1
        sent = oncrpc.frame(oncrpc.encode_call(self._xid, procedure, args, self._credential))
        self._socket.sendall(sent)
        deframer, received = oncrpc.Deframer(), b""
        while (record := deframer.next_record()) is None or record[:4] != self._xid.to_bytes(4, "big"):
            data = self._socket.recv(65536)
            assert data, f"{name}: the host hung up"
            deframer.feed(data)
            received += data
        return Exchange(name=name, sent=sent, received=received)

    def __enter__(self) -> _Line:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()


def made_up(stream: bytes, known: dict[bytes, bytes]) -> bytes:
    """`stream` with every UUID that is written out replaced by a made-up one, the same for the same in `known`."""

    def replaced(match: re.Match[bytes]) -> bytes:
        if match[0].startswith(b"00000000-"):
            return match[0]
        return known.setdefault(match[0], b"00000000-0000-4000-8000-%012d" % (len(known) + 1))

    return _UUID.sub(replaced, stream)


def record(host: str) -> None:
    """Writes GOLDEN anew."""
    GOLDEN.mkdir(parents=True, exist_ok=True)
    known: dict[bytes, bytes] = {}
    for exchange in converse(host):
        lines = [
            f"{mark} {stream.hex()}"
            for mark, whole in ((">", exchange.sent), ("<", exchange.received))
            for stream in [made_up(whole, known)[at : at + 56] for at in range(0, len(whole), 56)]
        ]
        (GOLDEN / f"{exchange.name}.hex").write_text("\n".join(lines) + "\n", encoding="ascii")


if __name__ == "__main__":
    record(sys.argv[1])
