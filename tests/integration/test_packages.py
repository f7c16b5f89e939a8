"""What is in the packages. The .deb is installed by the other tests; the .rpm is read here, and was not run on such a
host."""

from __future__ import annotations

import hashlib
import stat
import struct
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.testbed import deb

Header = dict[int, list[Any]]

# rpm's own numbers, include/rpm/rpmtag.h
NAME, VERSION, ARCH, POST, PREUN, POSTUN = 1000, 1001, 1022, 1024, 1025, 1026
MODES, DIGESTS, REQUIRES, DIRECTORY_OF, BASENAMES, DIRECTORIES = 1030, 1035, 1049, 1116, 1117, 1118


def read_header(data: bytes, start: int) -> tuple[Header, int]:
    """An rpm header (rpm's docs/manual/format.md): magic, counts, 16 bytes an entry, data; and where it ends."""
    magic, entries, size = struct.unpack_from(">8sII", data, start)
    assert magic == b"\x8e\xad\xe8\x01\0\0\0\0"
    store = start + 16 + 16 * entries
    header: Header = {}
    for number in range(entries):
        tag, kind, offset, count = struct.unpack_from(">IIII", data, start + 16 + 16 * number)
        if kind in (3, 4):
            header[tag] = list(struct.unpack_from(f">{count}{'H' if kind == 3 else 'I'}", data, store + offset))
        elif kind in (6, 8, 9):
            header[tag] = [text.decode() for text in data[store + offset : store + size].split(b"\0")[:count]]
    return header, store + size


@pytest.fixture(scope="module")
def rpm() -> Header:
    data = deb.build("rpm").read_bytes()
    assert data.startswith(b"\xed\xab\xee\xdb")
    _, end = read_header(data, 96)
    return read_header(data, -(-end // 8) * 8)[0]


def files(rpm: Header) -> dict[str, tuple[int, str]]:
    """Mode and digest by path."""
    names = [f"{rpm[DIRECTORIES][where]}{base}" for where, base in zip(rpm[DIRECTORY_OF], rpm[BASENAMES], strict=True)]
    return dict(zip(names, zip(rpm[MODES], rpm[DIGESTS], strict=True), strict=True))


def test_the_rpm_is_for_every_machine_and_finds_a_python(rpm: Header) -> None:
    assert (rpm[NAME], rpm[ARCH]) == (["kadalu-quotad"], ["noarch"])
    assert "(python3 >= 3.11 or python3.11 or python3.12)" in rpm[REQUIRES]
    for tag, script in ((POST, "post"), (PREUN, "preun"), (POSTUN, "postun")):
        assert rpm[tag] == [(deb.builder().PACKAGING / "scripts" / "rpm" / script).read_text()]


def test_the_rpm_holds_what_was_laid_out_byte_by_byte(rpm: Header, tmp_path: Path) -> None:
    deb.builder().lay_out(tmp_path)
    digests = {hashlib.sha256(file.read_bytes()).hexdigest() for file in tmp_path.rglob("*") if file.is_file()}
    regular = {path: digest for path, (mode, digest) in files(rpm).items() if stat.S_ISREG(mode)}
    assert set(regular.values()) <= digests
    assert {
        "/usr/bin/kadalu-quotad", "/usr/lib/systemd/system/kadalu-quotad.service",
        "/usr/lib/kadalu-quotad/inotify_simple.py",
        "/usr/lib/kadalu-quotad/kadalu_ext/quotad/main.py", "/usr/share/man/man8/kadalu-quotad.8",
        "/usr/share/bash-completion/completions/kadalu-quotad",
    } <= regular.keys()  # fmt: skip
    assert files(rpm)["/usr/bin/kadalu-quotad"][0] & 0o7777 == 0o755
    assert not [path for path, (mode, _) in files(rpm).items() if mode & 0o022]


def test_both_packages_hold_the_same_but_for_the_units_place(rpm: Header) -> None:
    listed = subprocess.run(["dpkg-deb", "-c", deb.build()], capture_output=True, text=True, check=True).stdout
    of_deb = {line.split()[5].removeprefix(".") for line in listed.splitlines() if line.startswith("-")}
    of_rpm = {path for path, (mode, _) in files(rpm).items() if stat.S_ISREG(mode)}
    assert of_deb ^ of_rpm == {
        "/lib/systemd/system/kadalu-quotad.service",
        "/usr/lib/systemd/system/kadalu-quotad.service",
    }


def test_the_same_sources_give_the_same_bytes() -> None:
    def digest(kind: str) -> str:
        return hashlib.sha256(deb.build(kind).read_bytes()).hexdigest()

    assert [digest("deb"), digest("rpm")] == [digest("deb"), digest("rpm")]
