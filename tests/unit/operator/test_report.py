"""Conditions say what is wrong and what to do; status and events change only when something does."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from kadalu_ext.gluster.geometry import Brick, Geometry, VolumeKind
from kadalu_ext.gluster.support import Reserve
from kadalu_ext.operator.actions import BrickSeen, PatchStatus, PostEvent, Problem, Resource, Usable
from kadalu_ext.operator.enforcing import Enforcement
from kadalu_ext.operator.pvs import Provisioned
from kadalu_ext.operator.reasons import Condition, Reason
from kadalu_ext.operator.report import report, volume_type
from kadalu_ext.storage import Quota
from kadalu_ext.units import GIB
from tests.unit.operator.samples import LATER, NOW, OTHER_ID, resource, usable

BAD = [r for r in Reason if r.condition not in (Condition.QUOTA_ENFORCED, Condition.READY)]


def reported(outcome: Usable | Problem, before: Resource | None = None, now: str = NOW) -> tuple[Resource, list[str]]:
    """The KadaluStorage afterwards, and the reasons of the events."""
    before = before or resource()
    actions = report(before, outcome, now=now)
    patches = [action.status for action in actions if isinstance(action, PatchStatus)]
    status = {**before.status, **(patches[0] if patches else {})}
    return replace(before, status=status), [a.manifest["reason"] for a in actions if isinstance(a, PostEvent)]


def conditions(of: Resource) -> dict[str, Any]:
    return {item["type"]: item for item in of.status["conditions"]}


def test_a_usable_storage_is_ready_and_shows_its_volume() -> None:
    after, events = reported(usable())
    assert [item["status"] for item in after.status["conditions"]] == ["True", "True", "True", "Unknown", "True"]
    assert conditions(after)["QuotaEnforced"]["reason"] == "NotMeasured"
    assert after.status["type"] == "Replica 3"
    assert after.status["brickCount"] == 3
    assert after.status["bricks"][0] == {"host": "node1", "path": "/bricks/v", "arbiter": False, "online": True}
    assert (after.status["bricksOnline"], after.status["capacity"], after.status["ready"]) == ("3/3", "8Gi", "True")
    assert after.status["storageClass"] == "kadalu.external.ext"
    assert events == ["Valid", "GlusterdAnswers", "VolumeUsable", "StorageReady"]


@pytest.mark.parametrize("reason", BAD)
def test_what_fails_is_false_what_comes_after_is_unknown_and_ready_says_why(reason: Reason) -> None:
    after, events = reported(Problem(reason=reason, details="why"))
    found = conditions(after)
    order = list(Condition)
    at = order.index(reason.condition)
    assert [found[item]["status"] for item in order[:at]] == ["True"] * at
    assert found[reason.condition]["status"] == "False"
    assert {found[item]["status"] for item in order[at + 1 : -1]} == {"Unknown"}
    assert found["Ready"]["reason"] == reason == found[reason.condition]["reason"]
    assert found["Ready"]["message"].startswith("why")
    assert reason.remedy in found["Ready"]["message"]
    assert events.count(reason) == 1


def test_a_storage_that_stays_as_it_is_costs_nothing() -> None:
    for outcome in (usable(), Problem(reason=Reason.VOLUME_STOPPED, details="why")):
        after, _ = reported(outcome)
        assert report(after, outcome, now=LATER) == []


def test_only_what_changed_gets_a_new_time_and_an_event() -> None:
    good, _ = reported(usable())
    stopped, events = reported(Problem(reason=Reason.VOLUME_STOPPED, details="stopped"), good, LATER)
    found = conditions(stopped)
    assert events == ["VolumeStopped"]
    assert {item: found[item]["lastTransitionTime"] for item in ("Accepted", "Reachable", "Supported", "Ready")} == {
        "Accepted": NOW,
        "Reachable": NOW,
        "Supported": LATER,
        "Ready": LATER,
    }


def test_an_outage_that_shows_in_another_way_is_not_told_again() -> None:
    first, _ = reported(Problem(reason=Reason.HOST_UNREACHABLE, details="node1: silent"))
    again, events = reported(Problem(reason=Reason.HOST_UNREACHABLE, details="node1: no route"), first, LATER)
    assert events == []
    assert "no route" in conditions(again)["Ready"]["message"]


def test_after_an_outage_the_last_known_facts_stay_and_after_a_wrong_spec_they_go() -> None:
    good, _ = reported(usable())
    out, _ = reported(Problem(reason=Reason.HOST_UNREACHABLE, details="x", volume="exported"), good)
    assert (out.status["type"], out.status["volume"]) == ("Replica 3", "exported")
    wrong, _ = reported(Problem(reason=Reason.INVALID_SPEC, details="x"), good)
    assert (wrong.status["type"], wrong.status["volume"]) == (None, None)


def test_a_brick_that_is_offline_is_named_and_claims_are_still_served() -> None:
    good, _ = reported(usable())
    degraded, events = reported(usable(offline=1), good, LATER)
    ready = conditions(degraded)["Ready"]
    assert (ready["status"], ready["reason"], events) == ("True", "StorageDegraded", ["StorageDegraded"])
    assert "1 of 3 bricks of volume exported is offline: node3:/bricks/v" in ready["message"]
    assert (degraded.status["bricksOnline"], degraded.status["ready"]) == ("2/3", "True: StorageDegraded")
    assert degraded.status["bricks"][2]["error"] == "brick node3:/bricks/v: gone"
    assert reported(usable(), degraded, LATER)[1] == ["StorageReady"]


def test_too_many_bricks_offline_make_a_storage_not_ready() -> None:
    down, events = reported(usable(offline=2))
    assert (down.status["ready"], "BricksDown" in events) == ("False: BricksDown", True)
    assert "node2:/bricks/v, node3:/bricks/v, so it takes no writes" in conditions(down)["Ready"]["message"]


def test_the_capacity_is_that_of_the_smallest_brick_and_stays_while_one_is_silent() -> None:
    small = replace(usable().bricks[2], total_bytes=5 * GIB)
    whole = replace(usable(), bricks=(*usable().bricks[:2], small))
    after, _ = reported(whole)
    assert after.status["capacity"] == "5Gi"
    assert reported(usable(offline=1), after)[0].status["capacity"] == "5Gi"
    assert reported(usable(offline=1))[0].status["capacity"] == "8Gi"


def test_what_is_promised_is_shown_beside_what_there_is() -> None:
    actions = report(resource(), usable(), now=NOW, provisioned=Provisioned(pvs=3, total_bytes=6 * GIB))
    (status,) = (action.status for action in actions if isinstance(action, PatchStatus))
    assert (status["pvs"], status["provisioned"], status["overcommit"]) == (3, "6Gi", "0.75")


def test_while_no_glusterd_answers_nobody_knows_which_bricks_are_online() -> None:
    good, _ = reported(usable())
    out, _ = reported(Problem(reason=Reason.HOST_UNREACHABLE, details="x"), good)
    assert out.status["bricksOnline"] == "?/3"
    assert "online" not in out.status["bricks"][0]


def test_what_is_wrong_with_ready_alone_leaves_the_other_conditions() -> None:
    good, _ = reported(usable())
    held, events = reported(Problem(reason=Reason.HELD_BY_VOLUMES, details="2 PVs"), good, LATER)
    assert conditions(held)["Supported"] == conditions(good)["Supported"]
    assert (conditions(held)["Ready"]["status"], events) == ("False", ["HeldByVolumes"])


def test_an_event_is_no_longer_than_the_api_server_takes() -> None:
    actions = report(resource(), Problem(reason=Reason.INVALID_SPEC, details="ü" * 3000), now=NOW)
    events = [action.manifest for action in actions if isinstance(action, PostEvent)]
    assert [len(event["message"].encode()) <= 1024 for event in events] == [True]


def bricks(count: int, arbiters: int = 0) -> tuple[Brick, ...]:
    return tuple(Brick(name=f"c{n}", host="h", path="/b", arbiter=n >= count - arbiters) for n in range(count))


@pytest.mark.parametrize(
    ("geometry", "text"),
    [
        (Geometry(kind=VolumeKind.BRICK, bricks=bricks(1)), "Brick"),
        (Geometry(kind=VolumeKind.REPLICATE, bricks=bricks(2)), "Replica 2"),
        (Geometry(kind=VolumeKind.REPLICATE, bricks=bricks(3, 1)), "Arbiter 2+1"),
        (Geometry(kind=VolumeKind.DISPERSE, bricks=bricks(6), redundancy=2), "Disperse 4+2"),
    ],
)
def test_a_volumes_type_is_shown_as_people_say_it(geometry: Geometry, text: str) -> None:
    assert volume_type(geometry) == text


def measured(status: str | None, reason: Reason, message: str = "words") -> Usable:
    """A volume whose bricks were all asked, with what was found by the canary."""
    enforcing = dict(zip((brick.name for brick in usable().geometry.bricks), (True, False, None), strict=True))
    found = Enforcement(status=status, reason=reason, message=message, enforcing=enforcing)
    seen = tuple(BrickSeen(brick=brick, online=True) for brick in usable().geometry.bricks)
    return replace(usable(), bricks=seen, enforcement=found)


def test_a_brick_that_does_not_enforce_makes_the_storage_not_ready_and_is_told_once() -> None:
    good, _ = reported(measured("True", Reason.ENFORCED))
    bad, events = reported(measured("False", Reason.NOT_ENFORCED, "on node2."), good, LATER)
    found = conditions(bad)
    for condition in ("QuotaEnforced", "Ready"):
        assert [found[condition][key] for key in ("status", "reason", "message")] == [
            "False",
            "NotEnforced",
            "on node2. Claims wait until then.",
        ]
    assert (found["Supported"]["status"], events) == ("True", ["NotEnforced"])
    _, events = reported(measured("True", Reason.ENFORCED), bad, LATER)
    assert sorted(events) == ["Enforced", "StorageReady"]


def test_where_enforcement_is_optional_a_brick_without_it_keeps_no_claim_waiting() -> None:
    after, _ = reported(wanting(measured("False", Reason.NOT_ENFORCED, "on node2."), Quota.OPTIONAL))
    found = conditions(after)
    assert (found["QuotaEnforced"]["status"], found["Ready"]["status"]) == ("False", "True")
    assert found["QuotaEnforced"]["message"].startswith("on node2. spec.quota is optional: claims are served")


def test_where_nobody_wants_sizes_enforced_that_is_said() -> None:
    after, _ = reported(wanting(usable(), Quota.NONE))
    found = conditions(after)
    assert (found["QuotaEnforced"]["status"], found["QuotaEnforced"]["reason"]) == ("Unknown", "QuotaOff")
    assert found["Ready"]["status"] == "True"


def wanting(found: Usable, quota: Quota) -> Usable:
    return replace(found, spec=replace(found.spec, storage=replace(found.spec.storage, quota=quota)))


def test_bricks_say_whether_they_enforce_where_that_is_known() -> None:
    after, _ = reported(measured("False", Reason.NOT_ENFORCED))
    assert [brick.get("enforcing", "left out") for brick in after.status["bricks"]] == [True, False, "left out"]


@pytest.mark.parametrize("reason", [Reason.ENFORCED, Reason.NOT_ENFORCED])
def test_while_the_canary_says_nothing_new_what_was_said_stays(reason: Reason) -> None:
    status = "True" if reason is Reason.ENFORCED else "False"
    before, _ = reported(measured(status, reason))
    after, events = reported(measured(None, Reason.NOT_MEASURED), before, LATER)
    assert (conditions(after), events) == (conditions(before), [])


def test_a_first_measurement_leaves_the_storage_ready() -> None:
    after, _ = reported(measured(None, Reason.NOT_MEASURED, "its next change tells"))
    found = conditions(after)
    assert (found["QuotaEnforced"]["status"], found["QuotaEnforced"]["message"]) == ("Unknown", "its next change tells")
    assert found["Ready"]["status"] == "True"


def test_a_canary_that_stands_still_is_an_event_and_leaves_ready_alone() -> None:
    good, _ = reported(measured("True", Reason.ENFORCED))
    after, events = reported(measured("Unknown", Reason.CANARY_STALE), good, LATER)
    assert (conditions(after)["Ready"]["status"], events) == ("True", ["CanaryStale"])


def test_after_an_outage_enforcement_is_measured_anew() -> None:
    good, _ = reported(measured("True", Reason.ENFORCED))
    out, _ = reported(Problem(reason=Reason.HOST_UNREACHABLE, details="x"), good)
    after, _ = reported(measured(None, Reason.NOT_MEASURED), out)
    assert [conditions(each)["QuotaEnforced"]["reason"] for each in (out, after)] == ["NotChecked", "NotMeasured"]


@pytest.mark.parametrize(
    ("reserve", "reason"),
    [
        (Reserve(percent=1), "VolumeUsable"),
        (Reserve(percent=10), "SpaceReserved"),
        (Reserve(size_bytes=5), "SpaceReserved"),
    ],
)
def test_an_unusual_reserve_is_told_and_refuses_nothing(reserve: Reserve, reason: str) -> None:
    after, _ = reported(replace(usable(), reserve=reserve))
    assert conditions(after)["Supported"]["reason"] == reason
    assert {conditions(after)[kind]["status"] for kind in ("Supported", "Ready")} == {"True"}


@pytest.mark.parametrize("other", ["volume", "brick"])
def test_what_was_measured_says_nothing_of_another_volume_or_a_new_brick(other: str) -> None:
    before, _ = reported(measured("True", Reason.ENFORCED))
    found = measured(None, Reason.NOT_MEASURED)
    if other == "volume":
        found = replace(found, volume_id=OTHER_ID)
    else:
        new = Brick(name="v-client-2", host="node3", path="/bricks/new")
        found = replace(found, geometry=replace(found.geometry, bricks=(*found.geometry.bricks[:2], new)))
    after, _ = reported(found, before, LATER)
    assert conditions(after)["QuotaEnforced"]["status"] == "Unknown"


def test_what_a_stranger_wrote_is_valid_and_short_in_status_and_events() -> None:
    details = "said \udcff" + "x" * 100_000
    (*events, patch) = report(resource(), Problem(reason=Reason.HOST_UNREACHABLE, details=details), now=NOW)
    assert isinstance(patch, PatchStatus)
    text = json.dumps([patch.status, *(e.manifest for e in events if isinstance(e, PostEvent))], ensure_ascii=False)
    assert "said ?" in text
    assert len(text.encode()) < 20_000
    odd = BrickSeen(brick=Brick(name="b", host="h", path="/\udce4"), online=True, error="\udce4")
    shown = report(resource(), replace(usable(), bricks=(odd,)), now=NOW)[-1]
    assert isinstance(shown, PatchStatus)
    json.dumps(shown.status, ensure_ascii=False).encode()


DISPERSE = replace(usable().geometry, kind=VolumeKind.DISPERSE, redundancy=1)
*_DATA, _LAST = usable().geometry.bricks
ARBITER = replace(usable().geometry, bricks=(*_DATA, replace(_LAST, arbiter=True)))


@pytest.mark.parametrize(
    ("geometry", "options", "reason", "named"),
    [
        (DISPERSE, "disperse.eager-lock=on", "DataAtRisk", True),
        (DISPERSE, "disperse.eager-lock=off,log-level=DEBUG", "DataAtRisk", False),
        (ARBITER, "disperse.eager-lock=on", "DataAtRisk", False),
        (usable().geometry, "disperse.eager-lock=on", "VolumeUsable", False),
    ],
)
def test_that_a_full_pv_of_a_disperse_or_arbiter_volume_is_a_risk_is_told_and_what_makes_it_worse(
    geometry: Geometry, options: str, reason: str, named: bool
) -> None:
    details = {"gluster_node": "node1", "gluster_volname": "v", "gluster_options": options}
    after, events = reported(replace(usable({"type": "External", "details": details}), geometry=geometry))
    assert conditions(after)["Supported"]["reason"] == reason and reason in events
    assert {conditions(after)[kind]["status"] for kind in ("Supported", "Ready")} == {"True"}
    assert ("disperse.eager-lock=on" in conditions(after)["Supported"]["message"]) == named
