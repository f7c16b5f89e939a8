"""TLS to glusterd and bricks, with certificates that openssl made for this run."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from kadalu_ext.errors import InvalidInputError, TlsError
from kadalu_ext.gluster.brick import BrickProbe
from kadalu_ext.gluster.client import Glusterd, first_answer
from kadalu_ext.gluster.geometry import Brick, Geometry, VolumeKind
from kadalu_ext.gluster.tls import CA, CERTIFICATE, KEY, Tls
from tests.certificates import Authority
from tests.unit.gluster.fake_gluster import FakeHost, fake_host


@dataclass(frozen=True, kw_only=True)
class Certificates:
    """Gluster's files: of our side, of a server, expired ones, and of an authority that neither knows."""

    ours: dict[str, bytes]
    server: dict[str, bytes]
    expired: dict[str, bytes]
    foreign: dict[str, bytes]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    authority = Authority(tmp_path_factory.mktemp("ca"))
    foreign = Authority(tmp_path_factory.mktemp("foreign"))
    return Certificates(
        ours=authority.issue("client"),
        server=authority.issue("server"),
        expired=authority.issue("expired", days=-1),
        foreign=foreign.issue("foreign"),
    )


def server_context(files: dict[str, bytes], directory: Path) -> ssl.SSLContext:
    for name, content in files.items():
        (directory / name).write_bytes(content)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / CERTIFICATE, directory / KEY)
    context.load_verify_locations(directory / CA)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


@pytest.fixture
def secure(files: Certificates, tmp_path: Path) -> Iterator[FakeHost]:
    with fake_host(tls=server_context(files.server, tmp_path)) as host:
        yield host


def ask(host: FakeHost, tls: Tls | None) -> str:
    with Glusterd(host.host, port=host.port, tls=tls, timeout_s=30) as glusterd:
        return glusterd.getspec("one")


def test_both_sides_show_a_certificate(secure: FakeHost, files: Certificates) -> None:
    assert ask(secure, Tls.of(files.ours)).startswith("volume one-client-0\n")


def test_every_host_is_asked_with_it(secure: FakeHost, files: Certificates) -> None:
    tls = Tls.of(files.ours)
    hosts = [secure.host]
    assert first_answer(hosts, lambda glusterd: glusterd.getspec("one"), port=secure.port, tls=tls)


@pytest.mark.parametrize(
    ("who", "why"),
    [
        ("expired", "does not accept our certificate .*expired"),
        ("foreign", "the certificate of glusterd is not accepted .* must be in our glusterfs.ca"),
        (None, "closed the connection at the first question: glusterd may want TLS; name a Secret"),
    ],
)
def test_what_is_not_agreed_is_said_with_host_and_remedy(
    secure: FakeHost, files: Certificates, who: str | None, why: str
) -> None:
    with pytest.raises(TlsError, match=rf"127.0.0.1:{secure.port}.*{why}"):
        ask(secure, Tls.of(getattr(files, who)) if who else None)


def test_a_servers_expired_certificate_is_to_be_renewed_there(files: Certificates, tmp_path: Path) -> None:
    with (
        fake_host(tls=server_context(files.expired, tmp_path)) as host,
        pytest.raises(TlsError, match=r"has expired.*renew its glusterfs\.pem on that host"),
    ):
        ask(host, Tls.of(files.ours))


def test_our_certificate_of_an_authority_that_the_server_does_not_know(secure: FakeHost, files: Certificates) -> None:
    with pytest.raises(TlsError, match="does not accept our certificate"):
        ask(secure, Tls.of({**files.foreign, CA: files.ours[CA]}))


def test_a_server_in_the_clear_is_not_fallen_back_to(files: Certificates) -> None:
    with fake_host() as host, pytest.raises(TlsError, match="glusterd does not speak TLS: leave TLS out"):
        ask(host, Tls.of(files.ours))
    assert host.calls == []


def test_management_in_the_clear_is_had_by_saying_so(files: Certificates) -> None:
    with fake_host() as host:
        assert ask(host, Tls.of(files.ours, management=False))


@pytest.mark.parametrize("ssl_", [True, False])
def test_a_brick_is_asked_as_its_volfile_says(secure: FakeHost, files: Certificates, ssl_: bool) -> None:
    brick = Brick(name="rep-client-0", host=secure.host, path="/b/0", ssl=ssl_)
    shape = Geometry(kind=VolumeKind.BRICK, bricks=(brick,))
    with BrickProbe("rep", "id", shape, 30.0, glusterd_port=secure.port, tls=Tls.of(files.ours)) as probe:
        answer = probe.stat_directory("a")[0]
    # the one that is asked in the clear, and wants TLS, is up nevertheless: nothing is taken for enforced
    assert (answer.up, answer.stat is not None) == (True, ssl_)
    assert ssl_ or "may want TLS" in str(answer.error)


def test_a_brick_that_wants_tls_of_a_storage_without_is_up_and_unproven() -> None:
    with fake_host() as host:
        brick = Brick(name="rep-client-0", host=host.host, path="/b/0", ssl=True)
        shape = Geometry(kind=VolumeKind.BRICK, bricks=(brick,))
        with BrickProbe("rep", "id", shape, 30.0, glusterd_port=host.port) as probe:
            answer = probe.stat_directory("a")[0]
    assert (answer.up, answer.stat) == (True, None)
    assert "the volume wants TLS" in str(answer.error)


def test_what_is_missing_or_broken_is_named(files: Certificates, tmp_path: Path) -> None:
    for name in (CERTIFICATE, KEY, CA):
        with pytest.raises(InvalidInputError, match=rf"TLS: {name} is missing"):
            Tls.of({key: value for key, value in files.ours.items() if key != name})
        with pytest.raises(InvalidInputError, match=name):
            Tls.of({**files.ours, name: b"\xffnonsense"})
    with pytest.raises(InvalidInputError, match="are not a certificate and its unencrypted key"):
        Tls.of({**files.ours, KEY: files.server[KEY]})
    with pytest.raises(InvalidInputError, match="is missing"):
        Tls.read(str(tmp_path))


def test_glusters_own_directory_is_read_and_nothing_of_it_shown(files: Certificates, tmp_path: Path) -> None:
    for name, content in files.ours.items():
        (tmp_path / name).write_bytes(content)
    tls = Tls.read(str(tmp_path))
    assert tls == Tls.of(files.ours)
    assert "BEGIN" not in repr(tls)
