"""kill -9 in the middle: the claim still becomes Bound, once."""

from __future__ import annotations

from kadalu_ext.record import CANARY
from tests.e2e.story import VOLUME, Story, claim_manifest


def test_a_controller_killed_while_a_claim_waits_serves_it_once(installed: Story) -> None:
    installed.on("brick2", "systemctl", "stop", "kadalu-quotad")
    try:
        installed.apply(claim_manifest("orphan", 8))
        installed.wait("the claim to wait for brick2", lambda: installed.failure_event("orphan", "brick2"))
        installed.kube.sandbox.run(["pkill", "-KILL", "-f", "kadalu-ext-csi controller"])
    finally:
        installed.on("brick2", "systemctl", "start", "kadalu-quotad")
    installed.wait_bound("orphan")
    assert_once(installed, ["orphan"])


def test_claims_are_bound_once_though_a_quotad_is_killed_before_it_did_its_part(installed: Story) -> None:
    names = [f"burst-{number}" for number in range(8)]
    before = int(installed.on("brick3", "systemctl", "show", "-P", "NRestarts", "kadalu-quotad"))
    # stopped in its tracks, so that all of the records are there and none of them is enforced when it is killed
    installed.on("brick3", "systemctl", "kill", "--signal=STOP", "kadalu-quotad")
    try:
        installed.apply({"apiVersion": "v1", "kind": "List", "items": [claim_manifest(name, 4) for name in names]})
        installed.wait("every record to be on brick3", lambda: len(records(installed, "brick3")) == len(names))
        assert not any(installed.get("pvc", name)["status"]["phase"] == "Bound" for name in names)
    finally:
        installed.on("brick3", "systemctl", "kill", "--signal=KILL", "kadalu-quotad")
    for name in names:
        installed.wait_bound(name)
    # systemd starts a killed daemon again by itself: that is what its unit says
    installed.wait("quotad to be active again", lambda: is_active(installed))
    assert int(installed.on("brick3", "systemctl", "show", "-P", "NRestarts", "kadalu-quotad")) > before
    assert_once(installed, names)


def is_active(story: Story) -> bool:
    return story.on("brick3", "systemctl", "show", "-P", "ActiveState", "kadalu-quotad") == "active"


def records(story: Story, host: str) -> list[str]:
    """The PVs' records on a host's brick, those in preparation left out."""
    return [name for name in story.on(host, "ls", f"/bricks/{VOLUME}/info/quota").split() if name != CANARY]


def assert_once(story: Story, claims: list[str]) -> None:
    """Each claim has one PV with one directory and one record on every brick; deletes the claims afterwards."""
    pvs = {story.get("pvc", name)["spec"]["volumeName"] for name in claims}
    assert len(pvs) == len(claims)
    for host in story.names:
        root = f"/bricks/{VOLUME}"
        directories = story.on(host, "find", f"{root}/subvol", "-mindepth", "3", "-maxdepth", "3").splitlines()
        found = [path.rpartition("/")[2] for path in directories]
        for names in (story.on(host, "ls", "-A", f"{root}/info/quota").split(), found):
            assert sorted(name for name in names if name != CANARY) == sorted(pvs), (host, names)
    story.kube.kubectl("delete", "pvc", *claims)
    story.wait("the bricks to be empty of them", lambda: not story.left_on_bricks(pvs))
