"""What a person reads when the Python environment cannot be made."""

from __future__ import annotations

from pathlib import Path

from tests.testbed import venv
from tests.testbed.errors import CommandFailed

PIP = """WARNING: Retrying (Retry(total=0)) after connection broken by 'NewConnectionError'
ERROR: Could not find a version that satisfies the requirement kopf==1.40 (from versions: none)
ERROR: No matching distribution found for kopf==1.40"""


def test_why_there_is_no_environment_is_one_line() -> None:
    reason = venv.pip_reason(CommandFailed(["pip"], 1, PIP), Path("venv.log"))
    assert reason.startswith("No matching distribution found for kopf==1.40 (a network with PyPI")
    assert "\n" not in reason


def test_a_pip_that_says_nothing_is_no_mystery_either() -> None:
    assert "see venv.log" in venv.pip_reason(CommandFailed(["pip"], 1, ""), Path("venv.log"))
