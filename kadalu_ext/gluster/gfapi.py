"""File operations on a volume without a mount, through libgfapi: no FUSE, no privilege, one start for all operations.

The client is in this process, or, where a storage must not be able to harm another, in one of its own
(clientprocess.py); its volfile is fed to it from here.
"""

from __future__ import annotations

import math
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Protocol, Self

from kadalu_ext.errors import DeadlineError, KadaluExtError, ShortageError, UnavailableError, VolumeIOError
from kadalu_ext.gluster.copyprogress import CopyProgress
from kadalu_ext.gluster.feed import REFRESH_S, SETTLE_S, Feed, Source
from kadalu_ext.gluster.files import Files
from kadalu_ext.gluster.messages import Gfid
from kadalu_ext.gluster.owndir import OwnDirectory
from kadalu_ext.gluster.tls import Tls

LOG_LEVEL_WARNING: Final = 5
"""gf_loglevel_t: 4 error, 5 warning, 7 info, 8 debug."""

HUNG_S: Final = 60.0
"""A single call of libgfapi that takes longer hangs: gluster gives up a silent brick after 10 to 20 s."""

RESTART_S: Final = 300.0
"""A client that hangs is ended at most so often: where it is a disk that hangs, the next client does, too, and each
leaves what it has sent in the brick's queue."""

JOIN_S: Final = 0.5
"""For so long a start waits for hosts that are silent to be looked at once more. One that was only slow, as on a busy
machine, would otherwise miss what is made first, and have it from a self-heal, up to ten minutes later."""


@dataclass(frozen=True, kw_only=True)
class FileStat:
    """lstat(2) of a file or directory on the volume. `mode` holds type and permissions."""

    mode: int
    gid: int
    inode: int
    size_bytes: int


@dataclass(frozen=True, kw_only=True)
class SpaceStat:
    """statvfs(3) through the volume: in a PV's directory its size, at the root the volume's."""

    total_bytes: int
    free_bytes: int
    block_bytes: int


class Client(Protocol):
    """A started client: files.Files, or one in a process of its own, which may be gone: UnavailableError says why."""

    def call(self, operation: str, *args: Any) -> Any: ...

    def copy_tree(
        self, source: str, target: str, server_side: bool, deadline: float | None, progress: CopyProgress
    ) -> None: ...

    def look(self, longest_s: float) -> str:
        """Why it is of no use any more, empty if it is; one that hangs for `longest_s` is ended now, if it can be."""
        ...

    def end(self) -> None: ...


class Launch(Protocol):
    """Starts a client, see files.Files.start."""

    def __call__(
        self, volume: str, /, *, socket: str, log_file: str, log_level: int, ready: Callable[[], None]
    ) -> Client: ...


@dataclass(frozen=True, kw_only=True)
class _Settings:
    """What Volume.open was given."""

    source: Callable[[], Source]
    volume: str
    timeout_s: float
    log_file: str
    log_level: int
    refresh_s: float
    launch: Launch
    lost: Callable[[str], None]


class Volume:
    """A client of one volume. Thread-safe; keep it open: starting costs 0.04 s, closing some ten.

    Paths are relative to the volume's root. Symlinks at their end are never followed.

    Its volfile comes from a Feed: brick hosts that are silent when it starts cost a second, and are joined within
    `refresh_s` when they answer; what changes on the volume reaches it at once where glusterd tells, else likewise.

    The client starts in a thread of its own. What is asked meanwhile waits up to `timeout_s` and raises DeadlineError,
    and a later call finds the client started. If the start fails, that error is raised, and the next call starts anew,
    with the hosts that answer then.

    Every operation raises VolumeIOError with errno, and UnavailableError if the client is lost: then it may have been
    done or not, and the next call starts another client. An operation is not bounded by itself: when a host falls
    silent under a running client, it waits until the ping-timeout (clientvolfile.PING_TIMEOUT_S) is over. A client in a
    process of its own is ended after HUNG_S.
    """

    def __init__(self, settings: _Settings) -> None:
        self._settings = settings
        self._volume = settings.volume
        self._changed = threading.Event()
        """Something about the volume may have, or the client is closed."""
        self._directory = OwnDirectory()
        self._feed = Feed(os.path.join(self._directory.path, "volfile.sock"), told=self._changed.set)
        self._follower: threading.Thread | None = None
        self._looked = threading.Event()
        """Hosts that were silent at the start were looked at again."""
        self._state = threading.Condition()
        self._client: Future[Client] | None = None
        self._started_at = 0.0
        self._lost_at = -math.inf
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
        launch: Launch = Files.start,
        lost: Callable[[str], None] = lambda _why: None,
    ) -> Self:
        """A client of `volume`, started, or still starting when `timeout_s` was over.

        hosts: glusterds, in order of preference; those that answer are used first.
        tls: what an encrypted cluster is spoken to with; asked again and again, since files are renewed.
        volume_id: the volume's, if it is known: no other of that name is used.
        log_file, log_level: of gluster's own log, as in LOG_LEVEL_WARNING.
        launch: starts the client; clientprocess.ClientProcess.start does so in a process of its own.
        lost: called with the reason when a client that had started is lost. It must return at once.

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
                launch=launch,
                lost=lost,
            )
        )
        try:
            with opened._using("start its client"):
                pass
        except DeadlineError:
            pass  # it goes on starting
        except BaseException:
            opened.close()
            raise
        return opened

    # --- the client ---

    @contextmanager
    def _using(self, what: str) -> Iterator[Client]:
        """The started client, which is not closed meanwhile. What it raises gets words: `what` could not be done."""
        with self._state:
            if self._closed.is_set():
                raise UnavailableError(f"volume {self._volume}: its client is closed")
            starting = self._starting()
            self._users += 1
        try:
            client = self._started(starting)
            try:
                yield client
            except OSError as error:
                raise self._failed(error, what) from error
            except (DeadlineError, ShortageError):
                raise
            except UnavailableError as error:
                self._lose(starting, str(error))
                raise self._ended(f"{error} while it was to {what}") from error
        finally:
            with self._state:
                self._users -= 1
                self._state.notify_all()

    def _starting(self) -> Future[Client]:
        client = self._client
        if client is None or (client.done() and client.exception() is not None):
            client, self._client = Future(), None
            self._started_at = time.monotonic()
            try:
                threading.Thread(target=self._start, args=(client,), name=f"gfapi-{self._volume}", daemon=True).start()
            except RuntimeError as error:
                raise UnavailableError(
                    f"volume {self._volume}: there is no thread for the start of its client: {error}. "
                    "The next call tries again"
                ) from error
            self._client = client
        return client

    def _started(self, client: Future[Client]) -> Client:
        try:
            return client.result(timeout=self._settings.timeout_s)
        except TimeoutError:
            raise DeadlineError(
                f"volume {self._volume}: its client is still starting after "
                f"{time.monotonic() - self._started_at:.0f} s; gluster waits ten for a brick host that falls silent"
            ) from None

    def _start(self, client: Future[Client]) -> None:
        try:
            started = self._launched()
        except OSError as error:
            what = "start its client" if error.errno else "load libgfapi.so.0 (Debian: apt-get install libgfapi0)"
            client.set_exception(self._failed(error, what))
        except Exception as error:
            client.set_exception(error)
        else:
            client.set_result(started)

    def _launched(self) -> Client:
        settings = self._settings
        served = threading.Event()

        def serve() -> None:
            self._looked.clear()
            try:
                self._feed.begin(settings.source())
            except OSError as error:
                raise self._failed(error, f"serve its volfile at {self._feed.path}") from error
            served.set()
            self._follow()
            if self._feed.hidden:
                self._looked.wait(JOIN_S)

        try:
            return settings.launch(
                settings.volume,
                socket=self._feed.path,
                log_file=settings.log_file,
                log_level=settings.log_level,
                ready=serve,
            )
        except UnavailableError as error:
            if not served.is_set():
                raise  # of the hosts
            settings.lost(str(error))
            raise self._ended(str(error)) from error

    def _follow(self) -> None:
        """From the first start on, the client follows its volume: one thread, until it is closed."""
        with self._state:
            if self._follower is None or not self._follower.is_alive():
                follower = threading.Thread(target=self._refresh, name=f"follow-{self._volume}", daemon=True)
                follower.start()
                self._follower = follower
            else:
                self._changed.set()

    def _refresh(self) -> None:
        while not self._closed.is_set():
            try:
                self._look()
                self._feed.refresh(self._settings.source())
            except (KadaluExtError, OSError):
                pass  # the client goes on with what it has; whoever asks the bricks learns what is wrong
            except Exception:
                # Told like one that ends a thread. This one goes on: no other ends a client that hangs.
                threading.excepthook(threading.ExceptHookArgs((*sys.exc_info(), threading.current_thread())))
            self._looked.set()
            if self._changed.wait(self._settings.refresh_s):
                self._changed.clear()
                self._closed.wait(SETTLE_S)

    def _look(self) -> None:
        client = self._client
        if client is None or not client.done() or client.exception() is not None:
            return
        again = time.monotonic() - self._lost_at >= RESTART_S
        if why := client.result().look(HUNG_S if again else math.inf):
            self._lose(client, why)

    def _lose(self, client: Future[Client], why: str) -> None:
        """The next operation starts another one."""
        with self._state:
            if self._client is not client:
                return
            self._client = None
            self._lost_at = time.monotonic()
        client.result().end()
        self._settings.lost(why)

    def close(self) -> None:
        """Ends the client in the background, once the operations that run are done, or hang. Idempotent."""
        with self._state:
            closed = self._closed.is_set()
            self._closed.set()
            self._changed.set()
        if not closed:
            threading.Thread(target=self._finish, args=(self._client,), name="gfapi-fini", daemon=True).start()

    def _finish(self, client: Future[Client] | None) -> None:
        if client is not None and client.exception() is None:
            while not self._unused(HUNG_S) and not client.result().look(HUNG_S):
                pass
            client.result().end()
        self._feed.close()
        self._directory.remove()

    def _unused(self, timeout_s: float) -> bool:
        with self._state:
            return self._state.wait_for(lambda: not self._users, timeout_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _failed(self, error: OSError, what: str) -> VolumeIOError:
        about = f"{error.filename}: " if error.filename else ""
        return VolumeIOError(
            error.errno or 0, f"volume {self._volume}: cannot {what}: {about}{error.strerror or error}"
        )

    def _ended(self, why: str) -> UnavailableError:
        return UnavailableError(
            f"volume {self._volume}: its gluster client had to be ended: {why}. The next call starts another"
        )

    # --- operations ---

    def mkdir(self, path: str, mode: int) -> None:
        """mkdir(2); `mode` as it is, without a umask."""
        self._do(f"make the directory {path}", "mkdir", path, mode)

    def rmdir(self, path: str) -> None:
        """rmdir(2)."""
        self._do(f"remove the directory {path}", "rmdir", path)

    def rename(self, old: str, new: str) -> None:
        """rename(2): atomic on each brick; an empty directory at `new` is replaced."""
        self._do(f"rename {old} to {new}", "rename", old, new)

    def stat(self, path: str) -> FileStat:
        """lstat(2)."""
        mode, gid, inode, size_bytes = self._do(f"stat {path}", "stat", path)
        return FileStat(mode=mode, gid=gid, inode=inode, size_bytes=size_bytes)

    def gfid(self, path: str) -> Gfid:
        """The identity of what is at `path` now: the same on every brick, and never that of what takes its place."""
        return Gfid(self._do(f"find {path}", "gfid", path))

    def statvfs(self, path: str) -> SpaceStat:
        """statvfs(3). Of a replicate volume it is the brick's with the least room."""
        total_bytes, free_bytes, block_bytes = self._do(f"statvfs {path}", "statvfs", path)
        return SpaceStat(total_bytes=total_bytes, free_bytes=free_bytes, block_bytes=block_bytes)

    def setxattr(self, path: str, name: str, value: bytes, *, create: bool = False) -> None:
        """lsetxattr(2); with `create`, EEXIST if the attribute is there already (XATTR_CREATE)."""
        self._do(f"set the attribute {name} of {path}", "setxattr", path, name, value, create)

    def getxattr(self, path: str, name: str) -> bytes:
        """lgetxattr(2); ENODATA if the attribute is not there."""
        value: bytes = self._do(f"read the attribute {name} of {path}", "getxattr", path, name)
        return value

    def removexattr(self, path: str, name: str) -> None:
        """lremovexattr(2); ENODATA if the attribute is not there."""
        self._do(f"remove the attribute {name} of {path}", "removexattr", path, name)

    def own(self, path: str, *, uid: int, gid: int, mode: int) -> None:
        """lchown(2) and chmod(2) of a directory. Not atomic."""
        self._do(f"chown {path}", "own", path, uid, gid, mode)

    def listdir(self, path: str, most: int | None = None) -> list[str]:
        """The names in a directory, without `.` and `..`, in no order: `most` of them. EOVERFLOW: they are too many for
        a client in a process of its own (channel.py)."""
        names: list[str] = self._do(f"list {path}", "listdir", path, most)
        return names

    def remove_tree(self, path: str, *, deadline: float | None = None) -> None:
        """Removes a directory and all in it; nothing if it is not there. It may be called again after any error.

        What a pod may have put there is hostile: no symlink is followed, also none that takes a directory's place
        meanwhile, since every step goes from the identity of a directory and not from a path.

        Raises: DeadlineError at `deadline`, a time of time.monotonic().
        """
        self._do(f"remove the tree {path}", "remove_tree", path, deadline)

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
        with self._using(f"copy {source} to {target}") as client:
            client.copy_tree(source, target, server_side, deadline, progress)

    def _do(self, what: str, operation: str, *args: object) -> Any:
        with self._using(what) as client:
            return client.call(operation, *args)
