"""Compiles kadalu_ext/api/*.proto while the package is built or installed, so that nothing generated is in git.

Run as a program (`python hatch_build.py`) it does the same in the work tree.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
except ImportError:  # run as a program, where hatchling is not needed
    BuildHookInterface = object  # type: ignore[assignment,misc]


def compile_protos(root: Path) -> None:
    """Writes `*_pb2.py`, `*_pb2_grpc.py` and their type stubs beside every kadalu_ext/api/*.proto.

    Raises: RuntimeError with protoc's exit code if a .proto does not compile (protoc says why on stderr).
    """
    import grpc_tools
    from grpc_tools import protoc

    well_known_types = Path(grpc_tools.__file__).parent / "_proto"
    protos = sorted(str(p.relative_to(root)) for p in (root / "kadalu_ext" / "api").glob("*.proto"))
    # protoc looks its plugins up on PATH; those of this interpreter's environment stand beside it.
    beside = Path(sys.executable).parent
    plugins = [f"--plugin={name}={beside / name}" for name in ("protoc-gen-mypy", "protoc-gen-mypy_grpc")]
    outputs = [f"--{kind}={root}" for kind in ("python_out", "grpc_python_out")]
    outputs += [f"--{kind}=quiet:{root}" for kind in ("mypy_out", "mypy_grpc_out")]
    arguments = ["protoc", f"-I{root}", f"-I{well_known_types}", *plugins, *outputs, *protos]
    code = protoc.main(arguments)
    if code != 0:
        raise RuntimeError(f"protoc ended with {code} on {', '.join(protos)}")


class ProtoBuildHook(BuildHookInterface):  # type: ignore[type-arg,misc,unused-ignore]
    """hatchling's hook: called for wheels and for editable installs alike."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        compile_protos(Path(self.root))


if __name__ == "__main__":
    compile_protos(Path(__file__).resolve().parent)
