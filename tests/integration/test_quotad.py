"""kadalu-quotad on three real brick hosts: its package, its unit, real XFS, real volumes with clients on them."""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Callable, Iterator

import pytest

from kadalu_ext.layout import pv_path
from kadalu_ext.record import PvName
from kadalu_ext.units import MIB
from tests.integration.quotad_site import Site, served
from tests.testbed import deb, paths
from tests.testbed.brickhosts import BrickHosts

VOLUMES = {"quota-rep": "replica 3", "quota-arb": "arbiter", "quota-dis": "disperse 2+1"}


@pytest.fixture(scope="module")
def site(brick_hosts: BrickHosts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with served(brick_hosts, VOLUMES, tmp_path_factory.mktemp("clients")) as site:
        yield site


def test_real_xfs_keeps_the_contract_that_the_fake_keeps(site: Site) -> None:
    host = site.hosts.host("brick1")
    host.run(["mkdir", "-p", "/tmp/contract/tests/unit/quotad", "/tmp/contract/tests/contract"])
    for path in ("__init__.py", "unit/__init__.py", "unit/quotad/__init__.py", "unit/quotad/fakes.py",
                 "contract/__init__.py", "contract/test_quota_table.py"):  # fmt: skip
        host.put(paths.REPOSITORY / "tests" / path, f"/tmp/contract/tests/{path}")
    environment = ["env", "PYTHONPATH=/tmp/contract:/usr/lib/kadalu-quotad"]
    done = host.run([*environment, "python3", "-B", "-m", "tests.contract.test_quota_table", "/bricks"], check=False)
    assert done.returncode == 0, done.stderr
    assert "OK" in done.stderr
    host.run(["rm", "-r", "/tmp/contract"])


def test_the_package_brings_a_unit_that_runs_and_survives_a_restart_of_the_host(site: Site) -> None:
    for host in site.hosts.hosts:
        assert host.run(["systemctl", "is-active", "kadalu-quotad"]).stdout.strip() == "active"
        assert host.run(["systemctl", "is-enabled", "kadalu-quotad"]).stdout.strip() == "enabled"
        shown = host.run(["systemctl", "show", "-P", "StatusText", "kadalu-quotad"]).stdout
        assert "3 bricks, 0 PVs enforced" in shown


@pytest.mark.parametrize(
    ("volume", "limits"),
    [("quota-rep", [64, 64, 64]), ("quota-arb", [64, 64, 0]), ("quota-dis", [32, 32, 32])],
)
def test_every_kind_of_volume_gets_its_limit_on_every_brick(site: Site, volume: str, limits: list[int]) -> None:
    directory = site.make_pv(volume, f"kind-{volume}", 64 * MIB)
    site.wait_enforced(f"kind-{volume}", [limit * MIB for limit in limits])
    seen = os.statvfs(directory)
    assert seen.f_blocks * seen.f_frsize == 64 * MIB
    site.delete_pv(volume, f"kind-{volume}")


def test_a_write_stops_at_the_limit_and_goes_on_when_the_pv_grew(site: Site) -> None:
    file = site.make_pv("quota-rep", "grow", 32 * MIB) / "file"
    projects = site.wait_enforced("grow", [32 * MIB] * 3)

    def write(mebibytes: int) -> None:
        with open(file, "wb", buffering=0) as target:
            for _ in range(mebibytes):
                target.write(bytes(MIB))
            os.fsync(target.fileno())

    with pytest.raises(OSError) as refused:
        write(48)
    assert refused.value.errno == errno.ENOSPC
    site.change_record("quota-rep", "grow", 64 * MIB)
    assert site.wait_enforced("grow", [64 * MIB] * 3) == projects
    write(48)
    site.change_record("quota-rep", "grow", 16 * MIB)
    site.wait_enforced("grow", [16 * MIB] * 3)
    site.delete_pv("quota-rep", "grow")


def test_a_deleted_pv_leaves_no_limit(site: Site) -> None:
    site.make_pv("quota-rep", "gone", 32 * MIB)
    projects = site.wait_enforced("gone", [32 * MIB] * 3)
    site.delete_pv("quota-rep", "gone")
    for host, project in zip(site.hosts.hosts, projects, strict=True):
        site.wait("the limit to be lifted", lambda h=host, p=project: not site.limits(h).get(p))  # type: ignore[misc]


def test_a_pv_that_is_filled_already_is_tagged_whole(site: Site) -> None:
    directory = site.mounts / "quota-rep" / pv_path(PvName("filled"))
    for number in range(20):
        (directory / f"d{number}" / "deep").mkdir(parents=True)
        (directory / f"d{number}" / "deep" / "file").write_bytes(bytes(4096))
        (directory / f"d{number}" / "link").symlink_to("/etc/passwd")
    (directory / "d1").chmod(0o2775)
    (directory / "d1" / "deep" / "file").chmod(0o4755)
    site.put_record("quota-rep", "filled", 64 * MIB)
    projects = site.wait_enforced("filled", [64 * MIB] * 3)
    for host, project in zip(site.hosts.hosts, projects, strict=True):
        tree = f"/bricks/quota-rep/{pv_path(PvName('filled'))}"
        assert site.untagged(host, tree, project) == []
        # XFS takes these bits away, unless whoever gives the project has CAP_FSETID
        kept = host.run(["find", f"{tree}/d1", "-perm", "/6000", "-printf", "%f %m\n"]).stdout
        assert sorted(kept.splitlines()) == ["d1 2775", "file 4755"]
    # within the PV nothing is of another project, so nothing is refused with EXDEV
    (directory / "d1" / "deep" / "file").rename(directory / "moved")
    (directory / "d2" / "deep").rename(directory / "d3" / "other")
    site.delete_pv("quota-rep", "filled")


def test_hostile_records_are_named_and_nothing_outside_is_touched(site: Site) -> None:
    host, brick = site.hosts.host("brick1"), "/bricks/quota-rep"
    before = site.limits(host)
    script = f"""
import os, json
def put(name, value):
    os.mkdir("{brick}/info/quota/" + name)
    os.setxattr("{brick}/info/quota/" + name, "user.kadalu.record", value)
good = lambda **more: json.dumps({{"v": 1, "size": 1 << 20, **more}}).encode()
os.makedirs("{brick}/subvol/ee", exist_ok=True)
os.makedirs("/bricks/outside/ff/evil-link", exist_ok=True)
os.symlink("/bricks/outside/ff", "{brick}/subvol/ee/ff")
put("evil-dots", good(path="subvol/../../outside/ff/evil-dots"))
put("evil-absolute", good(path="/bricks/outside/ff/evil-link"))
put("evil-link", good(path="subvol/ee/ff/evil-link"))
put("evil-root", good(path=".glusterfs"))
put("evil-size", json.dumps({{"v": 1, "path": "subvol/ee/00/evil-size", "size": -1}}).encode())
put("evil-huge", b"[" * 60000)
put("evil-\\x1b[31m", b"")
os.symlink("/etc", "{brick}/info/quota/evil-symlink")
"""
    host.run(["python3", "-"], input=script)
    site.make_pv("quota-rep", "beside", 32 * MIB)
    site.wait_enforced("beside", [32 * MIB] * 3)
    report = json.loads(host.run(["kadalu-quotad", "status", "--json"], check=False).stdout)
    shown_pvs = {pv["pv"]: pv for shown_brick in report["bricks"] for pv in shown_brick["pvs"]}
    for name in ("dots", "absolute", "link", "root", "size", "huge", "\x1b[31m", "symlink"):
        assert shown_pvs[f"evil-{name}"]["state"] == "invalid", name
        assert shown_pvs[f"evil-{name}"]["reason"]
    # Every directory: what the links lead to, gluster's own, the brick's root and above. The PVs' files are not asked.
    outside = ["/bricks/outside", f"{brick}/.glusterfs"]
    shown = host.run(["find", *outside, "-type", "d", "-exec", "lsattr", "-pd", "{}", "+"]).stdout
    shown += host.run(["lsattr", "-pd", brick, "/bricks"]).stdout
    tags = {path: int(project) for project, path in re.findall(r"^ *(\d+) \S+ (/.*)$", shown, re.MULTILINE)}
    assert {"/bricks", brick, "/bricks/outside/ff/evil-link", f"{brick}/.glusterfs"} <= tags.keys()
    assert not {path: project for path, project in tags.items() if project}

    def told() -> bool:
        journal = host.run(["journalctl", "-u", "kadalu-quotad", "--no-pager", "-o", "cat"]).stdout
        return all(name in journal for name in ("evil-dots", "evil-absolute", "evil-link", "evil-symlink"))

    site.wait("the journal to name them", told)
    site.delete_pv("quota-rep", "beside")
    site.wait(
        "the limits to be as before",
        lambda: {k for k, v in site.limits(host).items() if v} <= {k for k, v in before.items() if v},
    )
    host.run(["sh", "-c", f"rm -r {brick}/info/quota/evil-* {brick}/subvol/ee /bricks/outside"])


FILL_AND_KILL = """
import os, signal, subprocess, sys, time
sys.path.insert(0, "/usr/lib/kadalu-quotad")
from kadalu_ext.quotad.xfs import Xfs

def systemctl(*words):
    return subprocess.run(["systemctl", *words, "kadalu-quotad"], stdout=subprocess.PIPE, text=True).stdout.strip()

def tagged(path):
    fd = os.open(path, os.O_RDONLY)
    try:
        return Xfs().table(fd).get_tag(fd).project_id != 0
    finally:
        os.close(fd)

top, record = sys.argv[1:]
for d in range(50):
    os.mkdir(f"{top}/{d}")
    for f in range(80):
        open(f"{top}/{d}/{f}", "w").close()
os.rename(os.path.dirname(record) + "/.held", record)
for last in ("0/0", "25/40", "49/79", "25"):
    systemctl("start")
    pid = int(systemctl("show", "-P", "MainPID"))
    deadline = time.monotonic() + 60
    while not tagged(f"{top}/{last}") and time.monotonic() < deadline:
        time.sleep(0.001)
    os.kill(pid, signal.SIGKILL)
    systemctl("stop")
    print(int(tagged(top)))
"""


def test_killed_in_the_middle_of_a_large_tree_it_ends_where_it_would_have(site: Site) -> None:
    host, brick, pv = site.hosts.host("brick1"), "/bricks/quota-rep", pv_path(PvName("killed"))
    site.make_pv("quota-rep", "killed", 64 * MIB)
    site.wait_enforced("killed", [64 * MIB] * 3)
    # on brick1 alone, as if self-heal had filled it anew
    host.run(["systemctl", "stop", "kadalu-quotad"])
    host.run(["mv", f"{brick}/info/quota/killed", f"{brick}/info/quota/.held"])
    host.run(["mv", f"{brick}/{pv}", f"{brick}/{pv}.old"])
    host.run(["mkdir", f"{brick}/{pv}"])
    script = ["python3", "-B", "-", f"{brick}/{pv}", f"{brick}/info/quota/killed"]
    done = host.run(script, input=FILL_AND_KILL, timeout=600)
    assert "0" in done.stdout.split(), "it was never killed before it was done"
    host.run(["systemctl", "start", "kadalu-quotad"])
    projects = site.wait_enforced("killed", [64 * MIB] * 3)
    assert site.untagged(host, f"{brick}/{pv}", projects[0]) == []
    host.run(["rm", "-r", f"{brick}/{pv}"])
    host.run(["mv", f"{brick}/{pv}.old", f"{brick}/{pv}"])
    site.delete_pv("quota-rep", "killed")


def test_what_changed_while_it_was_stopped_is_put_right_at_the_start(site: Site) -> None:
    for name in ("kept", "removed"):
        site.make_pv("quota-rep", name, 32 * MIB)
        site.wait_enforced(name, [32 * MIB] * 3)
    host = site.hosts.host("brick2")
    kept, removed = (site.status(host, name)["project_id"] for name in ("kept", "removed"))
    host.run(["systemctl", "stop", "kadalu-quotad"])
    site.delete_pv("quota-rep", "removed")
    site.make_pv("quota-rep", "added", 32 * MIB)
    host.run(["xfs_quota", "-x", "-c", f"limit -p bsoft=1m bhard=999m {kept}", "/bricks"])
    assert host.run(["kadalu-quotad", "status"], check=False).returncode == 1
    host.run(["systemctl", "start", "kadalu-quotad"])
    site.wait_enforced("kept", [32 * MIB] * 3)
    site.wait_enforced("added", [32 * MIB] * 3)
    site.wait("the removed one's limit to be lifted", lambda: not site.limits(host).get(removed))
    for name in ("kept", "added"):
        site.delete_pv("quota-rep", name)


def test_a_file_system_that_only_counts_is_refused_with_the_remedy_that_mends_it(site: Site) -> None:
    host = site.hosts.host("brick3")
    remedy = "xfs_quota -x -c 'enable -p' /bricks"
    host.run(["xfs_quota", "-x", "-c", "disable -p", "/bricks"])
    try:
        shown = host.run(["kadalu-quotad", "status"], check=False)
    finally:
        host.run(["sh", "-c", remedy])
    assert shown.returncode == 1
    assert f"run {remedy}" in shown.stdout
    # the daemon may have looked in between, and says so until it looks again
    site.wait("all to be well", lambda: host.run(["kadalu-quotad", "status"], check=False).returncode == 0)


PUT_WHILE_FROZEN = """
import json, os, signal, subprocess, sys
pid = int(subprocess.check_output(["systemctl", "show", "-P", "MainPID", "kadalu-quotad"]))
path = "subvol/aa/bb/frozen"
os.makedirs(f"/spare/b/{path}")
os.makedirs("/spare/b/info/quota/.frozen.new")
value = json.dumps({"v": 1, "path": path, "size": 64 << 20}).encode()
os.setxattr("/spare/b/info/quota/.frozen.new", "user.kadalu.record", value)
os.kill(pid, signal.SIGSTOP)
tasks = [f"/proc/{pid}/task/{task}/stat" for task in os.listdir(f"/proc/{pid}/task")]
while not all(open(task).read().rpartition(") ")[2].startswith("T") for task in tasks):
    pass
os.rename("/spare/b/info/quota/.frozen.new", "/spare/b/info/quota/frozen")
subprocess.run(["fsfreeze", "--freeze", "/spare"], check=True)
os.kill(pid, signal.SIGCONT)
"""


UMOUNT = ["timeout", "300", "sh", "-c", "until umount /spare; do sleep 0.2; done"]
"""A brick's process may be there for a moment after its volume was stopped, and kadalu-quotad may be looking."""


def test_a_file_system_comes_hangs_and_goes_while_another_is_served(site: Site) -> None:
    host = site.hosts.host("brick1")

    def says(words: str) -> Callable[[], bool]:
        return lambda: words in host.run(["systemctl", "show", "-P", "StatusText", "kadalu-quotad"]).stdout

    device = host.plug_disk(1 << 30)
    host.run(["mkfs.xfs", "-q", device])
    host.run(["mkdir", "/spare"])
    mount = ["mount", "-o", "prjquota", device, "/spare"]
    host.run(mount)
    host.run(["gluster", "--mode=script", "volume", "create", "spare", "brick1:/spare/b"])
    host.run(["gluster", "--mode=script", "volume", "start", "spare"])
    host.run(["sh", "-c", f"printf '\\nspare\\n' >> {deb.LIST}"])
    site.wait("the new brick to be taken", says("4 bricks"))
    host.run(["gluster", "--mode=script", "volume", "stop", "spare"])
    host.run(UMOUNT, timeout=None)
    site.wait("the unmounted brick to be refused", says("/spare/b has nothing of a brick in it"))
    host.run(mount)
    site.wait("the mounted brick to be taken", says("4 bricks"))
    before = host.run(["systemctl", "show", "-P", "MainPID", "kadalu-quotad"]).stdout
    host.run(["python3", "-"], input=PUT_WHILE_FROZEN)
    site.make_pv("quota-rep", "beside", 32 * MIB)
    site.wait("the PV beside it to be enforced", lambda: 32 * MIB in site.limits(host).values())
    site.wait("the frozen brick to be named", says("/spare/b: a system call on its file system does not come back"))
    host.run(["fsfreeze", "--unfreeze", "/spare"])
    site.wait("its record to be settled", says("4 bricks"))
    site.wait_enforced("beside", [32 * MIB] * 3)
    # the daemon says that the brick answers before it has done what it was at
    site.wait("its record to be enforced", lambda: site.status(host, "frozen").get("state") == "enforced")
    assert host.run(["systemctl", "show", "-P", "MainPID", "kadalu-quotad"]).stdout == before
    site.delete_pv("quota-rep", "beside")
    host.run(["sed", "-i", "/spare/d", deb.LIST])
    host.run(["gluster", "--mode=script", "volume", "delete", "spare"])
    host.run(UMOUNT, timeout=None)
    host.run(["rmdir", "/spare"])
