"""Clones and snapshots as csi-provisioner and csi-snapshotter ask for them, on a volume in memory."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import grpc
import pytest

from kadalu_ext.api import csi_pb2
from kadalu_ext.csi import clients, filling
from kadalu_ext.csi.ports import CopyProgress
from kadalu_ext.errors import DeadlineError, VolumeIOError
from kadalu_ext.layout import pv_path, record_path
from kadalu_ext.record import RECORD_XATTR, PvName, decode, snapshot_name
from kadalu_ext.storage import StorageName, to_json
from kadalu_ext.units import GIB, MIB
from tests.unit.csi.memory import STORAGE, Space
from tests.unit.csi.test_controller import Driver, refused
from tests.unit.csi.test_params import capability, request

Code = grpc.StatusCode


class Site(Driver):
    """With a PV `pvc-1` of 64 MiB that has a file, and calls that a test can hold up."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        (self.storages / "ext.json").write_text(to_json(STORAGE))
        self.volume_id = self.create().volume_id
        self.store.write(f"{pv_path(PvName('pvc-1'))}/file")
        self.go = threading.Event()
        self.go.set()
        self.copies = 0
        self.fails: Exception | None = None
        self._copy = self.store.copy_tree
        self.store.copy_tree = self._held  # type: ignore[method-assign,assignment]

    def _held(self, source: str, target: str, progress: CopyProgress, *, server_side: bool = False) -> None:
        self.copies += 1
        while not self.go.wait(0.005):
            if progress.stopped:
                raise DeadlineError("stopped")
        if self.fails is not None:
            raise self.fails
        self._copy(source, target, progress, server_side=server_side)

    def clone(
        self, name: str = "pvc-2", size: int | None = 64 * MIB, *, timeout: float = 10, **source: str
    ) -> csi_pb2.Volume:
        asked = request(name, size)
        if "snapshot_id" in source:
            asked.volume_content_source.snapshot.snapshot_id = source["snapshot_id"]
        else:
            asked.volume_content_source.volume.volume_id = source.get("volume_id", self.volume_id)
        return self.controller.CreateVolume(asked, timeout=timeout).volume

    def snapshot(self, name: str = "s-1", volume_id: str | None = None) -> csi_pb2.Snapshot:
        asked = csi_pb2.CreateSnapshotRequest(name=name, source_volume_id=volume_id or self.volume_id)
        return self.controller.CreateSnapshot(asked, timeout=10).snapshot

    def delete_snapshot(self, snapshot_id: str) -> None:
        self.controller.DeleteSnapshot(csi_pb2.DeleteSnapshotRequest(snapshot_id=snapshot_id), timeout=10)

    def listed(self, **asked: object) -> tuple[list[str], str]:
        reply = self.controller.ListSnapshots(csi_pb2.ListSnapshotsRequest(**asked), timeout=10)  # type: ignore[arg-type]
        return [entry.snapshot.snapshot_id for entry in reply.entries], reply.next_token

    def files(self, name: str) -> list[str]:
        return [path for path in self.store.nodes if path.startswith(f"{pv_path(PvName(name))}/")]

    def filling(self, name: str) -> bool:
        return decode(name, self.store.nodes[record_path(PvName(name))].xattrs[RECORD_XATTR]).filling


@pytest.fixture
def on(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setattr(clients, "_SNAPSHOT_S", 0.2)
    with tempfile.TemporaryDirectory() as directory:
        site = Site(Path(directory))
        yield site
        site.go.set()
        site.close()


def until(what: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_clone_has_what_its_source_has_and_says_where_it_is_from(on: Site) -> None:
    volume = on.clone(size=128 * MIB)
    assert (volume.volume_id, volume.capacity_bytes) == ("ext/pvc-2", 128 * MIB)
    assert volume.content_source.volume.volume_id == on.volume_id
    assert [path.rpartition("/")[2] for path in on.files("pvc-2")] == ["file"]
    assert on.clone(size=128 * MIB) == volume and on.copies == 1
    on.delete(on.volume_id)
    assert on.clone(size=128 * MIB) == volume


def test_without_a_size_a_clone_is_as_large_as_its_source(on: Site) -> None:
    assert on.clone(size=None).capacity_bytes == 64 * MIB


def test_until_a_clone_is_whole_its_caller_hears_how_far_it_is(on: Site) -> None:
    on.go.clear()
    for _ in range(2):
        with refused(Code.ABORTED, "ext/pvc-2: it is being filled from pvc-1 for"):
            on.clone(timeout=1)
    assert on.filling("pvc-2") and on.copies == 1
    on.go.set()
    until(lambda: not on.filling("pvc-2"))
    assert on.clone().volume_id == "ext/pvc-2"


def test_what_waits_for_its_turn_says_so_and_what_is_at_work_is_counted(
    on: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = Space(total_bytes=64 * MIB, free_bytes=48 * MIB)
    monkeypatch.setattr(on.store, "statvfs", lambda path: space if path else Space(total_bytes=GIB, free_bytes=GIB))
    on.go.clear()
    for name in ("pvc-2", "pvc-3"):
        with refused(Code.ABORTED, " s, so far 0 files, 0 B of about 16 MiB"):
            on.clone(name, timeout=2)
    with refused(Code.ABORTED, "ext/pvc-4: it waits for its turn to be filled from pvc-1; 2 at a time are"):
        on.clone("pvc-4", timeout=1)
    (figures,) = on.clients.figures()
    assert figures.waiting == 1
    assert [(copy.name, copy.known_bytes) for copy in figures.copies] == [("pvc-2", 16 * MIB), ("pvc-3", 16 * MIB)]
    assert (figures.connected, figures.running, figures.oldest_s) == (True, 0, 0.0)


def test_nothing_is_copied_before_every_brick_enforces(on: Site) -> None:
    on.bricks.idle = {"h2"}
    with refused(Code.UNAVAILABLE, "h2"):
        on.clone(timeout=2)
    assert on.copies == 0 and on.files("pvc-2") == []
    on.bricks.idle = set()
    on.clone()
    assert on.copies == 1


@pytest.mark.parametrize("size", [32 * MIB, 63 * MIB])
def test_a_clone_smaller_than_its_source_is_out_of_range(on: Site, size: int) -> None:
    with refused(Code.OUT_OF_RANGE, "less than its source pvc-1 has: 64 MiB"):
        on.clone(size=size)
    assert record_path(PvName("pvc-2")) not in on.store.nodes


def test_a_source_that_is_not_there_is_not_found(on: Site) -> None:
    for source in ("ext/pvc-9", "ext/snapshot.s-9", "nonsense"):
        with refused(Code.NOT_FOUND, ""):
            on.clone(volume_id=source)
        with refused(Code.NOT_FOUND, ""):
            on.clone(snapshot_id=source)
    with refused(Code.NOT_FOUND, "pvc-9"):
        on.snapshot(volume_id="ext/pvc-9")


def test_one_name_is_not_given_to_copies_of_two_sources(on: Site) -> None:
    on.create("pvc-3")
    on.clone()
    with refused(Code.ALREADY_EXISTS, "exists as a copy of pvc-1"):
        on.clone(volume_id="ext/pvc-3")
    with refused(Code.ALREADY_EXISTS, "exists as a copy of pvc-1"):
        on.create("pvc-2")
    on.snapshot()
    with refused(Code.ALREADY_EXISTS, "exists as a snapshot of pvc-1"):
        on.snapshot(volume_id="ext/pvc-3")


def test_a_copy_that_is_deleted_in_the_middle_is_gone_and_nobody_goes_on_with_it(on: Site) -> None:
    on.go.clear()
    with refused(Code.ABORTED, "being filled"):
        on.clone(timeout=1)
    on.delete("ext/pvc-2")
    assert record_path(PvName("pvc-2")) not in on.store.nodes and pv_path(PvName("pvc-2")) not in on.store.nodes
    on.go.set()
    on.create("pvc-2")
    assert on.files("pvc-2") == []


def test_what_is_just_being_copied_is_not_deleted(on: Site) -> None:
    on.go.clear()
    with refused(Code.ABORTED, "being filled"):
        on.clone(timeout=1)
    with refused(Code.ABORTED, "it is being copied to pvc-2"):
        on.delete(on.volume_id)
    on.go.set()
    until(lambda: not on.filling("pvc-2"))
    until(lambda: on.clients.of(STORAGE).ask(lambda volumes: volumes.names())(10))
    on.delete(on.volume_id)


def test_of_a_copy_whose_source_went_away_nothing_is_left(on: Site) -> None:
    on.go.clear()
    with refused(Code.ABORTED, "being filled"):
        on.clone(timeout=1)
    for path in [pv_path(PvName("pvc-1")), *on.files("pvc-1")]:
        del on.store.nodes[path]  # another controller's doing
    on.go.set()
    with refused(Code.NOT_FOUND, "its source pvc-1 was deleted before the copy was whole"):
        on.clone()
    assert record_path(PvName("pvc-2")) not in on.store.nodes and pv_path(PvName("pvc-2")) not in on.store.nodes


def test_why_a_copy_fails_is_told_and_the_next_call_tries_again(on: Site) -> None:
    on.fails = VolumeIOError(28, "volume vol: cannot copy: data/big: No space left on device")
    with refused(
        Code.UNAVAILABLE, "64 MiB do not hold what pvc-1 has, or the bricks are full: volume vol: cannot copy"
    ):
        on.clone()
    on.fails = None
    on.clone()
    assert on.copies == 2


def test_a_snapshot_is_ready_when_it_is_whole_and_can_be_restored(on: Site) -> None:
    on.go.clear()
    snapshot = on.snapshot()
    assert (snapshot.snapshot_id, snapshot.source_volume_id) == ("ext/snapshot.s-1", on.volume_id)
    assert (snapshot.size_bytes, snapshot.ready_to_use) == (64 * MIB, False)
    assert abs(snapshot.creation_time.seconds - time.time()) < 60
    with refused(Code.ABORTED, "itself still being filled"):
        on.clone(snapshot_id=snapshot.snapshot_id)
    on.go.set()
    until(lambda: on.snapshot().ready_to_use)
    assert on.snapshot().creation_time == snapshot.creation_time
    on.delete(on.volume_id)
    restored = on.clone(snapshot_id=snapshot.snapshot_id)
    assert restored.content_source.snapshot.snapshot_id == snapshot.snapshot_id
    assert [path.rpartition("/")[2] for path in on.files("pvc-2")] == ["file"]


def test_a_snapshot_is_charged_and_its_deletion_gives_that_back(on: Site) -> None:
    on.create("pvc-large", 896 * MIB)
    snapshot = on.snapshot()
    with refused(Code.OUT_OF_RANGE, "1 GiB are promised to 3 PVs"):
        on.create("pvc-2")
    for _ in range(2):
        on.delete_snapshot(snapshot.snapshot_id)
    assert record_path(snapshot_name("s-1")) not in on.store.nodes
    on.create("pvc-2")


def test_a_snapshot_is_no_volume(on: Site) -> None:
    snapshot = on.snapshot()
    on.delete(snapshot.snapshot_id)
    assert on.listed()[0] == [snapshot.snapshot_id]
    with refused(Code.NOT_FOUND, "is a snapshot"):
        on.validate(snapshot.snapshot_id, capability())
    with refused(Code.NOT_FOUND, "is a snapshot"):
        on.snapshot("of-a-snapshot", snapshot.snapshot_id)


def test_snapshots_are_listed_by_pages_by_id_and_by_source(on: Site) -> None:
    other = on.create("pvc-3").volume_id
    for name in ("a", "b", "c"):
        on.snapshot(name)
    on.snapshot("d", other)
    first, token = on.listed(max_entries=3)
    assert (first, token) == (["ext/snapshot.a", "ext/snapshot.b", "ext/snapshot.c"], "ext/snapshot.c")
    on.delete_snapshot(token)
    assert on.listed(starting_token=token) == (["ext/snapshot.d"], "")
    assert on.listed(snapshot_id="ext/snapshot.b") == (["ext/snapshot.b"], "")
    assert on.listed(source_volume_id=other) == (["ext/snapshot.d"], "")
    for nothing in ({"snapshot_id": "ext/snapshot.x"}, {"snapshot_id": "x"}, {"source_volume_id": "x"}):
        assert on.listed(**nothing) == ([], "")
    got = on.controller.GetSnapshot(csi_pb2.GetSnapshotRequest(snapshot_id="ext/snapshot.b"), timeout=10).snapshot
    assert (got.source_volume_id, got.ready_to_use) == (on.volume_id, True)
    for unknown in ("ext/snapshot.x", "x", on.volume_id):
        with refused(Code.NOT_FOUND, "there is no"):
            on.controller.GetSnapshot(csi_pb2.GetSnapshotRequest(snapshot_id=unknown), timeout=10)
    with refused(Code.ABORTED, "starting_token: 'x' is none of ours"):
        on.listed(starting_token="x")  # noqa: S106


def test_storages_that_share_a_volume_list_its_snapshots_once(on: Site) -> None:
    other = replace(STORAGE, name=StorageName("other"))
    (on.storages / "other.json").write_text(to_json(other))
    on.snapshot()
    assert on.listed() == (["ext/snapshot.s-1"], "")
    assert on.listed(snapshot_id="other/snapshot.s-1") == (["other/snapshot.s-1"], "")


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (csi_pb2.CreateSnapshotRequest(source_volume_id="ext/pvc-1"), "name: missing"),
        (csi_pb2.CreateSnapshotRequest(name="s"), "source_volume_id: missing"),
        (csi_pb2.CreateSnapshotRequest(name="../s", source_volume_id="ext/pvc-1"), "not usable as a PV's name"),
        (csi_pb2.CreateSnapshotRequest(name="s", source_volume_id="ext/pvc-1", parameters={"x": "y"}), "parameters.x"),
    ],
)
def test_a_request_for_a_snapshot_that_makes_no_sense_is_refused_by_field(
    on: Site, asked: csi_pb2.CreateSnapshotRequest, says: str
) -> None:
    with refused(Code.INVALID_ARGUMENT, says):
        on.controller.CreateSnapshot(asked, timeout=10)


def test_a_copy_of_more_names_than_can_be_listed_is_gone_on_with(on: Site) -> None:
    for number in range(20):
        on.store.write(f"{pv_path(PvName('pvc-1'))}/{number}")
    on.store.listed = 10
    on.fails = VolumeIOError(5, "pvc-2: input/output error")
    with refused(Code.UNAVAILABLE, "input/output error"):
        on.clone()
    for number in range(20):
        on.store.write(f"{pv_path(PvName('pvc-2'))}/{number}")
    on.fails = None
    on.clone()
    until(lambda: not on.filling("pvc-2"))
    assert len(on.files("pvc-2")) == 21


def test_a_controller_that_is_started_anew_goes_on_with_what_is_not_whole(on: Site) -> None:
    on.go.clear()
    with refused(Code.ABORTED, "being filled"):
        on.clone(timeout=1)
    on.clients.close()
    on.go.set()
    until(lambda: on.filling("pvc-2"))
    with tempfile.TemporaryDirectory() as directory:
        again = Driver(Path(directory))
        again.store, again.bricks = on.store, on.bricks
        again.clients._shared = replace(again.clients._shared, connector=on.clients._shared.connector)
        again.create("pvc-7")
        until(lambda: not on.filling("pvc-2"))
        again.close()
    assert [path.rpartition("/")[2] for path in on.files("pvc-2")] == ["file"]


def test_only_a_few_copies_are_made_at_a_time(on: Site) -> None:
    on.go.clear()
    for number in range(filling.AT_A_TIME + 2):
        on.snapshot(f"s-{number}")
    assert on.copies == filling.AT_A_TIME
    on.delete_snapshot(f"ext/snapshot.s-{filling.AT_A_TIME + 1}")
    on.go.set()
    until(lambda: on.copies >= filling.AT_A_TIME + 1)
