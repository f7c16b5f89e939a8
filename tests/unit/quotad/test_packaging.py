"""The manual page, the completion and the packages' description know every command and option."""

from __future__ import annotations

import argparse
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from kadalu_ext.quotad import main
from tests.testbed import deb

PACKAGING = Path(__file__).parents[3] / "packaging"


def commands() -> dict[str, set[str]]:
    """Every command with its options."""
    parser = main._parser()
    choices = next(action for action in parser._actions if isinstance(action, argparse._SubParsersAction)).choices
    return {name: {o for action in sub._actions for o in action.option_strings} for name, sub in choices.items()}


def complete(*words: str) -> set[str]:
    """What bash offers behind these words."""
    script = f'source "{PACKAGING / "completion.bash"}"; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _kadalu_quotad; '
    shown = subprocess.run(
        ["bash", "-c", script + 'printf "%s\\n" "${COMPREPLY[@]}"', "bash", "kadalu-quotad", *words],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return set(shown.stdout.split())


def test_the_manual_has_every_command_and_option() -> None:
    page = deb.builder().manual_page().replace("\\-", "-")
    for name, options in commands().items():
        assert re.search(rf"^\.BI? {name}\b", page, re.MULTILINE), name
        assert [option for option in options if option.startswith("--") and option not in page] == []


def test_the_completion_has_every_command_and_its_options() -> None:
    assert commands().keys() <= complete("")
    for name, options in commands().items():
        assert complete(name, "--") == options - {"-h"}, name
    assert complete("run", "--log-level", "W") == {"WARNING"}
    assert complete("exp") == {"explain"}


def test_everything_that_the_description_names_is_laid_out(tmp_path: Path) -> None:
    deb.builder().lay_out(tmp_path)
    described = yaml.safe_load((PACKAGING / "nfpm.yaml").read_text())
    sources = [content["src"] for content in described["contents"]]
    sources += [path for kind in described["overrides"].values() for path in kind["scripts"].values()]
    assert [source for source in sources if not (tmp_path / source).exists()] == []


@pytest.mark.parametrize("script", sorted(path for path in (PACKAGING / "scripts").rglob("*") if path.is_file()))
def test_the_packages_scripts_are_good_sh(script: Path) -> None:
    subprocess.run(["sh", "-n", script], check=True)
