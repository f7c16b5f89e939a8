"""The groups that PVs of their own group may have: the range that a StorageClass names, and who is to get which. Pure.

The parameters are those of Kubernetes' own provisioner for heketi, which was removed in 1.26 (pkg/volume/glusterfs
there), with its bounds: `gidMin` (2000) and `gidMax` (2147483647). That one gave every PV a group; here only a
StorageClass that names one of the two does.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import xxhash

from kadalu_ext.errors import CapacityError, ConflictError, InvalidInputError
from kadalu_ext.record import PvName

LEAST: Final = 2000
MOST: Final = (1 << 31) - 1

PARAMETERS: Final = ("gidMin", "gidMax")
"""Of a StorageClass; either may be left out."""


@dataclass(frozen=True, kw_only=True)
class Gids:
    """All from `least` to `most`."""

    least: int
    most: int

    def __contains__(self, gid: object) -> bool:
        return isinstance(gid, int) and self.least <= gid <= self.most

    def __len__(self) -> int:
        return self.most - self.least + 1

    def __str__(self) -> str:
        return f"{self.least} to {self.most}"

    def candidates(self, name: PvName) -> Iterator[int]:
        """Each once, in the order in which the PV wants them: not all begin with the same, so that they rarely meet."""
        first = int(xxhash.xxh64_intdigest(name.encode())) % len(self)
        return (self.least + (first + step) % len(self) for step in range(len(self)))

    def free(self, name: PvName, taken: Container[int | None]) -> int | None:
        """The one that the PV wants most of those that are not taken; None if all are."""
        return next((gid for gid in self.candidates(name) if gid not in taken), None)

    def exhausted(self, name: PvName, where: str) -> CapacityError:
        """What the PV gets to hear if none is left. where: a volume or storage, as it is called."""
        return CapacityError(
            f"{name}: {where} has PVs with all {len(self)} groups from {self}; let the StorageClass have more (gidMin, "
            "gidMax), or delete claims"
        )


def parse(parameters: Mapping[str, str]) -> Gids | None:
    """The range that a StorageClass names; None if its PVs have no group of their own.

    Raises: InvalidInputError naming the parameter.
    """
    if not any(key in parameters for key in PARAMETERS):
        return None
    least, most = (_gid(parameters, key, default) for key, default in zip(PARAMETERS, (LEAST, MOST), strict=True))
    if least > most:
        raise InvalidInputError(f"parameters.gidMin: {least} is more than gidMax, {most}")
    return Gids(least=least, most=most)


def check_group(name: PvName, gid: int | None, gids: Gids | None) -> None:
    """Raises: ConflictError unless the PV that there is has a group such as is asked for."""
    if gid is not None if gids is None else gid not in gids:
        has = "no group of its own" if gid is None else f"group {gid}"
        wanted = "none" if gids is None else f"one from {gids}"
        raise ConflictError(f"{name}: exists with {has}, and was asked for with {wanted}; choose another name")


def _gid(parameters: Mapping[str, str], key: str, default: int) -> int:
    text = parameters.get(key, str(default))
    if re.fullmatch(r"[0-9]{1,10}", text, re.ASCII) is None or not LEAST <= int(text) <= MOST:
        raise InvalidInputError(f"parameters.{key}: {text[:32]!r} is not a whole number from {LEAST} to {MOST}")
    return int(text)
