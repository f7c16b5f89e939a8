"""What an edit changed of a storage, in words. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any


def changes(old_entry: str, new_entry: str) -> str:
    """The fields that differ between two entries of the ConfigMap, as `hosts: a -> a, b; options.log-level: x -> y`.

    Entries hold no secrets. An old one that cannot be read is one that somebody else wrote.
    """
    try:
        old = dict(_fields(json.loads(old_entry)))
    except (ValueError, AttributeError, RecursionError):
        return "the ConfigMap's entry was not the operator's, and is made anew"
    new = dict(_fields(json.loads(new_entry)))
    differ = [key for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)]
    return "; ".join(f"{key}: {old.get(key, 'not set')} -> {new.get(key, 'not set')}" for key in differ)


def _fields(entry: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in entry.items():
        if isinstance(value, Mapping):
            yield from _fields(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", ", ".join(map(str, value)) if isinstance(value, list) else str(value)
