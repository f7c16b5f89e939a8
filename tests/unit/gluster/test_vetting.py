"""A volfile of a hostile host makes nothing of a client but a client; a real one always passes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kadalu_ext.errors import VolfileError
from kadalu_ext.gluster import volfile
from kadalu_ext.gluster.clientvolfile import client_volfile
from kadalu_ext.gluster.vetting import TYPES, vet
from kadalu_ext.gluster.volfile import Volfile, Xlator

DATA = Path(__file__).parent / "data"
CLIENT: Mapping[str, str] = {"remote-host": "brick1", "remote-subvolume": "/bricks/v", "transport-type": "tcp"}


def volume(type_: str = "debug/io-stats", **options: str) -> Volfile:
    """One brick below a translator of that type."""
    changed = {key.replace("__", ".").replace("_", "-"): value for key, value in options.items()}
    client = {**CLIENT, **(changed if type_ == "protocol/client" else {})}
    brick = Xlator(name="v-client-0", type="protocol/client", options=client)
    top = Xlator(name="v", type=type_, options=changed, subvolumes=("v-client-0",))
    return Volfile(xlators=(brick,) if type_ == "protocol/client" else (brick, top))


def refused(what: Volfile) -> str:
    with pytest.raises(VolfileError) as caught:
        vet(what, host="brick1", volume="vol")
    return str(caught.value)


@pytest.mark.parametrize("name", ["arb", "dr", "ec", "one", "rep"])
def test_what_glusterd_writes_for_clients_passes(name: str) -> None:
    real = volfile.parse((DATA / f"{name}.vol").read_text())
    assert vet(real, host="brick1", volume=name) is real


@pytest.mark.parametrize(
    ("type_", "remedy"),
    [
        ("debug/trace", "gluster volume reset vol debug.trace"),
        ("debug/error-gen", "gluster volume reset vol debug.error-gen"),
        ("features/cdc", "gluster volume reset vol network.compression"),
        ("storage/posix", "gluster volume info vol"),
        ("protocol/server", "gluster volume info vol"),
        ("../../../../tmp/evil", "whether that host is still your own"),
    ],
)
def test_a_translator_that_is_not_a_clients_is_refused_with_host_volume_and_remedy(type_: str, remedy: str) -> None:
    message = refused(volume(type_))
    assert message.startswith("brick1: the volfile of volume vol is not used: ") and type_ in message
    assert remedy in message


@given(st.text(min_size=1).filter(lambda text: text not in TYPES))
def test_no_other_type_ever_passes(type_: str) -> None:
    refused(volume(type_))


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("transport-type", "../../../tmp/evil"),
        ("transport__address_family", "unix"),
        ("transport__socket__connect-path", "x"),
        ("remote_host", "a b"),
        ("remote_host", "-x"),
        ("remote_port", "24007x"),
        ("ping_timeout", "/etc/shadow"),
        ("username", "a`id`"),
        ("username", "a\nb"),
        ("password", "\x1b]0;x"),
        ("o;ption", "x"),
    ],
)
def test_an_option_that_leads_elsewhere_is_refused_and_its_value_not_told(option: str, value: str) -> None:
    message = refused(volume("protocol/client", **{option: value}))
    assert value not in message or len(value) == 1


@given(st.dictionaries(st.text(), st.text(), max_size=4), st.sampled_from(sorted(TYPES)))
def test_what_passes_can_be_written_and_read_back_and_holds_no_path(options: dict[str, str], type_: str) -> None:
    kids = () if type_ == "protocol/client" else ("b",)
    brick = Xlator(name="b", type="protocol/client", options=CLIENT)
    hostile = Volfile(xlators=(brick, Xlator(name="x", type=type_, options=options, subvolumes=kids)))
    try:
        vet(hostile, host="h", volume="v")
    except VolfileError:
        return
    assert not any("`" in value or "\n" in value for value in options.values())
    assert not any(value.startswith("/") for key, value in options.items() if key != "remote-subvolume")
    ours = client_volfile(hostile, options={})
    if all(options.values()):
        assert volfile.parse(volfile.render(ours)) == ours


def test_a_brick_with_subvolumes_and_a_set_without_are_refused() -> None:
    brick = Xlator(name="b", type="protocol/client", options=CLIENT)
    assert "subvolumes" in refused(Volfile(xlators=(brick, Xlator(name="r", type="cluster/replicate"))))
    assert "subvolumes" in refused(
        Volfile(xlators=(brick, Xlator(name="c", type="protocol/client", options=CLIENT, subvolumes=("b",))))
    )


def test_the_files_of_tls_and_an_ipv6_address_pass() -> None:
    options = {"remote_host": "fe80::1%eth0", "transport__socket__ssl-own-cert": "/etc/ssl/glusterfs.pem"}
    assert vet(volume("protocol/client", **options), host="h", volume="v")
