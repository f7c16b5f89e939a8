"""What the operator's tests are about: a storage, its volume, and a cluster that does as the API server does."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from kadalu_ext.errors import ConflictError, InvalidInputError, KadaluExtError, NotFoundError
from kadalu_ext.gluster.geometry import Brick, Geometry, VolumeKind
from kadalu_ext.gluster.tls import CA, CERTIFICATE, KEY, Tls
from kadalu_ext.operator import actions, render
from kadalu_ext.operator.actions import Action, BrickSeen, Existing, Problem, Resource, Usable
from kadalu_ext.operator.secrets import KEYS
from kadalu_ext.operator.spec import StorageSpec, parse_spec
from kadalu_ext.storage import StorageName, storage_class_name
from kadalu_ext.units import GIB

NOW: Final = "2030-01-01T00:00:00Z"
LATER: Final = "2030-01-01T00:01:00Z"
VOLUME_ID: Final = "0b4d2a3e-3a0f-4f0c-9a52-2b6f3c1d4e5f"
OTHER_ID: Final = "7f9c8d6e-1111-4222-8333-444455556666"

SPEC: Final[Mapping[str, Any]] = {
    "type": "External",
    "details": [{"gluster_node": "node1", "gluster_volname": "exported", "Gluster_options": "log_level=DEBUG"}],
}
REPLICA: Final = Geometry(
    kind=VolumeKind.REPLICATE,
    bricks=tuple(Brick(name=f"v-client-{n}", host=f"node{n + 1}", path="/bricks/v") for n in range(3)),
)


def resource(spec: object = SPEC, *, name: str = "ext", namespace: str = "default", **fields: Any) -> Resource:
    return Resource(
        namespace=namespace, name=name, uid=f"uid-{namespace}", generation=1, spec=spec, version="1",
        **{"status": {}, **fields},
    )  # fmt: skip


def usable(spec: object = SPEC, *, name: str = "ext", volume_id: str = VOLUME_ID, offline: int = 0) -> Usable:
    """A replica 3 volume; the last `offline` of its bricks are."""
    bricks = tuple(
        BrickSeen(brick=brick, online=False, error=f"brick {brick}: gone")
        if number >= len(REPLICA.bricks) - offline
        else BrickSeen(brick=brick, online=True, total_bytes=8 * GIB, free_bytes=GIB)
        for number, brick in enumerate(REPLICA.bricks)
    )
    return Usable(spec=parse_spec(name, spec), volume_id=volume_id, geometry=REPLICA, bricks=bricks)


def storage_class(of: Usable, *, owner: str = "default/ext") -> dict[str, Any]:
    """A StorageClass as the API server would give it back."""
    made = copy.deepcopy(dict(render.storage_class(of.spec, owner=owner, volume_id=of.volume_id)))
    made["metadata"]["uid"] = "class-uid"
    return made


def settled(of: Usable, **fields: Any) -> Existing:
    """All that the operator makes of a usable storage."""
    return Existing(
        **{
            "storage_class": storage_class(of),
            "config_entry": render.config_entry(of.spec, volume_id=of.volume_id),
            **fields,
        },
    )


class FakeCluster:
    """The API server, as far as kube.Kube goes. Not what is under test."""

    def __init__(self, *resources: Resource) -> None:
        self.resources = {(each.namespace, each.name): each for each in resources}
        self.classes: dict[str, dict[str, Any]] = {}
        self.entries: dict[str, str] = {}
        self.events: dict[str, tuple[str, str]] = {}
        """Reason and message, by the event's name."""
        self.pvs: tuple[str, ...] = ()
        self.secrets: dict[str, dict[str, bytes]] = {}
        """Data, by namespace and name with a slash."""
        self.secret_of_files: dict[str, bytes] = {}
        self.spoken: Tls | None = None
        self.applied: list[Action] = []
        self.volume: Usable | Problem = usable()
        self.asked = 0
        self.applies_left = 1000
        """After so many actions the operator is killed."""
        self.refused: dict[type[Action], KadaluExtError] = {}

    def observe(self, spec: StorageSpec, tls: Tls | None) -> Usable | Problem:
        self.asked += 1
        self.spoken = tls
        return replace(self.volume, spec=spec) if isinstance(self.volume, Usable) else self.volume

    def resource(self, namespace: str, name: str) -> Resource | None:
        return self.resources.get((namespace, name))

    def existing(self, resource: Resource) -> Existing:
        found = self.classes.get(storage_class_name(StorageName(resource.name)))
        owner = Existing(storage_class=found).annotation(render.OWNER)
        return Existing(
            storage_class=found,
            config_entry=self.entries.get(f"{resource.name}.json"),
            owner_lives=owner is None or tuple(owner.split("/")) in self.resources,
        )

    def tls(self, namespace: str, spec: StorageSpec) -> Tls | None:
        if spec.tls_secret is None:
            return None
        where = f"{namespace}/{spec.tls_secret}"
        if where not in self.secrets:
            raise NotFoundError(f"there is no Secret {where}")
        data = {file: self.secrets[where].get(key, b"").decode() for file, key in KEYS.items()}
        if not all(data.values()):
            raise InvalidInputError(f"Secret {where}: a key is missing")
        return Tls(certificate=data[CERTIFICATE], key=data[KEY], ca=data[CA])

    def files(self, name: str) -> dict[str, bytes]:
        return {key: text for key, text in self.secret_of_files.items() if key.rpartition(".")[0] == name}

    def pvs_of(self, name: str) -> tuple[str, ...]:
        return self.pvs

    def apply(self, action: Action) -> None:
        if self.applies_left == 0:
            raise SystemExit
        if type(action) in self.refused:
            raise self.refused[type(action)]
        self.applies_left -= 1
        self.applied.append(action)
        match action:
            case actions.CreateStorageClass(manifest=manifest):
                self._create(manifest)
            case actions.ReplaceStorageClass(manifest=manifest):
                del self.classes[manifest["metadata"]["name"]]
                self._create(manifest)
            case actions.PatchStorageClass(name=name, patch=patch):
                metadata = self.classes[name]["metadata"]
                metadata |= {key: {**metadata[key], **value} for key, value in patch["metadata"].items()}
            case actions.DeleteStorageClass(name=name):
                del self.classes[name]
            case actions.SetEntry(key=key, text=None):
                del self.entries[key]
            case actions.SetEntry(key=key, text=text):
                self.entries[key] = str(text)
            case actions.SetFiles(files=files):
                kept = {**self.secret_of_files, **files}
                self.secret_of_files = {key: text for key, text in kept.items() if text is not None}
            case actions.PatchStatus(namespace=namespace, name=name, status=status):
                old = self.resources[namespace, name]
                merged = {key: value for key, value in {**old.status, **status}.items() if value is not None}
                self.resources[namespace, name] = replace(old, status=merged)
            case actions.SetFinalizers(namespace=namespace, name=name, finalizers=finalizers):
                self._set_finalizers(namespace, name, finalizers)
            case actions.PostEvent(manifest=manifest):
                self.events.setdefault(manifest["metadata"]["name"], (manifest["reason"], manifest["message"]))

    def _set_finalizers(self, namespace: str, name: str, finalizers: tuple[str, ...]) -> None:
        old = self.resources[namespace, name]
        self.resources[namespace, name] = replace(old, finalizers=finalizers)
        if old.deleting and not finalizers:
            del self.resources[namespace, name]

    def delete(self, namespace: str, name: str) -> None:
        """As kubectl does: it goes when nothing holds it any more."""
        old = self.resources[namespace, name]
        self.resources[namespace, name] = replace(old, deleting=True)
        if not old.finalizers:
            del self.resources[namespace, name]

    def _create(self, manifest: render.Manifest) -> None:
        name = manifest["metadata"]["name"]
        if name in self.classes:
            raise ConflictError(name)
        self.classes[name] = copy.deepcopy(dict(manifest))
        self.classes[name]["metadata"]["uid"] = f"class-{len(self.applied)}"
