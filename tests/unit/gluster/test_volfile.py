"""Volfiles: real ones, hostile ones, and there and back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kadalu_ext.errors import VolfileError
from kadalu_ext.gluster import volfile
from kadalu_ext.gluster.volfile import Volfile, Xlator
from tests.unit.gluster import golden

WORDS = st.text(st.characters(codec="ascii", exclude_characters="`\0\n"), min_size=1, max_size=10)
XLATORS = st.lists(
    st.builds(Xlator, name=WORDS, type=WORDS, options=st.dictionaries(WORDS, WORDS, max_size=3)),
    min_size=1,
    max_size=4,
    unique_by=lambda xlator: xlator.name,
)


@given(XLATORS, st.data())
def test_a_volfile_is_read_as_it_was_written(xlators: list[Xlator], draw: st.DataObject) -> None:
    names = [xlator.name for xlator in xlators]
    linked = tuple(
        Xlator(
            name=xlator.name,
            type=xlator.type,
            options=xlator.options,
            subvolumes=tuple(draw.draw(st.lists(st.sampled_from(names[:at]), max_size=3))) if at else (),
        )
        for at, xlator in enumerate(xlators)
    )
    assert volfile.parse(volfile.render(Volfile(xlators=linked))) == Volfile(xlators=linked)


@pytest.mark.parametrize("volume", ["one", "rep", "arb", "ec", "dr", "shd"])
def test_glusterds_own_volfiles_survive(volume: str) -> None:
    text = golden.volfile(volume)
    assert volfile.render(volfile.parse(text)).split() == text.split()


def test_a_translator_is_found_by_its_name() -> None:
    parsed = volfile.parse(golden.volfile("ec"))
    disperse = parsed.xlator("ec-disperse-0")
    assert disperse.options == {"redundancy": "1"}
    assert disperse.subvolumes == ("ec-client-0", "ec-client-1", "ec-client-2")
    with pytest.raises(KeyError):
        parsed.xlator("ec-disperse-1")


def test_quotes_comments_and_free_lines_are_read_as_gluster_does() -> None:
    text = 'volume "a b" # c\n type\n t option k "x\\"y\\\\z #" # volume\n option type#1 v\n end-volume'
    assert volfile.parse(text).xlators == (Xlator(name="a b", type="t", options={"k": 'x"y\\z #', "type#1": "v"}),)


@given(st.text(max_size=80))
def test_any_text_is_a_volfile_or_a_volfile_error(text: str) -> None:
    try:
        volfile.parse(text)
    except VolfileError:
        pass


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "empty"),
        ("\n type t\n", "line 2: 'volume' was expected"),
        ("volume a\n type t\n", "line 2: 'end-volume' or another"),
        ("volume a\n option k v\n end-volume", "without type"),
        ("volume a\n type t\n option k\n end-volume", "an option's value is missing"),
        ("volume a\n type t\n option k\n", "an option's value is missing"),
        ("volume a\n type t\n type u\n end-volume", "another statement"),
        ("volume a\n type t\n subvolumes b\n end-volume", "does not stand before"),
        ("volume a\n type t\n subvolumes a\n end-volume", "does not stand before"),
        ("volume a\n type t\n end-volume\nvolume a\n type t\n end-volume", "line 4: a second"),
        ('volume a\n type t\n option k "v', "line 3: a stray quote"),
        ("volume volume\n type t\n end-volume", "name is missing"),
        ("volume", "name is missing"),
    ],
)
def test_what_gluster_would_not_read_is_refused_with_its_line(text: str, why: str) -> None:
    with pytest.raises(VolfileError, match=why):
        volfile.parse(text)


def test_an_error_never_shows_what_stands_in_the_volfile() -> None:
    with pytest.raises(VolfileError) as caught:
        volfile.parse("volume a\n type t\n option password s3cret s3cret\n end-volume")
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("text", ["# `reboot`\n", 'volume a\n type t\n option k "`reboot`"\n end-volume'])
def test_commands_that_gluster_would_run_are_refused_when_read(text: str) -> None:
    with pytest.raises(VolfileError, match="backtick"):
        volfile.parse(golden.volfile("one") + text)


@pytest.mark.parametrize("word", ["`reboot`", "a\nb", "a\0b", ""])
def test_words_that_gluster_would_run_or_not_read_are_not_written(word: str) -> None:
    with pytest.raises(VolfileError, match="backtick"):
        volfile.render(Volfile(xlators=(Xlator(name="a", type="t", options={"k": word}),)))
