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
from collections.abc import Callable, Sequence
from typing import Final

from kadalu_ext import __version__, log
from kadalu_ext.errors import RecordError
from kadalu_ext.quotad import explain, show, status
from kadalu_ext.quotad.bricks import GLUSTERD_DIR
from kadalu_ext.quotad.daemon import Config, Daemon
from kadalu_ext.quotad.progress import Bar
from kadalu_ext.quotad.systemd import Notifier
from kadalu_ext.quotad.xfs import Xfs

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
    return _COMMANDS[options.command](options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="kadalu-quotad",
        description="Makes the kernel of a brick host enforce the sizes of Kadalu's PersistentVolumes.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    common, looking = argparse.ArgumentParser(add_help=False), argparse.ArgumentParser(add_help=False)
    looking.add_argument("--json", action="store_true", help="one JSON object, sizes in bytes")
    common.add_argument(
        "--glusterd-dir",
        default=GLUSTERD_DIR,
        metavar="DIR",
        help="glusterd's working directory (default: %(default)s)",
    )
    run = commands.add_parser("run", parents=[common], help="the daemon; systemd starts it")
    run.add_argument(
        "--crawl-interval",
        type=_interval,
        default=Config.crawl_interval_s,
        metavar="SECONDS",
        help="look through everything again after this long, whatever inotify said (default: %(default)g)",
    )
    run.add_argument("--log-level", choices=["DEBUG", "INFO", "WARNING", "ERROR"], default="INFO")
    commands.add_parser(
        "status",
        parents=[common, looking],
        help="what is enforced on this host, and what is not and why",
        description="Asks the kernel about every record, whether the daemon runs or not. Exit status: 0 if all are "
        "enforced and the daemon runs, 1 if not, 2 if it could not look.",
    )
    commands.add_parser(
        "report",
        parents=[common, looking],
        help="the same in a row a volume",
        description="SIZES is what the records of the volume's PVs ask for, USED what they hold on the brick of this "
        "host that holds most. Exit status: as of status.",
    )
    commands.add_parser(
        "check",
        parents=[common, looking],
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
    explained.add_argument("pv", metavar="PV", help="its name, as kubectl get pv shows it")
    return parser


def _interval(text: str) -> float:
    seconds = float(text)
    if not 1 <= seconds <= 86400:
        raise argparse.ArgumentTypeError(f"{text} is not from 1 to 86400 seconds")
    return seconds


def _run(options: argparse.Namespace) -> int:
    os.makedirs(RUN_DIR, mode=0o755, exist_ok=True)
    lock = os.open(f"{RUN_DIR}/lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    if not _try_lock(lock):
        # two would take the same free project ids
        print("kadalu-quotad: another one is running on this host", file=sys.stderr)
        return CANNOT
    # tagging a tree holds a descriptor or two for each level of it
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    log.configure(options.log_level)
    config = Config(glusterd_dir=options.glusterd_dir, crawl_interval_s=options.crawl_interval)
    daemon = Daemon(config, systems=Xfs(), notifier=Notifier(os.environ))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: daemon.stop())
    daemon.run()
    return OK


def _look(options: argparse.Namespace) -> status.Report:
    with Bar(sys.stderr) as bar:
        return status.look(options.glusterd_dir, Xfs(), daemon_running=_is_running(), progress=bar)


def _status(options: argparse.Namespace) -> int:
    report = _look(options)
    sys.stdout.write(show.to_json(report) + "\n" if options.json else show.render(report))
    return OK if report.all_enforced and report.daemon_running else LOOK


def _report(options: argparse.Namespace) -> int:
    report = _look(options)
    sys.stdout.write(show.volumes_to_json(report) + "\n" if options.json else show.render_volumes(report))
    return OK if report.all_enforced and report.daemon_running else LOOK


def _check(options: argparse.Namespace) -> int:
    check = show.check(_look(options))
    print(check.to_json() if options.json else check.line())
    return check.level


def _explain(options: argparse.Namespace) -> int:
    try:
        with Bar(sys.stderr) as bar:
            answer = explain.explain(
                options.pv, options.glusterd_dir, Xfs(), daemon_running=_is_running(), progress=bar
            )
    except RecordError as error:
        print(f"kadalu-quotad: {error}", file=sys.stderr)
        return CANNOT
    sys.stdout.write(explain.to_json(answer) + "\n" if options.json else explain.render(answer))
    return OK if answer.enforced else LOOK


def _is_running() -> bool:
    try:
        lock = os.open(f"{RUN_DIR}/lock", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        return not _try_lock(lock)
    finally:
        os.close(lock)


def _try_lock(lock: int) -> bool:
    """flock(2): it goes with the process, however that ends."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


_COMMANDS: Final[dict[str, Callable[[argparse.Namespace], int]]] = {
    "run": _run, "status": _status, "report": _report, "check": _check, "explain": _explain,
}  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
