"""What is asked for, what was seen and what is there, to what must be done. Pure.

Who calls goes three steps, so that nobody is asked what does not matter for the answer:

    accept()            the CR alone, and who has its name  → a StorageSpec, or a Problem
    observe.observe()   the gluster volume                  → Usable, or a Problem
    plan()              everything                          → actions, in the order in which they are to be done

A StorageClass is made when its storage is wholly usable. It is the lock on the storage's name: made first, removed
last. docs/adr/0006 says what becomes of it when the storage is no longer usable.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from kadalu_ext.errors import InvalidInputError
from kadalu_ext.operator import pool, render
from kadalu_ext.operator.actions import (
    Action,
    CreateStorageClass,
    DeleteStorageClass,
    Existing,
    PatchStorageClass,
    PostEvent,
    Problem,
    ReplaceStorageClass,
    Resource,
    SetEntry,
    SetFiles,
    SetFinalizers,
    Usable,
)
from kadalu_ext.operator.changes import changes
from kadalu_ext.operator.reasons import Reason
from kadalu_ext.operator.report import report
from kadalu_ext.operator.spec import StorageSpec, parse_spec
from kadalu_ext.storage import PROVISIONER, Encryption, StorageName, storage_class_name, tls_key

_LISTED_PVS: Final = 10
_IMMUTABLE: Final = ("provisioner", "parameters", "reclaimPolicy", "volumeBindingMode")


def accept(resource: Resource, existing: Existing) -> StorageSpec | Problem:
    """What the CR asks for, if that can be served at all."""
    try:
        spec = parse_spec(resource.name, resource.spec)
    except InvalidInputError as error:
        return Problem(reason=Reason.INVALID_SPEC, details=str(error))
    taken = _taken(resource, existing)
    if taken is not None:
        return Problem(reason=Reason.NAME_TAKEN, details=taken, volume=spec.volume)
    return spec


def needs_pvs(resource: Resource, outcome: Usable | Problem, existing: Existing) -> bool:
    """Whether plan() must know the storage's PVs: where what was made for it may have to go, or to point elsewhere."""
    if isinstance(outcome, Problem):
        return outcome.reason.lasting and (existing.storage_class is not None or existing.config_entry is not None)
    earlier = _volume_of_pvs(resource, existing)
    return earlier is not None and pool.merged(outcome.volume_id, earlier) != earlier


def _volume_of_pvs(resource: Resource, existing: Existing) -> str | None:
    """The id of the volume on which PVs are, if there are any; by the status where somebody took the StorageClass."""
    earlier = existing.annotation(render.VOLUME_ID)
    return resource.status.get("volumeId") if earlier is None else earlier


def needs_files(outcome: Usable | Problem, existing: Existing) -> bool:
    """Whether plan() must know the storage's TLS files: where it has some, or may have had."""
    if isinstance(outcome, Usable) and outcome.spec.tls_secret is not None:
        return True
    try:
        return bool(json.loads(existing.config_entry or "{}").get("tls", Encryption.NONE) != Encryption.NONE)
    except (ValueError, AttributeError, RecursionError):
        return True  # somebody else wrote it


def plan(
    resource: Resource,
    outcome: Usable | Problem,
    existing: Existing,
    *,
    now: str,
    files: Mapping[str, bytes] | None = None,
) -> list[Action]:
    """What must be done, in order; nothing if all is as it should be. now: RFC 3339, for what changes.

    files: gluster's three, by their names, with which the volume was seen to be usable; none without TLS.
    """
    if isinstance(outcome, Usable):
        outcome = replace(outcome, volume_id=pool.merged(outcome.volume_id, _volume_of_pvs(resource, existing)))
    outcome = _shared(outcome, existing) or _changed(resource, outcome, existing) or outcome
    told = report(resource, outcome, now=now, provisioned=existing.provisioned)
    if isinstance(outcome, Usable):
        return _ensure(resource, outcome, existing, now, files or {}) + told
    if outcome.reason.lasting and not existing.pvs:
        return _withdraw(resource, existing) + told
    return told


def plan_removal(resource: Resource, existing: Existing, *, now: str) -> tuple[list[Action], bool]:
    """What must be done for a KadaluStorage that is being deleted, and whether it may go after that.

    As long as its PVs are there it stays, and with it all that they need. Nothing on the volume is touched.
    """
    let_go = _finalizers(resource, tuple(each for each in resource.finalizers if each != render.FINALIZER))
    if _taken(resource, existing) is not None:
        return let_go, True
    if existing.pvs:
        count = len(existing.pvs)
        shown = ", ".join(existing.pvs[:_LISTED_PVS]) + (f" and {count - _LISTED_PVS} more" * (count > _LISTED_PVS))
        held = Problem(reason=Reason.HELD_BY_VOLUMES, details=f"its deletion waits for {count} of its PVs: {shown}")
        return report(resource, held, now=now), False
    return _withdraw(resource, existing) + let_go, True


def _taken(resource: Resource, existing: Existing) -> str | None:
    if existing.storage_class is None:
        return None
    owner = existing.annotation(render.OWNER)
    name = storage_class_name(StorageName(resource.name))
    if owner is None or existing.storage_class.get("provisioner") != PROVISIONER:
        return f"metadata.name: there is a StorageClass {name} that this operator did not make"
    if owner != resource.owner and existing.owner_lives:
        return (
            f"metadata.name: StorageClass {name} belongs to the KadaluStorage {owner}, and a storage's name must be "
            "the only one in the whole cluster"
        )
    return None


def _changed(resource: Resource, outcome: Usable | Problem, existing: Existing) -> Problem | None:
    """Under PVs the volume stays what it is, or they would all at once be somewhere else."""
    earlier = _volume_of_pvs(resource, existing)
    if isinstance(outcome, Problem) or not existing.pvs or earlier is None or pool.keeps(outcome.volume_id, earlier):
        return None
    spec = outcome.spec
    return Problem(
        reason=Reason.VOLUME_CHANGED,
        details=(
            f"volume {spec.volume} of {', '.join(spec.hosts)} has the id {outcome.volume_id}, but the "
            f"{len(existing.pvs)} PVs of this storage are on the volume with the id {earlier}"
        ),
        volume=spec.volume,
    )


def _shared(outcome: Usable | Problem, existing: Existing) -> Problem | None:
    """A volume that is one PV, whole, is nobody else's."""
    if isinstance(outcome, Problem):
        return None
    for other, text in existing.others.items():
        if ids := pool.shared(outcome.volume_id, text):
            return Problem(
                reason=Reason.VOLUME_SHARED,
                details=(
                    f"the volume with the id {min(ids)} is the KadaluStorage {other}'s, and one of the two has whole "
                    "volumes as PVs, with nothing else on them"
                ),
                volume=outcome.spec.volume,
            )
    return None


def _ensure(
    resource: Resource, usable: Usable, existing: Existing, now: str, files: Mapping[str, bytes]
) -> list[Action]:
    wanted = render.storage_class(usable.spec, owner=resource.owner, volume_id=usable.volume_id)
    actions: list[Action] = []
    if render.FINALIZER not in resource.finalizers:
        actions += _finalizers(resource, (*resource.finalizers, render.FINALIZER))
    entry = render.config_entry(usable.spec, volume_id=usable.volume_id)
    actions += _told(resource, existing, entry, wanted["mountOptions"], now)
    actions += _ensure_class(wanted, existing.storage_class)
    # before the entry that tells clients of them
    actions += _set_files(existing, {tls_key(usable.spec.storage.name, file): text for file, text in files.items()})
    if existing.config_entry != entry:
        actions.append(SetEntry(key=render.config_key(usable.spec.storage.name), text=entry))
    return actions


def _set_files(existing: Existing, wanted: Mapping[str, bytes]) -> list[Action]:
    if existing.files == wanted:
        return []
    return [SetFiles(files={**dict.fromkeys(existing.files), **wanted})]


def _told(resource: Resource, existing: Existing, entry: str, options: list[str], now: str) -> list[Action]:
    """What is about to be changed of a storage that was there, in one event."""
    if existing.storage_class is None:
        return []
    said, change = [], f"{resource.generation} {existing.config_entry} {entry}"
    if existing.config_entry not in (None, entry):
        said.append(changes(str(existing.config_entry), entry))
    earlier = existing.storage_class.get("mountOptions") or []
    if earlier != options:
        said.append(f"mountOptions: {', '.join(earlier) or 'not set'} -> {', '.join(options) or 'not set'}")
        # one event for both: stopped after the class was changed, it would be told of the entry once more
        change += f" {earlier} {options}" if len(said) == 1 else ""
    if not said:
        return []
    manifest = render.event(
        namespace=resource.namespace,
        name=resource.name,
        uid=resource.uid,
        warning=False,
        reason=Reason.STORAGE_CHANGED,
        message="; ".join(said),
        at=now,
        change=change,
    )
    return [PostEvent(manifest=manifest)]


def _finalizers(resource: Resource, wanted: tuple[str, ...]) -> list[Action]:
    """It is made before anything that must not be left behind, and goes after all of it."""
    return [
        SetFinalizers(namespace=resource.namespace, name=resource.name, version=resource.version, finalizers=wanted)
    ]


def _ensure_class(wanted: render.Manifest, found: Mapping[str, Any] | None) -> list[Action]:
    if found is None:
        return [CreateStorageClass(manifest=wanted)]
    metadata = {
        key: {**(found["metadata"].get(key) or {}), **wanted["metadata"][key]} for key in ("labels", "annotations")
    }  # what others wrote there stays: is-default-class, for one
    if any(found.get(key) != wanted[key] for key in _IMMUTABLE):
        manifest = {**wanted, "metadata": {**wanted["metadata"], **metadata}}
        return [ReplaceStorageClass(uid=found["metadata"]["uid"], manifest=manifest)]
    changeable = {key: wanted[key] for key in ("allowVolumeExpansion", "mountOptions")}
    same = all((found.get(key) or type(value)()) == value for key, value in changeable.items())
    if same and all(found["metadata"].get(key) == value for key, value in metadata.items()):
        return []
    # only our own: what others change there at this moment is not put back
    patch = {"metadata": {key: wanted["metadata"][key] for key in metadata}, **changeable}
    return [PatchStorageClass(name=wanted["metadata"]["name"], patch=patch)]


def _withdraw(resource: Resource, existing: Existing) -> list[Action]:
    """All that was made for the storage; what is another's stays."""
    if _taken(resource, existing) is not None:
        return []
    actions = _set_files(existing, {})  # first: whether there are any, the entry tells
    if existing.config_entry is not None:
        actions.append(SetEntry(key=render.config_key(StorageName(resource.name)), text=None))
    if existing.storage_class is not None:
        metadata = existing.storage_class["metadata"]
        actions.append(DeleteStorageClass(name=metadata["name"], uid=metadata["uid"]))
    return actions
