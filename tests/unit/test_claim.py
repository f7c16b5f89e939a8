"""The claim on a whole volume: a format on disk, and what several bricks' words of it mean."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kadalu_ext.claim import CLAIM_XATTR, NEVER, Claim, ClaimState, decode, encode, held, newest, size_bytes
from kadalu_ext.errors import BricksDownError, ClaimError, UnavailableError
from kadalu_ext.gluster.brick import BrickAnswer, BrickStat
from kadalu_ext.record import PvName
from kadalu_ext.storage import StorageName
from tests.unit.csi.memory import replica

EXT, PV = StorageName("ext"), PvName("pvc-1")
TAKEN = Claim(number=3, state=ClaimState.TAKEN, pv=PV, storage=EXT)
REPLICA = replica(3)


def test_the_format_is_what_is_on_disk() -> None:
    assert encode(TAKEN) == b'{"v":1,"state":"taken","pv":"pvc-1","storage":"ext"}'
    assert TAKEN.xattr == "trusted.kadalu.claim.3"


@given(st.sampled_from(ClaimState), st.integers(1, 10**12 - 1), st.none() | st.integers(0, 2**32 - 1))
def test_a_claim_is_read_as_it_was_written(state: ClaimState, number: int, gid: int | None) -> None:
    claim = Claim(number=number, state=state, pv=PV, storage=EXT, gid=gid)
    assert decode(number, encode(claim)) == claim


def test_the_highest_number_holds_and_what_is_no_number_is_passed_over() -> None:
    older = TAKEN.next(ClaimState.EMPTYING, PV, EXT)
    attributes = {each.xattr: encode(each) for each in (TAKEN, older)} | {f"{CLAIM_XATTR}x": b"?", "user.a": b""}
    assert (newest(attributes), newest({})) == (older, NEVER)


@given(st.binary(max_size=200))
def test_anything_else_is_refused_and_leaves_the_volume_alone(value: bytes) -> None:
    with pytest.raises(ClaimError, match="left alone"):
        decode(1, value)


@pytest.mark.parametrize("fields", ['"pv":"pvc-1"', '"pv":"../x","storage":"ext"', '"pv":1,"storage":[]'])
def test_a_claim_that_does_not_say_whose_it_is_is_refused(fields: str) -> None:
    with pytest.raises(ClaimError):
        decode(1, b'{"v":1,"state":"taken",%s}' % fields.encode())


def answers(*claims: Claim | None) -> list[BrickAnswer]:
    """Of the bricks of a replica; None is one that is down."""
    stat = BrickStat(total_bytes=100, free_bytes=50, block_bytes=1)
    return [
        BrickAnswer(brick=brick, stat=None, error=f"{brick}: refused", up=False)
        if claim is None
        else BrickAnswer(
            brick=brick, stat=stat, error=None, up=True, attributes={claim.xattr: encode(claim)} if claim.number else {}
        )
        for brick, claim in zip(REPLICA.bricks, claims, strict=True)
    ]


def test_what_most_bricks_have_holds_whatever_one_of_them_says() -> None:
    later = TAKEN.next(ClaimState.EMPTYING, PV, EXT)
    for words in ((TAKEN, TAKEN, later), (NEVER, TAKEN, TAKEN), (None, TAKEN, TAKEN)):
        assert held(answers(*words), REPLICA, volume="v") == TAKEN


def test_bricks_that_are_too_few_or_disagree_tell_nothing() -> None:
    with pytest.raises(BricksDownError, match="h2"):
        held(answers(TAKEN, None, None), REPLICA, volume="v")
    with pytest.raises(UnavailableError, match="gluster volume heal v"):
        held(answers(TAKEN, NEVER, TAKEN.next(ClaimState.FREE, PV, EXT)), REPLICA, volume="v")


def test_a_volume_is_as_large_as_its_smallest_brick() -> None:
    assert (size_bytes(answers(NEVER, None, NEVER), REPLICA), size_bytes([], REPLICA)) == (100, 0)
