"""Copying a tree whose contents are hostile, and may change meanwhile, on one volume.

Every step goes from a directory's identity and one name in it (objects.py): no symlink is followed, nothing outside of
the two trees is touched, whatever a pod does to the source. What it does there meanwhile may be in the copy, or not, or
of one file a part: it is no snapshot of one moment. But what is there all the while is in the copy, or the copy fails:
gluster itself loses a directory at times that is renamed while another client looks at it, and says that it is gone
(docs/facts.md, the handle of a directory). So what is said to be gone is looked up again.

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
from dataclasses import dataclass, field
from errno import ENOENT, ESTALE
from typing import Final

from kadalu_ext.errors import DeadlineError
from kadalu_ext.gluster.copyfile import CHUNK_BYTES, DEFAULT_ACL, FileCopier, Into, VanishedError, found, of_source
from kadalu_ext.gluster.copymemory import CopyMemory
from kadalu_ext.gluster.copyprogress import CopyProgress
from kadalu_ext.gluster.objects import Attributes, Buffer, Handle, Objects

THREADS: Final = 8
"""Calls on files wait for the bricks most of the time."""
_QUEUED: Final = 4 * THREADS
_SHOWN: Final = 200
_LOST: Final = "it is there, and a brick does not find it; rename it to another name and back"


@dataclass(eq=False, kw_only=True)
class _Directory(Into):
    """A pair of directories. It is open until everything in it is copied, which is when `left` is 0."""

    number: int
    parent: _Directory | None
    name: bytes
    source: Handle
    attributes: Attributes
    left: int = field(default=1)
    """Entries that are not done, and one for the listing."""
    doubted: bool = field(default=False)
    """It was said to be gone: there may be more in it than was copied."""


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
        self._deadline = deadline
        self._memory = CopyMemory()
        self._files = FileCopier(objects, self._memory, progress, server_side=server_side, check=self._check)
        self._entries: queue.Queue[tuple[_Directory, bytes] | None] = queue.Queue(_QUEUED)
        self._threads: list[threading.Thread] = []
        """Started for the first entries: most copies are of few files."""
        self._directories: dict[int, _Directory] = {}
        self._numbers = 0
        self._state = threading.Condition()
        """Guards what is below, the dictionary, and `left` of every directory; notified when there is more to enter,
        when all is done, and at the first error."""
        self._done = False
        self._error: BaseException | None = None
        self._again: set[tuple[int, bytes]] = set()
        """What is copied a second time: it was said to be gone, and was not. By its directory's number, and name."""

    def run(self, source: Handle, target: Handle) -> None:
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
            for _ in self._threads:
                self._entries.put(None)
            for thread in self._threads:
                thread.join()
            for directory in self._directories.values():
                self._close(directory)
            self._memory.close()
        if isinstance(self._error, VanishedError):
            raise FileNotFoundError(ENOENT, "the source of the copy was removed")
        if self._error is not None:
            raise self._error

    # --- who does what ---

    def _put(self, directory: _Directory, name: bytes) -> None:
        """By the thread that lists, alone."""
        if len(self._threads) < THREADS:
            thread = threading.Thread(target=self._work, name=f"copy-{len(self._threads)}", daemon=True)
            self._threads.append(thread)
            thread.start()
        self._entries.put((directory, name))

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
                if not self._completed(at):
                    return
            finally:
                self._close(at)
            at = at.parent
        with self._state:
            self._done = True
            self._state.notify_all()

    def _completed(self, directory: _Directory) -> bool:
        """It is whole, or not there if its source has gone; False if it will be entered again."""
        try:
            self._files.dress(directory.source, directory.target, directory.attributes, fresh=directory.fresh)
        except VanishedError:
            if directory.parent is None:
                raise
            directory.doubted = True
        if not directory.doubted:
            return True
        if directory.parent is None:
            raise OSError(ESTALE, _LOST)
        if self._still_there(directory.parent, directory.name, directory.source):
            return False
        self._objects.remove(directory.parent.target, directory.name)
        return True

    def _still_there(self, directory: _Directory, name: bytes, source: Handle, *, linked: bool = False) -> bool:
        """Whether what was said to be gone has its name as before: then it will be copied again.

        linked: its other names may be links to what was copied of it, in part.
        Raises: OSError the second time, or if it is `linked`: a later copy mends that.
        """
        if (known := self._look_up(directory, name)) is None:
            return False
        same = self._objects.identity(known[0]) == self._objects.identity(source)
        self._objects.close(known[0])
        if same:
            with self._state:
                if linked or (directory.number, name) in self._again:
                    raise _about(OSError(ESTALE, _LOST), directory, name)
                self._again.add((directory.number, name))
            self._enter_later(directory, name)
        return same

    def _look_up(self, directory: _Directory, name: bytes) -> tuple[Handle, Attributes] | None:
        """What has that name in the source, to be closed; None if nothing has."""
        try:
            with of_source():
                return self._objects.look_up(directory.source, name)
        except VanishedError as gone:
            directory.doubted |= gone.parent
            return None

    # --- directories ---

    def _enter_later(self, directory: _Directory, name: bytes) -> None:
        self._memory.push(directory.number, name)
        with self._state:
            self._state.notify_all()

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
            self._objects.remove_xattr(target, DEFAULT_ACL)
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
        if (known := self._look_up(parent, name)) is None:
            self._finished(parent)
            return None
        source, attributes = known
        if not stat.S_ISDIR(attributes.mode):  # something took a directory's place, or it is copied again
            self._objects.close(source)
            self._put(parent, name)
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
        made = parent.fresh and (parent.number, name) not in self._again
        if not made and (known := found(self._objects, parent.target, name)) is not None:
            handle, attributes = known
            if stat.S_ISDIR(attributes.mode):
                return handle, False
            self._objects.close(handle)
            self._objects.remove(parent.target, name)
        return self._objects.make_directory(parent.target, name), True

    def _list(self, directory: _Directory) -> None:
        if not directory.fresh:
            self._prune(directory)  # before others are at work in it, and it makes room for what they copy
        try:
            with of_source(), self._objects.names(directory.source) as names:
                for name in names:
                    self._check()
                    with self._state:
                        directory.left += 1
                    self._put(directory, name)
        except VanishedError:
            directory.doubted = True
        except BaseException as error:
            raise _about(error, directory, b"") from error
        self._finished(directory)

    def _prune(self, directory: _Directory) -> None:
        """Removes from the target what the source does not have, or not any more."""
        with self._objects.names(directory.target) as names:
            for name in names:
                self._check()
                if (known := self._look_up(directory, name)) is None:
                    self._objects.remove(directory.target, name)
                else:
                    self._objects.close(known[0])

    # --- what is no directory ---

    def _copied(self, directory: _Directory, name: bytes, buffer: Buffer) -> bool:
        """False if it is a directory, which will be entered, or will be copied again."""
        self._check()
        if (known := self._look_up(directory, name)) is None:
            return True
        source, attributes = known
        try:
            if stat.S_ISDIR(attributes.mode):
                self._enter_later(directory, name)
                return False
            self._files.copy(directory, name, source, attributes, buffer)
        except VanishedError:
            return not self._still_there(directory, name, source, linked=attributes.links > 1)
        finally:
            self._objects.close(source)
        return True


def _about(error: BaseException, directory: _Directory, name: bytes) -> BaseException:
    """An OSError says, as its filename, what it was about; a part of that name, if a pod has made it long."""
    if isinstance(error, OSError) and error.filename is None:
        names, at = [name], directory
        while at.parent is not None and sum(map(len, names)) < _SHOWN:
            names.append(at.name)
            at = at.parent
        error.filename = ascii(os.fsdecode(b"/".join(reversed(names))))[1:-1][:_SHOWN]
    return error
