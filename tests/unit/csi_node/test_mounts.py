"""Paths that may be mounted on, and opening step by step. Bind mounts themselves are in tests/integration."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kadalu_ext.csi.mounts import FLAGS, Mounts
from kadalu_ext.errors import InvalidInputError, MounterError, NotFoundError, PreconditionError
from kadalu_ext.storage import MOUNT_OPTIONS

from .fakes import mount


@pytest.fixture
def mounts(tmp_path: Path) -> Mounts:
    (tmp_path / "kubelet/pods/u1").mkdir(parents=True)
    return Mounts(str(tmp_path / "kubelet"))


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/etc",
        "relative",
        "{k}",
        "{k}/",
        "{k}/../x",
        "{k}/a/../../x",
        "{k}/./a",
        "{k}//a",
        "{k}-other/a",
        "{k}/a\0b",
    ],
)
def test_only_a_plain_path_below_kubelets_directory_may_be_mounted_on(mounts: Mounts, path: str) -> None:
    with pytest.raises(InvalidInputError, match=r"^target_path: "):
        mounts.check(path.format(k=mounts.kubelet_dir), field="target_path")


def test_a_path_of_kubelets_may(mounts: Mounts) -> None:
    path = f"{mounts.kubelet_dir}/pods/u1/volumes/kubernetes.io~csi/pv-1/mount"
    assert mounts.check(path, field="f") == mounts.check(path + "/", field="f") == path


def test_a_directory_is_made_and_removed_and_both_twice(mounts: Mounts) -> None:
    path = f"{mounts.kubelet_dir}/pods/u1/mount"
    for _ in range(2):
        mounts.make_directory(path)
    assert os.path.isdir(path)
    for _ in range(2):
        mounts.remove_directory(path)
    assert not os.path.exists(path)


def test_nothing_is_made_through_a_symlink(mounts: Mounts, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    os.symlink(tmp_path / "elsewhere", f"{mounts.kubelet_dir}/pods/link")
    with pytest.raises(NotADirectoryError):
        mounts.make_directory(f"{mounts.kubelet_dir}/pods/link/mount")
    assert not os.listdir(tmp_path / "elsewhere")


@pytest.mark.parametrize("step", ["subvol", "subvol/aa", "subvol/aa/pv"])
def test_a_symlink_on_the_volume_is_never_followed(mounts: Mounts, tmp_path: Path, step: str) -> None:
    (tmp_path / "elsewhere/aa/pv/pv").mkdir(parents=True)
    volume = tmp_path / "volume"
    (volume / step).parent.mkdir(parents=True)
    os.symlink(tmp_path / "elsewhere", volume / step)
    source = mount(str(volume), device=os.stat(volume).st_dev, root="/", source="kadalu.external:ext")
    with pytest.raises(NotADirectoryError):
        mounts.bind(source, "/subvol/aa/pv", f"{mounts.kubelet_dir}/pods/u1")


def test_a_pv_that_is_not_there_is_told_from_a_target_that_is_not(mounts: Mounts, tmp_path: Path) -> None:
    source = mount(str(tmp_path), device=os.stat(tmp_path).st_dev, root="/", source="kadalu.external:ext")
    with pytest.raises(NotFoundError, match=r"kadalu\.external:ext: there is no directory /subvol/x"):
        mounts.bind(source, "/subvol/x", f"{mounts.kubelet_dir}/pods/u1")
    with pytest.raises(FileNotFoundError):
        mounts.bind(source, "/kubelet", f"{mounts.kubelet_dir}/pods/none")


def test_a_directory_under_a_lost_mount_is_not_taken_for_the_volume(mounts: Mounts, tmp_path: Path) -> None:
    source = mount(str(tmp_path), device=os.stat(tmp_path).st_dev + 1, root="/", source="kadalu.external:ext")
    with pytest.raises(MounterError, match="changed meanwhile"):
        mounts.bind(source, "/kubelet", f"{mounts.kubelet_dir}/pods/u1")


def test_every_option_that_a_storage_may_ask_for_can_be_had_by_a_bind_mount_and_no_other() -> None:
    assert set(FLAGS) == set(MOUNT_OPTIONS)


def test_a_target_that_holds_files_of_its_own_is_neither_hidden_nor_removed(mounts: Mounts, tmp_path: Path) -> None:
    (tmp_path / "volume/pv").mkdir(parents=True)
    target = tmp_path / "kubelet/pods/u1/mount"
    target.mkdir()
    (target / "log").write_text("written while nothing was mounted here")
    source = mount(str(tmp_path / "volume"), device=os.stat(tmp_path).st_dev, root="/", source="kadalu.external:ext")
    with pytest.raises(PreconditionError, match=r"holds files of the node's own.*'log', 1 in all"):
        mounts.bind(source, "/pv", str(target))
    with pytest.raises(PreconditionError, match="they are left there"):
        mounts.remove_directory(str(target))
    assert (target / "log").exists()


def test_a_file_is_not_mounted_where_a_directory_belongs(mounts: Mounts, tmp_path: Path) -> None:
    target = tmp_path / "kubelet/pods/u1/mount"
    target.write_text("")
    source = mount(str(tmp_path), device=os.stat(tmp_path).st_dev, root="/", source="kadalu.external:ext")
    with pytest.raises(PreconditionError, match="is no directory"):
        mounts.bind(source, "/kubelet", str(target))
