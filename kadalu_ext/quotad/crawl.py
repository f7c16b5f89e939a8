"""A crawl: all records of a worker's bricks, looked at; for truth, where events are for speed. In steps.

And what only a crawl that has seen everything may do: lift limits that no record accounts for.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Final

from kadalu_ext.errors import QuotaError
from kadalu_ext.log import Logger
from kadalu_ext.quotad import heal, scan
from kadalu_ext.quotad.bricks import Brick, Choice
from kadalu_ext.quotad.enforce import Enforcer
from kadalu_ext.quotad.plan import Owner, State
from kadalu_ext.quotad.records import Records
from kadalu_ext.quotad.share import Share
from kadalu_ext.quotad.watch import Watcher
from kadalu_ext.quotad.xfs import FileSystems

BATCH: Final = 64
"""How many enforced PVs are looked at in one step: a few milliseconds."""

_log: Final = Logger(__name__)


class Crawler:
    """Not for threads; one crawl at a time."""

    def __init__(
        self, share: Share, records: Records, *, systems: FileSystems, enforcer: Enforcer, watcher: Watcher
    ) -> None:
        self.unknown = False
        """Whether the last crawl could not tell on which file system a brick is."""
        self._share = share
        self._records = records
        self._systems = systems
        self._enforcer = enforcer
        self._watcher = watcher
        self._clearable: tuple[Brick, ...] = ()

    def steps(self) -> Iterator[None]:
        """Looks at every record, and begins what is to be done about it."""
        # by device: a brick on it, or None if something on it could not be learnt; device None: not known which one
        devices: dict[int | None, Brick | None] = {}
        self._clearable = ()
        self._enforcer.end_sweep()
        self._enforcer.forget_bricks_but({brick.path for brick in self._share.all})
        for brick in self._share.all:
            yield from self._brick(brick, devices)
        self.unknown = None in devices
        self._clearable = tuple(filter(None, devices.values()))

    def clear_steps(self) -> Iterator[None]:
        """Lifts limits without a record on the file systems of which the last crawl has seen everything."""
        for brick in self._clearable:
            gone = 0
            try:
                with scan.open_brick(brick, self._systems, check=True) as opened:
                    for project_id in self._enforcer.clear_orphans(opened):
                        gone += 1
                        _log.debug("limit without a record lifted", brick=brick.path, project_id=project_id)
                        yield
            except (QuotaError, OSError) as error:
                _log.error("cannot look for limits without a record", brick=brick.path, reason=str(error))
            if gone:
                _log.info("limits without a record lifted", brick=brick.path, count=gone)
        self._enforcer.end_sweep()

    def _brick(self, brick: Brick, devices: dict[int | None, Brick | None]) -> Iterator[None]:
        served = self._share.serves(brick.path) and not brick.unsupported
        device: int | None = None
        used = brick.choice is Choice.NAMED or (brick.choice is Choice.IF_USED and scan.is_used(brick))
        self._share.use(brick, used=used)
        try:
            with scan.open_brick(brick, self._systems, check=False) as opened:
                device = opened.device
                devices.setdefault(device, brick)
                self._systems.check(opened.root, brick.path)
                if served:
                    self._watch(brick, opened.root)
                names = scan.record_names(opened.root)
                lost = not names and scan.has_lost_records(opened.root)
                known = [] if lost else self._enforcer.known(opened)
                if served:
                    self._enforcer.sweep(opened)
                    self._share.heal_pending[brick.path] = heal.count(opened.root)
                else:
                    self._enforcer.keep(opened, names)
        except (QuotaError, OSError) as error:
            devices[device] = None
            self._refuse(brick, str(error) if isinstance(error, QuotaError) else f"{brick.path}: {scan.reason(error)}")
            return
        if lost:
            devices[device] = None
        if not served:
            self._refuse(brick, brick.unsupported)
            return
        self._share.accept(brick)
        left = sorted({*names, *known})
        for start in range(0, len(left), BATCH):
            batch = left[start : start + BATCH]
            found = self._find_enforced(brick, [name for name in batch if names.get(name)])
            for name in batch:
                if name not in found:
                    self._records.begin(Owner(brick.path, name))
                    yield
            yield
        if not self._knows_all(brick, names):
            devices[device] = None

    def _find_enforced(self, brick: Brick, names: Sequence[str]) -> Collection[str]:
        """Those of `names` that need nothing. What is at work or waits its turn is left to that."""
        if self._records.waiting or self._records.at_work:
            names = [name for name in names if not self._records.has(Owner(brick.path, name))]
        try:
            with scan.open_brick(brick, self._systems, check=False) as opened:
                found = self._enforcer.find_enforced(opened, names)
        except (QuotaError, OSError):
            return ()  # settling them tells why
        for name, outcome in found.items():
            self._records.found_enforced(Owner(brick.path, name), outcome)
        return found

    def _knows_all(self, brick: Brick, names: Collection[str]) -> bool:
        """Whether it is known what every record asks for, and certain that PVs whose record cannot be obeyed will keep
        what they have."""
        outcomes, bad = self._records.outcomes, (State.FAILED, State.INVALID)
        if not any(self._records.states[state] for state in bad):
            return True
        states = {name: outcome.state for name in names if (outcome := outcomes.get(Owner(brick.path, name)))}
        if State.FAILED in states.values():
            return False
        invalid = {name for name, state in states.items() if state is State.INVALID}
        if not invalid:
            return True
        try:
            with scan.open_brick(brick, self._systems, check=True) as opened:
                self._enforcer.keep(opened, invalid)
        except (QuotaError, OSError):
            return False
        return True

    def _watch(self, brick: Brick, root: int) -> None:
        try:
            self._watcher.watch_brick(brick.path, root)
        except OSError as error:
            _log.error("cannot watch a brick, crawling at the interval", brick=brick.path, reason=str(error))

    def _refuse(self, brick: Brick, reason: str) -> None:
        if self._share.refuse(brick, reason):
            self._records.forget(lambda owner: owner.brick == brick.path)
