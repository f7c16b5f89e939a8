"""What an administrator of a brick host types, on a real one: real XFS, the unit in its sandbox, gluster's own
files."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.testbed import deb, progress
from tests.testbed.brickhosts import BrickHost, BrickHosts

VOLUME = "commands"
CONFIG = "/etc/kadalu-quotad.toml"
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
    host.run(["python3", "-"], input=MAKE)
    yield host
    brick_hosts.together(lambda each: each.run(["dpkg", "--purge", "kadalu-quotad"]))
    brick_hosts.together(lambda each: each.run(["rm", "-f", "/var/lib/glusterd/kadalustorage.info", CONFIG]))
    brick_hosts.delete_volume(VOLUME)


def quotad(host: BrickHost, *words: str) -> str:
    return host.run(["kadalu-quotad", *words], check=False).stdout


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

    text = progress.wait_until("the metrics", written, seconds=30)
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
    host.run(["systemctl", "daemon-reload"])
    host.run(["systemctl", "restart", "kadalu-quotad"])
    assert f"as it runs, refuses /bricks/{VOLUME}" in quotad(host, "check")
    host.run(["rm", "-r", drop_ins])
    host.run(["systemctl", "daemon-reload"])
    host.run(["systemctl", "restart", "kadalu-quotad"])
    assert quotad(host, "check").startswith("OK")


HANG = f"""
gluster --mode=script volume create hung brick1:/spare/b force
gluster --mode=script volume start hung
gluster --mode=script volume stop hung
printf '\nhung\n' >> /var/lib/glusterd/kadalustorage.info
glusterfs --volfile-server=brick1 --volfile-id={VOLUME} --pid-file=/run/spare.pid /spare
kill -STOP $(cat /run/spare.pid)
"""


def test_without_the_daemon_a_brick_that_hangs_is_named_and_the_others_are_shown(host: BrickHost) -> None:
    """A mount whose server stands still, over the brick: to look at a frozen XFS, unlike to write to it, does not
    hang."""
    host.run(["systemctl", "stop", "kadalu-quotad"])
    host.run(["mkdir", "-p", "/spare"])
    host.run(["sh", "-ec", HANG])
    report = json.loads(quotad(host, "status", "--json"))
    seen = {brick["path"]: (brick["refused"], len(brick["pvs"])) for brick in report["bricks"]}
    why = "/spare/b: a system call on its file system does not come back: see dmesg for the reason"
    assert seen == {f"/bricks/{VOLUME}": ("", 2), "/spare/b": (why, 0)}
    answer = json.loads(quotad(host, "explain", "pvc-1", "--json"))
    assert {brick["path"]: brick["state"] for brick in answer["bricks"]} == {f"/bricks/{VOLUME}": "enforced"}
    host.run(["sh", "-c", "kill -CONT $(cat /run/spare.pid); umount /spare"])
    host.run(["gluster", "--mode=script", "volume", "delete", "hung"])
    host.run(["rm", "-r", "/spare"])
    host.run(["sed", "-i", "/hung/d", "/var/lib/glusterd/kadalustorage.info"])
    assert host.run(["pgrep", "-f", "kadalu_ext.quotad"], check=False).stdout == ""
    host.run(["systemctl", "start", "kadalu-quotad"])


def test_limits_stay_in_force_while_the_package_is_upgraded_and_removed(host: BrickHost) -> None:
    def limits() -> list[str]:
        report = host.run(["xfs_quota", "-x", "-c", "report -p -n -N -b", "/bricks"]).stdout
        return sorted(line.split()[3] for line in report.splitlines() if line.strip() and line.split()[3] != "0")

    package = f"/tmp/{deb.build().name}"
    before = host.run(["systemctl", "show", "-P", "MainPID", "kadalu-quotad"]).stdout
    assert limits() == ["32768", "32768"]
    host.run(["dpkg", "--install", package])
    assert limits() == ["32768", "32768"]
    assert host.run(["systemctl", "is-active", "kadalu-quotad"]).stdout == "active\n"
    assert host.run(["systemctl", "show", "-P", "MainPID", "kadalu-quotad"]).stdout != before
    host.run(["dpkg", "--remove", "kadalu-quotad"])
    assert limits() == ["32768", "32768"]
    assert host.run(["systemctl", "is-active", "kadalu-quotad"], check=False).stdout != "active\n"
    left = host.run(["find", "/usr", "/lib/systemd", "/etc", "-name", "*kadalu*"]).stdout
    assert left == ""
