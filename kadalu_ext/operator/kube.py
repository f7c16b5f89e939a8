"""The Kubernetes API, as far as the operator needs it. I/O; every call is bounded, and safe to do again."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final

import urllib3
from kubernetes import client

from kadalu_ext.errors import ConflictError, KubernetesError
from kadalu_ext.operator.actions import (
    Action,
    CreateStorageClass,
    DeleteStorageClass,
    Existing,
    PatchStatus,
    PatchStorageClass,
    PostEvent,
    ReplaceStorageClass,
    Resource,
    SetEntry,
)
from kadalu_ext.operator.render import OWNER, config_key
from kadalu_ext.storage import CONFIG_MAP, PROVISIONER, StorageName, storage_class_name

GROUP: Final = "kadalu-operator.storage"
VERSION: Final = "v1alpha1"
PLURAL: Final = "kadalustorages"

_STORAGE: Final = ("storage.k8s.io", "v1", "storageclasses")
_MERGE: Final = {"_content_type": "application/merge-patch+json"}
_TIMEOUT: Final = {"_request_timeout": (3.0, 20.0)}
"""Seconds to connect, and to answer."""


class Kube:
    """The API server with what a client of `api` may do. `namespace`: where the project is installed. Thread-safe.

    Every method raises KubernetesError if the API server refuses or does not answer.
    """

    def __init__(self, api: client.ApiClient, *, namespace: str) -> None:
        self._namespace = namespace
        self._core = client.CoreV1Api(api)
        self._objects = client.CustomObjectsApi(api)

    def serves_our_kind(self) -> bool:
        """Whether the CustomResourceDefinition is there."""
        found = _call("read the API group", self._objects.get_api_resources, GROUP, VERSION, missing=None)
        return found is not None

    def resource(self, namespace: str, name: str) -> Resource | None:
        """The KadaluStorage; None if there is none."""
        found = _call(
            f"read KadaluStorage {namespace}/{name}",
            self._objects.get_namespaced_custom_object,
            GROUP, VERSION, namespace, PLURAL, name,
            missing=None,
        )  # fmt: skip
        if found is None:
            return None
        return Resource(
            namespace=namespace,
            name=name,
            uid=found["metadata"]["uid"],
            generation=found["metadata"].get("generation", 0),
            spec=found.get("spec"),
            status=found.get("status") or {},
            deleting=found["metadata"].get("deletionTimestamp") is not None,
        )

    def existing(self, resource: Resource) -> Existing:
        """What is there under the storage's name, but for its PVs."""
        name = StorageName(resource.name)
        config = _call(
            f"read ConfigMap {CONFIG_MAP}",
            self._core.read_namespaced_config_map, CONFIG_MAP, self._namespace,
            missing=None,
        )  # fmt: skip
        existing = Existing(
            storage_class=_call(
                f"read StorageClass {storage_class_name(name)}",
                self._objects.get_cluster_custom_object, *_STORAGE, storage_class_name(name),
                missing=None,
            ),
            config_entry=None if config is None else (config.data or {}).get(config_key(name)),
        )  # fmt: skip
        owner = existing.annotation(OWNER)
        if owner in (None, resource.owner):
            return existing
        lives = self.resource(*owner.split("/", 1)) is not None if "/" in owner else False
        return Existing(storage_class=existing.storage_class, config_entry=existing.config_entry, owner_lives=lives)

    def pvs_of(self, name: str) -> tuple[str, ...]:
        """The names of all PVs of the storage, sorted; read anew, not from any cache."""
        # as JSON: the client's own objects take a hundred times as long
        answer = _call("list PVs", self._core.list_persistent_volume, _preload_content=False)
        found = []
        for item in json.loads(answer.data)["items"]:
            csi = item["spec"].get("csi") or {}
            if csi.get("driver") == PROVISIONER and str(csi.get("volumeHandle")).startswith(f"{name}/"):
                found.append(item["metadata"]["name"])
        return tuple(sorted(found))

    def apply(self, action: Action) -> None:
        """Does one thing.

        Raises: ConflictError if another was there first: look again, and plan anew.
        """
        match action:
            case CreateStorageClass(manifest=manifest):
                self._create_class(dict(manifest))
            case ReplaceStorageClass(uid=uid, manifest=manifest):
                self._delete_class(manifest["metadata"]["name"], uid)
                self._create_class(dict(manifest))
            case PatchStorageClass(name=name, patch=patch):
                _call(
                    f"patch StorageClass {name}",
                    self._objects.patch_cluster_custom_object, *_STORAGE, name, dict(patch), **_MERGE,
                )  # fmt: skip
            case DeleteStorageClass(name=name, uid=uid):
                self._delete_class(name, uid)
            case SetEntry(key=key, text=text):
                self._set_entry(key, text)
            case PatchStatus(namespace=namespace, name=name, status=status):
                _call(
                    f"write the status of KadaluStorage {namespace}/{name}",
                    self._objects.patch_namespaced_custom_object_status,
                    GROUP, VERSION, namespace, PLURAL, name, {"status": dict(status)},
                    missing=None, **_MERGE,
                )  # fmt: skip
            case PostEvent(manifest=manifest):
                namespace = manifest["metadata"]["namespace"]
                _call("post an event", self._core.create_namespaced_event, namespace, dict(manifest), missing=None)

    def _create_class(self, manifest: dict[str, Any]) -> None:
        name = manifest["metadata"]["name"]
        _call(f"create StorageClass {name}", self._objects.create_cluster_custom_object, *_STORAGE, manifest)

    def _delete_class(self, name: str, uid: str) -> None:
        body = {"preconditions": {"uid": uid}}
        delete = self._objects.delete_cluster_custom_object
        _call(f"delete StorageClass {name}", delete, *_STORAGE, name, body=body, missing=None)

    def _set_entry(self, key: str, text: str | None) -> None:
        # a merge patch of one key: the entries of other storages are never written
        what, patch = f"write {key} in ConfigMap {CONFIG_MAP}", self._core.patch_namespaced_config_map
        if _call(what, patch, CONFIG_MAP, self._namespace, {"data": {key: text}}, missing=None, **_MERGE) is None:
            if text is None:
                return
            config_map = {"metadata": {"name": CONFIG_MAP}, "data": {key: text}}
            _call(what, self._core.create_namespaced_config_map, self._namespace, config_map)


_REQUIRED: Final = object()


def _call(what: str, function: Callable[..., Any], *args: Any, missing: Any = _REQUIRED, **options: Any) -> Any:
    """What the API server answers; `missing`, if given, where it says 404.

    Raises: ConflictError for 409; KubernetesError for everything else.
    """
    try:
        return function(*args, **_TIMEOUT, **options)
    except client.ApiException as error:
        if error.status == 404 and missing is not _REQUIRED:
            return missing
        message = f"the Kubernetes API refused to {what}: {error.status} {_reason(error)}"
        raise (ConflictError if error.status == 409 else KubernetesError)(message) from error
    except (urllib3.exceptions.HTTPError, OSError) as error:
        raise KubernetesError(f"the Kubernetes API did not {what}: {error.__class__.__name__}") from error


def _reason(error: client.ApiException) -> str:
    """The server's own sentence, without headers and JSON around it."""
    try:
        return str(json.loads(error.body or "")["message"])
    except (ValueError, TypeError, KeyError):
        return str(error.reason)
