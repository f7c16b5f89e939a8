"""The reasons that a KadaluStorage's conditions and events can have, each with its remedy. Pure.

docs/troubleshooting.md has a section for each; a test checks that.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from kadalu_ext import errors


class Condition(StrEnum):
    """What is asked of a storage, in the order in which it is answered; what fails leaves the later ones Unknown."""

    ACCEPTED = "Accepted"
    REACHABLE = "Reachable"
    SUPPORTED = "Supported"
    QUOTA_ENFORCED = "QuotaEnforced"
    READY = "Ready"


class Reason(StrEnum):
    """Why a condition is as it is: its `reason`, and that of the event that tells of its change."""

    VALID = "Valid"
    GLUSTERD_ANSWERS = "GlusterdAnswers"
    VOLUME_USABLE = "VolumeUsable"
    SPACE_RESERVED = "SpaceReserved"
    DATA_AT_RISK = "DataAtRisk"
    SOME_UNUSABLE = "SomeUnusable"
    STORAGE_READY = "StorageReady"
    STORAGE_CHANGED = "StorageChanged"
    STORAGE_DEGRADED = "StorageDegraded"

    ENFORCED = "Enforced"
    ENFORCED_WHERE_UP = "EnforcedWhereUp"

    NOT_CHECKED = "NotChecked"
    NOT_MEASURED = "NotMeasured"
    CANARY_STALE = "CanaryStale"
    BRICK_UNPROVEN = "BrickUnproven"

    NOT_ENFORCED = "NotEnforced"
    NO_LIMIT = "NoLimit"
    QUOTA_OFF = "QuotaOff"
    WHOLE_VOLUMES = "WholeVolumes"

    INVALID_SPEC = "InvalidSpec"
    VOLUME_SHARED = "VolumeShared"
    NAME_TAKEN = "NameTaken"
    VOLUME_CHANGED = "VolumeChanged"
    HOST_UNREACHABLE = "HostUnreachable"
    UNEXPECTED_ANSWER = "UnexpectedAnswer"
    SECRET_NOT_FOUND = "SecretNotFound"  # noqa: S105 - a word
    SECRET_UNUSABLE = "SecretUnusable"  # noqa: S105 - a word
    TLS_MISMATCH = "TlsMismatch"
    VOLUME_NOT_FOUND = "VolumeNotFound"
    VOLUME_STOPPED = "VolumeStopped"
    UNSUPPORTED_VOLUME = "UnsupportedVolume"
    DISTRIBUTED = "Distributed"
    SHARDED = "Sharded"
    BLOCK_HOSTING = "BlockHosting"
    THIN_ARBITER = "ThinArbiter"
    TRASH_ON = "TrashOn"
    GLUSTER_QUOTA = "GlusterQuota"
    SHARED_FILE_SYSTEM = "SharedFileSystem"
    BRICKS_DOWN = "BricksDown"
    NOT_APPLIED = "NotApplied"
    HELD_BY_VOLUMES = "HeldByVolumes"

    @property
    def remedy(self) -> str:
        """What to do, as a sentence to follow the details; empty where the details say it, or nothing is wrong."""
        return _REMEDIES.get(self, "")

    @property
    def condition(self) -> Condition:
        """The condition that is False for this reason (Ready then is, too, for the same reason)."""
        return _CONDITIONS.get(self, Condition.READY)

    @property
    def lasting(self) -> bool:
        """Whether it stays so until somebody changes something: no outage that passes by itself."""
        return self in _LASTING


_REMEDIES: Final[Mapping[Reason, str]] = {
    Reason.NOT_CHECKED: "See the condition that is False.",
    Reason.NOT_MEASURED: (
        "The CSI controller makes one within two minutes after the storage is there; if it stays so: "
        "kubectl logs -n kadalu-ext deploy/kadalu-ext-controller -c controller. "
        "A claim becomes Bound only after every brick was seen to enforce its size."
    ),
    Reason.ENFORCED_WHERE_UP: "What is down is looked at again when it comes back.",
    Reason.CANARY_STALE: (
        "The CSI controller does not run, or cannot write to the volume: kubectl get pods -n kadalu-ext; "
        "kubectl logs -n kadalu-ext deploy/kadalu-ext-controller -c controller. Claims wait until it can."
    ),
    Reason.BRICK_UNPROVEN: (
        "Whether it enforces sizes is not known. What a brick has missed is brought by self-heal: "
        "gluster volume heal VOLUME info, on a brick host."
    ),
    Reason.NOT_ENFORCED: ("systemctl start kadalu-quotad; if it runs, kadalu-quotad status there tells why."),
    Reason.NO_LIMIT: (
        "either kadalu-quotad never ran (systemctl start kadalu-quotad), or the file system is not XFS mounted with "
        "prjquota; kadalu-quotad status there tells which, with the line for fstab."
    ),
    Reason.QUOTA_OFF: (
        "spec.quota is none: sizes are counted, not enforced, and a pod may write more than its claim says, to the "
        "volume's end. Write quota: required to have them enforced."
    ),
    Reason.WHOLE_VOLUMES: "Each PV is a whole volume, and as large as that: there is nothing to enforce.",
    Reason.VOLUME_SHARED: (
        "Take the volume out of one of the two. A volume that a deleted claim has left behind is freed by hand: "
        "docs/troubleshooting.md."
    ),
    Reason.NAME_TAKEN: "Give this KadaluStorage another name, or delete what has the name.",
    Reason.VOLUME_CHANGED: (
        "Put the earlier volume's name and hosts back, or delete these PVs first; "
        "for another volume make a KadaluStorage of another name."
    ),
    Reason.HOST_UNREACHABLE: (
        "Check on each host that glusterd runs (systemctl status glusterd), that its name resolves inside the cluster, "
        "and that no firewall keeps the cluster's nodes from TCP port 24007."
    ),
    Reason.UNEXPECTED_ANSWER: (
        "Check that what listens on TCP port 24007 is glusterd, and that its management is not encrypted "
        "(/var/lib/glusterd/secure-access) where the storage has no spec.tls."
    ),
    Reason.SECRET_NOT_FOUND: (
        "Make it in the namespace of this KadaluStorage: kubectl create secret generic NAME --from-file=tls.crt "
        "--from-file=tls.key --from-file=ca.crt, with a certificate that the cluster's glusterfs.ca accepts. "
        "Clients that run go on."
    ),
    Reason.SECRET_UNUSABLE: (
        "It needs tls.crt, tls.key and ca.crt (or glusterfs.pem, glusterfs.key and glusterfs.ca), all in PEM form, and "
        "the key without a password. Clients go on with what was usable before."
    ),
    Reason.TLS_MISMATCH: (
        "spec.tls names the Secret; spec.tls.management: false is for a cluster that encrypts bricks alone."
    ),
    Reason.NOT_APPLIED: (
        "Check the operator's rights (kubectl apply -k manifests/ restores them), admission webhooks and policies."
    ),
    Reason.HELD_BY_VOLUMES: (
        "Delete their claims, and PVs that are Released: the storage then goes by itself. Until then all of them work."
    ),
}
"""Of reasons whose details do not say it themselves, as the messages of errors.py do."""

_OF_VOLUMES: Final[Mapping[type[errors.KadaluExtError], Reason]] = {
    errors.UnsupportedVolumeError: Reason.UNSUPPORTED_VOLUME,
    errors.DistributedError: Reason.DISTRIBUTED,
    errors.ShardedError: Reason.SHARDED,
    errors.BlockHostingError: Reason.BLOCK_HOSTING,
    errors.ThinArbiterError: Reason.THIN_ARBITER,
    errors.TrashError: Reason.TRASH_ON,
    errors.GlusterQuotaError: Reason.GLUSTER_QUOTA,
    errors.SharedFileSystemError: Reason.SHARED_FILE_SYSTEM,
    errors.DataAtRiskError: Reason.DATA_AT_RISK,
}
"""What a volume is or has that sizes cannot be enforced on."""

_CONDITIONS: Final[Mapping[Reason, Condition]] = {
    **dict.fromkeys(_OF_VOLUMES.values(), Condition.SUPPORTED),
    Reason.INVALID_SPEC: Condition.ACCEPTED,
    Reason.VOLUME_SHARED: Condition.ACCEPTED,
    Reason.NAME_TAKEN: Condition.ACCEPTED,
    Reason.VOLUME_CHANGED: Condition.ACCEPTED,
    Reason.HOST_UNREACHABLE: Condition.REACHABLE,
    Reason.UNEXPECTED_ANSWER: Condition.REACHABLE,
    Reason.SECRET_NOT_FOUND: Condition.REACHABLE,
    Reason.SECRET_UNUSABLE: Condition.REACHABLE,
    Reason.TLS_MISMATCH: Condition.REACHABLE,
    Reason.VOLUME_NOT_FOUND: Condition.SUPPORTED,
    Reason.VOLUME_STOPPED: Condition.SUPPORTED,
    Reason.NOT_ENFORCED: Condition.QUOTA_ENFORCED,
    Reason.NO_LIMIT: Condition.QUOTA_ENFORCED,
}

_LASTING: Final = frozenset(
    {
        Reason.INVALID_SPEC,
        Reason.VOLUME_SHARED,
        Reason.NAME_TAKEN,
        Reason.VOLUME_CHANGED,
        Reason.VOLUME_NOT_FOUND,
        *_OF_VOLUMES.values(),
    }
)

_OF_ERRORS: Final[Mapping[type[errors.KadaluExtError], Reason]] = {
    errors.InvalidInputError: Reason.INVALID_SPEC,
    errors.ConflictError: Reason.NAME_TAKEN,
    errors.UnavailableError: Reason.HOST_UNREACHABLE,
    errors.TlsError: Reason.TLS_MISMATCH,
    errors.WireError: Reason.UNEXPECTED_ANSWER,
    errors.VolfileError: Reason.UNEXPECTED_ANSWER,
    errors.NotFoundError: Reason.VOLUME_NOT_FOUND,
    errors.VolumeStoppedError: Reason.VOLUME_STOPPED,
    **_OF_VOLUMES,
    errors.KubernetesError: Reason.NOT_APPLIED,
}
"""The one table. A class stands for its subclasses, unless they have a row of their own."""


def reason_of(error: errors.KadaluExtError) -> Reason:
    """The reason that an error is: its nearest ancestor's row; UNEXPECTED_ANSWER for what is nowhere in the table."""
    for cls in type(error).__mro__:
        if cls in _OF_ERRORS:
            return _OF_ERRORS[cls]
    return Reason.UNEXPECTED_ANSWER
