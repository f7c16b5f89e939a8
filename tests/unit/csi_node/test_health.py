"""What is said of a PV on a node: how bad, a word for machines, and for people what to do."""

from __future__ import annotations

import errno
import os
from dataclasses import replace

import pytest

from kadalu_ext.csi.condition import Status
from kadalu_ext.csi.health import Look, Space, conditions
from kadalu_ext.csi.mounterclient import StorageState
from kadalu_ext.storage import StorageName

GIB = 1 << 30
ROOM = Space(
    total_bytes=GIB, available_bytes=GIB // 2, used_bytes=GIB // 2, inodes=100, available_inodes=60, used_inodes=40
)
EXT = StorageState(name=StorageName("ext"), mounted=True)
DEAD = StorageState(name=StorageName("ext"), mounted=False, reason="its client ended: out of memory")
WELL = Look(path="/p", space=ROOM, storage=EXT)


def failed(number: int, **fields: object) -> Look:
    look = Look(path="/p", error=number, error_text=os.strerror(number) if number else "no answer within 10 s")
    return replace(look, **{"storage": EXT, **fields})  # type: ignore[arg-type]


def told(look: Look) -> list[tuple[Status, str]]:
    return [(each.status, each.reason) for each in conditions(look)]


def test_of_a_pv_that_is_well_nothing_is_said() -> None:
    assert told(WELL) == told(replace(WELL, storage=None)) == []


@pytest.mark.parametrize(
    ("look", "status", "reason"),
    [
        (failed(errno.ENOTCONN, current=False), Status.INACCESSIBLE, "ClientDied"),
        (failed(errno.ECONNABORTED, storage=DEAD), Status.INACCESSIBLE, "ClientDied"),
        (failed(errno.ENOTCONN), Status.INACCESSIBLE, "NoBricks"),
        (failed(0), Status.INACCESSIBLE, "NoAnswer"),
        (failed(errno.EIO), Status.INACCESSIBLE, "Unreadable"),
        (failed(errno.ESTALE), Status.DATA_LOSS, "DirectoryGone"),
        (failed(errno.ENOENT), Status.DATA_LOSS, "DirectoryGone"),
        (replace(WELL, replaced=True), Status.DEGRADED, "ClientReplaced"),
        (replace(WELL, space=replace(ROOM, available_bytes=4096)), Status.DEGRADED, "Full"),
        (replace(WELL, space=replace(ROOM, available_inodes=0)), Status.DEGRADED, "OutOfInodes"),
        (replace(WELL, storage=replace(EXT, hidden_hosts=("h3",))), Status.DEGRADED, "BrickHostSilent"),
        (replace(WELL, storage=replace(EXT, down_bricks=("h3:/b",))), Status.DEGRADED, "BrickDown"),
        (replace(WELL, storage=DEAD), Status.DEGRADED, "StorageNotMounted"),
        (replace(WELL, storage=None, mounter="the mounter does not listen"), Status.DEGRADED, "MounterNotThere"),
    ],
)
def test_each_trouble_has_its_reason(look: Look, status: Status, reason: str) -> None:
    assert told(look) == [(status, reason)]
    (condition,) = conditions(look)
    assert len(condition.message) > 60, "says what to do"


def test_the_worst_comes_first_and_what_the_mounter_says_is_passed_on() -> None:
    look = failed(errno.ESTALE, storage=replace(EXT, down_bricks=("h1:/b", "h2:/b")))
    assert told(look) == [(Status.DATA_LOSS, "DirectoryGone"), (Status.DEGRADED, "BrickDown")]
    assert "h1:/b, h2:/b" in conditions(look)[1].message
    assert "out of memory" in conditions(failed(errno.ENOTCONN, storage=DEAD))[0].message


def test_file_systems_without_inodes_of_their_own_are_not_out_of_them() -> None:
    assert told(replace(WELL, space=replace(ROOM, inodes=0, available_inodes=0, used_inodes=0))) == []
