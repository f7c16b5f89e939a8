"""mountinfo as proc(5) writes it, and which of several mounts shows at a path."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kadalu_ext import mountinfo
from kadalu_ext.errors import WireError

LINES = (
    "36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue\n"
    "40 36 0:62 / /k/mounts/ext rw,nosuid,nodev shared:63 master:2 - fuse.glusterfs kadalu.external:ext rw,user_id=0\n"
)


def line(mount_id: int, parent_id: int, path: str, root: str = "/") -> str:
    return f"{mount_id} {parent_id} 0:{mount_id} {root} {path} rw - fuse.glusterfs kadalu.external:ext rw\n"


def test_the_fields_are_found_whatever_optional_ones_stand_between() -> None:
    first, second = mountinfo.parse(LINES)
    assert (first.root, first.path, first.device, first.fstype) == ("/mnt1", "/mnt2", os.makedev(98, 0), "ext3")
    assert second.options == {"rw", "nosuid", "nodev"}
    assert (second.fstype, second.source) == (mountinfo.FUSE_GLUSTERFS, "kadalu.external:ext")


def test_the_uppermost_of_stacked_mounts_shows_whatever_the_order() -> None:
    mounts = mountinfo.parse(line(7, 5, "/m") + line(5, 1, "/m"))
    top = mountinfo.at(mounts, "/m")
    assert top is not None and top.mount_id == 7


def test_a_path_that_only_begins_alike_is_not_mounted() -> None:
    mounts = mountinfo.parse(line(5, 1, "/k/mounts/ext-1"))
    assert mountinfo.at(mounts, "/k/mounts/ext") is None
    assert mountinfo.at(mounts, "/k/mounts") is None


@given(st.text(st.characters(exclude_characters="\0", codec="utf-8"), min_size=1))
def test_any_name_comes_back_as_it_was(name: str) -> None:
    escaped = name
    for special in ("\\", " ", "\t", "\n"):  # fs/seq_file.c, mangle_path
        escaped = escaped.replace(special, f"\\{ord(special):03o}")
    (mount,) = mountinfo.parse(line(5, 1, "/" + escaped))
    assert mount.path == "/" + name


@pytest.mark.parametrize("text", ["5 1 0:5 / /m rw\n", "x 1 0:5 / /m rw - t s o\n", "5 1 05 / /m rw - t s o\n", "-\n"])
def test_a_line_that_is_not_as_in_proc_is_named(text: str) -> None:
    with pytest.raises(WireError, match="mountinfo"):
        mountinfo.parse(text)


def test_this_machines_own_mounts_can_be_read() -> None:
    assert mountinfo.at(mountinfo.read(), "/proc") is not None
