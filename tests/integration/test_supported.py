"""Volumes as users have them: what sizes cannot be enforced on is recognised from the wire, each for its own reason."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from kadalu_ext.gluster import gfapi
from kadalu_ext.gluster.support import BLOCK_META, Reserve
from kadalu_ext.operator.actions import Problem, Usable
from kadalu_ext.operator.observe import Observer
from kadalu_ext.operator.reasons import Condition, Reason
from kadalu_ext.operator.spec import parse_spec
from tests.testbed import progress
from tests.testbed.brickhosts import BrickHosts
from tests.testbed.errors import Unmet

VOLUME, OTHER = "sup", "sup-other"
SECONDS = 180.0


@pytest.fixture(scope="module")
def hosts(brick_hosts: BrickHosts) -> Iterator[BrickHosts]:
    """A cluster with the volume VOLUME, which each test leaves as it was: started, and nothing is wrong with it."""
    brick_hosts.create_volume(VOLUME, "replica 3")
    yield brick_hosts
    brick_hosts.delete_volume(VOLUME)


@pytest.fixture
def other(brick_hosts: BrickHosts) -> Iterator[BrickHosts]:
    """A cluster on which a test makes the volume OTHER."""
    yield brick_hosts
    brick_hosts.delete_volume(OTHER)


def look(volume: str = VOLUME) -> Usable | Problem:
    details = {"gluster_nodes": ["brick2", "brick1"], "gluster_volname": volume}
    observer = Observer()
    try:
        return observer(parse_spec("ext", {"type": "External", "details": details}))
    finally:
        observer.forget(("default", "ext"))


def seen(what: str, fits: Callable[[Usable | Problem], bool], volume: str = VOLUME) -> Usable | Problem:
    """The first look that fits. A host that does not answer within two seconds, or a brick within one, is silent to it,
    and so is one that is busy with what it was just told."""
    looks: list[Usable | Problem] = []

    def fitting() -> bool:
        looks.append(look(volume))
        return fits(looks[-1])

    try:
        progress.wait_until(f"{volume} to be {what}", fitting, seconds=SECONDS)
    except Unmet as unmet:
        raise Unmet(f"{unmet}: {looks[-1]}") from None
    return looks[-1]


def usable(what: str = "usable", fits: Callable[[Usable], bool] = lambda _: True) -> None:
    seen(what, lambda found: isinstance(found, Usable) and fits(found))


def refused(reason: Reason, *words: str, volume: str = VOLUME) -> None:
    found = seen(f"refused as {reason}", lambda found: isinstance(found, Problem) and found.reason is reason, volume)
    assert isinstance(found, Problem)
    assert found.reason.condition is Condition.SUPPORTED
    for word in (f"volume {volume}", *words):
        assert word in found.message


@pytest.mark.parametrize(
    ("option", "value", "reason", "remedy"),
    [
        ("features.shard", "on", Reason.SHARDED, "features.shard was never on"),
        ("features.trash", "on", Reason.TRASH_ON, f"gluster volume set {VOLUME} features.trash off"),
    ],
)
def test_an_option_that_lets_files_escape_is_refused(
    hosts: BrickHosts, option: str, value: str, reason: Reason, remedy: str
) -> None:
    usable()
    hosts.gluster("volume", "set", VOLUME, option, value)
    refused(reason, remedy)
    hosts.gluster("volume", "set", VOLUME, option, "off")
    usable()


def test_glusters_own_quota_is_refused_only_as_long_as_it_answers_for_the_bricks(hosts: BrickHosts) -> None:
    hosts.gluster("volume", "quota", VOLUME, "enable")
    refused(Reason.GLUSTER_QUOTA, f"gluster volume set {VOLUME} features.quota-deem-statfs off")
    hosts.gluster("volume", "set", VOLUME, "features.quota-deem-statfs", "off")
    usable()
    hosts.gluster("volume", "quota", VOLUME, "disable")
    usable()


def test_a_volume_over_several_subvolumes_is_refused(other: BrickHosts) -> None:
    other.create_volume(OTHER, "distribute", ["brick1", "brick2"])
    refused(Reason.DISTRIBUTED, "distributed over 2 subvolumes", volume=OTHER)


def test_bricks_of_one_volume_on_one_file_system_are_refused_and_of_several_volumes_are_not(other: BrickHosts) -> None:
    # A replica: of two bricks of a distributed volume one would hear of the distribution first.
    other.gluster(
        "volume", "create", OTHER, "replica", "3", f"brick1:/bricks/{OTHER}", f"brick2:/bricks/{OTHER}",
        f"brick2:/bricks/{OTHER}-2", "force",
    )  # fmt: skip
    other.start_volume(OTHER)
    refused(
        Reason.SHARED_FILE_SYSTEM,
        "2 bricks of the volume are on one file system of brick2",
        "replace-brick",
        volume=OTHER,
    )


def test_a_thin_arbiter_is_refused(other: BrickHosts) -> None:
    other.gluster(
        "volume", "create", OTHER, "replica", "2", "thin-arbiter", "1", f"brick1:/bricks/{OTHER}",
        f"brick2:/bricks/{OTHER}", f"brick3:/bricks/{OTHER}",
    )  # fmt: skip
    other.gluster("volume", "start", OTHER)
    refused(Reason.THIN_ARBITER, "use replica 3", volume=OTHER)
    other.host("brick3").run(["rm", "-rf", f"/bricks/{OTHER}"])


def test_a_volume_of_gluster_block_is_refused(hosts: BrickHosts) -> None:
    volume = gfapi.Volume.open(VOLUME, ["brick1"], timeout_s=120)
    try:
        volume.mkdir(BLOCK_META, 0o700)
        refused(Reason.BLOCK_HOSTING, BLOCK_META, f"gluster-block list {VOLUME}")
        volume.rmdir(BLOCK_META)
        usable()
    finally:
        volume.close()


def test_a_stopped_volume_is_told_from_one_that_is_not_there(hosts: BrickHosts) -> None:
    hosts.gluster("volume", "stop", VOLUME)
    refused(Reason.VOLUME_STOPPED, f"gluster volume start {VOLUME}")
    hosts.start_volume(VOLUME)


def test_a_brick_that_does_not_run_is_named_and_refuses_nothing_while_the_volume_takes_writes(
    hosts: BrickHosts,
) -> None:
    down = []
    for name, takes_writes in (("brick3", True), ("brick2", False)):
        hosts.host(name).run(["pkill", "-KILL", "-f", f"glusterfsd.*/bricks/{VOLUME}"])
        down.append(f"{name}:/bricks/{VOLUME}")

        def missed(found: Usable, takes_writes: bool = takes_writes) -> bool:
            offline = {str(brick.brick) for brick in found.offline}
            return offline == set(down) and found.takes_writes is takes_writes

        usable(f"without {down}", missed)
    hosts.gluster("volume", "start", VOLUME, "force")
    hosts.wait_online(VOLUME)


def test_what_bricks_reserve_is_known(hosts: BrickHosts) -> None:
    sizes = {"7": Reserve(percent=7), "100MB": Reserve(size_bytes=100 << 20), "1": Reserve(percent=1)}
    for text, expected in sizes.items():
        hosts.gluster("volume", "set", VOLUME, "storage.reserve", text)
        usable(f"reserving {text}", lambda found, expected=expected: found.reserve == expected)  # type: ignore[misc]
