"""Applications that fill a PV until it refuses them and go on trying, each of which knows what it was promised.

A writer's files have a content that follows from their names, so that everything can be checked which was acknowledged:
what fsync has said yes to must be there byte by byte, whatever was refused before or after.
"""

from __future__ import annotations

import hashlib
import os
import random
import threading
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from errno import EDQUOT, ENOSPC, ENOTCONN, errorcode
from pathlib import Path
from typing import Final

from kadalu_ext.units import KIB, MIB

BLOCK: Final = 4096
LARGE: Final = (1, 700, BLOCK, 3 * BLOCK + 11, 64 * KIB, 128 * KIB, 256 * KIB)
"""Sizes of one write: whole blocks and parts of them, since disperse reads, changes and writes whole stripes."""
SMALL: Final = (100, BLOCK, 9_000, 24 * KIB)
MANY: Final = 20
"""So many failures of one writer are enough to know."""
NO_ROOM: Final = (ENOSPC, EDQUOT)


def block(name: str, index: int, generation: int) -> bytes:
    return hashlib.shake_128(f"{name} {index} {generation}".encode()).digest(BLOCK)


def content(name: str, start: int, length: int) -> bytes:
    """What a file has there before anything of it is rewritten."""
    first, last = start // BLOCK, -(-(start + length) // BLOCK)
    whole = b"".join(block(name, index, 0) for index in range(first, last))
    return whole[start - first * BLOCK :][:length]


@dataclass(kw_only=True)
class Kept:
    """What a file must have: its first `size_bytes`, in each block one of the generations (0, if it is not named)."""

    size_bytes: int = 0
    generations: dict[int, set[int]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Load:
    """How a writer writes. large: one file as long as it gets, with every eighth write into what is there already;
    otherwise files of up to 24 KiB, half of them by rename. fsync: after every write, before anything counts."""

    large: bool
    fsync: bool


class Writer:
    """One application.

    no_room: what a lack of room is called. told: how often it was called which.
    kept: by name, all that was acknowledged. failures: every other error.
    half_made: names of files that it was refused to make; on an arbiter volume they cannot be looked at until there is
    room, for the arbiter, which has no limit, has taken what all others refused.
    """

    def __init__(self, directory: Path, name: str, load: Load, *, no_room: Collection[int] = NO_ROOM) -> None:
        self.name = name
        self._directory = directory
        self._load = load
        self._no_room = no_room
        self._random = random.Random(name)
        self.kept: dict[str, Kept] = {}
        self.refused = 0
        self.written = 0
        self.told = Counter[str]()
        self.failures: list[str] = []
        self.half_made: set[str] = set()
        self._until = (0, 0)
        self._thread = threading.Thread()

    def fill(self, size_bytes: int) -> None:
        """A file of that size, acknowledged when this returns."""
        name = f"{self.name}-ballast"
        with open(self._directory / name, "wb", buffering=0) as file:
            for start in range(0, size_bytes, MIB):
                file.write(content(name, start, min(MIB, size_bytes - start)))
            os.fsync(file.fileno())
        self.kept[name] = Kept(size_bytes=size_bytes)

    def begin(self, *, refusals: int, writes: int = 1 << 30) -> None:
        """Goes to work until it was refused that often, or has written that often."""
        self._until = self.refused + refusals, self.written + writes
        self._thread = threading.Thread(target=self._run, daemon=True, name=self.name)
        self._thread.start()

    def stop(self) -> None:
        """Lets it end after what it is at."""
        self._until = 0, 0

    def end(self, timeout_s: float) -> None:
        """Waits for its end; one that does not come is a failure."""
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            self.failures.append(f"{self.name}: still at it after {timeout_s:g} s")
            self.stop()

    @property
    def _goes_on(self) -> bool:
        refused, written = self._until
        return self.refused < refused and self.written < written and len(self.failures) < MANY

    def _run(self) -> None:
        try:
            while self._goes_on:
                try:
                    if self._load.large:
                        self._write_large()
                    else:
                        self._write_small()
                except OSError as error:
                    self._note(error)
        except BaseException as error:
            self.failures.append(f"{self.name}: {error!r}")
            raise

    def _note(self, error: OSError) -> None:
        if error.errno in self._no_room:
            self.refused += 1
            self.told[errorcode.get(error.errno or 0, "")] += 1
        else:
            self.failures.append(f"{self.name}: {errorcode.get(error.errno or 0)} {error}")

    def _write_large(self) -> None:
        """Writes on from what is acknowledged, until a call fails: as an application that is started again."""
        name = f"{self.name}-large"
        fd = os.open(self._directory / name, os.O_RDWR | os.O_CREAT, 0o644)
        kept = self.kept.setdefault(name, Kept())
        try:
            at = kept.size_bytes if self._load.fsync else os.fstat(fd).st_size
            while self._goes_on:
                if kept.size_bytes >= 2 * BLOCK and self._random.random() < 1 / 8:
                    self._rewrite(fd, name, kept)
                    continue
                # what was written and not acknowledged may be there or not: this writes over it
                at += os.pwrite(fd, content(name, at, self._random.choice(LARGE)), at)
                if self._load.fsync:
                    os.fsync(fd)
                    kept.size_bytes = at
                self.written += 1
        finally:
            os.close(fd)

    def _rewrite(self, fd: int, name: str, kept: Kept) -> None:
        index = self._random.randrange(kept.size_bytes // BLOCK)
        allowed = kept.generations.setdefault(index, {0})
        generation = max(allowed) + 1
        allowed.add(generation)
        os.pwrite(fd, block(name, index, generation), index * BLOCK)
        os.fsync(fd)
        kept.generations[index] = {generation}
        self.written += 1

    def _write_small(self) -> None:
        name = f"{self.name}-{self.written + self.refused + len(self.failures)}"
        size, renamed = self._random.choice(SMALL), self._random.random() < 0.5
        path = self._directory / (f"{name}.new" if renamed else name)
        try:
            with open(path, "wb", buffering=0) as file:
                file.write(content(name, 0, size))
                if self._load.fsync:
                    os.fsync(file.fileno())
        except OSError:
            self.half_made.add(path.name)
            self._remove(path)
            raise
        if renamed:
            os.rename(path, self._directory / name)
        if self._load.fsync:
            self.kept[name] = Kept(size_bytes=size)
        self.written += 1

    def _remove(self, path: Path) -> None:
        """As applications do with what they could not write. That it is not there is no failure."""
        try:
            os.unlink(path)
        except FileNotFoundError:
            pass
        except OSError as error:
            if error.errno not in self._no_room:
                self._note(error)

    def give_room(self) -> None:
        """Removes half of its small files, or the second half of its large one."""
        try:
            if not self._load.large:
                names = [name for name in os.listdir(self._directory) if name.startswith(f"{self.name}-")]
                for name in sorted(set(names) - {f"{self.name}-ballast"})[::2]:
                    self.kept.pop(name, None)
                    os.unlink(self._directory / name)
                return
            name = f"{self.name}-large"
            kept = self.kept.setdefault(name, Kept())
            with open(self._directory / name, "r+b", buffering=0) as file:
                size = (kept.size_bytes if self._load.fsync else os.fstat(file.fileno()).st_size) // 2
                size -= size % BLOCK if size // BLOCK in kept.generations else 0
                kept.size_bytes = min(size, kept.size_bytes)
                kept.generations = {index: each for index, each in kept.generations.items() if index < size // BLOCK}
                os.ftruncate(file.fileno(), size)
                os.fsync(file.fileno())
        except FileNotFoundError:
            self.kept = {known: each for known, each in self.kept.items() if each.size_bytes}  # it never got so far
        except OSError as error:
            self._note(error)


@dataclass(kw_only=True)
class Found:
    """What a look at a PV has shown. files: that were read; promised: of these with acknowledged content; half_made:
    that cannot be looked at, and had been refused."""

    files: int = 0
    promised: int = 0
    unreadable: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    half_made: list[str] = field(default_factory=list)

    def __iadd__(self, other: Found) -> Found:
        self.files += other.files
        self.promised += other.promised
        self.unreadable += other.unreadable
        self.lost += other.lost
        self.half_made += other.half_made
        return self


def check(directory: Path, kept: dict[str, Kept], half_made: Collection[str] = ()) -> Found:
    """Reads all that is in the directory, past this client's page cache."""
    found = Found()
    try:
        names = sorted(os.listdir(directory))
    except OSError as error:
        return Found(unreadable=[f"{directory}: {errorcode.get(error.errno or 0)}"])
    found.lost += [f"{name}: not there" for name in kept.keys() - set(names)]
    for name in names:
        found.files += 1
        try:
            with open(directory / name, "rb", buffering=0) as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                data = file.readall()
        except OSError as error:
            refused = name in half_made and error.errno == ENOTCONN
            (found.half_made if refused else found.unreadable).append(f"{name}: {errorcode.get(error.errno or 0)}")
            continue
        if name in kept:
            found.promised += 1
            if wrong := _differs(name, data, kept[name]):
                found.lost.append(f"{name}: {wrong}")
    return found


def _differs(name: str, data: bytes, kept: Kept) -> str:
    if len(data) < kept.size_bytes:
        return f"{len(data)} of {kept.size_bytes} bytes"
    wrong = Counter[str]()
    for index in range(-(-kept.size_bytes // BLOCK)):
        part = data[index * BLOCK : min((index + 1) * BLOCK, kept.size_bytes)]
        if not any(part == block(name, index, g)[: len(part)] for g in kept.generations.get(index, {0})):
            wrong["zeros" if not any(part) else "other bytes"] += 1
    return ", ".join(f"{count} blocks of {what}" for what, count in wrong.items())
