"""A client's process with no gluster in it: does what a path, or the volume's name, says. See test_clientprocess.py."""

from __future__ import annotations

import os
import resource
import signal
import sys
import threading
import time
from errno import EEXIST, ENOSPC
from typing import Any

from kadalu_ext.errors import DeadlineError
from kadalu_ext.gluster import channel, clientmain, libgfapi
from kadalu_ext.gluster.copyprogress import CopyProgress
from kadalu_ext.gluster.files import Files


class FakeFiles(Files):
    def __init__(self) -> None:
        super().__init__(0)
        self.attributes: dict[str, bytes] = {}

    def setxattr(self, path: str, name: str, value: bytes, create: bool) -> None:
        self.attributes[path] = value

    def getxattr(self, path: str, name: str) -> bytes:
        return self.attributes[path]

    def listdir(self, path: str, most: int | None = None) -> list[str]:
        return ["\udcff" * 255] * 100 if path == "full" else list(self.attributes)

    def statvfs(self, path: str) -> list[int]:
        return [1 << 60, 2, 3]

    def mkdir(self, path: str, mode: int) -> None:
        raise OSError(EEXIST, "there")

    def rmdir(self, path: str) -> None:
        with libgfapi._noted("glfs_rmdir"):
            do(path)

    def remove_tree(self, path: str, deadline: float | None) -> None:
        raise DeadlineError("the tree is not removed yet")

    def copy_tree(self, source: str, target: str, *args: Any) -> None:
        progress: CopyProgress = args[-1]
        if source == "full":
            raise OSError(ENOSPC, "no space", "a/b")
        for _ in range(3):
            progress.add(files=1, size_bytes=1 << 20)
        while source == "endless":
            if progress.stopped:
                raise DeadlineError("stopped")
            time.sleep(0.01)


def do(what: str) -> None:
    if what == "hang":
        threading.Event().wait()
    elif what == "crash":
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.kill(os.getpid(), signal.SIGSEGV)
        threading.Event().wait()
    elif what == "small messages":
        channel._MAX_BYTES = 100 * 255 * 6  # type: ignore[misc]
    elif what == "library missing":
        raise OSError("libgfapi.so.0: cannot open shared object file")


def main() -> None:
    volume, *_ = sys.argv[1:]

    def start() -> Files:
        do(volume)
        return FakeFiles()

    clientmain.run(start)


main()
