"""Our own gluster client and three real brick hosts: TLS, callbacks, and what each call says on the wire."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from kadalu_ext.errors import TlsError
from kadalu_ext.gluster import volfile
from kadalu_ext.gluster.brick import BrickProbe
from kadalu_ext.gluster.client import Glusterd, first_answer
from kadalu_ext.gluster.geometry import geometry
from kadalu_ext.gluster.tls import CA, Tls
from tests.certificates import Authority
from tests.integration.encrypted import encrypted
from tests.testbed.brickhosts import BrickHosts

VOLUME = "client-tls"
TIMEOUT_S = 30.0


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
