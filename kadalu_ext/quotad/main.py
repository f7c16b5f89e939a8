"""`kadalu-quotad run` is the daemon; the other commands show what the kernel enforces on this host, with or without
it."""

from __future__ import annotations

import argparse
import fcntl
import io
import os
import resource
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Final, TypeVar

from kadalu_ext import __version__, log
from kadalu_ext.errors import DeadlineError, InvalidInputError
from kadalu_ext.quotad import aside, config, explain, once, show, status, told
from kadalu_ext.quotad.bricks import read_inventory
from kadalu_ext.quotad.config import Config
from kadalu_ext.quotad.daemon import Daemon
from kadalu_ext.quotad.metrics import Exporter
from kadalu_ext.quotad.progress import Bar
from kadalu_ext.quotad.told import TellingNotifier
from kadalu_ext.quotad.xfs import Xfs

T = TypeVar("T")

RUN_DIR: Final = "/run/kadalu-quotad"
OK: Final = 0
LOOK: Final = 1
"""Something is not enforced, or nobody is there to enforce what comes."""
CANNOT: Final = 2
"""Wrong arguments, not root, or another one is running."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The program; returns its exit status."""
    options = _parser().parse_args(arguments)
    if os.geteuid() != 0:
        print("kadalu-quotad: only root may look at and set the quotas of others: run it with sudo", file=sys.stderr)
        return show.Level.UNKNOWN if options.command == "check" else CANNOT
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names may be in any language, the locale need not be
    try:
        return _COMMANDS[options.command](options, _configuration(options))
    except (DeadlineError, InvalidInputError) as error:
        print(f"kadalu-quotad: {error}", file=sys.stderr)
        return show.Level.UNKNOWN if options.command == "check" else CANNOT
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="kadalu-quotad",
        description="Makes the kernel of a brick host enforce the sizes of Kadalu's PersistentVolumes.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    common, looking, some = (argparse.ArgumentParser(add_help=False) for _ in range(3))
    looking.add_argument("--json", action="store_true", help="one JSON object, sizes in bytes")
    some.add_argument("--volume", action="append", metavar="NAME", help="only this volume's bricks; may be repeated")
    some.add_argument("--brick", action="append", metavar="PATH", help="only this brick; may be repeated")
    common.add_argument("--config", metavar="FILE", help=f"the configuration (default: {config.CONFIG_FILE})")
    common.add_argument("--glusterd-dir", metavar="DIR", help="whatever the configuration says")
    run = commands.add_parser("run", parents=[common], help="the daemon; systemd starts it")
    run.add_argument(
        "--crawl-interval",
        type=float,
        metavar="SECONDS",
        help="look through everything again after this long, whatever the configuration says",
    )
    run.add_argument("--log-level", choices=config.LOG_LEVELS, help="whatever the configuration says")
    table = commands.add_parser(
        "status",
        parents=[common, looking, some],
        help="what is enforced on this host, and what is not and why",
        description="Asks the kernel about every record, whether the daemon runs or not. Exit status: 0 if all are "
        "enforced and the daemon runs, 1 if not, 2 if it could not look.",
    )
    table.add_argument("--troubled", action="store_true", help="only PVs that are not enforced, or full")
    commands.add_parser(
        "report",
        parents=[common, looking, some],
        help="the same in a row a volume",
        description="PROMISED is what the records of the volume's PVs ask for, USED what they hold on the brick of "
        "this host that holds most. Exit status: as of status.",
    )
    commands.add_parser(
        "check",
        parents=[common, looking, some],
        help="one line for monitoring",
        description="Exit status, as Nagios and Icinga take it: 0 OK; 1 WARNING: a PV is full, or its directory is not "
        "there yet; 2 CRITICAL: a size is not enforced, or the daemon does not run; 3 UNKNOWN: it could not look.",
    )
    explained = commands.add_parser(
        "explain",
        parents=[common, looking],
        help="why a PV is or is not enforced",
        description="What must be true for the PV to be enforced, brick by brick, and what to do about the first thing "
        "that is not. Exit status: 0 if it is enforced on every brick of this host that has it, 1 if not, 2 if it "
        "could not look.",
    )
    whole = commands.add_parser(
        "once",
        parents=[common, looking],
        help="look through everything once, and make it true",
        description="What the daemon does when it starts, in the foreground; not while the daemon runs. Exit status: 0 "
        "if all is enforced then, 1 if not, 2 if it could not begin.",
    )
    whole.add_argument("--dry-run", action="store_true", help="change nothing, say what would be changed")
    commands.add_parser(
        "config",
        parents=[common],
        help="the configuration in force, every key explained",
        description="Writes the configuration as a file with every key, what it means, its unit and its default. Exit "
        "status: 0, or 2 if it cannot be used, with the reason; `systemctl reload kadalu-quotad` asks this first.",
    )
    explained.add_argument("pv", metavar="PV", help="its name, as kubectl get pv shows it")
    return parser


def _configuration(options: argparse.Namespace) -> Config:
    return config.load(
        options.config,
        glusterd_dir=options.glusterd_dir,
        crawl_interval_s=getattr(options, "crawl_interval", None),
        log_level=getattr(options, "log_level", None),
    )


def _run(options: argparse.Namespace, chosen: Config) -> int:
    lock = _lock()
    if lock is None:
        # two would take the same free project ids
        print("kadalu-quotad: another one is running on this host", file=sys.stderr)
        return CANNOT
    _allow_descriptors()
    log.configure(chosen.log_level)

    def reread() -> Config:
        fresh = _configuration(options)
        log.configure(fresh.log_level)
        exporter.take(fresh)
        notifier.interval_s = fresh.crawl_interval_s
        return fresh

    notifier = TellingNotifier(os.environ, RUN_DIR, chosen.crawl_interval_s)
    daemon = Daemon(chosen, systems=Xfs(), notifier=notifier, reread=reread)
    notifier.source = daemon
    exporter = Exporter(daemon, Xfs())
    exporter.take(chosen)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: daemon.stop())
    signal.signal(signal.SIGHUP, lambda *_: daemon.reload())
    with closing(exporter):
        daemon.run()
    return OK


def _allow_descriptors() -> None:
    """Tagging a tree holds a descriptor or two for each level of it."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _once(options: argparse.Namespace, chosen: Config) -> int:
    if not options.dry_run and _lock() is None:
        print(
            "kadalu-quotad: the daemon is running on this host and does this by itself; --dry-run says what is left",
            file=sys.stderr,
        )
        return CANNOT
    _allow_descriptors()
    log.configure("CRITICAL")  # what there is to say is said at the end
    with Bar(sys.stderr) as bar:
        done = once.once(chosen, Xfs(), dry_run=options.dry_run, progress=bar)
    sys.stdout.write(once.to_json(done) + "\n" if options.json else once.render(done))
    return OK if done.all_enforced and not (done.dry_run and done.changed) else LOOK


def _config(_: argparse.Namespace, chosen: Config) -> int:
    sys.stdout.write(config.render(chosen))
    return OK


def _look(chosen: Config, options: argparse.Namespace) -> status.Report:
    running, known = _daemon()
    report = _aside(
        chosen,
        known,
        lambda hung, at, tell: status.look(
            chosen.glusterd_dir,
            Xfs(),
            daemon_running=running,
            hung=hung,
            volumes=options.volume or (),
            paths=options.brick or (),
            at=at,
            progress=tell,
        ),
    )
    chosen_some = [*(options.volume or ()), *(options.brick or ())]
    if chosen_some and not report.bricks:
        raise InvalidInputError(
            f"no brick of kadalu-quotad's on this host is of {' or '.join(chosen_some)}: kadalu-quotad status has them"
        )
    doubts = told.doubts(RUN_DIR, report) if report.daemon_running else ()
    return replace(report, problems=report.problems + doubts)


def _status(options: argparse.Namespace, chosen: Config) -> int:
    report = _look(chosen, options)
    if options.json:
        print(show.to_json(show.only_troubled(report) if options.troubled else report))
    else:
        sys.stdout.write(show.render(report, troubled=options.troubled))
    return OK if report.all_enforced and report.daemon_running else LOOK


def _report(options: argparse.Namespace, chosen: Config) -> int:
    report = _look(chosen, options)
    sys.stdout.write(show.volumes_to_json(report) + "\n" if options.json else show.render_volumes(report))
    return OK if report.all_enforced and report.daemon_running else LOOK


def _check(options: argparse.Namespace, chosen: Config) -> int:
    check = show.check(_look(chosen, options))
    print(check.to_json() if options.json else check.line())
    return check.level


def _explain(options: argparse.Namespace, chosen: Config) -> int:
    running, known = _daemon()
    answer = _aside(
        chosen,
        known,
        lambda hung, at, tell: explain.explain(
            options.pv, chosen.glusterd_dir, Xfs(), daemon_running=running, hung=hung, at=at, progress=tell
        ),
    )
    sys.stdout.write(explain.to_json(answer) + "\n" if options.json else explain.render(answer))
    return OK if answer.enforced else LOOK


def _aside(chosen: Config, hung: Mapping[str, str], work: aside.Work[T]) -> T:
    """What `work` sees of the bricks, without those on which it would hang."""

    def beside(path: str) -> list[str]:
        places = Xfs().places({brick.path for brick in read_inventory(chosen.glusterd_dir).bricks})
        return [other for other, place in places.items() if place and place == places.get(path)]

    with Bar(sys.stderr) as bar:
        return aside.look(work, beside=beside, hung=hung, progress=bar)


def _daemon() -> tuple[bool, dict[str, str]]:
    """Whether it runs, and the bricks that it found to hang."""
    return (True, told.hung(RUN_DIR)) if _is_running() else (False, {})


def _is_running() -> bool:
    try:
        lock = os.open(f"{RUN_DIR}/lock", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        return not _try_lock(lock, fcntl.LOCK_SH)  # shared: who looks at the same time is no daemon
    finally:
        os.close(lock)


def _lock() -> int | None:
    """The lock that says who sets limits on this host; None if another has it. It is held until this process ends."""
    os.makedirs(RUN_DIR, mode=0o755, exist_ok=True)
    lock = os.open(f"{RUN_DIR}/lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    if _try_lock(lock, fcntl.LOCK_EX):
        return lock
    os.close(lock)
    return None


def _try_lock(lock: int, kind: int) -> bool:
    """flock(2): it goes with the process, however that ends."""
    try:
        fcntl.flock(lock, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


_COMMANDS: Final[dict[str, Callable[[argparse.Namespace, Config], int]]] = {
    "run": _run, "status": _status, "report": _report, "check": _check, "explain": _explain,
    "once": _once, "config": _config,
}  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
