"""What a storage's clients are fed with, asked of fakes and taken from the socket as a client takes it."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from kadalu_ext.errors import TlsError, UnavailableError
from kadalu_ext.gluster import volfile
from kadalu_ext.gluster.clientvolfile import Brick
from kadalu_ext.gluster.feed import Feed, Probed, Source
from kadalu_ext.gluster.tls import Tls
from kadalu_ext.gluster.volfile import Volfile
from tests.unit.gluster.fake_hosts import FakeHosts
from tests.unit.gluster.test_gfapi import getspec

PLAIN = Source(volume="v", hosts=("h",))
TLS = Tls(certificate="CERTIFICATE 1", key="KEY 1", ca="CA")
SAFE = replace(PLAIN, tls=TLS)


def volume(ssl: str = "off") -> Volfile:
    return volfile.parse(
        f"volume c\n type protocol/client\n option remote-host h\n option remote-subvolume /b\n"
        f" option transport.socket.ssl-enabled {ssl}\nend-volume\n"
        "volume v\n type debug/io-stats\n subvolumes c\nend-volume\n"
    )


@dataclass
class World:
    """The volume, and what is found of its hosts."""

    volume: Volfile = field(default_factory=volume)
    silent: frozenset[str] = frozenset()
    ports: dict[Brick, int] = field(default_factory=lambda: {("h", "/b"): 49152})
    hosts: FakeHosts = field(default_factory=FakeHosts)
    told: list[str] = field(default_factory=list)
    meanwhile: Callable[[], None] = lambda: None

    def probe(self, _source: Source, _volume: Volfile, among: frozenset[str] | None) -> Probed:
        self.meanwhile()
        return Probed(silent=self.silent if among is None else self.silent & among, ports=self.ports)


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def feed(world: World, tmp_path: Path) -> Iterator[Feed]:
    feed = Feed(
        str(tmp_path / "own/volfile.sock"),
        fetch=lambda _: world.volume,
        probe=world.probe,
        listen=world.hosts.listen,
        told=lambda: world.told.append("told"),
    )
    yield feed
    feed.close()


def brick(feed: Feed) -> dict[str, str]:
    """The options that a client is given for the one brick."""
    return dict(volfile.parse(getspec(os.fsencode(feed.path), "v")).xlators[0].options)


def test_a_host_that_is_silent_at_the_start_is_refused_until_it_answers(feed: Feed, world: World) -> None:
    world.silent = frozenset({"h"})
    feed.begin(PLAIN)
    assert (feed.hidden, brick(feed)["remote-host"]) == (frozenset({"h"}), "127.0.0.1")
    assert not feed.refresh(PLAIN)
    world.silent = frozenset()
    assert feed.refresh(PLAIN)
    assert (feed.hidden, brick(feed)["remote-host"]) == (frozenset(), "h")


def test_hosts_are_listened_to_while_there_is_a_client_with_what_they_are_spoken_to_with(
    feed: Feed, world: World
) -> None:
    feed.begin(PLAIN)
    assert world.hosts.hosts() == []
    for source in (PLAIN, PLAIN, replace(SAFE, hosts=("h", "i", "j", "k", "l"))):
        feed.refresh(source)
        assert (world.hosts.hosts(), world.hosts.spoken) == ([source.hosts[:4]], source.tls)
    world.hosts.tell()
    assert world.told == ["told"] * 4
    feed.rest()
    assert world.hosts.hosts() == []
    feed.close()
    feed.refresh(PLAIN)
    assert world.hosts.hosts() == []


@pytest.mark.parametrize("end", [Feed.stop, Feed.close])
def test_what_was_under_way_when_it_ended_serves_nothing(feed: Feed, world: World, end: Callable[[Feed], None]) -> None:
    feed.begin(PLAIN)
    world.meanwhile = lambda: end(feed)
    assert not feed.refresh(PLAIN)
    with pytest.raises(ConnectionRefusedError):
        brick(feed)


def test_it_does_not_begin_once_it_is_closed(feed: Feed, world: World) -> None:
    world.meanwhile = feed.close
    with pytest.raises(UnavailableError, match="volume v: its client is closed"):
        feed.begin(PLAIN)
    assert not os.path.exists(feed.path)


def test_a_brick_that_wants_tls_of_a_storage_without_is_an_error_with_the_remedy(feed: Feed, world: World) -> None:
    world.volume = volume("on")
    with pytest.raises(TlsError, match=r"the volume wants TLS .* name a Secret"):
        feed.begin(PLAIN)


def test_tls_files_are_ours_alone_and_have_another_name_when_renewed(feed: Feed, world: World) -> None:
    world.volume = volume("true")
    feed.begin(SAFE)
    first = brick(feed)
    key = first["transport.socket.ssl-private-key"]
    assert Path(key).read_text() == "KEY 1"
    assert [stat.S_IMODE(os.stat(path).st_mode) for path in (key, os.path.dirname(key))] == [0o600, 0o700]
    assert not feed.refresh(SAFE)
    assert feed.refresh(replace(SAFE, tls=replace(TLS, key="KEY 2")))
    assert Path(brick(feed)["transport.socket.ssl-private-key"]).read_text() == "KEY 2"
    assert not os.path.exists(key)


def test_a_port_is_told_where_glusterd_speaks_tls_kept_while_it_is_silent_and_followed(
    feed: Feed, world: World
) -> None:
    feed.begin(SAFE)
    assert brick(feed)["remote-port"] == "49152"
    world.ports = {}
    assert not feed.refresh(SAFE)
    world.ports = {("h", "/b"): 49999}
    assert feed.refresh(SAFE)
    assert brick(feed)["remote-port"] == "49999"
    feed.begin(replace(SAFE, tls=replace(TLS, management=False)))
    assert "remote-port" not in brick(feed)
