"""File operations on a volume without a mount, through libgfapi.

A client in this process: no FUSE, no privilege, and one start for all operations.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Self

from kadalu_ext.errors import DeadlineError, KadaluExtError, UnavailableError, VolumeIOError
from kadalu_ext.gluster import copytree, libgfapi, tree
from kadalu_ext.gluster.copyprogress import CopyProgress
from kadalu_ext.gluster.feed import REFRESH_S, SETTLE_S, Feed, Source
from kadalu_ext.gluster.messages import Gfid
from kadalu_ext.gluster.objects import Handle, Objects
from kadalu_ext.gluster.tls import Tls

LOG_LEVEL_WARNING: Final = 5
"""gf_loglevel_t: 4 error, 5 warning, 7 info, 8 debug."""

_START_LIMIT_S: Final = 120.0
"""A start that hangs for longer is given up for lost and made anew."""
_XATTR_BYTES: Final = 64 << 10
"""The largest value that Linux allows."""
_XATTR_CREATE: Final = 1
_HANDLE_BYTES: Final = 16
"""GFAPI_HANDLE_LENGTH (api/src/glfs-handles.h): a handle is the gfid."""


@dataclass(frozen=True, kw_only=True)
class FileStat:
    """lstat(2) of a file or directory on the volume. `mode` holds type and permissions."""

    mode: int
    inode: int
    size_bytes: int


@dataclass(frozen=True, kw_only=True)
class SpaceStat:
    """statvfs(3) through the volume: in a PV's directory its size, at the root the volume's."""

    total_bytes: int
    free_bytes: int
    block_bytes: int


@dataclass(frozen=True, kw_only=True)
class _Settings:
    """What Volume.open was given."""

    source: Callable[[], Source]
    volume: str
    timeout_s: float
    log_file: str
    log_level: int
    refresh_s: float


class Volume:
    """A client of one volume. Thread-safe; keep it open: starting costs 0.04 s, closing some ten.

    Paths are relative to the volume's root. Symlinks at their end are never followed.

    Its volfile comes from a Feed: brick hosts that are silent when it starts cost a second, and are joined within
    `refresh_s` when they answer; what changes on the volume reaches it at once where glusterd tells, else likewise.

    The client starts in a thread of its own. What is asked meanwhile waits up to `timeout_s` and raises DeadlineError,
    and a later call finds the client started. If the start fails, that error is raised, and the next call starts anew,
    with the hosts that answer then.

    Every operation raises VolumeIOError with errno. An operation is not bounded by itself: when a host falls silent
    under a running client, it waits until the ping-timeout (clientvolfile.PING_TIMEOUT_S) is over.
    """

    def __init__(self, settings: _Settings) -> None:
        self._settings = settings
        self._volume = settings.volume
        self._changed = threading.Event()
        """Something about the volume may have, or the client is closed."""
        self._directory = tempfile.mkdtemp(prefix="kadalu-ext-")  # mode 0700
        self._feed = Feed(os.path.join(self._directory, "volfile.sock"), told=self._changed.set)
        self._follower: threading.Thread | None = None
        self._state = threading.Condition()
        self._client: Future[int] | None = None
        self._started_at = 0.0
        self._users = 0
        self._closed = threading.Event()

    @classmethod
    def open(
        cls,
        volume: str,
        hosts: Sequence[str],
        *,
        timeout_s: float = 5.0,
        log_file: str = "/dev/null",
        log_level: int = LOG_LEVEL_WARNING,
        refresh_s: float = REFRESH_S,
        tls: Callable[[], Tls | None] = lambda: None,
        volume_id: str = "",
    ) -> Self:
        """A client of `volume`, started, or still starting when `timeout_s` was over.

        hosts: glusterds, in order of preference; those that answer are used first.
        tls: what an encrypted cluster is spoken to with; asked again and again, since files are renewed.
        volume_id: the volume's, if it is known: no other of that name is used.
        log_file, log_level: of gluster's own log, as in LOG_LEVEL_WARNING.

        Raises: HostUnreachableError if none answers, NotFoundError, VolumeStoppedError, VolfileError if the volfile
        holds what a client may not be made of, VolumeIOError if libgfapi cannot start; OSError if there is no room for
        a socket in the directory of temporary files.
        """
        opened = cls(
            _Settings(
                source=lambda: Source(volume=volume, hosts=tuple(dict.fromkeys(hosts)), tls=tls(), volume_id=volume_id),
                volume=volume,
                timeout_s=timeout_s,
                log_file=log_file,
                log_level=log_level,
                refresh_s=refresh_s,
            )
        )
        try:
            with opened._using():
                pass
        except DeadlineError:
            pass  # it goes on starting
        except BaseException:
            opened.close()
            raise
        return opened

    # --- the client ---

    @contextmanager
    def _using(self) -> Iterator[int]:
        """The started client, which is not closed meanwhile."""
        with self._state:
            if self._closed.is_set():
                raise UnavailableError(f"volume {self._volume}: its client is closed")
            client = self._starting()
            self._users += 1
        try:
            try:
                fs = client.result(timeout=self._settings.timeout_s)
            except TimeoutError:
                raise DeadlineError(
                    f"volume {self._volume}: its client is still starting after "
                    f"{time.monotonic() - self._started_at:.0f} s; gluster waits ten for a brick host that falls silent"
                ) from None
            yield fs
        finally:
            with self._state:
                self._users -= 1
                self._state.notify_all()

    def _starting(self) -> Future[int]:
        client = self._client
        failed = client is not None and client.done() and client.exception() is not None
        lost = client is not None and not client.done() and time.monotonic() - self._started_at > _START_LIMIT_S
        if client is None or failed or lost:
            client = self._client = Future()
            self._started_at = time.monotonic()
            threading.Thread(target=self._start, args=(client,), name=f"gfapi-{self._volume}", daemon=True).start()
        return client

    def _start(self, client: Future[int]) -> None:
        what = f"serve its volfile at {self._feed.path}"
        try:
            self._feed.begin(self._settings.source())
            what = "load libgfapi.so.0 (Debian: apt-get install libgfapi0)"
            fs = libgfapi.call("glfs_new", self._volume.encode())
        except OSError as error:
            client.set_exception(self._failed(error, what))
            return
        except Exception as error:
            client.set_exception(error)
            return
        try:
            self._init(fs)
        except OSError as error:
            client.set_exception(self._failed(error, "start its client"))
            _finish(fs)
        else:
            client.set_result(fs)
            self._follow()

    def _init(self, fs: int) -> None:
        libgfapi.call("glfs_set_logging", fs, os.fsencode(self._settings.log_file), self._settings.log_level)
        libgfapi.call("glfs_set_volfile_server", fs, b"unix", os.fsencode(self._feed.path), 0)
        libgfapi.call("glfs_init", fs)

    def _follow(self) -> None:
        """From the first start on, the client follows its volume: one thread, until it is closed."""
        with self._state:
            if self._follower is None:
                self._follower = threading.Thread(target=self._refresh, name=f"follow-{self._volume}", daemon=True)
                self._follower.start()

    def _refresh(self) -> None:
        while not self._closed.is_set():
            try:
                self._feed.refresh(self._settings.source())
            except (KadaluExtError, OSError):
                pass  # the client goes on with what it has; whoever asks the bricks learns what is wrong
            if self._changed.wait(self._settings.refresh_s):
                self._changed.clear()
                self._closed.wait(SETTLE_S)

    def close(self) -> None:
        """Ends the client in the background, once the operations that run are done. Idempotent."""
        with self._state:
            closed = self._closed.is_set()
            self._closed.set()
            self._changed.set()
        if not closed:
            threading.Thread(target=self._finish, args=(self._client,), name="gfapi-fini", daemon=True).start()

    def _finish(self, client: Future[int] | None) -> None:
        with self._state:
            self._state.wait_for(lambda: self._users == 0)
        if client is not None and client.exception() is None:
            _finish(client.result())
        self._feed.close()
        shutil.rmtree(self._directory, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _failed(self, error: OSError, what: str) -> VolumeIOError:
        about = f"{error.filename}: " if error.filename else ""
        return VolumeIOError(
            error.errno or 0, f"volume {self._volume}: cannot {what}: {about}{error.strerror or error}"
        )

    def _do(self, what: str, operation: Callable[[int], int]) -> int:
        with self._using() as fs:
            try:
                return operation(fs)
            except OSError as error:
                raise self._failed(error, what) from error

    # --- operations ---

    def mkdir(self, path: str, mode: int) -> None:
        """mkdir(2); `mode` as it is, without a umask."""
        self._do(f"make the directory {path}", lambda fs: libgfapi.call("glfs_mkdir", fs, _absolute(path), mode))

    def rmdir(self, path: str) -> None:
        """rmdir(2)."""
        self._do(f"remove the directory {path}", lambda fs: libgfapi.call("glfs_rmdir", fs, _absolute(path)))

    def rename(self, old: str, new: str) -> None:
        """rename(2): atomic on each brick; an empty directory at `new` is replaced."""
        self._do(
            f"rename {old} to {new}",
            lambda fs: libgfapi.call("glfs_rename", fs, _absolute(old), _absolute(new)),
        )

    def stat(self, path: str) -> FileStat:
        """lstat(2)."""
        found = libgfapi.Stat()
        self._do(f"stat {path}", lambda fs: libgfapi.call("glfs_lstat", fs, _absolute(path), ctypes.addressof(found)))
        return FileStat(mode=found.st_mode, inode=found.st_ino, size_bytes=found.st_size)

    def gfid(self, path: str) -> Gfid:
        """The identity of what is at `path` now: the same on every brick, and never that of what takes its place."""
        handle = ctypes.create_string_buffer(_HANDLE_BYTES)

        def read(fs: int) -> int:
            found = libgfapi.call("glfs_h_lookupat", fs, None, _absolute(path), None, 0)
            try:
                return libgfapi.call("glfs_h_extract_handle", found, handle, _HANDLE_BYTES)
            finally:
                libgfapi.call("glfs_h_close", found)

        self._do(f"find {path}", read)
        return Gfid(handle.raw)

    def statvfs(self, path: str) -> SpaceStat:
        """statvfs(3). Of a replicate volume it is the brick's with the least room."""
        found = libgfapi.StatVfs()
        self._do(
            f"statvfs {path}", lambda fs: libgfapi.call("glfs_statvfs", fs, _absolute(path), ctypes.addressof(found))
        )
        return SpaceStat(
            total_bytes=found.f_blocks * found.f_frsize,
            free_bytes=found.f_bavail * found.f_frsize,
            block_bytes=found.f_frsize,
        )

    def setxattr(self, path: str, name: str, value: bytes, *, create: bool = False) -> None:
        """lsetxattr(2); with `create`, EEXIST if the attribute is there already (XATTR_CREATE)."""
        flags = _XATTR_CREATE if create else 0
        self._do(
            f"set the attribute {name} of {path}",
            lambda fs: libgfapi.call(
                "glfs_lsetxattr", fs, _absolute(path), os.fsencode(name), value, len(value), flags
            ),
        )

    def getxattr(self, path: str, name: str) -> bytes:
        """lgetxattr(2); ENODATA if the attribute is not there."""
        value = ctypes.create_string_buffer(_XATTR_BYTES)
        size = self._do(
            f"read the attribute {name} of {path}",
            lambda fs: libgfapi.call("glfs_lgetxattr", fs, _absolute(path), os.fsencode(name), value, _XATTR_BYTES),
        )
        return value.raw[:size]

    def removexattr(self, path: str, name: str) -> None:
        """lremovexattr(2); ENODATA if the attribute is not there."""
        self._do(
            f"remove the attribute {name} of {path}",
            lambda fs: libgfapi.call("glfs_lremovexattr", fs, _absolute(path), os.fsencode(name)),
        )

    def own(self, path: str, *, uid: int, gid: int, mode: int) -> None:
        """lchown(2), then chmod(2) of a directory, since the former may take bits of the mode away. Not atomic."""
        self._do(f"chown {path}", lambda fs: libgfapi.call("glfs_lchown", fs, _absolute(path), uid, gid))
        self._do(f"chmod {path}", lambda fs: libgfapi.call("glfs_chmod", fs, _absolute(path), mode))

    def listdir(self, path: str) -> list[str]:
        """The names in a directory, without `.` and `..`, in no order."""
        names: list[str] = []

        def read(fs: int) -> int:
            with libgfapi.names(libgfapi.call("glfs_opendir", fs, _absolute(path))) as found:
                names.extend(map(os.fsdecode, found))
            return 0

        self._do(f"list {path}", read)
        return names

    def remove_tree(self, path: str, *, deadline: float | None = None) -> None:
        """Removes a directory and all in it; nothing if it is not there. It may be called again after any error.

        What a pod may have put there is hostile: no symlink is followed, also none that takes a directory's place
        meanwhile, since every step goes from the identity of a directory and not from a path.

        Raises: DeadlineError at `deadline`, a time of time.monotonic().
        """
        parent, _, name = path.strip("/").rpartition("/")

        def remove(fs: int) -> int:
            top = libgfapi.call("glfs_h_lookupat", fs, None, _absolute(parent), None, 0)
            try:
                tree.remove(fs, top, os.fsencode(name), deadline)
            finally:
                libgfapi.call("glfs_h_close", top)
            return 0

        self._do(f"remove the tree {path}", remove)

    def copy_tree(
        self,
        source: str,
        target: str,
        progress: CopyProgress,
        *,
        server_side: bool = False,
        deadline: float | None = None,
    ) -> None:
        """Makes the directory `target`, which exists, what the directory `source` is; see copytree.py.

        It may be called again after any error, and goes on where it was. Nobody else may write to `target`.

        server_side: the bricks copy: only on a volume of one brick without shard, elsewhere it would be corrupt.
        Raises: DeadlineError at `deadline`, a time of time.monotonic(), or when `progress` was told to stop;
        VolumeIOError naming the entry: ENOSPC if the target's limit is reached.
        """

        def copy(fs: int) -> int:
            objects = Objects(fs)
            with _held(objects, source) as old, _held(objects, target) as new:
                copytree.copy(objects, old, new, progress, server_side=server_side, deadline=deadline)
            return 0

        self._do(f"copy {source} to {target}", copy)


def _finish(fs: int) -> None:
    try:
        libgfapi.call("glfs_fini", fs)
    except OSError:
        pass  # it complains of calls that nobody waits for any more


@contextmanager
def _held(objects: Objects, path: str) -> Iterator[Handle]:
    handle = objects.at(_absolute(path))
    try:
        yield handle
    finally:
        objects.close(handle)


def _absolute(path: str) -> bytes:
    if "\0" in path:
        raise ValueError("a path holds a NUL")
    return b"/" + os.fsencode(path.strip("/"))
