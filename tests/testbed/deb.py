"""kadalu-quotad's packages, built as a release would be."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from . import gobuild, paths, suite
from .brickhosts import BrickHost, BrickHosts
from .sandbox import INSIDE

CONFIG = "/etc/kadalu-quotad.toml"
LIST = "/var/lib/glusterd/kadalustorage.info"

_BUILDER = paths.REPOSITORY / "packaging" / "build_packages.py"


def build(packager: str = "deb", version: str = "") -> Path:
    """The package of this work tree, made anew: that takes less time than to tell whether it must be. version: another
    than the project's, of the same content.

    What makes it, nfpm, comes from the network: inside the sandbox, which has none, this waits for the build outside.
    """
    if inside := os.environ.get(INSIDE):
        suite.wait_built(inside, "project")
    return builder().build(paths.REPOSITORY / "build", gobuild.binary("nfpm"), packager, version)  # type: ignore[no-any-return]


def install(hosts: BrickHosts, volumes: Sequence[str], *, anew: bool = False) -> str:
    """Installs the package on every brick host, exports `volumes`, starts the daemon, as an administrator would.

    A host that has this very package keeps it, for to install one takes these hosts long; anew: it does not.

    Returns the package's file name, once systemd says that every daemon is ready.
    """
    package = build()

    def on(host: BrickHost) -> None:
        if anew or not _has(host, package):
            host.put(package, f"/tmp/{package.name}")
            host.run(["dpkg", "--purge", "kadalu-quotad"])
            host.run(["dpkg", "--install", f"/tmp/{package.name}"])
        host.run(["tee", LIST], input="".join(f"{name}\n" for name in volumes))
        host.run(["systemctl", "start", "kadalu-quotad"])

    hosts.together(on)
    return package.name


def put_away(hosts: BrickHosts) -> None:
    """Stops the daemon on every brick host and removes its configuration. The package stays, for the next `install`."""

    def on(host: BrickHost) -> None:
        host.run(["systemctl", "stop", "kadalu-quotad"], check=False)  # a test may have failed where there is none
        host.run(["rm", "-f", LIST, CONFIG])

    hosts.together(on)


def _has(host: BrickHost, package: Path) -> bool:
    shown = ["dpkg-query", "--show", "--showformat", "${db:Status-Status} ${Version}", "kadalu-quotad"]
    if host.run(shown, check=False).stdout != f"installed {package.name.split('_')[1]}":
        return False
    digest = host.run(["sha256sum", f"/tmp/{package.name}"], check=False).stdout.partition(" ")[0]
    return digest == hashlib.sha256(package.read_bytes()).hexdigest()


def builder() -> ModuleType:
    """The module packaging/build_packages.py, which is a program beside the project and in no package of it."""
    spec = importlib.util.spec_from_file_location("build_packages", _BUILDER)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
