"""All volumes of all storages, by pages."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kadalu_ext.csi.clients import Clients
from kadalu_ext.csi.listing import Listing, Page
from kadalu_ext.csi.pools import Pools
from kadalu_ext.csi.ports import BrickProbe, VolumeFacts, VolumeStore
from kadalu_ext.csi.volumes import Volumes
from kadalu_ext.errors import DeadlineError, HostUnreachableError, InvalidInputError, TokenError, UnavailableError
from kadalu_ext.log import Logger
from kadalu_ext.record import SNAPSHOT_KIND, PvName, QuotaRecord
from kadalu_ext.storage import Storage, StorageName, to_json, volume_id
from kadalu_ext.storages import Storages
from kadalu_ext.units import MIB
from tests.unit.csi.memory import STORAGE, MemoryBricks, MemoryConnector, MemoryStore, pv

NAMES = ("ext", "ext-1", "ext.2")


class Site:
    """Three storages on volumes of their own; `dead` ones do not answer."""

    def __init__(self, directory: Path) -> None:
        self.dead: set[str] = set()
        self.connectors: dict[str, MemoryConnector] = {}
        for number, name in enumerate(NAMES):
            store = MemoryStore()
            self.connectors[name] = MemoryConnector(store, MemoryBricks(store))
            self.connectors[name].volume_id = f"11111111-2222-3333-4444-55555555555{number}"
            (directory / f"{name}.json").write_text(to_json(self.storage(name)))
        self.clients = Clients(connector=self, log=Logger("test"))
        self.listing = Listing(
            storages=Storages(str(directory)), clients=self.clients, pools=Pools(connector=self, log=Logger("test"))
        )

    @staticmethod
    def storage(name: str) -> Storage:
        return replace(STORAGE, name=StorageName(name))

    def facts(self, storage: Storage) -> VolumeFacts:
        if storage.name in self.dead:
            raise HostUnreachableError(f"no host of {storage.name} answers")
        return self.connectors[storage.name].facts(storage)

    def store(self, storage: Storage) -> VolumeStore:
        return self.connectors[storage.name].store(storage)

    def probe(self, storage: Storage, facts: VolumeFacts) -> BrickProbe:
        return self.connectors[storage.name].probe(storage, facts)

    def make(self, *ids: str) -> None:
        for each in ids:
            storage, _, name = each.partition("/")
            self.clients.of(self.storage(storage)).create(pv(name, MIB), timeout_s=10)

    def delete(self, each: str) -> None:
        storage, _, name = each.partition("/")
        self.clients.of(self.storage(storage)).delete(PvName(name), timeout_s=10)

    def page(self, token: str = "", max_entries: int = 0) -> Page:
        return self.listing.page(max_entries=max_entries, token=token, timeout_s=10)

    def walk(self, max_entries: int, token: str = "") -> Iterator[list[str]]:
        """The ids of page after page."""
        while True:
            page = self.page(token, max_entries)
            yield ids(page)
            token = page.next_token
            if not token:
                return


def ids(page: Page) -> list[str]:
    return [volume_id(each.storage.name, each.record.name) for each in page.entries]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    yield site
    site.clients.close()


ALL = ["ext/a", "ext/b", "ext/c", "ext-1/a", "ext-1/z", "ext.2/m"]


@pytest.mark.parametrize("size", range(1, 8))
def test_pages_of_any_size_are_the_whole_list_in_order(site: Site, size: int) -> None:
    site.make(*ALL)
    pages = list(site.walk(size))
    assert [each for page in pages for each in page] == ids(site.page()) == ALL
    assert all(len(page) == size for page in pages[:-1])


def test_what_is_made_and_deleted_between_pages_moves_nothing_else(site: Site) -> None:
    site.make(*ALL)
    first = site.page(max_entries=2)
    site.delete("ext/b")  # the id that the token is
    site.make("ext/aa", "ext-1/b")
    assert ids(first) == ["ext/a", "ext/b"]
    assert ids(site.page(first.next_token)) == ["ext/c", "ext-1/a", "ext-1/b", "ext-1/z", "ext.2/m"]


def test_only_volumes_are_listed(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: object, **__: object) -> None:
        raise DeadlineError("not whole yet")

    monkeypatch.setattr(MemoryStore, "copy_tree", stopped)
    site.make("ext/a")
    client = site.clients.of(site.storage("ext"))
    client.create(replace(pv("snap", MIB), kind=SNAPSHOT_KIND), timeout_s=10)
    with pytest.raises(DeadlineError):
        client.create(replace(pv("copy", MIB), source=PvName("a"), filling=True), timeout_s=10)
    client.beat().result()
    assert ids(site.page()) == ["ext/a"]


@pytest.mark.parametrize("size", range(1, 7))
def test_each_pv_of_a_volume_that_storages_share_is_listed_once_by_the_one_that_made_it(site: Site, size: int) -> None:
    site.connectors["ext-1"] = site.connectors["ext"]
    site.make(*ALL)  # ext-1/a is ext/a
    pages = list(site.walk(size))
    assert [each for page in pages for each in page] == ["ext/a", "ext/b", "ext/c", "ext-1/z", "ext.2/m"]
    assert all(len(page) == size for page in pages[:-1])


def test_what_a_storage_made_that_is_gone_is_listed_by_the_first_that_has_its_volume(
    site: Site, tmp_path: Path
) -> None:
    site.connectors["ext-1"] = site.connectors["ext.2"] = site.connectors["ext"]
    site.make("ext/a", "ext-1/b", "ext.2/m")
    site.dead = {"ext"}
    site.clients.close()
    assert ids(site.page()) == ["ext-1/b", "ext.2/m"]  # it may have a
    (tmp_path / "ext.json").unlink()
    assert ids(site.page()) == ["ext-1/a", "ext-1/b", "ext.2/m"]


@given(st.text(max_size=20))
def test_a_token_that_is_none_of_ours_is_told(text: str) -> None:
    listing = Listing(storages=Storages("/nonexistent"), clients=None, pools=None)  # type: ignore[arg-type]
    try:
        page = listing.page(max_entries=0, token=text, timeout_s=1)
    except TokenError:
        return
    assert not page.entries
    with pytest.raises(InvalidInputError, match="max_entries: -1"):
        listing.page(max_entries=-1, token=text, timeout_s=1)


def test_a_dead_storage_hides_no_other_and_is_named_at_the_end(site: Site) -> None:
    site.make(*ALL)
    site.dead = {"ext-1"}
    site.clients.close()
    walk = site.walk(2)
    assert [next(walk), next(walk)] == [["ext/a", "ext/b"], ["ext/c", "ext.2/m"]]
    with pytest.raises(UnavailableError, match=r"but those of 1 storages.*ext-1: no host of ext-1 answers"):
        next(walk)
    rest = site.page().next_token
    site.dead = set()
    site.clients.close()
    with pytest.raises(TokenError, match="does so now; begin again"):
        site.page(rest)
    assert ids(site.page()) == ALL


def test_a_page_that_ends_by_time_ends_at_a_pv(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.make("ext/a", "ext/b", "ext/zz")
    site.clients.of(site.storage("ext")).snapshot(PvName("snapshot.s1"), PvName("a"), timeout_s=10)
    for stranger in ("c\udcff", "-c"):
        site.connectors["ext"].memory.mkdir(f"info/quota/{stranger}", 0o700)
    read, looked = Volumes.record, list[str]()

    def noted(volumes: Volumes, name: PvName) -> QuotaRecord | None:
        looked.append(name)
        return read(volumes, name)

    monkeypatch.setattr(Volumes, "record", noted)
    token, found = "", list[str]()
    while not found or token:
        page = site.listing.page(max_entries=0, token=token, timeout_s=1e-9 if looked else 10)
        token, found = page.next_token, [*found, *ids(page)]
    assert found == ["ext/a", "ext/b", "ext/zz"]
    assert looked == ["a", "b", "zz"]
