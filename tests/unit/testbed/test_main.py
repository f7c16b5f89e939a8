"""The testbed's command line."""

from __future__ import annotations

import pytest

from tests.testbed.__main__ import _parser, guarded


@pytest.mark.parametrize(
    ("words", "passed_on"),
    [
        ("kubectl -n kadalu-ext get pods", "-n kadalu-ext get pods"),
        ("--name r kubectl exec app -- df -h /data", "exec app -- df -h /data"),
        ("--name=r kubectl -- get pods", "get pods"),
        ("test -x tests/unit", "-x tests/unit"),
        ("test", ""),
    ],
)
def test_what_is_for_another_program_reaches_it_as_it_is(words: str, passed_on: str) -> None:
    assert _parser().parse_args(guarded(words.split())).argv[1:] == passed_on.split()


def test_an_instance_may_be_called_as_a_command_is() -> None:
    assert guarded(["--name", "kubectl", "status"]) == ["--name", "kubectl", "status"]
    assert _parser().parse_args(guarded(["exec", "brick1", "--", "ls", "-l"])).argv == ["ls", "-l"]
