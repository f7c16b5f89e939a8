"""What the use cases rely on, held against the volume in memory and a real one through libgfapi."""

from __future__ import annotations

import errno
import secrets
from collections.abc import Callable, Iterator, Sequence

import pytest

from kadalu_ext.claim import CLAIM_XATTR
from kadalu_ext.csi.connection import GlusterConnector
from kadalu_ext.csi.gids import Gids
from kadalu_ext.csi.ports import NO_PARENT, CopyProgress, VolumeStore
from kadalu_ext.csi.promises import Promises
from kadalu_ext.csi.trash import empty
from kadalu_ext.csi.volumes import Bricks, Volumes
from kadalu_ext.errors import CapacityError, ConflictError, DeadlineError, VolumeIOError
from kadalu_ext.gluster.brick import Attribute, BrickAnswer
from kadalu_ext.gluster.gfapi import Volume
from kadalu_ext.layout import GIDS_DIR, pv_path, record_path
from kadalu_ext.record import CANARY, RECORD_XATTR, RECORDS_DIR, PvName
from kadalu_ext.storage import Storage
from kadalu_ext.units import MIB
from tests.testbed import progress
from tests.unit.csi.memory import MemoryBricks, MemoryStore, pv, recorded_size, replica


class StoreContract:
    """What both must do. Subclasses bring the fixtures `store` and `bricks`, and say what a directory has."""

    def mode(self, store: VolumeStore, path: str) -> int:
        raise NotImplementedError

    def gid(self, store: VolumeStore, path: str) -> int:
        raise NotImplementedError

    @pytest.fixture
    def top(self, store: VolumeStore) -> Iterator[str]:
        """A directory of the test's own."""
        top = f"contract-{secrets.token_hex(4)}"
        store.mkdir(top, 0o755)
        yield top
        store.remove_tree(top)

    @pytest.fixture
    def volumes(self, store: VolumeStore, bricks: Bricks) -> Volumes:
        return Volumes(volume="vol", store=store, bricks=bricks, promises=Promises(volume="vol"))

    def test_a_directory_has_the_mode_that_was_asked_for(self, store: VolumeStore, top: str) -> None:
        store.mkdir(f"{top}/pv", 0o777)
        store.mkdir(f"{top}/record", 0o700)
        assert (self.mode(store, f"{top}/pv"), self.mode(store, f"{top}/record")) == (0o777, 0o700)

    def test_what_takes_a_directorys_place_has_another_identity(self, store: VolumeStore, top: str) -> None:
        store.mkdir(f"{top}/pv", 0o755)
        first = store.gfid(f"{top}/pv")
        assert store.gfid(f"{top}/pv") == first != store.gfid(top) and len(first) == 16
        store.rename(f"{top}/pv", f"{top}/moved")
        store.mkdir(f"{top}/pv", 0o755)
        assert store.gfid(f"{top}/moved") == first != store.gfid(f"{top}/pv")
        expect(errno.ENOENT, lambda: store.gfid(f"{top}/missing"))

    def test_a_directory_is_made_once_and_needs_its_parent(self, store: VolumeStore, top: str) -> None:
        expect(errno.EEXIST, lambda: store.mkdir(top, 0o755))
        expect(errno.ENOENT, lambda: store.mkdir(f"{top}/missing/pv", 0o755))

    def test_only_an_empty_directory_is_removed(self, store: VolumeStore, top: str) -> None:
        store.mkdir(f"{top}/pv", 0o755)
        expect(errno.ENOTEMPTY, lambda: store.rmdir(top))
        store.rmdir(f"{top}/pv")
        expect(errno.ENOENT, lambda: store.rmdir(f"{top}/pv"))

    def test_an_attribute_is_read_as_it_was_written(self, store: VolumeStore, top: str) -> None:
        expect(errno.ENODATA, lambda: store.getxattr(top, "user.kadalu.record"))
        for value in (b'{"v":1}', b'{"v":1,"size":2}', b"\0\xff"):
            store.setxattr(top, "user.kadalu.record", value)
            assert store.getxattr(top, "user.kadalu.record") == value
        expect(errno.ENOENT, lambda: store.getxattr(f"{top}/missing", "user.kadalu.record"))

    def test_of_two_that_make_one_attribute_the_second_is_told_and_bricks_list_it(
        self, store: VolumeStore, bricks: Bricks, top: str
    ) -> None:
        name = f"{CLAIM_XATTR}1"
        store.setxattr(top, name, b"first", create=True)
        expect(errno.EEXIST, lambda: store.setxattr(top, name, b"second", create=True))
        assert store.getxattr(top, name) == b"first"

        def listed(sought: str) -> list[object]:
            return [each.attributes for each in bricks.probe.stat_directory(top, Attribute(path=top, name=sought))]

        count = len(bricks.geometry.bricks)
        wait_until("the bricks to list it", lambda: listed(f"{CLAIM_XATTR}*") == [{name: b"first"}] * count)
        wait_until("them to list what is asked for", lambda: listed("user.*") == [{}] * count)
        store.removexattr(top, name)
        expect(errno.ENODATA, lambda: store.removexattr(top, name))

    def test_the_root_of_a_pv_has_owner_and_mode(self, store: VolumeStore, top: str) -> None:
        for _ in range(2):
            store.own(top, uid=0, gid=4711, mode=0o2775)
            assert self.mode(store, top) == 0o2775

    def test_a_rename_takes_attributes_and_contents_along(self, store: VolumeStore, top: str) -> None:
        store.mkdir(f"{top}/old", 0o755)
        store.mkdir(f"{top}/old/below", 0o755)
        store.setxattr(f"{top}/old", "user.kadalu.record", b"x")
        store.rename(f"{top}/old", f"{top}/new")
        assert store.getxattr(f"{top}/new", "user.kadalu.record") == b"x"
        assert (store.listdir(top), store.listdir(f"{top}/new")) == (["new"], ["below"])

    def test_a_rename_replaces_an_empty_directory_and_no_other(self, store: VolumeStore, top: str) -> None:
        for name in ("new", "full", "full/below", "empty"):
            store.mkdir(f"{top}/{name}", 0o755)
        expect(errno.EEXIST, lambda: store.rename(f"{top}/new", f"{top}/full"))
        store.rename(f"{top}/new", f"{top}/empty")
        assert sorted(store.listdir(top)) == ["empty", "full"]
        assert [len(store.listdir(top, most)) for most in (1, 2, 3)] == [1, 2, 2]

    def test_a_rename_tells_apart_whether_source_or_parent_is_missing(self, store: VolumeStore, top: str) -> None:
        expect(errno.ENOENT, lambda: store.rename(f"{top}/missing", f"{top}/new"))
        store.mkdir(f"{top}/old", 0o755)
        expect(NO_PARENT, lambda: store.rename(f"{top}/old", f"{top}/missing/new"))

    def test_a_tree_is_removed_and_its_neighbour_is_not(self, store: VolumeStore, top: str) -> None:
        for name in ("pv", "pv/a", "pv/a/b", "pv2"):
            store.mkdir(f"{top}/{name}", 0o755)
        store.remove_tree(f"{top}/pv")
        store.remove_tree(f"{top}/pv")
        assert store.listdir(top) == ["pv2"]

    def test_a_tree_is_copied_and_copied_again_when_it_has_changed(self, store: VolumeStore, top: str) -> None:
        for name in ("old", "old/a", "old/a/b", "new", "new/stale"):
            store.mkdir(f"{top}/{name}", 0o750)
        store.setxattr(f"{top}/old/a", "user.kept", b"x")
        store.copy_tree(f"{top}/old", f"{top}/new", CopyProgress())
        assert (store.listdir(f"{top}/new"), store.listdir(f"{top}/new/a")) == (["a"], ["b"])
        assert (store.getxattr(f"{top}/new/a", "user.kept"), self.mode(store, f"{top}/new/a")) == (b"x", 0o750)
        store.rmdir(f"{top}/old/a/b")
        store.mkdir(f"{top}/old/c", 0o755)
        store.copy_tree(f"{top}/old", f"{top}/new", CopyProgress())
        assert (sorted(store.listdir(f"{top}/new")), store.listdir(f"{top}/new/a")) == (["a", "c"], [])

    def test_a_copy_can_be_stopped_and_needs_its_source_and_target(self, store: VolumeStore, top: str) -> None:
        for name in ("old", "old/a", "new"):
            store.mkdir(f"{top}/{name}", 0o755)
        progress = CopyProgress()
        progress.stop()
        with pytest.raises(DeadlineError):
            store.copy_tree(f"{top}/old", f"{top}/new", progress)
        expect(errno.ENOENT, lambda: store.copy_tree(f"{top}/missing", f"{top}/new", CopyProgress()))
        expect(errno.ENOENT, lambda: store.copy_tree(f"{top}/old", f"{top}/missing", CopyProgress()))

    def test_a_missing_directory_cannot_be_listed(self, store: VolumeStore, top: str) -> None:
        expect(errno.ENOENT, lambda: store.listdir(f"{top}/missing"))

    def test_the_volume_has_a_size(self, store: VolumeStore) -> None:
        assert store.statvfs("").total_bytes > 64 * MIB

    def test_a_pv_is_made_again_and_again_and_is_gone_when_deleted(self, store: VolumeStore, volumes: Volumes) -> None:
        name = new_pv()
        for _ in range(2):
            gfid = volumes.make(pv(name, 4 * MIB))
        probe = volumes.bricks.probe
        wait_until("all by its path", lambda: all(each.stat for each in probe.stat_directory(pv_path(name))))
        wait_until("all by its gfid", lambda: all(each.stat for each in probe.stat_directory(pv_path(name), gfid=gfid)))
        assert (self.mode(store, pv_path(name)), recorded_size(store, name)) == (0o777, 4 * MIB)
        assert [entry for entry in store.listdir(RECORDS_DIR) if name in entry] == [name]
        with pytest.raises(ConflictError):
            volumes.make(pv(name, 8 * MIB))
        for _ in range(2):
            volumes.delete(name)
        assert name not in store.listdir(pv_path(name).rpartition("/")[0])
        assert recorded_size(store, name) is None
        assert empty(store) == {} and store.listdir("trash") == []
        volumes.make(pv(name, 4 * MIB))
        wait_until(
            "none by that of the one before", lambda: all(map(gone, probe.stat_directory(pv_path(name), gfid=gfid)))
        )
        volumes.delete(name)
        assert empty(store) == {}

    def test_a_group_is_one_pvs_alone_and_free_when_that_is_gone(self, store: VolumeStore, volumes: Volumes) -> None:
        first, second, gids = new_pv(), new_pv(), Gids(least=2000, most=2000)
        for _ in range(2):
            volumes.make(pv(first, 4 * MIB), gids=gids)
        assert (self.mode(store, pv_path(first)), self.gid(store, pv_path(first))) == (0o2775, 2000)
        with pytest.raises(CapacityError, match="all 1 groups from 2000 to 2000"):
            volumes.make(pv(second, 4 * MIB), gids=gids)
        assert [entry for entry in store.listdir(RECORDS_DIR) if second in entry] == []
        volumes.delete(first)
        volumes.make(pv(second, 4 * MIB), gids=gids)
        assert store.listdir(GIDS_DIR) == [f"2000.{second}"]
        volumes.delete(second)
        assert store.listdir(GIDS_DIR) == []
        assert empty(store) == {}

    def test_a_pv_that_grew_twice_is_gone_when_deleted_and_so_is_what_told_of_it(
        self, store: VolumeStore, volumes: Volumes
    ) -> None:
        name = new_pv()
        volumes.make(pv(name, 4 * MIB))
        for size in (8 * MIB, 12 * MIB):
            volumes.grow(name, size)
        assert recorded_size(store, name) == 12 * MIB
        assert len([entry for entry in store.listdir(RECORDS_DIR) if name in entry]) == 2
        volumes.delete(name)
        assert [entry for entry in store.listdir(RECORDS_DIR) if name in entry] == []
        assert empty(store) == {}

    def test_what_is_archived_is_there_and_counts_until_it_is_removed(
        self, store: VolumeStore, volumes: Volumes
    ) -> None:
        name, before = new_pv(), volumes.promised()
        volumes.make(pv(name, 4 * MIB))
        for _ in range(2):
            volumes.archive(name)
        (entry,) = [entry for entry in store.listdir("archived") if name in entry]
        assert volumes.promised().size_bytes == before.size_bytes + 4 * MIB
        volumes.make(pv(name, 8 * MIB))
        volumes.delete(name)
        store.remove_tree(f"archived/{entry}")
        assert volumes.promised() == before
        assert [each for each in store.listdir(RECORDS_DIR) if name in each] == []
        assert empty(store) == {}

    def test_every_brick_has_the_canarys_record_as_it_was_written_last(
        self, store: VolumeStore, volumes: Volumes, bricks: Bricks
    ) -> None:
        record = Attribute(path=record_path(CANARY), name=RECORD_XATTR)
        for _ in range(2):
            volumes.beat()
        written = store.getxattr(record.path, record.name)

        def answers() -> Sequence[BrickAnswer]:
            return bricks.probe.stat_directory(pv_path(CANARY), record)

        wait_until("the bricks to have it", lambda: {each.attribute for each in answers()} == {written})
        volumes.delete(CANARY)
        wait_until(
            "the bricks to have nothing of it", lambda: all(each.attribute is None and gone(each) for each in answers())
        )
        assert empty(store) == {}

    def test_more_than_the_volume_is_not_promised(self, store: VolumeStore, volumes: Volumes) -> None:
        name = new_pv()
        with pytest.raises(CapacityError, match="more than the whole volume"):
            volumes.make(pv(name, store.statvfs("").total_bytes + 4096))
        expect(errno.ENOENT, lambda: store.rmdir(record_path(name)))


def new_pv() -> PvName:
    return PvName(f"pvc-{secrets.token_hex(8)}")


def gone(answer: BrickAnswer) -> bool:
    return answer.up and "it has no directory" in str(answer.error)


def wait_until(what: str, condition: Callable[[], bool]) -> None:
    """The bricks of a busy machine may be too slow for once."""
    progress.wait_until(what, condition, seconds=180)


def expect(allowed: int | tuple[int, ...], call: Callable[[], object]) -> None:
    """`call` fails with that errno, or one of these."""
    with pytest.raises(VolumeIOError) as raised:
        call()
    allowed = allowed if isinstance(allowed, tuple) else (allowed,)
    assert errno.errorcode[raised.value.errno] in {errno.errorcode[number] for number in allowed}


class TestMemory(StoreContract):
    @pytest.fixture
    def store(self) -> MemoryStore:
        return MemoryStore()

    @pytest.fixture
    def bricks(self, store: MemoryStore) -> Bricks:
        return Bricks(geometry=replica(), probe=MemoryBricks(store))

    def mode(self, store: VolumeStore, path: str) -> int:
        assert isinstance(store, MemoryStore)
        return store.nodes[path].mode

    def gid(self, store: VolumeStore, path: str) -> int:
        assert isinstance(store, MemoryStore)
        return store.nodes[path].gid


@pytest.fixture(scope="module")
def gluster_store(gluster_volume: Storage) -> Iterator[VolumeStore]:
    store = GlusterConnector().store(gluster_volume)
    try:
        wait_until("its client to have started", lambda: started(store))
        yield store
    finally:
        store.close()


def started(store: VolumeStore) -> bool:
    try:
        return store.statvfs("").total_bytes > 0
    except DeadlineError:
        return False


@pytest.fixture(scope="module")
def gluster_bricks(gluster_volume: Storage) -> Iterator[Bricks]:
    facts = GlusterConnector().facts(gluster_volume)
    probe = GlusterConnector().probe(gluster_volume, facts)
    yield Bricks(geometry=facts.geometry, probe=probe)
    probe.close()


class TestGluster(StoreContract):
    @pytest.fixture
    def store(self, gluster_store: VolumeStore) -> VolumeStore:
        return gluster_store

    @pytest.fixture
    def bricks(self, gluster_bricks: Bricks) -> Bricks:
        return gluster_bricks

    def mode(self, store: VolumeStore, path: str) -> int:
        assert isinstance(store, Volume)
        return store.stat(path).mode & 0o7777

    def gid(self, store: VolumeStore, path: str) -> int:
        assert isinstance(store, Volume)
        return store.stat(path).gid
