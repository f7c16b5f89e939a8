"""What is asked for, seen and there, to what must be done: a table of actions, and the cases that need a sentence."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from kadalu_ext.claim import NEVER
from kadalu_ext.errors import (
    HostUnreachableError,
    KadaluExtError,
    NotFoundError,
    UnsupportedVolumeError,
    VolumeStoppedError,
    WireError,
)
from kadalu_ext.operator import render
from kadalu_ext.operator.actions import (
    Action,
    CreateStorageClass,
    Existing,
    PatchStatus,
    PatchStorageClass,
    PostEvent,
    Problem,
    ReplaceStorageClass,
    SetEntry,
    SetFinalizers,
    Usable,
)
from kadalu_ext.operator.plan import accept, needs_pvs, plan, plan_removal
from kadalu_ext.operator.pool import Member, ids_text
from kadalu_ext.operator.reasons import Reason
from kadalu_ext.operator.render import FINALIZER
from kadalu_ext.operator.spec import parse_spec
from kadalu_ext.storage import from_json
from kadalu_ext.units import GIB
from tests.unit.operator.samples import NOW, OTHER_ID, SPEC, VOLUME_ID, resource, settled, storage_class, usable

NOTHING = Existing()
PVS = ("pvc-1", "pvc-2")
OTHER_HOSTS = {"type": "External", "details": {"gluster_nodes": "a,b", "gluster_volname": "exported"}}


def problem(reason: Reason) -> Problem:
    return Problem(reason=reason, details="why")


def on_cluster(actions: list[Action]) -> list[str]:
    """What is done to other objects than the KadaluStorage itself."""
    return [
        type(action).__name__ for action in actions if not isinstance(action, PatchStatus | PostEvent | SetFinalizers)
    ]


@pytest.mark.parametrize(
    ("outcome", "existing", "expected"),
    [
        (usable(), NOTHING, ["CreateStorageClass", "SetEntry"]),
        (usable(), settled(usable()), []),
        (usable(), settled(usable(), config_entry=None), ["SetEntry"]),
        (usable(), settled(usable(), pvs=PVS), []),
        (usable(OTHER_HOSTS), settled(usable()), ["ReplaceStorageClass", "SetEntry"]),
        (usable(volume_id=OTHER_ID), settled(usable()), ["PatchStorageClass", "SetEntry"]),
        (usable(volume_id=OTHER_ID), settled(usable(), pvs=PVS), []),
        (problem(Reason.INVALID_SPEC), NOTHING, []),
        (problem(Reason.INVALID_SPEC), settled(usable()), ["SetEntry", "DeleteStorageClass"]),
        (problem(Reason.INVALID_SPEC), settled(usable(), pvs=PVS), []),
        (problem(Reason.UNSUPPORTED_VOLUME), settled(usable()), ["SetEntry", "DeleteStorageClass"]),
        (problem(Reason.VOLUME_NOT_FOUND), settled(usable()), ["SetEntry", "DeleteStorageClass"]),
        (problem(Reason.VOLUME_STOPPED), settled(usable()), []),
        (problem(Reason.HOST_UNREACHABLE), settled(usable()), []),
        (problem(Reason.HOST_UNREACHABLE), NOTHING, []),
    ],
)
def test_what_is_done_to_the_cluster(outcome: Usable | Problem, existing: Existing, expected: list[str]) -> None:
    assert on_cluster(plan(resource(), outcome, existing, now=NOW)) == expected


def test_other_mount_options_and_another_overcommit_leave_the_class_in_place() -> None:
    changed = usable({**SPEC, "mountOptions": ["noatime"], "overcommit": 2})
    event, patch, entry = plan(resource(finalizers=(FINALIZER,)), changed, settled(usable()), now=NOW)[:3]
    assert isinstance(event, PostEvent)
    assert event.manifest["message"] == "overcommit: 1.0 -> 2.0; mountOptions: not set -> noatime"
    assert isinstance(patch, PatchStorageClass)
    assert patch.patch["mountOptions"] == ["noatime"]
    assert isinstance(entry, SetEntry)
    assert json.loads(str(entry.text))["overcommit"] == 2.0
    assert on_cluster(plan(resource(), changed, settled(changed), now=NOW)) == []


def test_other_mount_options_alone_are_told_too() -> None:
    changed = usable({**SPEC, "mountOptions": ["noatime", "ro"]})
    event = plan(resource(finalizers=(FINALIZER,)), changed, settled(usable()), now=NOW)[0]
    assert isinstance(event, PostEvent)
    assert event.manifest["message"] == "mountOptions: not set -> noatime, ro"
    stopped = settled(usable(), storage_class=storage_class(changed))
    assert not any(isinstance(a, PostEvent) for a in plan(resource(), changed, stopped, now=NOW)[:1])


def test_what_others_change_on_a_class_at_the_same_moment_is_not_put_back() -> None:
    found = storage_class(usable())
    found["metadata"]["annotations"]["storageclass.kubernetes.io/is-default-class"] = "true"
    changed = usable({**SPEC, "mountOptions": ["noatime"]})
    actions = plan(resource(), changed, settled(usable(), storage_class=found), now=NOW)
    patch = next(action for action in actions if isinstance(action, PatchStorageClass))
    assert "storageclass.kubernetes.io/is-default-class" not in patch.patch["metadata"]["annotations"]


def test_no_storage_class_is_made_for_a_storage_with_any_problem() -> None:
    for reason in Reason:
        assert "CreateStorageClass" not in on_cluster(plan(resource(), problem(reason), NOTHING, now=NOW))


def test_nothing_is_made_before_the_finalizer_that_will_see_it_removed() -> None:
    first = plan(resource(finalizers=("a/b",)), usable(), NOTHING, now=NOW)[0]
    assert first == SetFinalizers(namespace="default", name="ext", version="1", finalizers=("a/b", FINALIZER))
    held = plan(resource(finalizers=(FINALIZER,)), usable(), NOTHING, now=NOW)
    assert not any(isinstance(action, SetFinalizers) for action in held)


def test_the_class_is_made_first_and_removed_last_because_it_is_the_lock_on_the_name() -> None:
    assert on_cluster(plan(resource(), usable(), NOTHING, now=NOW))[0] == "CreateStorageClass"
    assert on_cluster(plan_removal(resource(), settled(usable()), now=NOW)[0])[-1] == "DeleteStorageClass"


def test_what_others_wrote_on_a_class_survives_its_replacement() -> None:
    found = storage_class(usable())
    found["metadata"]["annotations"]["storageclass.kubernetes.io/is-default-class"] = "true"
    existing = settled(usable(), storage_class=found)
    actions = plan(resource(), usable(OTHER_HOSTS), existing, now=NOW)
    replaced = next(action for action in actions if isinstance(action, ReplaceStorageClass))
    assert replaced.manifest["metadata"]["annotations"]["storageclass.kubernetes.io/is-default-class"] == "true"
    assert replaced.manifest["parameters"]["hosts"] == "a,b"
    assert replaced.uid == "class-uid"


def test_under_pvs_the_volume_cannot_become_another_one() -> None:
    actions = plan(resource(), usable(volume_id=OTHER_ID), settled(usable(), pvs=PVS), now=NOW)
    status = next(action.status for action in actions if isinstance(action, PatchStatus))
    ready = status["conditions"][-1]
    assert ready["reason"] == "VolumeChanged"
    for word in (VOLUME_ID, OTHER_ID, "2 PVs", "Put the earlier volume"):
        assert word in ready["message"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"annotations": {"kadalu.external/owner": "second/ext"}}, ["second/ext", "whole cluster"]),
        ({"annotations": {}}, ["did not make"]),
        ({"provisioner": "another.driver"}, ["did not make"]),
    ],
)
def test_a_name_that_somebody_else_has_is_refused(change: dict[str, Any], words: list[str]) -> None:
    found = storage_class(usable())
    found["metadata"] |= {key: value for key, value in change.items() if key == "annotations"}
    found |= {key: value for key, value in change.items() if key != "annotations"}
    accepted = accept(resource(), Existing(storage_class=found))
    assert isinstance(accepted, Problem)
    assert accepted.reason is Reason.NAME_TAKEN
    assert all(word in accepted.details for word in words)
    assert on_cluster(plan(resource(), accepted, Existing(storage_class=found), now=NOW)) == []


def test_the_name_of_an_owner_that_is_gone_may_be_taken_over() -> None:
    existing = settled(usable(), storage_class=storage_class(usable(), owner="gone/ext"), owner_lives=False)
    assert not isinstance(accept(resource(), existing), Problem)
    assert on_cluster(plan(resource(), usable(), existing, now=NOW)) == ["PatchStorageClass"]


def pool_of(*ids: str | None, **fields: Any) -> Usable:
    """Whole volumes of these ids; None: nobody told of that one."""
    names = [f"vol_{n}" for n, _ in enumerate(ids)]
    details = [{"gluster_node": "node1", "gluster_volname": name} for name in names]
    members = tuple(
        Member(volume=name, volume_id=each, size_bytes=GIB, claim=NEVER, problem=None if each else "node1: silent")
        for name, each in zip(names, ids, strict=True)
    )
    spec = parse_spec("ext", {"type": "External", "kadalu-format": False, "details": details, **fields})
    bricks = tuple(replace(each, volume="vol_0") for each in usable().bricks)
    return Usable(spec=spec, volume_id=ids_text(members), geometry=usable().geometry, bricks=bricks, members=members)


def problem_of(outcome: Usable, existing: Existing) -> str | None:
    """The reason of Ready in what is told, if it is not True."""
    (patch,) = (each for each in plan(resource(), outcome, existing, now=NOW) if isinstance(each, PatchStatus))
    ready = next(each for each in patch.status["conditions"] if each["type"] == "Ready")
    return None if ready["status"] == "True" else str(ready["reason"])


def test_a_class_of_whole_volumes_says_so_and_its_claims_do_not_grow() -> None:
    (made,) = (
        each for each in plan(resource(), pool_of("a", "b"), NOTHING, now=NOW) if isinstance(each, CreateStorageClass)
    )
    assert made.manifest["parameters"] == {"storage": "ext", "volumes": "vol_0@node1,vol_1@node1"}
    assert made.manifest["allowVolumeExpansion"] is False
    assert made.manifest["metadata"]["annotations"][render.VOLUME_ID] == "whole:vol_0=a,vol_1=b"


def test_the_entry_of_a_pool_has_each_volumes_id_and_no_other_volume_of_its_name_is_used() -> None:
    (entry,) = (
        each for each in plan(resource(), pool_of(VOLUME_ID, None), NOTHING, now=NOW) if isinstance(each, SetEntry)
    )
    storage = from_json(str(entry.text))
    assert [each.volume_id for each in storage.pool] == [VOLUME_ID, ""]
    one = storage.of_volume("vol_0")
    assert one is not None and one.volume_id == VOLUME_ID


def test_volumes_come_to_a_pool_with_pvs_and_none_goes_from_it() -> None:
    existing = settled(pool_of("a", "b"), pvs=("pvc-1",))
    assert problem_of(pool_of("a", "b", "c"), existing) is None
    assert problem_of(pool_of("a"), existing) == problem_of(pool_of("a", "x"), existing) == "VolumeChanged"
    assert problem_of(usable(volume_id="a"), existing) == "VolumeChanged"
    assert problem_of(pool_of(VOLUME_ID), settled(usable(), pvs=("pvc-1",))) == "VolumeChanged"


def test_a_volume_that_does_not_tell_for_a_while_is_not_taken_for_another() -> None:
    existing = settled(pool_of("a", "b"), pvs=("pvc-1",))
    assert on_cluster(plan(resource(), pool_of("a", None), existing, now=NOW)) == []


def test_a_volume_that_is_another_storages_is_not_had_whole_nor_is_a_whole_one_shared() -> None:
    directories, whole = {"default/other": "a"}, {"default/other": "whole:vol=a,vol_9=z"}
    assert problem_of(pool_of("a", "b"), Existing(others=directories)) == "VolumeShared"
    assert problem_of(pool_of("a", "b"), Existing(others=whole)) == "VolumeShared"
    assert problem_of(usable(volume_id="a"), Existing(others=whole)) == "VolumeShared"
    assert problem_of(usable(volume_id="a"), Existing(others=directories)) is None
    assert problem_of(pool_of("b", None), Existing(others={"default/other": "whole:vol_1="})) is None


def test_the_status_of_a_pool_has_each_volume_and_those_that_cannot_be_taken_by_name() -> None:
    (patch,) = (
        each for each in plan(resource(), pool_of("a", None, "c"), NOTHING, now=NOW) if isinstance(each, PatchStatus)
    )
    status = patch.status
    assert (status["type"], status["volumesFree"], status["capacity"]) == ("Whole volumes", "2/3", "3Gi")
    assert status["volumes"][1]["state"] == "Unusable" and status["bricks"][0]["volume"] == "vol_0"
    told = {each["type"]: (each["status"], each["reason"], each["message"]) for each in status["conditions"]}
    assert told["Supported"][:2] == ("True", "SomeUnusable") and "vol_1: node1: silent" in told["Supported"][2]
    assert told["QuotaEnforced"][:2] == ("Unknown", "WholeVolumes")
    assert told["Ready"][:2] == ("True", "StorageDegraded")
    assert problem_of(pool_of(None), NOTHING) == "BricksDown"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (HostUnreachableError("x"), Reason.HOST_UNREACHABLE),
        (WireError("x"), Reason.UNEXPECTED_ANSWER),
        (NotFoundError("x"), Reason.VOLUME_NOT_FOUND),
        (VolumeStoppedError("x"), Reason.VOLUME_STOPPED),
        (UnsupportedVolumeError("x"), Reason.UNSUPPORTED_VOLUME),
        (KadaluExtError("x"), Reason.UNEXPECTED_ANSWER),
    ],
)
def test_each_error_has_its_reason(error: KadaluExtError, reason: Reason) -> None:
    assert Problem.of(error).reason is reason


@pytest.mark.parametrize(
    ("outcome", "existing", "needed"),
    [
        (usable(), NOTHING, False),
        (usable(), settled(usable()), False),
        (usable(volume_id=OTHER_ID), settled(usable()), True),
        (problem(Reason.INVALID_SPEC), NOTHING, False),
        (problem(Reason.INVALID_SPEC), settled(usable()), True),
        (problem(Reason.HOST_UNREACHABLE), settled(usable()), False),
    ],
)
def test_pvs_are_listed_only_where_they_matter(outcome: Usable | Problem, existing: Existing, needed: bool) -> None:
    assert needs_pvs(resource(), outcome, existing) is needed


def test_a_class_that_was_deleted_by_hand_takes_no_pv_to_another_volume() -> None:
    made = resource(finalizers=(FINALIZER,), status={"volumeId": VOLUME_ID})
    left = settled(usable(), storage_class=None)
    assert needs_pvs(made, usable(volume_id=OTHER_ID), left)
    actions = plan(made, usable(volume_id=OTHER_ID), replace(left, pvs=PVS), now=NOW)
    assert on_cluster(actions) == []
    status = next(action.status for action in actions if isinstance(action, PatchStatus))
    assert status["conditions"][-1]["reason"] == "VolumeChanged"
    assert "volumeId" not in status
    assert on_cluster(plan(made, usable(), replace(left, pvs=PVS), now=NOW)) == ["CreateStorageClass"]


def test_without_its_class_the_entry_of_a_storage_with_pvs_stays_too() -> None:
    left = settled(usable(), storage_class=None)
    assert needs_pvs(resource(), problem(Reason.INVALID_SPEC), left)
    assert on_cluster(plan(resource(), problem(Reason.INVALID_SPEC), replace(left, pvs=PVS), now=NOW)) == []


def test_a_deletion_waits_for_pvs_and_lists_them() -> None:
    many = tuple(f"pvc-{n:02}" for n in range(12))
    actions, done = plan_removal(resource(), settled(usable(), pvs=many), now=NOW)
    event = next(action.manifest for action in actions if isinstance(action, PostEvent))
    assert not done
    assert on_cluster(actions) == []
    assert event["reason"] == "HeldByVolumes"
    assert "12 of its PVs: pvc-00, pvc-01" in event["message"]
    assert "pvc-09 and 2 more" in event["message"]


def test_a_deletion_takes_what_was_made_and_nothing_of_another_storage() -> None:
    actions, done = plan_removal(resource(), settled(usable()), now=NOW)
    assert (on_cluster(actions), done) == (["SetEntry", "DeleteStorageClass"], True)
    assert isinstance(actions[-1], SetFinalizers)
    of_another = replace(settled(usable(), pvs=PVS), storage_class=storage_class(usable(), owner="second/ext"))
    for existing in (of_another, NOTHING):
        actions, done = plan_removal(resource(finalizers=("a/b", FINALIZER)), existing, now=NOW)
        assert done
        assert actions == [SetFinalizers(namespace="default", name="ext", version="1", finalizers=("a/b",))]
