"""`python -m tests.fuzz [COUNT [SEED]]`: COUNT inputs for each parser, a million if not said."""

from __future__ import annotations

import secrets
import sys
import time

from tests.fuzz.targets import TARGETS, run


def main() -> None:
    """Ends with status 1 and the input at the first that breaks a parser."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else secrets.randbelow(1 << 32)
    for target in TARGETS:
        began = time.monotonic()
        run(target, count=count, seed=seed)
        print(f"{target.name}: {count:,} inputs, seed {seed}, {time.monotonic() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()
