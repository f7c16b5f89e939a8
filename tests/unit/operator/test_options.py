"""Client options: an allow-list with types, and gluster's own spelling."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kadalu_ext.errors import InvalidInputError
from kadalu_ext.operator.options import ALLOWED, parse_options


@pytest.mark.parametrize(
    ("value", "options"),
    [
        ("log_level=DEBUG", {"log-level": "DEBUG"}),
        (" LOG-LEVEL = debug , entry_timeout=0.5,", {"log-level": "DEBUG", "entry-timeout": "0.5"}),
        ({"direct-io-mode": False, "lru_limit": 10}, {"direct-io-mode": "off", "lru-limit": "10"}),
        ({"direct-io-mode": "auto", "use-readdirp": "Yes"}, {"direct-io-mode": "auto", "use-readdirp": "on"}),
        ("entry-timeout=1,entry_timeout=1", {"entry-timeout": "1"}),
        ("", {}),
    ],
)
def test_options_get_glusters_spelling(value: object, options: dict[str, str]) -> None:
    assert parse_options(value, field="o") == options


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("log-levl=DEBUG", ["'log-levl'", "did you mean log-level=DEBUG?"]),
        ("xlator-option=*.x=y", ["'xlator-option'", "allowed are"]),
        ("log-level=LOUD", ["log-level", "'LOUD'", "TRACE"]),
        ("lru-limit=-1", ["lru-limit", "a whole number"]),
        ("log-level", ["'log-level'", "key=value"]),
        ("log-level=INFO,log_level=DEBUG", ["log-level", "INFO and as DEBUG"]),
        (["log-level=INFO"], ["list", "neither a text nor a map"]),
    ],
)
def test_a_wrong_option_is_refused_with_the_nearest_right_one(value: object, words: list[str]) -> None:
    with pytest.raises(InvalidInputError, match=r"^spec\.o: ") as caught:
        parse_options(value, field="spec.o")
    for word in words:
        assert word in str(caught.value)


@given(st.dictionaries(st.sampled_from(sorted(ALLOWED)), st.text(max_size=20) | st.integers() | st.booleans()))
def test_no_value_can_end_one_option_and_begin_another(given: dict[str, object]) -> None:
    try:
        options = parse_options(given, field="o")
    except InvalidInputError:
        return
    for value in options.values():
        assert value.isascii()
        assert value.replace(".", "").isalnum()
