"""The mounted ConfigMap."""

from __future__ import annotations

from pathlib import Path

import pytest

from kadalu_ext.csi.storages import Storages
from kadalu_ext.errors import InvalidInputError, NotFoundError
from kadalu_ext.storage import Storage, StorageName, to_json
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
