"""Why a PV is or is not enforced."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kadalu_ext.errors import RecordError
from kadalu_ext.quotad import explain
from kadalu_ext.quotad.explain import Answer
from tests.unit.quotad.fakes import FakeHost, make_pv, put_record
from tests.unit.quotad.test_status import enforce_all


@pytest.fixture
def root(host: FakeHost) -> Path:
    root = host.add_volume("v", {"replica_count": 3}, count=3)
    make_pv(root, "pvc-1")
    put_record(root, "pvc-1")
    return root


def ask(host: FakeHost, pv: str = "pvc-1", *, daemon_running: bool = True) -> Answer:
    return explain.explain(pv, str(host.glusterd), host.xfs, daemon_running=daemon_running)


def failed(answer: Answer) -> list[str]:
    return [step.what for brick in answer.bricks for step in brick.steps if not step.fine]


@pytest.mark.usefixtures("root")
def test_an_enforced_pv_is_fine_in_every_step(host: FakeHost) -> None:
    enforce_all(host)
    answer = ask(host)
    assert answer.enforced
    assert [step.what for step in answer.bricks[0].steps] == ["volume", "brick", "record", "directory", "limit"]
    assert failed(answer) == []
    assert "->" not in explain.render(answer)
    assert json.loads(explain.to_json(answer))["enforced"] is True


@pytest.mark.usefixtures("root")
def test_the_first_line_is_the_verdict(host: FakeHost) -> None:
    assert explain.render(ask(host)).startswith("pvc-1: NOT enforced, on 0 of 1 brick of this host\n")
    enforce_all(host)
    assert explain.render(ask(host)).startswith("pvc-1: enforced, on 1 of 1 brick of this host\n")


def test_who_chose_a_volume_is_told(host: FakeHost, root: Path) -> None:
    assert "v is served: it holds info/quota" in explain.render(ask(host))
    (host.glusterd / "kadalu.info").write_text(f'{{"version": 1, "bricks": ["{root}"]}}')
    assert "v is served: kadalu.info names the brick" in explain.render(ask(host))
    host.name_volumes("v\n")
    assert "v is served: kadalustorage.info names it" in explain.render(ask(host))


def test_an_option_that_chose_a_volume_is_told(host: FakeHost) -> None:
    root = host.add_volume("w", {"user.kadalu-ext.export": "on"})
    put_record(root, "pvc-1")
    assert "w is served: its option user.kadalu-ext.export is on" in explain.render(ask(host))


@pytest.mark.usefixtures("root")
def test_without_the_daemon_it_says_to_start_it(host: FakeHost) -> None:
    answer = ask(host, daemon_running=False)
    assert failed(answer) == ["directory", "limit", "verdict"]
    assert "->  systemctl start kadalu-quotad" in explain.render(answer)


def test_a_record_without_a_directory_waits_for_heal(host: FakeHost, root: Path) -> None:
    put_record(root, "pvc-2")
    answer = ask(host, "pvc-2")
    assert answer.bricks[0].state == "waiting"
    assert "gluster volume heal v info" in explain.render(answer)


@pytest.mark.parametrize("directory", [True, False])
def test_a_pv_without_a_record_says_whether_there_is_a_directory(host: FakeHost, root: Path, directory: bool) -> None:
    if directory:
        make_pv(root, "pvc-2")
    answer = ask(host, "pvc-2")
    assert not answer.enforced
    words = "yet a directory of that name" if directory else "pvc-2: no brick of this host has a record or a directory"
    assert words in explain.render(answer)
    assert "\\n" not in explain.render(answer)


@pytest.mark.usefixtures("root")
def test_a_refused_brick_shows_its_remedy(host: FakeHost) -> None:
    host.xfs.refusal = "in /etc/fstab: /dev/vdb /bricks xfs defaults,prjquota 0 0"
    assert "in /etc/fstab: /dev/vdb" in explain.render(ask(host))


@pytest.mark.usefixtures("root")
def test_a_volume_that_is_left_out_is_named_if_it_has_the_pv(host: FakeHost) -> None:
    host.name_volumes("other\n")
    text = explain.render(ask(host))
    assert "kadalustorage.info does not name volume v" in text
    assert "export its volume" in text


def test_volumes_that_do_not_know_the_pv_are_not_told(host: FakeHost, root: Path) -> None:
    put_record(host.add_volume("w"), "pvc-9")
    enforce_all(host)
    assert [brick.volume for brick in ask(host).bricks] == ["v"]


def test_a_record_that_is_refused_is_told_with_its_reason(host: FakeHost, root: Path) -> None:
    put_record(root, "pvc-2", b"{}")
    answer = ask(host, "pvc-2")
    assert answer.bricks[0].state == "invalid"
    assert "v is 'None'" in explain.render(answer)


def test_what_cannot_be_a_name_is_refused(host: FakeHost) -> None:
    with pytest.raises(RecordError):
        ask(host, "../etc")
