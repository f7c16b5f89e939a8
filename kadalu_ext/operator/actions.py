"""What plan.py reads and what it asks for, as plain values. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kadalu_ext.claim import Claim
from kadalu_ext.errors import KadaluExtError
from kadalu_ext.gluster.geometry import Brick, Geometry
from kadalu_ext.gluster.support import Reserve
from kadalu_ext.operator.enforcing import Enforcement
from kadalu_ext.operator.pool import Member
from kadalu_ext.operator.pvs import Provisioned
from kadalu_ext.operator.reasons import Reason, reason_of
from kadalu_ext.operator.render import Manifest
from kadalu_ext.operator.spec import StorageSpec

# --- what is there ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Resource:
    """A KadaluStorage as the API server has it."""

    namespace: str
    name: str
    uid: str
    generation: int
    spec: object
    status: Mapping[str, Any]
    deleting: bool = False
    finalizers: tuple[str, ...] = ()
    version: str = ""

    @property
    def owner(self) -> str:
        """What an annotation of its StorageClass says."""
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, kw_only=True)
class Existing:
    """What is there already under a storage's name.

    storage_class: None if there is none. config_entry: None if there is none.
    owner_lives: whether the KadaluStorage that the StorageClass names as its owner is there.
    pvs: names of the PVs of this storage, sorted; empty where nobody needed to know.
    provisioned: what is promised of it; None if that is not known.
    files: its TLS files in the Secret TLS_FILES, by their keys there; empty where nobody needed to know.
    others: the ids of volumes, as pool.remembered reads them, of the other storages that were there before, by
    their owners.
    """

    storage_class: Mapping[str, Any] | None = None
    config_entry: str | None = None
    owner_lives: bool = True
    pvs: tuple[str, ...] = ()
    provisioned: Provisioned | None = None
    files: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    others: Mapping[str, str] = field(default_factory=dict)

    def annotation(self, key: str) -> str | None:
        """An annotation of the StorageClass."""
        annotations = (self.storage_class or {}).get("metadata", {}).get("annotations") or {}
        value = annotations.get(key)
        return None if value is None else str(value)


@dataclass(frozen=True, kw_only=True)
class BrickSeen:
    """What one brick said of itself, or why it did not.

    online: clients may be writing to it. total_bytes, free_bytes: of its file system, if it told. error: why it did
    not, for people, naming the brick. volume: whose brick it is, in a storage of whole volumes.
    """

    brick: Brick
    online: bool
    total_bytes: int | None = None
    free_bytes: int | None = None
    error: str | None = None
    volume: str | None = None


@dataclass(frozen=True, kw_only=True)
class Usable:
    """What is asked for can be had: the gluster volume, as its glusterd describes it.

    bricks: all of them, in gluster's order; empty if they were not asked. enforcement: what they say of the canary.
    reserve: what the bricks keep free. members: of a storage of whole volumes, each of them; volume_id then is what
    pool.ids_text says, and geometry that of one. claim: whose one volume is, whole; a text: why nobody knows.
    """

    spec: StorageSpec
    volume_id: str
    geometry: Geometry
    bricks: tuple[BrickSeen, ...] = ()
    enforcement: Enforcement | None = None
    reserve: Reserve = field(default_factory=Reserve)
    members: tuple[Member, ...] = ()
    claim: Claim | str | None = None

    @property
    def capacity_bytes(self) -> int | None:
        """What the volume holds: as much as its smallest brick that told, times the bricks that share the data. Of
        whole volumes the sum."""
        if self.members:
            return sum(each.size_bytes for each in self.members)
        carriers = set(self.geometry.data_carriers)
        sizes = [each.total_bytes for each in self.bricks if each.total_bytes is not None and each.brick in carriers]
        return min(sizes) * self.geometry.data_bricks if sizes else None

    @property
    def offline(self) -> tuple[BrickSeen, ...]:
        """The bricks that clients do without."""
        return tuple(each for each in self.bricks if not each.online)

    @property
    def takes_writes(self) -> bool:
        """Whether enough bricks are online; of whole volumes, whether those of one are."""
        if self.members:
            return any(each.problem is None for each in self.members)
        return not self.offline or self.geometry.takes_writes([e.brick.name for e in self.bricks if e.online])


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Why a storage is not usable.

    details: what is wrong, and where. volume: the gluster volume that is asked for, if known.
    """

    reason: Reason
    details: str
    volume: str | None = None

    @classmethod
    def of(cls, error: KadaluExtError, *, volume: str | None = None) -> Problem:
        """The problem that an error is."""
        return cls(reason=reason_of(error), details=str(error), volume=volume)

    @property
    def message(self) -> str:
        """Details, and what to do."""
        if not self.reason.remedy:
            return self.details
        return f"{self.details}{'' if self.details.endswith(('.', '?')) else '.'} {self.reason.remedy}"


# --- what is to be done ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class CreateStorageClass:
    """Fails if there is one of that name."""

    manifest: Manifest


@dataclass(frozen=True, kw_only=True)
class ReplaceStorageClass:
    """Delete the one with `uid`, and create this: parameters cannot be changed."""

    uid: str
    manifest: Manifest


@dataclass(frozen=True, kw_only=True)
class PatchStorageClass:
    """What may be changed in place: a merge patch."""

    name: str
    patch: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class DeleteStorageClass:
    """Only the one with `uid`."""

    name: str
    uid: str


@dataclass(frozen=True, kw_only=True)
class SetEntry:
    """The storage's entry in the ConfigMap; None removes it."""

    key: str
    text: str | None


@dataclass(frozen=True, kw_only=True)
class SetFiles:
    """TLS files in the Secret TLS_FILES, by their keys there; None removes one."""

    files: Mapping[str, bytes | None] = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class SetFinalizers:
    """Of the KadaluStorage, if it still has this version."""

    namespace: str
    name: str
    version: str
    finalizers: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class PatchStatus:
    """A merge patch of the KadaluStorage's status."""

    namespace: str
    name: str
    status: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class PostEvent:
    """An event about the KadaluStorage."""

    manifest: Manifest


Action = (
    CreateStorageClass
    | ReplaceStorageClass
    | PatchStorageClass
    | DeleteStorageClass
    | SetEntry
    | SetFiles
    | SetFinalizers
    | PatchStatus
    | PostEvent
)
