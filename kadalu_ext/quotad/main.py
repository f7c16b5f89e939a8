"""`kadalu-quotad run` is the daemon; `kadalu-quotad status` shows what the kernel enforces on this host."""

from __future__ import annotations

import argparse
import fcntl
import io
import os
import resource
import signal
import sys
from collections.abc import Sequence
from typing import Final

from kadalu_ext import __version__, log
from kadalu_ext.quotad import status
from kadalu_ext.quotad.bricks import GLUSTERD_DIR
from kadalu_ext.quotad.daemon import Config, Daemon
from kadalu_ext.quotad.systemd import Notifier
from kadalu_ext.quotad.xfs import Xfs

RUN_DIR: Final = "/run/kadalu-quotad"
OK: Final = 0
LOOK: Final = 1
"""`status`: something is not enforced, or nobody is there to enforce what comes."""
CANNOT: Final = 2
"""Wrong arguments, not root, or another one is running."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The program; returns its exit status."""
    options = _parser().parse_args(arguments)
    if os.geteuid() != 0:
        print("kadalu-quotad: only root may look at and set the quotas of others: run it with sudo", file=sys.stderr)
        return CANNOT
    return _run(options) if options.command == "run" else _status(options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="kadalu-quotad",
        description="Makes the kernel of a brick host enforce the sizes of Kadalu's PersistentVolumes.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    common = argparse.ArgumentParser(add_help=False)
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
    show = commands.add_parser(
        "status",
        parents=[common],
        help="what is enforced on this host, and what is not and why",
        description="Asks the kernel about every record, whether the daemon runs or not. Exit status: 0 if all are "
        "enforced and the daemon runs, 1 if not, 2 if it could not look.",
    )
    show.add_argument("--json", action="store_true", help="one JSON object, sizes in bytes")
    return parser


def _interval(text: str) -> float:
    seconds = float(text)
    if not 1 <= seconds <= 86400:
        raise argparse.ArgumentTypeError(f"{text} is not from 1 to 86400 seconds")
    return seconds


def _run(options: argparse.Namespace) -> int:
    os.makedirs(RUN_DIR, mode=0o755, exist_ok=True)
    lock = os.open(f"{RUN_DIR}/lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    if not _try_lock(lock, fcntl.LOCK_EX):
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


def _status(options: argparse.Namespace) -> int:
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names may be in any language, the locale need not be
    report = status.look(options.glusterd_dir, Xfs(), daemon_running=_is_running())
    sys.stdout.write(status.to_json(report) + "\n" if options.json else status.render(report))
    return OK if report.all_enforced and report.daemon_running else LOOK


def _is_running() -> bool:
    try:
        lock = os.open(f"{RUN_DIR}/lock", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        return not _try_lock(lock, fcntl.LOCK_SH)  # shared: who looks at the same time is no daemon
    finally:
        os.close(lock)


def _try_lock(lock: int, kind: int) -> bool:
    """flock(2): it goes with the process, however that ends."""
    try:
        fcntl.flock(lock, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
