"""kadalu-quotad on the brick hosts with clients beside it: what the tests of it share."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from kadalu_ext.layout import pv_path, record_path, staged_record_path
from kadalu_ext.mounter.connected import down
from kadalu_ext.quotad.plan import is_ours
from kadalu_ext.record import RECORD_XATTR, PvName, QuotaRecord, encode
from tests.testbed import deb, progress
from tests.testbed.brickhosts import BrickHost, BrickHosts

SECONDS = 180.0


class Site:
    """Three hosts with kadalu-quotad, a volume of each kind, and a client of each in this process's mount namespace."""

    def __init__(self, hosts: BrickHosts, mounts: Path) -> None:
        self.hosts = hosts
        self.mounts = mounts

    @staticmethod
    def wait(what: str, probe: Callable[[], Any]) -> Any:
        return progress.wait_until(what, probe, seconds=SECONDS)

    def make_pv(self, volume: str, name: str, size: int, *, inodes: int | None = None) -> Path:
        """What the CSI driver does: directory, record prepared, renamed."""
        directory = self.mounts / volume / pv_path(PvName(name))
        directory.mkdir(parents=True)
        self.put_record(volume, name, size, inodes=inodes)
        return directory

    def put_record(self, volume: str, name: str, size: int, *, inodes: int | None = None) -> None:
        root, pv = self.mounts / volume, PvName(name)
        staged = root / staged_record_path(pv, "0" * 16)
        staged.mkdir(parents=True)
        record = QuotaRecord(path=pv_path(pv), size_bytes=size, inodes=inodes)
        os.setxattr(staged, RECORD_XATTR, encode(record))
        staged.rename(root / record_path(pv))

    def change_record(self, volume: str, name: str, size: int) -> None:
        record = QuotaRecord(path=pv_path(PvName(name)), size_bytes=size)
        os.setxattr(self.mounts / volume / record_path(PvName(name)), RECORD_XATTR, encode(record))

    def delete_pv(self, volume: str, name: str) -> None:
        root = self.mounts / volume
        (root / "trash").mkdir(exist_ok=True)
        (root / pv_path(PvName(name))).rename(root / "trash" / f"{name}.x")
        (root / record_path(PvName(name))).rmdir()

    def status(self, host: BrickHost, name: str) -> dict[str, Any]:
        """What `kadalu-quotad status --json` says of a PV on a host; empty if nothing."""
        report = json.loads(host.run(["kadalu-quotad", "status", "--json"], check=False).stdout)
        return next((pv for brick in report["bricks"] for pv in brick["pvs"] if pv["pv"] == name), {})

    def wait_enforced(self, name: str, limits: list[int], *, but: BrickHost | None = None) -> list[int]:
        """Until every host, in order, enforces its limit; the projects. but: one that is not asked, whose is 0."""
        wanted = dict(zip([host.name for host in self.hosts.hosts], limits, strict=True))

        def wait(host: BrickHost) -> int:
            return 0 if host is but else self.wait_enforced_on(host, name, wanted[host.name])

        return self.hosts.together(wait)

    def wait_enforced_on(self, host: BrickHost, name: str, limit: int) -> int:
        """Until this host enforces a limit; the project. Checked with the system's own tool as well."""

        def enforced() -> dict[str, Any] | None:
            pv = self.status(host, name)
            return pv if pv.get("state") == "enforced" and pv["limit_bytes"] == limit else None

        project: int = self.wait(f"{name} to be enforced on {host.name}", enforced)["project_id"]
        assert is_ours(project)
        assert self.limits(host).get(project, 0) == limit
        return project

    @staticmethod
    def limits(host: BrickHost) -> dict[int, int]:
        """Hard limits by project, as xfs_quota(8) tells them."""
        report = host.run(["xfs_quota", "-x", "-c", "report -p -n -N -b", "/bricks"]).stdout
        rows = [line.split() for line in report.splitlines() if line.strip()]
        return {int(row[0].removeprefix("#")): int(row[3]) * 1024 for row in rows}

    @staticmethod
    def untagged(host: BrickHost, directory: str, project: int) -> list[str]:
        """What in a directory on a brick lsattr(1) does not show with this project, or, of directories, with P."""
        shown = host.run(["lsattr", "-paR", directory]).stdout
        entries = re.findall(r"^ *(\d+) (\S+) (/.*)$", shown, re.MULTILINE)
        wrong = [path for number, _, path in entries if int(number) != project and not path.endswith("/..")]
        inheriting = {path.removesuffix("/.") for _, flags, path in entries if "P" in flags}
        found = host.run(["find", directory, "-type", "d"]).stdout.splitlines()
        return wrong + [path for path in found if path not in inheriting]


def connected(mount: Path) -> None:
    """Waits until the client of a volume, which is mounted by its name, has all bricks. What it does until then
    comes to the others by self-heal alone, which may take ten minutes."""
    bricks = {f"{mount.name}-client-{number}": (f"brick{number + 1}", mount.name) for number in range(3)}

    def there() -> bool:
        try:
            return not down(str(mount), bricks)
        except OSError:
            return False

    progress.wait_until(f"the client of {mount.name} to have its bricks", there, seconds=SECONDS)


def mount(volume: str, target: Path) -> None:
    """A client in this namespace, that has all bricks; `glusterfs` returns once it is mounted."""
    target.mkdir(parents=True)
    progress.run_logged(
        ["glusterfs", "--volfile-server=brick1", f"--volfile-id={volume}", "--attribute-timeout=0", "--entry-timeout=0",
         f"--log-file={target}.log", str(target)],
        log=target.with_suffix(".out"),
    )  # fmt: skip
    connected(target)


@contextmanager
def served(hosts: BrickHosts, volumes: Mapping[str, str], mounts: Path) -> Iterator[Site]:
    """Volumes by name and kind, a client of each, and kadalu-quotad installed from its package on every host, started
    as an administrator would; afterwards nothing of it is there but the package."""
    with ExitStack() as left:  # by whatever fails in between, too: the hosts are other tests' next
        left.callback(deb.put_away, hosts)
        for volume, kind in volumes.items():
            hosts.create_volume(volume, kind)
            left.callback(hosts.delete_volume, volume)
            mount(volume, mounts / volume)
            unmount = ["umount", "--lazy", str(mounts / volume)]
            left.callback(progress.run_logged, unmount, log=mounts / "umount.log")
        deb.install(hosts, list(volumes))
        yield Site(hosts, mounts)
