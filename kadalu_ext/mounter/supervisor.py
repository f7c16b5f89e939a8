"""One storage on this node: its volfile server, its client, its mount, and the thread that keeps them true."""

from __future__ import annotations

import os
import threading
from collections.abc import Collection
from typing import Final

from kadalu_ext import mountinfo
from kadalu_ext.bounded import SideThreads
from kadalu_ext.errors import ConflictError, InProgressError, InvalidInputError, KadaluExtError, MounterError
from kadalu_ext.gluster.feed import SETTLE_S, Feed, Source
from kadalu_ext.log import Logger
from kadalu_ext.mounter.client import Client, Places
from kadalu_ext.mounter.status import State, Status
from kadalu_ext.mounter.world import World
from kadalu_ext.storage import Storage, StorageName, from_json, to_json

READY_S: Final = 20.0
"""How long a client may take to become usable: a replicate volume waits ten seconds for a brick that falls silent."""

WAIT_S: Final = 40.0
"""How long a call waits for another one of the same storage."""

CALLERS: Final = 64
"""How many calls may wait for one storage, so that they never take the workers of the others."""


_PODS: Final = "another is started, and what new pods mount works then; pods that were running must be deleted"

AGAIN_S: Final = 30.0
"""The longest pause between two tries to start a client in the place of one that ended; the first comes at once."""

_LOOK_S: Final = 1.0
"""How long a client may take to say which bricks it is connected to."""


class Supervisor:
    """A storage's life on this node. Thread-safe; calls for one storage are carried out one after the other.

    refresh_s: how often the volume's hosts are asked for a changed volfile, unless they tell of it themselves, and
    hidden hosts whether they answer again.
    """

    def __init__(self, name: StorageName, places: Places, *, log: Logger, world: World, refresh_s: float) -> None:
        self.name = name
        self._places = places
        self._log = log
        self._world = world
        self._refresh_s = refresh_s
        self._feed = Feed(places.socket, fetch=world.fetch, probe=world.probe, listen=world.listen, told=self._told)
        self._callers = threading.BoundedSemaphore(CALLERS)
        self._working = threading.Lock()
        """Held by whoever changes what is below."""
        self._storage: Storage | None = None
        self._client: Client | None = None
        self._reason = ""
        self._failures = 0
        self._failure: KadaluExtError | None = None
        self._down: tuple[str, ...] = ()
        self._restarts = 0
        self._threads = SideThreads()
        self._lives = 0
        """Counted up with each client, and each end that was asked for: what concerns an earlier one is void."""
        self._closed = False
        self._reviving = threading.Lock()
        self._hurry = threading.Event()

    # --- what is asked ----------------------------------------------------------------------------------------------

    def mount(self, storage: Storage) -> str:
        """The path of the storage's mount, made if it is not there. Idempotent.

        Raises: InProgressError if too many calls wait already; ConflictError if it is mounted from another volume; and
        what `feed.fetch` and `Client.wait_ready` raise. Calls that waited for a failed attempt share its error.
        """
        failures = self._failures
        self._enter()
        try:
            if self._failure is not None and self._failures != failures:
                raise self._failure
            self._describe(storage)
            if not self._mounted():
                self._start(storage)
        except OSError as error:
            raise MounterError(f"{self.name}: cannot be mounted on this node: {error}") from error
        finally:
            self._leave()
        return self._places.mount

    def release(self) -> None:
        """Takes the mount away, and forgets the storage. The client ends by itself with the last bind mount of it.

        Idempotent. Raises: InProgressError; MounterError if the mount cannot be taken away.
        """
        self._enter()
        try:
            client, self._client, self._storage = self._client, None, None
            self._reason = ""
            self._void()
            self._feed.rest()
            if client is None or client.ended():
                self._feed.stop()
            self._unmount()
            self._world.remove(self._places.mount)
            if os.path.exists(self._places.description):
                os.unlink(self._places.description)
        except OSError as error:
            raise MounterError(f"{self.name}: cannot be unmounted from this node: {error}") from error
        finally:
            self._leave()

    def recover(self) -> None:
        """Finds what an earlier mounter left: takes over a client that lives, starts another one for one that is dead,
        removes a mount point that nobody uses.

        Raises: OSError.
        """
        self._read_description()
        clients = self._world.find(self._places)
        mount = mountinfo.at(self._world.mounts(), self._places.mount)
        for _pid, pidfd in clients[:-1] if mount else clients:
            os.close(pidfd)  # released: they live for as long as a bind mount of theirs
        if mount is not None and clients:
            self._watch(Client.adopt(*clients[-1], self._places, mount.device))
            self._log.info("client found again", storage=self.name, pid=clients[-1][0])
            return
        if mount is not None:
            self._storage = self._storage or self._world.entry(self.name)
            self._unmount()
            self._reason = f"its client died with the mounter that started it; {_PODS}"
            self._log.error("mount found dead", storage=self.name, path=self._places.mount)
        if self._storage is not None:
            threading.Thread(target=self._revive, name=f"revive-{self.name}", daemon=True).start()
        elif mount is None:
            try:
                self._world.remove(self._places.mount)
            except OSError as error:
                self._log.warning("mount point of old not removed", path=self._places.mount, reason=str(error))

    def look(self, mounts: Collection[mountinfo.Mount]) -> None:
        """To be called when `mounts` of this node changed: one that is gone under a client that lives is made anew.

        Never waits.
        """
        client = self._client
        if client is None or client.ended() or self._working.locked() or self._shows(mounts, client):
            return
        self._reason = f"somebody took its mount away; {_PODS}"
        threading.Thread(target=self._revive, name=f"revive-{self.name}", daemon=True).start()

    def status(self) -> Status | None:
        """What has become of the storage; None if nobody wants it. Never waits."""
        if self._storage is None and self._client is None and not self._reason:
            return None
        mounted = self._mounted()
        state = State.MOUNTED if mounted else State.MOUNTING if self._working.locked() else State.DEAD
        return Status(
            name=self.name,
            state=state,
            path=self._places.mount,
            reason="" if mounted else self._reason,
            hidden_hosts=tuple(sorted(self._feed.hidden or ())),
            down_bricks=self._down if mounted else (),
            restarts=self._restarts,
        )

    def close(self) -> None:
        """Stops serving volfiles, and starts no client any more. The one that there is goes on."""
        self._closed = True
        self._void()
        self._feed.close()

    # --- how it is done ---------------------------------------------------------------------------------------------

    def _enter(self) -> None:
        if not self._callers.acquire(blocking=False):
            raise InProgressError(f"{self.name}: {CALLERS} calls wait for this storage already")
        if not self._working.acquire(timeout=WAIT_S):
            self._callers.release()
            raise InProgressError(f"{self.name}: an earlier call is still at work after {WAIT_S:g} s")

    def _leave(self) -> None:
        self._working.release()
        self._callers.release()

    def _describe(self, storage: Storage) -> None:
        """Remembers how to reach the volume, on disk too: a mounter that finds its client again must serve it."""
        known = self._storage
        if known == storage:
            return
        if known is not None and known.volume != storage.volume and self._mounted():
            raise ConflictError(
                f"{self.name}: it is mounted on this node from the volume {known.volume}, not {storage.volume}; "
                "a storage keeps its volume for life: give another volume a storage of its own"
            )
        path = self._places.description
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        with open(path + ".new", "w", encoding="utf-8") as file:
            file.write(to_json(storage))
        os.replace(path + ".new", path)
        self._storage = storage

    def _read_description(self) -> None:
        try:
            with open(self._places.description, encoding="utf-8") as file:
                self._storage = from_json(file.read())
        except FileNotFoundError:
            pass
        except InvalidInputError as error:
            self._log.warning("description not readable", storage=self.name, reason=str(error))

    def _mounted(self) -> bool:
        client = self._client
        return client is not None and not client.ended() and self._shows(self._world.mounts(), client)

    def _shows(self, mounts: Collection[mountinfo.Mount], client: Client) -> bool:
        mount = mountinfo.at(mounts, self._places.mount)
        return mount is not None and mount.device == client.device

    def _start(self, storage: Storage) -> None:
        self._client = None  # one that lives, but whose mount was taken away, ends with its last bind mount
        try:
            self._unmount()
            self._feed.begin(self._source(storage))
            if not self._world.prepare(self._places.mount):
                self._log.warning("mount point cannot be made immutable", storage=self.name, path=self._places.mount)
            client = self._world.start(storage, self._places)
            try:
                client.wait_ready(READY_S)
            except BaseException:
                client.kill()
                client.forget()
                self._unmount()
                raise
        except KadaluExtError as error:
            self._reason, self._failure = str(error), error
            self._failures += 1
            raise
        self._reason, self._failure = "", None
        self._watch(client)

    def _unmount(self) -> None:
        while mountinfo.at(self._world.mounts(), self._places.mount) and self._world.unmount(self._places.mount):
            pass

    def _void(self) -> None:
        self._lives += 1
        self._hurry.set()

    def _watch(self, client: Client) -> None:
        self._void()
        self._down = ()
        self._client = client
        threading.Thread(target=self._keep, args=(client,), name=f"keep-{self.name}", daemon=True).start()

    def _keep(self, client: Client) -> None:
        """Follows one client to its end."""
        ended = False
        while not ended:
            try:
                if self._client is client:
                    self._refresh()
                    self._look_at_bricks()
                    client.rotate_log()
            except Exception:  # hidden hosts would stay hidden for good
                self._log.exception("keeping a client crashed", storage=self.name, pid=client.pid)
            if client.rest(self._refresh_s):
                client.wait_end(SETTLE_S)
            ended = client.ended()
        with self._working:
            lost = self._client is client
            if lost:
                self._reason = f"its client ended: {client.last_words()}; {_PODS}"
                self._log.error("client ended", storage=self.name, pid=client.pid, reason=self._reason)
            else:
                self._log.info("released client ended", storage=self.name, pid=client.pid)
                if self._storage is None:
                    self._feed.stop()
        client.forget()
        if lost:
            self._revive()

    def _revive(self) -> None:
        """Starts another client, again and again, until there is one, or nobody wants the storage any more."""
        if not self._reviving.acquire(blocking=False):
            return  # another thread is at it
        try:
            lives, why, pause = self._lives, self._reason, 0.0
            while True:
                self._hurry.clear()
                if self._lives != lives or self._started_again(why, pause := min(2 * pause or 1.0, AGAIN_S)):
                    return
                self._hurry.wait(pause)
        finally:
            self._reviving.release()

    def _started_again(self, why: str, next_s: float) -> bool:
        """True if there is nothing left to do."""
        with self._working:
            if self._closed or self._storage is None or self._mounted():
                return True
            try:
                newest = self._world.fresher(self._storage)
                self._start(newest if newest.volume == self._storage.volume else self._storage)
            except (KadaluExtError, OSError) as error:
                self._reason = f"{why}; it cannot be started again: {error}; tried again every {next_s:g} s"
                self._log.warning("client not started again", storage=self.name, reason=str(error), next_s=next_s)
                return False
            self._restarts += 1
        self._log.info("client started again", storage=self.name)
        return True

    def _told(self) -> None:
        self._hurry.set()
        client = self._client
        if client is not None:
            client.wake()

    def _look_at_bricks(self) -> None:
        def look() -> tuple[str, ...]:
            return self._world.down(self._places.mount, self._feed.bricks)

        try:
            down = self._threads.run("bricks", look, timeout_s=_LOOK_S, what="bricks")
        except (KadaluExtError, OSError):
            return  # no answer: what was last known stands
        if down != self._down:
            self._down = down
            self._log.info("bricks without a connection", storage=self.name, bricks=down)

    def _refresh(self) -> None:
        """Lets the client follow its volume."""
        storage = self._storage
        if storage is None:
            return  # found again, and not asked for yet
        try:
            storage = self._follow(storage)
            if self._feed.refresh(self._source(storage)):
                self._log.info("volfile pushed", storage=self.name, hidden_hosts=sorted(self._feed.hidden or ()))
        except KadaluExtError as error:
            self._log.debug("volfile not refreshed", storage=self.name, reason=str(error))
        except OSError as error:
            self._log.warning("volfile not served", storage=self.name, reason=str(error))

    def _follow(self, storage: Storage) -> Storage:
        """The storage as it is now, remembered; one of another volume is left to `mount`, which refuses it."""
        newest = self._world.fresher(storage)
        if newest == storage or newest.volume != storage.volume or not self._working.acquire(blocking=False):
            return storage
        try:
            if self._storage is not storage:
                return storage  # released, or described anew, meanwhile
            self._describe(newest)
        finally:
            self._working.release()
        self._log.info("storage changed", storage=self.name, hosts=newest.hosts, tls=newest.tls)
        return newest

    def _source(self, storage: Storage) -> Source:
        tls = self._world.tls(storage)
        return Source(
            volume=storage.volume,
            hosts=storage.hosts,
            options=storage.options,
            tls=tls,
            volume_id=storage.volume_id,
        )
