"""What is known of one storage, as operator, CSI driver and mounter hand it to each other. Pure.

The operator makes a `Storage` of a KadaluStorage and writes it twice: as the parameters of the StorageClass (so that a
claim carries what is needed to reach its volume) and as one entry of a ConfigMap (which can change during the life of a
storage, and therefore wins where both are there). The CSI driver reads either and sends it to the mounter.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Final, NewType, Self, TypeVar

from kadalu_ext.errors import InvalidInputError
from kadalu_ext.record import CANARY, SNAPSHOT_PREFIX, PvName, check_pv_name, is_snapshot

StorageName = NewType("StorageName", str)
_ChoiceT = TypeVar("_ChoiceT", bound=StrEnum)
MountName = NewType("MountName", StorageName)
"""Of one gluster client on a node: a storage's name, or that of a PV which has one of its own; see `mount_name`."""

PROVISIONER: Final = "kadalu.external"
"""The CSI driver's name, and the provisioner of its StorageClasses."""

CONFIG_MAP: Final = "kadalu-ext-storages"
"""The ConfigMap with one `<storage>.json` a storage, in the namespace where the project is installed."""

TLS_FILES: Final = "kadalu-ext-storages-tls"
"""The name of the Secret with the TLS files of all storages that have some, in the same namespace. Keys: `tls_key`."""

GID_ATTRIBUTE: Final = f"{PROVISIONER}/gid"
"""In the volume_context of a PV that has a group of its own: that. `from_parameters` passes over it, for its `/`;
manifests/groups makes the annotation of it that kubelet reads."""

GLUSTERD_PORT: Final = 24007

MOUNT_OPTIONS: Final = ("ro", "nosuid", "nodev", "noexec", "noatime", "nodiratime", "relatime")
"""What a PV's bind mount in a pod can have for itself, as mount(8) calls it; all else is the gluster client's."""

OVERCOMMIT_MIN: Final = 0.1
OVERCOMMIT_MAX: Final = 100.0

_STORAGE_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?")
_MOUNT_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9.-]{0,22}[a-z0-9])?@[0-9a-f]{32}")
_HOST: Final = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.:-]{0,251}[A-Za-z0-9])?")
_VOLUME: Final = re.compile(r"[A-Za-z0-9_-]{1,253}")
_UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_OPTION: Final = re.compile(r"[a-z][a-z0-9.-]*")


class Encryption(StrEnum):
    """What of a storage's gluster cluster speaks TLS, and therefore wants a client's certificate."""

    NONE = "none"
    BRICKS = "bricks"
    """Bricks alone: the volume options client.ssl and server.ssl."""
    ALL = "all"
    """glusterd, too: /var/lib/glusterd/secure-access is there. Bricks are as the volume's options say."""


class ReclaimPolicy(StrEnum):
    """What becomes of a PV's data when its PersistentVolume is deleted."""

    DELETE = "delete"
    ARCHIVE = "archive"
    """It is moved to `archived` on the volume, where a person finds it, and goes on counting."""
    RETAIN = "retain"
    """It stays where it is, and goes on counting."""


class Quota(StrEnum):
    """Whether a PV may be Bound before every brick enforces its size."""

    REQUIRED = "required"
    OPTIONAL = "optional"
    """It may; whether bricks enforce is measured and shown."""
    NONE = "none"
    """It may, and nobody looks. What is promised is counted all the same."""


@dataclass(frozen=True, kw_only=True)
class PoolVolume:
    """One volume of a storage of whole volumes, and the glusterds that know it. volume_id: as Storage has it."""

    volume: str
    hosts: tuple[str, ...]
    volume_id: str = ""


@dataclass(frozen=True, kw_only=True)
class Storage:
    """One gluster volume as a storage, or several of them each of which is one PV: where, and how clients are started.

    hosts: names or addresses of glusterds that know the volume, in order of preference; at least one.
    options: glusterfs client options, already checked by the operator (`log-level` → `DEBUG`); dashes, lower case.
    overcommit: how much may be promised to PVs, as a multiple of the volume's size. Only the ConfigMap has it: it is no
    part of what a PV needs, and one that does not arrive promises each byte once.
    tls: likewise of the ConfigMap alone, since a StorageClass cannot follow a cluster that is encrypted later.
    volume_id: gluster's UUID of the volume on which the storage's PVs are; empty if it is not known. No other volume of
    that name is used. Likewise of the ConfigMap alone.
    reclaim, quota: likewise, since a StorageClass's parameters never change. What does not arrive is the safer: sizes
    are required; and the operator keeps the entry as long as there are PVs.
    pool: of a storage of whole volumes, those volumes: each of them is one PV. `hosts` and `volume` are empty then, so
    that nobody takes one of them for a volume of directories; `of_volume` has them.
    whole: the PV that has all of `volume`; None: PVs are directories of it.
    """

    name: StorageName
    hosts: tuple[str, ...]
    volume: str
    options: Mapping[str, str] = field(default_factory=dict)
    overcommit: float = 1.0
    tls: Encryption = Encryption.NONE
    reclaim: ReclaimPolicy = ReclaimPolicy.DELETE
    quota: Quota = Quota.REQUIRED
    volume_id: str = ""
    pool: tuple[PoolVolume, ...] = ()
    whole: PvName | None = None

    def of_volume(self, volume: str, pv: PvName | None = None) -> Self | None:
        """One volume of the pool by itself, as that of `pv`; None if the pool has no such volume."""
        for each in self.pool:
            if each.volume == volume:
                return replace(self, hosts=each.hosts, volume=volume, volume_id=each.volume_id, pool=(), whole=pv)
        return None


def tls_key(name: StorageName, file: str) -> str:
    """The key in TLS_FILES of a storage's `glusterfs.pem`, `glusterfs.key` or `glusterfs.ca`: `<storage>.crt`, `.key`,
    `.ca`."""
    kind = file.rpartition(".")[2]
    return f"{name}.{'crt' if kind == 'pem' else kind}"


def storage_class_name(name: StorageName) -> str:
    """`kadalu.external.<name>`, as the RFC has it."""
    return f"{PROVISIONER}.{name}"


def mount_source(name: StorageName, whole: PvName | None = None) -> str:
    """What df and mountinfo show as the source of the storage's mount and of every bind mount of it, or of the mount
    that is one PV's own."""
    return f"{PROVISIONER}:{name}" if whole is None else f"{PROVISIONER}:{name}/{whole}"


def mount_name(storage: Storage) -> MountName:
    """What a client of the storage is called on a node: the storage's name, or, of a PV that is a whole volume, one
    with an `@`, which no storage's name has. As long as a unix socket's path can bear it."""
    return MountName(storage.name) if storage.whole is None else whole_mount_name(storage.name, storage.whole)


def whole_mount_name(name: StorageName, pv: PvName) -> MountName:
    """See `mount_name`. It follows from the volume_id, and from nothing else."""
    digest = hashlib.sha256(volume_id(name, pv).encode()).hexdigest()
    return MountName(StorageName(f"{name[:24].rstrip('.-')}@{digest[:32]}"))


def check_mount_name(text: str) -> MountName:
    """Raises: InvalidInputError unless `mount_name` makes such names."""
    if _MOUNT_NAME.fullmatch(text) is None:
        check_storage_name(text)
    return MountName(StorageName(text))


def to_parameters(storage: Storage) -> dict[str, str]:
    """The StorageClass parameters, or a PV's volume_context; `from_parameters` reads them back, all but what the
    ConfigMap alone has.

    A pool is `volumes: one@host1,one@host2,two@host1` and has no `volume`: who does not know of pools refuses it.
    """
    parameters: dict[str, str] = {"storage": storage.name}
    if storage.pool:
        parameters["volumes"] = ",".join(f"{each.volume}@{host}" for each in storage.pool for host in each.hosts)
    else:
        parameters |= {"hosts": ",".join(storage.hosts), "volume": storage.volume}
    if storage.whole is not None:
        parameters["pv"] = storage.whole
    if storage.options:
        parameters["options"] = ",".join(f"{key}={value}" for key, value in sorted(storage.options.items()))
    return parameters


_PARAMETERS: Final = ("storage", "hosts", "volume", "volumes", "pv", "options")


def from_parameters(parameters: Mapping[str, str]) -> Storage:
    """The storage that a StorageClass's parameters (or a volume's context) describe.

    Keys with a `/` belong to Kubernetes (csi.storage.k8s.io/…, storage.kubernetes.io/…) and are passed over.
    Raises: InvalidInputError naming the parameter.
    """
    own = {key: value for key, value in parameters.items() if "/" not in key}
    for key in own:
        if key not in _PARAMETERS:
            raise InvalidInputError(f"parameters.{key[:64]}: unknown; allowed are {', '.join(_PARAMETERS)}")
    wanted = ("storage", "volumes") if "volumes" in own else ("storage", "hosts", "volume")
    for key in wanted:
        if not own.get(key):
            raise InvalidInputError(f"parameters.{key}: missing; the StorageClass must be one that the operator made")
    if extra := ("hosts", "volume", "pv") if "volumes" in own else ():
        for key in extra:
            if key in own:
                raise InvalidInputError(f"parameters.{key}: not beside volumes, which are whole volumes")
    options = {}
    for entry in filter(None, own.get("options", "").split(",")):
        key, equals, value = entry.partition("=")
        if not equals:
            raise InvalidInputError(f"parameters.options: {entry[:64]!r} is not key=value")
        options[key] = value
    if "volumes" in own:
        return _checked_pool(own["storage"], _volumes(own["volumes"]), options)
    storage = _checked(own["storage"], own["hosts"].split(","), own["volume"], options)
    return replace(storage, whole=check_pv_name(own["pv"])) if "pv" in own else storage


def _volumes(text: str) -> list[tuple[str, list[str]]]:
    found: dict[str, list[str]] = {}
    for entry in text.split(","):
        volume, at, host = entry.partition("@")
        if not at:
            raise InvalidInputError(f"parameters.volumes: {entry[:64]!r} is not volume@host")
        found.setdefault(volume, []).append(host)
    return list(found.items())


def to_json(storage: Storage) -> str:
    """The storage's entry in the ConfigMap."""
    entry: dict[str, Any] = {
        "name": storage.name,
        "options": dict(storage.options),
        "overcommit": storage.overcommit,
        "tls": storage.tls,
        "reclaim": storage.reclaim,
        "quota": storage.quota,
    }
    if storage.volume_id:
        entry["volume_id"] = storage.volume_id
    if storage.pool:
        entry["pool"] = [
            {"volume": each.volume, "hosts": list(each.hosts)}
            | ({"volume_id": each.volume_id} if each.volume_id else {})
            for each in storage.pool
        ]
    else:
        entry |= {"hosts": list(storage.hosts), "volume": storage.volume}
    if storage.whole is not None:
        entry["whole"] = storage.whole
    return json.dumps(entry, sort_keys=True)


def from_json(text: str) -> Storage:
    """The storage of a ConfigMap's entry. Raises: InvalidInputError naming the field."""
    try:
        entry = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(f"{CONFIG_MAP}: an entry is not JSON ({error.__class__.__name__})") from error
    if not isinstance(entry, dict):
        raise InvalidInputError(f"{CONFIG_MAP}: an entry must be a JSON object")
    name, options = entry.get("name"), entry.get("options")
    if not isinstance(name, str):
        raise InvalidInputError(f"{CONFIG_MAP}: name must be a string")
    where = f"{CONFIG_MAP}: {name[:64]}"
    if not isinstance(options, dict) or not all(isinstance(value, str) for value in options.values()):
        raise InvalidInputError(f"{where}: options must map strings to strings")
    overcommit = entry.get("overcommit", 1.0)
    if isinstance(overcommit, bool) or not isinstance(overcommit, int | float):
        raise InvalidInputError(f"{where}: overcommit must be a number")
    whole, pool = entry.get("whole"), entry.get("pool")
    if not (whole is None or isinstance(whole, str)):
        raise InvalidInputError(f"{where}: whole must be a PV's name")
    if pool is None:
        volume, hosts = _volume_and_hosts(entry, where)
        storage = _checked(name, hosts, volume, options, float(overcommit))
    else:
        if not isinstance(pool, list) or whole is not None:
            raise InvalidInputError(f"{where}: pool must be a list of volumes, without whole beside it")
        storage = _checked_pool(name, [_volume_and_hosts(each, where) for each in pool], options, float(overcommit))
        ids = [_volume_id(each, where) for each in pool]
        known = zip(storage.pool, ids, strict=True)
        storage = replace(storage, pool=tuple(replace(each, volume_id=volume_id) for each, volume_id in known))
    return replace(
        storage,
        volume_id=_volume_id(entry, where),
        tls=_one_of(name, "tls", entry, Encryption.NONE),
        reclaim=_one_of(name, "reclaim", entry, ReclaimPolicy.DELETE),
        quota=_one_of(name, "quota", entry, Quota.REQUIRED),
        whole=None if whole is None else check_pv_name(whole),
    )


def _one_of(name: str, field: str, entry: Mapping[str, object], default: _ChoiceT) -> _ChoiceT:
    try:
        return type(default)(str(entry.get(field, default)))
    except ValueError:
        allowed = ", ".join(type(default))
        raise InvalidInputError(f"{CONFIG_MAP}: {name[:64]}: {field} must be one of {allowed}") from None


def _volume_id(entry: Mapping[str, object], where: str) -> str:
    volume_id = entry.get("volume_id", "")
    if not isinstance(volume_id, str) or (volume_id and _UUID.fullmatch(volume_id) is None):
        raise InvalidInputError(f"{where}: volume_id must be a UUID")
    return volume_id


def _volume_and_hosts(entry: object, where: str) -> tuple[str, list[str]]:
    if not isinstance(entry, dict):
        raise InvalidInputError(f"{where}: a volume of a pool must be an object")
    volume, hosts = entry.get("volume"), entry.get("hosts")
    if not isinstance(volume, str):
        raise InvalidInputError(f"{where}: volume must be a string")
    if not isinstance(hosts, list) or not all(isinstance(host, str) for host in hosts):
        raise InvalidInputError(f"{where}: hosts must be a list of strings")
    return volume, hosts


def _checked_pool(
    name: str, volumes: list[tuple[str, list[str]]], options: dict[str, str], overcommit: float = 1.0
) -> Storage:
    members = [_checked(name, hosts, volume, options, overcommit) for volume, hosts in volumes]
    if not members or len({member.volume for member in members}) != len(members):
        raise InvalidInputError("volumes: at least one volume is needed, and none twice")
    pool = tuple(PoolVolume(volume=member.volume, hosts=member.hosts) for member in members)
    return replace(members[0], hosts=(), volume="", pool=pool)


def _checked(name: str, hosts: list[str], volume: str, options: dict[str, str], overcommit: float = 1.0) -> Storage:
    check_storage_name(name)
    if not hosts:
        raise InvalidInputError("hosts: at least one host that runs glusterd is needed")
    for host in hosts:
        check_host(host)
    check_volume_name(volume)
    for key, value in options.items():
        if _OPTION.fullmatch(key) is None or any(c in value for c in ",=\n\0"):
            raise InvalidInputError(
                f"options.{key[:64]}: not a glusterfs option, or its value has a ',', '=' or line end"
            )
    check_overcommit(overcommit)
    return Storage(name=StorageName(name), hosts=tuple(hosts), volume=volume, options=options, overcommit=overcommit)


def check_storage_name(name: str) -> StorageName:
    """Raises: InvalidInputError unless `name` is a Kubernetes object name of at most 63 characters."""
    if _STORAGE_NAME.fullmatch(name) is None:
        raise InvalidInputError(
            f"storage: {name[:80]!r} is not a name of at most 63 lower-case letters, digits, '.' and '-'"
        )
    return StorageName(name)


def check_host(host: str) -> str:
    """Raises: InvalidInputError unless `host` looks like a host name or an IPv4 or IPv6 address."""
    if _HOST.fullmatch(host) is None:
        raise InvalidInputError(f"hosts: {host[:80]!r} is neither a host name nor an address")
    return host


def check_volume_name(volume: str) -> str:
    """Raises: InvalidInputError unless gluster would take `volume` as a volume's name."""
    if _VOLUME.fullmatch(volume) is None or volume.startswith("-"):
        raise InvalidInputError(
            f"volume: {volume[:80]!r} is not a gluster volume's name (letters, digits, '_' and '-')"
        )
    return volume


def check_overcommit(overcommit: float) -> float:
    """Raises: InvalidInputError unless `overcommit` is a ratio that makes sense; NaN is none."""
    if not OVERCOMMIT_MIN <= overcommit <= OVERCOMMIT_MAX:
        raise InvalidInputError(
            f"overcommit: {overcommit:g} is not a ratio between {OVERCOMMIT_MIN:g} and {OVERCOMMIT_MAX:g}"
        )
    return overcommit


def volume_id(storage: StorageName, name: PvName) -> str:
    """CSI's volume_id: `<storage>/<pv>`."""
    return f"{storage}/{name}"


def parse_volume_id(text: str) -> tuple[StorageName, PvName]:
    """The parts of a volume_id. Raises: InvalidInputError."""
    storage, slash, name = text.partition("/")
    if not slash:
        raise InvalidInputError(f"volume_id: {text[:80]!r} is not <storage>/<pv>")
    if name == CANARY:
        raise InvalidInputError(f"volume_id: {CANARY} is reserved, and is no volume")
    if is_snapshot(name):
        raise InvalidInputError(f"volume_id: {text[:80]!r} is a snapshot, and no volume")
    return check_storage_name(storage), check_pv_name(name)


def parse_snapshot_id(text: str) -> tuple[StorageName, PvName]:
    """The parts of a snapshot_id, `<storage>/snapshot.<name>`. Raises: InvalidInputError."""
    storage, slash, name = text.partition("/")
    if not slash or not is_snapshot(name):
        raise InvalidInputError(f"snapshot_id: {text[:80]!r} is not <storage>/{SNAPSHOT_PREFIX}<name>")
    return check_storage_name(storage), check_pv_name(name)
