"""Self-heal fills what kadalu-quotad tags, while clients write; and what waits for heal when there is no room."""

from __future__ import annotations

import errno
import json
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kadalu_ext.layout import pv_path
from kadalu_ext.record import PvName
from kadalu_ext.units import MIB
from tests.integration.quotad_site import Site, served
from tests.testbed import progress
from tests.testbed.brickhosts import BrickHost, BrickHosts

VOLUMES = {"heal-rep": "replica 3", "heal-arb": "arbiter", "heal-dis": "disperse 2+1"}


@pytest.fixture(scope="module")
def site(brick_hosts: BrickHosts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with served(brick_hosts, VOLUMES, tmp_path_factory.mktemp("clients")) as site:
        for volume in VOLUMES:
            brick_hosts.gluster("volume", "set", volume, "network.ping-timeout", "10")
            threads = "disperse.shd-max-threads" if volume == "heal-dis" else "cluster.shd-max-threads"
            brick_hosts.gluster("volume", "set", volume, threads, "4")
        yield site


DIRECTORIES = 3
PACE_S = 0.5
"""Between a writer's rounds: self-heal on these small hosts brings a few files a second, and is to get somewhere."""


class Writer(threading.Thread):
    """Moves, links, makes, appends to and removes what is in a directory of its own, until it is told to stop, or a
    call fails. `tree`: what must be there at the end: content by path; None for a directory."""

    def __init__(self, top: Path, number: int) -> None:
        super().__init__(daemon=True)
        self._top = top / f"w{number}"
        self._told = threading.Event()
        self.failure: BaseException | None = None
        self.rounds = 0
        self.tree: dict[Path, bytes | None] = {}
        for d in range(DIRECTORIES):
            (self._top / f"d{d}" / "deep").mkdir(parents=True)
            self.tree |= {self._top / f"d{d}": None, self._top / f"d{d}" / "deep": None}
            for f in range(4):
                self._write(self._top / f"d{d}" / "deep" / f"old{f}", b"old" * 2000)

    def run(self) -> None:
        try:
            while not self._told.wait(PACE_S):
                self._round(self.rounds)
                self.rounds += 1
        except BaseException as failure:
            self.failure = failure

    def end(self) -> None:
        self._told.set()
        self.join(120)
        assert not self.is_alive(), "a writer hangs"
        if self.failure:
            raise self.failure

    def _round(self, number: int) -> None:
        here, there = (self._top / f"d{d % DIRECTORIES}" for d in (number, number + 1 + number // DIRECTORIES % 2))
        # something old goes elsewhere, something new is made, linked, moved, filled up, and partly removed again
        olds = sorted(path for path, content in self.tree.items() if content is not None and path.parent.parent == here)
        for old in olds[:2]:
            self._move(old, there / "deep" / f"{old.name.partition('-')[0]}-{number}")
        made = here / f"new{number}"
        self._write(made, b"new")
        with open(made, "ab") as file:
            file.write(b"+" * 5000)
        self.tree[made] = b"new" + b"+" * 5000
        link = there / f"link{number}"
        link.hardlink_to(made)
        self.tree[link] = self.tree[made]
        self._move(made, there / "deep" / f"new{number}")
        nest = here / f"nest{number}"
        nest.mkdir()
        self.tree[nest] = None
        self._write(nest / "egg", b"egg")
        self._move(nest, there / f"nest{number}")
        # the tree stays as small as it is, or self-heal would never be through
        for path in [path for path in self.tree if path.name in {f"{what}{number - 3}" for what in ("link", "new")}]:
            self._remove(path)
        for path in [path for path in self.tree if path.name == f"nest{number - 3}"]:
            self._remove(path / "egg")
            self._remove(path)

    def _write(self, path: Path, content: bytes) -> None:
        path.write_bytes(content)
        self.tree[path] = content

    def _move(self, path: Path, target: Path) -> None:
        path.rename(target)
        for old in [old for old in self.tree if old == path or path in old.parents]:
            self.tree[target / old.relative_to(path)] = self.tree.pop(old)

    def _remove(self, path: Path) -> None:
        if self.tree.pop(path) is None:
            path.rmdir()
        else:
            path.unlink()


def check_tree(writer: Writer) -> None:
    found = {path: path.read_bytes() if path.is_file() else None for path in writer._top.rglob("*")}
    assert found == writer.tree


HEAL_SECONDS = 400.0


def heal(site: Site, volume: str) -> None:
    """Lets self-heal bring all that waits, until gluster says that nothing does."""

    def healed() -> bool:
        # soon after a brick has started it is refused
        site.hosts.host("brick1").run(["gluster", "volume", "heal", volume], check=False)
        # to count what is in the indices costs gluster less than to say what it is
        indices = [f"/bricks/{volume}/.glusterfs/indices/{index}" for index in ("xattrop", "dirty")]
        find = ["find", *indices, "-type", "f", "!", "-name", "xattrop-*", "!", "-name", "dirty-*"]
        if any(host.run(find).stdout for host in site.hosts.hosts):
            return False
        shown = (
            site.hosts.host("brick1")
            .run(["gluster", "volume", "heal", volume, "info"], check=False)
            .stdout.splitlines()
        )
        return [line for line in shown if line.startswith("Number")] == ["Number of entries: 0"] * 3

    progress.wait_until(f"{volume} to be healed", healed, seconds=HEAL_SECONDS, interval=2)


LOOK = """
import json, os, sys
sys.path.insert(0, "/usr/lib/kadalu-quotad")
from kadalu_ext.quotad.xfs import Xfs

top, wrong, seen = sys.argv[1], [], {}
fd = os.open(top, os.O_RDONLY)
table = Xfs().table(fd)
tag = table.get_tag(fd)

def look(path, directory):
    at = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        has = table.get_tag(at)
        if has.project_id != tag.project_id or has.inherit != directory:
            wrong.append(f"{path}: {has}")
        at_stat = os.fstat(at)
        seen[at_stat.st_ino] = at_stat.st_blocks * 512
    finally:
        os.close(at)

look(top, True)
for parent, directories, files in os.walk(top):
    for name in directories:
        look(os.path.join(parent, name), True)
    for name in files:
        look(os.path.join(parent, name), False)
row = table.get(tag.project_id)
print(json.dumps({"wrong": wrong, "inodes": len(seen), "bytes": sum(seen.values()), "project": tag.project_id,
                  "used_inodes": row.used_inodes, "used_bytes": row.used_bytes}))
"""


def check_brick(host: BrickHost, volume: str, name: str) -> None:
    """All that is in the PV's directory has its project, and the kernel counts that and nothing else."""
    seen = json.loads(host.run(["python3", "-B", "-", f"/bricks/{volume}/{pv_path(PvName(name))}"], input=LOOK).stdout)
    assert seen["wrong"] == []
    assert (seen["used_inodes"], seen["used_bytes"]) == (seen["inodes"], seen["bytes"])


@contextmanager
def writing(directory: Path) -> Iterator[list[Writer]]:
    """Two writers in the PV during the block. No call of theirs may fail, and all they have done must be there."""
    writers = [Writer(directory, number) for number in range(2)]
    for writer in writers:
        writer.start()
    yield writers
    for writer in writers:
        writer.end()
        check_tree(writer)


def wait_rounds(site: Site, writers: list[Writer], more: int) -> None:
    goal = max(writer.rounds for writer in writers) + more
    site.wait("the writers to go on", lambda: all(writer.failure or writer.rounds >= goal for writer in writers))


def replace_brick(site: Site, volume: str, host: BrickHost) -> None:
    """As with a new disk in the old place: gluster gets it empty."""
    brick = f"{host.name}:/bricks/{volume}"
    site.hosts.gluster("volume", "reset-brick", volume, brick, "start")
    host.run(["rm", "-r", f"/bricks/{volume}"])
    host.run(["mkdir", f"/bricks/{volume}"])
    site.hosts.gluster("volume", "reset-brick", volume, brick, brick, "commit", "force")
    site.hosts.wait_online(volume)
    site.wait(
        "a full heal", lambda: not host.run(["gluster", "volume", "heal", volume, "full"], check=False).returncode
    )


@pytest.mark.parametrize(("volume", "limit"), [("heal-rep", 256), ("heal-dis", 128)])
def test_a_replaced_brick_is_tagged_whole_while_clients_write(site: Site, volume: str, limit: int) -> None:
    name, host = f"replaced-{volume}", site.hosts.host("brick3")
    directory = site.make_pv(volume, name, 256 * MIB)
    site.wait_enforced(name, [limit * MIB] * 3)
    with writing(directory) as writers:
        # it stands still until there is something to tag
        host.run(["systemctl", "stop", "kadalu-quotad"])
        replace_brick(site, volume, host)
        found = ["find", f"/bricks/{volume}/{pv_path(PvName(name))}", "-type", "f"]

        def filled() -> bool:
            site.hosts.host("brick1").run(["gluster", "volume", "heal", volume], check=False)
            return len(host.run(found, check=False).stdout.splitlines()) > 10

        progress.wait_until("some files to be healed", filled, seconds=HEAL_SECONDS, interval=2)
        host.run(["systemctl", "start", "kadalu-quotad"])
        # its record may be healed later than its tree
        progress.wait_until("a record", lambda: site.status(host, name).get("size_bytes"), seconds=HEAL_SECONDS)
        site.wait_enforced(name, [limit * MIB] * 3)
        wait_rounds(site, writers, 5)
    heal(site, volume)
    for writer in writers:
        check_tree(writer)
    for each in site.hosts.hosts:
        check_brick(each, volume, name)
    site.delete_pv(volume, name)


def fill(file: Path) -> None:
    """Writes until there is no room; what was said to be written is."""
    with pytest.raises(OSError) as refused, open(file, "wb", buffering=0) as target:
        while True:
            target.write(bytes(MIB // 4))
            os.fsync(target.fileno())
    assert refused.value.errno == errno.ENOSPC, refused.value


@pytest.mark.parametrize(
    ("volume", "limits"), [("heal-arb", [32, 32, 0]), ("heal-dis", [16, 16, 16])]
)  # fmt: skip
def test_a_full_pv_shows_how_many_of_its_files_wait_for_heal(site: Site, volume: str, limits: list[int]) -> None:
    name, data, lame = f"full-{volume}", site.hosts.host("brick1"), site.hosts.host("brick3")
    directory = site.make_pv(volume, name, 32 * MIB)
    site.wait_enforced(name, [limit * MIB for limit in limits])
    lame.run(["pkill", "-f", f"glusterfsd.*/bricks/{volume} "])
    for number in range(3):
        (directory / f"small{number}").write_bytes(b"some")
    if volume == "heal-arb":
        fill(directory / "large")
    else:
        # with a brick down disperse needs all others: what one of them refuses is EIO, and may damage the file
        (directory / "large").write_bytes(bytes(32 * MIB - 192 * 1024))
    # the files and the directory that they are in
    site.wait("it to be full, with what waits", lambda: site.status(data, name)["full"])
    assert site.status(data, name)["heal_pending"] == 5
    words = "full, 5 of its files wait for heal on this brick: expand its claim, or delete something in it"
    assert words in data.run(["kadalu-quotad", "status", "--volume", volume, "--troubled"], check=False).stdout
    assert words in data.run(["kadalu-quotad", "explain", name], check=False).stdout
    shown = data.run(["kadalu-quotad", "check", "--volume", volume], check=False)
    assert (shown.returncode, "5 of its files wait" in shown.stdout) == (1, True)
    row = json.loads(data.run(["kadalu-quotad", "report", "--volume", volume, "--json"], check=False).stdout)
    assert [(seen["full"], seen["heal_pending"]) for seen in row["volumes"]] == [(1, 5)]
    # the remedy, and the brick back
    site.change_record(volume, name, 64 * MIB)
    site.hosts.gluster("volume", "start", volume, "force")
    site.hosts.wait_online(volume)
    heal(site, volume)
    site.wait_enforced(name, [2 * limit * MIB for limit in limits])
    assert (site.status(data, name)["full"], site.status(data, name)["heal_pending"]) == (False, 0)
    for host in site.hosts.hosts:
        check_brick(host, volume, name)
    site.delete_pv(volume, name)


ADOPT = """
import json, os, sys, time
sys.path.insert(0, "/usr/lib/kadalu-quotad")
from kadalu_ext.quotad.xfs import Xfs

brick, files = sys.argv[1], int(sys.argv[2])
table = Xfs().table(os.open(brick, os.O_RDONLY))

def project(path):
    fd = os.open(path, os.O_RDONLY)
    try:
        return table.get_tag(fd).project_id
    finally:
        os.close(fd)

def put(name):
    path, staged = f"subvol/aa/bb/{name}", f"{brick}/info/quota/.{name}.new"
    os.makedirs(f"{brick}/{path}", exist_ok=True)
    os.makedirs(staged)
    os.setxattr(staged, "user.kadalu.record", json.dumps({"v": 1, "path": path, "size": 64 << 20}).encode())
    os.rename(staged, f"{brick}/info/quota/{name}")

def limited(name):
    number = project(f"{brick}/subvol/aa/bb/{name}")
    row = table.get(number) if number else None
    return bool(row and row.limits.bhard_bytes == 64 << 20)

def wait(what, probe):
    deadline = time.monotonic() + 300
    while not probe():
        if time.monotonic() > deadline:
            sys.exit(f"waited in vain for {what}")
        time.sleep(0.001)

for d in range(files // 1000):
    os.makedirs(f"{brick}/subvol/aa/bb/big/{d}")
    for f in range(1000):
        os.close(os.open(f"{brick}/subvol/aa/bb/big/{d}/{f}", os.O_CREAT | os.O_WRONLY))
put("big")
first = f"{brick}/subvol/aa/bb/big/{os.listdir(f'{brick}/subvol/aa/bb/big')[0]}"
wait("the big one to be begun", lambda: project(f"{first}/{os.listdir(first)[0]}"))
for n in range(10):
    put(f"new{n}")
    wait(f"new{n}", lambda: limited(f"new{n}"))
print("the big one is done" if limited("big") else "the big one is at work")
wait("the big one", lambda: limited("big"))
"""


def test_new_records_do_not_wait_for_a_big_tree_that_is_adopted(site: Site) -> None:
    host, brick = site.hosts.host("brick1"), "/bricks/heal-rep"
    host.run(["mkdir", "-p", f"{brick}/info/quota"])
    assert host.run(["python3", "-B", "-", brick, "30000"], input=ADOPT).stdout == "the big one is at work\n"
    wrong = Site.untagged(host, f"{brick}/subvol/aa/bb/big", site.status(host, "big")["project_id"])
    assert wrong == []
    host.run(["sh", "-c", f"rm -r {brick}/info/quota/big {brick}/info/quota/new* {brick}/subvol/aa/bb"])


def test_an_inode_limit_holds_on_every_brick_of_every_kind(site: Site) -> None:
    for volume, limits in {"heal-rep": [64, 64, 64], "heal-arb": [64, 64, 0], "heal-dis": [32, 32, 32]}.items():
        name = f"inodes-{volume}"
        directory = site.make_pv(volume, name, 64 * MIB, inodes=10)
        projects = site.wait_enforced(name, [limit * MIB for limit in limits])
        with pytest.raises(OSError) as refused:
            for number in range(10):  # with the directory itself eleven
                (directory / f"file{number}").touch()
        assert refused.value.errno == errno.ENOSPC, refused.value
        for host, project in zip(site.hosts.hosts, projects, strict=True):
            shown = host.run(["xfs_quota", "-x", "-c", "report -p -n -N -i", "/bricks"]).stdout
            assert re.search(rf"^#{project} +10 +0 +10 ", shown, re.MULTILINE), shown
            assert site.status(host, name)["full"]
            assert "64 MiB, 10 inodes" in host.run(["kadalu-quotad", "explain", name], check=False).stdout
        site.delete_pv(volume, name)
