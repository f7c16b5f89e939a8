"""`make demo`: tells the story of tests/e2e/story.py step by step, and ends with a table of what was shown.

Runs inside the sandbox that `suite.run_inside` made.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence

from . import progress, suite
from .brickhosts import BrickHosts
from .errors import BedError
from .kube import Kube
from .sandbox import INSIDE, Sandbox


def main() -> int:
    """The exit status: 0 only if every step was shown."""
    from tests.e2e.story import STEPS, Story

    sandbox = Sandbox.attach(os.environ[INSIDE])
    started = time.monotonic()
    suite.wait_built(sandbox.name, "bricks")
    hosts, kube = BrickHosts(sandbox), Kube(sandbox)
    rows: list[tuple[str, str, str]] = []
    hosts.start()
    suite.wait_built(sandbox.name, "kube")
    kube.start()
    suite.wait_built(sandbox.name, "project")
    rows.append(("", "brick hosts and Kubernetes are up", _seconds(started)))
    story = Story(hosts, kube)
    status = 0
    for number, (title, step) in enumerate(STEPS, 1):
        began = time.monotonic()
        try:
            with progress.step(f"{number}. {title}"):
                evidence = step(story)
        except Exception as error:
            rows.append((f"{number}", f"{title}\nNOT SHOWN: {error}", _seconds(began)))
            status = 1
            break
        rows.append((f"{number}", f"{title}\n{evidence}", _seconds(began)))
    print(table(rows))
    print(f"{'All of it was shown' if status == 0 else 'It stopped there'}, in {_seconds(started)}.")
    return status


def table(rows: Sequence[tuple[str, str, str]]) -> str:
    """Number, text (its first line what was claimed, the others what was seen), and time; one row a step."""
    lines = []
    for number, text, seconds in rows:
        first, *rest = text.splitlines()
        lines.append(f"{number:>3}  {first:<70} {seconds:>9}")
        lines += [f"     {'':2}{line}" for line in rest]
    rule = "-" * 84
    return "\n".join([rule, *lines, rule])


def _seconds(since: float) -> str:
    return f"{time.monotonic() - since:.1f} s"


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BedError as error:
        sys.exit(f"testbed: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
