"""The testbed's commands: ``python3 -m tests.testbed --help``."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import sys
from collections.abc import Callable
from typing import Any

from . import deb, descriptors, gobuild, host, image, kube, paths, progress, rootfs, sandbox, suite, uml
from .brickhosts import BrickHosts
from .errors import BedError, NotRunning
from .kube import Kube
from .sandbox import Sandbox

_HALF = "half"
"""In the state: somebody is starting it or, without the lock held, was killed at it."""


def main() -> int:
    """Run one command; its exit status."""
    options = _parser().parse_args(guarded(sys.argv[1:]))
    options.name = options.name or (options.command if options.command in ("test", "demo", "bench") else "hands")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    command: Callable[[argparse.Namespace], int] = options.call
    try:
        paths.check_name(options.name)
        return command(options)
    except BedError as error:
        print(f"testbed: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def guarded(argv: list[str]) -> list[str]:
    """The arguments with a `--` after `kubectl` or `test`: argparse would take an option right after it for its own."""
    at = 2 if argv[:1] == ["--name"] else 1 if argv and argv[0].startswith("--name=") else 0
    if argv[at : at + 1] not in (["kubectl"], ["test"]) or argv[at + 1 : at + 2] == ["--"]:
        return argv
    return [*argv[: at + 1], "--", *argv[at + 1 :]]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python3 -m tests.testbed", description=__doc__)
    parser.add_argument(
        "--name", help="which instance (default: test, demo or bench for these commands, otherwise hands)"
    )
    commands = parser.add_subparsers(required=True, dest="command", metavar="COMMAND")

    up = commands.add_parser("up", help="start the instance, or what it lacks, and leave it running")
    up.add_argument("--only", choices=["bricks", "kube"], help="only this half")
    up.set_defaults(call=_up)

    install = commands.add_parser("install", help="put the project into it, as a user does, up to a KadaluStorage")
    install.set_defaults(call=_install)

    down = commands.add_parser("down", help="stop the instance and remove all it had; caches stay")
    down.set_defaults(call=_down)

    status = commands.add_parser("status", help="what runs, and how to reach it")
    status.add_argument("--json", action="store_true", help="for programs")
    status.set_defaults(call=_status)

    execute = commands.add_parser("exec", help="run a command on a brick host: exec brick1 -- gluster volume info")
    execute.add_argument("host")
    execute.add_argument("argv", nargs="+", metavar="COMMAND")
    execute.set_defaults(call=_exec)

    kubectl = commands.add_parser("kubectl", help="as administrator, in this directory: kubectl get pods -A")
    kubectl.add_argument("argv", nargs=argparse.REMAINDER, metavar="ARGS")
    kubectl.set_defaults(call=_kubectl)

    run = commands.add_parser("run", help="run a command in the sandbox, in this directory: run -- ip address")
    run.add_argument("argv", nargs="+", metavar="COMMAND")
    run.set_defaults(call=_run)

    build = commands.add_parser("build", help="install and build everything that is cached")
    build.add_argument("--only", choices=suite.PARTS, help="only this part")
    build.set_defaults(call=_build)

    test = commands.add_parser("test", help="pytest, in a sandbox that ends with it: test [ARGUMENTS of pytest]")
    test.add_argument("argv", nargs=argparse.REMAINDER, metavar="ARGS")
    test.set_defaults(call=_test)

    demo = commands.add_parser("demo", help="the whole way once, step by step")
    demo.set_defaults(call=lambda options: _run_module(options.name, "tests.testbed.demo"))

    bench = commands.add_parser("bench", help="a table of ratios: bench [NAME …], see benchmarks/__main__.py")
    bench.add_argument("names", nargs="*", metavar="NAME", help="only these benchmarks")
    bench.set_defaults(call=_bench)
    return parser


def _bench(options: argparse.Namespace) -> int:
    host.install((*host.COMPILER_PACKAGES, *host.GLUSTERD_PACKAGES))
    return _run_module(options.name, "benchmarks", *options.names)


def _run_module(name: str, module: str, *argv: str) -> int:
    return suite.run_inside(name, [sys.executable, "-m", module, *argv])


def _up(options: argparse.Namespace) -> int:
    host.preflight()
    host.install(host.SANDBOX_PACKAGES)
    for part in ("bricks", "kube"):
        if options.only in (None, part):
            _BUILDERS[part]()
    with paths.lock(paths.cache_root() / f".up-{options.name}.lock"):
        bed, ours = _attach_or_start(options.name)
        bed.save_state({_HALF: True})
        try:
            if options.only != "kube" and not BrickHosts(bed).hosts:
                BrickHosts(bed).start()
            if options.only != "bricks" and not Kube(bed).running:
                Kube(bed).start()
        except BaseException:
            if ours:
                with progress.step("It did not come up: taking it down"):
                    bed.stop()
            raise
        bed.save_state({_HALF: False})
    progress.say(f"{options.name} is up: python3 -m tests.testbed --name {options.name} status")
    return 0


def _install(options: argparse.Namespace) -> int:
    from tests.e2e.story import SET_UP, Story

    bed = Sandbox.attach(options.name)
    story = Story(BrickHosts(bed), Kube(bed))
    for step in SET_UP:
        progress.say(story.perform(step))
    return 0


def _attach_or_start(name: str) -> tuple[Sandbox, bool]:
    """The sandbox, and whether this call has started it."""
    try:
        bed = Sandbox.attach(name)
    except NotRunning:
        return Sandbox.start(name, dies_with_parent=False), True
    if not bed.state().get(_HALF):
        return bed, False
    with progress.step(f"{name} never came up whole, its start was killed: taking it down"):
        bed.stop()
    return Sandbox.start(name, dies_with_parent=False), True


def _down(options: argparse.Namespace) -> int:
    # Also when it does not run: a killed one has left its disks.
    sandbox.clear(options.name)
    return 0


def _status(options: argparse.Namespace) -> int:
    try:
        bed = Sandbox.attach(options.name)
    except NotRunning as error:
        if options.json:
            print(json.dumps({"name": options.name, "running": False}))
            return 1
        raise BedError(str(error)) from None
    status = {
        "name": bed.name,
        "running": True,
        "namespace": {"pid": bed.pid, "enter": shlex.join(bed.enter_argv())},
        "run_dir": str(bed.run_dir),
        "log_dir": str(bed.log_dir),
        "kubeconfig": bed.state().get("kubeconfig"),
        **BrickHosts(bed).status(),
    }
    print(json.dumps(status, indent=2) if options.json else _table(status))
    return 0


def _table(status: dict[str, Any]) -> str:
    lines = [f"{'instance':12}{status['name']}", f"{'logs':12}{status['log_dir']}"]
    lines += [f"{'kubeconfig':12}{status['kubeconfig'] or '(no Kubernetes)'}"]
    lines += [f"{'brick host':12}{h['name']}  {h['address']}  {h['state']}" for h in status["brick_hosts"]]
    lines += [f"{'volume':12}{v['name']}  {v['kind']}  {v['status']}" for v in status["volumes"]]
    return "\n".join(lines)


def _exec(options: argparse.Namespace) -> int:
    bed = Sandbox.attach(options.name)
    brick_host = BrickHosts(bed).host(options.host)
    terminal = ["-t"] if sys.stdin.isatty() and sys.stdout.isatty() else []
    return _become([*bed.enter_argv(), *brick_host.ssh_argv(*terminal), shlex.join(options.argv)])


def _kubectl(options: argparse.Namespace) -> int:
    bed = Sandbox.attach(options.name)
    return _become([*bed.enter_argv(cwd=os.getcwd()), *Kube(bed).kubectl_argv(*options.argv[1:])])


def _test(options: argparse.Namespace) -> int:
    return suite.run_inside(options.name, [sys.executable, "-m", "pytest", *options.argv[1:]])


def _run(options: argparse.Namespace) -> int:
    bed = Sandbox.attach(options.name)
    return _become([*bed.enter_argv(cwd=os.getcwd()), *options.argv])


def _become(argv: list[str]) -> int:
    """Be that command from here on: its terminal, its signals and its exit status are the caller's."""
    sys.stdout.flush()
    os.execvp(argv[0], argv)  # noqa: S606


def _build(options: argparse.Namespace) -> int:
    failed = 0
    for part in suite.PARTS if options.only is None else (options.only,):
        try:
            _BUILDERS[part]()
        except BedError as error:
            # A part that fails says so to whoever waits for it, and does not keep the others from being built.
            print(f"testbed: {error}", file=sys.stderr)
            suite.mark_built(options.name, part, str(error))
            failed = 1
        else:
            suite.mark_built(options.name, part)
    return failed


def _build_bricks() -> None:
    host.install(host.BRICK_PACKAGES)
    rootfs.image()
    uml.environment()


def _build_project() -> None:
    image.project()
    deb.build()


_BUILDERS: dict[str, Callable[[], object]] = {
    "descriptors": descriptors.build,
    "bricks": _build_bricks,
    "project": _build_project,
    "sanity": lambda: gobuild.binary("csi-sanity"),
    "kube": kube.build,
}


if __name__ == "__main__":
    sys.exit(main())
