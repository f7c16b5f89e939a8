"""The objects that the operator makes. Pure: manifests as the API server takes them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from kadalu_ext.operator.pool import remembered
from kadalu_ext.operator.spec import StorageSpec
from kadalu_ext.storage import PROVISIONER, ReclaimPolicy, StorageName, storage_class_name, to_json, to_parameters

Manifest = Mapping[str, Any]

OWNER: Final = "kadalu.external/owner"
"""Annotation of a StorageClass: `<namespace>/<name>` of the KadaluStorage that it was made for."""

VOLUME_ID: Final = "kadalu.external/volume-id"
"""Annotation of a StorageClass: the UUID of the gluster volume on which its PVs are."""

FINALIZER: Final = "operator.kadalu.external/finalizer"
"""On a KadaluStorage for which something was made: it goes only after that."""

LABELS: Final = {"app.kubernetes.io/managed-by": "kadalu-ext-operator", "app.kubernetes.io/part-of": "kadalu-ext"}


def plain(text: str, limit: int = 2000) -> str:
    """What a stranger may have written, as it may stand in an object, a metric or a log: valid UTF-8, and not long."""
    text = text if len(text) <= limit else text[: limit - 1] + "…"
    return text.encode(errors="replace").decode()


def storage_class(spec: StorageSpec, *, owner: str, volume_id: str) -> Manifest:
    """The StorageClass of a storage. PVs that are whole volumes do not grow by themselves."""
    return {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {
            "name": storage_class_name(spec.storage.name),
            "labels": dict(LABELS),
            "annotations": {OWNER: owner, VOLUME_ID: volume_id},
        },
        "provisioner": PROVISIONER,
        "parameters": to_parameters(spec.storage),
        "reclaimPolicy": "Retain" if spec.storage.reclaim is ReclaimPolicy.RETAIN else "Delete",
        "volumeBindingMode": "Immediate",
        "mountOptions": list(spec.mount_options),
        "allowVolumeExpansion": not spec.storage.pool,
    }


def config_key(name: StorageName) -> str:
    """The storage's key in the ConfigMap: a file `<storage>.json` in the CSI pods."""
    return f"{name}.json"


def config_entry(spec: StorageSpec, *, volume_id: str) -> str:
    """The storage's entry in the ConfigMap."""
    storage = spec.storage
    if storage.pool:
        ids = remembered(volume_id).volumes
        pool = tuple(replace(each, volume_id=ids.get(each.volume, "")) for each in storage.pool)
        return to_json(replace(storage, pool=pool))
    return to_json(replace(storage, volume_id=volume_id))


def event(
    *, namespace: str, name: str, uid: str, warning: bool, reason: str, message: str, at: str, change: str
) -> Manifest:
    """An event about a KadaluStorage; `at` is RFC 3339. The API server takes at most 1024 bytes of message.

    change: which change it tells of. Its name is made of that, so whoever tells it again, after a restart or beside
    another operator, finds it there already.
    """
    message = plain(message)
    raw = message.encode()
    digest = hashlib.sha256("\0".join((uid, reason, change)).encode()).hexdigest()[:16]
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{name[:200].rstrip('.-')}.{digest}", "namespace": namespace},
        "involvedObject": {
            "apiVersion": "kadalu-operator.storage/v1alpha1",
            "kind": "KadaluStorage",
            "namespace": namespace,
            "name": name,
            "uid": uid,
        },
        "type": "Warning" if warning else "Normal",
        "reason": reason,
        "message": message if len(raw) <= 1024 else raw[:1020].decode(errors="ignore") + "…",
        "source": {"component": "kadalu-ext-operator"},
        "firstTimestamp": at,
        "lastTimestamp": at,
        "count": 1,
    }
