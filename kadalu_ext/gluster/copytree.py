"""Copying a tree whose contents are hostile, and may change meanwhile, on one volume.

Every step goes from a directory's identity and one name in it (objects.py): no symlink is followed, nothing outside of
the two trees is touched, whatever a pod does to the source. What it does there meanwhile may be in the copy, or not, or
of one file a part: it is no snapshot of one moment.

Copied: regular files with their holes, hard links within the tree, symlinks, fifos, sockets, devices; owners, modes,
access and modification times; of the attributes those that users set: `user.*`, security.capability, POSIX ACLs.

It can be stopped or killed at any step and made again. A copy has its final times last, so what has them, and the
same size, owner and mode, is whole and stays; anything else of the target is made anew, and what the source does not
have is removed. Nobody else may write to the target.
"""

from __future__ import annotations

import ctypes
import os
import queue
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from errno import EIO, ENOENT, ENOSYS, EOPNOTSUPP, ESTALE, EXDEV
from typing import Final

from kadalu_ext.errors import DeadlineError
from kadalu_ext.gluster.copymemory import CopyMemory
from kadalu_ext.gluster.objects import Attributes, Buffer, Handle, Objects, OpenFile

THREADS: Final = 8
"""Calls on files wait for the bricks most of the time."""
CHUNK_BYTES: Final = 1 << 20
_QUEUED: Final = 4 * THREADS
_GONE: Final = (ENOENT, ESTALE)
_NO_COPY_RANGE: Final = (ENOSYS, EOPNOTSUPP, EXDEV)
_DEFAULT_ACL: Final = b"system.posix_acl_default"
_XATTRS: Final = (b"user.", b"security.capability", b"system.posix_acl_access", _DEFAULT_ACL)
_SHOWN: Final = 200


class CopyProgress:
    """How far a copy is, for whoever looks; and how to stop it. Thread-safe.

    stopped_by: another copy's, which stops this one as well.
    """

    def __init__(self, stopped_by: CopyProgress | None = None) -> None:
        self._lock = threading.Lock()
        self._stopped: threading.Event = threading.Event() if stopped_by is None else stopped_by._stopped
        self.files = 0
        """Everything but directories."""
        self.size_bytes = 0
        """Of regular files, as they are read: holes count."""

    def add(self, *, files: int = 0, size_bytes: int = 0) -> None:
        with self._lock:
            self.files += files
            self.size_bytes += size_bytes

    def stop(self) -> None:
        """The copy ends with DeadlineError before its next step."""
        self._stopped.set()

    @property
    def stopped(self) -> bool:
        return self._stopped.is_set()


class _VanishedError(Exception):
    """Something of the source is no longer there: whoever removed it does not want it copied."""


@dataclass(eq=False, kw_only=True)
class _Directory:
    """A pair of directories. It is open until everything in it is copied, which is when `left` is 0."""

    number: int
    parent: _Directory | None
    name: bytes
    source: Handle
    target: Handle
    attributes: Attributes
    fresh: bool
    """Made in this run, so that there is nothing of the target to be looked at."""
    left: int = field(default=1)
    """Entries that are not done, and one for the listing."""


def copy(
    objects: Objects,
    source: Handle,
    target: Handle,
    progress: CopyProgress,
    *,
    server_side: bool = False,
    deadline: float | None = None,
) -> None:
    """The directory `target` has what the directory `source` has, when this returns.

    server_side: the bricks copy. Only on a volume of one brick without shard: see Objects.copy_range.
    deadline: of time.monotonic().
    Raises: DeadlineError at the deadline or when it is stopped; OSError, with what it was about as its filename, which
    is ENOSPC if the target's limit is reached. What is copied by then need not be copied again by a later call.
    """
    _Copy(objects, progress, server_side=server_side, deadline=deadline).run(source, target)


class _Copy:
    """One run: this thread enters directories and lists them, THREADS others copy what is in them."""

    def __init__(self, objects: Objects, progress: CopyProgress, *, server_side: bool, deadline: float | None) -> None:
        self._objects = objects
        self._progress = progress
        self._server_side = server_side
        self._deadline = deadline
        self._memory = CopyMemory()
        self._entries: queue.Queue[tuple[_Directory, bytes] | None] = queue.Queue(_QUEUED)
        self._directories: dict[int, _Directory] = {}
        self._numbers = 0
        self._linking = threading.Lock()
        self._state = threading.Condition()
        """Guards what is below, the dictionary, and `left` of every directory; notified when there is more to enter,
        when all is done, and at the first error."""
        self._done = False
        self._error: BaseException | None = None

    def run(self, source: Handle, target: Handle) -> None:
        threads = [threading.Thread(target=self._work, name=f"copy-{n}", daemon=True) for n in range(THREADS)]
        for thread in threads:
            thread.start()
        try:
            attributes = self._objects.attributes(source)
            self._list(self._opened(None, b"", source, attributes, target, fresh=False))
            while (found := self._next()) is not None:
                directory, name = found
                if (entered := self._enter(directory, name)) is not None:
                    self._list(entered)
        except BaseException as error:
            self._fail(error)
        finally:
            for _ in threads:
                self._entries.put(None)
            for thread in threads:
                thread.join()
            for directory in self._directories.values():
                self._close(directory)
            self._memory.close()
        if isinstance(self._error, _VanishedError):
            raise FileNotFoundError(ENOENT, "the source of the copy was removed")
        if self._error is not None:
            raise self._error

    # --- who does what ---

    def _work(self) -> None:
        buffer = ctypes.create_string_buffer(CHUNK_BYTES)
        while (entry := self._entries.get()) is not None:
            if self._error is not None:
                continue  # the queue is emptied, so that nobody waits for room in it
            directory, name = entry
            try:
                if self._copied(directory, name, buffer):
                    self._finished(directory)
            except BaseException as error:
                self._fail(_about(error, directory, name))

    def _next(self) -> tuple[_Directory, bytes] | None:
        """The next directory to enter; None if all is copied. Raises: what failed."""
        with self._state:
            while True:
                if self._error is not None:
                    raise self._error
                if self._done:
                    return None
                if (pending := self._memory.pop()) is not None:
                    number, name = pending
                    return self._directories[number], name
                self._state.wait()

    def _fail(self, error: BaseException) -> None:
        with self._state:
            if self._error is None:
                self._error = error
            self._state.notify_all()

    def _check(self) -> None:
        if self._progress.stopped or self._error is not None:
            raise DeadlineError("the copy was stopped; a later one goes on where it was")
        if self._deadline is not None and time.monotonic() > self._deadline:
            raise DeadlineError("the tree is not copied yet; a later try goes on where this one was")

    def _finished(self, directory: _Directory) -> None:
        """One entry of it, or its listing, is done. The last makes the directory whole, and with it perhaps others."""
        at: _Directory | None = directory
        while at is not None:
            with self._state:
                at.left -= 1
                if at.left:
                    return
                del self._directories[at.number]
            try:
                self._dress(at.source, at.target, at.attributes, fresh=at.fresh)
            except _VanishedError:
                if at.parent is None:
                    raise
                self._objects.remove(at.parent.target, at.name)
            finally:
                self._close(at)
            at = at.parent
        with self._state:
            self._done = True
            self._state.notify_all()

    # --- directories ---

    def _opened(
        self,
        parent: _Directory | None,
        name: bytes,
        source: Handle,
        attributes: Attributes,
        target: Handle,
        *,
        fresh: bool,
    ) -> _Directory:
        if not fresh:
            # It would go over to what is made in it.
            self._objects.remove_xattr(target, _DEFAULT_ACL)
        with self._state:
            self._numbers += 1
            directory = _Directory(
                number=self._numbers,
                parent=parent,
                name=name,
                source=source,
                target=target,
                attributes=attributes,
                fresh=fresh,
            )
            self._directories[directory.number] = directory
        return directory

    def _close(self, directory: _Directory) -> None:
        if directory.parent is not None:  # the top's are the caller's
            self._objects.close(directory.source)
            self._objects.close(directory.target)

    def _enter(self, parent: _Directory, name: bytes) -> _Directory | None:
        """The directory of that name, with its counterpart; None if it is gone."""
        try:
            with _of_source():
                source, attributes = self._objects.look_up(parent.source, name)
        except _VanishedError:
            self._finished(parent)
            return None
        if not stat.S_ISDIR(attributes.mode):  # it was, when it was met: something took its place
            self._objects.close(source)
            self._entries.put((parent, name))
            return None
        try:
            target, fresh = self._counterpart(parent, name)
            try:
                opened = self._opened(parent, name, source, attributes, target, fresh=fresh)
            except BaseException:
                self._objects.close(target)
                raise
        except BaseException as error:
            self._objects.close(source)
            raise _about(error, parent, name) from error
        return opened

    def _counterpart(self, parent: _Directory, name: bytes) -> tuple[Handle, bool]:
        if not parent.fresh and (found := self._found(parent.target, name)) is not None:
            handle, attributes = found
            if stat.S_ISDIR(attributes.mode):
                return handle, False
            self._objects.close(handle)
            self._objects.remove(parent.target, name)
        return self._objects.make_directory(parent.target, name), True

    def _list(self, directory: _Directory) -> None:
        try:
            with _of_source(), self._objects.names(directory.source) as names:
                for name in names:
                    self._check()
                    with self._state:
                        directory.left += 1
                    self._entries.put((directory, name))
        except _VanishedError:
            pass
        except BaseException as error:
            raise _about(error, directory, b"") from error
        if not directory.fresh:
            self._prune(directory)
        self._finished(directory)

    def _prune(self, directory: _Directory) -> None:
        """Removes from the target what the source does not have, or not any more."""
        with self._objects.names(directory.target) as names:
            for name in names:
                self._check()
                if (found := self._found(directory.source, name)) is None:
                    self._objects.remove(directory.target, name)
                else:
                    self._objects.close(found[0])

    def _found(self, directory: Handle, name: bytes) -> tuple[Handle, Attributes] | None:
        try:
            return self._objects.look_up(directory, name)
        except OSError as error:
            if error.errno not in _GONE:
                raise
            return None

    # --- what is no directory ---

    def _copied(self, directory: _Directory, name: bytes, buffer: Buffer) -> bool:
        """False if it is a directory, which will be entered."""
        self._check()
        try:
            with _of_source():
                source, attributes = self._objects.look_up(directory.source, name)
        except _VanishedError:
            return True
        try:
            if stat.S_ISDIR(attributes.mode):
                self._memory.push(directory.number, name)
                with self._state:
                    self._state.notify_all()
                return False
            self._copy(directory, name, source, attributes, buffer)
        finally:
            self._objects.close(source)
        return True

    def _copy(self, directory: _Directory, name: bytes, source: Handle, attributes: Attributes, buffer: Buffer) -> None:
        try:
            if attributes.links > 1:
                with self._linking:
                    made = self._linked(directory, name, source, attributes)
            else:
                made = self._made(directory, name, source, attributes)
            if made is not None:
                target, file = made
                try:
                    if file is not None:
                        self._fill(source, file, attributes, buffer)
                    self._dress(source, target, attributes, fresh=True)
                finally:
                    self._objects.close(target)
        except _VanishedError:
            self._objects.remove(directory.target, name)
        else:
            self._progress.add(files=1)

    def _linked(
        self, directory: _Directory, name: bytes, source: Handle, attributes: Attributes
    ) -> tuple[Handle, OpenFile | None] | None:
        """As `_made`, for one of several names of a file: all but the first become links to the first one's copy."""
        identity = self._objects.identity(source)
        if (known := self._memory.copy_of(identity)) is not None and self._link(directory, name, known):
            return None
        made = self._made(directory, name, source, attributes)
        if made is not None:
            copied = self._objects.identity(made[0])
        else:
            target, _ = self._objects.look_up(directory.target, name)
            copied = self._objects.identity(target)
            self._objects.close(target)
        self._memory.copied(identity, copied, attributes.links - 1)
        return made

    def _link(self, directory: _Directory, name: bytes, copied: bytes) -> bool:
        """Whether the name is one of that copy now; False if the copy is gone."""
        if not directory.fresh and (found := self._found(directory.target, name)) is not None:
            there = self._objects.identity(found[0])
            self._objects.close(found[0])
            if there == copied:
                return True
            self._objects.remove(directory.target, name)
        try:
            target = self._objects.by_identity(copied)
            try:
                self._objects.link(target, directory.target, name)
            finally:
                self._objects.close(target)
        except OSError as error:
            if error.errno not in _GONE:
                raise
            return False
        return True

    def _made(
        self, directory: _Directory, name: bytes, source: Handle, attributes: Attributes
    ) -> tuple[Handle, OpenFile | None] | None:
        """The new counterpart, open if it is a regular file; None if there is a whole one already."""
        objects = self._objects
        if not directory.fresh and (found := self._found(directory.target, name)) is not None:
            objects.close(found[0])
            if _whole(found[1], attributes):
                self._progress.add(size_bytes=attributes.size_bytes if stat.S_ISREG(attributes.mode) else 0)
                return None
            objects.remove(directory.target, name)
        if stat.S_ISREG(attributes.mode):
            return objects.create(directory.target, name)
        if stat.S_ISLNK(attributes.mode):
            with _of_source():
                to = objects.read_link(source)
            return objects.make_symlink(directory.target, name, to), None
        return objects.make_special(directory.target, name, attributes.mode, attributes.device), None

    def _fill(self, source: Handle, target: OpenFile, attributes: Attributes, buffer: Buffer) -> None:
        """The contents, which have reached the bricks' disks when this returns. Closes `target`."""
        try:
            if attributes.size_bytes:
                with _of_source():
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
        if self._server_side and self._copied_by_brick(source, target, size):
            return
        written = 0
        for begin, end in self._data(source, attributes):
            written = self._copy_range(source, target, begin, end, buffer)
            if written < end:
                size = written  # it became shorter
                break
        if written < size:
            self._objects.truncate(target, size)

    def _copied_by_brick(self, source: OpenFile, target: OpenFile, size_bytes: int) -> bool:
        """False if the brick cannot: its file system, kernel or gluster is too old."""
        at = 0
        while at < size_bytes:
            self._check()
            try:
                with _of_source():
                    count = self._objects.copy_range(source, target, at, size_bytes - at)
            except OSError as error:
                if at or error.errno not in _NO_COPY_RANGE:
                    raise
                return False
            if count == 0:
                break
            self._progress.add(size_bytes=count)
            at += count
        return True

    def _data(self, source: OpenFile, attributes: Attributes) -> Iterator[tuple[int, int]]:
        """The parts of the file that are no holes."""
        size, at = attributes.size_bytes, 0
        if attributes.blocks_bytes >= size:
            yield 0, size
            return
        while at < size:
            with _of_source():
                begin = self._objects.seek_data(source, at)
                if begin is None or begin >= size:
                    self._progress.add(size_bytes=size - at)
                    return
                hole = self._objects.seek_hole(source, begin)
            end = size if hole is None else min(hole, size)
            self._progress.add(size_bytes=begin - at)
            yield begin, end
            at = end

    def _copy_range(self, source: OpenFile, target: OpenFile, begin: int, end: int, buffer: Buffer) -> int:
        """Where it ended: before `end` if the source does."""
        at = begin
        while at < end:
            self._check()
            with _of_source():
                count = self._objects.read_into(source, buffer, min(CHUNK_BYTES, end - at), at)
            if count == 0:
                break
            if (written := self._objects.write(target, buffer, count, at)) == 0:
                raise OSError(EIO, os.strerror(EIO))
            self._progress.add(size_bytes=written)
            at += written
        return at

    # --- attributes ---

    def _dress(self, source: Handle, target: Handle, attributes: Attributes, *, fresh: bool) -> None:
        """Everything but the contents; the times last, since they say that it is whole."""
        objects = self._objects
        if stat.S_ISLNK(attributes.mode):
            objects.set_attributes(target, attributes)  # a symlink has no attributes that users can set
            return
        with _of_source():
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
def _of_source() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in _GONE:
            raise _VanishedError from error
        raise


def _users(names: list[bytes]) -> list[bytes]:
    return [name for name in names if name.startswith(_XATTRS)]


def _whole(target: Attributes, source: Attributes) -> bool:
    def seen(attributes: Attributes) -> tuple[object, ...]:
        mode, owner = attributes.mode, (attributes.uid, attributes.gid)
        size = attributes.size_bytes if stat.S_ISREG(mode) else 0
        return mode, owner, attributes.device, size, attributes.mtime

    alone = source.links > 1 or target.links == 1  # else it was made for a file of several names
    return alone and seen(target) == seen(source)


def _about(error: BaseException, directory: _Directory, name: bytes) -> BaseException:
    """An OSError says, as its filename, what it was about; a part of that name, if a pod has made it long."""
    if isinstance(error, OSError) and error.filename is None:
        names, at = [name], directory
        while at.parent is not None and sum(map(len, names)) < _SHOWN:
            names.append(at.name)
            at = at.parent
        error.filename = ascii(os.fsdecode(b"/".join(reversed(names))))[1:-1][:_SHOWN]
    return error
