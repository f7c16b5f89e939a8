"""What bricks' answers mean, by kind of volume."""

from __future__ import annotations

import pytest

from kadalu_ext.csi import pvhealth
from kadalu_ext.csi.enforcement import not_enforced
from kadalu_ext.errors import BricksDownError, KadaluExtError, NotEnforcedError
from kadalu_ext.gluster.brick import BrickAnswer, BrickStat
from kadalu_ext.gluster.geometry import Brick, Geometry, VolumeKind
from kadalu_ext.layout import pv_path
from kadalu_ext.record import PvName, QuotaRecord
from kadalu_ext.units import MIB

SIZE = 64 * MIB


def bricks(count: int) -> tuple[Brick, ...]:
    return tuple(Brick(name=f"v-{n}", host=f"h{n}", path="/b") for n in range(count))


def judge(geometry: Geometry, *totals: int | str | None) -> KadaluExtError | None:
    """A number: what the brick shows; a text: why it is up without an answer; None: it is down."""
    answers = []
    for brick, total in zip(geometry.bricks, totals, strict=True):
        stat = BrickStat(total_bytes=total, free_bytes=0, block_bytes=4096) if isinstance(total, int) else None
        error = None if stat else f"brick {brick}: {total or 'refused'}"
        answers.append(BrickAnswer(brick=brick, stat=stat, error=error, up=total is not None))
    return not_enforced(answers, geometry, size_bytes=SIZE, volume="vol")


DISPERSE = Geometry(kind=VolumeKind.DISPERSE, bricks=bricks(6), redundancy=2)
REPLICA = Geometry(kind=VolumeKind.REPLICATE, bricks=bricks(3))


def test_each_brick_of_a_disperse_volume_enforces_its_part() -> None:
    assert judge(DISPERSE, *[SIZE // 4] * 6) is None
    error = judge(DISPERSE, *[SIZE // 4] * 5, SIZE)
    assert isinstance(error, NotEnforcedError)
    assert "1 of 6 bricks: brick h5:/b shows 64 MiB instead of 16 MiB" in str(error)


def test_a_disperse_volume_goes_on_without_its_redundancy_and_no_brick_more() -> None:
    assert judge(DISPERSE, *[SIZE // 4] * 4, None, None) is None
    assert isinstance(judge(DISPERSE, *[SIZE // 4] * 3, None, None, None), BricksDownError)


def test_a_brick_that_is_up_but_has_no_directory_does_not_enforce() -> None:
    missing = "it has no directory subvol/aa/bb/pv"
    error = str(judge(REPLICA, SIZE, SIZE, missing))
    assert "1 of 3 bricks: brick h2:/b: it has no directory" in error and "heal vol info" in error
    assert "quotad" not in error
    both = str(judge(REPLICA, SIZE, 2 * SIZE, missing))
    assert "2 of 3 bricks: brick h1:/b shows 128 MiB" in both and "Also: brick h2:/b: it has no directory" in both


def test_figures_that_would_look_the_same_are_told_in_bytes() -> None:
    geometry = Geometry(kind=VolumeKind.BRICK, bricks=bricks(1))
    assert judge(geometry, SIZE) is None
    assert f"shows {SIZE + 4096} instead of {SIZE} bytes" in str(judge(geometry, SIZE + 4096))


def test_no_event_is_flooded_by_a_large_volume() -> None:
    many = Geometry(kind=VolumeKind.DISPERSE, bricks=bricks(20), redundancy=4)
    text = str(judge(many, *[1 << 30] * 20))
    assert "20 of 20 bricks" in text and "h3:/b shows" in text and "h4:/b shows" not in text and "and 16 more" in text
    assert len(text) < 1024


def test_every_brick_also_an_arbiter_must_show_the_limit_of_inodes() -> None:
    arbitrated = Geometry(
        kind=VolumeKind.REPLICATE, bricks=(*bricks(2), Brick(name="v-2", host="h2", path="/b", arbiter=True))
    )
    for shown, says in (((1000, 1000, 1000), None), ((1000, 1000, 5000), "h2:/b shows 5000 inodes instead of 1000")):
        stats = [BrickStat(total_bytes=SIZE, free_bytes=0, block_bytes=4096, total_inodes=files) for files in shown]
        answers = [
            BrickAnswer(brick=brick, stat=stat, error=None, up=True)
            for brick, stat in zip(arbitrated.bricks, stats, strict=True)
        ]
        error = not_enforced(answers, arbitrated, size_bytes=SIZE, inodes=1000, volume="vol")
        assert says in str(error) if says else error is None
    assert "with 1000 inodes is not enforced on 1 of 3 bricks" in str(error)
    assert not_enforced(answers, arbitrated, size_bytes=SIZE, volume="vol") is None


@pytest.mark.parametrize("arbiter", [False, True])
def test_a_full_pv_with_an_arbiter_says_that_its_files_may_not_answer_until_there_is_room(arbiter: bool) -> None:
    third = Brick(name="v-2", host="h2", path="/b", arbiter=arbiter)
    geometry = Geometry(kind=VolumeKind.REPLICATE, bricks=(*bricks(2), third))
    full = BrickStat(total_bytes=SIZE, free_bytes=0, block_bytes=4096)
    answers = [BrickAnswer(brick=brick, stat=full, error=None, up=True) for brick in geometry.bricks]
    record = QuotaRecord(path=pv_path(PvName("pv")), size_bytes=SIZE)
    (found,) = pvhealth.conditions(record, answers, geometry, found=True, volume="vol")
    assert (found.reason, "ENOTCONN" in found.message) == ("Full", arbiter)
