"""Container images without a registry: small ones written here, and the project's own, built from its Dockerfile.

Every image is a docker-archive: a tar of layers, a config and manifest.json, as ``docker save`` writes it
(https://github.com/moby/docker-image-spec), which containerd imports.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import stat
import subprocess
import tarfile
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from . import gobuild, host, kubeconf, paths, progress
from .errors import BedError, CommandFailed

PROJECT_IMAGE = "docker.io/kadalu/kadalu-ext:dev"
BUSYBOX_IMAGE = "docker.io/library/busybox:stable"
BASE_IMAGE = "docker.io/library/debian:bookworm-slim"

BUILD_PACKAGES = ("buildah", "mmdebstrap", "ca-certificates")

# What Debian's own slim image leaves out.
_EXCLUDED = ("doc/*", "man/*", "info/*", "locale/*", "lintian/*")
_BUSYBOX = Path("/bin/busybox")
_IN_USE_S = 3600.0
_MOST_LAYERS = 60
"""In buildah's store, of some 60 MB each: a dozen builds."""
_CERTIFICATES = Path("/usr/local/share/ca-certificates")


def busybox() -> Path:
    """The test pods' image: busybox-static under the names of all its applets, with a shell as command."""
    listed = subprocess.run([str(_BUSYBOX), "--list"], capture_output=True, text=True, check=True)
    layer: dict[str, bytes | str] = {f"bin/{applet}": "/bin/busybox" for applet in listed.stdout.split()}
    layer |= {"bin/busybox": _BUSYBOX.read_bytes(), "etc/passwd": b"root:x:0:0:root:/:/bin/sh\n", "tmp/.keep": b""}
    return _written("busybox", BUSYBOX_IMAGE, layer, {"Cmd": ["/bin/sh"], "Env": ["PATH=/bin"]})


def pause() -> Path:
    """The image of every pod's sandbox: one process that waits."""
    entrypoint = ["/bin/busybox", "sleep", "infinity"]
    return _written("pause", kubeconf.PAUSE_IMAGE, {"bin/busybox": _BUSYBOX.read_bytes()}, {"Entrypoint": entrypoint})


def sidecar(tool: str) -> Path:
    """A stock CSI sidecar under its official name and version, as its project ships it: one static binary."""
    reference = f"registry.k8s.io/sig-storage/{tool}:{gobuild.version(tool)}"
    return _written(tool, reference, {tool: gobuild.binary(tool).read_bytes()}, {"Entrypoint": [f"/{tool}"]})


def project(reference: str = PROJECT_IMAGE, root: Path = paths.REPOSITORY) -> Path:
    """The image `reference` that ``Dockerfile`` in `root` makes, built anew only when what it copies has changed.

    Raises:
        BedError: the build failed, or there is no network to build the base or to fetch packages.
    """
    dockerfile = root / "Dockerfile"
    sources = context_files(root, dockerfile.read_text())
    listed = [part for source in sources for part in (str(source), f"{mode(root / source):o}", root / source)]
    key = paths.cache_key(reference, _base_key(), dockerfile, *listed)
    name = "image-" + reference.rpartition("/")[2].partition(":")[0]
    built = paths.cached(name, key, lambda target: _bud(target, reference, root, sources))
    _forget(paths.cache_root().glob(f"{name}-*"), keep=built)
    return built / "image.tar"


def _forget(images: Iterable[Path], *, keep: Path) -> None:
    """Removes images that nobody has built within the last hour: hundreds of MB for every change of the sources.

    Younger ones may be another work tree's, which loads them right now; it may also be removing the same ones.
    """
    for old in images:
        with suppress(FileNotFoundError):
            if old != keep and time.time() - old.stat().st_mtime > _IN_USE_S:
                shutil.rmtree(old, ignore_errors=True)


def context_files(root: Path, dockerfile: str) -> list[Path]:
    """The files, relative to `root`, that COPY and ADD take from the build's context; only what git would commit.

    So neither a stray file nor a test changes the image, and what is hashed is just what is built.
    """
    argv = ["git", "-c", f"safe.directory={root}", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    argv += ["--", *copied(dockerfile)]
    shown = subprocess.run(argv, cwd=root, capture_output=True, text=True, check=False)
    if shown.returncode != 0:
        raise BedError(f"cannot list the sources of the image: {shown.stderr.strip()}")
    # A file deleted from the work tree is still listed until that is committed.
    return sorted(path for path in map(Path, set(shown.stdout.split("\0")) - {""}) if (root / path).is_file())


def copied(dockerfile: str) -> list[str]:
    """The sources of a Dockerfile's COPY and ADD lines, without those that come from an earlier stage."""
    found = []
    for line in dockerfile.replace("\\\n", " ").splitlines():
        instruction, _, rest = line.strip().partition(" ")
        if instruction.upper() in {"COPY", "ADD"} and "--from=" not in rest:
            words = json.loads(rest) if rest.startswith("[") else rest.split()
            found += [word for word in words if not word.startswith("--")][:-1]
    return found


def mode(path: Path) -> int:
    """Whether a file is executable, as git and an image see it."""
    return 0o755 if path.stat().st_mode & stat.S_IXUSR else 0o644


def references(archive: Path) -> list[str]:
    """The names under which a docker-archive holds images."""
    with tarfile.open(archive) as tar:
        member = tar.extractfile("manifest.json")
        assert member, f"{archive} has no manifest.json"
        return [name for image in json.load(member) for name in image["RepoTags"]]


def docker_archive(reference: str, layer: bytes, config: Mapping[str, object]) -> bytes:
    """An image of one `layer` (a tar), the same bytes for the same input."""
    digest = hashlib.sha256(layer).hexdigest()
    image = {
        "architecture": "amd64",
        "os": "linux",
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
        # buildah builds only on images whose history tells of each of their layers.
        "history": [{"created": "1970-01-01T00:00:00Z", "created_by": "testbed"}],
    }
    described = json.dumps(image).encode()
    config_name = f"{hashlib.sha256(described).hexdigest()}.json"
    manifest = [{"Config": config_name, "RepoTags": [reference], "Layers": [f"{digest}.tar"]}]
    return tar_of({config_name: described, f"{digest}.tar": layer, "manifest.json": json.dumps(manifest).encode()})


def tar_of(files: Mapping[str, bytes | str]) -> bytes:
    """A tar of `files`: bytes are an executable file's content, a str is what a symbolic link points to."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.mode = 0o755
            if isinstance(content, str):
                entry.type, entry.linkname = tarfile.SYMTYPE, content
                tar.addfile(entry)
            else:
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def _written(name: str, reference: str, files: Mapping[str, bytes | str], config: Mapping[str, object]) -> Path:
    def write(target: Path) -> None:
        (target / "image.tar").write_bytes(docker_archive(reference, tar_of(files), config))

    key = paths.cache_key(reference, json.dumps(config), *(part for item in files.items() for part in item))
    return paths.cached(f"image-{name}", key, write) / "image.tar"


def _bud(target: Path, reference: str, root: Path, sources: Sequence[Path]) -> None:
    host.install(BUILD_PACKAGES)
    scratch = target / "scratch"
    context = scratch / "context"
    for source in sources:
        copy = context / source
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(root / source, copy)
        copy.chmod(mode(root / source))
    # buildah keeps the layers of earlier builds in its store: only what follows a changed line is done again.
    store = paths.cache_root() / f"buildah-{_base_key()}"
    with paths.lock(paths.cache_root() / ".buildah.lock"), progress.step(f"building the image {reference}"):
        _bound(store)
        if not _buildah(store, scratch, "images", "--quiet", "--filter", f"reference={BASE_IMAGE}").strip():
            _buildah(store, scratch, "pull", f"docker-archive:{_base()}")
        build = ("bud", "--isolation=chroot", "--network=host", "--pull-never", "--layers", f"--tag={reference}")
        _buildah(store, scratch, *build, f"--file={root / 'Dockerfile'}", str(context))
        _buildah(store, scratch, "push", reference, f"docker-archive:{target / 'image.tar'}:{reference}")
    shutil.rmtree(scratch)


def _bound(store: Path) -> None:
    """Empties a store that has grown too large. What is old in it cannot be told from what the next build needs."""
    if (layers := store / "overlay").is_dir() and sum(1 for _ in layers.iterdir()) > _MOST_LAYERS:
        shutil.rmtree(store)


def _buildah(store: Path, scratch: Path, *args: str) -> str:
    """Run buildah on a store of our own."""
    log = paths.cache_root() / "log" / "buildah.log"
    before = log.stat().st_size if log.exists() else 0
    argv = ["buildah", f"--root={store}", f"--runroot={scratch / 'runroot'}", "--storage-driver=overlay", *args]
    try:
        progress.run_logged(argv, log=log, isolated=True)
    except CommandFailed as error:
        raise BedError(
            f"buildah {args[0]} failed (a network with Debian's and Python's packages is needed; see {log}): "
            f"{error.output}"
        ) from error
    return log.read_bytes()[before:].decode(errors="replace")


def _base_key() -> str:
    certificates = sorted(_CERTIFICATES.glob("*.crt"))
    return paths.cache_key(BASE_IMAGE, *_EXCLUDED, *(part for path in certificates for part in (path.name, path)))


def _base() -> Path:
    """What stands for Debian's official slim image, which no registry gives: the same packages, by mmdebstrap."""

    def build(target: Path) -> None:
        log = paths.cache_root() / "log" / "mmdebstrap.log"
        layer = target / "layer.tar"
        # Certificates that the machine trusts besides Debian's: without them nothing can be fetched where they matter.
        hooks = [f"--customize-hook=copy-in {_CERTIFICATES} /usr/local/share/"] if _CERTIFICATES.is_dir() else []
        with progress.step("Debian base of the image (mmdebstrap)"):
            argv = ["mmdebstrap", "--mode=root", "--variant=minbase", *hooks]
            argv += [f"--dpkgopt=path-exclude=/usr/share/{pattern}" for pattern in _EXCLUDED]
            progress.run_logged([*argv, "bookworm", str(layer)], log=log, isolated=True)
            config = {"Cmd": ["bash"], "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]}
            (target / "image.tar").write_bytes(docker_archive(BASE_IMAGE, layer.read_bytes(), config))
            layer.unlink()

    return paths.cached("debian-base", _base_key(), build) / "image.tar"
