"""objects.Objects on a tree in memory, which can change, fail or stop at any call."""

from __future__ import annotations

import ctypes
import itertools
import os
import stat
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from errno import EEXIST, ENOENT, ENOSPC, EPERM, ESTALE
from typing import Any

from kadalu_ext.gluster.objects import Attributes, Buffer, Handle, Objects, OpenFile

BLOCK = 4096


@dataclass(eq=False, kw_only=True)
class Inode:
    """`entries` of a directory, `data` of a file, `to` of a symlink. Blocks that nobody wrote to are holes."""

    mode: int = stat.S_IFREG | 0o644
    uid: int = 0
    gid: int = 0
    device: int = 0
    mtime: int = 0
    xattrs: dict[bytes, bytes] = field(default_factory=dict)
    entries: dict[bytes, Inode] = field(default_factory=dict)
    data: bytearray = field(default_factory=bytearray)
    written: set[int] = field(default_factory=set)
    to: bytes = b""
    gfid: bytes = field(default_factory=lambda: uuid.uuid4().bytes)

    @property
    def is_directory(self) -> bool:
        return stat.S_ISDIR(self.mode)

    def write(self, data: bytes, at: int = 0) -> None:
        self.data.extend(bytes(max(0, at + len(data) - len(self.data))))
        self.data[at : at + len(data)] = data
        self.written.update(range(at // BLOCK, -(-(at + len(data)) // BLOCK)))


def directory(**entries: Inode) -> Inode:
    return Inode(mode=stat.S_IFDIR | 0o755, entries={name.encode(): node for name, node in entries.items()})


def file(data: bytes = b"", **more: Any) -> Inode:
    made = Inode(**more)
    if data:
        made.write(data)
    return made


def seen(top: Inode) -> dict[bytes, tuple[object, ...]]:
    """All that a walk shows, by path: two trees are the same if this is. Inodes are told apart by their first name."""
    first: dict[bytes, bytes] = {}
    found: dict[bytes, tuple[object, ...]] = {}

    def look(path: bytes, node: Inode) -> None:
        name = first.setdefault(node.gfid, path)
        users = {key: value for key, value in node.xattrs.items() if not key.startswith(b"trusted.")}
        found[path] = (name, node.mode, node.uid, node.gid, node.device, node.mtime, users, bytes(node.data), node.to)
        for entry in sorted(node.entries):
            look(path + b"/" + entry, node.entries[entry])

    look(b"", top)
    return found


class MemoryObjects(Objects):
    """`hook` is called before each call, with its name and the number of calls before it."""

    def __init__(self, *tops: Inode) -> None:
        super().__init__(0)
        self._lock = threading.RLock()
        self._numbers = itertools.count(100)
        self.handles: dict[int, Inode] = {}
        self.files: dict[int, Inode] = {}
        self.calls: list[str] = []
        self.hook: Callable[[str, int], None] = lambda _name, _number: None
        self.room: float = float("inf")
        self.can_copy = True
        self.lost: Inode | None = None
        """Has its name as before, and is said to be gone."""
        self.tops = [self._handle(top) for top in tops]

    def _handle(self, node: Inode) -> Handle:
        number = next(self._numbers)
        self.handles[number] = node
        return Handle(number)

    @contextmanager
    def _call(self, name: str) -> Iterator[None]:
        with self._lock:
            self.hook(name, len(self.calls))
            self.calls.append(name)
            yield

    def _names_of(self, node: Inode) -> int:
        def count(at: Inode) -> int:
            return sum((below is node) + count(below) for below in at.entries.values())

        return sum(count(self.handles[top]) for top in self.tops) + any(self.handles[top] is node for top in self.tops)

    def _alive(self, handle: int) -> Inode:
        node = self.handles[handle]
        if node is self.lost or not self._names_of(node):
            raise OSError(ESTALE, os.strerror(ESTALE))
        return node

    def _attributes(self, node: Inode) -> Attributes:
        return Attributes(
            mode=node.mode,
            size_bytes=len(node.data),
            blocks_bytes=len(node.written) * BLOCK,
            links=self._names_of(node),
            uid=node.uid,
            gid=node.gid,
            device=node.device,
            atime=(0, 0),
            mtime=(node.mtime, 0),
        )

    def look_up(self, directory: Handle, name: bytes) -> tuple[Handle, Attributes]:
        with self._call("look_up"):
            node = self._alive(directory).entries.get(name)
            if node is None:
                raise OSError(ENOENT, os.strerror(ENOENT))
            return self._handle(node), self._attributes(node)

    def attributes(self, handle: Handle) -> Attributes:
        with self._call("attributes"):
            return self._attributes(self._alive(handle))

    def identity(self, handle: Handle) -> bytes:
        return self.handles[handle].gfid

    def by_identity(self, gfid: bytes) -> Handle:
        with self._call("by_identity"):
            pending = [self.handles[top] for top in self.tops]
            while pending:
                node = pending.pop()
                if node.gfid == gfid:
                    return self._handle(node)
                pending.extend(node.entries.values())
            raise OSError(ESTALE, os.strerror(ESTALE))

    def close(self, handle: Handle) -> None:
        with self._lock:
            del self.handles[handle]

    @contextmanager
    def names(self, directory: Handle) -> Iterator[Iterator[bytes]]:
        with self._call("names"):
            entries = list(self._alive(directory).entries)
        yield iter(entries)

    def _made(self, what: str, parent: Handle, name: bytes, node: Inode) -> Handle:
        with self._call(what):
            entries = self._alive(parent).entries
            if name in entries:
                raise OSError(EEXIST, os.strerror(EEXIST))
            entries[name] = node
            self.handles[parent].mtime = -1
            return self._handle(node)

    def make_directory(self, parent: Handle, name: bytes) -> Handle:
        return self._made("make_directory", parent, name, Inode(mode=stat.S_IFDIR | 0o700, mtime=-1))

    def make_symlink(self, parent: Handle, name: bytes, to: bytes) -> Handle:
        return self._made("make_symlink", parent, name, Inode(mode=stat.S_IFLNK | 0o777, to=to, mtime=-1))

    def make_special(self, parent: Handle, name: bytes, mode: int, device: int) -> Handle:
        return self._made("make_special", parent, name, Inode(mode=mode, device=device, mtime=-1))

    def create(self, parent: Handle, name: bytes) -> tuple[Handle, OpenFile]:
        handle = self._made("create", parent, name, Inode(mode=stat.S_IFREG | 0o600, mtime=-1))
        return handle, self._opened(self.handles[handle])

    def link(self, handle: Handle, parent: Handle, name: bytes) -> None:
        self.close(self._made("link", parent, name, self._alive(handle)))

    def remove(self, parent: Handle, name: bytes) -> None:
        with self._call("remove"):
            self._alive(parent).entries.pop(name, None)

    def read_link(self, handle: Handle) -> bytes:
        with self._call("read_link"):
            return self._alive(handle).to

    def xattr_names(self, handle: Handle) -> list[bytes]:
        with self._call("xattr_names"):
            return list(self._alive(handle).xattrs)

    def xattr(self, handle: Handle, name: bytes) -> bytes | None:
        with self._call("xattr"):
            return self._alive(handle).xattrs.get(name)

    def set_xattr(self, handle: Handle, name: bytes, value: bytes) -> None:
        with self._call("set_xattr"):
            self._alive(handle).xattrs[name] = value

    def remove_xattr(self, handle: Handle, name: bytes) -> None:
        with self._call("remove_xattr"):
            self._alive(handle).xattrs.pop(name, None)

    def set_owner(self, handle: Handle, attributes: Attributes) -> None:
        with self._call("set_owner"):
            node = self._alive(handle)
            node.uid, node.gid = attributes.uid, attributes.gid
            node.xattrs.pop(b"security.capability", None)

    def set_attributes(self, handle: Handle, attributes: Attributes) -> None:
        self.set_owner(handle, attributes)
        self.set_mode_and_times(handle, attributes)

    def set_mode_and_times(self, handle: Handle, attributes: Attributes) -> None:
        with self._call("set_mode_and_times"):
            node = self._alive(handle)
            node.mode, node.mtime = attributes.mode, attributes.mtime[0]

    def _opened(self, node: Inode) -> OpenFile:
        number = next(self._numbers)
        self.files[number] = node
        return OpenFile(number)

    def open(self, handle: Handle) -> OpenFile:
        with self._call("open"):
            return self._opened(self._alive(handle))

    def read_into(self, file: OpenFile, buffer: Buffer, count: int, offset: int) -> int:
        with self._call("read_into"):
            data = bytes(self.files[file].data[offset : offset + count])
            ctypes.memmove(buffer, data, len(data))
            return len(data)

    def write(self, file: OpenFile, buffer: Buffer, count: int, offset: int) -> int:
        with self._call("write"):
            return self._written(self.files[file], buffer.raw[:count], offset)

    def _written(self, node: Inode, data: bytes, offset: int) -> int:
        if len(data) > self.room:
            raise OSError(ENOSPC, os.strerror(ENOSPC))
        self.room -= len(data)
        node.write(data, offset)
        node.xattrs.pop(b"security.capability", None)
        return len(data)

    def seek_data(self, file: OpenFile, offset: int) -> int | None:
        with self._call("seek_data"):
            return self._next(self.files[file], offset, data=True)

    def seek_hole(self, file: OpenFile, offset: int) -> int | None:
        with self._call("seek_hole"):
            return self._next(self.files[file], offset, data=False)

    def _next(self, node: Inode, offset: int, *, data: bool) -> int | None:
        for at in range(offset // BLOCK, -(-len(node.data) // BLOCK)):
            if (at in node.written) == data:
                return max(offset, at * BLOCK)
        return None if data or offset >= len(node.data) else len(node.data)

    def copy_range(self, source: OpenFile, target: OpenFile, offset: int, count: int) -> int:
        with self._call("copy_range"):
            try:
                if self.can_copy:
                    data = bytes(self.files[source].data[offset : offset + count])
                    return self._written(self.files[target], data, offset)
            except OSError:
                pass
            raise OSError(EPERM, os.strerror(EPERM))  # libgfapi's, whatever the brick said

    def truncate(self, file: OpenFile, size_bytes: int) -> None:
        with self._call("truncate"):
            data = self.files[file].data
            del data[size_bytes:]
            data.extend(bytes(size_bytes - len(data)))

    def sync(self, file: OpenFile) -> None:
        with self._call("sync"):
            self.files[file].mtime = -1

    def close_file(self, file: OpenFile) -> None:
        with self._lock:
            del self.files[file]
