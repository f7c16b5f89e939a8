"""Two who make one directory at once: deletions on a volume that has no trash yet, PVs on one that has nothing."""

from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from kadalu_ext.csi.directories import Directories
from kadalu_ext.csi.records import Records
from kadalu_ext.csi.removal import Removal
from kadalu_ext.layout import TRASH_DIR, pv_path
from kadalu_ext.record import PvName
from tests.unit.csi.memory import MemoryStore


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
