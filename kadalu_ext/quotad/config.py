"""The one configuration file, /etc/kadalu-quotad.toml. Everything in it may be left out, and so may the file.

Each field of Config is a key of the file; what stands in its metadata is what `kadalu-quotad config` and the manual
page say of it.
"""

from __future__ import annotations

import difflib
import os
import textwrap
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from typing import Any, Final

from kadalu_ext.errors import InvalidInputError

CONFIG_FILE: Final = "/etc/kadalu-quotad.toml"
LOG_LEVELS: Final = ("DEBUG", "INFO", "WARNING", "ERROR")
MIN_INTERVAL_S: Final = 1.0
MAX_INTERVAL_S: Final = 86400.0
MAX_FILE_BYTES: Final = 1 << 16


@dataclass(frozen=True, kw_only=True)
class Config:
    """What can be chosen; `load` and `parse` let through only what makes sense."""

    glusterd_dir: str = field(
        default="/var/lib/glusterd",
        metadata={"unit": "absolute path", "help": "glusterd's working directory."},
    )
    crawl_interval_s: float = field(
        default=60.0,
        metadata={
            "unit": "seconds, from 1 to 86400",
            "help": "After this long everything is looked through again, whatever inotify said: what others changed "
            "on a brick is put right within it.",
        },
    )
    log_level: str = field(
        default="INFO",
        metadata={"unit": "DEBUG, INFO, WARNING or ERROR", "help": "The least that goes to the journal."},
    )
    metrics_textfile: str = field(
        default="",
        metadata={
            "unit": "absolute path that ends in .prom, or empty for none",
            "help": "Prometheus metrics are written to this file after every crawl interval, for node_exporter's "
            "textfile collector. Its directory must be there, and root's.",
        },
    )
    metrics_address: str = field(
        default="",
        metadata={
            "unit": "ADDRESS:PORT, or empty for none",
            "help": "Prometheus metrics are served here, at /metrics, over HTTP, to whoever can reach it. The unit "
            "allows no network: /usr/share/kadalu-quotad/metrics-http.conf is the drop-in that does.",
        },
    )


def split_address(text: str) -> tuple[str, int]:
    """`127.0.0.1:9813`, `[::1]:9813` as address and port. Raises: InvalidInputError."""
    host, _, port = text.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not bare or (":" in bare) != (bare != host) or not (port.isascii() and port.isdigit() and len(port) <= 5):
        raise InvalidInputError(f"metrics_address: {text!r} is not ADDRESS:PORT, such as 127.0.0.1:9813 or [::1]:9813")
    if not 1 <= int(port) <= 65535:
        raise InvalidInputError(f"metrics_address: {text!r}: a port is from 1 to 65535")
    return bare, int(port)


def load(path: str | None = None, **given: object) -> Config:
    """The configuration in the file, and over it what was `given` on the command line (None: not given).

    path: None for CONFIG_FILE, which need not be there. Raises: InvalidInputError naming file and key.
    """
    file = path or CONFIG_FILE
    try:
        return parse(_read(file, required=path is not None), given)
    except InvalidInputError as error:
        raise InvalidInputError(f"{file}: {error}") from error


def parse(text: str, given: dict[str, object] | None = None) -> Config:
    """The configuration that `text` is. Raises: InvalidInputError naming the key, for unknown ones with the nearest."""
    try:
        values = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # also a number of more digits than Python reads
        raise InvalidInputError(f"not TOML: {error}") from error
    known = {key.name: key for key in fields(Config)}
    for name, value in values.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
            raise InvalidInputError(f"{name[:80]!r} is not a key: {hint}")
        values[name] = _typed(name, value, known[name].default)
    values.update((name, value) for name, value in (given or {}).items() if value is not None)
    config = Config(**values)
    _check(config)
    return config


def _check(config: Config) -> None:
    for name, path in (("glusterd_dir", config.glusterd_dir), ("metrics_textfile", config.metrics_textfile or "/")):
        if not path.startswith("/") or "\0" in path:
            raise InvalidInputError(f"{name}: {path!r} is not an absolute path")
    if not MIN_INTERVAL_S <= config.crawl_interval_s <= MAX_INTERVAL_S:
        raise InvalidInputError(
            f"crawl_interval_s: {config.crawl_interval_s:g} is not from {MIN_INTERVAL_S:g} to {MAX_INTERVAL_S:g} "
            "seconds"
        )
    if config.log_level not in LOG_LEVELS:
        raise InvalidInputError(f"log_level: {config.log_level!r} is none of {', '.join(LOG_LEVELS)}")
    if config.metrics_textfile and not config.metrics_textfile.endswith(".prom"):
        raise InvalidInputError(
            f"metrics_textfile: {config.metrics_textfile!r} does not end in .prom, so node_exporter would pass it over"
        )
    if config.metrics_address:
        split_address(config.metrics_address)


def _typed(name: str, value: object, default: object) -> Any:
    # a bool is an int to Python
    if isinstance(default, float) and isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError as error:
            raise InvalidInputError(f"{name}: the number is too large") from error
    if isinstance(default, str) and isinstance(value, str):
        return value
    expected = "a number" if isinstance(default, float) else "text in quotes"
    huge = isinstance(value, int) and value.bit_length() > 64  # Python writes no number of more than 4300 digits
    raise InvalidInputError(f"{name}: {'a huge number' if huge else str(value)[:80]!r} is not {expected}")


def _read(path: str, *, required: bool) -> str:
    try:
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            data = file.read(MAX_FILE_BYTES + 1)
        if len(data) > MAX_FILE_BYTES:
            raise InvalidInputError(f"larger than {MAX_FILE_BYTES} bytes")
        return data.decode("utf-8")
    except FileNotFoundError as error:
        if required:
            raise InvalidInputError("there is no such file") from error
        return ""
    except UnicodeDecodeError as error:
        raise InvalidInputError("not UTF-8 text") from error
    except OSError as error:
        raise InvalidInputError(error.strerror or str(error)) from error


def render(config: Config) -> str:
    """The configuration as a file that has it, every key with what it means, its unit and its default."""
    return "\n".join(_render(config))


def _render(config: Config) -> Iterator[str]:
    for key in fields(Config):
        yield from (f"# {line}" for line in textwrap.wrap(key.metadata["help"], 100))
        yield f"# {key.metadata['unit']}; default: {toml(key.default)}"
        value = getattr(config, key.name)
        yield f"{'#' if value == key.default else ''}{key.name} = {toml(value)}"
        yield ""


def toml(value: object) -> str:
    """A value as TOML writes it."""
    if isinstance(value, float):
        return f"{value:g}"
    escaped = str(value).replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(char if char.isprintable() else f"\\U{ord(char):08X}" for char in escaped) + '"'
