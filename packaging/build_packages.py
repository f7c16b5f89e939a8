"""Builds the packages of a brick host: kadalu-quotad_<version>-1_all.deb and kadalu-quotad-<version>-1.noarch.rpm.

    python packaging/build_packages.py --nfpm PATH --output DIR

They hold what of this project kadalu-quotad imports, inotify_simple as it is installed beside this interpreter, unit,
manual and documentation; no compiler and no network is needed to install them. nfpm packs them (https://nfpm.goreleaser.com);
the same sources give the same bytes.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import importlib.metadata
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Final

from kadalu_ext.quotad import config

REPOSITORY: Final = Path(__file__).resolve().parent.parent
PACKAGING: Final = REPOSITORY / "packaging"
MAINTAINER: Final = "The kadalu_ext maintainers <kadalu-ext@localhost>"
NAMES: Final = {"deb": "kadalu-quotad_{version}-1_all.deb", "rpm": "kadalu-quotad-{version}-1.noarch.rpm"}
EPOCH: Final = "1577836800"
"""2020-01-01, of every file in the package, whenever it is built: its version tells packages apart, not the clock."""


def build(output: Path, nfpm: Path, packager: str = "deb", version: str = "") -> Path:
    """Builds a package ("deb" or "rpm") into the directory `output` and returns its path. version: if not the
    project's.

    Raises: RuntimeError with what nfpm said.
    """
    output.mkdir(parents=True, exist_ok=True)
    version = version or tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["version"]
    package = output / NAMES[packager].format(version=version)
    environment = {**os.environ, "VERSION": version, "MAINTAINER": MAINTAINER, "SOURCE_DATE_EPOCH": EPOCH}
    with tempfile.TemporaryDirectory() as directory:
        stage = Path(directory)
        lay_out(stage)
        command = [
            str(nfpm),
            "package",
            "--packager",
            packager,
            "--config",
            "nfpm.yaml",
            "--target",
            str(package.absolute()),
        ]
        done = subprocess.run(command, cwd=stage, env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(command)} failed: {done.stdout}{done.stderr}")
    return package


def lay_out(stage: Path) -> None:
    """Puts everything that nfpm.yaml names below `stage`, with the modes that it will have."""
    shutil.copy(PACKAGING / "nfpm.yaml", stage)
    shutil.copytree(PACKAGING / "scripts", stage / "scripts")
    for unit in ("kadalu-quotad.service", "metrics-http.conf", "linux-before-5.14.conf"):
        shutil.copy(REPOSITORY / "systemd" / unit, stage)
    (stage / "kadalu-quotad.toml").write_text(config.render(config.Config()))
    (stage / "kadalu-quotad.8").write_text(manual_page())
    shutil.copy(PACKAGING / "completion.bash", stage)
    (stage / "bin").mkdir()
    shutil.copy(PACKAGING / "kadalu-quotad", stage / "bin")
    for source in modules():
        target = stage / "lib" / source.relative_to(REPOSITORY)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)
    (stage / "doc").mkdir()
    shutil.copy(PACKAGING / "copyright", stage / "doc")
    shutil.copy(REPOSITORY / "docs" / "brick-hosts.md", stage / "doc")
    try:
        distribution = importlib.metadata.distribution("inotify_simple")
    except importlib.metadata.PackageNotFoundError:
        raise RuntimeError(
            f"{sys.executable} has no inotify_simple: use the project's environment (make check)"
        ) from None
    for file in distribution.files or []:
        if file.name == "inotify_simple.py":
            shutil.copy(str(distribution.locate_file(file)), stage / "lib")
        elif file.name == "LICENSE":
            shutil.copy(str(distribution.locate_file(file)), stage / "doc" / "inotify_simple.LICENSE")
    for path in stage.rglob("*"):
        path.chmod(0o755 if path.is_dir() or {"scripts", "bin"} & set(path.relative_to(stage).parts) else 0o644)


def manual_page() -> str:
    """kadalu-quotad(8), with every key of the configuration."""
    lines: list[str] = []
    for key in dataclasses.fields(config.Config):
        meta = {name: text.replace("\\", "\\e").replace("-", "\\-") for name, text in key.metadata.items()}
        lines += [".TP", f".B {key.name}", f"{meta['help']} Unit: {meta['unit']}. Default: {config.toml(key.default)}."]
    return (PACKAGING / "kadalu-quotad.8").read_text().replace("@KEYS@", "\n".join(lines))


def modules() -> list[Path]:
    """The files of this project that kadalu-quotad is made of: its own, and whatever they import, however far."""
    found: set[Path] = set()
    wanted = sorted((REPOSITORY / "kadalu_ext" / "quotad").glob("*.py"))
    while wanted:
        path = wanted.pop()
        if path not in found:
            found.add(path)
            wanted += [*_imported(path), path.parent / "__init__.py"]
    return sorted(found)


def _imported(path: Path) -> list[Path]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "kadalu_ext":
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    files = [REPOSITORY / f"{name.replace('.', '/')}.py" for name in names]
    return [file for file in files if file.exists()]


def main() -> int:
    """The program."""
    parser = argparse.ArgumentParser(description="Builds the packages of kadalu-quotad.")
    parser.add_argument("--nfpm", type=Path, default=shutil.which("nfpm"), help="the packer (default: the one on PATH)")
    parser.add_argument("--output", type=Path, default=REPOSITORY / "build", help="where to put it (default: build/)")
    options = parser.parse_args()
    if options.nfpm is None:
        parser.error(
            "no nfpm on PATH: go install github.com/goreleaser/nfpm/v2/cmd/nfpm@v2.45.2, or name it with --nfpm"
        )
    for packager in NAMES:
        print(build(options.output, options.nfpm, packager))
    return 0


if __name__ == "__main__":
    sys.exit(main())
