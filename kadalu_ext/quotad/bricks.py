"""The bricks of this host, and which of them are kadalu-quotad's, from glusterd's own files. No CLI, no port.

Files below /var/lib/glusterd (gluster 10.3, xlators/mgmt/glusterd/src/glusterd-store.c): `glusterd.info` has this
host's `UUID=`; `vols/V/info` the volume, its options, and `brick-N=` the names of the files in `vols/V/bricks/`, in
the volume's order; each of those has `uuid=` of its host, `path=` and `real_path=`. glusterd writes them under another
name and renames.

Which volumes: the first of these that is there decides alone. `kadalustorage.info`: the volumes that it names;
`kadalu.info`, Kadalu's own: the bricks that it names, if any; the option user.kadalu-ext.export: a volume where it is
on, none where it is off; and of those that do not have the option, the bricks that hold `info/quota`.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from kadalu_ext.errors import InvalidInputError, UnsupportedVolumeError

GLUSTERD_DIR: Final = "/var/lib/glusterd"
VOLUMES_FILE: Final = "kadalustorage.info"
KADALU_FILE: Final = "kadalu.info"
EXPORT_OPTION: Final = "user.kadalu-ext.export"
MAX_FILE_BYTES: Final = 1 << 20
"""Of any file that is read here; glusterd's are a few KiB."""

_DAMAGED: Final = "glusterd's file is damaged: see glusterd's log, and put it right from another host's"
_UUID: Final = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_TRUE: Final = frozenset({"on", "yes", "true", "enable", "1"})  # gluster's own words, libglusterfs gf_string2boolean


class Choice(StrEnum):
    """Whether a brick is kadalu-quotad's to look after."""

    NAMED = "named"
    """By file or option: what stands in the way is an error."""
    IF_USED = "if used"
    """Nobody said: it is, once it holds `info/quota`."""
    LEFT_OUT = "left out"
    """Nothing is done on it; its records still hold their projects against others on the same file system."""


@dataclass(frozen=True, kw_only=True)
class Brick:
    """A local brick.

    data_bricks: over how many bricks each file's data is spread: 1, or bricks less redundancy for disperse.
    unsupported: why sizes cannot be enforced on this kind of volume, or ''.
    """

    volume: str
    path: str
    arbiter: bool
    data_bricks: int
    choice: Choice
    unsupported: str = ""
    paths: frozenset[str] = field(default=frozenset(), compare=False)
    """Every path that glusterd knows it by."""


@dataclass(frozen=True, kw_only=True)
class Inventory:
    """What glusterd's files say. `problems` are for people; `complete`: no brick can be missing."""

    bricks: tuple[Brick, ...]
    problems: tuple[str, ...]
    complete: bool


def read_inventory(directory: str = GLUSTERD_DIR) -> Inventory:
    """The local bricks, by volume and in its order. Raises nothing: what cannot be read is a problem in the answer."""
    problems: list[str] = []
    bricks: list[Brick] = []
    try:
        uuid = _read_uuid(os.path.join(directory, "glusterd.info"), "UUID")
        with os.scandir(os.path.join(directory, "vols")) as entries:
            volumes = sorted(entry.name for entry in entries)
    except (OSError, InvalidInputError) as error:
        problem = f"{error}: is glusterd installed on this host, and was it ever started?"
        return Inventory(bricks=(), problems=(problem,), complete=False)
    try:
        named = read_volume_names(os.path.join(directory, VOLUMES_FILE))
    except (OSError, InvalidInputError) as error:
        problems.append(f"{error}; no volume is taken until this is mended")
        named = frozenset()
    paths = None
    if named is None:
        try:
            paths = read_brick_paths(os.path.join(directory, KADALU_FILE))
        except (OSError, InvalidInputError) as error:
            problems.append(f"{error}; no brick is taken until this is mended, or {VOLUMES_FILE} is there")
            paths = frozenset()
    complete = True
    for volume in volumes:
        try:
            bricks += _volume_bricks(os.path.join(directory, "vols", volume), volume, uuid, named, paths)
        except (OSError, InvalidInputError) as error:
            words = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else str(error)
            problems.append(f"volume {volume}: {words}; no limit without a record is lifted until this is mended")
            complete = False
    for name in sorted((named or frozenset()) - set(volumes)):
        problems.append(f"{directory}/{VOLUMES_FILE} names {name!r}, a volume that this host's glusterd does not know")
    if complete:
        for path in sorted((paths or frozenset()) - {path for brick in bricks for path in brick.paths}):
            problems.append(f"{directory}/{KADALU_FILE} names {path!r}, which is no brick of this host")
    return Inventory(bricks=tuple(bricks), problems=tuple(problems), complete=complete)


def read_volume_names(path: str) -> frozenset[str] | None:
    """The volumes that the file names: one a line with `#` comments, or a JSON list; None if there is no such file.

    Raises: OSError; InvalidInputError naming the file.
    """
    try:
        text = _read_text(path)
    except FileNotFoundError:
        return None
    if text.lstrip().startswith("["):
        try:
            names = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise InvalidInputError(f"{path}: begins as a JSON list but is not one: {error}") from error
        if not all(isinstance(name, str) for name in names):
            raise InvalidInputError(f'{path}: a JSON list of volume names is expected, such as ["volume1", "volume2"]')
        return frozenset(names)
    return frozenset(filter(None, (line.partition("#")[0].strip() for line in text.splitlines())))


def read_brick_paths(path: str) -> frozenset[str] | None:
    """The bricks that Kadalu's file names: `{"version": 1, "bricks": ["/data/brick1"]}`; None if it names none, as it
    is installed, or is not there.

    Raises: OSError; InvalidInputError naming the file.
    """
    try:
        text = _read_text(path)
    except FileNotFoundError:
        return None
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(f"{path}: not JSON: {error}") from error
    names = content.get("bricks") if isinstance(content, dict) else None
    if not isinstance(names, list) or not all(isinstance(name, str) and name.startswith("/") for name in names):
        raise InvalidInputError(
            f'{path}: a JSON object is expected, such as {{"version": 1, "bricks": ["/data/brick1"]}}'
        )
    return frozenset(name.rstrip("/") for name in names) or None


def _volume_bricks(
    directory: str, volume: str, uuid: str, named: frozenset[str] | None, paths: frozenset[str] | None
) -> Iterator[Brick]:
    info = _read_pairs(os.path.join(directory, "info"))
    arbiters, data_bricks, unsupported = 0, 1, ""
    subvolume = max(1, _number(info, "replica_count", 1), _number(info, "disperse_count", 0))
    count = _number(info, "count")
    try:
        arbiters, data_bricks = _geometry(volume, info, count, subvolume)
    except UnsupportedVolumeError as error:
        unsupported = str(error)
    choice = _choose(volume, info, named)
    by_path = named is None and paths is not None
    for index in range(count):
        file = os.path.join(directory, "bricks", os.path.basename(info.get(f"brick-{index}", "")))
        brick, host = _read_pairs(file), _read_uuid(file, "uuid")
        # real_path: without symlinks, as glusterd found it when the brick was added; path: as somebody typed it
        typed = brick.get("path", "")
        path = brick.get("real_path") or typed
        if not path.startswith("/") or "\0" in path:
            raise InvalidInputError(f"{file}: path={path[:200]!r} is no absolute path; {_DAMAGED}")
        if host == uuid:
            arbiter = index % subvolume >= subvolume - arbiters
            yield Brick(
                volume=volume, path=path, arbiter=arbiter, data_bricks=data_bricks,
                choice=_choose_by_path({typed, path}, paths or ()) if by_path else choice,
                unsupported=unsupported, paths=frozenset({typed, path}),
            )  # fmt: skip


def _geometry(volume: str, info: dict[str, str], count: int, subvolume: int) -> tuple[int, int]:
    """How many of a subvolume's last bricks are arbiters, and over how many bricks data is spread."""
    if count != subvolume:
        raise UnsupportedVolumeError(
            f"volume {volume} is distributed over {count // subvolume} subvolumes, where no directory's limit holds "
            "for a whole PV: use a volume of one subvolume"
        )
    if info.get("features.shard", "off").lower() in _TRUE:
        raise UnsupportedVolumeError(
            f"volume {volume} has features.shard on: shards are kept outside of the PVs' directories and escape any "
            "limit; use a volume without it"
        )
    if _number(info, "thin_arbiter_count", 0):
        raise UnsupportedVolumeError(
            f"volume {volume} has a thin arbiter, which is not supported: use an arbiter brick"
        )
    disperse, redundancy = _number(info, "disperse_count", 0), _number(info, "redundancy_count", 0)
    if disperse and not 0 < redundancy < disperse:
        raise InvalidInputError(f"{disperse} disperse bricks of which {redundancy} are redundant make no sense")
    return _number(info, "arbiter_count", 0), disperse - redundancy if disperse else 1


def _choose(volume: str, info: dict[str, str], named: frozenset[str] | None) -> Choice:
    if named is not None:
        return Choice.NAMED if volume in named else Choice.LEFT_OUT
    option = info.get(EXPORT_OPTION)
    if option is None:
        return Choice.IF_USED
    return Choice.NAMED if option.lower() in _TRUE else Choice.LEFT_OUT


def _choose_by_path(known: Collection[str], named: Collection[str]) -> Choice:
    return Choice.LEFT_OUT if set(known).isdisjoint(named) else Choice.NAMED


def _number(info: dict[str, str], key: str, default: int | None = None) -> int:
    value = info.get(key, "" if default is None else str(default))
    if not value.isascii() or not value.isdigit() or len(value) > 6:
        raise InvalidInputError(f"info: {key}={value[:40]!r} is not a count")
    return int(value)


def _read_uuid(path: str, key: str) -> str:
    # a host's name for itself; half of one would make its bricks another's, and lift their limits
    uuid = _read_pairs(path).get(key, "")
    if _UUID.fullmatch(uuid) is None:
        raise InvalidInputError(f"{path}: {key}={uuid[:40]!r} is no UUID; {_DAMAGED}")
    return uuid


def _read_pairs(path: str) -> dict[str, str]:
    return dict(pair for line in _read_text(path).split("\n") if (pair := line.partition("=")[::2])[0])


def _read_text(path: str) -> str:
    if "\0" in path:
        raise InvalidInputError(f"{path!r} is not a path")
    # O_NONBLOCK: whatever somebody put there, opening it must not wait
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        data = file.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise InvalidInputError(f"{path}: larger than {MAX_FILE_BYTES} bytes")
    try:
        return data.decode("utf-8", "strict" if path.endswith(VOLUMES_FILE) else "surrogateescape")
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"{path}: not UTF-8 text") from error
