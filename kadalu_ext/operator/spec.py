"""A KadaluStorage's spec to one frozen object. Pure; the only place that knows how users spell it.

Every spelling that is in users' files is folded into one here, and nowhere else: letters' case and `-` for `_` in the
names of fields, `details` as a list or an object, hosts as a list or a comma string, options as a comma string or a
map, the three ways to say whether a volume is shared by PVs. What is unknown or contradictory is refused with the
path of the field, what is allowed, and an example: nothing is ever silently passed over.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from ipaddress import IPv6Address
from typing import Final, NoReturn, TypeVar

from kadalu_ext.errors import InvalidInputError
from kadalu_ext.operator.options import parse_mount_options, parse_options
from kadalu_ext.operator.pool import named
from kadalu_ext.storage import (
    OVERCOMMIT_MAX,
    OVERCOMMIT_MIN,
    Encryption,
    PoolVolume,
    Quota,
    ReclaimPolicy,
    Storage,
    check_host,
    check_overcommit,
    check_storage_name,
    check_volume_name,
)

MAX_HOSTS: Final = 64
MAX_VOLUMES: Final = 256
"""Of one storage whose PVs are whole volumes."""

_ChoiceT = TypeVar("_ChoiceT", bound=StrEnum)


@dataclass(frozen=True, kw_only=True)
class StorageSpec:
    """What a KadaluStorage asks for, whole and normalised.

    tls_secret: name of the Secret with the client's certificate, in the KadaluStorage's namespace; None if nothing of
    the cluster is encrypted. What is, `storage.tls` says.
    mount_options: of the PVs' mounts in pods, among storage.MOUNT_OPTIONS.
    accepts_risk: sizes may be enforced on a volume on which a PV that gets full loses data.
    """

    storage: Storage
    tls_secret: str | None = None
    mount_options: tuple[str, ...] = ()
    accepts_risk: bool = False

    @property
    def hosts(self) -> tuple[str, ...]:
        """All of them, each once."""
        pool = self.storage.pool
        return tuple(dict.fromkeys(host for each in pool for host in each.hosts)) if pool else self.storage.hosts

    @property
    def volume(self) -> str:
        """The volume, or the volumes, for people."""
        pool = self.storage.pool
        return named(each.volume for each in pool) if pool else self.storage.volume


RISK: Final = "DataAtRisk"
"""What `accept` may name: the reason with which a disperse volume, or one with an arbiter, is refused otherwise."""

_SPEC_FIELDS: Final = (
    "type", "details", "pvReclaimPolicy", "kadalu-format", "single_pv_per_pool", "quota", "overcommit", "tls",
    "mountOptions", "accept",
)  # fmt: skip
_DETAIL_FIELDS: Final = (
    "gluster_node", "gluster_host", "gluster_nodes", "gluster_hosts", "gluster_backup_nodes", "gluster_volname",
    "gluster_options",
)  # fmt: skip
DETAIL_HOSTS: Final = _DETAIL_FIELDS[:5]
"""In the order in which their hosts are asked."""

_WITHOUT_MEANING: Final = {
    "tolerations": "it is of Kadalu's server pods, which an External storage has none of; remove it",
    "volume_id": "an External volume is found by its name (gluster_volname); remove it",
    "storage": "it is of volumes that Kadalu makes itself; an External storage names its volume in details; remove it",
}
"""Fields of Kadalu's CRs that say nothing about an External storage."""

_EXAMPLE: Final = "details: [{gluster_node: node1, gluster_volname: volume_name}]"


def is_ours(spec: object) -> bool:
    """Whether a KadaluStorage is for this operator. All other types are of Kadalu's own, which may run beside it."""
    return isinstance(spec, Mapping) and spec.get("type") == "External"


def parse_spec(name: str, spec: object) -> StorageSpec:
    """The StorageSpec of a KadaluStorage called `name` (metadata.name) with this `spec`, as the API server gives it.

    Raises: InvalidInputError with the path of the field that is wrong, what is allowed, and an example.
    """
    if not _is(check_storage_name, name):
        _refuse("metadata.name", f"{name[:80]!r}", "at most 63 lower-case letters, digits, '.' and '-'", "ext-storage")
    fields = _Fields("spec", spec, _SPEC_FIELDS)
    if fields.take("type") != "External":
        _refuse("spec.type", _shown(fields.take("type")), "External", "type: External")
    native = _native(fields)
    entries = [_Fields(path, entry, _DETAIL_FIELDS) for path, entry in _details(fields.take("details"), native)]
    pool = tuple(PoolVolume(volume=_volume(entry), hosts=_hosts(entry)) for entry in entries)
    mount_options, options = _options(fields, entries)
    tls_secret, tls = _tls(fields)
    storage = Storage(
        name=check_storage_name(name),
        hosts=pool[0].hosts,
        volume=pool[0].volume,
        options=options,
        overcommit=_overcommit(fields),
        tls=tls,
        reclaim=_choice(fields, "pvReclaimPolicy", ReclaimPolicy, ReclaimPolicy.DELETE),
        quota=_choice(fields, "quota", Quota, Quota.REQUIRED if native else Quota.NONE),
    )
    if not native:
        _check_whole(fields, storage, pool)
        storage = replace(storage, hosts=(), volume="", pool=pool)
    return StorageSpec(
        storage=storage, tls_secret=tls_secret, mount_options=mount_options, accepts_risk=_accepts_risk(fields)
    )


def _volume(detail: _Fields) -> str:
    volume = detail.take("gluster_volname")
    if not isinstance(volume, str) or not _is(check_volume_name, volume):
        _refuse(
            detail.path("gluster_volname"), _shown(volume), "the name of a gluster volume (letters, digits, '_', '-')",
            "gluster_volname: volume_name",
        )  # fmt: skip
    return volume


def _check_whole(fields: _Fields, storage: Storage, pool: Sequence[PoolVolume]) -> None:
    """What cannot be had of whole volumes."""
    names = [each.volume for each in pool]
    for at, volume in enumerate(names):
        if volume in names[:at]:
            _refuse(f"spec.details[{at}].gluster_volname", f"{volume} is there twice", "each volume once", "vol_2")
    if storage.reclaim is ReclaimPolicy.ARCHIVE:
        _refuse(
            fields.path("pvReclaimPolicy"), "archive, and a PV that is a whole volume has no place to be moved to",
            "delete (the volume is emptied and free again), retain (it stays as it is)", "pvReclaimPolicy: retain",
        )  # fmt: skip
    if storage.quota is not Quota.NONE:
        _refuse(
            fields.path("quota"), f"{storage.quota}, and a PV that is a whole volume is as large as that",
            "none, or no such field, where kadalu-format is false", "quota: none",
        )  # fmt: skip
    if storage.overcommit != 1.0:
        _refuse(
            fields.path("overcommit"), "says nothing of PVs that are whole volumes",
            "1, or no such field, where kadalu-format is false", "overcommit: 1",
        )  # fmt: skip


class _Fields:
    """The fields of one object, found by their folded names; all of them known, none given twice.

    A field that is null counts as absent, as it does for the API server.
    """

    def __init__(self, path: str, value: object, known: tuple[str, ...]) -> None:
        self._path = path
        if not isinstance(value, Mapping):
            _refuse(path, _shown(value), f"an object with {', '.join(known)}", _EXAMPLE)
        names = {_fold(name): name for name in known}
        self._found: dict[str, tuple[str, object]] = {}
        for key, content in value.items():
            folded = _fold(str(key))
            if folded not in names:
                _refuse_unknown(path, str(key), folded, names)
            if content is None:
                continue
            earlier = self._found.setdefault(folded, (str(key), content))
            if earlier[1] != content:
                _refuse(
                    f"{path}.{key}",
                    f"the same field as {earlier[0]}, with another value",
                    "one of them",
                    f"{names[folded]}: …",
                )

    def take(self, name: str) -> object | None:
        """The field's value, None if it is absent."""
        found = self._found.get(_fold(name))
        return None if found is None else found[1]

    def path(self, name: str) -> str:
        """The field's path as the user spelt it."""
        found = self._found.get(_fold(name))
        return f"{self._path}.{name if found is None else found[0]}"


def _fold(name: str) -> str:
    return name.lower().replace("-", "_")


def _refuse(path: str, what: str, allowed: str, example: str) -> NoReturn:
    raise InvalidInputError(f"{path}: {what}; allowed: {allowed}; for example: {example}")


def _refuse_unknown(path: str, key: str, folded: str, names: Mapping[str, str]) -> NoReturn:
    if path == "spec" and folded in _WITHOUT_MEANING:
        raise InvalidInputError(f"spec.{key}: {_WITHOUT_MEANING[folded]}")
    near = difflib.get_close_matches(folded, names, n=1)
    hint = f"; did you mean {names[near[0]]}?" if near else f"; for example: {_EXAMPLE}"
    raise InvalidInputError(f"{path}.{key[:64]}: unknown field; allowed: {', '.join(names.values())}{hint}")


def _shown(value: object) -> str:
    return "missing" if value is None else f"{str(value)[:80]!r} is not allowed"


def _is(check: Callable[[str], object], text: str) -> bool:
    try:
        check(text)
    except InvalidInputError:
        return False
    return True


def _details(value: object, native: bool) -> list[tuple[str, object]]:
    """The entries of `details`, each with its path: the one volume, or those of which each is one PV."""
    if not isinstance(value, list):
        return [("spec.details", value)]
    if native and len(value) != 1:
        _refuse(
            "spec.details", f"has {len(value)} entries",
            "one (its further hosts go to gluster_hosts), unless kadalu-format is false and each volume is one PV",
            "details: [{gluster_hosts: [node1, node2], gluster_volname: volume_name}]",
        )  # fmt: skip
    if not 1 <= len(value) <= MAX_VOLUMES:
        _refuse("spec.details", f"has {len(value)} entries", f"1 to {MAX_VOLUMES} volumes", _EXAMPLE)
    return [(f"spec.details[{at}]", entry) for at, entry in enumerate(value)]


def _texts(fields: _Fields, name: str, example: str) -> list[str]:
    """A list of texts, or a comma string; absent is empty."""
    value = fields.take(name)
    entries = [] if value is None else value.split(",") if isinstance(value, str) else value
    if not isinstance(entries, list) or not all(isinstance(entry, str) for entry in entries):
        _refuse(fields.path(name), _shown(value), "a list of texts, or one text with commas", example)
    return [text for entry in entries if (text := entry.strip())]


def _hosts(detail: _Fields) -> tuple[str, ...]:
    hosts: dict[str, None] = {}  # a set that keeps its order
    for name in DETAIL_HOSTS:
        for host in _texts(detail, name, f"{name}: node1"):
            if not _is(_check_host, host):
                _refuse(
                    detail.path(name), f"{host[:80]!r}", "host names and addresses, without a port", f"{name}: node1"
                )
            hosts[host] = None
    if not 1 <= len(hosts) <= MAX_HOSTS:
        _refuse(
            detail.path("gluster_node"), "no host given" if not hosts else f"{len(hosts)} hosts",
            f"1 to {MAX_HOSTS} hosts that run glusterd, in any of {', '.join(DETAIL_HOSTS)}", "gluster_node: node1",
        )  # fmt: skip
    return tuple(hosts)


def _check_host(host: str) -> None:
    check_host(host)
    if ":" in host:
        try:
            IPv6Address(host)
        except ValueError as error:
            raise InvalidInputError(str(error)) from error


def _choice(fields: _Fields, name: str, kind: type[_ChoiceT], default: _ChoiceT) -> _ChoiceT:
    value = fields.take(name)
    if value is None:
        return default
    for member in kind:
        if isinstance(value, str) and value.lower() == member.value:
            return member
    _refuse(fields.path(name), _shown(value), ", ".join(kind), f"{name}: {default}")


def _native(fields: _Fields) -> bool:
    """The three spellings of one question; they must agree."""
    words = {"true": True, "native": True, "false": False, "non_native": False}
    answers: dict[str, bool] = {}
    for name, meaning in (("kadalu-format", True), ("single_pv_per_pool", False)):
        value = fields.take(name)
        if value is None:
            continue
        word = _fold(str(value))
        if word not in words or (name == "single_pv_per_pool" and "native" in word):
            _refuse(
                fields.path(name),
                _shown(value),
                "true or false (kadalu_format also: native, non-native)",
                "kadalu-format: true",
            )
        answers[fields.path(name)] = words[word] is meaning
    if len(set(answers.values())) > 1:
        _refuse(" and ".join(answers), "contradict each other", "one of them", "kadalu-format: true")
    return next(iter(answers.values()), True)


def _accepts_risk(fields: _Fields) -> bool:
    accepted = _texts(fields, "accept", f"accept: [{RISK}]")
    for each in accepted:
        if each.lower() != RISK.lower():
            _refuse(fields.path("accept"), f"{each[:64]!r} is not allowed", RISK, f"accept: [{RISK}]")
    return bool(accepted)


def _overcommit(fields: _Fields) -> float:
    value = fields.take("overcommit")
    if value is None:
        return 1.0
    text = "" if isinstance(value, bool) else str(value)
    ratio = float(text) if re.fullmatch(r"[0-9]{1,4}(\.[0-9]{1,6})?", text, re.ASCII) else math.nan
    try:
        return check_overcommit(ratio)
    except InvalidInputError:
        allowed = f"a ratio from {OVERCOMMIT_MIN:g} to {OVERCOMMIT_MAX:g}; 1 promises every byte of the volume once"
        _refuse(fields.path("overcommit"), _shown(value), allowed, "overcommit: 1.5")


def _options(fields: _Fields, entries: Sequence[_Fields]) -> tuple[tuple[str, ...], dict[str, str]]:
    """Those of mounts, and those of the gluster client, which may stand in either field: one set for all volumes."""
    texts = _texts(fields, "mountOptions", "mountOptions: [noatime]")
    bind, options = parse_mount_options(texts, field=fields.path("mountOptions"))
    said = dict.fromkeys(options, fields.path("mountOptions"))
    for detail in entries:
        given, path = detail.take("gluster_options"), detail.path("gluster_options")
        for key, value in ({} if given is None else parse_options(given, field=path)).items():
            if options.setdefault(key, value) != value:
                _refuse(
                    f"{path} and {said[key]}", f"{key} is {value} in one and {options[key]} in the other",
                    "one of them", f"{key}={value}",
                )  # fmt: skip
            said.setdefault(key, path)
    return bind, options


def _tls(fields: _Fields) -> tuple[str | None, Encryption]:
    if fields.take("tls") is None:
        return None, Encryption.NONE
    tls = _Fields(fields.path("tls"), fields.take("tls"), ("secretName", "management"))
    name = tls.take("secretName")
    if not isinstance(name, str) or re.fullmatch(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?", name, re.ASCII) is None:
        _refuse(
            tls.path("secretName"),
            _shown(name),
            "the name of a Secret of this namespace",
            "tls: {secretName: gluster-client}",
        )
    management = tls.take("management")
    if not (management is None or isinstance(management, bool)):
        _refuse(
            tls.path("management"), _shown(management),
            "true (glusterd speaks TLS, the default), or false (bricks alone do)",
            "tls: {secretName: gluster-client, management: false}",
        )  # fmt: skip
    return name, Encryption.BRICKS if management is False else Encryption.ALL
