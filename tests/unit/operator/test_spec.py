"""Every spelling becomes one object; everything else is refused with path, what is allowed, and an example."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from kadalu_ext.errors import InvalidInputError
from kadalu_ext.operator.spec import StorageSpec, parse_spec
from kadalu_ext.storage import Encryption, PoolVolume, Quota, from_json, to_json

EXAMPLE = Path(__file__).parents[3] / "examples" / "storage-config.yaml"
NODE = {"gluster_node": "node1", "gluster_volname": "v"}
HOST_FIELDS = ("gluster_node", "gluster_host", "gluster_nodes", "gluster_hosts", "gluster_backup_nodes")


def external(details: object = None, **fields: object) -> dict[str, object]:
    return {"type": "External", "details": details or NODE, **fields}


def parsed(spec: object) -> StorageSpec:
    return parse_spec("ext", spec)


def test_the_example_of_the_rfc_is_taken_as_it_stands() -> None:
    example = yaml.safe_load(EXAMPLE.read_text())
    spec = parse_spec(example["metadata"]["name"], example["spec"])
    assert (spec.storage.hosts, spec.storage.volume) == (("brick1",), "exported")
    assert spec.storage.options == {"log-level": "DEBUG"}


@pytest.mark.parametrize(
    "details",
    [
        {"gluster_host": "a", "gluster_hosts": ["b"], "gluster_volname": "v"},
        [{"gluster_hosts": "a, b", "gluster_volname": "v"}],
        [{"gluster_node": "a", "gluster_backup_nodes": ["a", "b"], "gluster_volname": "v", "gluster_hosts": None}],
        {"Gluster_Node": "a", "gluster-nodes": "b", "GLUSTER_VOLNAME": "v"},
    ],
)
def test_spellings_of_one_thing_become_one_object(details: object) -> None:
    assert parsed(external(details)) == parsed(external({"gluster_nodes": ["a", "b"], "gluster_volname": "v"}))


@pytest.mark.parametrize(
    ("field", "value", "native"),
    [
        ("kadalu-format", True, True),
        ("kadalu-format", False, False),
        ("kadalu_format", "native", True),
        ("kadalu_format", "non-native", False),
        ("kadalu-format", "false", False),
        ("single_pv_per_pool", False, True),
        ("single_pv_per_pool", True, False),
    ],
)
def test_whether_a_volume_is_shared_is_asked_in_three_ways(field: str, value: object, native: bool) -> None:
    assert bool(parsed(external(**{field: value})).storage.pool) is not native


@given(st.permutations(HOST_FIELDS), st.lists(st.sampled_from(["a", "b.example", "10.0.0.1", "fd00::1"]), min_size=1))
def test_hosts_are_asked_in_one_order_each_once(fields: list[str], hosts: list[str]) -> None:
    details: dict[str, object] = {"gluster_volname": "v"}
    details |= dict(zip(fields, hosts, strict=False))
    expected = dict.fromkeys(str(details[field]) for field in HOST_FIELDS if field in details)
    assert parsed(external(details)).storage.hosts == tuple(expected)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=12), inner, max_size=3),
    max_leaves=6,
)
KNOWN = st.sampled_from(
    ["type", "details", "quota", "tls", "overcommit", "mountOptions", "kadalu-format", "pvReclaimPolicy"]
)


@given(st.dictionaries(KNOWN, JSON | st.just("External"), max_size=6) | JSON)
def test_whatever_the_api_server_lets_through_is_a_spec_or_a_sentence_with_a_path(spec: Any) -> None:
    try:
        storage = parsed(spec).storage
    except InvalidInputError as error:
        assert str(error).startswith("spec")
    else:
        assert from_json(to_json(storage)) == storage


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({}, ["spec.type", "missing", "External"]),
        (external() | {"type": "Replica3"}, ["spec.type", "'Replica3'", "type: External"]),
        ({"type": "External"}, ["spec.details", "missing"]),
        (external([]) | {"details": []}, ["spec.details", "0 entries"]),
        (external([{}, {}]), ["spec.details", "2 entries", "gluster_hosts"]),
        (external({"gluster_volname": "v"}), ["spec.details.gluster_node", "no host"]),
        (external([{"gluster_node": "a"}]), ["spec.details[0].gluster_volname", "missing"]),
        (external({"gluster_host": "a:24007", "gluster_volname": "v"}), ["gluster_host", "without a port"]),
        (external({"gluster_host": "a;b", "gluster_volname": "v"}), ["gluster_host", "'a;b'"]),
        (external({"gluster_host": "a", "gluster_volname": "-v"}), ["gluster_volname", "'-v'"]),
        (external({"gluster_hots": "a", "gluster_volname": "v"}), ["spec.details.gluster_hots", "mean gluster_host"]),
        (external({"gluster_node": "a", "Gluster_node": "b", "gluster_volname": "v"}), ["Gluster_node", "same field"]),
        (external(pvReclaimPolicy="keep"), ["spec.pvReclaimPolicy", "delete, archive, retain"]),
        (external(quota="yes"), ["spec.quota", "required, optional, none"]),
        (external(overcommit=0), ["spec.overcommit", "from 0.1 to 100"]),
        (external(overcommit=True), ["spec.overcommit", "from 0.1 to 100"]),
        (external(overcommit="1e1"), ["spec.overcommit", "'1e1'", "overcommit: 1.5"]),
        (external(mountOptions=["noatim"]), ["spec.mountOptions", "'noatim'", "mean noatime"]),
        (external(mountOptions=["log-file=/etc/shadow"]), ["spec.mountOptions", "allowed are ro,", "log-level"]),
        (external(mountOptions="ro,rw"), ["spec.mountOptions", "ro and rw contradict"]),
        (
            external({**NODE, "gluster_options": {"log-level": "INFO"}}, mountOptions=["log_level=DEBUG"]),
            ["spec.details.gluster_options and spec.mountOptions", "log-level is INFO in one and DEBUG in the other"],
        ),
        (
            external({**NODE, "gluster_options": "noatime=1"}),
            ["spec.details.gluster_options", "mountOptions: [noatime]"],
        ),
        (external(tls={"secret": "x"}), ["spec.tls.secret", "secretName"]),
        (external(mountOptions=[1]), ["spec.mountOptions", "list of texts"]),
        (external(**{"kadalu-format": True, "single_pv_per_pool": True}), ["kadalu-format and", "contradict"]),
        (external(tolerations=[]), ["spec.tolerations", "remove"]),
        (external(flavour=1), ["spec.flavour", "unknown", "allowed", "details"]),
    ],
)
def test_what_is_wrong_is_refused_with_its_path_and_what_is_allowed(spec: object, words: list[str]) -> None:
    with pytest.raises(InvalidInputError) as caught:
        parsed(spec)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("tls", "encrypted"),
    [
        (None, Encryption.NONE),
        ({"secretName": "s"}, Encryption.ALL),
        ({"secretName": "s", "management": True}, Encryption.ALL),
        ({"SecretName": "s", "management": False}, Encryption.BRICKS),
    ],
)
def test_what_is_encrypted_is_all_unless_it_is_bricks_alone(tls: object, encrypted: Encryption) -> None:
    spec = parsed(external(tls=tls))
    assert (spec.storage.tls, spec.tls_secret) == (encrypted, "s" if tls else None)


@pytest.mark.parametrize("ratio", [1.5, "1.5"])
def test_an_overcommit_is_a_number_or_its_text(ratio: object) -> None:
    assert parsed(external(overcommit=ratio)).storage.overcommit == 1.5


def test_mount_options_are_of_the_bind_mounts_or_of_the_gluster_client() -> None:
    spec = parsed(external(mountOptions=["noatime", "log_level=debug", "rw", "nodev", "noatime"]))
    assert spec.mount_options == ("noatime", "nodev")
    assert spec.storage.options == {"log-level": "DEBUG"}


def test_a_name_too_long_for_a_storage_is_refused() -> None:
    with pytest.raises(InvalidInputError, match=r"^metadata\.name: "):
        parse_spec("x" * 64, external())


def test_entries_of_details_are_the_volumes_of_a_pool_each_with_its_hosts() -> None:
    details = [
        {"gluster_hosts": "a, b", "gluster_volname": "vol_1", "gluster_options": "lru-limit=1"},
        {"gluster_node": "b", "gluster_volname": "vol_2", "gluster_options": "log-level=DEBUG"},
    ]
    spec = parsed(external(details, single_pv_per_pool=True))
    assert spec.storage.pool == (PoolVolume(volume="vol_1", hosts=("a", "b")), PoolVolume(volume="vol_2", hosts=("b",)))
    assert (spec.storage.hosts, spec.storage.volume, spec.storage.quota) == ((), "", Quota.NONE)
    assert (spec.hosts, spec.volume) == (("a", "b"), "vol_1, vol_2")
    assert spec.storage.options == {"lru-limit": "1", "log-level": "DEBUG"}
