"""Two deletions at once on a volume that has no trash yet."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

from kadalu_ext.csi.directories import Directories
from kadalu_ext.csi.records import Records
from kadalu_ext.csi.removal import Removal
from kadalu_ext.layout import TRASH_DIR, pv_path
from kadalu_ext.record import PvName
from tests.unit.csi.memory import MemoryStore


class OneAtATime(MemoryStore):
    """Notes who makes the trash while somebody else does, which gluster bears badly."""

    def __init__(self) -> None:
        super().__init__()
        self.making = threading.Semaphore(1)
        self.clashes = 0

    def mkdir(self, path: str, mode: int) -> None:
        if path != TRASH_DIR:
            return super().mkdir(path, mode)
        self.clashes += not self.making.acquire(blocking=False)
        try:
            threading.Event().wait(0.01)
            super().mkdir(path, mode)
        finally:
            self.making.release()


def test_the_trash_is_made_by_one_at_a_time() -> None:
    store, names = OneAtATime(), [PvName(f"pvc-{n}") for n in range(8)]
    directories = Directories(store)
    for name in names:
        directories.make(pv_path(name), 0o777)
    removal = Removal(store, directories, Records(store, directories))
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(removal.to_trash, names))
    assert (store.clashes, len(store.listdir(TRASH_DIR))) == (0, 8)
