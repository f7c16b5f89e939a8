"""What an administrator of a brick host types, on a real one: real XFS, the unit in its sandbox, gluster's own
files."""

from __future__ import annotations

import errno
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from kadalu_ext.units import MIB
from tests.integration.quotad_site import Site, mount
from tests.testbed import deb, progress
from tests.testbed.brickhosts import BrickHost, BrickHosts
from tests.testbed.deb import CONFIG

VOLUME = "commands"
SECONDS = 180.0
MAKE = f"""
import json, os
for name in ("pvc-1", "pvc-2"):
    path = f"subvol/aa/bb/{{name}}"
    os.makedirs(f"/bricks/{VOLUME}/{{path}}/d")
    open(f"/bricks/{VOLUME}/{{path}}/d/file", "w").close()
    record = f"/bricks/{VOLUME}/info/quota/{{name}}"
    os.makedirs(record)
    os.setxattr(record, "user.kadalu.record", json.dumps({{"v": 1, "path": path, "size": 32 << 20}}).encode())
"""
GET = "import sys, urllib.request; sys.stdout.write(urllib.request.urlopen(sys.argv[1], timeout=10).read().decode())"


@pytest.fixture(scope="module")
def host(brick_hosts: BrickHosts) -> Iterator[BrickHost]:
    """A brick host with two PVs on a volume of one brick, and the daemon stopped."""
    host = brick_hosts.host("brick1")
    brick_hosts.create_volume(VOLUME, "brick", ["brick1"])
    deb.install(brick_hosts, [VOLUME])
    host.run(["systemctl", "stop", "kadalu-quotad"])
    host.run(["kadalu-quotad", "once"], check=False)  # limits that earlier tests left, of which it may have lifted some
    host.run(["python3", "-"], input=MAKE)
    yield host
    deb.put_away(brick_hosts)
    brick_hosts.delete_volume(VOLUME)


def quotad(host: BrickHost, *words: str) -> str:
    return host.run(["kadalu-quotad", *words], check=False).stdout


def wait_check(host: BrickHost, says: str) -> None:
    """What the daemon says of itself may come a moment after systemd has it ready."""
    progress.wait_until(f"check to say {says}", lambda: says in quotad(host, "check"), seconds=SECONDS)


def test_a_dry_run_says_what_once_does_and_changes_nothing(host: BrickHost) -> None:
    dry = json.loads(quotad(host, "once", "--dry-run", "--json"))
    assert json.loads(quotad(host, "report", "--json"))["volumes"][0]["enforced"] == 0
    assert quotad(host, "check").startswith("CRITICAL: kadalu-quotad is not running")
    done = json.loads(quotad(host, "once", "--json"))
    assert done["changed"] == dry["changed"]
    assert [(change["pv"], change["inodes_tagged"]) for change in done["changed"]] == [("pvc-1", 3), ("pvc-2", 3)]
    assert json.loads(quotad(host, "explain", "pvc-1", "--json"))["enforced"]


def test_with_the_daemon_all_is_well_and_once_steps_back(host: BrickHost) -> None:
    host.run(["systemctl", "start", "kadalu-quotad"])
    assert quotad(host, "check").startswith("OK: 1 brick, 2 PVs enforced")
    refused = host.run(["kadalu-quotad", "once"], check=False)
    assert (refused.returncode, "the daemon is running" in refused.stderr) == (2, True)


def test_a_reload_needs_no_restart_and_refuses_a_wrong_key(host: BrickHost) -> None:
    before = host.run(["systemctl", "show", "-P", "MainPID", "kadalu-quotad"]).stdout
    host.run(["mkdir", "-p", "/var/lib/metrics"])
    host.run(["tee", CONFIG], input='metrics_textfile = "/var/lib/metrics/kq.prom"\n')
    host.run(["systemctl", "reload", "kadalu-quotad"])

    def written() -> str:
        return host.run(["cat", "/var/lib/metrics/kq.prom"], check=False).stdout

    text = progress.wait_until("the metrics", written, seconds=SECONDS)
    assert f'kadalu_quotad_pvs{{volume="{VOLUME}",brick="/bricks/{VOLUME}",state="enforced"}} 2\n' in text
    host.run(["tee", CONFIG], input='metrics_textfil = "/x.prom"\n')
    assert host.run(["systemctl", "reload", "kadalu-quotad"], check=False).returncode != 0
    assert host.run(["systemctl", "show", "-P", "MainPID", "kadalu-quotad"]).stdout == before
    host.run(["rm", CONFIG])


def test_metrics_over_http_with_the_drop_in(host: BrickHost) -> None:
    drop_ins = "/etc/systemd/system/kadalu-quotad.service.d"
    host.run(["mkdir", "-p", drop_ins])
    host.run(["cp", "/usr/share/kadalu-quotad/metrics-http.conf", drop_ins])
    host.run(["tee", CONFIG], input='metrics_address = "127.0.0.1:9813"\n')
    host.run(["systemctl", "daemon-reload"])
    host.run(["systemctl", "restart", "kadalu-quotad"])
    shown = host.run(["python3", "-c", GET, "http://127.0.0.1:9813/metrics"]).stdout
    assert (
        f'kadalu_quotad_pv_limit_bytes{{volume="{VOLUME}",brick="/bricks/{VOLUME}",pv="pvc-1"}} {32 << 20}\n' in shown
    )
    host.run(["rm", "-r", drop_ins, CONFIG])
    host.run(["systemctl", "daemon-reload"])
    host.run(["systemctl", "restart", "kadalu-quotad"])


def test_a_brick_that_only_the_sandboxed_daemon_cannot_reach_is_critical(host: BrickHost) -> None:
    drop_ins = "/run/systemd/system/kadalu-quotad.service.d"
    host.run(["mkdir", "-p", drop_ins])
    host.run(["tee", f"{drop_ins}/wrong.conf"], input="[Service]\nSystemCallFilter=~quotactl_fd\n")
    try:
        host.run(["systemctl", "daemon-reload"])
        host.run(["systemctl", "restart", "kadalu-quotad"])
        wait_check(host, f"as it runs, refuses /bricks/{VOLUME}")
    finally:
        host.run(["rm", "-r", drop_ins])
        host.run(["systemctl", "daemon-reload"])
        host.run(["systemctl", "restart", "kadalu-quotad"])
    wait_check(host, "OK: ")


HANG = f"""
gluster --mode=script volume create hung brick1:/spare/b force
gluster --mode=script volume start hung
gluster --mode=script volume stop hung
printf '\nhung\n' >> /var/lib/glusterd/kadalustorage.info
glusterfs --volfile-server=brick1 --volfile-id={VOLUME} --pid-file=/run/spare.pid /spare
kill -STOP $(cat /run/spare.pid)
"""
ANSWER = "kill -CONT $(cat /run/spare.pid); timeout 300 sh -c 'until umount /spare; do sleep 0.2; done'"
"""Who looked there, and was killed for it, may be there for a moment still."""


def test_without_the_daemon_a_brick_that_hangs_is_named_and_the_others_are_shown(host: BrickHost) -> None:
    """A mount whose server stands still, over the brick: to look at a frozen XFS, unlike to write to it, does not
    hang."""
    host.run(["systemctl", "stop", "kadalu-quotad"])
    host.run(["mkdir", "-p", "/spare"])
    host.run(["sh", "-ec", HANG])
    try:
        report = json.loads(quotad(host, "status", "--json"))
        answer = json.loads(quotad(host, "explain", "pvc-1", "--json"))
    finally:
        host.run(["sh", "-c", ANSWER], timeout=None)
    seen = {brick["path"]: (brick["refused"], len(brick["pvs"])) for brick in report["bricks"]}
    why = "/spare/b: a system call on its file system does not come back: see dmesg for the reason"
    assert seen == {f"/bricks/{VOLUME}": ("", 2), "/spare/b": (why, 0)}
    assert {brick["path"]: brick["state"] for brick in answer["bricks"]} == {f"/bricks/{VOLUME}": "enforced"}
    host.run(["gluster", "--mode=script", "volume", "delete", "hung"])
    host.run(["rm", "-r", "/spare"])
    host.run(["sed", "-i", "/hung/d", deb.LIST])
    wait_ended(host, "kadalu_ext.quotad")
    host.run(["systemctl", "start", "kadalu-quotad"])


def wait_ended(host: BrickHost, command: str) -> None:
    looks = ["pgrep", "-f", command]
    progress.wait_until(f"{command} to end", lambda: host.run(looks, check=False).returncode == 1, seconds=SECONDS)


def limits(host: BrickHost) -> list[int]:
    return sorted(limit for limit in Site.limits(host).values() if limit)


def test_without_a_file_the_volumes_option_chooses_on_every_host_also_for_bricks_that_come_later(
    host: BrickHost, brick_hosts: BrickHosts
) -> None:
    def shown(each: BrickHost, what: str) -> str:
        return each.run(["systemctl", "show", "-P", what, "kadalu-quotad"]).stdout

    def wait(each: BrickHost, words: str) -> None:
        progress.wait_until(f"{each.name} to say {words}", lambda: words in shown(each, "StatusText"), seconds=SECONDS)

    other, before = brick_hosts.host("brick2"), shown(host, "MainPID")
    brick_hosts.gluster("volume", "set", VOLUME, "user.kadalu-ext.export", "off")
    brick_hosts.together(lambda each: each.run(["rm", deb.LIST]))
    wait(host, "0 bricks")
    assert limits(host) == [32 * MIB, 32 * MIB]
    brick_hosts.gluster("volume", "set", VOLUME, "user.kadalu-ext.export", "on")
    wait(host, "1 brick, 2 PVs enforced")
    brick_hosts.gluster("volume", "add-brick", VOLUME, "replica", "2", f"brick2:/bricks/{VOLUME}", "force")
    wait(other, "1 brick, ")
    brick_hosts.gluster("volume", "remove-brick", VOLUME, "replica", "1", f"brick2:/bricks/{VOLUME}", "force")
    wait(other, "0 bricks")
    # gluster does not wait for the brick's process, which may still make files there
    wait_ended(other, f"glusterfsd.*/bricks/{VOLUME} ")
    other.run(["rm", "-r", f"/bricks/{VOLUME}"])
    assert shown(host, "MainPID") == before


WATCHED = """
rm -f /tmp/status
({command}; echo $? > /tmp/status) > /tmp/said 2>&1 &
while :; do
    test -e /tmp/status && last=1
    xfs_quota -x -c 'report -p -n -N -b' /bricks
    echo --
    test -z "$last" || break
done
test "$(cat /tmp/status)" = 0 || cat /tmp/said >&2
exit "$(cat /tmp/status)"
"""


class Filler(threading.Thread):
    """Writes to a file in a PV, each time until there is no room, until it is told to stop."""

    def __init__(self, file: Path) -> None:
        super().__init__(daemon=True)
        self._file = file
        self._told = threading.Event()
        self.filled = 0
        self.most_bytes = 0

    def run(self) -> None:
        while not self._told.is_set():
            with open(self._file, "wb", buffering=0) as file:
                try:
                    while not self._told.is_set():
                        file.write(bytes(MIB // 4))
                        os.fsync(file.fileno())
                        self.most_bytes = max(self.most_bytes, file.tell())
                except OSError as error:
                    assert error.errno == errno.ENOSPC, error
                    self.filled += 1

    def fills_again(self) -> None:
        """Waits until it began and was refused once more."""
        goal = self.filled + 2
        progress.wait_until("the writer to be refused", lambda: self.filled >= goal or not self.is_alive(), seconds=300)
        assert self.is_alive()

    def end(self) -> None:
        self._told.set()
        self.join(60)


def watched(host: BrickHost, command: str, project: int) -> list[str]:
    """Runs a command; the limit of the project in each of the tables that the kernel had meanwhile, in KiB."""
    # dpkg takes these hosts long, and who looks all the time takes half of what they have
    done = host.run(["sh", "-c", WATCHED.format(command=command)], timeout=600)
    tables = done.stdout.split("--\n")[:-1]
    return [line.split()[3] for table in tables for line in table.splitlines() if line.startswith(f"#{project} ")] + [
        "gone" for table in tables if f"#{project} " not in table
    ]


def version(host: BrickHost) -> str:
    return host.run(["dpkg-query", "--show", "--showformat", "${Status} ${Version}", "kadalu-quotad"]).stdout


def test_a_writer_meets_its_limit_all_the_time_that_the_package_is_upgraded_purged_and_installed(
    host: BrickHost, brick_hosts: BrickHosts, tmp_path: Path
) -> None:
    """The last. From an older version, and nothing of the package is left in between."""
    newer, older = deb.build(), deb.build(version="0.0.9")
    host.put(older, f"/tmp/{older.name}")
    host.run(["dpkg", "--purge", "kadalu-quotad"], timeout=600)
    host.run(["dpkg", "--install", f"/tmp/{older.name}"], timeout=600)
    assert version(host) == "install ok installed 0.0.9-1"
    host.run(["systemctl", "start", "kadalu-quotad"])
    before = host.run(["systemctl", "show", "-P", "MainPID", "kadalu-quotad"]).stdout
    mount(VOLUME, tmp_path / VOLUME)
    site = Site(brick_hosts, tmp_path)
    writer = Filler(site.make_pv(VOLUME, "written", 4 * MIB) / "file")

    def enforced() -> int | None:
        pv = site.status(host, "written")
        return pv["project_id"] if pv.get("state") == "enforced" else None

    project = site.wait("it to be enforced", enforced)
    writer.start()
    writer.fills_again()
    try:
        assert set(watched(host, f"dpkg --install /tmp/{newer.name}", project)) == {"4096"}
        assert version(host) == f"install ok installed {newer.name.split('_')[1]}"
        assert host.run(["systemctl", "show", "-P", "MainPID", "kadalu-quotad"]).stdout not in (before, "0\n")
        writer.fills_again()
        host.run(["tee", CONFIG], input="crawl_interval_s = 60\n")
        assert set(watched(host, "dpkg --purge kadalu-quotad", project)) == {"4096"}
        writer.fills_again()
        left = host.run(["find", "/usr", "/lib/systemd", "/etc", "/run/systemd", "-name", "*kadalu*"]).stdout
        assert (left, host.run(["pgrep", "-f", "kadalu_ext.quotad"], check=False).stdout) == ("", "")
        assert host.run(["systemctl", "cat", "kadalu-quotad"], check=False).returncode != 0
        assert set(watched(host, f"dpkg --install /tmp/{newer.name}", project)) == {"4096"}
        assert set(watched(host, "systemctl start kadalu-quotad", project)) == {"4096"}
        assert site.wait("it to be enforced", enforced) == project
        assert quotad(host, "report").split("\n")[1].split()[:5] == [VOLUME, "1", "0", "3", "3"]
        writer.fills_again()
        assert 3 * MIB < writer.most_bytes <= 4 * MIB
    finally:
        writer.end()
        progress.run_logged(["umount", "--lazy", str(tmp_path / VOLUME)], log=tmp_path / "umount.log")
