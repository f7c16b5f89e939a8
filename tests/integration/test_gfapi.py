"""libgfapi on real brick hosts, fed from a socket of our own as it is in the CSI controller."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from kadalu_ext.errors import VolfileError
from kadalu_ext.gluster import feed, gfapi
from kadalu_ext.gluster.feed import Source, fetch
from kadalu_ext.gluster.gfapi import Volume
from kadalu_ext.gluster.volfile import Volfile
from tests.testbed.brickhosts import BrickHost, BrickHosts
from tests.testbed.progress import wait_until

VOLUME = "gfapi"
HOSTS = ("brick3", "brick2", "brick1")
LONG_ENOUGH_TO_TELL_S = 10.0
HOUR_S = 3600.0
SLOW_MACHINE_S = 60.0


@pytest.fixture(scope="module")
def volumes(brick_hosts: BrickHosts) -> Iterator[BrickHosts]:
    brick_hosts.create_volume(VOLUME, "replica 3")
    yield brick_hosts
    brick_hosts.delete_volume(VOLUME)


@dataclass(frozen=True, kw_only=True)
class Illness:
    """Of a brick host; `end` is harmless for a well one."""

    name: str
    begin: Callable[[BrickHost], object]
    end: Callable[[BrickHost], object]
    gluster_waits_s: float
    """By itself, measured."""


def signalled(name: str) -> Callable[[BrickHost], object]:
    return lambda host: host.run(["pkill", f"-{name}", "-x", "glusterd|glusterfsd"])


def systemctl(verb: str) -> Callable[[BrickHost], object]:
    """The bricks' processes are in glusterd's unit, and go and come with it."""
    return lambda host: host.run(["systemctl", verb, "glusterd"])


ILLNESSES = (
    Illness(name="cut", begin=BrickHost.cut, end=BrickHost.uncut, gluster_waits_s=10),
    Illness(name="hung", begin=signalled("STOP"), end=signalled("CONT"), gluster_waits_s=100),
    Illness(name="stopped", begin=systemctl("stop"), end=systemctl("start"), gluster_waits_s=3),
)


@pytest.mark.parametrize("ill", ILLNESSES, ids=lambda ill: str(ill.name))
def test_a_host_that_is_ill_does_not_keep_the_first_call_and_is_joined_when_it_is_well(
    volumes: BrickHosts, ill: Illness
) -> None:
    third = volumes.host("brick3")
    ill.begin(third)
    try:
        # DeadlineError if it takes longer. Three seconds, when a host refuses, are too few to tell on a slow machine.
        can_tell = ill.gluster_waits_s >= LONG_ENOUGH_TO_TELL_S
        enough_s = ill.gluster_waits_s / 2 if can_tell else SLOW_MACHINE_S
        with Volume.open(VOLUME, HOSTS, timeout_s=enough_s, refresh_s=1) as volume:
            volume.mkdir(f"while-{ill.name}", 0o755)
            ill.end(third)

            def reaches_brick3() -> bool:
                volume.mkdir(f"{ill.name}-{time.monotonic_ns()}", 0o755)
                names = third.run(["ls", f"/bricks/{VOLUME}"]).stdout.split()
                return any(name.startswith(f"{ill.name}-") for name in names)

            wait_until("calls to reach brick3", reaches_brick3, seconds=2 * SLOW_MACHINE_S)
    finally:
        ill.end(third)
        volumes.wait_joined()
        volumes.wait_online(VOLUME)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that is slow to answer is neither silent nor hidden."""
    monkeypatch.setattr(feed, "TIMEOUT_S", SLOW_MACHINE_S)


def test_a_host_that_was_slow_once_has_what_is_made_first(
    volumes: BrickHosts, patient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[frozenset[str] | None] = []

    def probe(source: Source, volume: Volfile, among: frozenset[str] | None) -> feed.Probed:
        asked.append(among)
        probed = feed.probe(source, volume, among)
        return probed if among is not None else feed.Probed(silent=frozenset({"brick3"}), ports=probed.ports)

    monkeypatch.setattr(gfapi, "Feed", partial(feed.Feed, probe=probe))
    monkeypatch.setattr(gfapi, "JOIN_S", SLOW_MACHINE_S)
    with Volume.open(VOLUME, HOSTS, timeout_s=2 * SLOW_MACHINE_S) as volume:
        volume.mkdir("first", 0o755)
        assert "first" in volumes.host("brick3").run(["ls", f"/bricks/{VOLUME}"]).stdout.split()
        assert asked[:2] == [None, frozenset({"brick3"})]


def test_a_changed_option_reaches_a_client_that_runs_by_what_glusterd_tells(
    volumes: BrickHosts, patient: None, tmp_path: Path
) -> None:
    log = tmp_path / "log"

    def graphs() -> list[str]:
        # gluster writes each graph that it makes; the last translator is io-stats
        return [graph for graph in log.read_text().split("Final graph:")[1:] if "debug/io-stats" in graph]

    with Volume.open(VOLUME, HOSTS, timeout_s=SLOW_MACHINE_S, refresh_s=HOUR_S, log_file=str(log)) as volume:
        volume.mkdir("before", 0o755)
        volumes.gluster("volume", "set", VOLUME, "performance.quick-read", "off")
        wait_until("the client to have a new graph", lambda: len(graphs()) > 1, seconds=2 * SLOW_MACHINE_S)
        assert ["performance/quick-read" in graph for graph in graphs()] == [True, False]
        volume.mkdir("after", 0o755)


def test_a_volfile_that_holds_more_than_a_client_is_refused_with_the_remedy(volumes: BrickHosts, patient: None) -> None:
    volumes.gluster("volume", "set", VOLUME, "debug.trace", "client")
    try:
        with pytest.raises(VolfileError, match=f"gluster volume reset {VOLUME} debug.trace") as refused:
            fetch(Source(volume=VOLUME, hosts=HOSTS))
        assert "debug/trace" in str(refused.value)
    finally:
        volumes.gluster("volume", "reset", VOLUME, "debug.trace")
    assert fetch(Source(volume=VOLUME, hosts=HOSTS))
