"""What gluster 10.3 really sent and was sent: hexadecimal, with every UUID replaced by a made-up one."""

from __future__ import annotations

from pathlib import Path

_DATA = Path(__file__).parent / "data"


def wire(name: str) -> bytes:
    return bytes.fromhex((_DATA / f"{name}.hex").read_text(encoding="ascii"))


def volfile(volume: str) -> str:
    return (_DATA / f"{volume}.vol").read_text(encoding="ascii")
