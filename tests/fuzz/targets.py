"""The parsers of what others write: what goes in, and what may come out of them."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from kadalu_ext import mountinfo, record
from kadalu_ext.errors import InvalidInputError, RecordError, UnsupportedVolumeError, VolfileError, WireError
from kadalu_ext.gluster import geometry, oncrpc, volfile, wiredict, xdr
from kadalu_ext.quotad import bricks, config, heal, told
from kadalu_ext.quotad.scan import OpenBrick
from kadalu_ext.quotad.status import BrickStatus, Report
from tests import wire
from tests.fuzz.mutate import mutate
from tests.unit.quotad.fakes import FakeTable

Feed = Callable[[bytes], None]

RECORDS = (
    b'{"v":1,"path":"subvol/0a/1b/pvc-1","size":1073741824}',
    b'{"v":1,"path":"subvol/0a/1b/pvc-1","size":1,"inodes":9223372036854775807,"more":[null,{"a":1.5}]}',
)
MOUNTS = (
    b"36 35 98:0 /mnt1 /mnt\\0402 rw,noatime master:1 - ext3 /dev/root rw,errors=continue\n",
    b"1 1 0:1 / / rw - rootfs none rw\n62 1 98:16 / /bricks rw shared:30 - xfs /dev/sdb rw,prjquota\n",
)
UUID = b"5f0d7c29-0000-4000-8000-000000000001"
GLUSTERD = {
    "glusterd.info": b"UUID=" + UUID + b"\noperating-version=100000\n",
    "kadalustorage.info": b"v\n# a comment\nw\n",
    "kadalu.info": b'{"version": 1, "bricks": ["/bricks/v", "/bricks/w"]}',
    "vols/v/info": b"type=2\ncount=3\nstatus=1\nreplica_count=3\narbiter_count=1\ndisperse_count=0\n"
    b"redundancy_count=0\nuser.kadalu-ext.export=on\nfeatures.shard=off\nbrick-0=h:-v\nbrick-1=h:-v\nbrick-2=h:-v\n",
    "vols/v/bricks/h:-v": b"uuid=" + UUID + b"\nhostname=h\npath=/bricks/v\nreal_path=/bricks/v\n",
}
CONFIGS = (
    b'crawl_interval_s = 60\nlog_level = "INFO"\nglusterd_dir = "/var/lib/glusterd"\n',
    b'metrics_address = "127.0.0.1:9100"\nmetrics_textfile = "/var/lib/node/quotad.prom"\n',
)
TOLD = (
    b'{"at_s": 1.5, "interval_s": 60, "refused": {}, "hung": {"/bricks/v": "a system call does not come back"}}',
    b'{"at_s": 1e9, "interval_s": 60, "refused": {"/bricks/v": "Function not implemented"}, "hung": {}}',
)
REPORT = Report(
    daemon_running=True,
    problems=(),
    bricks=(BrickStatus(volume="v", path="/bricks/v", arbiter=False, refused="", pvs=()),),
)
GFIDS = (b"0000000a-0000-4000-8000-00000000000a", b"0000000b-0000-4000-8000-00000000000b")
HANDLES = (
    *(f"../../00/00/00000000-0000-0000-0000-000000000001/{name}".encode() for name in ("subvol", "info", "d")),
    *(b"../../00/00/" + gfid + b"/" + name for gfid in GFIDS for name in (b"pvc-1", b"bb")),
)


@dataclass(frozen=True, kw_only=True)
class Target:
    """One parser. `open` gives the function that is fed; whatever it raises is a mistake."""

    name: str
    samples: tuple[bytes, ...]
    open: Callable[[], AbstractContextManager[Feed]]


def run(target: Target, *, count: int, seed: int) -> None:
    """Feeds `count` damaged inputs. Raises: AssertionError with the beginning of the input that broke it."""
    dice = random.Random(f"{target.name} {seed}")
    with target.open() as feed:
        for number in range(count):
            data = mutate(dice, target.samples)
            try:
                feed(data)
            except Exception as error:
                raise AssertionError(f"{target.name}, seed {seed}, input {number}: {data[:400]!r}") from error


@contextmanager
def _record() -> Iterator[Feed]:
    def feed(data: bytes) -> None:
        try:
            found = record.decode("pvc-1", data)
        except RecordError:
            return
        # what is obeyed leads to the PV's own directory, and nowhere else
        assert found.path.startswith("subvol/")
        assert found.path.endswith("/pvc-1")
        assert found.path.count("/") == 3
        assert 0 < found.size_bytes <= record.MAX_SIZE_BYTES

    yield feed


@contextmanager
def _mounts() -> Iterator[Feed]:
    def feed(data: bytes) -> None:
        try:
            mountinfo.parse(data.decode("utf-8", "surrogateescape"))
        except WireError:
            pass

    yield feed


@contextmanager
def _glusterd() -> Iterator[Feed]:
    """Each input stands in for one of glusterd's files, by turns; the others are whole."""
    with TemporaryDirectory(dir="/dev/shm") as directory:
        root = Path(directory)
        (root / "vols" / "v" / "bricks").mkdir(parents=True)
        for name, content in GLUSTERD.items():
            (root / name).write_bytes(content)
        names = list(GLUSTERD)

        def feed(data: bytes) -> None:
            name = names[0]
            names.append(names.pop(0))
            (root / name).write_bytes(data)
            seen = bricks.read_inventory(directory)
            (root / name).write_bytes(GLUSTERD[name])
            assert all(brick.path.startswith("/") and "\0" not in brick.path for brick in seen.bricks)
            assert all(brick.data_bricks > 0 for brick in seen.bricks)

        yield feed


@contextmanager
def _config() -> Iterator[Feed]:
    def feed(data: bytes) -> None:
        try:
            found = config.parse(data.decode("utf-8", "replace"))
        except InvalidInputError:
            return
        assert config.MIN_INTERVAL_S <= found.crawl_interval_s <= config.MAX_INTERVAL_S

    yield feed


@contextmanager
def _told() -> Iterator[Feed]:
    with TemporaryDirectory(dir="/dev/shm") as directory:

        def feed(data: bytes) -> None:
            Path(directory, told.FILE).write_bytes(data)
            assert all(isinstance(word, str) for word in told.doubts(directory, REPORT))
            assert all(isinstance(reason, str) for reason in told.hung(directory).values())

        yield feed


@contextmanager
def _handles() -> Iterator[Feed]:
    """Each input is by turns where one of two handles leads, and the name of an entry in an index."""
    with TemporaryDirectory(dir="/dev/shm") as directory:
        root, count = Path(directory), 0
        for path in (*heal.INDICES, ".glusterfs/00/00", "subvol/aa/bb/pvc-1"):
            (root / path).mkdir(parents=True)
        handles = [os.fsencode(root / ".glusterfs/00/00") + b"/" + gfid for gfid in GFIDS]
        names = [os.fsencode(root / heal.INDICES[0]) + b"/" + gfid for gfid in GFIDS]
        for handle, name, target in zip(handles, names, HANDLES, strict=False):
            os.symlink(target, handle)
            os.close(os.open(name, os.O_CREAT))
        fd = os.open(root, os.O_RDONLY)
        opened = OpenBrick(
            brick=bricks.Brick(
                volume="v", path=directory, arbiter=False, data_bricks=1, choice=bricks.Choice.NAMED
            ),
            root=fd, device=0, block_bytes=4096, table=FakeTable(root),
        )  # fmt: skip

        def feed(data: bytes) -> None:
            nonlocal count
            count += 1
            extra = b""
            try:
                if count % 3:
                    os.symlink(data, handles[count % 2] + b".new")
                    os.rename(handles[count % 2] + b".new", handles[count % 2])
                elif b"/" not in data:
                    extra = os.fsencode(root / heal.INDICES[1]) + b"/" + data
                    os.close(os.open(extra, os.O_CREAT | os.O_EXCL))
            except (OSError, ValueError):
                return  # no file system takes it
            seen = heal.waiting(opened)
            assert seen.whole
            assert 2 <= seen.total <= 3
            if extra:
                os.unlink(extra)

        yield feed
        os.close(fd)


VOLUMES = Path(__file__).parents[1] / "unit" / "gluster" / "data"


def _bodies(name: str) -> tuple[bytes, ...]:
    return tuple(wire.load(each).body for each in (name, f"{name}-missing") if each in wire.names())


def _dicts() -> tuple[bytes, ...]:
    volume, getxattr = xdr.Reader(wire.load("get-volume").body), wire.load("getxattr").body
    for _op_ret_and_op_errno in range(2):
        volume.i32()
    volume.string()
    return volume.opaque(), getxattr[8:]


def _reader(read: Callable[[bytes], object]) -> Callable[[], AbstractContextManager[Feed]]:
    @contextmanager
    def feeder() -> Iterator[Feed]:
        def feed(data: bytes) -> None:
            try:
                read(data)
            except WireError:
                pass

        yield feed

    return feeder


def _read_dicts(data: bytes) -> None:
    for read in (wiredict.decode, wiredict.decode_text, lambda each: wiredict.read_typed(xdr.Reader(each))):
        try:
            pairs = read(data)
        except WireError:
            continue
        assert sum(len(value) for value in pairs.values()) <= len(data)


def _read_stream(data: bytes) -> None:
    deframer = oncrpc.Deframer()
    deframer.feed(data)
    for each in iter(deframer.next_record, None):
        oncrpc.decode(each)


@contextmanager
def _volfile() -> Iterator[Feed]:
    def feed(data: bytes) -> None:
        try:
            parsed = volfile.parse(data.decode("utf-8", "surrogateescape"))
        except VolfileError:
            return
        try:
            shape = geometry.geometry(parsed)
        except (VolfileError, UnsupportedVolumeError):
            return
        assert shape.data_carriers

    yield feed


TARGETS = (
    Target(name="a record", samples=RECORDS, open=_record),
    Target(name="the mount table", samples=MOUNTS, open=_mounts),
    Target(name="glusterd's and Kadalu's files", samples=tuple(GLUSTERD.values()), open=_glusterd),
    Target(name="the configuration", samples=CONFIGS, open=_config),
    Target(name="the daemon's word for the commands", samples=TOLD, open=_told),
    Target(name="gluster's handles and indices", samples=(*HANDLES, *GFIDS), open=_handles),
    *(
        Target(name=f"gluster's answer to {name}", samples=_bodies(name), open=_reader(read))
        for name, read in wire.READERS.items()
    ),
    Target(name="gluster's dictionaries", samples=_dicts(), open=_reader(_read_dicts)),
    Target(
        name="a stream of RPC records",
        samples=tuple(wire.load(name).received for name in wire.names()),
        open=_reader(_read_stream),
    ),
    Target(name="a volfile", samples=tuple(path.read_bytes() for path in sorted(VOLUMES.glob("*.vol"))), open=_volfile),
)
