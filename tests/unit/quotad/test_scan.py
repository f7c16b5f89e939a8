"""Looking at bricks that somebody hostile has written to."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from kadalu_ext.errors import QuotaError, RecordError
from kadalu_ext.quotad import scan
from kadalu_ext.quotad.bricks import Brick, Choice
from kadalu_ext.record import QuotaRecord
from tests.unit.quotad.fakes import FakeXfs, make_pv, put_record


@pytest.fixture(params=["openat2", "without openat2"])
def root(tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """What is opened step by step, for want of openat2, is opened no less carefully."""
    if request.param != "openat2":
        monkeypatch.setattr(scan, "_SYS_OPENAT2", 0xFFFF)  # no call's number: ENOSYS
    fd = os.open(tmp_path, os.O_RDONLY)
    yield fd
    os.close(fd)


def opened(path: Path, fd: int) -> scan.OpenBrick:
    brick = Brick(volume="v", path=str(path), arbiter=False, data_bricks=1, choice=Choice.NAMED)
    table = FakeXfs(path).projects
    return scan.OpenBrick(brick=brick, root=fd, device=path.stat().st_dev, block_bytes=4096, table=table)


def test_a_record_is_read_by_its_name(tmp_path: Path, root: int) -> None:
    put_record(tmp_path, "pvc-1", size=123)
    assert scan.read_record(root, "pvc-1") == QuotaRecord(path="subvol/0a/1b/pvc-1", size_bytes=123)
    assert scan.read_record(root, "pvc-2") is None


def test_records_in_preparation_are_passed_over(tmp_path: Path, root: int) -> None:
    assert scan.record_names(root) == {}
    put_record(tmp_path, "pvc-2")
    put_record(tmp_path, "pvc-1")
    (tmp_path / "info/quota/.pvc-3.new").mkdir()
    (tmp_path / "info/quota/odd").touch()
    assert list(scan.record_names(root).items()) == [("odd", False), ("pvc-1", True), ("pvc-2", True)]


@pytest.mark.parametrize(
    "value",
    [b"", b"{}", b"[" * 4000, b"\xff", b'{"v":1,"path":"subvol/0a/1b/../../../etc","size":1}',
     b'{"v":1,"path":"/etc","size":1}', b'{"v":1,"path":"subvol/0a/1b/pvc-2","size":1}',
     b'{"v":1,"path":"subvol/0a/1b/bad","size":0}', b'{"v":1,"path":"subvol/0a/1b/bad","size":1e400}',
     b'{"v":2,"path":"subvol/0a/1b/bad","size":1}', b'{"v":1,"path":".glusterfs/0a/1b/bad","size":1}'],
)  # fmt: skip
def test_a_hostile_value_is_refused_by_name(tmp_path: Path, root: int, value: bytes) -> None:
    put_record(tmp_path, "bad", value)
    with pytest.raises(RecordError, match="record bad"):
        scan.read_record(root, "bad")


def test_a_record_that_is_a_symlink_or_a_file_is_refused(tmp_path: Path, root: int) -> None:
    good = put_record(tmp_path, "pvc-1")
    (good.parent / "link").symlink_to(good)
    (good.parent / "file").write_text("{}")
    (good.parent / "bare").mkdir()
    for name, why in [("link", "symlink or file"), ("file", "symlink or file"), ("bare", "has no xattr")]:
        with pytest.raises(RecordError, match=why):
            scan.read_record(root, name)


def test_a_symlink_on_the_way_to_the_records_hides_them(tmp_path: Path, root: int) -> None:
    put_record(tmp_path / "elsewhere", "pvc-1")
    (tmp_path / "info").symlink_to(tmp_path / "elsewhere" / "info")
    with pytest.raises(NotADirectoryError):
        scan.record_names(root)


@pytest.mark.parametrize("depth", [0, 1, 2, 3])
def test_a_pv_behind_a_symlink_is_refused(tmp_path: Path, root: int, depth: int) -> None:
    target = make_pv(tmp_path / "elsewhere", "pvc-1")
    parts = Path("subvol/0a/1b/pvc-1").parts
    link = tmp_path.joinpath(*parts[: depth + 1])
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to((tmp_path / "elsewhere").joinpath(*parts[: depth + 1]))
    with (
        pytest.raises(RecordError, match="symlink"),
        scan.open_pv(opened(tmp_path, root), QuotaRecord(path="subvol/0a/1b/pvc-1", size_bytes=1)),
    ):
        pass
    assert target.is_dir()


@pytest.mark.parametrize("path", ["..", "a/../..", "/etc", "a//b", "", "./a"])
def test_only_plain_components_are_opened(tmp_path: Path, root: int, path: str) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    with pytest.raises(NotADirectoryError), scan.open_beneath(root, path):
        pass


def test_a_pv_is_found_by_name_when_its_record_cannot_be_read(tmp_path: Path, root: int) -> None:
    wanted = make_pv(tmp_path, "pvc-1")
    make_pv(tmp_path, "pvc-2")
    (tmp_path / "subvol/0a/1b/pvc-3").symlink_to(wanted)
    found = {name: os.fstat(fd).st_ino for name, fd in scan.find_pvs(root, {"pvc-1", "pvc-3"})}
    assert found == {"pvc-1": wanted.stat().st_ino}


def test_a_brick_whose_file_system_is_not_mounted_is_refused(tmp_path: Path) -> None:
    brick = Brick(volume="v", path=str(tmp_path), arbiter=False, data_bricks=1, choice=Choice.NAMED)
    with (
        pytest.raises(QuotaError, match="mount its file system"),
        scan.open_brick(brick, FakeXfs(tmp_path), check=True),
    ):
        pass


def test_nothing_stays_open(tmp_path: Path, root: int) -> None:
    put_record(tmp_path, "pvc-1")
    make_pv(tmp_path, "pvc-1")
    before = os.listdir("/proc/self/fd")
    record = scan.read_record(root, "pvc-1")
    assert record is not None
    with scan.open_pv(opened(tmp_path, root), record):
        pass
    list(scan.find_pvs(root, {"pvc-1"}))
    scan.record_names(root)
    assert os.listdir("/proc/self/fd") == before


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC, errno.EROFS, errno.EUCLEAN])
def test_what_the_kernel_says_of_a_disk_comes_with_what_to_do(code: int) -> None:
    words, _, remedy = scan.reason(OSError(code, os.strerror(code))).partition(": ")
    assert words == os.strerror(code)
    assert remedy


def test_a_brick_is_opened_once_a_slice_and_stays_open_for_who_is_not_done(tmp_path: Path) -> None:
    (tmp_path / ".glusterfs").mkdir()
    brick = Brick(volume="v", path=str(tmp_path), arbiter=False, data_bricks=1, choice=Choice.NAMED)
    hand = scan.BricksAtHand(FakeXfs(tmp_path))
    with hand.borrow(brick) as first:
        with hand.borrow(brick) as second:
            assert second.root == first.root
        hand.let_go()
        os.fstat(first.root)
        with hand.borrow(brick) as later:
            assert later.root != first.root
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(first.root)
    os.fstat(later.root)
    hand.let_go()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(later.root)
