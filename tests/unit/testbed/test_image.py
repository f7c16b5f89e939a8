"""Images as archives, and what a Dockerfile takes from its context."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import tarfile
import time
from pathlib import Path

import pytest

from tests.testbed import image
from tests.testbed.errors import BedError

DOCKERFILE = """\
FROM debian:bookworm-slim AS build
COPY --chown=0:0 pyproject.toml \\
     kadalu_ext /src/
RUN make copy of COPY
FROM debian:bookworm-slim
COPY --from=build /out /opt
ADD ["a file", "/x/"]
"""


def test_an_archive_holds_what_its_manifest_names() -> None:
    layer = image.tar_of({"bin/sh": b"#!", "bin/ls": "/bin/sh"})
    with tarfile.open(fileobj=io.BytesIO(image.docker_archive("a/b:c", layer, {"Cmd": ["sh"]}))) as tar:
        parts = {member.name: tar.extractfile(member) for member in tar}
    read = {name: part.read() for name, part in parts.items() if part}
    (manifest,) = json.loads(read["manifest.json"])
    config = json.loads(read[manifest["Config"]])
    assert manifest["RepoTags"] == ["a/b:c"]
    assert [f"sha256:{hashlib.sha256(read[name]).hexdigest()}" for name in manifest["Layers"]] == config["rootfs"][
        "diff_ids"
    ]
    assert len(config["history"]) == 1


def test_the_same_input_makes_the_same_archive() -> None:
    first, second = (image.docker_archive("a:b", image.tar_of({"x": b"1", "y": "x"}), {}) for _ in range(2))
    assert first == second


def test_references_are_read_back(tmp_path: Path) -> None:
    (tmp_path / "image.tar").write_bytes(image.docker_archive("a/b:c", image.tar_of({}), {}))
    assert image.references(tmp_path / "image.tar") == ["a/b:c"]


def test_a_dockerfile_takes_files_from_its_context_but_not_from_its_stages() -> None:
    assert image.copied(DOCKERFILE) == ["pyproject.toml", "kadalu_ext", "a file"]


def test_only_what_git_would_commit_is_in_the_context(tmp_path: Path) -> None:
    for name in ("pkg/a.py", "pkg/new.py", "pkg/made_pb2.py", "tests/t.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / ".gitignore").write_text("*_pb2.py\n")
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    subprocess.run(["git", "-C", str(tmp_path), "add", "pkg/a.py", "tests"], check=True)
    assert image.context_files(tmp_path, "COPY pkg /x\n") == [Path("pkg/a.py"), Path("pkg/new.py")]


def test_a_work_tree_without_git_is_an_error_that_says_so(tmp_path: Path) -> None:
    with pytest.raises(BedError, match="cannot list the sources"):
        image.context_files(tmp_path, "COPY pkg /x\n")


def test_images_that_another_tree_may_be_loading_are_kept(tmp_path: Path) -> None:
    now, ages = time.time(), {"built": 9000.0, "young": 60.0, "old": 9000.0}
    for name, age in ages.items():
        (tmp_path / name).mkdir()
        os.utime(tmp_path / name, (now - age, now - age))
    image._forget([*tmp_path.iterdir(), tmp_path / "removed-meanwhile"], keep=tmp_path / "built")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["built", "young"]
