"""What VolumeSnapshots need that no driver brings: their CustomResourceDefinitions and the snapshot-controller.

Both are external-snapshotter's own, from the Go modules of which the sidecars are built.
"""

from __future__ import annotations

import re
from pathlib import Path

from . import gobuild, image

IMAGES = ("csi-snapshotter", "snapshot-controller")
_PROJECT = "github.com/kubernetes-csi/external-snapshotter"


def build() -> list[Path]:
    """Build the images, and fetch what `definitions` and `controller` give; where that is done already, it is quick.

    Raises:
        BedError: something cannot be built, or fetched.
    """
    definitions()
    controller()
    return [image.sidecar(name) for name in IMAGES]


def definitions() -> list[Path]:
    """Files for kubectl: VolumeSnapshot, VolumeSnapshotContent, VolumeSnapshotClass."""
    directory = gobuild.sources(f"{_PROJECT}/client/v8", "sidecars") / "config" / "crd"
    return sorted(directory.glob("snapshot.storage.k8s.io_*.yaml"))


def controller() -> str:
    """Manifests for kubectl: the snapshot-controller with its rights, once, and of the version that is built here."""
    directory = gobuild.sources(f"{_PROJECT}/v8", "sidecars") / "deploy" / "kubernetes" / "snapshot-controller"
    rights, deployment = (directory / f"{name}-snapshot-controller.yaml" for name in ("rbac", "setup"))
    once = re.sub(r"replicas: \d+", "replicas: 1", deployment.read_text())
    built = re.sub(r"(image: [^:\s]+):\S+", rf"\1:{gobuild.version('snapshot-controller')}", once)
    return f"{rights.read_text()}\n---\n{built}"
