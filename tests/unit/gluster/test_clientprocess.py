"""A client in a process of its own: what it does, how it is ended, and that nothing of it is left."""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from errno import EEXIST, EMFILE, ENOMEM, ENOSPC, EOVERFLOW
from pathlib import Path

import pytest

from kadalu_ext.errors import DeadlineError, ShortageError, UnavailableError
from kadalu_ext.gluster import clientmain, clientprocess
from kadalu_ext.gluster.channel import Channel
from kadalu_ext.gluster.clientprocess import ClientProcess
from kadalu_ext.gluster.copyprogress import CopyProgress

PATIENT_S = 20.0
PROGRAM = Path(__file__).with_name("fake_client.py")


def start(what: str = "") -> ClientProcess:
    command = (sys.executable, str(PROGRAM))
    return ClientProcess.start(what, socket="/volfile.sock", log_file="/dev/null", log_level=5, command=command)


@pytest.fixture
def client() -> Iterator[ClientProcess]:
    client = start()
    yield client
    client.end()


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(16) as threads:
        yield threads


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def hang(client: ClientProcess, threads: ThreadPoolExecutor, calls: int = 1) -> list[Future[object]]:
    """Calls of the library that have been running for a minute, or say so."""
    futures = [threads.submit(client.call, "rmdir", "hang") for _ in range(calls)]
    wait_until(lambda: len(client._waiting) == calls)
    return futures


def stop(client: ClientProcess) -> None:
    """SIGSTOP; its threads go on for a moment after that was sent."""
    os.kill(client._process.pid, 19)
    tasks = Path(f"/proc/{client._process.pid}/task")
    wait_until(lambda: all(") T " in (task / "stat").read_text() for task in tasks.iterdir()))


def is_gone(client: ClientProcess) -> bool:
    return not os.path.exists(f"/proc/{client._process.pid}")


def test_what_goes_in_and_out_is_the_same_on_the_other_side(client: ClientProcess) -> None:
    value = bytes(range(256))
    client.call("setxattr", "päth\udcff", "user.x", value, True)
    assert client.call("getxattr", "päth\udcff", "user.x") == value
    assert client.call("listdir", "") == ["päth\udcff"]
    assert client.call("statvfs", "") == [1 << 60, 2, 3]


def test_errors_are_what_they_were(client: ClientProcess) -> None:
    with pytest.raises(FileExistsError, match="there") as raised:
        client.call("mkdir", "there", 0o755)
    assert (raised.value.errno, raised.value.filename) == (EEXIST, None)
    with pytest.raises(DeadlineError, match="not removed yet"):
        client.call("remove_tree", "tree", 1.0)
    with pytest.raises(RuntimeError, match="no such operation"):
        client.call("_absolute", "x")


def test_calls_go_on_beside_those_that_hang(client: ClientProcess, threads: ThreadPoolExecutor) -> None:
    hanging = hang(client, threads, 8)
    assert client.call("listdir", "") == []
    assert not any(future.done() for future in hanging)
    client.kill("test")


def test_a_copy_tells_how_far_it_is_and_names_what_it_failed_with(client: ClientProcess) -> None:
    progress = CopyProgress()
    client.copy_tree("source", "target", False, None, progress)
    assert (progress.files, progress.size_bytes) == (3, 3 << 20)
    with pytest.raises(OSError, match="no space") as raised:
        client.copy_tree("full", "target", False, None, CopyProgress())
    assert (raised.value.errno, raised.value.filename) == (ENOSPC, "a/b")


def test_a_copy_is_stopped_from_this_side_also_by_its_time(client: ClientProcess, threads: ThreadPoolExecutor) -> None:
    stopped, timed = CopyProgress(), CopyProgress()
    timed.allow_until(time.monotonic() + 3600)
    copies = [threads.submit(client.copy_tree, "endless", "t", False, None, each) for each in (stopped, timed)]
    wait_until(lambda: stopped.files and timed.files)
    stopped.stop()
    timed.allow_until(time.monotonic())
    for copy in copies:
        assert isinstance(copy.exception(PATIENT_S), DeadlineError)
    with pytest.raises(DeadlineError):
        client.copy_tree("source", "t", False, None, stopped)


def test_one_that_hangs_is_ended_and_all_that_wait_for_it_are_told(
    client: ClientProcess, threads: ThreadPoolExecutor
) -> None:
    hanging = hang(client, threads, 8)
    assert client.look(3600.0) == ""
    wait_until(lambda: "glfs_rmdir has hung in it for" in client.look(0.01))
    assert {type(future.exception(PATIENT_S)) for future in hanging} == {UnavailableError}
    with pytest.raises(UnavailableError, match="glfs_rmdir has hung"):
        client.call("listdir", "")
    client.end()
    assert is_gone(client)


def test_one_whose_calls_are_long_but_none_of_them_hangs_is_left_alone(
    client: ClientProcess, threads: ThreadPoolExecutor
) -> None:
    progress = CopyProgress()
    copy = threads.submit(client.copy_tree, "endless", "target", False, None, progress)
    wait_until(lambda: progress.files)
    assert client.look(0.0) == ""
    progress.stop()
    assert isinstance(copy.exception(PATIENT_S), DeadlineError)


def test_one_that_does_not_even_say_what_hangs_is_ended(
    client: ClientProcess, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clientprocess, "_ASKED_S", 0.1)
    (hanging,) = hang(client, threads)
    stop(client)
    assert [client.look(0.0) for _ in range(3)] == ["", "", "it does not say what it is at"]
    assert isinstance(hanging.exception(PATIENT_S), UnavailableError)


def test_one_that_answers_in_between_is_left_alone_and_no_call_gets_the_late_answer_of_another(
    client: ClientProcess, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clientprocess, "_ASKED_S", 0.1)
    hang(client, threads)
    for _ in range(2):
        stop(client)
        assert [client.look(0.0) for _ in range(2)] == ["", ""]
        os.kill(client._process.pid, 18)  # SIGCONT
        assert client.call("statvfs", "") == [1 << 60, 2, 3]
    client.kill("test")


def test_an_answer_that_is_too_large_is_an_error_of_its_call_alone() -> None:
    client = start("small messages")
    try:
        with pytest.raises(OSError, match="153405 bytes are more than a message has room for") as raised:
            client.call("listdir", "full")
        assert raised.value.errno == EOVERFLOW
        assert client.call("listdir", "") == [] and client.look(0.0) == ""
    finally:
        client.end()


def test_a_shortage_of_this_process_is_not_the_end_of_that_one(
    client: ClientProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(EMFILE, os.strerror(EMFILE))

    for name in ("socketpair", "send_fds"):
        with monkeypatch.context() as patched:
            patched.setattr(socket, name, fail)
            with pytest.raises(ShortageError, match=r"volume : there is no room .*: Too many open files"):
                client.call("listdir", "")
    assert client.call("listdir", "") == [] and client.look(0.0) == ""


def test_a_copy_that_nobody_waits_for_any_more_is_stopped(
    client: ClientProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(ENOMEM, os.strerror(ENOMEM))

    number = next(clientprocess._copies)
    monkeypatch.setattr(clientprocess, "_copies", iter((number,)))
    with monkeypatch.context() as patched:
        patched.setattr(Channel, "receive", fail)
        with pytest.raises(ShortageError, match="Cannot allocate memory"):
            client.copy_tree("endless", "target", False, None, CopyProgress())
    until = time.monotonic() + 3600
    wait_until(lambda: client.call(clientmain.ALLOW, number, until))
    wait_until(lambda: not client.call(clientmain.ALLOW, number, until))


def test_no_more_channels_are_kept_than_a_few(client: ClientProcess, threads: ThreadPoolExecutor) -> None:
    together = threading.Barrier(12)

    def call() -> None:
        with client._channel():
            together.wait(PATIENT_S)

    for future in [threads.submit(call) for _ in range(12)]:
        future.result(PATIENT_S)
    assert len(client._idle) == 8
    assert client.call("listdir", "") == []


def test_a_crash_is_named_to_who_waits_and_to_who_looks(client: ClientProcess, threads: ThreadPoolExecutor) -> None:
    (hanging,) = hang(client, threads)
    with pytest.raises(UnavailableError, match="it died of SIGSEGV"):
        client.call("rmdir", "crash")
    assert "SIGSEGV" in str(hanging.exception(PATIENT_S))
    assert client.look(3600.0) == "it died of SIGSEGV"


def test_one_that_died_while_nobody_called_is_noticed_by_a_look(client: ClientProcess) -> None:
    os.kill(client._process.pid, 9)
    wait_until(lambda: client.look(3600.0) == "it died of SIGKILL")


def test_a_start_that_fails_hangs_or_crashes_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OSError, match="cannot open shared object file") as raised:
        start("library missing")
    assert raised.value.errno is None
    with pytest.raises(UnavailableError, match="it died of SIGSEGV"):
        start("crash")
    monkeypatch.setattr(clientprocess, "START_S", 0.1)
    with pytest.raises(UnavailableError, match=r"it has not started within 0\.1 s"):
        start("hang")


def test_what_must_be_there_before_it_starts_is_waited_for_and_its_failure_leaves_nothing() -> None:
    seen: list[str] = []
    command = (sys.executable, str(PROGRAM))
    options = {"socket": "/volfile.sock", "log_file": "/dev/null", "log_level": 5, "command": command}
    ClientProcess.start("", ready=lambda: seen.append("ready"), **options).end()  # type: ignore[arg-type]
    assert seen == ["ready"]

    def fail() -> None:
        raise UnavailableError("no host answers")

    with pytest.raises(UnavailableError, match="no host answers"):
        ClientProcess.start("", ready=fail, **options)  # type: ignore[arg-type]


def test_it_ends_with_the_process_that_started_it(client: ClientProcess, threads: ThreadPoolExecutor) -> None:
    (hanging,) = hang(client, threads)
    client._control.shutdown(socket.SHUT_RDWR)  # as the kernel does then
    assert "it ended with exit code 0" in str(hanging.exception(PATIENT_S))


def test_a_message_that_comes_in_pieces_or_with_the_next_is_one_message() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        sender, receiver = Channel(ours), Channel(theirs)
        sending = threading.Thread(target=lambda: list(map(sender.send, (["x" * 300_000, {"a": b"\xff"}], None))))
        sending.start()
        assert receiver.receive(PATIENT_S) == ["x" * 300_000, {"a": b"\xff"}]
        with pytest.raises(TimeoutError):
            assert receiver.receive(PATIENT_S) is None
            receiver.receive(0.01)
        sending.join()
        ours.sendall(b"\xff\xff\xff\xff")
        with pytest.raises(ValueError, match="4294967295 bytes"):
            receiver.receive(PATIENT_S)
