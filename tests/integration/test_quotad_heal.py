"""Self-heal fills what kadalu-quotad tags, while clients write; and what waits for heal when there is no room."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import pytest

from kadalu_ext.layout import pv_path
from kadalu_ext.record import PvName
from kadalu_ext.units import MIB
from tests.integration import limit_site
from tests.integration.limit_round import play, prepare
from tests.integration.limit_writers import Load
from tests.integration.quotad_site import Site, connected, served
from tests.integration.tree_writer import Writer
from tests.testbed import deb, progress
from tests.testbed.brickhosts import BrickHost, BrickHosts
from tests.testbed.errors import Unmet

VOLUMES = {"heal-rep": "replica 3", "heal-arb": "arbiter", "heal-dis": "disperse 2+1"}


@pytest.fixture(scope="module")
def site(brick_hosts: BrickHosts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with served(brick_hosts, VOLUMES, tmp_path_factory.mktemp("clients")) as site:
        for volume in VOLUMES:
            threads = "disperse.shd-max-threads" if volume == "heal-dis" else "cluster.shd-max-threads"
            brick_hosts.gluster("volume", "set", volume, "network.ping-timeout", "10", threads, "4")
        yield site


@pytest.fixture(scope="module")
def csi(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[limit_site.Site]:
    """The same volumes as the CSI driver has them: claims by the controller's clients, and two nodes' mounters."""
    with limit_site.connected(site.hosts, VOLUMES, tmp_path_factory.mktemp("csi")) as csi:
        yield csi


SIZE = 256 * MIB
"""Of a PV with a writer in it."""


HEAL_SECONDS = 400.0


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a brick is."""

    host: BrickHost
    path: str


def bricks(site: Site, volume: str) -> list[Place]:
    """Where the bricks of a volume are now, in its order."""
    (found,) = (each for each in site.hosts.volumes() if each.name == volume)
    parts = (brick.partition(":") for brick in found.bricks)
    return [Place(host=site.hosts.host(host), path=path) for host, _, path in parts]


def wait_healers(site: Site, volume: str) -> None:
    """Until a self-heal daemon on every host has the volume. glusterd 10.3 may hand it a reset brick's volume before it
    takes the old one from it: then what waits in that host's index waits for ever, or for `volume start … force`."""

    def there() -> bool:
        # refused while another command is at work on the volume, or hosts are finding each other
        first = site.hosts.host("brick1")
        shown = first.run(["gluster", "volume", "status", volume, "--xml"], check=False)
        if shown.returncode == 0:
            nodes = ElementTree.fromstring(shown.stdout).iterfind("volStatus/volumes/volume/node")  # noqa: S314 (our guest's)
            daemons = [node.findtext("status") for node in nodes if node.findtext("hostname") == "Self-heal Daemon"]
            if daemons == ["1"] * 3:
                return True
        first.run(["gluster", "--mode=script", "volume", "start", volume, "force"], check=False)
        return False

    progress.wait_until(f"the self-heal daemons of {volume}", there, seconds=HEAL_SECONDS, interval=2)


def nudge(site: Site, volume: str) -> None:
    """Has the indices looked through now, not after ten minutes; soon after a brick has started that is refused."""
    site.hosts.host("brick1").run(["gluster", "volume", "heal", volume], check=False)


def heal(site: Site, volume: str) -> None:
    """Lets self-heal bring all that waits, until gluster says that nothing does."""
    wait_healers(site, volume)
    places = bricks(site, volume)

    def healed() -> bool:
        nudge(site, volume)
        # to count what is in the indices costs gluster less than to say what it is
        for brick in places:
            indices = [f"{brick.path}/.glusterfs/indices/{index}" for index in ("xattrop", "dirty")]
            find = ["find", *indices, "-type", "f", "!", "-name", "xattrop-*", "!", "-name", "dirty-*"]
            found = brick.host.run(find, check=False)  # what is healed meanwhile goes away under it
            if found.returncode != 0 or found.stdout:
                wait_healers(site, volume)  # one may have lost the volume since
                return False
        shown = (
            site.hosts.host("brick1")
            .run(["gluster", "volume", "heal", volume, "info"], check=False)
            .stdout.splitlines()
        )
        return [line for line in shown if line.startswith("Number")] == ["Number of entries: 0"] * 3

    try:
        progress.wait_until(f"{volume} to be healed", healed, seconds=HEAL_SECONDS, interval=2)
    except Unmet as unmet:
        waits = site.hosts.host("brick1").run(["gluster", "volume", "heal", volume, "info"], check=False).stdout
        raise Unmet(f"{unmet}: {waits}") from None


def empty_trash(site: Site, volume: str) -> None:
    """While all is well: what is removed while a brick is behind stays there, and in the indices of the others."""
    connected(site.mounts / volume)
    for deleted in (site.mounts / volume).glob("trash/*"):
        shutil.rmtree(deleted)


LOOK = """
import glob, json, os, sys
sys.path.insert(0, "/usr/lib/kadalu-quotad")
from kadalu_ext.quotad.xfs import Xfs

brick, top, wrong, seen = sys.argv[1], sys.argv[2], [], {}
fd = os.open(top, os.O_RDONLY)
table = Xfs().table(fd)
tag = table.get_tag(fd)

def look(path, directory, within):
    at = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        has = table.get_tag(at)
        if within and (has.project_id != tag.project_id or has.inherit != directory):
            wrong.append(f"{path}: {has}")
        at_stat = os.fstat(at)
        if has.project_id == tag.project_id:
            seen[at_stat.st_ino] = at_stat.st_blocks * 512
    finally:
        os.close(at)

def look_through(top, within):
    look(top, True, within)
    for parent, directories, files in os.walk(top):
        for name in directories:
            look(os.path.join(parent, name), True, within)
        for name in files:
            look(os.path.join(parent, name), False, within)

look_through(top, True)
# what self-heal took out of a directory stays here for hours, in case it is to be found elsewhere
for aside in glob.glob(f"{brick}/.glusterfs-anonymous-inode-*"):
    look_through(aside, False)
row = table.get(tag.project_id)
print(json.dumps({"wrong": wrong, "inodes": len(seen), "bytes": sum(seen.values()), "project": tag.project_id,
                  "used_inodes": row.used_inodes, "used_bytes": row.used_bytes}))
"""


def check_pv(site: Site, volume: str, name: str, size: int) -> None:
    """It is enforced on every brick, all that is in its directory has its project, and the kernel counts that and
    what self-heal has put aside, and nothing else. A removed file counts until its brick has closed it, which after a
    cut is when the brick gives the client up."""
    site.wait_enforced(name, limits(volume, size))
    where = {brick.host.name: brick.path for brick in bricks(site, volume)}

    def check(host: BrickHost) -> None:
        look = ["python3", "-B", "-", where[host.name], f"{where[host.name]}/{pv_path(PvName(name))}"]

        def counted() -> bool:
            seen = json.loads(host.run(look, input=LOOK).stdout)
            assert seen["wrong"] == []
            return bool((seen["used_inodes"], seen["used_bytes"]) == (seen["inodes"], seen["bytes"]))

        progress.wait_until(f"{host.name} to count of {name} what is in it", counted, seconds=HEAL_SECONDS, interval=2)

    site.hosts.together(check)


LIMITS: dict[str, list[float]] = {"heal-rep": [1, 1, 1], "heal-arb": [1, 1, 0], "heal-dis": [0.5, 0.5, 0.5]}
"""What part of a PV's size each host's brick enforces."""


def limits(volume: str, size: int) -> list[int]:
    return [int(part * size) for part in LIMITS[volume]]


@contextmanager
def written(site: Site, what: str, volumes: Collection[str], *, links: bool = True) -> Iterator[list[Writer]]:
    """A PV on each of the volumes, with a writer in it during the block, of whose calls none may fail; after it, and
    self-heal, all that it did is there, and has its project on every brick."""
    names = {volume: f"{what}-{volume}" for volume in volumes}
    writers = [Writer(site.make_pv(volume, name, SIZE), 0, links=links) for volume, name in names.items()]
    for volume, name in names.items():
        site.wait_enforced(name, limits(volume, SIZE))
    for writer in writers:
        writer.start()
    try:
        yield writers
    finally:
        for writer in writers:
            writer.stop()
    for writer in writers:
        writer.check()
    for volume, name in names.items():
        heal(site, volume)
        check_pv(site, volume, name, SIZE)
    for writer in writers:
        writer.check_tree()
    for volume, name in names.items():
        site.delete_pv(volume, name)


def wait_rounds(writers: list[Writer], more: int) -> None:
    """They go on, and end no earlier than with the round after these."""
    goals = [(writer, writer.rounds + more) for writer in writers]
    progress.wait_until(
        "the writers to go on",
        lambda: all(writer.failure or writer.rounds >= goal for writer, goal in goals),
        seconds=HEAL_SECONDS,
    )


def wait_ended(volume: str, host: BrickHost) -> None:
    """Nobody else waits for a brick's process that was told to end, and until then it does what clients ask."""
    looks = ["pgrep", "-f", f"glusterfsd.*/bricks/{volume} "]
    progress.wait_until("the brick to end", lambda: host.run(looks, check=False).returncode == 1, seconds=HEAL_SECONDS)


def reset_brick(site: Site, volume: str, host: BrickHost) -> None:
    """As with a new disk in the old place: gluster gets it empty."""
    brick = f"{host.name}:/bricks/{volume}"
    site.hosts.gluster("volume", "reset-brick", volume, brick, "start")
    wait_ended(volume, host)
    host.run(["rm", "-r", f"/bricks/{volume}"])
    host.run(["mkdir", f"/bricks/{volume}"])
    site.hosts.gluster("volume", "reset-brick", volume, brick, brick, "commit", "force")
    site.hosts.wait_online(volume)
    heal_all(site, volume)


def replace_brick(site: Site, volume: str, host: BrickHost) -> None:
    brick = f"{host.name}:/bricks/{volume}"
    site.hosts.gluster("volume", "replace-brick", volume, brick, f"{brick}-new", "commit", "force")
    site.hosts.wait_online(volume)
    heal_all(site, volume)


def heal_all(site: Site, volume: str) -> None:
    """Has self-heal go through the whole volume, also through what no index has. A daemon may lose the volume a moment
    after all had it (glusterd: "failed to attach to pid -1"), and does not get it back by itself."""

    def begun() -> bool:
        wait_healers(site, volume)
        full = ["gluster", "volume", "heal", volume, "full"]
        return site.hosts.host("brick1").run(full, check=False).returncode == 0

    site.wait("a full heal", begun)


def test_a_host_that_was_down_while_clients_wrote_and_claimed_is_as_the_others_when_it_is_back(
    site: Site, csi: limit_site.Site
) -> None:
    """It was cut off: clients wait for network.ping-timeout, and then go on without it. Not its power: what XFS had not
    written yet would be lost, gluster knows nothing of that, and brings renamed and removed names back. And no hard
    links, of which gluster's self-heal leaves names behind: docs/facts.md."""
    down = site.hosts.host("brick2")
    claims = {volume: f"meanwhile-{volume}" for volume in VOLUMES}
    with written(Site(site.hosts, csi.nodes[0].mounts(VOLUMES)), "down", VOLUMES, links=False) as writers:
        wait_rounds(writers, 1)
        down.cut()
        wait_rounds(writers, 1)
        for volume, name in claims.items():
            directory = csi.create(volume, name, 4 * MIB)[0]
            site.wait_enforced(name, limits(volume, 4 * MIB), but=down)
            (directory / "some").write_bytes(bytes(MIB))
        down.uncut()
        for volume in VOLUMES:
            site.hosts.wait_online(volume, seconds=HEAL_SECONDS)
        wait_rounds(writers, 1)
    for volume, name in claims.items():
        check_pv(site, volume, name, 4 * MIB)
        connected(site.mounts / volume)
        full = {errno.ENOSPC, errno.EIO} if volume == "heal-dis" else {errno.ENOSPC}  # adr/0019
        fill(site.mounts / volume / pv_path(PvName(name)) / "more", full)
        site.delete_pv(volume, name)


@contextmanager
def without_brick(site: Site, volume: str, host: BrickHost) -> Iterator[None]:
    """The brick's process on this host is dead during the block."""
    host.run(["pkill", "-f", f"glusterfsd.*/bricks/{volume} "])
    try:
        wait_ended(volume, host)
        yield
    finally:
        site.hosts.gluster("volume", "start", volume, "force")
        site.hosts.wait_online(volume, seconds=HEAL_SECONDS)
        connected(site.mounts / volume)


def test_a_full_pv_of_replica_3_stays_readable_and_loses_nothing_that_was_fsynced(csi: limit_site.Site) -> None:
    """Disperse is another matter (test_trim_fragments.py), and so is an arbiter: adr/0023; limit_round.py by hand."""
    load = Load(large=False, fsync=True)
    pv = prepare(csi, "heal-rep", "limit-heal-rep", load, writers=2, size_bytes=6 * MIB, room_bytes=MIB)
    play(csi, [pv], fault="none", host="brick2")
    assert pv.found.promised and all(writer.refused for writer in pv.writers)
    assert (pv.failures, pv.found.unreadable, pv.found.lost) == ([], [], [])
    csi.delete(pv.volume, pv.name)


def test_a_file_of_which_both_data_bricks_blame_each_other_is_whole_again_by_what_troubleshooting_tells(
    site: Site, csi: limit_site.Site
) -> None:
    """One blame is made by hand, so that it is there each time: docs/facts.md has what leads to both. If gluster heals
    that by itself, think again of adr/0023."""
    volume, name, content = "heal-arb", "blamed", os.urandom(MIB)
    top, where = pv_path(PvName(name)), bricks(site, volume)
    directory = site.make_pv(volume, name, 32 * MIB)
    for file in ("file", "other"):
        (directory / file).write_bytes(content)
    with without_brick(site, volume, where[0].host):
        for file in ("file", "other"):
            with open(directory / file, "ab") as target:
                target.write(b"more")
        for brick in (where[0], where[2]):
            pending = ["-n", f"trusted.afr.{volume}-client-1", "-v", f"0x{1:08x}{0:016x}"]
            brick.host.run(["setfattr", *pending, f"{brick.path}/{top}/file"])

    def healed_but_for_it() -> bool:
        nudge(site, volume)
        # soon after a brick has started it is refused
        waits = site.hosts.host("brick1").run(["gluster", "volume", "heal", volume, "info"], check=False).stdout
        return f"{top}/file" in waits and f"{top}/other" not in waits

    def read(file: str) -> bytes:
        with csi.reader(volume) as mount:
            return (mount / top / file).read_bytes()

    progress.wait_until("the other file to be healed", healed_but_for_it, seconds=HEAL_SECONDS, interval=2)
    assert read("other") == content + b"more"
    with pytest.raises(OSError, match=os.strerror(errno.ENOTCONN)):
        read("file")
    sizes = [int(brick.host.run(["stat", "-c", "%s", f"{brick.path}/{top}/file"]).stdout) for brick in where]
    assert sizes == [MIB, MIB + 4, 0]
    for brick in where[1:]:
        brick.host.run(["setfattr", "-x", f"trusted.afr.{volume}-client-0", f"{brick.path}/{top}/file"])
    heal(site, volume)
    assert read("file") == content
    check_pv(site, volume, name, 32 * MIB)
    site.delete_pv(volume, name)


def fill(file: Path, full: Collection[int] = (errno.ENOSPC,)) -> None:
    """Writes until there is no room."""
    with pytest.raises(OSError) as refused, open(file, "wb", buffering=0) as target:
        while True:
            target.write(bytes(MIB // 4))
            os.fsync(target.fileno())
    assert refused.value.errno in full, refused.value


@pytest.mark.parametrize("volume", ["heal-arb", "heal-dis"])
def test_a_full_pv_shows_how_many_of_its_files_wait_for_heal(site: Site, volume: str) -> None:
    name, data, lame = f"full-{volume}", site.hosts.host("brick1"), site.hosts.host("brick3")
    directory = site.make_pv(volume, name, 32 * MIB)
    site.wait_enforced(name, limits(volume, 32 * MIB))
    with without_brick(site, volume, lame):
        for number in range(3):
            (directory / f"small{number}").write_bytes(b"some")
        if volume == "heal-arb":
            fill(directory / "large")
        else:
            # with a brick down disperse needs all others: what one of them refuses is EIO, and may damage the file
            (directory / "large").write_bytes(bytes(32 * MIB - 192 * 1024))

        # the files and the directory that they are in
        def seen() -> bool:
            pv = site.status(data, name)
            return (pv.get("full"), pv.get("heal_pending")) == (True, 5)

        site.wait("it to be full, with what waits", seen)
        words = "full, 5 of its files wait for heal on this brick: expand its claim, or delete something in it"
        assert words in data.run(["kadalu-quotad", "status", "--volume", volume, "--troubled"], check=False).stdout
        assert words in data.run(["kadalu-quotad", "explain", name], check=False).stdout
        shown = data.run(["kadalu-quotad", "check", "--volume", volume], check=False)
        assert (shown.returncode, "5 of its files wait" in shown.stdout) == (1, True)
        row = json.loads(data.run(["kadalu-quotad", "report", "--volume", volume, "--json"], check=False).stdout)
        (volume_row,) = row["volumes"]
        assert volume_row["full"] == 1
        assert volume_row["heal_pending"] >= 5  # and what waits that is in no PV
        # the remedy, and the brick back
        site.change_record(volume, name, 64 * MIB)
    heal(site, volume)
    check_pv(site, volume, name, 64 * MIB)
    assert (site.status(data, name)["full"], site.status(data, name)["heal_pending"]) == (False, 0)
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

def prepare(name):
    path, staged = f"subvol/aa/bb/{name}", f"{brick}/info/quota/.{name}.new"
    os.makedirs(f"{brick}/{path}", exist_ok=True)
    os.makedirs(staged)
    os.setxattr(staged, "user.kadalu.record", json.dumps({"v": 1, "path": path, "size": 64 << 20}).encode())

def put(name):
    os.rename(f"{brick}/info/quota/.{name}.new", f"{brick}/info/quota/{name}")

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
# all but the renames before it begins: the disk may keep this one waiting while the daemon works on
for name in ("big", *(f"new{n}" for n in range(5))):
    prepare(name)
put("big")
first = f"{brick}/subvol/aa/bb/big/{os.listdir(f'{brick}/subvol/aa/bb/big')[0]}"
wait("the big one to be begun", lambda: project(f"{first}/{os.listdir(first)[0]}"))
for n in range(5):
    put(f"new{n}")
    wait(f"new{n}", lambda: limited(f"new{n}"))
print("the big one is done" if limited("big") else "the big one is at work")
wait("the big one", lambda: limited("big"))
"""


def test_new_records_do_not_wait_for_a_big_tree_that_is_adopted(site: Site) -> None:
    # on a volume of one brick: what is made and removed behind gluster's back is never healed onto another
    host, brick = site.hosts.host("brick1"), "/bricks/adopt"
    site.hosts.create_volume("adopt", "brick", ["brick1"])
    host.run(["sh", "-c", f"printf '\\nadopt\\n' >> {deb.LIST}"])
    host.run(["mkdir", "-p", f"{brick}/info/quota"])
    done = host.run(["python3", "-B", "-", brick, "6000"], input=ADOPT, timeout=900)
    assert done.stdout == "the big one is at work\n"
    wrong = Site.untagged(host, f"{brick}/subvol/aa/bb/big", site.status(host, "big")["project_id"])
    assert wrong == []
    host.run(["sed", "-i", "/adopt/d", deb.LIST])
    site.hosts.delete_volume("adopt")


def test_an_inode_limit_holds_on_every_brick_of_every_kind(site: Site) -> None:
    for volume in VOLUMES:
        name = f"inodes-{volume}"
        directory = site.make_pv(volume, name, 64 * MIB, inodes=10)
        projects = site.wait_enforced(name, limits(volume, 64 * MIB))
        with pytest.raises(OSError) as refused:
            for number in range(10):  # with the directory itself eleven
                (directory / f"file{number}").touch()
        assert refused.value.errno == errno.ENOSPC, refused.value
        project_on = dict(zip([host.name for host in site.hosts.hosts], projects, strict=True))

        def check(host: BrickHost, name: str = name, project_on: dict[str, int] = project_on) -> None:
            shown = host.run(["xfs_quota", "-x", "-c", "report -p -n -N -i", "/bricks"]).stdout
            assert re.search(rf"^#{project_on[host.name]} +10 +0 +10 ", shown, re.MULTILINE), shown
            assert site.status(host, name)["full"]
            assert "64 MiB, 10 inodes" in host.run(["kadalu-quotad", "explain", name], check=False).stdout

        site.hosts.together(check)
        site.delete_pv(volume, name)


def test_a_brick_that_is_new_in_its_place_or_at_another_path_is_tagged_whole_while_clients_write(site: Site) -> None:
    """The last, for one brick stays at another path, on the same file system: nothing is restarted for that, and the
    old one's limits are lifted."""
    host, volumes = site.hosts.host("brick3"), ("heal-rep", "heal-dis")
    for volume in volumes:
        heal(site, volume)
        empty_trash(site, volume)  # a file in it, of a PV that an earlier test deleted, was once never healed
    with written(site, "new", volumes) as writers:
        # it stands still until there is something to tag
        host.run(["systemctl", "stop", "kadalu-quotad"])
        reset_brick(site, "heal-rep", host)

        def filled() -> bool:
            nudge(site, "heal-rep")
            found = ["find", f"/bricks/heal-rep/{pv_path(PvName('new-heal-rep'))}", "-type", "f"]
            return len(host.run(found, check=False).stdout.splitlines()) > 5

        progress.wait_until("some files to be healed", filled, seconds=HEAL_SECONDS)
        host.run(["systemctl", "start", "kadalu-quotad"])
        process = host.run(["systemctl", "show", "-P", "MainPID", "kadalu-quotad"]).stdout
        old = site.wait("the old brick's PV", lambda: site.status(host, "new-heal-dis").get("project_id"))
        replace_brick(site, "heal-dis", host)

        def enforced(volume: str) -> bool:
            # its record may be healed later than its tree
            nudge(site, volume)
            return bool(site.status(host, f"new-{volume}").get("state") == "enforced")

        progress.wait_until("the PVs to be enforced", lambda: all(map(enforced, volumes)), seconds=HEAL_SECONDS)
        wait_rounds(writers, 3)
    site.wait("the old brick's limit to be lifted", lambda: not site.limits(host).get(old))
    host.run(["rm", "-r", "/bricks/heal-dis"])
    assert host.run(["systemctl", "show", "-P", "MainPID", "kadalu-quotad"]).stdout == process
    # what was deleted just now, and a brick's path that went: the daemon may yet look again
    site.wait("all to be well", lambda: host.run(["kadalu-quotad", "check"], check=False).stdout.startswith("OK"))
