"""One storage's life in a small world of fakes: volfile fetched, hosts silent, clients that live and die."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from kadalu_ext.errors import ConflictError, HostUnreachableError, KadaluExtError, MounterError
from kadalu_ext.gluster import volfile
from kadalu_ext.gluster.feed import Probed, Source
from kadalu_ext.gluster.volfile import Volfile
from kadalu_ext.log import Logger
from kadalu_ext.mounter.client import Client, Places
from kadalu_ext.mounter.status import State, Status
from kadalu_ext.mounter.storages import Settings, Storages
from kadalu_ext.mounter.supervisor import CALLERS, Supervisor
from kadalu_ext.mounter.world import World
from kadalu_ext.mountinfo import FUSE_GLUSTERFS, Mount
from kadalu_ext.storage import Storage, StorageName, to_json
from tests.unit.gluster.fake_hosts import FakeHosts

EXT = Storage(name=StorageName("ext"), hosts=("h1", "h2"), volume="vol")
EXT_1 = Storage(name=StorageName("ext-1"), hosts=("h1",), volume="vol")


def volume(write_behind: str = "on") -> Volfile:
    bricks = "".join(
        f"volume v-client-{host}\n type protocol/client\n option remote-host {host}\nend-volume\n"
        for host in ("h1", "h2")
    )
    return volfile.parse(
        f"{bricks}volume v\n type x\n option write-behind {write_behind}\n subvolumes v-client-h1\nend-volume\n"
    )


class FakeClient(Client):
    """A client whose mount is in FakeGluster.mounted, and which lives until `die`."""

    def __init__(self, gluster: FakeGluster, places: Places, device: int) -> None:
        read, self._alive = os.pipe()
        super().__init__(pid=1000 + device, pidfd=read, places=places)
        self.device = device
        self.gluster = gluster

    def wait_ready(self, timeout_s: float) -> None:
        if self.gluster.not_ready:
            raise MounterError(self.gluster.not_ready)
        self.gluster.mounted[self.places.mount] = self.device or 0

    def die(self) -> None:
        os.close(self._alive)  # the pipe, like a pidfd, is readable from now on

    def kill(self) -> None:
        self.gluster.killed.append(self)

    def last_words(self) -> str:
        return "out of memory"


@dataclass
class FakeGluster:
    """The world outside. Events of threads are waited for through `looked`."""

    volume: Volfile = field(default_factory=volume)
    silent: frozenset[str] = frozenset()
    unreachable: str = ""
    not_ready: str = ""
    mounted: dict[str, int] = field(default_factory=dict)
    started: list[FakeClient] = field(default_factory=list)
    killed: list[Client] = field(default_factory=list)
    asked: list[Source] = field(default_factory=list)
    found: list[tuple[int, int]] = field(default_factory=list)
    looked: threading.Event = field(default_factory=threading.Event)
    hosts: FakeHosts = field(default_factory=FakeHosts)
    removed: list[str] = field(default_factory=list)
    down: tuple[str, ...] = ()

    def world(self) -> World:
        return World(
            fetch=self.fetch,
            probe=self.probe,
            listen=self.hosts.listen,
            start=self.start,
            find=lambda places: self.found,
            mounts=self.mounts,
            unmount=lambda path: self.mounted.pop(path, None) is not None,
            prepare=lambda path: True,
            remove=self.removed.append,
            down=lambda path, bricks: self.down,
        )

    def probe(self, source: Source, _volume: Volfile, among: frozenset[str] | None) -> Probed:
        return Probed(silent=self.silent if among is None else self.silent & among, ports={})

    def fetch(self, source: Source) -> Volfile:
        self.asked.append(source)
        self.looked.set()
        if self.unreachable:
            raise HostUnreachableError(self.unreachable)
        return self.volume

    def start(self, storage: Storage, places: Places) -> Client:
        client = FakeClient(self, places, device=len(self.started) + 1)
        self.started.append(client)
        return client

    def mounts(self) -> tuple[Mount, ...]:
        return tuple(
            Mount(
                mount_id=n,
                parent_id=0,
                device=device,
                root="/",
                path=path,
                options=frozenset(),
                fstype=FUSE_GLUSTERFS,
                source="s",
            )
            for n, (path, device) in enumerate(self.mounted.items(), 1)
        )


@pytest.fixture
def gluster() -> FakeGluster:
    return FakeGluster()


@pytest.fixture
def settings(gluster: FakeGluster, tmp_path: Path) -> Settings:
    return Settings(
        mounts_dir=str(tmp_path / "mounts"),
        run_dir=str(tmp_path),
        log_dir=str(tmp_path),
        refresh_s=0.01,
        world=gluster.world(),
    )


@pytest.fixture
def storages(settings: Settings, gluster: FakeGluster) -> Iterator[Storages]:
    storages = Storages(settings, Logger("test"))
    storages.recover()
    yield storages
    for client in gluster.started:
        if not client.ended():
            client.die()
    storages.close()


def status(storages: Storages, name: str = "ext") -> Status:
    return next(status for status in storages.list() if status.name == name)


def wait_for(condition: object) -> None:
    deadline = threading.Event()
    for _ in range(6000):
        if callable(condition) and condition():
            return
        deadline.wait(0.01)
    raise AssertionError("it did not happen within a minute")


def test_a_second_mount_of_a_storage_starts_no_second_client(storages: Storages, gluster: FakeGluster) -> None:
    assert storages.mount(EXT) == storages.mount(EXT)
    assert len(gluster.started) == 1
    assert status(storages).state is State.MOUNTED


def test_ext_and_ext_1_never_take_each_others_mount(storages: Storages, gluster: FakeGluster) -> None:
    assert storages.mount(EXT_1) != storages.mount(EXT)
    gluster.unreachable = "no host answers"
    gluster.started[0].die()
    wait_for(lambda: status(storages, "ext-1").state is State.DEAD)
    assert status(storages, "ext").state is State.MOUNTED
    storages.release(EXT_1.name)
    assert [status.name for status in storages.list()] == ["ext"]


def test_a_mount_whose_client_died_is_taken_away_and_made_anew(storages: Storages, gluster: FakeGluster) -> None:
    storages.mount(EXT)
    gluster.unreachable = "no host answers"
    gluster.started[0].die()
    wait_for(lambda: "it cannot be started again: no host answers" in status(storages).reason)
    assert status(storages).state is State.DEAD and "out of memory" in status(storages).reason
    gluster.unreachable = ""
    storages.mount(EXT)
    assert gluster.mounted == {gluster.started[1].places.mount: 2}


def test_a_client_that_died_is_started_again_by_itself(storages: Storages, gluster: FakeGluster) -> None:
    path = storages.mount(EXT)
    for life in (1, 2):
        gluster.started[-1].die()
        wait_for(lambda life=life: gluster.mounted == {path: life + 1})
        wait_for(lambda: status(storages).state is State.MOUNTED)


def test_a_client_that_could_not_be_started_again_is_as_soon_as_glusterd_tells_of_a_change(
    storages: Storages, gluster: FakeGluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    storages.mount(EXT)
    wait_for(gluster.hosts.hosts)
    monkeypatch.setattr("kadalu_ext.mounter.supervisor.AGAIN_S", 3600)
    gluster.not_ready = "authentication failed"
    gluster.started[0].die()
    wait_for(lambda: "tried again" in status(storages).reason)
    gluster.not_ready = ""
    gluster.hosts.tell()
    wait_for(lambda: status(storages).state is State.MOUNTED)


def test_a_storage_that_was_released_while_its_client_was_dead_is_left_alone(
    storages: Storages, gluster: FakeGluster
) -> None:
    storages.mount(EXT)
    gluster.unreachable = "no host answers"
    gluster.started[0].die()
    wait_for(lambda: "tried again" in status(storages).reason)
    storages.release(EXT.name)
    supervisor = storages._supervisors[EXT.name]
    wait_for(lambda: not supervisor._reviving.locked())
    assert storages.list() == [] and gluster.hosts.hosts() == []


def test_a_mount_that_somebody_took_away_is_made_anew_by_itself(storages: Storages, gluster: FakeGluster) -> None:
    path = storages.mount(EXT)
    del gluster.mounted[path]
    storages.look()
    wait_for(lambda: gluster.mounted == {path: 2})
    assert not gluster.killed


def test_bricks_that_the_client_has_no_connection_to_are_named(storages: Storages, gluster: FakeGluster) -> None:
    storages.mount(EXT)
    gluster.down = ("h2:/b",)
    wait_for(lambda: status(storages).down_bricks == ("h2:/b",))
    gluster.down = ()
    wait_for(lambda: status(storages).down_bricks == ())


def test_a_mount_that_somebody_took_away_is_made_anew_and_the_living_client_not_killed(
    storages: Storages, gluster: FakeGluster
) -> None:
    path = storages.mount(EXT)
    del gluster.mounted[path]
    storages.mount(EXT)
    assert gluster.mounted == {path: 2} and not gluster.killed


def test_what_glusterd_tells_of_is_looked_at_long_before_the_next_look_is_due(
    settings: Settings, gluster: FakeGluster
) -> None:
    storages = Storages(replace(settings, refresh_s=3600), Logger("test"))
    storages.recover()
    storages.mount(EXT)
    wait_for(lambda: gluster.hosts.hosts() == [("h1", "h2")] and len(gluster.asked) == 2)
    gluster.looked.clear()
    gluster.hosts.tell()
    assert gluster.looked.wait(60)
    storages.release(EXT.name)
    assert gluster.hosts.hosts() == []
    gluster.started[0].die()
    storages.close()


def test_a_client_that_does_not_become_usable_is_killed_and_the_reason_shown(
    storages: Storages, gluster: FakeGluster
) -> None:
    gluster.not_ready = "no brick answers"
    with pytest.raises(MounterError, match="no brick answers"):
        storages.mount(EXT)
    assert gluster.killed == gluster.started
    assert (status(storages).state, status(storages).reason) == (State.DEAD, "no brick answers")


def test_calls_that_waited_for_a_failed_attempt_share_its_error(settings: Settings, gluster: FakeGluster) -> None:
    waiting, go = threading.Event(), threading.Event()

    def fetch(source: Source) -> Volfile:
        waiting.set()
        go.wait()
        raise HostUnreachableError("all silent")

    world = World(**{**vars(gluster.world()), "fetch": fetch})
    storages = Storages(Settings(**{**vars(settings), "world": world}), Logger("test"))
    errors: list[str] = []

    def mount() -> None:
        try:
            storages.mount(EXT)
        except KadaluExtError as error:
            errors.append(str(error))

    threads = [threading.Thread(target=mount) for _ in range(3)]
    threads[0].start()
    waiting.wait()
    for thread in threads[1:]:
        thread.start()
    supervisor: Supervisor = storages._supervisors[EXT.name]
    wait_for(lambda: supervisor._callers._value == CALLERS - 3)  # all three are in
    waiting.clear()
    go.set()
    for thread in threads:
        thread.join()
    assert errors == ["all silent"] * 3 and not waiting.is_set()


def test_a_silent_host_is_hidden_until_it_answers(storages: Storages, gluster: FakeGluster) -> None:
    gluster.silent = frozenset({"h2"})
    storages.mount(EXT)
    assert status(storages).hidden_hosts == ("h2",)
    gluster.silent = frozenset()
    wait_for(lambda: status(storages).hidden_hosts == ())


def test_a_host_that_falls_silent_is_not_hidden_from_a_client_that_runs(
    storages: Storages, gluster: FakeGluster
) -> None:
    storages.mount(EXT)
    gluster.silent = frozenset({"h2"})
    for _ in range(2):
        gluster.looked.clear()
        assert gluster.looked.wait(60)
    assert status(storages).hidden_hosts == ()


def test_what_goes_wrong_while_a_client_is_kept_is_not_the_end_of_keeping_it(
    storages: Storages, gluster: FakeGluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    gluster.silent = frozenset({"h2"})
    storages.mount(EXT)
    crashed = threading.Event()

    def rotate_log(self: Client) -> None:
        crashed.set()
        raise OSError(30, "read-only file system")

    monkeypatch.setattr(FakeClient, "rotate_log", rotate_log, raising=False)
    assert crashed.wait(60)
    gluster.silent = frozenset()
    wait_for(lambda: status(storages).hidden_hosts == ())


def test_hosts_that_are_all_gone_leave_a_running_client_alone(storages: Storages, gluster: FakeGluster) -> None:
    storages.mount(EXT)
    gluster.unreachable = "no host answers"
    for _ in range(2):
        gluster.looked.clear()
        assert gluster.looked.wait(60)
    assert status(storages).state is State.MOUNTED
    assert storages.mount(EXT)


def test_a_storage_keeps_its_volume_for_life(storages: Storages) -> None:
    storages.mount(EXT)
    with pytest.raises(ConflictError, match="from the volume vol, not other"):
        storages.mount(Storage(name=EXT.name, hosts=("h1",), volume="other"))


def test_a_mounter_that_was_killed_finds_its_client_again(settings: Settings, gluster: FakeGluster) -> None:
    before = Storages(settings, Logger("before"))
    path = before.mount(EXT)
    before.close()
    os.makedirs(path)
    client = gluster.started[0]
    gluster.found = [(client.pid, os.dup(client._pidfd))]
    later = Storages(settings, Logger("after"))
    later.recover()
    assert status(later).state is State.MOUNTED
    assert later.mount(EXT) == path and len(gluster.started) == 1
    client.die()
    wait_for(lambda: len(gluster.started) == 2)
    gluster.started[1].die()
    later.close()


def test_a_mount_whose_client_died_with_the_mounter_is_taken_away(settings: Settings, gluster: FakeGluster) -> None:
    path = os.path.join(settings.mounts_dir, "ext")
    os.makedirs(path)
    gluster.mounted[path] = 5
    storages = Storages(settings, Logger("after"))
    storages.recover()
    assert gluster.mounted == {}
    assert "pods that were running must be deleted" in status(storages).reason


@pytest.mark.parametrize("described", ["by the mounter before", "by the ConfigMap"])
def test_a_storage_whose_client_died_with_the_mounter_is_mounted_again(
    settings: Settings, gluster: FakeGluster, described: str
) -> None:
    path = os.path.join(settings.mounts_dir, "ext")
    os.makedirs(path)
    gluster.mounted[path] = 5
    world = settings.world
    if described == "by the ConfigMap":
        world = replace(world, entry=lambda name: EXT if name == "ext" else None)
    else:
        (Path(settings.run_dir) / "ext.json").write_text(to_json(EXT))
    storages = Storages(replace(settings, world=world), Logger("after"))
    storages.recover()
    wait_for(lambda: gluster.mounted == {path: 1})
    gluster.unreachable = "over"
    gluster.started[0].die()
    storages.close()


def test_a_mount_point_that_is_left_of_old_is_removed(settings: Settings, gluster: FakeGluster) -> None:
    path = os.path.join(settings.mounts_dir, "ext")
    os.makedirs(path)
    Storages(settings, Logger("after a reboot")).recover()
    assert gluster.removed == [path] and not gluster.started


def test_hosts_that_change_while_a_storage_is_mounted_are_the_ones_that_are_asked(
    settings: Settings, gluster: FakeGluster
) -> None:
    changed = [EXT]
    world = replace(gluster.world(), fresher=lambda _: changed[0])
    storages = Storages(replace(settings, world=world), Logger("test"))
    storages.mount(EXT)
    changed[0] = replace(EXT, volume="other", hosts=("h8",))
    gluster.looked.clear()
    assert gluster.looked.wait(60)
    changed[0] = replace(EXT, hosts=("h9",))
    wait_for(lambda: gluster.asked[-1].hosts == ("h9",))
    assert all(source.volume == "vol" for source in gluster.asked)
    gluster.started[0].die()
    storages.close()
