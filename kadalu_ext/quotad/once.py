"""One whole crawl in the foreground: what the daemon does when it starts, and then an end."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, dataclass

from kadalu_ext.quotad import scan, show, status
from kadalu_ext.quotad.bricks import read_inventory
from kadalu_ext.quotad.config import Config
from kadalu_ext.quotad.daemon import Daemon
from kadalu_ext.quotad.plan import NO_LIMITS, Limits, Owner, State
from kadalu_ext.quotad.status import Progress
from kadalu_ext.quotad.systemd import Notifier
from kadalu_ext.quotad.tally import Tally
from kadalu_ext.quotad.xfs import FileSystems
from kadalu_ext.units import format_bytes

PATIENCE_S = 0.05
"""How long a cycle waits for an event; there is work in nearly all of them."""


@dataclass(frozen=True, kw_only=True)
class Changed:
    """What was done (in a dry run: would be) about one project. `pv` '': no record has it, and its limit was lifted.

    limits: None if they stood.
    """

    pv: str
    brick: str
    project_id: int
    inodes_tagged: int
    limits: Limits | None


@dataclass(frozen=True, kw_only=True)
class Left:
    """A record that is not enforced all the same, and why."""

    pv: str
    brick: str
    state: State
    reason: str


@dataclass(frozen=True, kw_only=True)
class Done:
    """A whole crawl. `refused`: bricks by path, with the reason."""

    dry_run: bool
    enforced: int
    changed: tuple[Changed, ...]
    left: tuple[Left, ...]
    refused: dict[str, str]
    problems: tuple[str, ...]

    @property
    def all_enforced(self) -> bool:
        """Whether there is nothing that somebody should look at."""
        return not (self.left or self.refused or self.problems)


def once(config: Config, systems: FileSystems, *, dry_run: bool, progress: Progress = lambda *_: None) -> Done:
    """Looks through everything once and makes it true; the caller keeps others away from it. dry_run: changes nothing.

    May be killed at any moment, as the daemon may.
    """
    inventory = read_inventory(config.glusterd_dir)
    total = sum(_count_records(brick.path) for brick in inventory.bricks if status.is_served(brick))
    tally = Tally(systems, dry_run=dry_run)
    with closing(Daemon(config, systems=tally, notifier=Notifier({}))) as daemon:
        while not daemon.ready or daemon.busy:
            daemon.run_cycle(patience_s=PATIENCE_S)
            progress(daemon.settled, total)
        outcomes, refused = daemon.outcomes, daemon.refused
    devices = {brick.path: _device(brick.path) for brick in inventory.bricks}
    owners = {
        (devices.get(owner.brick), outcome.project_id): owner
        for owner, outcome in outcomes.items()
        if outcome.project_id is not None
    }
    paths = {device: path for path, device in reversed(devices.items())}
    changed = []
    for (device, project_id), change in tally.changes.items():
        owner = owners.get((device, project_id), Owner(paths.get(device, ""), ""))
        changed.append(
            Changed(
                pv=owner.pv, brick=owner.brick, project_id=project_id,
                inodes_tagged=change.inodes_tagged, limits=change.limits,
            )
        )  # fmt: skip
    left = tuple(
        Left(pv=owner.pv, brick=owner.brick, state=outcome.state, reason=outcome.reason)
        for owner, outcome in sorted(outcomes.items())
        if outcome.state is not State.ENFORCED
    )
    enforced = len(outcomes) - len(left)
    return Done(
        dry_run=dry_run, enforced=enforced, changed=tuple(changed), left=left, refused=refused,
        problems=inventory.problems,
    )  # fmt: skip


def _count_records(path: str) -> int:
    try:
        root = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return 0
    try:
        return len(scan.record_names(root))
    except OSError:
        return 0
    finally:
        os.close(root)


def _device(path: str) -> int | None:
    try:
        return os.stat(path).st_dev
    except OSError:
        return None


def to_json(done: Done) -> str:
    """What was done as one JSON object."""
    return json.dumps({**asdict(done), "all_enforced": done.all_enforced}, indent=2)


def render(done: Done) -> str:
    """What was done, for people."""
    return "\n".join(show.printable(line) for line in _render(done)) + "\n"


def _render(done: Done) -> Iterator[str]:
    would = "would be " if done.dry_run else ""
    yield from (f"PROBLEM: {problem}" for problem in done.problems)
    yield from (f"REFUSED: {reason}" for reason in done.refused.values())
    for change in done.changed:
        what = f"{change.pv} on {change.brick}" if change.pv else f"no record has it, on {change.brick}"
        did = [f"{show.count(change.inodes_tagged, 'inode')} {would}tagged"] if change.inodes_tagged else []
        if change.limits is not None:
            did.append(f"limit {would}lifted" if change.limits == NO_LIMITS else f"{_limit(change.limits)} {would}set")
        yield f"project {change.project_id} ({what}): {', '.join(did)}"
    yield from (f"{left.state.value}: {left.pv} on {left.brick}: {left.reason}" for left in done.left)
    changes = "nothing to change" if not done.changed else show.count(len(done.changed), "project")
    verb = "" if not done.changed else " would change" if done.dry_run else " changed"
    yield f"{show.count(done.enforced, 'PV')} {would}enforced, {len(done.left)} not; {changes}{verb}"


def _limit(limits: Limits) -> str:
    blocks = [format_bytes(limits.bhard_bytes)] if limits.bhard_bytes else []
    inodes = [show.count(limits.ihard, "inode")] if limits.ihard else []
    return "limit of " + " and ".join([*blocks, *inodes])
