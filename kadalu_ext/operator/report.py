"""What is known of a storage, to its status and its events. Pure.

The status is patched only if something in it changes, and an event is posted only for a condition that changed: a
storage that stays as it is costs the API server nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from kadalu_ext.gluster.clientvolfile import risks
from kadalu_ext.gluster.geometry import Geometry, VolumeKind
from kadalu_ext.gluster.support import USUAL_RESERVE, Reserve
from kadalu_ext.operator import pool, render
from kadalu_ext.operator.actions import Action, BrickSeen, PatchStatus, PostEvent, Problem, Resource, Usable
from kadalu_ext.operator.pvs import Provisioned
from kadalu_ext.operator.reasons import Condition, Reason
from kadalu_ext.storage import Quota, storage_class_name
from kadalu_ext.units import format_quantity

_GOOD: Final = {
    Condition.ACCEPTED: (Reason.VALID, "every field is understood and served"),
    Condition.REACHABLE: (Reason.GLUSTERD_ANSWERS, "a glusterd of the cluster answers"),
    Condition.SUPPORTED: (Reason.VOLUME_USABLE, "sizes can be enforced on this volume"),
    Condition.READY: (Reason.STORAGE_READY, "claims of its StorageClass are served"),
}
_OUTAGES: Final = frozenset({Reason.HOST_UNREACHABLE, Reason.UNEXPECTED_ANSWER, Reason.TLS_MISMATCH})
_TOLD_ONCE: Final = _OUTAGES | {Reason.HELD_BY_VOLUMES, Reason.ENFORCED_WHERE_UP, Reason.BRICK_UNPROVEN}
"""During an outage, which host fails first and in which way may differ each time; PVs of a storage that is being
deleted go one by one: the status has the newest message, and one event is enough."""
_UNKNOWN_TOLD: Final = frozenset({Reason.CANARY_STALE, Reason.BRICK_UNPROVEN})
"""Unknown, and worth an event."""
_WARNINGS: Final = _UNKNOWN_TOLD | {Reason.STORAGE_DEGRADED, Reason.DATA_AT_RISK}
"""Besides all that is False."""
_MEASURED: Final = _UNKNOWN_TOLD | {
    Reason.ENFORCED, Reason.ENFORCED_WHERE_UP, Reason.NOT_ENFORCED, Reason.NO_LIMIT,
}  # fmt: skip
"""What was found by the canary, and stays until it says something else."""
_MEANWHILE: Final = {
    Quota.REQUIRED: "Claims wait until then.",
    Quota.OPTIONAL: "spec.quota is optional: claims are served meanwhile, and pods may write more than these say.",
}
_OF_A_VOLUME: Final = (
    "volume", "volumeId", "type", "brickCount", "bricksOnline", "bricks", "capacity", "overcommit", "storageClass",
    "volumes", "volumesFree",
)  # fmt: skip
Finding = tuple[str, Reason, str]
"""Status, reason and message of a condition."""


def report(
    resource: Resource, outcome: Usable | Problem, *, now: str, provisioned: Provisioned | None = None
) -> list[Action]:
    """An event for every condition that changed, and the patch of the status if anything in it did. now: RFC 3339."""
    before = {item["type"]: item for item in resource.status.get("conditions") or []}
    after = dict(before)
    events: dict[tuple[str, str], bool] = {}
    quota = before.get(Condition.QUOTA_ENFORCED, {}) if _same_bricks(outcome, resource.status) else {}
    for condition, (status, reason, message) in _findings(outcome, quota).items():
        earlier = before.get(condition, {})
        shown = {"type": str(condition), "status": status, "reason": str(reason), "message": render.plain(message)}
        since = earlier.get("lastTransitionTime", now) if earlier.get("status") == status else now
        after[condition] = {**shown, "lastTransitionTime": since}
        if (status != "Unknown" or reason in _UNKNOWN_TOLD) and _is_news(shown, earlier, reason):
            # Ready is False for the reason of the condition that failed: one event tells both
            events[str(reason), message] = status == "False" or reason in _WARNINGS
    status_patch = {
        **_facts(outcome, resource.status, provisioned),
        "ready": _ready(after[Condition.READY]),
        "conditions": [after[condition] for condition in Condition if condition in after],
        "observedGeneration": resource.generation,
    }
    if all(resource.status.get(key) == value for key, value in status_patch.items()):
        return []
    # events first: whoever is stopped between finds the old status, and tells the same event, which is there already
    change = json.dumps([resource.status.get("conditions"), resource.generation], sort_keys=True)
    return [
        *(_event(resource, reason, message, warning, now, change) for (reason, message), warning in events.items()),
        PatchStatus(namespace=resource.namespace, name=resource.name, status=status_patch),
    ]


def _is_news(shown: Mapping[str, str], earlier: Mapping[str, str], reason: Reason) -> bool:
    compared = shown.keys() - {"message"} if reason in _TOLD_ONCE else shown
    return any(earlier.get(key) != shown[key] for key in compared)


def _ready(condition: Mapping[str, str]) -> str:
    """For the column: True, or with a word of why there is something to do."""
    fine = condition["reason"] == Reason.STORAGE_READY
    return condition["status"] if fine else f"{condition['status']}: {condition['reason']}"


def volume_type(geometry: Geometry) -> str:
    """For people: `Brick`, `Replica 3`, `Arbiter 2+1`, `Disperse 4+2`."""
    count, data = len(geometry.bricks), len(geometry.data_carriers)
    if geometry.kind is VolumeKind.DISPERSE:
        return f"Disperse {geometry.data_bricks}+{geometry.redundancy}"
    if geometry.kind is VolumeKind.REPLICATE:
        return f"Replica {count}" if data == count else f"Arbiter {data}+{count - data}"
    return "Brick"


def _same_bricks(outcome: Usable | Problem, status: Mapping[str, Any]) -> bool:
    """Whether what was measured last was measured on every brick that there is now."""
    if isinstance(outcome, Problem) or status.get("volumeId") != outcome.volume_id:
        return False
    known = {(each["host"], each["path"]) for each in status.get("bricks") or []}
    return all((render.plain(each.host), render.plain(each.path)) in known for each in outcome.geometry.bricks)


def _findings(outcome: Usable | Problem, measured: Mapping[str, str]) -> dict[Condition, Finding]:
    """Status, reason and message of each condition that `outcome` says something of. measured: QuotaEnforced, if it was
    of the same bricks.

    What comes after the condition that failed was not looked at. A problem of Ready alone says nothing of the others.
    """
    if isinstance(outcome, Usable):
        good: dict[Condition, Finding] = {condition: ("True", *found) for condition, found in _GOOD.items()}
        wanted, ready = outcome.spec.storage.quota, _bricks_up(outcome)
        quota = _quota(outcome, measured, wanted)
        if quota[0] == "False" and wanted is Quota.REQUIRED and ready[0] == "True":
            ready = quota  # each claim would wait for that brick
        supported = _supported(outcome)
        return good | {Condition.SUPPORTED: supported, Condition.QUOTA_ENFORCED: quota, Condition.READY: ready}
    bad = ("False", outcome.reason, outcome.message)
    if outcome.reason.condition is Condition.READY:
        return {Condition.READY: bad}
    findings: dict[Condition, Finding] = {}
    for condition, fine in _GOOD.items():
        unlooked = outcome.reason.condition in findings
        unknown = ("Unknown", Reason.NOT_CHECKED, Reason.NOT_CHECKED.remedy)
        findings[condition] = bad if condition is outcome.reason.condition else unknown if unlooked else ("True", *fine)
    not_measured = ("Unknown", Reason.NOT_CHECKED, Reason.NOT_CHECKED.remedy)
    return findings | {Condition.QUOTA_ENFORCED: not_measured, Condition.READY: bad}


def _quota(usable: Usable, earlier: Mapping[str, str], wanted: Quota) -> Finding:
    found = usable.enforcement
    if usable.members:
        return "Unknown", Reason.WHOLE_VOLUMES, Reason.WHOLE_VOLUMES.remedy
    if wanted is Quota.NONE:
        return "Unknown", Reason.QUOTA_OFF, Reason.QUOTA_OFF.remedy
    if found is None:
        return "Unknown", Reason.NOT_MEASURED, Reason.NOT_MEASURED.remedy
    if found.status == "False":
        return "False", found.reason, f"{found.message} {_MEANWHILE[wanted]}"
    if found.status is not None:
        return found.status, found.reason, found.message
    if earlier.get("reason") in _MEASURED:
        return earlier["status"], Reason(earlier["reason"]), earlier["message"]
    return "Unknown", Reason.NOT_MEASURED, found.message


def _supported(usable: Usable) -> Finding:
    if (bad := pool.problems(usable.members)) is not None:
        return "True", Reason.SOME_UNUSABLE, f"some volumes cannot be taken: {bad}"
    if risk := _at_the_limit(usable):
        return (
            "True",
            Reason.DATA_AT_RISK,
            "sizes can be enforced on this volume, but files that are written to while their PV is full may become "
            f"{risk}. Expand PVs before they are full, or use replica 3; see docs/troubleshooting.md",
        )
    if usable.members:
        return "True", Reason.VOLUME_USABLE, "every volume can be a PV"
    if usable.reserve in (Reserve(), USUAL_RESERVE):
        return ("True", *_GOOD[Condition.SUPPORTED])
    volume = usable.spec.volume
    return (
        "True",
        Reason.SPACE_RESERVED,
        f"sizes can be enforced on this volume, but storage.reserve keeps {usable.reserve} of each brick free, and no "
        f"claim is promised that: gluster volume set {volume} storage.reserve {USUAL_RESERVE.percent:g} gives it back",
    )


def _at_the_limit(usable: Usable) -> str:
    """What may become of files that are written to while their PV is full; '' if nothing may."""
    if usable.geometry.kind is VolumeKind.DISPERSE:
        taken = ", ".join(map("=".join, risks(usable.spec.storage.options).items()))
        more = f", and with {taken} lose what was fsynced: take that out of gluster_options and mountOptions"
        return f"unreadable (EIO) or wrong without an error{more if taken else ''}"
    if usable.geometry.has_arbiter and not usable.members:  # of whole volumes none has a size below its bricks'
        return "unreadable (ENOTCONN) on a volume with an arbiter, some until they are mended by hand"
    return ""


def _bricks_up(usable: Usable) -> Finding:
    """Ready, of a volume that is as it should be but perhaps for its bricks."""
    bad = pool.problems(usable.members)
    if bad is not None and not usable.takes_writes:
        return "False", Reason.BRICKS_DOWN, f"no volume can be used: {bad}"
    if bad is not None:
        return "True", Reason.STORAGE_DEGRADED, f"claims of its StorageClass are served, but not by all volumes: {bad}"
    if not usable.offline:
        return ("True", *_GOOD[Condition.READY])
    count, names = len(usable.offline), ", ".join(str(seen.brick) for seen in usable.offline)
    volume = usable.spec.volume
    down = f"{count} of {len(usable.bricks)} bricks of volume {volume} {'is' if count == 1 else 'are'} offline: {names}"
    remedy = (
        f"Is the host up? gluster volume status {volume} shows its processes, and gluster volume start {volume} force "
        "starts those that do not run"
    )
    if usable.takes_writes:
        return "True", Reason.STORAGE_DEGRADED, f"claims of its StorageClass are served, but {down}. {remedy}"
    return "False", Reason.BRICKS_DOWN, f"{down}, so it takes no writes. {remedy}"


def _facts(outcome: Usable | Problem, before: Mapping[str, Any], provisioned: Provisioned | None) -> dict[str, Any]:
    promised: dict[str, Any] = {}
    if provisioned is not None:
        promised = {"pvs": provisioned.pvs, "provisioned": format_quantity(provisioned.total_bytes)}
    if isinstance(outcome, Usable):
        return {
            "volume": outcome.spec.volume,
            "volumeId": outcome.volume_id,
            "type": "Whole volumes" if outcome.members else volume_type(outcome.geometry),
            "brickCount": len(outcome.bricks) or len(outcome.geometry.bricks),
            **_volumes(outcome),
            "storageClass": storage_class_name(outcome.spec.storage.name),
            **_bricks(outcome),
            **_capacity(outcome, before, provisioned),
            **promised,
        }
    # during an outage the last known facts are the best there are; otherwise they are of what is no longer asked for
    gone: dict[str, Any] = dict.fromkeys(_OF_A_VOLUME) if outcome.reason.lasting else {}
    if outcome.reason is Reason.VOLUME_CHANGED:
        del gone["volumeId"]  # of the one on which the PVs are
    if outcome.reason.condition in (Condition.REACHABLE, Condition.SUPPORTED) and not gone and before.get("bricks"):
        # nobody was asked whether they are online
        known = [{key: each[key] for key in ("host", "path", "arbiter")} for each in before["bricks"]]
        gone = {"bricks": known, "bricksOnline": f"?/{len(known)}"}
    return gone | promised | ({"volume": outcome.volume} if outcome.volume else {})


def _volumes(usable: Usable) -> dict[str, Any]:
    if not usable.members:
        return {"volumes": None, "volumesFree": None}  # it may have been a storage of whole volumes before
    free = sum(each.free for each in usable.members)
    volumes = [{key: render.plain(text) for key, text in each.status().items()} for each in usable.members]
    return {"volumes": volumes, "volumesFree": f"{free}/{len(usable.members)}"}


def _bricks(usable: Usable) -> dict[str, Any]:
    if not usable.bricks:
        return {"bricks": [_brick(BrickSeen(brick=each, online=True), None) for each in usable.geometry.bricks]}
    online = len(usable.bricks) - len(usable.offline)
    enforcing = usable.enforcement.enforcing if usable.enforcement else {}
    bricks = [_brick(seen, enforcing.get(seen.brick.name)) for seen in usable.bricks]
    return {"bricks": bricks, "bricksOnline": f"{online}/{len(usable.bricks)}"}


def _brick(seen: BrickSeen, enforcing: bool | None) -> dict[str, Any]:
    brick = seen.brick
    shown = {
        "host": render.plain(brick.host),
        "path": render.plain(brick.path),
        "arbiter": brick.arbiter,
        "online": seen.online,
    }
    shown |= {} if seen.volume is None else {"volume": seen.volume}
    shown |= {} if enforcing is None else {"enforcing": enforcing}
    return shown | ({"error": render.plain(seen.error)} if seen.error else {})


def _capacity(usable: Usable, before: Mapping[str, Any], provisioned: Provisioned | None) -> dict[str, Any]:
    """Left as it was while a brick does not tell, lest it grow by an outage of the smallest one."""
    total = usable.capacity_bytes
    if not total or (before.get("capacity") and any(seen.total_bytes is None for seen in usable.bricks)):
        return {}
    shown = {"capacity": format_quantity(total)}
    return shown | ({"overcommit": f"{provisioned.total_bytes / total:.2f}"} if provisioned is not None else {})


def _event(resource: Resource, reason: str, message: str, warning: bool, now: str, change: str) -> PostEvent:
    return PostEvent(
        manifest=render.event(
            namespace=resource.namespace,
            name=resource.name,
            uid=resource.uid,
            warning=warning,
            reason=reason,
            message=message,
            at=now,
            change=change,
        )
    )
