"""Which storages there are: the operator's ConfigMap, mounted as a directory with one `<storage>.json` each."""

from __future__ import annotations

import os

from kadalu_ext.errors import InvalidInputError, NotFoundError
from kadalu_ext.storage import CONFIG_MAP, Storage, StorageName, check_storage_name, from_json


class Storages:
    """Read anew at each call: kubelet swaps the files of a ConfigMap under a running pod, within about a minute."""

    def __init__(self, directory: str) -> None:
        self._directory = directory

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
        hosts and options of a storage do. Raises: InvalidInputError, OSError."""
        try:
            return self.find(storage.name)
        except NotFoundError:
            return storage

    def names(self) -> list[StorageName]:
        """Of all entries; empty if the ConfigMap is not there (yet)."""
        try:
            files = os.listdir(self._directory)
        except FileNotFoundError:
            return []
        return [StorageName(file.removesuffix(".json")) for file in sorted(files) if file.endswith(".json")]
