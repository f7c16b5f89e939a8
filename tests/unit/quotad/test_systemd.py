from __future__ import annotations

import os
import socket
from pathlib import Path

from kadalu_ext.quotad.systemd import Notifier


def test_states_go_to_the_socket_that_systemd_names(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(str(tmp_path / "notify"))
        Notifier({"NOTIFY_SOCKET": str(tmp_path / "notify")}).send("READY=1", "STATUS=3 bricks")
        assert server.recv(100) == b"READY=1\nSTATUS=3 bricks"


def test_an_abstract_socket_works_too() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind("\0kadalu-ext-test")
        Notifier({"NOTIFY_SOCKET": "@kadalu-ext-test"}).send("READY=1")
        assert server.recv(100) == b"READY=1"


def test_without_systemd_nothing_is_sent_and_nothing_fails(tmp_path: Path) -> None:
    Notifier({}).send("READY=1")
    Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone")}).send("READY=1")


def test_the_watchdog_is_only_minded_by_the_process_that_it_is_for() -> None:
    mine = {"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": str(os.getpid())}
    assert Notifier(mine).watchdog_s == 60
    assert Notifier({**mine, "WATCHDOG_PID": "1"}).watchdog_s is None
