"""Directories of a process that nobody else enters, and that do not outlive it for long: they may hold keys.

A process that is killed removes nothing. Each directory is locked while its process lives (flock(2): the kernel lets go
of it when that ends, however it ends), so that a later one can tell which are left.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from typing import Final

_PREFIX: Final = "kadalu-ext-gfapi-"


class OwnDirectory:
    """A new directory for temporary files (tempfile.gettempdir), mode 0700. Raises OSError if it cannot be made."""

    def __init__(self) -> None:
        # under a name that `sweep` does not know until it is locked
        made = tempfile.mkdtemp(prefix=f".{_PREFIX}")
        self._locked = os.open(made, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(self._locked, fcntl.LOCK_EX | fcntl.LOCK_NB)
        parent, name = os.path.split(made)
        self.path = os.path.join(parent, name.removeprefix("."))
        os.rename(made, self.path)

    def remove(self) -> None:
        """With all in it. To be called once."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._locked)


def sweep() -> None:
    """Removes what processes of this user that are gone have left. One that cannot be removed stays."""
    with os.scandir(tempfile.gettempdir()) as entries:
        left = [entry.path for entry in entries if entry.name.startswith(_PREFIX)]
    for path in left:
        try:
            directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError:
            continue  # gone meanwhile, or none of ours
        try:
            if os.fstat(directory).st_uid == os.geteuid():
                fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path, ignore_errors=True)
        except BlockingIOError:
            pass  # its process lives
        finally:
            os.close(directory)
