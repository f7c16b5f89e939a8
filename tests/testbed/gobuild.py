"""The Go tools of the testbed, built from the Go module proxy: Kubernetes, its CSI sidecars, csi-sanity, nfpm.

Each folder of ``go/`` is a module whose go.mod names the commands to build in its `tool` block, and whose go.sum
pins every source by hash.  They are several because the versions of CSI that they need exclude each other.
To add a tool, add its line to the `tool` block and run ``go mod tidy`` there.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path

from . import host, paths, progress
from .errors import BedError, CommandFailed

MODULES_DIR = Path(__file__).parent / "go"
MODULES = ("kubernetes", "sidecars", "csi-sanity", "nfpm")

KUBERNETES = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kubectl")

# Debian 12's own Go is too old; it is new enough to fetch this one as a module.
TOOLCHAIN = "1.26.8"
_DEBIAN_GO = ("golang-go", "ca-certificates")

_ENVIRONMENT = {"CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOWORK": "off", "GOOS": "linux", "GOFLAGS": ""}
_FLAGS = ("-mod=readonly", "-trimpath", "-buildvcs=false", "-v")


def binary(tool: str) -> Path:
    """The built `tool`, built first if it is not in the cache.

    The cache's key is go.mod, go.sum, the flags and the version of Go.  A build that was interrupted goes on where
    it was, since Go keeps every package that it compiled.

    Raises:
        BedError: it does not compile, or its sources cannot be fetched.
    """
    module, package = tools()[tool]
    go_mod, go_sum = MODULES_DIR / module / "go.mod", MODULES_DIR / module / "go.sum"
    flags = [*_FLAGS, "-ldflags", ldflags(go_mod.read_text(), package)]
    go = find_go()
    key = paths.cache_key(go_mod, go_sum, " ".join(flags), go_version(go) or "")

    def build(directory: Path) -> None:
        log = paths.cache_root() / "log" / f"go-{tool}.log"
        argv = [str(go), "build", *flags, "-o", str(directory / tool), package]
        with progress.step(f"go build {tool} {version(tool)} (once)"):
            try:
                progress.run_logged(argv, log=log, cwd=go_mod.parent, env={**os.environ, **_ENVIRONMENT})
            except CommandFailed as error:
                raise BedError(
                    f"cannot build {tool} (a network with the Go module proxy is needed; see {log}): {error.output}"
                ) from error

    return paths.cached(tool, key, build) / tool


def binaries(names: Iterable[str] | None = None) -> dict[str, Path]:
    """Every tool of `names` (default: all there are) by its name, built one after the other where missing."""
    return {tool: binary(tool) for tool in (tools() if names is None else names)}


def sources(module: str, of: str) -> Path:
    """The directory of the Go module `module`, at the version that the go.mod in folder `of` requires.

    Raises:
        BedError: it is not in Go's own cache, and cannot be fetched.
    """
    listed = subprocess.run(
        [str(find_go()), "mod", "download", "-json", module],
        capture_output=True, text=True, check=False, cwd=MODULES_DIR / of, env={**os.environ, **_ENVIRONMENT},
    )  # fmt: skip
    if listed.returncode != 0:
        raise BedError(f"cannot fetch the Go module {module}: {listed.stderr.strip() or listed.stdout.strip()}")
    return Path(json.loads(listed.stdout)["Dir"])


def tools() -> dict[str, tuple[str, str]]:
    """Module and package of every tool, by the tool's name, in the order in which they are best built."""
    found = {}
    for module in MODULES:
        for package in tool_packages((MODULES_DIR / module / "go.mod").read_text()):
            found[package.rpartition("/")[2]] = (module, package)
    return found


def tool_packages(go_mod: str) -> list[str]:
    """The packages of a go.mod's `tool` directives (https://go.dev/ref/mod#go-mod-file-tool)."""
    blocks = re.findall(r"^tool\s*\(([^)]*)\)", go_mod, re.MULTILINE)
    return re.findall(r"^tool\s+([^\s(]+)", go_mod, re.MULTILINE) + " ".join(blocks).split()


def version(tool: str) -> str:
    """The version of `tool`, as its go.mod requires it."""
    module, package = tools()[tool]
    return module_version((MODULES_DIR / module / "go.mod").read_text(), package)


def module_version(go_mod: str, package: str) -> str:
    """The version at which a go.mod requires the module that `package` is in.

    Raises:
        BedError: it requires no such module.
    """
    for module, found in re.findall(r"^\s*(?:require\s+)?(\S+) (v\S+)", go_mod, re.MULTILINE):
        if package.startswith(f"{module}/"):
            return str(found)
    raise BedError(f"no module of {package} is required in its go.mod: run go mod tidy there")


def ldflags(go_mod: str, package: str) -> str:
    """The linker's flags: no symbols, and versions, which go build does not put where the tools look for them.

    Without Kubernetes' own, the feature gates of Kubernetes and of the sidecars take themselves for those of v0.0.0.
    """
    flags = f"-s -w -X main.version={module_version(go_mod, package)}"
    if found := re.search(r"^\s*(?:require\s+)?k8s\.io/kubernetes (v(\d+)\.(\d+)\.\S+)", go_mod, re.MULTILINE):
        where = "k8s.io/component-base/version"
        for name, value in zip(("gitVersion", "gitMajor", "gitMinor"), found.groups(), strict=True):
            flags += f" -X {where}.{name}={value}"
    return flags


def find_go() -> Path:
    """A Go that is new enough for every module: the one on PATH, or else one fetched from the module proxy."""
    least = max(_parts(go_directive(module)) for module in MODULES)
    on_path = shutil.which("go")
    if on_path and _parts(go_version(Path(on_path)) or "0") >= least:
        return Path(on_path)
    return paths.cached("go-toolchain", TOOLCHAIN, _fetch_toolchain) / "bin" / "go"


def go_version(go: Path) -> str | None:
    """What this Go calls itself (1.26.8); None if it is not the stock form of a release."""
    shown = subprocess.run(
        [str(go), "env", "GOVERSION"], capture_output=True, text=True, check=False, env={**os.environ, **_ENVIRONMENT}
    )
    found = re.match(r"go(\d[\d.]*)", shown.stdout)
    return found.group(1) if found else None


def _fetch_toolchain(directory: Path) -> None:
    old = shutil.which("go")
    if old is None:
        host.install(_DEBIAN_GO)
        old = shutil.which("go") or "/usr/bin/go"
    module = f"golang.org/toolchain@v0.0.1-go{TOOLCHAIN}.linux-amd64"
    with (
        progress.step(f"fetching Go {TOOLCHAIN} as a module"),
        tempfile.TemporaryDirectory(dir=directory.parent, prefix=".go-toolchain.partial-") as scratch,
    ):
        # Its own module cache, and a writable one: the toolchain is moved out of it.
        environment = {**os.environ, **_ENVIRONMENT, "GOFLAGS": "-modcacherw", "GOMODCACHE": f"{scratch}/mod"}
        fetched = subprocess.run(
            [old, "mod", "download", "-json", module],
            capture_output=True, text=True, check=False, cwd=scratch, env=environment,
        )  # fmt: skip
        if fetched.returncode != 0:
            reason = fetched.stderr.strip() or json.loads(fetched.stdout)["Error"]
            raise BedError(f"cannot fetch Go {TOOLCHAIN} from the Go module proxy: {reason}")
        source = Path(json.loads(fetched.stdout)["Dir"])
        prepare_toolchain(source)
        for entry in source.iterdir():
            entry.rename(directory / entry.name)


def prepare_toolchain(root: Path) -> None:
    """Make an unpacked toolchain module usable, as a newer go command does by itself (cmd/go/internal/toolchain).

    A module's files lose their execute bits, and it cannot hold a file go.mod but its own: they are called _go.mod.
    """
    for program in [*(root / "bin").iterdir(), *(root / "pkg" / "tool").rglob("*")]:
        program.chmod(0o755)
    for hidden in list((root / "src").rglob("_go.mod")):
        hidden.rename(hidden.with_name("go.mod"))


def go_directive(module: str) -> str:
    """The oldest Go that `module` may be built with."""
    found = re.search(r"^go (\S+)", (MODULES_DIR / module / "go.mod").read_text(), re.MULTILINE)
    assert found, f"{module}/go.mod has no go directive"
    return found.group(1)


def _parts(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))
