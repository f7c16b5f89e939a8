"""Damaged copies of whole inputs: cheap enough for millions, and alike enough to get past the first check."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

TOKENS = (
    b"", b"\0", b"\n", b"\r", b"\xff", b"\xc3\x28", b"\xed\xa0\x80", b"\xe2\x80\xa8", b"\xef\xbb\xbf",
    "\u0661".encode(), b"=", b"/", b"//", b"..", b"/../", b"[", b"]", b"{", b"}", b'"', b"\\", b"\\u0000", b"\\ud800",
    b"\\040", b" - ", b",", b":", b"#", b"'", b'"""', b"-1", b"0", b"18446744073709551616", b"9223372036854775807",
    b"1e999", b"NaN", b"nan", b"-Infinity", b"null", b"true", b"[" * 2000, b"9" * 5000, b"0x" + b"f" * 5000,
    b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x80\0\0\0", b"\0\0\0\1", b"end-volume\n", b"subvolumes", b"`id`",
    b'{"v":1,', b"size", b"path", b"count",
)  # fmt: skip

Damage = Callable[[random.Random, bytes, Sequence[bytes]], bytes]


def _span(dice: random.Random, data: bytes) -> tuple[int, int]:
    start = dice.randrange(len(data) + 1)
    return start, min(len(data), start + dice.choice((1, 1, 2, 4, 16, 64)))


def _cut(dice: random.Random, data: bytes, _: Sequence[bytes]) -> bytes:
    start, end = _span(dice, data)
    return data[:start] + data[end:]


def _repeat(dice: random.Random, data: bytes, _: Sequence[bytes]) -> bytes:
    start, end = _span(dice, data)
    return data[:end] + data[start:end] * dice.choice((1, 2, 50)) + data[end:]


def _put(dice: random.Random, data: bytes, _: Sequence[bytes]) -> bytes:
    start, end = _span(dice, data)
    return data[:start] + dice.choice(TOKENS) + data[dice.choice((start, end)) :]


def _noise(dice: random.Random, data: bytes, _: Sequence[bytes]) -> bytes:
    start, end = _span(dice, data)
    return data[:start] + dice.randbytes(end - start) + data[end:]


def _truncate(dice: random.Random, data: bytes, _: Sequence[bytes]) -> bytes:
    return data[: dice.randrange(len(data) + 1)]


def _splice(dice: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    other = dice.choice(others)
    return data[: dice.randrange(len(data) + 1)] + other[dice.randrange(len(other) + 1) :]


DAMAGES: tuple[Damage, ...] = (_cut, _repeat, _put, _put, _noise, _truncate, _splice)


def mutate(dice: random.Random, samples: Sequence[bytes]) -> bytes:
    """One of `samples`, damaged one to four times."""
    data = dice.choice(samples)
    for _ in range(dice.randint(1, 4)):
        data = dice.choice(DAMAGES)(dice, data, samples)
    return data
