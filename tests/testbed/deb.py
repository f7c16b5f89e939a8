"""kadalu-quotad's packages, built as a release would be."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from . import gobuild, paths, suite
from .brickhosts import BrickHost, BrickHosts
from .sandbox import INSIDE

_BUILDER = paths.REPOSITORY / "packaging" / "build_packages.py"


def build(packager: str = "deb", version: str = "") -> Path:
    """The package of this work tree, made anew: that takes less time than to tell whether it must be. version: another
    than the project's, of the same content.

    What makes it, nfpm, comes from the network: inside the sandbox, which has none, this waits for the build outside.
    """
    if inside := os.environ.get(INSIDE):
        suite.wait_built(inside, "project")
    return builder().build(paths.REPOSITORY / "build", gobuild.binary("nfpm"), packager, version)  # type: ignore[no-any-return]


def install(hosts: BrickHosts, volumes: Sequence[str]) -> str:
    """Installs the package on every brick host, exports `volumes`, starts the daemon, as an administrator would.

    Returns the package's file name, once systemd says that every daemon is ready.
    """
    package = build()
    remote = f"/tmp/{package.name}"

    def on(host: BrickHost) -> None:
        host.put(package, remote)
        host.run(["dpkg", "--install", remote])
        host.run(["tee", "/var/lib/glusterd/kadalustorage.info"], input="".join(f"{name}\n" for name in volumes))
        host.run(["systemctl", "start", "kadalu-quotad"])

    hosts.together(on)
    return package.name


def builder() -> ModuleType:
    """The module packaging/build_packages.py, which is a program beside the project and in no package of it."""
    spec = importlib.util.spec_from_file_location("build_packages", _BUILDER)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
