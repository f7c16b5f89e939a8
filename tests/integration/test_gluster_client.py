"""Our own gluster client and three real brick hosts: TLS, callbacks, and what each call says on the wire."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from kadalu_ext.errors import TlsError
from kadalu_ext.gluster import volfile
from kadalu_ext.gluster.brick import BrickProbe
from kadalu_ext.gluster.client import Glusterd, first_answer
from kadalu_ext.gluster.geometry import geometry
from kadalu_ext.gluster.hosts import Hosts
from kadalu_ext.gluster.messages import Refused
from kadalu_ext.gluster.tls import CA, Tls
from tests import wire
from tests.certificates import Authority
from tests.integration.encrypted import encrypted
from tests.testbed.brickhosts import BrickHosts
from tests.testbed.progress import wait_until

VOLUME = "client-tls"
TIMEOUT_S = 60.0
LONG_S = 180.0


@dataclass(frozen=True, kw_only=True)
class Sides:
    """Clients: as the cluster knows them, expired, and signed by somebody whom the brick hosts do not know."""

    known: Tls
    expired: Tls
    foreign: Tls


@pytest.fixture(scope="module")
def sides(brick_hosts: BrickHosts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sides]:
    """All of the cluster encrypted, management and the bricks of VOLUME, until this module is done."""
    directory = tmp_path_factory.mktemp("ca")
    authority, foreign = Authority(directory), Authority(tmp_path_factory.mktemp("foreign"))
    brick_hosts.create_volume(VOLUME, "replica 3")
    try:
        with encrypted(brick_hosts, authority, directory, VOLUME):
            yield Sides(
                known=Tls.of(authority.issue("client")),
                expired=Tls.of(authority.issue("expired", days=-1)),
                foreign=Tls.of({**foreign.issue("foreign"), CA: authority.certificate}),
            )
    finally:
        brick_hosts.delete_volume(VOLUME)


@pytest.fixture(scope="module")
def recorded(brick_hosts: BrickHosts) -> Iterator[None]:
    """The volume of the recordings, with nothing in it."""
    brick_hosts.create_volume(wire.VOLUME, "replica 3")
    yield
    brick_hosts.delete_volume(wire.VOLUME)


def test_gluster_says_what_was_recorded(recorded: None) -> None:
    known: dict[bytes, bytes] = {}
    for live in wire.converse("brick1"):
        kept = wire.load(live.name)
        sent = wire.made_up(live.sent, known)
        wire.made_up(live.received, known)
        assert len(sent) == len(kept.sent)
        if live.name not in ("statfs", "getxattr", "getxattr-missing"):  # these hold the gfid of this directory
            assert sent == kept.sent
        assert type(live.result) is type(kept.result)
        if isinstance(kept.result, Refused):
            assert live.result == kept.result


def test_each_host_tells_of_a_change_of_a_volume(recorded: None, brick_hosts: BrickHosts) -> None:
    names = [host.name for host in brick_hosts.hosts]
    told: queue.Queue[str] = queue.Queue()
    hosts = Hosts()
    try:
        hosts.listen(names, told.put)
        hear_all(told, names)  # connected
        brick_hosts.gluster("volume", "set", wire.VOLUME, "user.changed", "yes")
        hear_all(told, names)
        info = hosts.first_answer(names, lambda glusterd: glusterd.volume_info(wire.VOLUME), TIMEOUT_S)
        assert info.options["user.changed"] == "yes"
    finally:
        hosts.close()


def hear_all(told: queue.Queue[str], names: list[str]) -> None:
    """Until each has told something, some of them perhaps twice."""
    heard: set[str] = set()
    while heard != set(names):
        heard.add(told.get(timeout=TIMEOUT_S))


def test_a_host_that_is_cut_off_is_remembered_and_its_peers_say_so(recorded: None, brick_hosts: BrickHosts) -> None:
    names = [host.name for host in brick_hosts.hosts]
    hosts = Hosts()

    def ask() -> str:
        return hosts.first_answer(names, lambda glusterd: (glusterd.volume_id(wire.VOLUME), glusterd.host), 2.0)[1]

    brick_hosts.host("brick1").cut()
    try:
        assert ask() in ("brick2", "brick3")
        # the first silence is remembered for a second, in which we may be busy elsewhere: asked again, for longer
        wait_until("the silence to be noted", lambda: ask() and hosts.silent() == ("brick1",), seconds=LONG_S)
        assert ask() in ("brick2", "brick3")
        wait_until("brick2 to miss brick1", lambda: "brick1" in _missed("brick2"), seconds=LONG_S)
    finally:
        hosts.close()
        brick_hosts.host("brick1").uncut()
        # it may not have noticed yet, and would lose its peers a moment after all is well
        brick_hosts.host("brick1").run(["systemctl", "restart", "glusterd"])
        brick_hosts.wait_joined()
    wait_until("brick2 to miss nobody", lambda: _missed("brick2") == [], seconds=LONG_S)


def _missed(host: str) -> list[str]:
    with Glusterd(host, timeout_s=TIMEOUT_S) as glusterd:
        return [peer.hostname for peer in glusterd.peers() if not peer.connected]


def test_an_encrypted_cluster_answers_and_each_brick_with_it(sides: Sides, brick_hosts: BrickHosts) -> None:
    names = [host.name for host in brick_hosts.hosts]

    def ask(glusterd: Glusterd) -> tuple[str, str]:
        return glusterd.started_volume_info(VOLUME).volume_id, glusterd.getspec(VOLUME)

    volume_id, text = first_answer(names, ask, TIMEOUT_S, tls=sides.known)
    shape = geometry(volfile.parse(text))
    assert [brick.ssl for brick in shape.bricks] == [True] * 3
    with BrickProbe(VOLUME, volume_id, shape, TIMEOUT_S, tls=sides.known) as probe:
        answers = probe.stat_directory("")
    assert [answer.error for answer in answers] == [None] * 3


@pytest.mark.parametrize(
    ("who", "why"),
    [
        (None, "brick1:24007 closed the connection at the first question: glusterd may want TLS"),
        ("expired", r"brick1:24007: glusterd does not accept our certificate"),
        ("foreign", r"brick1:24007: glusterd does not accept our certificate"),
    ],
)
def test_an_encrypted_glusterd_refuses_with_host_and_remedy(sides: Sides, who: str | None, why: str) -> None:
    tls = getattr(sides, who) if who else None
    with Glusterd("brick1", tls=tls, timeout_s=TIMEOUT_S) as glusterd, pytest.raises(TlsError, match=why):
        glusterd.getspec(VOLUME)


def test_a_brick_that_wants_tls_is_up_and_unproven_for_who_has_none(sides: Sides) -> None:
    with Glusterd("brick1", tls=sides.known, timeout_s=TIMEOUT_S) as glusterd:
        shape = geometry(volfile.parse(glusterd.getspec(VOLUME)))
        volume_id = glusterd.volume_info(VOLUME).volume_id
    with BrickProbe(VOLUME, volume_id, shape, TIMEOUT_S) as probe:
        assert [(answer.up, answer.stat) for answer in probe.stat_directory("")] == [(True, None)] * 3
