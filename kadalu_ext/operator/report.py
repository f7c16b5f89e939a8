"""What is known of a storage, to its status and its events. Pure.

The status is patched only if something in it changes, and an event is posted only for a condition that changed: a
storage that stays as it is costs the API server nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from kadalu_ext.gluster.geometry import Geometry, VolumeKind
from kadalu_ext.operator import render
from kadalu_ext.operator.actions import Action, PatchStatus, PostEvent, Problem, Resource, Usable
from kadalu_ext.operator.reasons import Condition, Reason
from kadalu_ext.storage import storage_class_name

_GOOD: Final = {
    Condition.ACCEPTED: (Reason.VALID, "every field is understood and served"),
    Condition.REACHABLE: (Reason.GLUSTERD_ANSWERS, "a glusterd of the cluster answers"),
    Condition.SUPPORTED: (Reason.VOLUME_USABLE, "sizes can be enforced on this volume"),
    Condition.READY: (Reason.STORAGE_READY, "claims of its StorageClass are served"),
}
_OUTAGES: Final = frozenset({Reason.HOST_UNREACHABLE, Reason.UNEXPECTED_ANSWER})
_OF_A_VOLUME: Final = ("volume", "volumeId", "type", "brickCount", "bricks", "storageClass")


def report(resource: Resource, outcome: Usable | Problem, *, now: str) -> list[Action]:
    """The patch of the status, if it changes, and an event for every condition that did. now: RFC 3339."""
    before = {item["type"]: item for item in resource.status.get("conditions") or []}
    after = dict(before)
    events: dict[tuple[str, str], bool] = {}
    for condition, (status, reason, message) in _findings(outcome).items():
        earlier = before.get(condition, {})
        shown = {"type": str(condition), "status": status, "reason": str(reason), "message": message}
        since = earlier.get("lastTransitionTime", now) if earlier.get("status") == status else now
        after[condition] = {**shown, "lastTransitionTime": since}
        if status != "Unknown" and _is_news(shown, earlier, reason):
            # Ready is False for the reason of the condition that failed: one event tells both
            events[str(reason), message] = status == "False"
    status_patch = {
        **_facts(outcome),
        "conditions": [after[condition] for condition in Condition if condition in after],
        "observedGeneration": resource.generation,
    }
    if all(resource.status.get(key) == value for key, value in status_patch.items()):
        return []
    return [
        PatchStatus(namespace=resource.namespace, name=resource.name, status=status_patch),
        *(_event(resource, reason, message, warning, now) for (reason, message), warning in events.items()),
    ]


def _is_news(shown: Mapping[str, str], earlier: Mapping[str, str], reason: Reason) -> bool:
    """During an outage, which host fails first and in which way may differ each time: that is told by status alone."""
    compared = shown.keys() - {"message"} if reason in _OUTAGES else shown
    return any(earlier.get(key) != shown[key] for key in compared)


def volume_type(geometry: Geometry) -> str:
    """For people: `Brick`, `Replica 3`, `Arbiter 2+1`, `Disperse 4+2`."""
    count, data = len(geometry.bricks), len(geometry.data_carriers)
    if geometry.kind is VolumeKind.DISPERSE:
        return f"Disperse {geometry.data_bricks}+{geometry.redundancy}"
    if geometry.kind is VolumeKind.REPLICATE:
        return f"Replica {count}" if data == count else f"Arbiter {data}+{count - data}"
    return "Brick"


def _findings(outcome: Usable | Problem) -> dict[Condition, tuple[str, Reason, str]]:
    """Status, reason and message of each condition that `outcome` says something of.

    What comes after the condition that failed was not looked at. A problem of Ready alone says nothing of the others.
    """
    not_measured = {Condition.QUOTA_ENFORCED: ("Unknown", Reason.NOT_MEASURED, Reason.NOT_MEASURED.remedy)}
    if isinstance(outcome, Usable):
        return {condition: ("True", *good) for condition, good in _GOOD.items()} | not_measured
    bad = ("False", outcome.reason, outcome.message)
    if outcome.reason.condition is Condition.READY:
        return {Condition.READY: bad}
    findings: dict[Condition, tuple[str, Reason, str]] = {}
    for condition, good in _GOOD.items():
        unlooked = outcome.reason.condition in findings
        unknown = ("Unknown", Reason.NOT_CHECKED, Reason.NOT_CHECKED.remedy)
        findings[condition] = bad if condition is outcome.reason.condition else unknown if unlooked else ("True", *good)
    return findings | not_measured | {Condition.READY: bad}


def _facts(outcome: Usable | Problem) -> dict[str, Any]:
    if isinstance(outcome, Usable):
        bricks = outcome.geometry.bricks
        return {
            "volume": outcome.spec.storage.volume,
            "volumeId": outcome.volume_id,
            "type": volume_type(outcome.geometry),
            "brickCount": len(bricks),
            "bricks": [{"host": brick.host, "path": brick.path, "arbiter": brick.arbiter} for brick in bricks],
            "storageClass": storage_class_name(outcome.spec.storage.name),
        }
    # during an outage the last known facts are the best there are; otherwise they are of what is no longer asked for
    gone = dict.fromkeys(_OF_A_VOLUME) if outcome.reason.lasting else {}
    return gone | ({"volume": outcome.volume} if outcome.volume else {})


def _event(resource: Resource, reason: str, message: str, warning: bool, now: str) -> PostEvent:
    return PostEvent(
        manifest=render.event(
            namespace=resource.namespace,
            name=resource.name,
            uid=resource.uid,
            warning=warning,
            reason=reason,
            message=message,
            at=now,
        )
    )
