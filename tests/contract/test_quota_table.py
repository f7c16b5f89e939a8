"""What every QuotaTable does: one set of tests for the fake that unit tests use and for real XFS.

pytest runs it on the fake. On XFS it runs where there is one, on a brick host, with nothing but its own Python:

    python3 -m tests.contract.test_quota_table DIRECTORY        # on an XFS mounted with prjquota; as root
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
import unittest
from pathlib import Path

from kadalu_ext.quotad.plan import FIRST_PROJECT_ID, LAST_PROJECT_ID, NO_LIMITS, Limits, Project, ProjectId, Tag
from kadalu_ext.quotad.xfs import QuotaTable, Xfs
from tests.unit.quotad.fakes import FakeTable

MIB = 1 << 20
# the end of the range, where no daemon that runs beside begins to look for free ids
ONE, TWO, THREE = (ProjectId(LAST_PROJECT_ID - number) for number in (3, 2, 1))


class QuotaTableContract:
    """`directory` is an empty one on the table's file system."""

    table: QuotaTable
    directory: Path

    def open(self, path: Path) -> int:
        fd = os.open(path, os.O_RDONLY)
        self.addCleanup(os.close, fd)  # type: ignore[attr-defined]
        return fd

    def make(self, name: str, project_id: ProjectId, *, inherit: bool = True) -> int:
        (self.directory / name).mkdir()
        fd = self.open(self.directory / name)
        self.table.set_tag(fd, Tag(project_id=project_id, inherit=inherit))
        return fd

    def rows(self, first: ProjectId = ONE, last: ProjectId = THREE) -> list[Project]:
        return list(self.table.rows(first, last))

    def wait_without_rows(self) -> None:
        # XFS frees inodes in the background
        deadline = time.monotonic() + 180
        while self.rows():
            assert time.monotonic() < deadline, self.rows()
            time.sleep(0.01)

    def test_a_project_that_nothing_uses_or_limits_has_no_row(self) -> None:
        assert self.table.get(ONE) is None
        assert self.rows() == []

    def test_limits_are_read_back_as_they_were_set(self) -> None:
        limits = Limits(bhard_bytes=64 * MIB, ihard=1000, bsoft_bytes=32 * MIB, isoft=500)
        self.table.set_limits(ONE, limits)
        assert self.table.get(ONE) == Project(project_id=ONE, limits=limits, used_bytes=0, used_inodes=0)

    def test_block_limits_are_rounded_up_to_blocks(self) -> None:
        block = os.statvfs(self.directory).f_frsize
        self.table.set_limits(ONE, Limits(bhard_bytes=64 * MIB + 1))
        row = self.table.get(ONE)
        assert row is not None
        assert row.limits == Limits(bhard_bytes=64 * MIB + block)

    def test_limits_can_be_as_large_as_a_record_allows(self) -> None:
        size = (1 << 62) - 4096
        self.table.set_limits(ONE, Limits(bhard_bytes=size))
        row = self.table.get(ONE)
        assert row is not None
        assert row.limits.bhard_bytes == size

    def test_a_project_whose_limits_are_lifted_and_that_nothing_uses_is_gone(self) -> None:
        self.table.set_limits(ONE, Limits(bhard_bytes=MIB, ihard=7))
        self.table.set_limits(ONE, NO_LIMITS)
        assert self.table.get(ONE) is None
        assert self.rows() == []

    def test_a_new_directory_has_no_project(self) -> None:
        (self.directory / "new").mkdir()
        assert self.table.get_tag(self.open(self.directory / "new")) == Tag(project_id=ProjectId(0), inherit=False)

    def test_a_tag_is_read_back_and_counted(self) -> None:
        fd = self.make("pv", ONE)
        assert self.table.get_tag(fd) == Tag(project_id=ONE, inherit=True)
        row = self.table.get(ONE)
        assert row is not None
        assert (row.used_inodes, row.limits) == (1, NO_LIMITS)

    def test_a_files_tag_is_set_through_a_read_only_descriptor(self) -> None:
        (self.directory / "file").write_text("content")
        fd = self.open(self.directory / "file")
        self.table.set_tag(fd, Tag(project_id=ONE, inherit=False))
        assert self.table.get_tag(fd) == Tag(project_id=ONE, inherit=False)

    def test_a_retagged_directory_is_counted_only_there(self) -> None:
        fd = self.make("pv", ONE)
        self.table.set_tag(fd, Tag(project_id=TWO, inherit=False))
        assert self.table.get_tag(fd) == Tag(project_id=TWO, inherit=False)
        assert [row.project_id for row in self.rows()] == [TWO]

    def test_a_directory_can_be_tagged_beyond_its_projects_limit(self) -> None:
        self.table.set_limits(ONE, Limits(ihard=1))
        self.make("first", ONE)
        self.make("second", ONE)
        row = self.table.get(ONE)
        assert row is not None
        assert row.used_inodes == 2

    def test_a_removed_directory_leaves_no_row_before_long(self) -> None:
        (self.directory / "pv").mkdir()
        fd = os.open(self.directory / "pv", os.O_RDONLY)
        self.table.set_tag(fd, Tag(project_id=ONE, inherit=True))
        os.close(fd)
        (self.directory / "pv").rmdir()
        self.wait_without_rows()

    def test_rows_come_by_rising_id_from_the_first_to_the_last(self) -> None:
        self.table.set_limits(THREE, Limits(bhard_bytes=MIB))
        self.make("two", TWO)
        self.table.set_limits(ONE, Limits(bhard_bytes=MIB))
        assert [row.project_id for row in self.rows()] == [ONE, TWO, THREE]
        assert [row.project_id for row in self.rows(TWO, TWO)] == [TWO]
        assert [row.project_id for row in self.rows(FIRST_PROJECT_ID, ONE) if row.project_id == ONE] == [ONE]


class TestFakeTable(QuotaTableContract, unittest.TestCase):
    def setUp(self) -> None:
        self.directory = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.directory)
        self.table = FakeTable(self.directory)


def xfs_tests(parent: Path) -> type[unittest.TestCase]:
    """The contract on the XFS that `parent` is on, and what only a kernel can do."""

    class TestXfs(QuotaTableContract, unittest.TestCase):
        def setUp(self) -> None:
            self.directory = Path(tempfile.mkdtemp(dir=parent))
            root = self.open(self.directory)
            self.addCleanup(self._lift_limits)
            self.addCleanup(shutil.rmtree, self.directory)
            Xfs().check(root, str(self.directory))
            self.table = Xfs().table(root)
            self.wait_without_rows()

        def _lift_limits(self) -> None:
            for row in self.rows():
                self.table.set_limits(row.project_id, NO_LIMITS)

        def test_what_is_made_in_a_tagged_directory_inherits(self) -> None:
            self.make("pv", ONE)
            (self.directory / "pv" / "sub").mkdir()
            (self.directory / "pv" / "sub" / "file").write_text("x")
            assert self.table.get_tag(self.open(self.directory / "pv" / "sub")).inherit
            assert self.table.get_tag(self.open(self.directory / "pv" / "sub" / "file")).project_id == ONE

        def test_the_limit_is_the_directorys_size_and_ends_writes(self) -> None:
            fd = self.make("pv", ONE)
            self.table.set_limits(ONE, Limits(bhard_bytes=8 * MIB))
            seen = os.fstatvfs(fd)
            assert seen.f_blocks * seen.f_frsize == 8 * MIB
            with self.assertRaisesRegex(OSError, "No space left"), open(self.directory / "pv" / "f", "wb") as file:
                for _ in range(9):
                    file.write(bytes(MIB))
                    file.flush()
                    os.fsync(file.fileno())
            row = self.table.get(ONE)
            assert row is not None
            assert 7 * MIB < row.used_bytes <= 8 * MIB

    return TestXfs


if __name__ == "__main__":
    suite = unittest.defaultTestLoader.loadTestsFromTestCase(xfs_tests(Path(sys.argv[1])))
    sys.exit(not unittest.TextTestRunner(verbosity=2).run(suite).wasSuccessful())
