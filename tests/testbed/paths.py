"""Where the testbed keeps things, and the cache of what is slow to build.

Three places, nothing else on the host:

- ``/run/kadalu-ext/<name>/``: the state, sockets and logs of one running instance; gone after `down`.
- ``~/.cache/kadalu-ext/run/<name>/``: its disks; gone after `down`.
- ``~/.cache/kadalu-ext/<artefact>-<key>/``: finished builds, kept.  XDG_CACHE_HOME is honoured.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from . import progress
from .errors import BedError

RUN_ROOT = Path("/run/kadalu-ext")
REPOSITORY = Path(__file__).resolve().parents[2]

_NAME = re.compile(r"[a-z][a-z0-9-]{0,19}")


def cache_root() -> Path:
    """The directory of every cached build and of the running instances' disks."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "kadalu-ext"


def check_name(name: str) -> str:
    """Return `name` if it may name an instance.  It becomes part of paths, cgroups and sockets.

    Raises:
        BedError: it is not 1 to 20 lower-case letters, digits and dashes that begin with a letter.
    """
    if not _NAME.fullmatch(name):
        raise BedError(f"instance name {name!r}: use up to 20 of a-z, 0-9 and '-', beginning with a letter")
    return name


def run_dir(name: str) -> Path:
    """State, sockets and logs of instance `name` (a Unix socket's path must stay under 108 bytes: keep it short)."""
    return RUN_ROOT / check_name(name)


def disk_dir(name: str) -> Path:
    """Disks and other bulk of instance `name`."""
    return cache_root() / "run" / check_name(name)


def cache_key(*inputs: str | bytes | Path) -> str:
    """A key of 16 hex digits for a build from `inputs`; a Path stands for the content of that file.

    Lengths go into the hash too, so that ("ab", "c") and ("a", "bc") differ.
    """
    digest = hashlib.sha256()
    for item in inputs:
        data = item.read_bytes() if isinstance(item, Path) else item.encode() if isinstance(item, str) else item
        digest.update(len(data).to_bytes(8, "big"))
        digest.update(data)
    return digest.hexdigest()[:16]


def cached(artefact: str, key: str, build: Callable[[Path], None]) -> Path:
    """Return the directory ``<cache>/<artefact>-<key>``, letting `build` fill it first if it does not exist.

    `build` gets an empty directory under another name, which is renamed when it returns: a killed build leaves
    nothing that looks finished, and the next one removes what it left.  Two processes that want the same
    artefact build it once, the other waits.
    """
    root = cache_root()
    final = root / f"{artefact}-{key}"
    if final.is_dir():
        return final
    with lock(root / f".{artefact}.lock"):
        if final.is_dir():
            return final
        for leftover in root.glob(f".{artefact}.partial-*"):
            shutil.rmtree(leftover)
        partial = Path(tempfile.mkdtemp(prefix=f".{artefact}.partial-", dir=root))
        try:
            partial.chmod(0o755)
            build(partial)
            partial.rename(final)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
    return final


@contextmanager
def lock(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on `path` (flock(2)); waits for whoever has it, and dies with the process."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress.say(f"waiting for the process that holds {path}")
            fcntl.flock(held, fcntl.LOCK_EX)
        yield
