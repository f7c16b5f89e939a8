"""A storage survives both ways of handing it over, and nothing else gets through them."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kadalu_ext import storage
from kadalu_ext.errors import InvalidInputError
from kadalu_ext.record import PvName
from kadalu_ext.storage import Encryption, PoolVolume, Storage, StorageName

STORAGES = st.builds(
    lambda name, hosts, volume, options, overcommit, tls: Storage(
        name=StorageName(name), hosts=tuple(hosts), volume=volume, options=options, overcommit=overcommit, tls=tls
    ),
    st.from_regex(r"[a-z0-9]([a-z0-9.-]{0,20}[a-z0-9])?", fullmatch=True),
    st.lists(st.sampled_from(["brick1", "10.77.0.11", "fd00::1", "a.example.com"]), min_size=1, max_size=3),
    st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,20}", fullmatch=True),
    st.dictionaries(st.sampled_from(["log-level", "ping-timeout"]), st.sampled_from(["DEBUG", "10"])),
    st.floats(storage.OVERCOMMIT_MIN, storage.OVERCOMMIT_MAX),
    st.sampled_from(Encryption),
)


@given(STORAGES)
def test_a_storage_class_carries_all_that_a_pv_needs(given_storage: Storage) -> None:
    carried = storage.from_parameters(storage.to_parameters(given_storage))
    assert replace(carried, overcommit=given_storage.overcommit, tls=given_storage.tls) == given_storage


@pytest.mark.parametrize("ratio", ["0", "1e9", "NaN", "true", '"2"', "null"])
def test_an_entry_whose_overcommit_is_no_ratio_is_refused(ratio: str) -> None:
    entry = f'{{"name": "ext", "hosts": ["h"], "volume": "v", "options": {{}}, "overcommit": {ratio}}}'
    with pytest.raises(InvalidInputError, match="overcommit"):
        storage.from_json(entry)


def test_an_entry_of_an_earlier_version_promises_each_byte_once() -> None:
    assert storage.from_json('{"name": "ext", "hosts": ["h"], "volume": "v", "options": {}}').overcommit == 1.0


def test_an_entry_that_says_nothing_of_tls_has_none_and_nonsense_is_refused() -> None:
    entry = '{"name": "ext", "hosts": ["h"], "volume": "v", "options": {}%s}'
    assert storage.from_json(entry % "").tls is Encryption.NONE
    with pytest.raises(InvalidInputError, match="tls must be one of none, bricks, all"):
        storage.from_json(entry % ', "tls": "yes"')


@given(STORAGES)
def test_a_config_map_entry_carries_a_storage_whole(given_storage: Storage) -> None:
    assert storage.from_json(storage.to_json(given_storage)) == given_storage


@given(st.text(max_size=60))
def test_any_text_is_an_entry_or_a_clear_error(text: str) -> None:
    with pytest.raises(InvalidInputError):
        storage.from_json(text)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("storage", "../x"),
        ("storage", "Ext"),
        ("hosts", "brick1;reboot"),
        ("hosts", "brick1,"),
        ("hosts", "-oProxyCommand"),
        ("volume", "a/b"),
        ("volume", "-v"),
        ("options", "log-level"),
        ("options", "log level=x"),
        ("surprise", "x"),
    ],
)
def test_a_hostile_parameter_is_refused_by_name(field: str, value: str) -> None:
    parameters = {"storage": "ext", "hosts": "brick1", "volume": "exported", field: value}
    with pytest.raises(InvalidInputError, match=field.removesuffix("s")):
        storage.from_parameters(parameters)


def test_kubernetes_own_parameters_are_passed_over() -> None:
    own = {"storage": "ext", "hosts": "brick1", "volume": "exported"}
    assert storage.from_parameters({**own, "csi.storage.k8s.io/pvc/name": "x"}).volume == "exported"


def test_a_volume_id_names_storage_and_pv() -> None:
    name, pv = storage.parse_volume_id("ext-1/pvc-7")
    assert storage.volume_id(name, pv) == "ext-1/pvc-7"


@pytest.mark.parametrize("text", ["", "ext", "/pv", "ext/", "ext/../x", "ext/a/b", "EXT/a", "ext/kadalu-canary"])
def test_a_volume_id_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(InvalidInputError):
        storage.parse_volume_id(text)


POOL = Storage(
    name=StorageName("ext"),
    hosts=(),
    volume="",
    options={"log-level": "DEBUG"},
    pool=(
        PoolVolume(volume="vol_1", hosts=("h1", "h2")),
        PoolVolume(volume="vol_2", hosts=("2001:db8::1",)),
    ),
)


def test_a_pool_goes_by_parameters_and_entry_and_has_no_volume_for_who_does_not_know_of_pools() -> None:
    parameters = storage.to_parameters(POOL)
    assert parameters["volumes"] == "vol_1@h1,vol_1@h2,vol_2@2001:db8::1" and "volume" not in parameters
    assert storage.from_parameters(parameters) == POOL == storage.from_json(storage.to_json(POOL))


def test_a_volume_of_a_pool_by_itself_is_one_pvs_and_goes_by_its_context() -> None:
    whole = POOL.of_volume("vol_2", PvName("pvc-1"))
    assert whole is not None and (whole.volume, whole.hosts, whole.pool) == ("vol_2", ("2001:db8::1",), ())
    assert storage.from_parameters(storage.to_parameters(whole)) == whole == storage.from_json(storage.to_json(whole))
    assert POOL.of_volume("vol_3") is None


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"volumes": ""}, "parameters.volumes: missing"),
        ({"volumes": "vol_1"}, "'vol_1' is not volume@host"),
        ({"volume": "vol_1"}, "parameters.volume: not beside volumes"),
        ({"pv": "pvc-1"}, "parameters.pv: not beside volumes"),
        ({"volumes": "a/b@h1"}, "volume: 'a/b'"),
    ],
)
def test_parameters_of_a_pool_that_make_no_sense_are_named(changed: dict[str, str], named: str) -> None:
    with pytest.raises(InvalidInputError, match=re.escape(named)):
        storage.from_parameters({**storage.to_parameters(POOL), **changed})


@given(
    st.from_regex(r"[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?", fullmatch=True),
    st.from_regex(r"[a-z0-9][a-z0-9._-]{0,60}", fullmatch=True),
)
def test_a_mount_of_one_pv_has_a_name_that_no_storage_has_and_fits_a_sockets_path(name: str, pv: str) -> None:
    mount = storage.whole_mount_name(StorageName(name), PvName(pv))
    with pytest.raises(InvalidInputError):
        storage.check_storage_name(mount)
    assert storage.check_mount_name(mount) == mount and len(mount) < 60
    assert storage.mount_source(StorageName(name), PvName(pv)) == f"kadalu.external:{name}/{pv}"
