"""kadalu-quotad on a real brick host on which everything goes wrong: disks, files, names, the clock, the power."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.testbed import deb, progress
from tests.testbed.brickhosts import BrickHost, BrickHosts
from tests.testbed.deb import CONFIG

CALM, HOSTILE = "/bricks/calm", "/broken/b"
SECONDS = 300.0


class Place:
    """A brick host with a volume on its own disk, and another on one that can be broken: brick2, for test_quotad.py has
    given brick1 such a disk already."""

    def __init__(self, host: BrickHost) -> None:
        self.host = host
        self.pvs = 0

    def task(self, *words: str) -> Any:
        """Runs a task of on_brick.py; what it prints."""
        done = self.host.run(["python3", "-B", "/opt/on_brick.py", *words], check=False, timeout=900)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout or "null")

    def shell(self, command: str) -> str:
        return self.host.run(["sh", "-c", command], timeout=300).stdout

    def says(self, words: str) -> Callable[[], bool]:
        return lambda: words in self.shell("systemctl show -P StatusText kadalu-quotad")

    def wait(self, words: str) -> None:
        progress.wait_until(f"the daemon to say {words!r}", self.says(words), seconds=SECONDS)

    def process(self) -> str:
        return self.shell("systemctl show -P MainPID kadalu-quotad").strip()

    def plug(self) -> None:
        """The disk that can be broken."""
        disk = self.host.plug_disk(1 << 30)
        self.shell(f"mkfs.xfs -q {disk}; mkdir -p /broken; mount -o prjquota {disk} /broken")

    def serves_beside(self) -> None:
        """The brick that is well gets a new PV enforced."""
        self.pvs += 1
        self.task("put", CALM, f"beside-{self.pvs}", "8")

        def enforced() -> bool:
            explained = self.host.run(["kadalu-quotad", "explain", f"beside-{self.pvs}", "--json"], check=False)
            return bool(json.loads(explained.stdout)["enforced"])

        progress.wait_until("the PV beside to be enforced", enforced, seconds=SECONDS)


@pytest.fixture(scope="module")
def place(brick_hosts: BrickHosts) -> Iterator[Place]:
    place = Place(brick_hosts.host("brick2"))
    host = place.host
    place.plug()
    host.put(Path(__file__).with_name("on_brick.py"), "/opt/on_brick.py")
    brick_hosts.create_volume("calm", "brick", ["brick2"])
    host.run(["gluster", "--mode=script", "volume", "create", "hostile", f"brick2:{HOSTILE}"])
    host.run(["gluster", "--mode=script", "volume", "start", "hostile"])
    host.run(["tee", CONFIG], input="crawl_interval_s = 1\n")
    deb.install(brick_hosts, ["calm", "hostile"])
    place.task("put", HOSTILE, "old", "8")
    place.serves_beside()
    place.wait("2 bricks, 2 PVs enforced")
    yield place
    deb.put_away(brick_hosts)
    brick_hosts.delete_volume("calm")
    brick_hosts.delete_volume("hostile")


UMOUNT = "timeout 100 sh -c 'until umount /broken; do sleep 0.2; done'"
"""A brick's process may be there for a moment after its volume was stopped."""
READ_ONLY = "timeout 100 sh -c 'until mount -o remount,ro /broken; do sleep 0.2; done'"
"""A brick writes a file to see whether its disk is well, and nobody makes that read-only meanwhile."""

BROKEN = {
    "quotas turned off": (
        "xfs_quota -x -c 'off -p' /broken", "run xfs_quota -x -c 'enable -p' /broken",
        "xfs_quota -x -c 'enable -p' /broken",
    ),
    "mounted without quotas": (
        f"gluster --mode=script volume stop hostile force; {UMOUNT}; mount /dev/ubdc /broken",
        "in /etc/fstab: /dev/ubdc /broken xfs defaults,prjquota 0 0",
        f"{UMOUNT}; mount -o prjquota /dev/ubdc /broken; gluster volume start hostile force",
    ),
    "read-only": (
        READ_ONLY, "then mount -o remount,rw /broken", "mount -o remount,rw /broken",
    ),
    "shut down by XFS": (
        "xfs_io -x -c shutdown /broken", "when the disk is well, stop its bricks, and umount and mount",
        f"gluster --mode=script volume stop hostile force; {UMOUNT}; mount -o prjquota /dev/ubdc /broken;"
        "gluster volume start hostile force",
    ),
    "unmounted": (
        f"gluster --mode=script volume stop hostile force; {UMOUNT}", "mount its file system",
        "mount -o prjquota /dev/ubdc /broken; gluster volume start hostile force",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_brick_is_named_with_its_remedy_harms_no_other_and_comes_back(place: Place, what: str) -> None:
    breaks, remedy, mends = BROKEN[what]
    process = place.process()
    place.shell(breaks)
    place.wait(remedy)
    place.serves_beside()
    place.shell(mends)
    place.wait(f"2 bricks, {1 + place.pvs} PVs enforced")
    assert place.process() == process


def test_a_brick_without_room_for_a_quota_says_so_and_goes_on_when_there_is_some(place: Place) -> None:
    seen = place.task("crowd", HOSTILE)
    assert seen["failed"] > 0
    assert all("No space left on device: its file system has no room left" in reason for reason in seen["reasons"])
    assert seen["after"] == seen["records"]
    place.wait(f"2 bricks, {1 + place.pvs} PVs enforced")


def test_whatever_becomes_of_glusterd_s_files_no_limit_changes(place: Place) -> None:
    process = place.process()
    silent = place.task("damage", "calm", "/bricks")
    # an empty one names nobody's volume, and half of a brick's file has all that is needed: nothing is wrong with that
    assert set(silent) <= {"kadalustorage.info empty", "brick2:-bricks-calm half"}
    place.wait(f"2 bricks, {1 + place.pvs} PVs enforced")
    assert place.process() == process


def test_a_clock_that_jumps_a_day_stops_nothing(place: Place) -> None:
    process = place.process()
    for jump in ("+1 day", "-1 day"):
        place.shell(f"date -s '{jump}'")
        place.serves_beside()
        place.task("drift", CALM, f"beside-{place.pvs}")
    assert place.process() == process


def test_odd_names_kinds_and_sizes_are_refused_each_by_itself(place: Place) -> None:
    seen = place.task("odd", HOSTILE)
    states = seen["states"]
    assert states.pop("odd") == "enforced"
    odd = {name: state for name, state in states.items() if name != "old" and not name.startswith("beside")}
    assert set(odd.values()) == {"invalid"}
    assert len(odd) == seen["names"] + 4 + len(seen["projects"]) + 1
    assert set(map(tuple, seen["projects"].values())) == {(0,)}


def test_what_is_swapped_for_symlinks_while_it_is_tagged_leads_nowhere(place: Place) -> None:
    assert place.task("swap", CALM) == [0]


def test_a_file_that_two_pvs_share_is_one_s_for_good_and_one_from_outside_counts_for_its_pv(place: Place) -> None:
    seen = place.task("link", "calm", CALM)
    one, two = (each["d/own"] for each in seen["projects"])
    assert one != two
    first, second = seen["projects"]
    assert first["shared"] == second["shared"] in (one, two)
    assert seen["old"] == [0, one] == [0, first["file"]]
    assert sorted(used >> 20 for _, used in seen["used"].values()) in ([0, 4], [2, 2])
    # it cannot grow beyond its PV's limit; and, as the kernel has it, is not moved in the other one
    moved = ["", "EXDEV"] if first["shared"] == one else ["EXDEV", ""]
    assert seen["refused"] == ["ENOSPC", *moved]


def test_killed_before_any_of_its_calls_the_next_run_ends_where_it_would_have(place: Place) -> None:
    place.shell("systemctl stop kadalu-quotad")
    assert place.task("step", CALM) > 4
    assert set(place.task("stop", CALM)) == {0}
    place.shell("systemctl start kadalu-quotad")
    place.wait(f"2 bricks, {1 + place.pvs} PVs enforced")


def test_a_volume_on_which_limits_mean_nothing_is_named_and_harms_no_other(
    place: Place, brick_hosts: BrickHosts
) -> None:
    """It is created, changed and deleted while the daemon runs."""
    process = place.process()
    place.shell(f"printf '\nodd\n' >> {deb.LIST}")
    brick_hosts.create_volume("odd", "distribute", ["brick2", "brick2"])
    place.wait("2 bricks refused: volume odd is distributed over 2 subvolumes")
    place.serves_beside()
    brick_hosts.delete_volume("odd")
    place.wait(f"2 bricks, {1 + place.pvs} PVs enforced")
    brick_hosts.create_volume("odd", "brick", ["brick2"])
    place.wait(f"3 bricks, {1 + place.pvs} PVs enforced")
    brick_hosts.gluster("volume", "set", "odd", "features.shard", "on")
    place.wait("1 brick refused: volume odd has features.shard on")
    brick_hosts.delete_volume("odd")
    place.shell(f"sed -i /odd/d {deb.LIST}")
    place.wait(f"2 bricks, {1 + place.pvs} PVs enforced")
    assert place.process() == process


def test_a_kernel_as_old_as_linux_4_18_wants_a_drop_in_and_says_so(place: Place) -> None:
    """Without quotactl_fd and openat2, as seccomp makes it."""
    drop_ins = "/run/systemd/system/kadalu-quotad.service.d"
    old = "[Service]\nSystemCallErrorNumber=ENOSYS\nSystemCallFilter=~quotactl_fd openat2\n"
    place.host.run(["mkdir", "-p", drop_ins])
    place.host.run(["tee", f"{drop_ins}/a-kernel.conf"], input=old)
    restart = "systemctl daemon-reload; systemctl restart kadalu-quotad"
    place.shell(restart)
    place.wait("which Linux before 5.14 needs for quotas: install /usr/share/kadalu-quotad/linux-before-5.14.conf")
    place.shell(f"cp /usr/share/kadalu-quotad/linux-before-5.14.conf {drop_ins}; {restart}")
    place.wait(f"2 bricks, {1 + place.pvs} PVs enforced")
    place.serves_beside()
    place.task("drift", CALM, f"beside-{place.pvs}")
    place.shell(f"rm -r {drop_ins}; {restart}")


def test_a_power_cut_among_a_thousand_records_leaves_nothing_to_do(place: Place, brick_hosts: BrickHosts) -> None:
    """The last: the disk that can be broken goes with the power."""
    place.host.run(["sh", "-c", f"python3 -B /opt/on_brick.py fill {CALM} >/tmp/fill 2>&1 &"])

    def some() -> bool:
        shown = place.shell("systemctl show -P StatusText kadalu-quotad")
        return "2 bricks" in shown and int(shown.split()[2]) > 200

    progress.wait_until("some of them to be enforced", some, seconds=SECONDS)
    place.host.power_off()
    place.host.power_on()
    brick_hosts.wait_joined()

    def right() -> dict[str, int] | None:
        seen: dict[str, int] = place.task("audit", CALM, "/bricks")
        return seen if seen["records"] == seen["right"] else None

    seen = progress.wait_until("all that is left of them to be enforced", right, seconds=SECONDS)
    progress.say(f"{seen['records']} of 1000 records outlived the power cut")
    assert place.shell("systemctl is-active kadalu-quotad").strip() == "active"
    assert seen["limits"] == seen["records"] + place.pvs
