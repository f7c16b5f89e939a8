"""The volfile of our clients: options by type, silent hosts hidden, never a brick left out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kadalu_ext.gluster import volfile
from kadalu_ext.gluster.clientvolfile import DISPERSE_OPTIONS, TlsFiles, client_volfile, risks
from kadalu_ext.gluster.volfile import Volfile
from kadalu_ext.mounter.client import OPTIONS
from kadalu_ext.operator.options import ALLOWED

HOSTS = ("a", "b", "c")


def volume(kind: str, *, ping_timeout: str = "42") -> Volfile:
    clients = "".join(
        f"volume v-client-{n}\n type protocol/client\n option remote-host {host}\n option remote-subvolume /brick\n"
        f" option ping-timeout {ping_timeout}\nend-volume\n"
        for n, host in enumerate(HOSTS)
    )
    return volfile.parse(
        f"{clients}volume v-0\n type cluster/{kind}\n option eager-lock on\n"
        f" subvolumes v-client-0 v-client-1 v-client-2\nend-volume\n"
        f"volume v\n type debug/io-stats\n option log-level INFO\n subvolumes v-0\nend-volume\n"
    )


def test_a_disperse_volume_loses_no_fsynced_data_at_its_limit() -> None:
    options = client_volfile(volume("disperse"), options={}).xlator("v-0").options
    assert {key: options[key] for key in ("eager-lock", "other-eager-lock", "parallel-writes", "stripe-cache")} == {
        "eager-lock": "off",
        "other-eager-lock": "off",
        "parallel-writes": "off",
        "stripe-cache": "0",
    }


def test_a_storage_may_take_the_risk_of_one_of_these_options() -> None:
    options = {"disperse.eager-lock": "on", "disperse.stripe-cache": "0"}
    assert risks(options) == {"disperse.eager-lock": "on"}
    found = client_volfile(volume("disperse"), options=options).xlator("v-0").options
    assert (found["eager-lock"], found["other-eager-lock"], found["stripe-cache"]) == ("on", "off", "0")
    assert client_volfile(volume("replicate"), options=options).xlator("v-0").options == {"eager-lock": "on"}


def test_a_replicate_volume_keeps_its_own_options() -> None:
    assert client_volfile(volume("replicate"), options={}).xlator("v-0").options == {"eager-lock": "on"}


@pytest.mark.parametrize(("told", "taken"), [("42", "10"), ("30", "30"), ("5", "5")])
def test_only_glusters_default_ping_timeout_is_shortened(told: str, taken: str) -> None:
    ours = client_volfile(volume("replicate", ping_timeout=told), options={})
    assert ours.xlator("v-client-1").options["ping-timeout"] == taken


def test_the_log_level_that_a_user_asks_for_is_not_undone_by_the_volume() -> None:
    assert client_volfile(volume("replicate"), options={}).xlator("v").options["log-level"] == "WARNING"
    asked = client_volfile(volume("replicate"), options={"log-level": "DEBUG"})
    assert asked.xlator("v").options["log-level"] == "DEBUG"


@given(st.sets(st.sampled_from([*HOSTS, "d"])), st.sampled_from(["replicate", "disperse"]))
def test_a_hidden_host_refuses_and_no_brick_is_left_out(hidden: set[str], kind: str) -> None:
    true = volume(kind)
    ours = client_volfile(true, options={}, hidden=hidden)
    assert [(x.name, x.type, x.subvolumes) for x in ours.xlators] == [
        (x.name, x.type, x.subvolumes) for x in true.xlators
    ]
    for n, host in enumerate(HOSTS):
        options = ours.xlator(f"v-client-{n}").options
        where = (options["remote-host"], options.get("remote-port"))
        assert where == (("127.0.0.1", "1") if host in hidden else (host, None))
        assert options["remote-subvolume"] == "/brick"
    assert volfile.parse(volfile.render(ours)) == ours


def test_the_operator_accepts_just_the_options_that_a_client_takes() -> None:
    assert frozenset(ALLOWED) == OPTIONS | frozenset(DISPERSE_OPTIONS)


TLS = TlsFiles(certificate="/t/1.certificate", key="/t/1.key", ca="/t/1.ca")
EVERY_PORT = {(host, "/brick"): 49152 + n for n, host in enumerate(HOSTS)}


def encrypted(kind: str = "replicate") -> Volfile:
    true = volume(kind)
    on = {"transport.socket.ssl-enabled": "true"}
    return Volfile(
        xlators=tuple(
            replace(xlator, options={**xlator.options, **(on if xlator.type == "protocol/client" else {})})
            for xlator in true.xlators
        )
    )


def test_bricks_that_want_tls_get_our_files_and_others_none() -> None:
    options = client_volfile(encrypted(), options={}, tls=TLS).xlator("v-client-0").options
    assert options["transport.socket.ssl-own-cert"] == TLS.certificate
    assert options["transport.socket.ssl-private-key"] == TLS.key
    assert options["transport.socket.ssl-ca-list"] == TLS.ca
    plain = client_volfile(volume("replicate"), options={}, tls=TLS).xlator("v-client-0").options
    assert not any(key.startswith("transport.socket.ssl") for key in plain)


def test_ports_that_are_told_are_used_and_a_brick_without_one_is_refused() -> None:
    told = {where: port for where, port in EVERY_PORT.items() if where[0] != "b"}
    ours = client_volfile(encrypted(), options={}, hidden={"c"}, tls=TLS, ports=told)
    where = [(x.options["remote-host"], x.options["remote-port"]) for x in ours.xlators if x.type == "protocol/client"]
    assert where == [("a", "49152"), ("127.0.0.1", "1"), ("127.0.0.1", "1")]


def test_files_and_ports_that_change_give_the_top_another_name_and_nothing_else_does() -> None:
    def top(tls: TlsFiles = TLS, ports: Mapping[tuple[str, str], int] = EVERY_PORT, level: str = "INFO") -> str:
        return client_volfile(encrypted(), options={"log-level": level}, tls=tls, ports=ports).xlators[-1].name

    assert top() == top(level="DEBUG") == top(ports=dict(reversed(EVERY_PORT.items())))
    assert len({top(), top(tls=replace(TLS, key="/t/2.key")), top(ports={**EVERY_PORT, ("a", "/brick"): 50000})}) == 3
    assert client_volfile(volume("replicate"), options={}).xlators[-1].name == "v"
