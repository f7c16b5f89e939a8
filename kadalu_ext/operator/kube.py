"""The Kubernetes API, as far as the operator needs it. I/O; every call is bounded, and safe to do again."""

from __future__ import annotations

import base64
import json
import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final

import urllib3
from kubernetes import client

from kadalu_ext.errors import BusyError, ConflictError, GoneError, KubernetesError, NotFoundError
from kadalu_ext.gluster.tls import CA, CERTIFICATE, KEY, Tls
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
    SetFiles,
    SetFinalizers,
)
from kadalu_ext.operator.following import Seen
from kadalu_ext.operator.lease import LeaseState
from kadalu_ext.operator.pvs import pv_of
from kadalu_ext.operator.render import FINALIZER, LABELS, OWNER, VOLUME_ID, config_key
from kadalu_ext.operator.secrets import tls_of
from kadalu_ext.operator.spec import StorageSpec
from kadalu_ext.storage import CONFIG_MAP, TLS_FILES, Encryption, StorageName, storage_class_name, tls_key

GROUP: Final = "kadalu-operator.storage"
VERSION: Final = "v1alpha1"
PLURAL: Final = "kadalustorages"

_STORAGE: Final = ("storage.k8s.io", "v1", "storageclasses")
_MERGE: Final = {"_content_type": "application/merge-patch+json"}
_TIMEOUT: Final = {"_request_timeout": (3.0, 20.0)}
"""Seconds to connect, and to answer."""
_WATCH_S: Final = 60
"""A watch ends after so long, and the next one goes on: one whose connection is dead is found out by that."""
_PAGE: Final = 500
_RETRY_AFTER_S: Final = (1.0, 600.0)
"""After a 429 without Retry-After, and at most: nobody means an hour."""
_LEASE: Final = ("coordination.k8s.io", "v1")
LEASE: Final = "kadalu-ext-operator"
_LEASE_TIMEOUT: Final = {"_request_timeout": 2.0}
"""So short that a leader who cannot renew knows it before another one may begin."""


class Kube:
    """The API server with what a client of `api` may do. `namespace`: where the project is installed. Thread-safe.

    Every method raises KubernetesError if the API server refuses or does not answer; BusyError, one of these, if it
    said when to come again.
    """

    def __init__(self, api: client.ApiClient, *, namespace: str) -> None:
        # its lines of DEBUG have whole answers in them, and some answers are Secrets
        logging.getLogger("kubernetes.client.rest").setLevel(logging.INFO)
        self._namespace = namespace
        self._core = client.CoreV1Api(api)
        self._objects = client.CustomObjectsApi(api)

    def no_kind(self) -> str:
        """Why no KadaluStorage can be served: its CustomResourceDefinition is not there, or not ours; '' if it is."""
        found = _call("read the API group", self._objects.get_api_resources, GROUP, VERSION, missing=None)
        served = set() if found is None else {resource.name for resource in found.resources}
        if PLURAL not in served:
            return f"the API server knows no {PLURAL}.{GROUP}: kubectl apply -k manifests/"
        if f"{PLURAL}/status" not in served:
            return (
                f"the CustomResourceDefinition {PLURAL}.{GROUP} is Kadalu's, under which storages have no status: "
                "kubectl apply -f manifests/crd.yaml replaces it, and Kadalu's own storages stay as they are"
            )
        return ""

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
            finalizers=tuple(found["metadata"].get("finalizers") or ()),
            version=found["metadata"]["resourceVersion"],
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
        existing = replace(existing, others=self._others(existing.storage_class, storage_class_name(name)))
        owner = existing.annotation(OWNER)
        if owner in (None, resource.owner):
            return existing
        lives = self.resource(*owner.split("/", 1)) is not None if "/" in owner else False
        return replace(existing, owner_lives=lives)

    def _others(self, own: Mapping[str, Any] | None, name: str) -> dict[str, str]:
        """The volumes' ids of other storages, by their owners: of those whose StorageClass is older than `own`."""
        selector = ",".join(f"{key}={value}" for key, value in LABELS.items())
        listing = self._objects.list_cluster_custom_object
        found = _call("list StorageClasses", listing, *_STORAGE, label_selector=selector)
        others = {}
        for each in found["items"]:
            metadata = each["metadata"]
            annotations = metadata.get("annotations") or {}
            before = own is None or _age(metadata) < _age(own["metadata"])
            if metadata["name"] != name and before and {OWNER, VOLUME_ID} <= annotations.keys():
                others[annotations[OWNER]] = annotations[VOLUME_ID]
        return others

    def pvs_of(self, name: str) -> tuple[str, ...]:
        """The names of all PVs of the storage, sorted; read anew, not from any cache."""
        objects, _version = self.pvs.listed()
        found = [pv for pv in map(pv_of, objects) if pv is not None]
        return tuple(sorted(pv.name for pv in found if pv.storage == name))

    def tls(self, namespace: str, spec: StorageSpec) -> Tls | None:
        """What the cluster of a KadaluStorage in `namespace` is spoken to with, by the Secret it names; None: plainly.

        Raises: NotFoundError if there is no such Secret; InvalidInputError if it is of no use.
        """
        if spec.tls_secret is None:
            return None
        data = self._secret(namespace, spec.tls_secret)
        where = f"{namespace}/{spec.tls_secret}"
        if data is None:
            raise NotFoundError(f"spec.tls.secretName: there is no Secret {where}")
        return tls_of(data, where=where, management=spec.storage.tls is Encryption.ALL)

    def files(self, name: str) -> Mapping[str, bytes]:
        """What the Secret TLS_FILES has of a storage, by its keys there."""
        keys = {tls_key(StorageName(name), file) for file in (CERTIFICATE, KEY, CA)}
        return {key: text for key, text in (self._secret(self._namespace, TLS_FILES) or {}).items() if key in keys}

    def _secret(self, namespace: str, name: str) -> dict[str, bytes] | None:
        what = f"read Secret {namespace}/{name}"
        found = _call(what, self._core.read_namespaced_secret, name, namespace, missing=None)
        return None if found is None else {key: base64.b64decode(text) for key, text in (found.data or {}).items()}

    @property
    def pvs(self) -> Kind:
        """All PersistentVolumes, to be followed."""
        return Kind(what="persistentvolumes", _list=self._core.list_persistent_volume, _args=())

    def storages(self, namespace: str | None) -> Kind:
        """The KadaluStorages of a namespace, or of all, to be followed."""
        if namespace is None:
            objects = self._objects.list_cluster_custom_object
            return Kind(what=PLURAL, _list=objects, _args=(GROUP, VERSION, PLURAL))
        listing = self._objects.list_namespaced_custom_object
        return Kind(what=f"{PLURAL} of {namespace}", _list=listing, _args=(GROUP, VERSION, namespace, PLURAL))

    def lease(self) -> LeaseState:
        """The operators' Lease."""
        found = _call(
            f"read Lease {LEASE}",
            self._objects.get_namespaced_custom_object, *_LEASE, self._namespace, "leases", LEASE,
            missing=None, **_LEASE_TIMEOUT,
        )  # fmt: skip
        spec = (found or {}).get("spec") or {}
        return LeaseState(
            version=None if found is None else found["metadata"]["resourceVersion"],
            holder=spec.get("holderIdentity") or "",
            renewed=spec.get("renewTime") or "",
        )

    def write_lease(self, seen: LeaseState, *, holder: str, duration_s: int) -> None:
        """Writes the Lease if it still is as `seen`. Raises: ConflictError if it is not."""
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        spec: dict[str, Any] = {"holderIdentity": holder, "leaseDurationSeconds": duration_s, "renewTime": now}
        if seen.holder != holder:
            spec["acquireTime"] = now
        if seen.version is None:
            lease = {"apiVersion": "/".join(_LEASE), "kind": "Lease", "metadata": {"name": LEASE}, "spec": spec}
            create = self._objects.create_namespaced_custom_object
            _call(f"create Lease {LEASE}", create, *_LEASE, self._namespace, "leases", lease, **_LEASE_TIMEOUT)
            return
        change = {"metadata": {"resourceVersion": seen.version}, "spec": spec}
        _call(
            f"renew Lease {LEASE}",
            self._objects.patch_namespaced_custom_object, *_LEASE, self._namespace, "leases", LEASE, change,
            **_MERGE, **_LEASE_TIMEOUT,
        )  # fmt: skip

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
            case SetFiles(files=files):
                self._set_files(files)
            case SetFinalizers(namespace=namespace, name=name, version=version, finalizers=finalizers):
                written = _call(
                    f"write the finalizers of KadaluStorage {namespace}/{name}",
                    self._objects.patch_namespaced_custom_object, GROUP, VERSION, namespace, PLURAL, name,
                    {"metadata": {"resourceVersion": version, "finalizers": list(finalizers)}},
                    missing=None, **_MERGE,
                )  # fmt: skip
                if written is None and FINALIZER in finalizers:  # what is made now would never be taken away
                    raise ConflictError(f"KadaluStorage {namespace}/{name} was deleted meanwhile")
            case PatchStatus(namespace=namespace, name=name, status=status):
                _call(
                    f"write the status of KadaluStorage {namespace}/{name}",
                    self._objects.patch_namespaced_custom_object_status,
                    GROUP, VERSION, namespace, PLURAL, name, {"status": dict(status)},
                    missing=None, **_MERGE,
                )  # fmt: skip
            case PostEvent(manifest=manifest):
                namespace = manifest["metadata"]["namespace"]
                with suppress(ConflictError):  # its name says which change it tells of: that was told
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

    def _set_files(self, files: Mapping[str, bytes | None]) -> None:
        data = {key: None if text is None else base64.b64encode(text).decode() for key, text in files.items()}
        what, patch = f"write {', '.join(data)} in Secret {TLS_FILES}", self._core.patch_namespaced_secret
        if _call(what, patch, TLS_FILES, self._namespace, {"data": data}, missing=None, **_MERGE) is None:
            given = {key: text for key, text in data.items() if text is not None}
            if given:
                secret = {"metadata": {"name": TLS_FILES, "labels": dict(LABELS)}, "data": given}
                _call(what, self._core.create_namespaced_secret, self._namespace, secret)


def _age(metadata: Mapping[str, Any]) -> tuple[str, str]:
    """The smaller, the older; of those made in one second, one is the older for everybody."""
    return metadata.get("creationTimestamp", ""), metadata["name"]


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One kind of objects, see following.Source. JSON: the client's own objects take a hundred times as long."""

    what: str
    _list: Callable[..., Any]
    _args: tuple[str, ...]

    def listed(self) -> tuple[Sequence[Seen], str]:
        """All of them, page by page, and the version that this is. Raises: KubernetesError."""
        objects: list[Seen] = []
        page: dict[str, Any] = {}
        while True:
            answer = self._read(limit=_PAGE, **page)
            try:
                objects += answer["items"]
                following = answer["metadata"].get("continue")
                if not following:
                    return objects, str(answer["metadata"]["resourceVersion"])
            except (LookupError, TypeError, AttributeError) as error:
                raise KubernetesError(f"the list of {self.what} is none: {error!r}") from error
            page = {"_continue": following}

    def changes(self, version: str) -> Iterator[tuple[str, Seen, str]]:
        """What came after `version`, as it comes; ends after a minute. Raises: GoneError, KubernetesError."""
        answer = _call(
            f"watch {self.what}", self._list, *self._args, watch=True, resource_version=version,
            timeout_seconds=_WATCH_S, allow_watch_bookmarks=True, _preload_content=False,
            _request_timeout=(3.0, _WATCH_S + 15.0),
        )  # fmt: skip
        try:
            _raise_for(f"watch {self.what}", answer.status, answer.headers)
            for line in _lines(answer):
                event = json.loads(line)
                if event["type"] == "ERROR":
                    _raise_for(f"watch {self.what}", int(event["object"].get("code", 500)))
                yield event["type"], event["object"], str(event["object"]["metadata"]["resourceVersion"])
        except (urllib3.exceptions.HTTPError, OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise KubernetesError(f"the watch of {self.what} broke off: {error.__class__.__name__}") from error
        finally:
            answer.close()

    def _read(self, **options: Any) -> dict[str, Any]:
        answer = _call(f"list {self.what}", self._list, *self._args, _preload_content=False, **options)
        try:
            _raise_for(f"list {self.what}", answer.status, answer.headers)
            found: dict[str, Any] = json.loads(answer.data)
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            raise KubernetesError(f"the list of {self.what} broke off: {error.__class__.__name__}") from error
        else:
            return found
        finally:
            answer.release_conn()


def _raise_for(what: str, status: int, headers: Mapping[str, str] | None = None) -> None:
    if status == 410:
        raise GoneError(f"the Kubernetes API no longer has the version to {what} from")
    if not 200 <= status < 300:
        raise _refused(f"the Kubernetes API refused to {what}: {status}", status, headers)


def _refused(message: str, status: int | None, headers: Mapping[str, str] | None) -> KubernetesError:
    """By what client-go goes, too (rest/with_retry.go): 429 and 5xx with Retry-After in seconds."""
    said = (headers or {}).get("Retry-After", "")
    after = re.fullmatch(r"[0-9]{1,9}", said)
    default_s, most_s = _RETRY_AFTER_S
    if status == 429 or (status is not None and status >= 500 and after):
        return BusyError(message, retry_after_s=min(most_s, float(said)) if after else default_s)
    return KubernetesError(message)


def _lines(answer: Any) -> Iterator[bytes]:
    rest = b""
    for chunk in answer.stream(1 << 16):
        *lines, rest = (rest + chunk).split(b"\n")
        yield from filter(None, lines)


_REQUIRED: Final = object()


def _call(what: str, function: Callable[..., Any], *args: Any, missing: Any = _REQUIRED, **options: Any) -> Any:
    """What the API server answers; `missing`, if given, where it says 404.

    Raises: ConflictError for 409; BusyError where it is to be asked later; KubernetesError for everything else.
    """
    try:
        return function(*args, **{**_TIMEOUT, **options})
    except client.ApiException as error:
        if error.status == 404 and missing is not _REQUIRED:
            return missing
        message = f"the Kubernetes API refused to {what}: {error.status} {_reason(error)}"
        if error.status == 409:
            raise ConflictError(message) from error
        raise _refused(message, error.status, error.headers) from error
    except (urllib3.exceptions.HTTPError, OSError) as error:
        raise KubernetesError(f"the Kubernetes API did not {what}: {error.__class__.__name__}") from error


def _reason(error: client.ApiException) -> str:
    """The server's own sentence, without headers and JSON around it."""
    try:
        return str(json.loads(error.body or "")["message"])
    except (ValueError, TypeError, KeyError):
        return str(error.reason)
