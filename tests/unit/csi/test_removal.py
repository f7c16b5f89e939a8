"""Two who make one directory at once: deletions on a volume that has no trash yet, PVs on one that has nothing."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from kadalu_ext.csi.directories import Directories
from kadalu_ext.csi.promises import Promises
from kadalu_ext.csi.records import Records
from kadalu_ext.csi.removal import Removal
from kadalu_ext.csi.volumes import Bricks, Volumes
from kadalu_ext.layout import TRASH_DIR, parents, pv_path
from kadalu_ext.record import PvName
from tests.unit.csi.memory import MemoryBricks, MemoryStore, replica


class OneAtATime(MemoryStore):
    """Notes who makes a directory while somebody else does, which gluster bears badly."""

    def __init__(self) -> None:
        super().__init__()
        self.making: Counter[str] = Counter()
        self.guard = threading.Lock()
        self.clashes = 0

    def mkdir(self, path: str, mode: int) -> None:
        with self.guard:
            self.clashes += bool(self.making[path])
            self.making[path] += 1
        try:
            threading.Event().wait(0.01)
            super().mkdir(path, mode)
        finally:
            with self.guard:
                self.making[path] -= 1

    def listdir(self, path: str, most: int | None = None) -> Sequence[str]:
        self._look(path)
        return super().listdir(path, most)

    def getxattr(self, path: str, name: str) -> bytes:
        self._look(path)
        return super().getxattr(path, name)

    def _look(self, path: str) -> None:
        """Notes who looks up something in a directory that is just being made."""
        with self.guard:
            self.clashes += any(self.making[parent] for parent in (*parents(path), path))


def test_the_trash_is_made_by_one_at_a_time() -> None:
    store, names = OneAtATime(), [PvName(f"pvc-{n}") for n in range(8)]
    directories = Directories(store)
    for name in names:
        directories.make(pv_path(name), 0o777)
    removal = Removal(store, directories, Records(store, directories))
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(removal.to_trash, names))
    assert (store.clashes, len(store.listdir(TRASH_DIR))) == (0, 8)


def test_the_parents_of_the_first_pvs_are_made_by_one_at_a_time() -> None:
    store, paths = OneAtATime(), [f"subvol/a/b/pvc-{n}" for n in range(8)]
    directories = Directories(store)
    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(lambda path: directories.make(path, 0o777), paths))
    assert (store.clashes, len(store.listdir("subvol/a/b"))) == (0, 8)


def test_nobody_looks_while_the_first_makes_what_everything_is_in() -> None:
    store = OneAtATime()
    bricks = Bricks(geometry=replica(), probe=MemoryBricks(store))
    volumes = Volumes(volume="vol", store=store, bricks=bricks, promises=Promises(volume="vol"))
    with ThreadPoolExecutor(4) as threads:
        beat = threads.submit(volumes.beat)

        def look() -> None:
            while not beat.done():
                volumes.left()

        for future in [threads.submit(look) for _ in range(3)]:
            future.result()
    beat.result()
    assert store.clashes == 0
