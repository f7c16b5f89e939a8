"""What a dry run remembers of inodes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kadalu_ext.quotad.plan import ProjectId, Tag
from kadalu_ext.quotad.tally import _Tags

INODES = st.integers(0, 300) | st.integers(0, (1 << 64) - 1)
TAGS = st.builds(Tag, project_id=st.integers(0, 3).map(ProjectId), inherit=st.booleans())


@given(st.lists(st.tuples(INODES, TAGS)), st.lists(INODES))
def test_an_inode_has_the_tag_that_it_got_last(given: list[tuple[int, Tag]], others: list[int]) -> None:
    tags = _Tags()
    for inode, tag in given:
        tags.set(inode, tag)
    last = dict(given)
    assert [tags.get(inode) for inode in [*last, *others]] == [last.get(inode) for inode in [*last, *others]]
