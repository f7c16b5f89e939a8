"""How a volume's client starts, fails and ends, with a library that does what the test says."""

from __future__ import annotations

import os
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from errno import EEXIST, EIO

import pytest

from kadalu_ext.errors import (
    DeadlineError,
    HostUnreachableError,
    KadaluExtError,
    NotFoundError,
    ShortageError,
    UnavailableError,
    VolumeIOError,
)
from kadalu_ext.gluster import gfapi, libgfapi, messages, oncrpc, volfile
from kadalu_ext.gluster.feed import Feed, Probed, Source
from kadalu_ext.gluster.gfapi import Volume
from kadalu_ext.gluster.volfile import Volfile
from tests.unit.gluster.fake_hosts import FakeHosts

PATIENT_S = 60.0
IMPATIENT_S = 0.05
FS = 7
VOLFILE = "volume a\n type protocol/client\n option remote-host h\n option remote-subvolume /brick\nend-volume\n"


class FakeLibrary:
    """Records calls; what `does` has for a function is run when it is called."""

    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []
        self.does: dict[str, Callable[[], object]] = {}
        self.hosts = FakeHosts()
        self.volume: Volfile | KadaluExtError = volfile.parse(VOLFILE)
        self.silent: Callable[[], set[str]] = set

    def feed(self, path: str, *, told: Callable[[], None]) -> Feed:
        return Feed(path, fetch=self.fetch, probe=self.probe, listen=self.hosts.listen, told=told)

    def probe(self, *_: object) -> Probed:
        return Probed(silent=frozenset(self.silent()), ports={})

    def fetch(self, source: Source) -> Volfile:
        if isinstance(self.volume, KadaluExtError):
            raise self.volume
        return self.volume

    def call(self, name: str, *args: object) -> int:
        self.calls.append((name, *args))
        self.does.get(name, lambda: None)()
        return FS

    def fed(self) -> bytes:
        """The socket of the volfile."""
        (path,) = [call[3] for call in self.calls if call[0] == "glfs_set_volfile_server"]
        assert isinstance(path, bytes)
        return path

    def names(self) -> list[object]:
        return [name for name, *_ in self.calls]

    def wait_for(self, name: str) -> None:
        deadline = time.monotonic() + PATIENT_S
        while name not in self.names():
            assert time.monotonic() < deadline, f"{name} was never called"


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def getspec(path: bytes, volume: str) -> str:
    """What a glusterfs client of `volume` that connects there gets."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(PATIENT_S)
        client.connect(path)
        client.sendall(oncrpc.frame(oncrpc.encode_call(1, messages.GETSPEC, messages.getspec_request(volume))))
        deframer = oncrpc.Deframer()
        reply: object = None
        while not isinstance(reply, oncrpc.Accepted):  # what is pushed meanwhile comes before it
            while (record := deframer.next_record()) is None:
                data = client.recv(1 << 16)
                assert data, "the server hung up"
                deframer.feed(data)
            reply = oncrpc.decode(record)
            assert isinstance(reply, oncrpc.Accepted | oncrpc.Call)
    text = messages.read_getspec_reply(reply.body)
    assert isinstance(text, str)
    return text


def failing(errno: int) -> Callable[[], object]:
    def fail() -> object:
        raise OSError(errno, "no")

    return fail


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> FakeLibrary:
    library = FakeLibrary()
    monkeypatch.setattr(libgfapi, "call", library.call)
    monkeypatch.setattr(gfapi, "Feed", library.feed)
    return library


@pytest.fixture
def hanging(library: FakeLibrary) -> Iterator[threading.Event]:
    """A start that waits for the event."""
    goes_on = threading.Event()
    library.does["glfs_init"] = lambda: goes_on.wait(PATIENT_S)
    yield goes_on
    goes_on.set()


def test_the_client_is_fed_from_a_socket_that_only_we_can_reach(library: FakeLibrary) -> None:
    with Volume.open("rep", ["silent", "live"]):
        ((_, _, kind, path, port),) = [call for call in library.calls if call[0] == "glfs_set_volfile_server"]
        assert (kind, port) == (b"unix", 0) and isinstance(path, bytes)
        assert stat.S_IMODE(os.stat(os.path.dirname(path)).st_mode) == 0o700
        assert "protocol/client" in getspec(path, "rep")
        assert ("glfs_set_logging", FS, b"/dev/null", gfapi.LOG_LEVEL_WARNING) in library.calls
    library.wait_for("glfs_fini")
    wait_until(lambda: not os.path.exists(os.path.dirname(path)))


def test_what_changes_on_the_volume_reaches_a_client_that_runs(library: FakeLibrary) -> None:
    with Volume.open("rep", ["live"], refresh_s=0.01):
        (path,) = [call[3] for call in library.calls if call[0] == "glfs_set_volfile_server"]
        assert isinstance(path, bytes)
        library.volume = volfile.parse(VOLFILE.replace("/brick", "/replaced"))
        wait_until(lambda: "/replaced" in getspec(path, "rep"))


def test_a_host_that_was_only_slow_is_in_the_client_before_that_starts(
    library: FakeLibrary, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gfapi, "JOIN_S", PATIENT_S)
    answers = iter([{"h"}])
    library.silent = lambda: next(answers, set())
    served = []
    library.does["glfs_init"] = lambda: served.append(getspec(library.fed(), "rep"))
    with Volume.open("rep", ["live"], refresh_s=PATIENT_S) as volume:
        volume.mkdir("pv", 0o755)
    assert "remote-host h" in served[0]


def test_a_host_that_stays_silent_is_not_waited_for(library: FakeLibrary, monkeypatch: pytest.MonkeyPatch) -> None:
    goes_on, asked = threading.Event(), list[int]()

    def silent() -> set[str]:
        if asked:
            goes_on.wait(PATIENT_S)
        asked.append(1)
        return {"h"}

    library.silent = silent
    monkeypatch.setattr(gfapi, "JOIN_S", IMPATIENT_S)
    with Volume.open("rep", ["live"], timeout_s=PATIENT_S) as volume:
        volume.mkdir("pv", 0o755)
        assert not goes_on.is_set()
        goes_on.set()


def test_what_glusterd_tells_of_is_not_waited_for_until_the_next_look(library: FakeLibrary) -> None:
    with Volume.open("rep", ["live"], refresh_s=3600):
        (path,) = [call[3] for call in library.calls if call[0] == "glfs_set_volfile_server"]
        assert isinstance(path, bytes)
        wait_until(lambda: library.hosts.hosts() == [("live",)])
        library.volume = volfile.parse(VOLFILE.replace("/brick", "/replaced"))
        library.hosts.tell()
        wait_until(lambda: "/replaced" in getspec(path, "rep"))
    wait_until(lambda: library.hosts.hosts() == [])


def test_a_start_that_hangs_bounds_each_call_and_is_there_when_it_ends(
    library: FakeLibrary, hanging: threading.Event
) -> None:
    volume = Volume.open("rep", ["a"], timeout_s=IMPATIENT_S)
    with pytest.raises(DeadlineError, match="volume rep: its client is still starting"):
        volume.mkdir("x", 0o777)
    hanging.set()
    library.wait_for("glfs_init")
    deadline = time.monotonic() + PATIENT_S
    while "glfs_mkdir" not in library.names():
        assert time.monotonic() < deadline
        try:
            volume.mkdir("x", 0o777)
        except DeadlineError:
            pass
    assert library.names().count("glfs_init") == 1


def test_a_start_that_fails_is_raised_and_cleaned_up(library: FakeLibrary) -> None:
    library.does["glfs_init"] = failing(EIO)
    with pytest.raises(VolumeIOError, match="volume rep: cannot start its client: no") as caught:
        Volume.open("rep", ["a"])
    assert caught.value.errno == EIO
    library.wait_for("glfs_fini")


def test_a_start_that_failed_later_is_made_anew_by_the_next_call(library: FakeLibrary) -> None:
    fails = threading.Event()

    def fail() -> object:
        fails.wait(PATIENT_S)
        raise OSError(EIO, "no")

    library.does["glfs_init"] = fail
    volume = Volume.open("rep", ["a"], timeout_s=IMPATIENT_S)
    fails.set()
    library.wait_for("glfs_fini")
    library.does["glfs_init"] = lambda: None
    deadline = time.monotonic() + PATIENT_S
    while "glfs_mkdir" not in library.names():
        assert time.monotonic() < deadline
        try:
            volume.mkdir("x", 0o777)
        except (DeadlineError, VolumeIOError):
            pass
    assert library.names().count("glfs_init") == 2


def test_an_answer_of_glusterd_is_raised_as_it_is(library: FakeLibrary) -> None:
    library.volume = NotFoundError("there is no gluster volume nope")
    with pytest.raises(NotFoundError):
        Volume.open("nope", ["a"])
    assert library.calls == []


def test_an_operation_that_fails_tells_errno_volume_and_path(library: FakeLibrary) -> None:
    volume = Volume.open("rep", ["a"])
    library.does["glfs_mkdir"] = failing(EEXIST)
    with pytest.raises(VolumeIOError, match="volume rep: cannot make the directory info/quota: no") as caught:
        volume.mkdir("info/quota", 0o755)
    assert caught.value.errno == EEXIST
    assert library.calls[-1] == ("glfs_mkdir", FS, b"/info/quota", 0o755)


def test_a_path_with_a_nul_does_not_reach_the_library(library: FakeLibrary) -> None:
    volume = Volume.open("rep", ["a"])
    with pytest.raises(ValueError, match="NUL"):
        volume.rmdir("a\0b")
    assert "glfs_rmdir" not in library.names()


def test_the_client_is_ended_only_when_its_last_operation_is_done(library: FakeLibrary) -> None:
    running, goes_on = threading.Event(), threading.Event()

    def slowly() -> object:
        running.set()
        assert "glfs_fini" not in library.names()
        return goes_on.wait(PATIENT_S)

    library.does["glfs_mkdir"] = slowly
    volume = Volume.open("rep", ["a"])
    operation = threading.Thread(target=volume.mkdir, args=("x", 0o755))
    operation.start()
    assert running.wait(PATIENT_S)
    volume.close()
    volume.close()
    with pytest.raises(UnavailableError, match="closed"):
        volume.stat("x")
    assert "glfs_fini" not in library.names()
    goes_on.set()
    operation.join()
    library.wait_for("glfs_fini")
    assert library.names().count("glfs_fini") == 1


class FakeProcess:
    """A client in a process of its own, as Volume sees it. why: of what it has died."""

    def __init__(self) -> None:
        self.why = ""
        self.hangs_s = 0.0
        self.ended = threading.Event()

    def call(self, operation: str, *args: object) -> object:
        if operation == "rmdir" and not self.why:
            self.ended.wait(PATIENT_S)
        if self.why or self.ended.is_set():
            raise UnavailableError(self.why or "it is closed")
        return None

    def copy_tree(self, *_: object) -> None:
        raise AssertionError

    def look(self, longest_s: float) -> str:
        if self.hangs_s > longest_s:
            self.why = "glfs_mkdir has hung"
        return self.why

    def end(self) -> None:
        self.ended.set()


class Processes:
    """All that a volume has started, and why each was lost."""

    def __init__(self) -> None:
        self.started: list[FakeProcess] = []
        self.lost: list[str] = []

    def launch(
        self, volume: str, /, *, socket: str, log_file: str, log_level: int, ready: Callable[[], None]
    ) -> FakeProcess:
        ready()
        self.started.append(FakeProcess())
        return self.started[-1]

    def open(self) -> Volume:
        return Volume.open("rep", ["a"], refresh_s=0.01, launch=self.launch, lost=self.lost.append)


@pytest.fixture
def processes(library: FakeLibrary) -> Processes:
    return Processes()


def test_a_client_that_crashed_is_named_once_and_followed_by_another(processes: Processes) -> None:
    with processes.open() as volume:
        processes.started[0].why = "it died of SIGSEGV"
        try:
            volume.mkdir("x", 0o755)
        except UnavailableError as error:
            assert "volume rep: its gluster client had to be ended: it died of SIGSEGV while it was to" in str(error)
        volume.mkdir("x", 0o755)
        wait_until(lambda: processes.lost)  # who looks after it may be about to tell
        assert (len(processes.started), processes.lost) == (2, ["it died of SIGSEGV"])
        assert processes.started[0].ended.is_set()


def test_a_shortage_of_this_process_costs_no_client(processes: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ShortageError("Too many open files")

    with processes.open() as volume:
        with monkeypatch.context() as patched, pytest.raises(ShortageError):
            patched.setattr(processes.started[0], "call", fail)
            volume.mkdir("x", 0o755)
        volume.mkdir("x", 0o755)
        assert (len(processes.started), processes.lost) == (1, [])


def test_a_client_that_hangs_is_ended_without_a_call_and_the_next_one_is_given_time(processes: Processes) -> None:
    with processes.open() as volume:
        processes.started[0].hangs_s = gfapi.HUNG_S + 1
        wait_until(lambda: processes.lost == ["glfs_mkdir has hung"])
        volume.mkdir("x", 0o755)
        processes.started[1].hangs_s = gfapi.HUNG_S + 1
        looks = looked(volume)
        wait_until(lambda: looks() > 2)
        assert len(processes.lost) == 1


def looked(volume: Volume) -> Callable[[], int]:
    """How often the volume has looked after its client since."""
    seen: list[float] = []
    look = volume._look

    def counted() -> None:
        look()
        seen.append(0.0)

    volume._look = counted  # type: ignore[method-assign]
    return lambda: len(seen)


def test_a_client_that_is_closed_while_it_hangs_is_ended_all_the_same(
    processes: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gfapi, "HUNG_S", 0.02)
    volume = processes.open()
    with ThreadPoolExecutor(1) as threads:
        hanging = threads.submit(volume.rmdir, "x")
        wait_until(lambda: volume._users)
        processes.started[0].hangs_s = 0.01
        volume.close()
        assert not processes.started[0].ended.wait(0.1)
        processes.started[0].hangs_s = 1.0
        assert isinstance(hanging.exception(PATIENT_S), UnavailableError)


def test_hosts_that_do_not_answer_are_no_crash(library: FakeLibrary, processes: Processes) -> None:
    library.volume = HostUnreachableError("h1:24007 does not answer")
    with pytest.raises(HostUnreachableError):
        processes.open()
    assert processes.lost == []


def test_a_start_that_crashes_is_told_as_such(processes: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(*_: object, ready: Callable[[], None], **__: object) -> FakeProcess:
        ready()
        raise UnavailableError("it died of SIGABRT")

    monkeypatch.setattr(processes, "launch", crash)
    with pytest.raises(UnavailableError, match=r"had to be ended: it died of SIGABRT\. The next call starts another"):
        processes.open()
    assert processes.lost == ["it died of SIGABRT"]


def test_a_start_without_a_thread_says_so_and_the_next_call_tries_again(
    processes: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with processes.open() as volume:
        processes.started[0].why = "it died of SIGSEGV"
        wait_until(lambda: processes.lost)
        with monkeypatch.context() as full:
            full.setattr(threading.Thread, "start", refuse)
            for _ in range(2):
                with pytest.raises(
                    UnavailableError, match=r"volume rep: there is no thread .*: can't start new thread"
                ):
                    volume.mkdir("x", 0o755)
        volume.mkdir("x", 0o755)


def test_what_goes_wrong_unforeseen_in_a_look_is_told_and_the_next_one_comes(
    library: FakeLibrary, processes: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[object] = []
    monkeypatch.setattr(threading, "excepthook", lambda args: told.append(args.exc_value))

    def stray() -> set[str]:
        raise RuntimeError("can't start new thread")

    with processes.open() as volume:
        library.silent = stray
        wait_until(lambda: told)
        assert isinstance(told[0], RuntimeError)
        library.silent = set
        processes.started[0].hangs_s = gfapi.HUNG_S + 1
        wait_until(lambda: processes.lost == ["glfs_mkdir has hung"])
        volume.mkdir("x", 0o755)


def test_a_client_has_somebody_who_looks_after_it_even_if_its_forerunners_is_gone(
    library: FakeLibrary, processes: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threading, "excepthook", lambda _: None)

    def ended() -> set[str]:
        raise SystemExit

    with processes.open() as volume:
        library.silent = ended
        wait_until(lambda: volume._follower and not volume._follower.is_alive())
        library.silent = set
        processes.started[0].why = "it died of SIGSEGV"
        with pytest.raises(UnavailableError):
            volume.rmdir("x")
        volume.mkdir("x", 0o755)
        processes.started[1].why = "it died of SIGBUS"
        wait_until(lambda: processes.lost == ["it died of SIGSEGV", "it died of SIGBUS"])
