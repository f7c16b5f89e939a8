"""Which storages there are, and their TLS files: the operator's ConfigMap, mounted as a directory with one
`<storage>.json` each, and its Secret likewise."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import suppress

from kadalu_ext.errors import InvalidInputError, NotFoundError, UnavailableError
from kadalu_ext.gluster.tls import CA, CERTIFICATE, KEY, Tls
from kadalu_ext.storage import (
    CONFIG_MAP,
    TLS_FILES,
    Encryption,
    Storage,
    StorageName,
    check_storage_name,
    from_json,
    tls_key,
)


class Storages:
    """Read anew at each call: kubelet swaps the files of a ConfigMap or Secret under a running pod, within about a
    minute. Thread-safe.

    tls_directory: where TLS_FILES is mounted; may be missing while no storage has TLS.
    """

    def __init__(self, directory: str, tls_directory: str = "") -> None:
        self._directory = directory
        self._tls_directory = tls_directory
        self._lock = threading.Lock()
        self._tls: dict[StorageName, tuple[dict[str, bytes], Tls]] = {}

    def find(self, name: StorageName) -> Storage:
        """Raises: NotFoundError if there is none of that name; InvalidInputError if its entry is wrong; OSError."""
        check_storage_name(name)
        path = os.path.join(self._directory, f"{name}.json")
        try:
            with open(path, encoding="utf-8") as file:
                text = file.read()
        except FileNotFoundError:
            raise NotFoundError(
                f"storage {name}: unknown here (no {path}); is there a KadaluStorage of that name, and is it Ready?"
            ) from None
        storage = from_json(text)
        if storage.name != name:
            raise InvalidInputError(f"{CONFIG_MAP}: {name}.json describes the storage {storage.name}")
        return storage

    def fresher(self, storage: Storage) -> Storage:
        """The entry of that storage's name, if there is one, else `storage`: parameters of a StorageClass never change,
        hosts and options of a storage do. Of a PV that is a whole volume, what the entry says of that volume.

        Raises: InvalidInputError, OSError; UnavailableError where one says directories and the other whole volumes.
        """
        try:
            found = self.find(storage.name)
        except NotFoundError:
            return storage
        if storage.whole is not None:
            return found.of_volume(storage.volume, storage.whole) or storage
        if bool(found.pool) != bool(storage.pool):
            raise UnavailableError(
                f"storage {storage.name}: its StorageClass and its entry in {CONFIG_MAP} disagree whether PVs are "
                "directories or whole volumes; kubelet brings a changed entry within a minute: kubectl describe kds"
            )
        return found

    def entry(self, name: StorageName) -> Storage | None:
        """The entry of that name; None if there is none of any use."""
        try:
            return self.find(name)
        except (NotFoundError, InvalidInputError):
            return None

    def names(self) -> list[StorageName]:
        """Of all entries; empty if the ConfigMap is not there (yet)."""
        try:
            files = os.listdir(self._directory)
        except FileNotFoundError:
            return []
        return [StorageName(file.removesuffix(".json")) for file in sorted(files) if file.endswith(".json")]

    def all(self) -> Iterator[Storage]:
        """In the order of their names; without those whose entry is wrong, or gone this moment. Raises: OSError."""
        for name in self.names():
            with suppress(NotFoundError, InvalidInputError):
                yield self.find(name)

    def tls(self, storage: Storage) -> Tls | None:
        """What the storage's cluster is spoken to with; None: plainly.

        Raises: NotFoundError if its files are not here (yet); InvalidInputError naming the one that is of no use;
        OSError.
        """
        if storage.tls is Encryption.NONE:
            return None
        files = {file: self._read(tls_key(storage.name, file)) for file in (CERTIFICATE, KEY, CA)}
        with self._lock:
            known = self._tls.get(storage.name)
            if known is None or known[0] != files or known[1].management != (storage.tls is Encryption.ALL):
                try:
                    known = files, Tls.of(files, management=storage.tls is Encryption.ALL)
                except InvalidInputError as error:
                    raise InvalidInputError(f"storage {storage.name}: {error}") from error
                self._tls[storage.name] = known
            return known[1]

    def _read(self, key: str) -> bytes:
        path = os.path.join(self._tls_directory, key)
        try:
            with open(path, "rb") as file:
                return file.read()
        except FileNotFoundError:
            raise NotFoundError(
                f"{path}: not here; the operator puts a storage's TLS files into the Secret {TLS_FILES}, and kubelet "
                "brings them within a minute: kubectl describe kds"
            ) from None
