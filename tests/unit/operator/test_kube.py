"""What the API server says becomes an error of ours, in its own words; PVs are told apart by driver and storage."""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import urllib3
from kubernetes import client

from kadalu_ext.errors import (
    BusyError,
    ConflictError,
    GoneError,
    InvalidInputError,
    KadaluExtError,
    KubernetesError,
    NotFoundError,
)
from kadalu_ext.gluster.tls import CA, KEY
from kadalu_ext.operator import kube
from kadalu_ext.operator.actions import SetFiles, SetFinalizers
from kadalu_ext.operator.render import FINALIZER
from kadalu_ext.operator.spec import StorageSpec, parse_spec
from kadalu_ext.storage import TLS_FILES
from tests.certificates import Authority
from tests.unit.operator.samples import SPEC

FORBIDDEN = json.dumps({"message": 'storageclasses is forbidden: User "x" cannot create'})


def refusing(status: int, body: str = "") -> Any:
    error = client.ApiException(status=status, reason="Some Reason")
    error.body = body

    def refuse(*_: Any, **__: Any) -> None:
        raise error

    return refuse


@pytest.mark.parametrize(
    ("status", "body", "error", "words"),
    [
        (403, FORBIDDEN, KubernetesError, "refused to make it: 403 storageclasses is forbidden"),
        (409, "", ConflictError, "409 Some Reason"),
        (404, "", KubernetesError, "404"),
        (429, json.dumps({"message": "too many requests"}), BusyError, "429 too many requests"),
        (500, "<html>", KubernetesError, "500 Some Reason"),
    ],
)
def test_a_refusal_keeps_the_servers_own_sentence(
    status: int, body: str, error: type[KadaluExtError], words: str
) -> None:
    with pytest.raises(error, match=words):
        kube._call("make it", refusing(status, body))


def test_what_is_not_there_is_no_error_where_that_is_expected() -> None:
    assert kube._call("read it", refusing(404), missing=None) is None


def test_an_api_server_that_is_away_is_an_error_of_ours() -> None:
    def away(**_: Any) -> None:
        raise urllib3.exceptions.ReadTimeoutError(urllib3.HTTPConnectionPool("h"), "/", "late")

    with pytest.raises(KubernetesError, match="did not read it: ReadTimeoutError"):
        kube._call("read it", away)


def spec_of(**tls: object) -> StorageSpec:
    return parse_spec("ext", {**SPEC, "tls": {"secretName": "client", **tls}})


class Secrets:
    """Secrets of any namespace, by name; what is patched is remembered."""

    def __init__(self, kubernetes: kube.Kube, **secrets: dict[str, bytes]) -> None:
        self.secrets = secrets
        self.written: list[tuple[str, Any]] = []
        for verb in ("read", "patch", "create"):
            setattr(kubernetes._core, f"{verb}_namespaced_secret", getattr(self, verb))

    def read(self, name: str, namespace: str, **_: Any) -> Any:
        if name not in self.secrets:
            raise client.ApiException(status=404)
        data = {key: base64.b64encode(text).decode() for key, text in self.secrets[name].items()}
        return SimpleNamespace(data=data)

    def patch(self, name: str, namespace: str, body: Any, **_: Any) -> Any:
        self.written.append((name, body))
        if name not in self.secrets:
            raise client.ApiException(status=404)
        return object()

    def create(self, namespace: str, body: Any, **_: Any) -> Any:
        self.written.append(("new", body["data"]))
        return object()


@pytest.fixture
def cluster() -> kube.Kube:
    return kube.Kube(client.ApiClient(client.Configuration()), namespace="kadalu-ext")


@pytest.mark.parametrize(
    "names", [("tls.crt", "tls.key", "ca.crt"), ("glusterfs.pem", "glusterfs.key", "glusterfs.ca")]
)
def test_a_secret_is_read_by_kubernetes_names_and_by_glusters(
    cluster: kube.Kube, names: tuple[str, ...], tmp_path: Path
) -> None:
    issued = Authority(tmp_path).issue("client")
    Secrets(cluster, client=dict(zip(names, issued.values(), strict=True)))
    tls = cluster.tls("default", spec_of(management=False))
    assert tls is not None
    assert (tls.files, tls.management) == (issued, False)


def test_a_secret_of_no_use_is_refused_with_its_name_the_key_and_nothing_of_what_it_holds(
    cluster: kube.Kube, tmp_path: Path
) -> None:
    with pytest.raises(NotFoundError, match="there is no Secret default/client"):
        Secrets(cluster) and cluster.tls("default", spec_of())
    one, other = (Authority(tmp_path).issue(name) for name in ("one", "other"))
    for data, words in (
        ({}, r"Secret default/client: it has no tls\.crt \(or glusterfs\.pem\)"),
        (one | {KEY: b"secret-text"}, r"are not a certificate and its unencrypted key"),
        (one | {KEY: other[KEY]}, r"are not a certificate .* \(KEY_VALUES_MISMATCH\)"),
        (one | {CA: b"secret-text"}, r"glusterfs\.ca is not a list of certificates"),
    ):
        Secrets(cluster, client=data)
        with pytest.raises(InvalidInputError, match=words) as caught:
            cluster.tls("default", spec_of())
        assert "secret-text" not in str(caught.value)


def test_only_the_files_of_that_very_storage_are_read_and_written(cluster: kube.Kube) -> None:
    secrets = Secrets(cluster, **{TLS_FILES: {"ext.crt": b"1", "ext.b.crt": b"2", "ext.json": b"3"}})
    assert cluster.files("ext") == {"ext.crt": b"1"}
    cluster.apply(SetFiles(files={"ext.crt": b"new", "ext.key": None}))
    assert secrets.written == [(TLS_FILES, {"data": {"ext.crt": "bmV3", "ext.key": None}})]


def test_the_secret_of_files_is_made_when_there_is_something_to_put_into_it(cluster: kube.Kube) -> None:
    secrets = Secrets(cluster)
    cluster.apply(SetFiles(files={"ext.crt": None}))
    cluster.apply(SetFiles(files={"ext.crt": b"new", "ext.key": None}))
    assert [body for name, body in secrets.written if name == "new"] == [{"ext.crt": "bmV3"}]


def test_the_clients_own_log_lines_never_have_an_answer_in_them(cluster: kube.Kube) -> None:
    logging.getLogger().setLevel(logging.DEBUG)
    try:
        assert not logging.getLogger("kubernetes.client.rest").isEnabledFor(logging.DEBUG)
    finally:
        logging.getLogger().setLevel(logging.WARNING)


def test_only_pvs_of_that_very_storage_are_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    handles = {"a": "ext/a", "b": "ext-1/b", "c": "other.driver", "d": "ext/d"}
    items = [
        {
            "metadata": {"name": name},
            "spec": {"csi": {"driver": "x" if name == "c" else "kadalu.external", "volumeHandle": handle}},
        }
        for name, handle in reversed(handles.items())
    ]
    items.append({"metadata": {"name": "nfs"}, "spec": {"nfs": {"server": "s", "path": "/"}}})
    pages = {
        None: {"items": items[:2], "metadata": {"continue": "more"}},
        "more": {"items": items[2:], "metadata": {"resourceVersion": "7"}},
    }

    def listed(*, _continue: str | None = None, **_: Any) -> SimpleNamespace:
        return SimpleNamespace(status=200, headers={}, data=json.dumps(pages[_continue]), release_conn=lambda: None)

    cluster = kube.Kube(client.ApiClient(client.Configuration()), namespace="kadalu-ext")
    monkeypatch.setattr(cluster._core, "list_persistent_volume", listed)
    assert cluster.pvs_of("ext") == ("a", "d")


class Stream:
    """What a watch answers."""

    status = 200
    headers: Mapping[str, str] = {}

    def __init__(self, *events: dict[str, Any]) -> None:
        text = b"".join(json.dumps(event).encode() + b"\n" for event in events)
        self.chunks = [text[at : at + 7] for at in range(0, len(text), 7)]
        self.closed = False

    def stream(self, _size: int) -> list[bytes]:
        return self.chunks

    def close(self) -> None:
        self.closed = True


def event(kind: str, version: int) -> dict[str, Any]:
    return {"type": kind, "object": {"metadata": {"name": "x", "resourceVersion": version}, "code": version}}


def test_a_watch_is_read_line_by_line_however_it_is_cut() -> None:
    stream = Stream(event("ADDED", 1), event("BOOKMARK", 2))
    kind = kube.Kind(what="things", _list=lambda **_: stream, _args=())
    assert [(what, version) for what, _, version in kind.changes("0")] == [("ADDED", "1"), ("BOOKMARK", "2")]
    assert stream.closed


@pytest.mark.parametrize(("code", "error"), [(410, GoneError), (500, KubernetesError)])
def test_a_watch_that_cannot_go_on_says_whether_to_list_again(code: int, error: type[KadaluExtError]) -> None:
    kind = kube.Kind(what="things", _list=lambda **_: Stream(event("ERROR", code)), _args=())
    with pytest.raises(error):
        list(kind.changes("0"))


@pytest.mark.parametrize(
    ("served", "words"),
    [
        ([], "knows no kadalustorages.kadalu-operator.storage: kubectl apply -k manifests/"),
        (["kadalustorages"], "is Kadalu's, under which storages have no status: kubectl apply -f manifests/crd"),
        (["kadalustorages", "kadalustorages/status"], ""),
    ],
)
def test_a_definition_that_is_missing_or_kadalus_is_told_apart(served: list[str], words: str) -> None:
    cluster = kube.Kube(client.ApiClient(), namespace="n")
    found = SimpleNamespace(resources=[SimpleNamespace(name=name) for name in served])
    cluster._objects = SimpleNamespace(get_api_resources=lambda *_, **__: found)  # type: ignore[assignment]
    reason = cluster.no_kind()
    assert words in reason
    assert bool(reason) is bool(words)


def test_without_the_api_group_the_definition_is_missing() -> None:
    cluster = kube.Kube(client.ApiClient(), namespace="n")
    cluster._objects = SimpleNamespace(get_api_resources=refusing(404))  # type: ignore[assignment]
    assert "kubectl apply -k manifests/" in cluster.no_kind()


def test_for_a_storage_that_was_deleted_meanwhile_nothing_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = kube.Kube(client.ApiClient(), namespace="n")
    monkeypatch.setattr(cluster._objects, "patch_namespaced_custom_object", refusing(404))
    add = SetFinalizers(namespace="default", name="ext", version="1", finalizers=(FINALIZER,))
    with pytest.raises(ConflictError, match="default/ext was deleted meanwhile"):
        cluster.apply(add)
    cluster.apply(replace(add, finalizers=()))


@pytest.mark.parametrize("odd", [{"items": None, "metadata": {}}, {"items": []}, [], {"items": [], "metadata": None}])
def test_a_list_that_is_none_is_an_error_and_not_the_end_of_its_thread(odd: object) -> None:
    answer = SimpleNamespace(status=200, headers={}, data=json.dumps(odd), release_conn=lambda: None)
    with pytest.raises(KubernetesError, match="the list of things"):
        kube.Kind(what="things", _list=lambda **_: answer, _args=()).listed()


@pytest.mark.parametrize(
    "odd", [{}, [], {"type": "ADDED"}, {"type": "ADDED", "object": {}}, {"type": "ADDED", "object": []}]
)
def test_a_watch_that_tells_nonsense_is_an_error_and_not_the_end_of_its_thread(odd: Any) -> None:
    with pytest.raises(KubernetesError, match="broke off"):
        list(kube.Kind(what="things", _list=lambda **_: Stream(odd), _args=()).changes("0"))
