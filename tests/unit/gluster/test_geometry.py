"""What a volume is made of, by glusterd's own volfiles."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kadalu_ext.errors import UnsupportedVolumeError, VolfileError
from kadalu_ext.gluster import volfile
from kadalu_ext.gluster.geometry import MAX_BRICKS, Brick, Geometry, VolumeKind, geometry
from kadalu_ext.gluster.volfile import Volfile, Xlator
from tests.unit.gluster import golden


def of(volume: str) -> Geometry:
    return geometry(volfile.parse(golden.volfile(volume)))


def changed(volume: str, name: str, **options: str) -> Volfile:
    """The volume's volfile with other options of one translator."""
    parsed = volfile.parse(golden.volfile(volume))
    xlators = (replace(x, options={**x.options, **options}) if x.name == name else x for x in parsed.xlators)
    return Volfile(xlators=tuple(xlators))


def names(shape: Geometry, *numbers: int) -> list[str]:
    return [shape.bricks[number].name for number in numbers]


def test_a_volume_of_one_brick() -> None:
    shape = of("one")
    assert shape == Geometry(
        kind=VolumeKind.BRICK, bricks=(Brick(name="one-client-0", host="10.99.0.1", path="/run/b/1/one"),)
    )
    assert (shape.data_bricks, shape.data_carriers) == (1, shape.bricks)
    assert str(shape.bricks[0]) == "10.99.0.1:/run/b/1/one"


def test_three_replicas_each_hold_everything() -> None:
    shape = of("rep")
    assert (shape.kind, shape.data_bricks) == (VolumeKind.REPLICATE, 1)
    assert [brick.host for brick in shape.data_carriers] == ["10.99.0.1", "10.99.0.2", "10.99.0.3"]


def test_an_arbiter_holds_no_blocks() -> None:
    shape = of("arb")
    assert [brick.arbiter for brick in shape.bricks] == [False, False, True]
    assert shape.data_carriers == shape.bricks[:2]


def test_a_disperse_volume_divides_a_file_by_its_data_bricks() -> None:
    shape = of("ec")
    assert (shape.kind, len(shape.bricks), shape.redundancy, shape.data_bricks) == (VolumeKind.DISPERSE, 3, 1, 2)


@pytest.mark.parametrize(
    ("volume", "up", "takes"),
    [
        ("one", [0], True),
        ("one", [], False),
        ("rep", [0, 1], True),
        ("rep", [2], False),
        ("arb", [0, 2], True),
        ("arb", [2], False),
        ("ec", [1, 2], True),
        ("ec", [0], False),
    ],
)
def test_a_volume_takes_writes_with_the_bricks_that_gluster_asks_for(volume: str, up: list[int], takes: bool) -> None:
    shape = of(volume)
    assert shape.takes_writes(names(shape, *up)) is takes


def test_half_of_an_even_replica_takes_writes_only_with_the_first_among_them() -> None:
    shape = Geometry(kind=VolumeKind.REPLICATE, bricks=of("rep").bricks[:2])
    assert shape.takes_writes(names(shape, 0))
    assert not shape.takes_writes(names(shape, 1))


def test_a_quorum_that_the_volume_sets_is_honoured() -> None:
    fixed = geometry(changed("rep", "rep-replicate-0", **{"quorum-type": "fixed", "quorum-count": "3"}))
    assert not fixed.takes_writes(names(fixed, 0, 1))
    none = geometry(changed("rep", "rep-replicate-0", **{"quorum-type": "none"}))
    assert none.takes_writes(names(none, 2))
    disperse = geometry(changed("ec", "ec-disperse-0", **{"quorum-count": "3"}))
    assert not disperse.takes_writes(names(disperse, 0, 1))


def test_a_name_that_is_no_brick_of_the_volume_does_not_count() -> None:
    assert not of("one").takes_writes(["rep-client-0"])


def test_a_volume_over_several_subvolumes_is_refused() -> None:
    with pytest.raises(UnsupportedVolumeError, match="distributed over 2 subvolumes; give Kubernetes"):
        of("dr")


def test_a_sharded_volume_is_refused() -> None:
    with pytest.raises(UnsupportedVolumeError, match=r"sharded.*features.shard"):
        of("shd")


def test_a_thin_arbiter_is_refused() -> None:
    with pytest.raises(UnsupportedVolumeError, match=r"thin arbiter.*use replica 3"):
        geometry(changed("rep", "rep-replicate-0", **{"thin-arbiter": "h:/ta"}))


def test_readdir_ahead_between_distribute_and_a_brick_is_passed_over() -> None:
    text = golden.volfile("one").replace("    subvolumes one-client-0\n", "    subvolumes ra\n")
    ahead = "volume ra\n type performance/readdir-ahead\n subvolumes one-client-0\nend-volume\n\n"
    text = text.replace("volume one-dht", ahead + "volume one-dht")
    assert geometry(volfile.parse(text)) == of("one")


@pytest.mark.parametrize(
    ("volume", "name", "options"),
    [
        ("ec", "ec-disperse-0", {"redundancy": "3"}),
        ("ec", "ec-disperse-0", {"redundancy": "9" * 5000}),
        ("arb", "arb-replicate-0", {"arbiter-count": "3"}),
        ("rep", "rep-replicate-0", {"arbiter-count": "one"}),
        ("one", "one-client-0", {"remote-host": ""}),
    ],
)
def test_a_volfile_that_cannot_be_is_refused(volume: str, name: str, options: dict[str, str]) -> None:
    with pytest.raises(VolfileError, match=name):
        geometry(changed(volume, name, **options))


def test_what_is_not_a_clients_volfile_is_refused() -> None:
    with pytest.raises(VolfileError, match="0 cluster/distribute"):
        geometry(Volfile(xlators=(Xlator(name="brick", type="storage/posix"),)))


def test_a_join_that_is_not_known_is_refused() -> None:
    parsed = volfile.parse(golden.volfile("ec").replace("cluster/disperse", "cluster/stripe"))
    with pytest.raises(UnsupportedVolumeError, match="cluster/stripe"):
        geometry(parsed)


def test_a_volfile_of_a_stranger_has_bounded_bricks_with_bounded_names() -> None:
    client = {"remote-host": "h", "remote-subvolume": "/b"}

    def shape(count: int, **options: str) -> Geometry:
        bricks = [Xlator(name=f"c{n}", type="protocol/client", options={**client, **options}) for n in range(count)]
        group = Xlator(name="r", type="cluster/replicate", subvolumes=tuple(brick.name for brick in bricks))
        top = Xlator(name="d", type="cluster/distribute", subvolumes=("r",))
        return geometry(Volfile(xlators=(*bricks, group, top)))

    assert len(shape(MAX_BRICKS).bricks) == MAX_BRICKS
    for count, options in (
        (MAX_BRICKS + 1, {}),
        (1, {"remote-host": "h" * 300}),
        (1, {"remote-subvolume": "/" * 5000}),
    ):
        with pytest.raises(VolfileError):
            shape(count, **options)
