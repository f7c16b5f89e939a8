"""The options that a KadaluStorage may set, of the glusterfs client and of mounts: allow-lists with types. Pure.

Names and values are those of glusterfs(8) (`glusterfs --help`, libglusterfs/src/common-utils.c gf_string2boolean for
booleans), without the leading dashes, and for translators those of `gluster volume set`. Options that name files,
servers or processes are left out on purpose: they belong to the mounter, and nothing that a user writes ever becomes a
path.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from kadalu_ext.errors import InvalidInputError
from kadalu_ext.storage import MOUNT_OPTIONS

_LOG_LEVELS: Final = ("CRITICAL", "ERROR", "WARNING", "INFO", "DEBUG", "TRACE", "NONE")
_ON: Final = frozenset({"on", "yes", "true", "enable", "1"})
_OFF: Final = frozenset({"off", "no", "false", "disable", "0"})


@dataclass(frozen=True, kw_only=True)
class _Kind:
    """What values an option takes. `read` returns gluster's spelling of a value, or None if it is not one."""

    allowed: str
    example: str
    read: Callable[[str], str | None]


def _boolean(text: str) -> str | None:
    word = text.lower()
    return "on" if word in _ON else "off" if word in _OFF else None


def _matching(pattern: str) -> Callable[[str], str | None]:
    return lambda text: text if re.fullmatch(pattern, text, re.ASCII) else None


_BOOLEAN: Final = _Kind(allowed="on or off", example="on", read=_boolean)
_AUTO: Final = _Kind(allowed="on, off or auto", example="auto", read=lambda t: "auto" if t == "auto" else _boolean(t))
_COUNT: Final = _Kind(allowed="a whole number", example="65536", read=_matching(r"[0-9]{1,9}"))
_SECONDS: Final = _Kind(allowed="seconds, such as 1 or 0.5", example="1", read=_matching(r"[0-9]{1,6}(\.[0-9]{1,3})?"))
_LEVEL: Final = _Kind(
    allowed=", ".join(_LOG_LEVELS), example="DEBUG", read=lambda t: t.upper() if t.upper() in _LOG_LEVELS else None
)

ALLOWED: Final[Mapping[str, _Kind]] = {
    "log-level": _LEVEL,
    "attribute-timeout": _SECONDS,
    "entry-timeout": _SECONDS,
    "negative-timeout": _SECONDS,
    "gid-timeout": _COUNT,
    "lru-limit": _COUNT,
    "invalidate-limit": _COUNT,
    "background-qlen": _COUNT,
    "congestion-threshold": _COUNT,
    "reader-thread-count": _COUNT,
    "direct-io-mode": _AUTO,
    "use-readdirp": _BOOLEAN,
    "fopen-keep-cache": _BOOLEAN,
    "kernel-writeback-cache": _BOOLEAN,
    "auto-invalidation": _BOOLEAN,
    "event-history": _BOOLEAN,
    "disperse.eager-lock": _BOOLEAN,
    "disperse.other-eager-lock": _BOOLEAN,
    "disperse.parallel-writes": _BOOLEAN,
    "disperse.stripe-cache": _COUNT,
}


def parse_options(value: object, *, field: str) -> dict[str, str]:
    """The options of `log_level=DEBUG,entry-timeout=5` or of a map, with gluster's names and spellings.

    Names may be written with `_` for `-` and in any case. An option given twice must have one value.
    Raises: InvalidInputError naming `field` and the option, what is allowed, and an example.
    """
    options: dict[str, str] = {}
    for raw_key, raw in _pairs(value, field):
        key = raw_key.strip().lower().replace("_", "-")
        if key not in ALLOWED:
            near = difflib.get_close_matches(key, ALLOWED, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}={ALLOWED[near[0]].example}?" if near else "for example: log-level=DEBUG"
            if key in MOUNT_OPTIONS:
                hint = f"it is an option of mounts: mountOptions: [{key}]"
            raise InvalidInputError(
                f"{field}: {raw_key[:64]!r} is not an option that may be set; allowed are {', '.join(ALLOWED)}; {hint}"
            )
        kind = ALLOWED[key]
        text = kind.read(raw.strip())
        if text is None:
            raise InvalidInputError(
                f"{field}: {key} is {raw[:64]!r}; allowed is {kind.allowed}; for example: {key}={kind.example}"
            )
        if options.setdefault(key, text) != text:
            raise InvalidInputError(f"{field}: {key} is given twice, as {options[key]} and as {text}; keep one")
    return options


def parse_mount_options(options: Iterable[str], *, field: str) -> tuple[tuple[str, ...], dict[str, str]]:
    """The options of a mount, those of the bind mounts in pods and those of the gluster client, as `parse_options` has
    them: one list in users' files, two places where they take effect.

    Raises: InvalidInputError naming `field` and the option, what is allowed, and an example.
    """
    bind: dict[str, None] = {}  # a set that keeps its order
    client = []
    for option in options:
        word = option.lower()
        if word.partition("=")[0].replace("_", "-") in ALLOWED:
            client.append(option)
        elif word in MOUNT_OPTIONS:
            bind[word] = None
        elif word not in ("rw", "defaults"):
            near = difflib.get_close_matches(word.partition("=")[0], (*MOUNT_OPTIONS, *ALLOWED), n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}?" if near else "for example: mountOptions: [noatime]"
            raise InvalidInputError(
                f"{field}: {option[:64]!r} is not an option that may be set; allowed are {', '.join(MOUNT_OPTIONS)}, "
                f"and of the gluster client {', '.join(ALLOWED)}; {hint}"
            )
    for one, other in (("ro", "rw"), ("noatime", "relatime")):
        if {one, other} <= {option.lower() for option in options}:
            raise InvalidInputError(f"{field}: {one} and {other} contradict each other; keep one")
    return tuple(bind), parse_options(",".join(client), field=field)


def _pairs(value: object, field: str) -> list[tuple[str, str]]:
    if isinstance(value, str):
        pairs = []
        for entry in filter(None, (part.strip() for part in value.split(","))):
            key, equals, text = entry.partition("=")
            if not equals:
                raise InvalidInputError(f"{field}: {entry[:64]!r} is not key=value; for example: log-level=DEBUG")
            pairs.append((key, text))
        return pairs
    if isinstance(value, Mapping):
        # YAML reads on, off, yes and no as booleans, 1 as a number
        return [
            (str(key), ("on" if text else "off") if isinstance(text, bool) else str(text))
            for key, text in value.items()
        ]
    raise InvalidInputError(
        f"{field}: {type(value).__name__} is neither a text nor a map; for example: log-level=DEBUG,entry-timeout=5"
    )
