"""The client's command line, its end and its last words. glusterfs itself is in tests/integration."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from kadalu_ext.errors import MounterError
from kadalu_ext.mounter import processes
from kadalu_ext.mounter.client import PROGRAM, Client, Places, arguments
from kadalu_ext.storage import Storage, StorageName

LOG = """\
[2024-11-21 08:11:45.303612 +0000] W [MSGID: 108001] [afr-common.c:6423:afr_notify] 0-v-r: Client-quorum not met
[2024-11-21 08:11:45.304204 +0000] E [MSGID: 108006] [afr-common.c:6123:__afr_handle] 0-v-r: All subvolumes are down.
[2024-11-21 08:11:46.000000 +0000] W [fuse-bridge.c:1400:fuse_attr_cbk] 0-glusterfs-fuse: 256: LOOKUP() / => -1
  1: option password secret
"""


def storage(**options: str) -> Storage:
    return Storage(name=StorageName("ext"), hosts=("h1", "h2"), volume="vol", options=options)


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return Places(
        mount=str(tmp_path / "mounts/ext"),
        socket=str(tmp_path / "ext.sock"),
        log=str(tmp_path / "log/ext.log"),
        description=str(tmp_path / "ext.json"),
    )


@pytest.fixture
def program(tmp_path: Path, places: Places, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A stand-in for glusterfs: a script, first on PATH. None is left behind, however the test ends."""
    script = tmp_path / "bin" / PROGRAM
    script.parent.mkdir()
    monkeypatch.setenv("PATH", f"{script.parent}:{os.environ['PATH']}")
    yield script
    for line in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if places.mount.encode() in line.read_bytes():
                os.kill(int(line.parent.name), signal.SIGKILL)


def test_a_client_is_told_of_our_server_only_and_of_no_host(places: Places) -> None:
    words = arguments(storage(), places)
    assert words[0] == "glusterfs" and words[-1] == places.mount
    assert [word for word in words if "volfile-server" in word] == [
        f"--volfile-server={places.socket}",
        "--volfile-server-transport=unix",
    ]
    assert "--fs-display-name=kadalu.external:ext" in words


def test_options_of_a_storage_win_over_the_defaults(places: Places) -> None:
    words = arguments(storage(**{"entry-timeout": "600", "use-readdirp": "off"}), places)
    assert [word for word in words if "entry-timeout" in word] == ["--entry-timeout=600"]
    assert "--use-readdirp=off" in words and "--attribute-timeout=1" in words


def test_an_option_that_names_a_file_never_reaches_the_command_line(places: Places) -> None:
    words = arguments(storage(**{"log-file": "/etc/passwd", "volfile": "/tmp/x"}), places)
    assert not any("/etc/passwd" in word or "/tmp/x" in word for word in words)


def test_a_client_that_ends_says_why(program: Path, places: Places) -> None:
    program.write_text('#!/bin/sh\nfor word; do case $word in --log-file=*) echo "$LINES_" >${word#*=};; esac; done\n')
    program.chmod(0o755)
    os.environ["LINES_"] = LOG
    client = Client.start(storage(), places)
    with pytest.raises(MounterError, match="the glusterfs client ended: v-r: All subvolumes are down"):
        client.wait_ready(10)
    client.forget()


def test_a_client_whose_mount_does_not_come_is_given_up_and_can_be_killed(program: Path, places: Places) -> None:
    program.write_text("#!/bin/sh\nexec sleep 60\n")
    program.chmod(0o755)
    client = Client.start(storage(), places)
    with pytest.raises(MounterError, match=r"not usable after 0\.05 s: its mount did not appear; see .*ext\.log"):
        client.wait_ready(0.05)
    assert not client.ended()
    client.kill()
    assert client.ended()
    client.forget()


def test_a_program_that_is_not_there_is_named(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(MounterError, match="glusterfs cannot be started: No such file"):
        Client.start(storage(), places)


def test_a_client_that_an_earlier_mounter_started_is_found_and_no_other(program: Path, places: Places) -> None:
    # a child whose command line is kept: sh without exec
    program.symlink_to("/bin/sh")
    others = Places(mount=places.mount + "-1", socket=places.socket, log=places.log, description="")
    started = [start_like(place) for place in (places, others)]
    try:
        found = processes.find(places)
        assert [pid for pid, _ in found] == [started[0].pid]
        adopted = Client.adopt(*found[0], places, device=7)
        assert adopted.device == 7 and not adopted.ended()
        adopted.kill()
        assert adopted.ended()
        adopted.forget()
    finally:
        for client in started:
            client.kill()
            client.forget()


def start_like(places: Places) -> Client:
    words = [PROGRAM, "-c", "kill -STOP $$", f"--volfile-server={places.socket}", places.mount]
    process = subprocess.Popen(words)
    return Client(process.pid, os.pidfd_open(process.pid), places, process)


def test_a_log_that_has_grown_is_put_aside_and_the_client_told(program: Path, places: Places) -> None:
    program.write_text("#!/bin/sh\ntrap 'exit 0' HUP\nwhile :; do read line </dev/null; done\n")
    program.chmod(0o755)
    client = Client.start(storage(), places)
    Path(places.log).write_text(LOG)
    client.rotate_log(max_bytes=1 << 20)
    assert os.path.exists(places.log)
    client.rotate_log(max_bytes=10)
    assert Path(places.log + ".1").read_text() == LOG and not os.path.exists(places.log)
    assert client.wait_end(10)
    client.forget()
