"""Volfiles: the text that says of which translators a gluster client is made (libglusterfs/src/graph.l, graph.y). Pure.

    volume NAME / type T / option KEY VALUE … / subvolumes A B … / end-volume        children before parents

Words are divided by white space; `#` begins a comment; a word in quotes may hold white space and `\\`-escapes.
When it reads a volfile, gluster runs what stands between backticks as a shell command: neither `parse` nor `render`
lets one pass, so that a client that is given what `render` made runs nobody's commands.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from kadalu_ext.errors import VolfileError

_TOKEN: Final = re.compile(r'(?P<skip>[ \t\r\n]+|#[^\n]*)|"(?P<quoted>(?:[^\n"\\]|\\[^\n])*)"|(?P<bare>[^ \t\r\n"\\]+)')
_KEYWORDS: Final = frozenset({"volume", "type", "option", "subvolumes", "subvolumeS", "end-volume"})
_BARE: Final = re.compile(r'[^ \t\r\n"\\#`\0][^ \t\r\n"\\`\0]*')


@dataclass(frozen=True, kw_only=True)
class Xlator:
    """A translator: `volume NAME` … `end-volume`. `subvolumes` are names of translators that stand before it."""

    name: str
    type: str
    options: Mapping[str, str] = field(default_factory=dict)
    subvolumes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Volfile:
    """The translators in the volfile's order: children first, the top one last."""

    xlators: tuple[Xlator, ...]

    def xlator(self, name: str) -> Xlator:
        """The translator of that name. Raises: KeyError."""
        for xlator in self.xlators:
            if xlator.name == name:
                return xlator
        raise KeyError(name)


class _Token(NamedTuple):
    text: str
    line: int
    keyword: bool


def parse(text: str) -> Volfile:
    """The volfile's translators.

    Raises: VolfileError with the line's number, never its text: a volfile may hold passwords.
    """
    if "`" in text:
        raise VolfileError(
            f"volfile line {text[: text.index('`')].count(chr(10)) + 1}: a backtick, which gluster would run"
        )
    tokens = list(_tokens(text))
    xlators: dict[str, Xlator] = {}
    at = 0
    while at < len(tokens):
        xlator, at = _parse_xlator(tokens, at, xlators)
        xlators[xlator.name] = xlator
    if not xlators:
        raise VolfileError("the volfile is empty")
    return Volfile(xlators=tuple(xlators.values()))


def _tokens(text: str) -> Iterator[_Token]:
    at, line = 0, 1
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise VolfileError(f"volfile line {line}: a stray quote or backslash")
        if (bare := match["bare"]) is not None:
            yield _Token(bare, line, bare in _KEYWORDS)
        elif (quoted := match["quoted"]) is not None:
            yield _Token(re.sub(r"\\(.)", r"\1", quoted), line, False)
        else:
            line += match["skip"].count("\n")
        at = match.end()


def _parse_xlator(tokens: list[_Token], at: int, known: Mapping[str, Xlator]) -> tuple[Xlator, int]:
    """The translator that begins at token `at`, and where the next one does."""

    def keyword() -> str | None:
        return tokens[at].text if at < len(tokens) and tokens[at].keyword else None

    def word(what: str) -> str:
        nonlocal at
        if at == len(tokens) or tokens[at].keyword:
            raise VolfileError(f"volfile line {tokens[min(at, len(tokens) - 1)].line}: {what} is missing")
        at += 1
        return tokens[at - 1].text

    def fail(why: str) -> VolfileError:
        return VolfileError(f"volfile line {tokens[at - 1].line}: {why}")

    if keyword() != "volume":
        raise VolfileError(f"volfile line {tokens[at].line}: 'volume' was expected")
    at += 1
    if (name := word("the translator's name")) in known:
        raise fail("a second translator of the same name")
    type_, options, subvolumes = "", dict[str, str](), list[str]()
    while (statement := keyword()) != "end-volume":
        at += 1
        if statement == "type" and not type_:
            type_ = word("the type")
        elif statement == "option":
            key = word("an option's name")
            options[key] = word("an option's value")
        elif statement in ("subvolumes", "subvolumeS") and not subvolumes:
            subvolumes.append(word("the subvolumes' names"))
            while at < len(tokens) and not tokens[at].keyword:
                subvolumes.append(word("a subvolume's name"))
        else:
            at = min(at, len(tokens))
            raise fail("'end-volume' or another statement was expected")
        if not set(subvolumes) <= known.keys():
            raise fail("a subvolume that does not stand before its parent")
    if not type_:
        raise fail("a translator without type")
    return Xlator(name=name, type=type_, options=options, subvolumes=tuple(subvolumes)), at + 1


def render(volfile: Volfile) -> str:
    """The volfile's text, as gluster and `parse` read it.

    Raises: VolfileError if a word cannot be written: it is empty, or holds a backtick, a NUL or a line's end.
    """
    return "\n".join(map(_render_xlator, volfile.xlators))


def _render_xlator(xlator: Xlator) -> str:
    lines = [f"volume {_word(xlator.name)}", f"    type {_word(xlator.type)}"]
    lines += [f"    option {_word(key)} {_word(value)}" for key, value in xlator.options.items()]
    if xlator.subvolumes:
        lines.append("    subvolumes " + " ".join(map(_word, xlator.subvolumes)))
    return "\n".join([*lines, "end-volume", ""])


def _word(text: str) -> str:
    if _BARE.fullmatch(text) and text not in _KEYWORDS:
        return text
    if not text or any(c in text for c in "`\0\n"):
        raise VolfileError("a volfile's word is empty, or holds a backtick, a NUL or a line's end")
    return '"' + re.sub(r'(["\\])', r"\\\1", text) + '"'
