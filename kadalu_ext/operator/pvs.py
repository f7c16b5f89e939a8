"""The PVs of each storage, as Kubernetes knows them: how many, and what they were promised. Pure; fed by a Follower."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kadalu_ext.errors import InvalidInputError
from kadalu_ext.operator.following import Seen
from kadalu_ext.storage import PROVISIONER
from kadalu_ext.units import parse_quantity


@dataclass(frozen=True, kw_only=True)
class Pv:
    """storage: the name of its storage. provisioned_bytes: its capacity."""

    name: str
    storage: str
    provisioned_bytes: int


@dataclass(frozen=True, kw_only=True)
class Provisioned:
    """What is promised of one storage."""

    pvs: int
    total_bytes: int


def pv_of(seen: Seen) -> Pv | None:
    """The PV that an object of the API server is; None if it is not one of ours."""
    spec = seen.get("spec") or {}
    csi = spec.get("csi") or {}
    storage, slash, _ = str(csi.get("volumeHandle", "")).partition("/")
    if csi.get("driver") != PROVISIONER or not slash:
        return None
    try:
        size = parse_quantity(str((spec.get("capacity") or {}).get("storage")), field="capacity")
    except InvalidInputError:
        size = 0
    return Pv(name=seen["metadata"]["name"], storage=storage, provisioned_bytes=size)


class PvTable:
    """All of them. Thread-safe; `changed` is called with the name of each storage whose PVs changed."""

    def __init__(self, changed: Callable[[str], None]) -> None:
        self._changed = changed
        self._lock = threading.Lock()
        self._pvs: dict[str, Pv] | None = None

    def replace(self, objects: Sequence[Seen]) -> None:
        """These are all."""
        found = {pv.name: pv for pv in map(pv_of, objects) if pv is not None}
        with self._lock:
            before, self._pvs = self._pvs or {}, found
        self._tell({pv.storage for name in before.keys() | found for pv in (before.get(name), found.get(name))
                    if pv is not None and before.get(name) != found.get(name)})  # fmt: skip

    def change(self, kind: str, seen: Seen) -> None:
        """One was ADDED, MODIFIED or DELETED."""
        pv = pv_of(seen)
        if pv is None:
            return
        with self._lock:
            pvs = self._pvs if self._pvs is not None else {}
            before = pvs.pop(pv.name, None)
            if kind != "DELETED":
                pvs[pv.name] = pv
        if kind == "DELETED" or before != pv:
            self._tell({pv.storage})

    def of(self, storage: str) -> Provisioned | None:
        """What is promised of a storage; None as long as nobody knows."""
        with self._lock:
            if self._pvs is None:
                return None
            sizes = [pv.provisioned_bytes for pv in self._pvs.values() if pv.storage == storage]
        return Provisioned(pvs=len(sizes), total_bytes=sum(sizes))

    def _tell(self, storages: set[str]) -> None:
        for storage in storages:
            self._changed(storage)
