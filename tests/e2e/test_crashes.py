"""kill -9 in the middle: the claim still becomes Bound, once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from kadalu_ext.record import CANARY
from tests.e2e.story import VOLUME, Story, claim_manifest


@contextmanager
def claims(story: Story, *names: str, mebibytes: int) -> Iterator[set[str]]:
    """Claims, by the names that their PVs will have; nothing of them afterwards, wherever the test ended."""
    manifests = [claim_manifest(name, mebibytes) for name in names]
    story.apply({"apiVersion": "v1", "kind": "List", "items": manifests})
    pvs = {f"pvc-{story.get('pvc', name)['metadata']['uid']}" for name in names}
    try:
        yield pvs
    finally:
        story.kube.kubectl("delete", "pvc", *names)
    story.wait("the bricks to be empty of them", lambda: not story.left_on_bricks(pvs))


def test_a_controller_killed_while_a_claim_waits_serves_it_once(installed: Story) -> None:
    installed.on("brick2", "systemctl", "stop", "kadalu-quotad")
    try:
        with claims(installed, "orphan", mebibytes=8) as pvs:
            installed.wait("the claim to wait for brick2", lambda: installed.failure_event("orphan", "brick2"))
            installed.kube.sandbox.run(["pkill", "-KILL", "-f", "kadalu-ext-csi controller"])
            installed.on("brick2", "systemctl", "start", "kadalu-quotad")
            installed.wait_bound("orphan")
            assert_once(installed, ["orphan"], pvs)
    finally:
        installed.on("brick2", "systemctl", "start", "kadalu-quotad")


def test_claims_are_bound_once_though_a_quotad_is_killed_before_it_did_its_part(installed: Story) -> None:
    names = [f"burst-{number}" for number in range(8)]
    before = int(installed.on("brick3", "systemctl", "show", "-P", "NRestarts", "kadalu-quotad"))
    # stopped in its tracks, so that all of the records are there and none of them is enforced when it is killed
    installed.on("brick3", "systemctl", "kill", "--signal=STOP", "kadalu-quotad")
    with claims(installed, *names, mebibytes=4) as pvs:
        try:
            installed.wait("every record to be on brick3", lambda: pvs <= set(records(installed, "brick3")))
            assert not any(installed.get("pvc", name)["status"]["phase"] == "Bound" for name in names)
        finally:
            installed.on("brick3", "systemctl", "kill", "--signal=KILL", "kadalu-quotad")
        for name in names:
            installed.wait_bound(name)
        # systemd starts a killed daemon again by itself: that is what its unit says
        installed.wait("quotad to be active again", lambda: is_active(installed))
        assert int(installed.on("brick3", "systemctl", "show", "-P", "NRestarts", "kadalu-quotad")) > before
        assert_once(installed, names, pvs)


def is_active(story: Story) -> bool:
    return story.on("brick3", "systemctl", "show", "-P", "ActiveState", "kadalu-quotad") == "active"


def records(story: Story, host: str) -> list[str]:
    """The PVs' records on a host's brick, those in preparation left out."""
    return [name for name in story.on(host, "ls", f"/bricks/{VOLUME}/info/quota").split() if name != CANARY]


def assert_once(story: Story, names: list[str], pvs: set[str]) -> None:
    """Each claim has one PV with one directory and one record on every brick, and nobody else has."""
    assert {story.get("pvc", name)["spec"]["volumeName"] for name in names} == pvs
    for host in story.names:
        root = f"/bricks/{VOLUME}"
        directories = story.on(host, "find", f"{root}/subvol", "-mindepth", "3", "-maxdepth", "3").splitlines()
        found = [path.rpartition("/")[2] for path in directories]
        for there in (story.on(host, "ls", "-A", f"{root}/info/quota").split(), found):
            assert sorted(name for name in there if name != CANARY) == sorted(pvs), (host, there)
