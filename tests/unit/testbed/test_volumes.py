"""Gluster's command line, made and read."""

from __future__ import annotations

import pytest

from tests.testbed import volumes
from tests.testbed.errors import BedError

HOSTS = ["brick1", "brick2", "brick3"]
INFO = """<?xml version="1.0"?><cliOutput><opRet>0</opRet><volInfo><volumes><volume>
<name>one</name><statusStr>Started</statusStr><typeStr>Replicate</typeStr>
<bricks><brick uuid="a">brick1:/bricks/one<name>brick1:/bricks/one</name></brick>
<brick uuid="b">brick2:/bricks/one<name>brick2:/bricks/one</name></brick></bricks>
</volume><count>1</count></volumes></volInfo></cliOutput>"""
STATUS = """<cliOutput><volStatus><volumes><volume><volName>one</volName>
<node><hostname>brick1</hostname><path>/bricks/one</path><status>1</status></node>
<node><hostname>brick2</hostname><path>/bricks/one</path><status>0</status></node>
<node><hostname>Self-heal Daemon</hostname><path>localhost</path><status>1</status></node>
</volume></volumes></volStatus></cliOutput>"""


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("brick", ""),
        ("replica 3", "replica 3 "),
        ("arbiter", "replica 3 arbiter 1 "),
        ("disperse 2+1", "disperse 3 redundancy 1 "),
        ("replica 2", "replica 2 "),
    ],
)
def test_a_kind_becomes_glusters_words(kind: str, words: str) -> None:
    argv = volumes.create_argv("v", kind, HOSTS)
    bricks = "brick1:/bricks/v brick2:/bricks/v brick3:/bricks/v"
    assert " ".join(argv) == f"gluster --mode=script volume create v {words}{bricks}"


@pytest.mark.parametrize("kind", ["replicated", "replica", "replica 3 force", "replica 3; reboot", "--help"])
def test_an_unknown_kind_is_refused(kind: str) -> None:
    with pytest.raises(BedError, match="volume kind"):
        volumes.create_argv("v", kind, HOSTS)


def test_a_host_named_twice_gets_two_bricks() -> None:
    assert volumes.brick_paths("v", ["brick1", "brick2", "brick1"]) == ["/bricks/v", "/bricks/v", "/bricks/v-2"]


def test_a_volume_name_is_not_a_path() -> None:
    with pytest.raises(BedError, match="volume name"):
        volumes.create_argv("../etc", "brick", HOSTS)


def test_volume_info_is_read() -> None:
    (volume,) = volumes.parse_volumes(INFO)
    assert volume == volumes.Volume(
        name="one", kind="Replicate", status="Started", bricks=("brick1:/bricks/one", "brick2:/bricks/one")
    )


def test_only_bricks_that_are_online_are_counted() -> None:
    assert volumes.online_bricks(STATUS) == 1


def test_disconnected_peers_are_not_counted() -> None:
    pool = "UUID\tHostname\tState\nx\tbrick2\tConnected \ny\tbrick3\tDisconnected \nz\tlocalhost\tConnected \n"
    assert volumes.connected_peers(pool) == 2
