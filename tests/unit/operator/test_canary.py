"""Whether the bricks follow the canary: a CSI controller that writes, an operator that looks, and hosts that fail."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kadalu_ext.csi.promises import Promises
from kadalu_ext.csi.volumes import Bricks, Volumes
from kadalu_ext.gluster.geometry import Geometry, VolumeKind
from kadalu_ext.layout import record_path
from kadalu_ext.operator.canary import GRACE_S, Canaries
from kadalu_ext.operator.enforcing import STALE_S, UNSEEN_S, Enforcement
from kadalu_ext.operator.reasons import Reason
from kadalu_ext.record import CANARY, RECORD_XATTR
from kadalu_ext.storage import StorageName
from kadalu_ext.units import MIB
from tests.unit.csi.memory import MemoryBricks, MemoryStore, recorded_size, replica

ALL = {f"vol-client-{n}": True for n in range(3)}
DISPERSE = Geometry(kind=VolumeKind.DISPERSE, bricks=replica().bricks, redundancy=1)


class Site:
    """One volume in memory, and a clock that only a look's waiting and the test move."""

    def __init__(self, geometry: Geometry | None = None) -> None:
        self.store = MemoryStore()
        self.bricks = MemoryBricks(self.store, geometry)
        probe = Bricks(geometry=self.bricks.geometry, probe=self.bricks)
        self.volumes = Volumes(volume="vol", store=self.store, bricks=probe, promises=Promises(volume="vol"))
        self.now = 1000.0
        self.restart()

    def restart(self) -> None:
        """Of the operator."""
        self.canaries = Canaries(clock=lambda: self.now, sleep=self.pass_time)

    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    def look(self, *, beat: bool = True, after_s: float = 15.0) -> Enforcement:
        self.pass_time(after_s)
        if beat:
            self.volumes.beat()
        return self.canaries.look(StorageName("ext"), self.bricks, self.bricks.geometry, volume="vol", volume_id="id")

    def limit(self) -> int:
        """What a brick shows now."""
        stat = self.bricks._answer(self.bricks.geometry.bricks[-1], f"subvol/7c/15/{CANARY}", None).stat
        assert stat is not None
        return stat.total_bytes


@pytest.fixture
def healthy() -> Site:
    site = Site()
    site.look()
    assert site.look().status == "True"
    return site


@pytest.mark.parametrize("geometry", [replica(), replica(arbiter=True), DISPERSE, replica(1)])
def test_bricks_that_follow_a_change_enforce(geometry: Geometry) -> None:
    site = Site(geometry)
    assert site.look().status is None
    found = site.look()
    assert (found.status, found.reason) == ("True", Reason.ENFORCED)
    assert found.enforcing == {b.name: None if b.arbiter else True for b in geometry.bricks}


def test_without_a_canary_nothing_is_measured_and_its_appearance_is_a_change() -> None:
    site = Site()
    site.store.mkdir("subvol", 0o755)
    for path in ("subvol/7c", "subvol/7c/15", f"subvol/7c/15/{CANARY}"):
        site.store.mkdir(path, 0o755)
    found = site.look(beat=False)
    assert (found.status, found.reason) == ("Unknown", Reason.NOT_MEASURED)
    assert site.look().status == "True"


def test_a_stopped_quotad_is_named_with_its_host_and_the_remedy_at_the_first_change(healthy: Site) -> None:
    healthy.bricks.stopped["h2"] = healthy.limit()
    found = healthy.look()
    assert (found.status, found.reason) == ("False", Reason.NOT_ENFORCED)
    assert "brick h2:/bricks/b shows" in found.message
    assert "On h2: systemctl start kadalu-quotad" in found.message
    assert not {"h1", "h3"} & set(found.message.replace(":", " ").split())
    assert found.enforcing == {**ALL, "vol-client-1": False}
    del healthy.bricks.stopped["h2"]
    assert healthy.look().status == "True"


def test_before_the_next_change_a_stopped_quotad_is_not_seen_and_nothing_new_is_said(healthy: Site) -> None:
    healthy.bricks.stopped["h2"] = healthy.limit()
    assert healthy.look(beat=False).status == "True"


def test_a_limit_left_over_is_no_proof_when_its_turn_comes_again(healthy: Site) -> None:
    healthy.bricks.stopped["h2"] = left = healthy.limit()
    assert healthy.look().status == "False"
    while healthy.limit() != left:
        healthy.volumes.beat()
    assert healthy.look(beat=False).status == "False"


def test_a_brick_that_shows_its_whole_file_system_has_remedies_of_its_own(healthy: Site) -> None:
    healthy.bricks.idle = {"h3"}
    found = healthy.look()
    assert (found.status, found.reason) == ("False", Reason.NO_LIMIT)
    for part in ("h3:/bricks/b", "its whole file system", "prjquota", "systemctl start kadalu-quotad", "fstab"):
        assert part in found.message


def test_a_brick_that_is_down_is_named_and_breaks_nothing(healthy: Site) -> None:
    healthy.bricks.down = {"h1"}
    found = healthy.look()
    assert (found.status, found.reason) == ("True", Reason.ENFORCED_WHERE_UP)
    assert "h1:/bricks/b" in found.message
    assert found.enforcing == {**ALL, "vol-client-0": None}
    healthy.bricks.stopped["h2"] = healthy.limit()
    found = healthy.look()
    assert (found.status, "h2" in found.message, "h1" in found.message) == ("False", True, False)


def test_with_every_brick_down_nothing_is_known(healthy: Site) -> None:
    healthy.bricks.down = {"h1", "h2", "h3"}
    found = healthy.look(beat=False)
    assert (found.status, found.message.startswith("no brick is up: brick h1")) == ("Unknown", True)


def test_a_brick_that_comes_back_is_believed_after_the_next_change(healthy: Site) -> None:
    healthy.bricks.down = {"h1"}
    healthy.look()
    healthy.bricks.down = set()
    assert healthy.look().status is None
    assert healthy.look().reason is Reason.ENFORCED


def test_a_change_that_is_just_under_way_is_waited_for(healthy: Site) -> None:
    healthy.bricks.stopped["h2"] = healthy.limit()
    sleep = healthy.pass_time

    def catch_up(seconds: float) -> None:
        healthy.bricks.stopped.clear()
        sleep(seconds)

    healthy.canaries._sleep = catch_up
    assert healthy.look().status == "True"


def test_a_look_ends_however_often_the_canary_changes_meanwhile(healthy: Site) -> None:
    healthy.bricks.stopped["h2"] = healthy.limit()
    sleep = healthy.pass_time

    def change(seconds: float) -> None:
        healthy.volumes.beat()
        sleep(seconds)

    healthy.canaries._sleep = change
    before = healthy.now
    assert healthy.look(after_s=0.0).status == "False"
    assert healthy.now - before < 2 * GRACE_S


def test_a_canary_that_does_not_change_any_more_is_told_apart(healthy: Site) -> None:
    assert healthy.look(beat=False, after_s=STALE_S / 2).status == "True"
    found = healthy.look(beat=False, after_s=STALE_S)
    assert (found.status, found.reason) == ("Unknown", Reason.CANARY_STALE)
    assert "kadalu-ext-controller" in found.message
    assert set(found.enforcing.values()) == {None}
    assert healthy.look().status == "True"


def test_a_long_pause_of_the_operator_is_no_pause_of_the_canary(healthy: Site) -> None:
    assert healthy.look(after_s=10 * STALE_S).status == "True"


def test_a_brick_that_cannot_be_asked_is_told_of_when_it_lasts(healthy: Site) -> None:
    healthy.bricks.hung = {"h2"}
    assert healthy.look().status == "True"
    found = healthy.look(after_s=UNSEEN_S)
    assert (found.status, found.reason) == ("Unknown", Reason.BRICK_UNPROVEN)
    assert "h2:/bricks/b: does not answer" in found.message
    healthy.bricks.hung = set()
    assert healthy.look().status == "True"


def test_a_restarted_operator_says_nothing_new_before_it_has_seen_a_change(healthy: Site) -> None:
    healthy.restart()
    healthy.bricks.hung = {"h2"}
    assert healthy.look(beat=False).status is None
    healthy.bricks.hung = set()
    assert healthy.look(beat=False).status is None
    assert healthy.look().status == "True"


def test_a_record_that_cannot_be_read_is_no_proof(healthy: Site) -> None:
    healthy.bricks.stopped = {f"h{n}": 4 * MIB for n in (1, 2, 3)}
    healthy.store.setxattr(record_path(CANARY), RECORD_XATTR, b"{")
    healthy.look(beat=False)
    found = healthy.look(beat=False, after_s=UNSEEN_S)
    assert (found.status, found.reason) == ("Unknown", Reason.BRICK_UNPROVEN)


def test_another_volume_begins_anew(healthy: Site) -> None:
    geometry = healthy.bricks.geometry
    healthy.volumes.beat()
    found = healthy.canaries.look(StorageName("ext"), healthy.bricks, geometry, volume="vol", volume_id="other")
    assert found.status is None
    healthy.canaries.forget(StorageName("ext"))
    assert healthy.look().status is None


STEPS = st.tuples(st.sampled_from(["beat", "stop", "start", "down", "up"]), st.sampled_from(["h1", "h2", "h3"]))


@given(steps=st.lists(STEPS, max_size=40))
def test_whatever_happens_who_lags_is_blamed_and_nobody_else(steps: list[tuple[str, str]]) -> None:
    site = Site()
    site.look()
    for what, host in steps:
        size = recorded_size(site.store, CANARY) or 0
        match what:
            case "beat":
                site.volumes.beat()
            case "stop":
                site.bricks.stopped.setdefault(host, size)
            case "start":
                site.bricks.stopped.pop(host, None)
            case "down":
                site.bricks.down.add(host)
            case "up":
                site.bricks.down.discard(host)
        found = site.look(beat=False, after_s=1.0)
        due = recorded_size(site.store, CANARY)
        behind = {name for name, limit in site.bricks.stopped.items() if limit != due} - site.bricks.down
        assert {b.host for b in site.bricks.geometry.bricks if found.enforcing[b.name] is False} == behind
