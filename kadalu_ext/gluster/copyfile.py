"""Copying what is no directory: its contents, its names, and what is said of it. copytree.py walks the tree."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from errno import EBADFD, EIO, ENOENT, ENOSYS, EOPNOTSUPP, EPERM, ESTALE, EXDEV
from typing import Final

from kadalu_ext.gluster.copymemory import CopyMemory
from kadalu_ext.gluster.copyprogress import CopyProgress
from kadalu_ext.gluster.objects import Attributes, Buffer, Handle, Objects, OpenFile

CHUNK_BYTES: Final = 1 << 20
SYNC_BYTES: Final = 64 << 20
"""After so much that it wrote a copy syncs its file. One sync at the end would wait for all that a brick host has in
its memory: for minutes with a slow disk, in a single call, and all others on the volume with it. 64 MiB of each of
copytree.THREADS are seconds, and a sync more is nothing beside 64 calls that carry a MiB each."""
BRICK_COPY_BYTES: Final = 256 << 20
"""So much a brick copies in a call, and syncs before the next one, for the same reason: a file system that shares no
extents writes it all. One that does needs a few milliseconds for each step, so that they are larger than SYNC_BYTES."""
DEFAULT_ACL: Final = b"system.posix_acl_default"
_GONE: Final = (ENOENT, ESTALE)
_NO_COPY_RANGE: Final = (EPERM, ENOSYS, EOPNOTSUPP, EXDEV)
"""The brick does not copy. EPERM is what libgfapi makes of every error of this call, also of a full disk and of a file
that is gone (syncop_copy_file_range in libglusterfs/src/syncop.c, tag v10.3): reading and writing tell which it is."""
_XATTRS: Final = (b"user.", b"security.capability", b"system.posix_acl_access", DEFAULT_ACL)


class VanishedError(Exception):
    """Something of the source is no longer there: whoever removed it does not want it copied.

    parent: the directory that it was looked up in is not there.
    """

    def __init__(self, *, parent: bool) -> None:
        super().__init__()
        self.parent = parent


@dataclass(eq=False, kw_only=True)
class Into:
    """A directory that is copied into."""

    target: Handle
    fresh: bool
    """Made in this run, so that there is nothing of the target to be looked at."""


class FileCopier:
    """Of one copy of a tree. Thread-safe.

    server_side: see copytree.copy. check: called before each step; what it raises ends the copy.
    """

    def __init__(
        self,
        objects: Objects,
        memory: CopyMemory,
        progress: CopyProgress,
        *,
        server_side: bool,
        check: Callable[[], None],
    ) -> None:
        self._objects = objects
        self._memory = memory
        self._progress = progress
        self._server_side = server_side
        self._check = check
        self._linking = threading.Lock()

    def copy(self, into: Into, name: bytes, source: Handle, attributes: Attributes, buffer: Buffer) -> None:
        """`name` in `into` is a whole copy of `source`, which is no directory, when this returns.

        Raises: VanishedError if the source has gone meanwhile: then there is nothing of that name.
        """
        try:
            if attributes.links > 1:
                with self._linking:
                    made = self._linked(into, name, source, attributes)
            else:
                made = self._made(into, name, source, attributes)
            if made is not None:
                target, file = made
                try:
                    if file is not None:
                        self._fill(source, file, attributes, buffer)
                    self.dress(source, target, attributes, fresh=True)
                finally:
                    self._objects.close(target)
        except VanishedError:
            self._objects.remove(into.target, name)
            raise
        self._progress.add(files=1)

    def _linked(
        self, into: Into, name: bytes, source: Handle, attributes: Attributes
    ) -> tuple[Handle, OpenFile | None] | None:
        """As `_made`, for one of several names of a file: all but the first become links to the first one's copy."""
        identity = self._objects.identity(source)
        if (known := self._memory.copy_of(identity)) is not None and self._link(into, name, known):
            return None
        made = self._made(into, name, source, attributes)
        if made is not None:
            copied = self._objects.identity(made[0])
        else:
            target, _ = self._objects.look_up(into.target, name)
            copied = self._objects.identity(target)
            self._objects.close(target)
        self._memory.copied(identity, copied, attributes.links - 1)
        return made

    def _link(self, into: Into, name: bytes, copied: bytes) -> bool:
        """Whether the name is one of that copy now; False if the copy is gone."""
        if not into.fresh and (known := found(self._objects, into.target, name)) is not None:
            there = self._objects.identity(known[0])
            self._objects.close(known[0])
            if there == copied:
                return True
            self._objects.remove(into.target, name)
        try:
            target = self._objects.by_identity(copied)
            try:
                self._objects.link(target, into.target, name)
            finally:
                self._objects.close(target)
        except OSError as error:
            if error.errno not in _GONE:
                raise
            return False
        return True

    def _made(
        self, into: Into, name: bytes, source: Handle, attributes: Attributes
    ) -> tuple[Handle, OpenFile | None] | None:
        """The new counterpart, open if it is a regular file; None if there is a whole one already."""
        objects = self._objects
        if not into.fresh and (known := found(self._objects, into.target, name)) is not None:
            objects.close(known[0])
            if _whole(known[1], attributes):
                if stat.S_ISREG(attributes.mode):
                    self._progress.add(size_bytes=min(attributes.size_bytes, attributes.blocks_bytes))
                return None
            objects.remove(into.target, name)
        if stat.S_ISREG(attributes.mode):
            return objects.create(into.target, name)
        if stat.S_ISLNK(attributes.mode):
            with of_source():
                to = objects.read_link(source)
            return objects.make_symlink(into.target, name, to), None
        return objects.make_special(into.target, name, attributes.mode, attributes.device), None

    def _fill(self, source: Handle, target: OpenFile, attributes: Attributes, buffer: Buffer) -> None:
        """The contents, which have reached the bricks' disks when this returns. Closes `target`."""
        try:
            if attributes.size_bytes:
                with of_source():
                    file = self._objects.open(source)
                try:
                    self._fill_from(file, target, attributes, buffer)
                finally:
                    with suppress(OSError):  # nothing was written to it
                        self._objects.close_file(file)
                self._objects.sync(target)
        except BaseException:
            with suppress(OSError):
                self._objects.close_file(target)
            raise
        self._objects.close_file(target)

    def _fill_from(self, source: OpenFile, target: OpenFile, attributes: Attributes, buffer: Buffer) -> None:
        size = attributes.size_bytes  # what grows meanwhile is copied up to here: the copy comes to an end
        written = self._copied_by_brick(source, target, size) if self._server_side else 0
        unsynced = 0
        for begin, end in _pieces(self._data(source, attributes, written), SYNC_BYTES):
            if unsynced + end - begin > SYNC_BYTES:
                self._objects.sync(target)
                unsynced = 0
            unsynced += end - begin
            written = self._copy_range(source, target, begin, end, buffer)
            if written < end:
                size = written  # it became shorter
                break
        if written < size:
            self._objects.truncate(target, size)

    def _copied_by_brick(self, source: OpenFile, target: OpenFile, size_bytes: int) -> int:
        """How far it came: to 0 if the brick's file system, kernel or gluster is too old."""
        at = 0
        while at < size_bytes:
            self._check()
            try:
                with of_source():
                    count = self._objects.copy_range(source, target, at, min(BRICK_COPY_BYTES, size_bytes - at))
            except OSError as error:
                if error.errno not in _NO_COPY_RANGE:
                    raise
                break
            if count == 0:
                break
            self._progress.add(size_bytes=count)
            at += count
            if at < size_bytes:
                self._objects.sync(target)
        return at

    def _data(self, source: OpenFile, attributes: Attributes, at: int) -> Iterator[tuple[int, int]]:
        """The parts of the file from there on that are no holes."""
        size = attributes.size_bytes
        if at < size <= attributes.blocks_bytes:
            yield at, size
            return
        while at < size:
            with of_source():
                begin = self._objects.seek_data(source, at)
                if begin is None or begin >= size:
                    return
                hole = self._objects.seek_hole(source, begin)
            end = size if hole is None else min(hole, size)
            yield begin, end
            at = end

    def _copy_range(self, source: OpenFile, target: OpenFile, begin: int, end: int, buffer: Buffer) -> int:
        """Where it ended: before `end` if the source does."""
        at = begin
        while at < end:
            self._check()
            with of_source():
                count = self._objects.read_into(source, buffer, min(CHUNK_BYTES, end - at), at)
            if count == 0:
                break
            if (written := self._objects.write(target, buffer, count, at)) == 0:
                raise OSError(EIO, os.strerror(EIO))
            self._progress.add(size_bytes=written)
            at += written
        return at

    def dress(self, source: Handle, target: Handle, attributes: Attributes, *, fresh: bool) -> None:
        """Everything but the contents; the times last, since they say that it is whole."""
        objects = self._objects
        if stat.S_ISLNK(attributes.mode):
            objects.set_attributes(target, attributes)  # a symlink has no attributes that users can set
            return
        with of_source():
            values = {name: objects.xattr(source, name) for name in _users(objects.xattr_names(source))}
        left = set() if fresh else set(_users(objects.xattr_names(target))) - values.keys()
        if not values and not left:
            objects.set_attributes(target, attributes)
            return
        objects.set_owner(target, attributes)  # before security.capability, which it would take away
        for name in left:
            objects.remove_xattr(target, name)
        for name, value in values.items():
            if value is not None:
                objects.set_xattr(target, name, value)
        objects.set_mode_and_times(target, attributes)


@contextmanager
def of_source() -> Iterator[None]:
    """What the source has no longer is said to have vanished.

    EBADFD: of a disperse volume, for too few bricks found it when it was opened.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (*_GONE, EBADFD):
            raise VanishedError(parent=error.errno == ESTALE) from error
        raise


def found(objects: Objects, directory: Handle, name: bytes) -> tuple[Handle, Attributes] | None:
    """What has that name in the directory, to be closed; None if nothing has."""
    try:
        return objects.look_up(directory, name)
    except OSError as error:
        if error.errno not in _GONE:
            raise
        return None


def _pieces(parts: Iterator[tuple[int, int]], most: int) -> Iterator[tuple[int, int]]:
    """The same parts of the file, none larger than `most` bytes."""
    for begin, end in parts:
        for at in range(begin, end, most):
            yield at, min(at + most, end)


def _users(names: list[bytes]) -> list[bytes]:
    return [name for name in names if name.startswith(_XATTRS)]


def _whole(target: Attributes, source: Attributes) -> bool:
    def seen(attributes: Attributes) -> tuple[object, ...]:
        mode, owner = attributes.mode, (attributes.uid, attributes.gid)
        size = attributes.size_bytes if stat.S_ISREG(mode) else 0
        return mode, owner, attributes.device, size, attributes.mtime

    alone = source.links > 1 or target.links == 1  # else it was made for a file of several names
    return alone and seen(target) == seen(source)
