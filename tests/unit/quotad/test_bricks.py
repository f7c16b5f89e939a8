"""Which bricks are this host's, and which are kadalu-quotad's."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kadalu_ext.errors import InvalidInputError
from kadalu_ext.quotad import bricks
from kadalu_ext.quotad.bricks import Brick, Choice
from tests.unit.quotad.fakes import UUID, FakeHost


def inventory(host: FakeHost) -> bricks.Inventory:
    return bricks.read_inventory(str(host.glusterd))


def only(host: FakeHost) -> Brick:
    (brick,) = inventory(host).bricks
    return brick


def test_only_the_bricks_of_this_host_are_taken(host: FakeHost) -> None:
    root = host.add_volume("v", {"replica_count": 3}, count=3, local=1)
    assert only(host) == Brick(volume="v", path=str(root), arbiter=False, data_bricks=1, choice=Choice.IF_USED)


def test_a_brick_goes_by_its_path_without_symlinks(host: FakeHost) -> None:
    host.add_volume("v")
    (file,) = (host.glusterd / "vols" / "v" / "bricks").iterdir()
    file.write_text(file.read_text() + "real_path=/srv/disk1/v\n")
    assert only(host).path == "/srv/disk1/v"


@pytest.mark.parametrize(("local", "arbiter"), [(0, False), (1, False), (2, True)])
def test_the_last_brick_of_an_arbiter_volume_is_the_arbiter(host: FakeHost, local: int, arbiter: bool) -> None:
    host.add_volume("v", {"replica_count": 3, "arbiter_count": 1}, count=3, local=local)
    assert only(host).arbiter is arbiter


def test_disperse_spreads_data_over_bricks_less_redundancy(host: FakeHost) -> None:
    host.add_volume("v", {"disperse_count": 6, "redundancy_count": 2}, count=6)
    assert only(host).data_bricks == 4


def test_redundancy_without_disperse_changes_nothing(host: FakeHost) -> None:
    host.add_volume("v", {"disperse_count": 0, "redundancy_count": 3})
    assert only(host).data_bricks == 1


@pytest.mark.parametrize(
    ("count", "info", "why"),
    [
        (6, {"replica_count": 3}, "distributed over 2 subvolumes"),
        (2, {}, "distributed over 2 subvolumes"),
        (1, {"features.shard": "on"}, "features.shard"),
        (2, {"replica_count": 2, "thin_arbiter_count": 1}, "thin arbiter"),
    ],
)
def test_a_volume_on_which_limits_mean_nothing_is_named(
    host: FakeHost, count: int, info: dict[str, object], why: str
) -> None:
    host.add_volume("v", info, count=count)
    assert why in only(host).unsupported


def test_a_file_of_names_decides_alone(host: FakeHost) -> None:
    host.add_volume("listed")
    host.add_volume("exported", {"user.kadalu-ext.export": "on"})
    host.name_volumes("# ours\nlisted   # since May\n\nmissing\n")
    seen = inventory(host)
    assert {brick.volume: brick.choice for brick in seen.bricks} == {
        "listed": Choice.NAMED,
        "exported": Choice.LEFT_OUT,
    }
    assert len(seen.problems) == 1
    assert "'missing'" in seen.problems[0]
    assert seen.complete


def kadalu_info(host: FakeHost, *bricks: object) -> None:
    (host.glusterd / "kadalu.info").write_text(json.dumps({"version": 1, "bricks": bricks}))


def test_kadalu_s_own_file_names_bricks(host: FakeHost) -> None:
    root = host.add_volume("v")
    host.add_volume("exported", {"user.kadalu-ext.export": "on"})
    kadalu_info(host, f"{root}/", "/not/here")
    seen = inventory(host)
    assert {brick.volume: brick.choice for brick in seen.bricks} == {"v": Choice.NAMED, "exported": Choice.LEFT_OUT}
    assert len(seen.problems) == 1
    assert "'/not/here', which is no brick of this host" in seen.problems[0]


def test_kadalu_s_own_file_without_bricks_decides_nothing(host: FakeHost) -> None:
    host.add_volume("v", {"user.kadalu-ext.export": "on"})
    kadalu_info(host)
    assert only(host).choice is Choice.NAMED


def test_our_file_comes_before_kadalu_s(host: FakeHost) -> None:
    kadalu_info(host, str(host.add_volume("v")))
    host.name_volumes("")
    assert only(host).choice is Choice.LEFT_OUT


@pytest.mark.parametrize("bricks", [[1], ["relative"], [None]])
def test_a_damaged_file_of_kadalu_s_takes_no_brick_and_says_so(host: FakeHost, bricks: list[object]) -> None:
    host.add_volume("v")
    kadalu_info(host, *bricks)
    seen = inventory(host)
    assert [brick.choice for brick in seen.bricks] == [Choice.LEFT_OUT]
    assert "kadalu.info: a JSON object is expected" in seen.problems[0]


@pytest.mark.parametrize(("value", "choice"), [("on", Choice.NAMED), ("off", Choice.LEFT_OUT), (None, Choice.IF_USED)])
def test_without_a_file_the_volume_option_decides(host: FakeHost, value: str | None, choice: Choice) -> None:
    host.add_volume("v", {} if value is None else {"user.kadalu-ext.export": value})
    assert only(host).choice is choice


def test_a_damaged_file_of_names_takes_no_volume_and_says_so(host: FakeHost) -> None:
    host.add_volume("v")
    host.name_volumes('["v"')
    seen = inventory(host)
    assert [brick.choice for brick in seen.bricks] == [Choice.LEFT_OUT]
    assert "kadalustorage.info: begins as a JSON list" in seen.problems[0]


def test_one_damaged_volume_does_not_hide_another(host: FakeHost) -> None:
    host.add_volume("bad")
    good = host.add_volume("good")
    (host.glusterd / "vols" / "bad" / "info").write_bytes(b"count=\xff\0\n")
    seen = inventory(host)
    assert [brick.path for brick in seen.bricks] == [str(good)]
    assert "volume bad" in seen.problems[0]
    assert not seen.complete


HALF = [
    ("glusterd.info", ""),
    ("glusterd.info", "UUID=5f0d7c29-0000"),
    ("vols/v/info", ""),
    ("vols/v/info", "type=0\ncount=1\nstat"),
    ("vols/v/bricks/host0:-bricks-v", ""),
    ("vols/v/bricks/host0:-bricks-v", f"uuid={UUID[:20]}"),
    ("vols/v/bricks/host0:-bricks-v", f"uuid={UUID}\nhostname=host0\npa"),
]


@pytest.mark.parametrize(("file", "text"), HALF)
def test_a_file_of_glusterd_s_that_is_half_written_is_no_word_on_which_bricks_are_gone(
    host: FakeHost, file: str, text: str
) -> None:
    host.add_volume("v")
    (host.glusterd / file).write_text(text)
    seen = inventory(host)
    assert not seen.complete
    assert len(seen.problems) == 1


@pytest.mark.parametrize("kind", ["file", "FIFO", "loop", "dangling"])
def test_what_is_no_directory_among_the_volumes_hides_none(host: FakeHost, kind: str) -> None:
    good, odd = host.add_volume("good"), host.glusterd / "vols" / "odd"
    match kind:
        case "file":
            odd.touch()
        case "FIFO":
            os.mkfifo(odd)
        case _:
            odd.symlink_to("odd" if kind == "loop" else "nowhere")
    seen = inventory(host)
    assert [brick.path for brick in seen.bricks] == [str(good)]
    assert "volume odd" in seen.problems[0]
    assert not seen.complete


def test_a_host_without_glusterd_says_so(tmp_path: Path) -> None:
    seen = bricks.read_inventory(str(tmp_path))
    assert seen.bricks == ()
    assert "is glusterd installed" in seen.problems[0]


@pytest.mark.parametrize(
    ("text", "names"),
    [("", ()), ("a\nb # c\n#d\n", ("a", "b")), ('["a", "b"]', ("a", "b")), (" [ ] ", ()), ("a\r\n", ("a",))],
)
def test_names_are_lines_or_a_json_list(tmp_path: Path, text: str, names: tuple[str, ...]) -> None:
    (tmp_path / "names").write_text(text)
    assert bricks.read_volume_names(str(tmp_path / "names")) == frozenset(names)


@pytest.mark.parametrize("text", ['["a", 1]', "[[[", '[{"a": 1}]'])
def test_what_begins_as_json_must_be_a_list_of_names(tmp_path: Path, text: str) -> None:
    (tmp_path / "names").write_text(text)
    with pytest.raises(InvalidInputError, match="names"):
        bricks.read_volume_names(str(tmp_path / "names"))


KEYS = st.sampled_from(
    ["count", "replica_count", "disperse_count", "redundancy_count", "arbiter_count", "brick-0", "?"]
)


@given(st.lists(st.tuples(KEYS, st.text(max_size=8) | st.integers().map(str) | st.just("host0:-bricks-v"))))
def test_whatever_glusterd_wrote_reading_it_raises_nothing(
    tmp_path_factory: pytest.TempPathFactory, pairs: list[tuple[str, str]]
) -> None:
    host = FakeHost(tmp_path_factory.mktemp("host"))
    host.add_volume("v")
    text = "\n".join("=".join(pair) for pair in pairs)
    (host.glusterd / "vols" / "v" / "info").write_bytes(text.encode("utf-8", "surrogatepass"))
    seen = inventory(host)
    assert seen.bricks or seen.problems or "count=0" in text
