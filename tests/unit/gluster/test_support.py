"""What of a volume's options stands in the way of sizes that are seen to be enforced."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kadalu_ext.errors import (
    GlusterQuotaError,
    HostRefusedError,
    SharedFileSystemError,
    TrashError,
    UnsupportedVolumeError,
)
from kadalu_ext.gluster import support
from kadalu_ext.gluster.facts import volume_facts
from kadalu_ext.gluster.messages import BrickInfo, VolumeInfo, VolumeStatus
from kadalu_ext.gluster.support import Reserve
from kadalu_ext.units import GIB

CLIENT = """
volume v-client-{n}
    type protocol/client
    option remote-host {host}
    option remote-subvolume /b/{n}
end-volume
"""
POSIX = "volume p\n type storage/posix\n option shared-brick-count {count}\nend-volume\n"


def info(*hosts: str, **options: str) -> VolumeInfo:
    return VolumeInfo(
        name="v",
        volume_id="id",
        status=VolumeStatus.STARTED,
        type=2,
        replica_count=len(hosts),
        arbiter_count=0,
        disperse_count=0,
        redundancy_count=0,
        bricks=tuple(
            BrickInfo(host=host, path=f"/b/{n}", host_uuid=f"uuid of {host}", arbiter=False)
            for n, host in enumerate(hosts)
        ),
        options={key.replace("__", ".").replace("_", "-"): value for key, value in options.items()},
    )


@pytest.mark.parametrize(
    ("options", "error", "remedy"),
    [
        ({"features__trash": "on"}, TrashError, "gluster volume set v features.trash off, then stop and start"),
        ({"features__trash": "Enable"}, TrashError, "features.trash"),
        ({"features__quota": "on"}, GlusterQuotaError, "gluster volume set v features.quota-deem-statfs off"),
        (
            {"features__quota": "on", "features__quota_deem_statfs": "on"},
            GlusterQuotaError,
            "quota v disable",
        ),
    ],
)
def test_an_option_that_hides_what_bricks_enforce_is_refused_with_the_command_that_mends_it(
    options: dict[str, str], error: type[UnsupportedVolumeError], remedy: str
) -> None:
    with pytest.raises(error, match=remedy):
        support.check_options(info("a", **options))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"features__trash": "off"},
        {"features__quota": "off", "features__quota_deem_statfs": "on"},
        {"features__quota": "on", "features__quota_deem_statfs": "off"},
    ],
)
def test_options_that_are_off_or_do_no_harm_are_taken(options: dict[str, str]) -> None:
    support.check_options(info("a", **options))


class Cluster:
    """Glusterds of one cluster, for volume_facts: each knows how many bricks share a file system on its own host."""

    def __init__(self, *hosts: str, shared: dict[str, int], dead: str = "") -> None:
        self.hosts, self.shared, self.dead, self.host = hosts, shared, dead, hosts[0]
        self.asked: list[str] = []

    def started_volume_info(self, volume: str, *, volume_id: str = "") -> VolumeInfo:
        return info(*self.hosts)

    def beside(self, host: str) -> Cluster:
        other = Cluster(*self.hosts, shared=self.shared, dead=self.dead)
        other.host, other.asked = host, self.asked
        return other

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def getspec(self, key: str) -> str:
        self.asked.append(f"{self.host} {key}")
        if self.host == self.dead:
            raise HostRefusedError(self.host)
        if key != "v":
            return POSIX.format(count=self.shared.get(self.host, 1) if f".{self.host}." in key else 0)
        clients = "".join(CLIENT.format(n=n, host=host) for n, host in enumerate(self.hosts))
        names = " ".join(f"v-client-{n}" for n in range(len(self.hosts)))
        return (
            clients
            + f"volume r\n type cluster/replicate\n subvolumes {names}\nend-volume\n"
            + ("volume d\n type cluster/distribute\n subvolumes r\nend-volume\n")
        )


def test_a_volume_with_one_brick_on_each_host_costs_no_further_question() -> None:
    cluster = Cluster("a", "b", "c", shared={})
    assert len(volume_facts(cluster, "v").geometry.bricks) == 3  # type: ignore[arg-type]
    assert cluster.asked == ["a v"]


def test_bricks_that_share_a_file_system_are_found_by_asking_their_own_host() -> None:
    cluster = Cluster("a", "b", "b", shared={"b": 2})
    with pytest.raises(SharedFileSystemError, match=r"^a: volume v: 2 bricks .* of b, one of them /b/1: "):
        volume_facts(cluster, "v")  # type: ignore[arg-type]
    assert cluster.asked == ["a v", "b v.b.b-1"]


def test_bricks_of_one_host_on_file_systems_of_their_own_are_taken_and_so_is_a_host_that_does_not_tell() -> None:
    assert volume_facts(Cluster("a", "b", "b", shared={}), "v").volume_id == "id"  # type: ignore[arg-type]
    silent = Cluster("a", "b", "b", shared={"b": 2}, dead="b")
    assert volume_facts(silent, "v").volume_id == "id"  # type: ignore[arg-type]
    assert silent.asked == ["a v", "b v.b.b-1"]  # once, however many bricks it has: others wait meanwhile


@pytest.mark.parametrize(
    ("text", "usable"),
    [
        (None, 99 * GIB),
        ("1", 99 * GIB),
        ("0", 100 * GIB),
        ("5%", 95 * GIB),
        ("12.5", 100 * GIB - GIB * 25 // 2),
        ("10GB", 80 * GIB),
        ("100", 0),
        ("1TB", 0),
        ("no idea", 99 * GIB),
    ],
)
def test_what_bricks_keep_free_is_not_there_for_claims(text: str | None, usable: int) -> None:
    found = support.reserve({} if text is None else {"storage.reserve": text})
    assert found.usable_bytes(100 * GIB, data_bricks=2) == usable


@given(st.text(max_size=12), st.integers(0, 1 << 60))
def test_whatever_the_option_says_no_more_is_usable_than_there_is(text: str, total: int) -> None:
    found = support.reserve({"storage.reserve": text})
    assert isinstance(found, Reserve)
    assert 0 <= found.usable_bytes(total, data_bricks=4) <= total
