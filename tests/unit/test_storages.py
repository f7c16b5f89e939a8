"""The mounted ConfigMap and Secret."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from kadalu_ext.errors import InvalidInputError, NotFoundError
from kadalu_ext.storage import Encryption, Storage, StorageName, tls_key, to_json
from kadalu_ext.storages import Storages
from tests.certificates import Authority
from tests.unit.csi.memory import STORAGE


def test_what_the_config_map_says_wins_over_the_parameters_of_old(tmp_path: Path) -> None:
    storages = Storages(str(tmp_path))
    assert storages.fresher(STORAGE) == STORAGE
    newer = Storage(name=STORAGE.name, hosts=("h9",), volume="vol")
    (tmp_path / "ext.json").write_text(to_json(newer))
    assert storages.fresher(STORAGE) == newer == storages.find(STORAGE.name)
    assert storages.names() == ["ext"]


def test_an_unknown_storage_is_told_with_what_to_look_for(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="is there a KadaluStorage of that name"):
        Storages(str(tmp_path / "nowhere")).find(StorageName("ext"))
    assert Storages(str(tmp_path / "nowhere")).names() == []


def test_a_name_is_no_path(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError):
        Storages(str(tmp_path)).find(StorageName("../ext"))


def test_an_entry_of_another_storage_is_refused(tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text(to_json(STORAGE))
    with pytest.raises(InvalidInputError, match=r"other.json describes the storage ext"):
        Storages(str(tmp_path)).find(StorageName("other"))


def test_tls_files_that_are_not_there_yet_are_named_with_the_secret(tmp_path: Path) -> None:
    storages = Storages("", str(tmp_path))
    assert storages.tls(STORAGE) is None
    with pytest.raises(NotFoundError, match=r"ext\.crt: not here; .* into the Secret kadalu-ext-storages-tls"):
        storages.tls(replace(STORAGE, tls=Encryption.ALL))


def test_tls_files_are_read_anew_when_they_were_renewed_and_are_the_storages_own(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    storages, safe = Storages("", str(tmp_path)), replace(STORAGE, tls=Encryption.BRICKS)

    def give(name: str) -> None:
        for file, content in authority.issue(name).items():
            (tmp_path / tls_key(STORAGE.name, file)).write_bytes(content)

    give("one")
    first = storages.tls(safe)
    assert first is not None and not first.management and storages.tls(safe) is first
    give("two")
    second = storages.tls(replace(STORAGE, tls=Encryption.ALL))
    assert second is not None and second.management and second.certificate != first.certificate


def test_a_file_of_no_use_is_named_with_its_storage(tmp_path: Path) -> None:
    for file in ("crt", "key", "ca"):
        (tmp_path / f"ext.{file}").write_text("x")
    with pytest.raises(InvalidInputError, match=r"storage ext: TLS: glusterfs\.ca"):
        Storages("", str(tmp_path)).tls(replace(STORAGE, tls=Encryption.ALL))
