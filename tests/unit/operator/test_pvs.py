"""PVs are counted for the storage that their handle names, and their storages hear of every change."""

from __future__ import annotations

from typing import Any

from kadalu_ext.operator.pvs import Provisioned, PvTable


def pv(name: str, storage: str = "ext", size: str = "1Gi", driver: str = "kadalu.external") -> dict[str, Any]:
    csi = {"driver": driver, "volumeHandle": f"{storage}/{name}"}
    return {"metadata": {"name": name}, "spec": {"csi": csi, "capacity": {"storage": size}}}


def test_only_pvs_of_that_storage_are_counted_and_before_the_first_list_nobody_knows() -> None:
    table = PvTable(lambda _: None)
    assert table.of("ext") is None
    nfs = {"metadata": {"name": "n"}, "spec": {"nfs": {}}}
    table.replace([pv("a"), pv("b", size="64Mi"), pv("c", storage="ext-1"), pv("d", driver="other"), nfs])
    assert table.of("ext") == Provisioned(pvs=2, total_bytes=(1024 + 64) << 20)
    assert table.of("none") == Provisioned(pvs=0, total_bytes=0)


def test_a_storage_is_told_of_what_changes_and_of_nothing_else() -> None:
    told: list[str] = []
    table = PvTable(told.append)
    table.replace([pv("a"), pv("b", storage="two")])
    assert sorted(told) == ["ext", "two"]
    told.clear()
    table.change("MODIFIED", pv("a"))
    table.change("MODIFIED", {"metadata": {"name": "x"}, "spec": {}})
    assert told == []
    table.change("MODIFIED", pv("a", size="2Gi"))
    table.change("DELETED", pv("b", storage="two"))
    assert told == ["ext", "two"]
    table.replace([])
    assert told == ["ext", "two", "ext"]
    assert table.of("ext") == Provisioned(pvs=0, total_bytes=0)
