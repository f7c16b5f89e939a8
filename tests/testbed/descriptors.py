"""What the CSI specification publishes as a Go module: its compiled csi.proto, version by version.

go/csi-descriptors/main.go prints the descriptor; each version has its own go.mod.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from . import gobuild, paths

_MODULE = Path(__file__).parent / "go" / "csi-descriptors"
_MOD_FILES = {"1.12.0": "csi-1.12.0.mod", "1.13.0": "go.mod"}
VERSIONS = tuple(_MOD_FILES)


def build() -> None:
    """Builds the printers of all versions, if they are not in the cache."""
    for version in VERSIONS:
        _printer(version)


def serialized(version: str) -> bytes:
    """The FileDescriptorProto of csi.proto, as protobuf bytes."""
    return subprocess.run([_printer(version)], capture_output=True, check=True).stdout


def _printer(version: str) -> Path:
    mod_file = _MODULE / _MOD_FILES[version]
    go = gobuild.find_go()
    environment = {**os.environ, "CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOWORK": "off", "GOFLAGS": ""}
    flags = ["-mod=readonly", f"-modfile={mod_file}", "-trimpath", "-buildvcs=false"]

    def compile_it(directory: Path) -> None:
        argv = [str(go), "build", *flags, "-o", str(directory / "print"), "."]
        subprocess.run(argv, cwd=_MODULE, env=environment, check=True)

    key = paths.cache_key(_MODULE / "main.go", mod_file, mod_file.with_suffix(".sum"), gobuild.go_version(go) or "")
    return paths.cached(f"csi-descriptors-{version}", key, compile_it) / "print"
