"""Copying hostile trees, on trees in memory that change, fail and stop where a test says."""

from __future__ import annotations

import stat
import time
from collections.abc import Callable
from errno import EBADFD, EIO, ENOENT, ENOSPC, ESTALE
from functools import reduce

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kadalu_ext.errors import DeadlineError
from kadalu_ext.gluster import copyfile, copytree
from kadalu_ext.gluster.copyfile import CHUNK_BYTES
from kadalu_ext.gluster.copyprogress import CopyProgress
from tests.unit.gluster.memory_objects import BLOCK, Inode, MemoryObjects, directory, file, seen


class Crash(BaseException):
    """The process died here."""


def everything() -> Inode:
    """A tree with one of each kind."""
    linked = file(b"two names", mtime=5)
    sparse = file(mtime=6)
    sparse.write(b"end", 5 * BLOCK)
    sparse.data.extend(bytes(3 * BLOCK))
    top = directory(
        a=directory(linked=linked, deep=directory(f=file(b"f", mode=stat.S_IFREG | 0o6755, uid=7, gid=8, mtime=1))),
        linked=linked,
        sparse=sparse,
        link=Inode(mode=stat.S_IFLNK | 0o777, to=b"/etc/passwd", mtime=2),
        fifo=Inode(mode=stat.S_IFIFO | 0o640, mtime=3),
        device=Inode(mode=stat.S_IFCHR | 0o600, device=259, mtime=4),
        able=file(b"x", xattrs={b"security.capability": b"\1", b"user.a": b"", b"trusted.gfid2path": b"no"}, mtime=7),
        empty=file(mtime=9),
    )
    top.entries[b"a"].xattrs = {b"system.posix_acl_default": b"acl", b"user.d": b"v"}
    top.mtime, top.entries[b"a"].mtime = 10, 11
    return top


def copy(objects: MemoryObjects, **more: bool) -> CopyProgress:
    progress = CopyProgress()
    copytree.copy(objects, objects.tops[0], objects.tops[1], progress, **more)
    assert (set(objects.handles), objects.files) == (set(objects.tops), {})
    return progress


@pytest.mark.parametrize("server_side", [False, True])
def test_a_copy_has_all_that_the_source_has(server_side: bool) -> None:
    source, target = everything(), directory()
    progress = copy(MemoryObjects(source, target), server_side=server_side)
    assert seen(target) == seen(source)
    assert target.entries[b"linked"] is target.entries[b"a"].entries[b"linked"] is not source.entries[b"linked"]
    assert target.entries[b"able"].xattrs == {b"security.capability": b"\1", b"user.a": b""}
    assert progress.files == 9


def test_holes_are_not_written() -> None:
    source, target = everything(), directory()
    copy(MemoryObjects(source, target))
    assert target.entries[b"sparse"].written == source.entries[b"sparse"].written == {5}


@pytest.mark.parametrize(
    ("server_side", "step", "synced_at"),
    [(False, "write", [2, 4, 5]), (True, "copy_range", [1, 2, 3])],
    ids=["stepwise", "by the brick"],
)
def test_a_copy_never_has_more_than_a_part_of_a_large_file_to_be_synced(
    monkeypatch: pytest.MonkeyPatch, server_side: bool, step: str, synced_at: list[int]
) -> None:
    monkeypatch.setattr(copyfile, "CHUNK_BYTES", BLOCK)
    monkeypatch.setattr(copyfile, "SYNC_BYTES", 2 * BLOCK)
    monkeypatch.setattr(copyfile, "BRICK_COPY_BYTES", 2 * BLOCK)
    source, target = directory(large=file(b"x" * (5 * BLOCK), mtime=1)), directory()
    objects = MemoryObjects(source, target)
    copy(objects, server_side=server_side)
    syncs = [at for at, name in enumerate(objects.calls) if name == "sync"]
    assert [objects.calls[:at].count(step) for at in syncs] == synced_at
    assert seen(target) == seen(source)


def test_the_parts_of_a_sparse_file_are_synced_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copyfile, "SYNC_BYTES", 2 * BLOCK)
    sparse = file(mtime=1)
    for block in range(0, 10, 2):
        sparse.write(b"x" * BLOCK, block * BLOCK)
    sparse.mtime = 1
    target = directory()
    objects = MemoryObjects(directory(sparse=sparse), target)
    copy(objects)
    assert [name for name in objects.calls if name in ("write", "sync")] == [
        *("write", "write", "sync", "write", "write", "sync", "write", "sync")
    ]
    assert target.entries[b"sparse"].data == sparse.data


def test_a_brick_that_cannot_copy_has_it_done_for_it() -> None:
    source, target = everything(), directory()
    objects = MemoryObjects(source, target)
    objects.can_copy = False
    copy(objects, server_side=True)
    assert seen(target) == seen(source)


@pytest.mark.parametrize("gone", [False, True], ids=["the file stays", "the file is removed"])
def test_where_a_brick_fails_and_does_not_say_why_reading_goes_on(monkeypatch: pytest.MonkeyPatch, gone: bool) -> None:
    monkeypatch.setattr(copyfile, "BRICK_COPY_BYTES", 2 * BLOCK)
    source, target = directory(large=file(b"x" * (5 * BLOCK), mtime=1)), directory()
    objects = MemoryObjects(source, target)

    def fail(name: str, _number: int) -> None:
        objects.can_copy = "copy_range" not in objects.calls
        if gone and name == "read_into":
            source.entries.clear()
            raise OSError(ESTALE, "gone")

    objects.hook = fail
    progress = copy(objects, server_side=True)
    assert progress.size_bytes == (2 if gone else 5) * BLOCK
    assert seen(target) == seen(source)


def test_killed_at_any_call_a_copy_that_is_made_again_ends_as_an_undisturbed_one() -> None:
    objects = MemoryObjects(everything(), directory())
    copy(objects)
    for crash_at in range(len(objects.calls)):
        source, target = everything(), directory()
        killed = MemoryObjects(source, target)

        def hook(_name: str, number: int, crash_at: int = crash_at) -> None:
            if number >= crash_at:
                raise Crash

        killed.hook = hook
        with pytest.raises(Crash):
            copytree.copy(killed, killed.tops[0], killed.tops[1], CopyProgress())
        copy(MemoryObjects(source, target))
        assert seen(target) == seen(source), crash_at


def test_what_is_whole_is_not_copied_again() -> None:
    source, target = everything(), directory()
    copy(MemoryObjects(source, target))
    again = MemoryObjects(source, target)
    progress = copy(again)
    assert not {"create", "make_directory", "make_symlink", "make_special", "link", "write"} & set(again.calls)
    assert (progress.files, seen(target)) == (9, seen(source))


def test_what_has_changed_since_is_copied_anew_and_what_is_gone_is_removed() -> None:
    source, target = everything(), directory()
    copy(MemoryObjects(source, target))
    source.entries[b"able"] = directory(now=file(b"a directory"))
    source.entries[b"a"].entries[b"linked"] = file(b"two names", mtime=5)
    source.entries[b"a"].xattrs = {b"user.e": b"w"}
    del source.entries[b"link"]
    source.entries[b"empty"].write(b"not any more")
    copy(MemoryObjects(source, target))
    assert seen(target) == seen(source)


@pytest.mark.parametrize("victim", [b"a", b"linked", b"sparse"])
def test_a_source_that_loses_something_at_any_call_breaks_nothing(victim: bytes) -> None:
    objects = MemoryObjects(everything(), directory())
    copy(objects)
    for at in range(len(objects.calls)):
        source, target = everything(), directory()
        racing = MemoryObjects(source, target)

        def hook(_name: str, number: int, at: int = at, source: Inode = source) -> None:
            if number == at:
                source.entries.pop(victim, None)

        racing.hook = hook
        copy(racing)
        assert {b"/device", b"/empty"} <= seen(target).keys()
        copy(MemoryObjects(source, target))
        assert seen(target) == seen(source), at


@pytest.mark.parametrize("span", [1, 1000])
@pytest.mark.parametrize("path", ["", "a", "a/linked", "sparse"])
def test_what_gluster_loses_meanwhile_is_in_the_copy_or_fails_it(path: str, span: int) -> None:
    objects = MemoryObjects(everything(), directory())
    copy(objects)
    for at in range(len(objects.calls)):
        source, target = everything(), directory()
        losing = MemoryObjects(source, target)
        lost = reduce(lambda node, part: node.entries[part], path.encode().split(b"/") if path else [], source)

        def hook(_name: str, number: int, at: int = at, losing: MemoryObjects = losing, lost: Inode = lost) -> None:
            losing.lost = lost if at <= number < at + span else None

        losing.hook = hook
        try:
            copy(losing)
        except OSError as error:
            assert error.errno in (ENOENT, ESTALE)
        else:
            assert seen(target) == seen(source), at


def test_what_gluster_lost_for_a_moment_is_copied_again() -> None:
    source, target = everything(), directory()
    objects = MemoryObjects(source, target)

    def hook(name: str, _number: int) -> None:
        objects.lost = source.entries[b"a"] if name == "names" and objects.calls.count("names") == 2 else None

    objects.hook = hook
    copy(objects)
    assert seen(target) == seen(source)


@pytest.mark.parametrize("operation", ["names", "read_into"])
def test_what_too_few_bricks_of_a_disperse_volume_found_at_once_is_copied_again(operation: str) -> None:
    source, target = directory(d=directory(f=file(b"x"))), directory()
    objects = MemoryObjects(source, target)
    failures = [EBADFD]

    def hook(name: str, _number: int) -> None:
        if name == operation and ("make_directory" in objects.calls) and failures:
            raise OSError(failures.pop(), "in bad state")

    objects.hook = hook
    copy(objects)
    assert (seen(target), failures) == (seen(source), [])


def test_what_takes_a_directorys_place_meanwhile_is_copied_as_what_it_is() -> None:
    source, target = directory(d=directory(f=file(b"x"))), directory()
    objects = MemoryObjects(source, target)
    link = Inode(mode=stat.S_IFLNK | 0o777, to=b"/", mtime=3)

    def swap(name: str, _number: int) -> None:
        if objects.calls.count("look_up") == 1:
            source.entries[b"d"] = link

    objects.hook = swap
    copy(objects)
    assert target.entries[b"d"].to == b"/"


def test_a_file_that_grows_meanwhile_comes_to_an_end() -> None:
    source, target = directory(log=file(b"x" * BLOCK)), directory()
    objects = MemoryObjects(source, target)

    def grow(name: str, _number: int) -> None:
        if name == "read_into":
            source.entries[b"log"].write(b"more", len(source.entries[b"log"].data))

    objects.hook = grow
    copy(objects)
    assert target.entries[b"log"].data == b"x" * BLOCK


def test_a_file_that_becomes_shorter_meanwhile_has_no_tail_of_zeros() -> None:
    source, target = directory(log=file(b"x" * (CHUNK_BYTES + BLOCK))), directory()
    objects = MemoryObjects(source, target)

    def cut(name: str, _number: int) -> None:
        if name == "write":
            del source.entries[b"log"].data[CHUNK_BYTES:]

    objects.hook = cut
    copy(objects)
    assert target.entries[b"log"].data == b"x" * CHUNK_BYTES


@pytest.mark.parametrize("server_side", [False, True])
def test_a_full_target_is_named_and_a_later_try_goes_on(server_side: bool) -> None:
    source, target = directory(d=directory(big=file(b"x" * 2 * BLOCK), small=file(b"y"))), directory()
    objects = MemoryObjects(source, target)
    objects.room = BLOCK
    with pytest.raises(OSError, match="d/big") as full:
        copy(objects, server_side=server_side)
    assert full.value.errno == ENOSPC
    copy(MemoryObjects(source, target))
    assert seen(target) == seen(source)


def test_a_file_that_cannot_be_read_fails_the_copy() -> None:
    objects = MemoryObjects(everything(), directory())

    def hook(name: str, _number: int) -> None:
        if name == "read_into":
            raise OSError(EIO, "Input/output error")

    objects.hook = hook
    with pytest.raises(OSError, match="Input/output error"):
        copy(objects)
    assert (set(objects.handles), objects.files) == (set(objects.tops), {})


def test_a_source_that_is_gone_is_an_error_and_not_an_empty_copy() -> None:
    source, target = everything(), directory()
    objects = MemoryObjects(source, target)

    top, to = objects.tops

    def hook(name: str, _number: int) -> None:
        if name == "xattr_names":
            objects.tops = [to]

    objects.hook = hook
    with pytest.raises(FileNotFoundError, match="the source of the copy was removed"):
        copytree.copy(objects, top, to, CopyProgress())


@pytest.mark.parametrize("how", ["stop", "deadline"])
def test_it_can_be_stopped_and_goes_on_later(how: str) -> None:
    source, target = everything(), directory()
    objects, progress = MemoryObjects(source, target), CopyProgress()
    stop: Callable[[str, int], None] = lambda _name, number: progress.stop() if number == 9 else None  # noqa: E731
    objects.hook = stop if how == "stop" else objects.hook
    deadline = None if how == "stop" else time.monotonic() - 1
    with pytest.raises(DeadlineError):
        copytree.copy(objects, objects.tops[0], objects.tops[1], progress, deadline=deadline)
    assert set(objects.handles) == set(objects.tops)
    copy(MemoryObjects(source, target))
    assert seen(target) == seen(source)


def test_a_hundred_and_twenty_levels_are_no_recursion() -> None:
    source, target = directory(), directory()
    at = source
    for _ in range(120):
        at.entries[b"d"] = directory()
        at = at.entries[b"d"]
    copy(MemoryObjects(source, target))
    assert len(seen(target)) == 121


names = st.binary(min_size=1, max_size=6).filter(lambda name: b"/" not in name and b"\0" not in name)
leaves = st.builds(
    file,
    st.binary(max_size=40),
    mtime=st.integers(0, 99),
    mode=st.integers(0, 0o7777).map(lambda mode: stat.S_IFREG | mode),
)
trees = st.recursive(
    leaves,
    lambda below: st.builds(
        lambda entries, mtime: Inode(mode=stat.S_IFDIR | 0o700, entries=entries, mtime=mtime),
        st.dictionaries(names, below, max_size=4),
        st.integers(0, 99),
    ),
    max_leaves=12,
)


@settings(max_examples=40)
@given(source=st.dictionaries(names, trees, max_size=4), before=st.dictionaries(names, trees, max_size=4))
def test_whatever_was_in_the_target_it_ends_as_the_source(
    source: dict[bytes, Inode], before: dict[bytes, Inode]
) -> None:
    old, new = directory(), directory()
    old.entries, new.entries = source, before
    copy(MemoryObjects(old, new))
    found = seen(new)
    assert found.keys() == seen(old).keys()
    copy(MemoryObjects(old, new))
    assert seen(new) == found
