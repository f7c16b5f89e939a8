"""Runs on a brick host, with its own python3: crawls of many PVs, beside what anybody else would pay; JSON on stdout.

Arguments: a directory on the bricks' file system; how many PVs; the static build of guest_crawl.c; --only-c for nothing
but its seconds. kadalu-quotad must not run meanwhile: two of them would take the same project ids. Everything that is
made is removed again.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

SIZE = 64 << 20
PAIRS = 20
C_IDS, PAIR_IDS = 0x4B53_0000, 0x4B52_0000
"""Far from where a daemon begins to look for free ids."""
GLUSTERD = Path("/var/lib/glusterd")


def main() -> None:
    """Seconds and KiB, by name."""
    if sys.argv[1] == "--child":
        print(json.dumps(_crawls(sys.argv[2])))
        return
    base, count, program = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    if sys.argv[4:] == ["--only-c"]:
        try:
            print(json.dumps(_loop_in_c(base, count, program)))
        finally:
            shutil.rmtree(base, ignore_errors=True)
        return
    figures: dict[str, Any] = {"pairs": PAIRS}
    mount_point = subprocess.check_output(["findmnt", "-no", "TARGET", "--target", base.parent], text=True).strip()
    try:
        figures["c"] = _loop_in_c(base, count, program)
        figures["c_again"] = _seconds([program, str(base / "c"), str(count), str(C_IDS), "again"])
        shutil.rmtree(base / "c")
        _populate(base / "pairs", PAIRS)
        figures["pair"] = _pairs(base / "pairs", mount_point)
        _populate(base / "q", count)
        glusterd = base / "glusterd"
        _write_glusterd(glusterd, base / "empty")
        figures["idle_rss_kib"] = _child(glusterd)["rss_kib"]
        shutil.rmtree(glusterd)
        _write_glusterd(glusterd, base / "q")
        for name in ("fresh", "restarted"):
            figures[name] = _child(glusterd)
    finally:
        shutil.rmtree(base, ignore_errors=True)
    print(json.dumps(figures))


def _loop_in_c(base: Path, count: int, program: str) -> float:
    _populate(base / "c", count)
    return _seconds([program, str(base / "c"), str(count), str(C_IDS)])


def _seconds(argv: list[str]) -> float:
    return int(subprocess.check_output(argv)) / 1e6


def _child(glusterd: Path) -> dict[str, float]:
    argv = [sys.executable, "-B", __file__, "--child", str(glusterd)]
    return dict(json.loads(subprocess.check_output(argv)))


def _populate(brick: Path, count: int) -> None:
    (brick / ".glusterfs").mkdir(parents=True)
    for number in range(count):
        path = f"subvol/{number >> 8 & 255:02x}/{number & 255:02x}/r{number}"
        (brick / path).mkdir(parents=True)
        record = brick / "info" / "quota" / f"r{number}"
        record.mkdir(parents=True)
        os.setxattr(record, "user.kadalu.record", json.dumps({"v": 1, "path": path, "size": SIZE}).encode())
    os.sync()


def _pairs(brick: Path, mount_point: str) -> float:
    """Seconds for a PV by the system's own tool: as a script, or Kadalu's own quotad, does it."""
    began = time.perf_counter()
    for number in range(PAIRS):
        directory = brick / "subvol" / "00" / f"{number:02x}" / f"r{number}"
        for command in (f"project -s -p {directory} {PAIR_IDS + number}", f"limit -p bhard=64m {PAIR_IDS + number}"):
            subprocess.run(["xfs_quota", "-x", "-c", command, mount_point], check=True, stdout=subprocess.DEVNULL)
    return (time.perf_counter() - began) / PAIRS


def _write_glusterd(directory: Path, brick: Path) -> None:
    """This host's volumes, so that none of them loses anything, and one with `brick`."""
    shutil.copytree(GLUSTERD / "vols", directory / "vols")
    shutil.copy(GLUSTERD / "glusterd.info", directory)
    pairs = dict(line.partition("=")[::2] for line in (directory / "glusterd.info").read_text().splitlines())
    volume = directory / "vols" / "crawl"
    (volume / "bricks").mkdir(parents=True)
    (volume / "info").write_text("type=0\ncount=1\nstatus=1\nreplica_count=1\nbrick-0=here\n")
    (volume / "bricks" / "here").write_text(f"uuid={pairs['UUID']}\npath={brick}\n")


def _crawls(glusterd: str) -> dict[str, float]:
    """Seconds of the first crawl of a new daemon and of its next; its memory after both."""
    sys.path.insert(0, "/usr/lib/kadalu-quotad")
    from kadalu_ext.quotad.config import Config
    from kadalu_ext.quotad.daemon import Daemon
    from kadalu_ext.quotad.records import DEEP_S
    from kadalu_ext.quotad.systemd import Notifier
    from kadalu_ext.quotad.xfs import Xfs

    daemon = Daemon(Config(glusterd_dir=glusterd, crawl_interval_s=3600), systems=Xfs(), notifier=Notifier({}))
    figures: dict[str, float] = {}
    for name in ("first", "next"):
        began = time.perf_counter()
        daemon.crawl()
        figures[name] = time.perf_counter() - began
        # what it looks through afterwards, to be on the safe side, has a time of its own, and is no part of the next
        rest = time.perf_counter() + 2 * DEEP_S
        while time.perf_counter() < rest:
            daemon.run_cycle(patience_s=DEEP_S / 10)
    status = Path("/proc/self/status").read_text()
    figures["rss_kib"] = int(status.partition("VmRSS:")[2].split()[0])
    return figures


if __name__ == "__main__":
    main()
