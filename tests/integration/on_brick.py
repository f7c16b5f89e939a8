"""What tests run on a brick host itself, where each step would take an ssh of its own: `python3 on_brick.py TASK ARG…`.

With nothing but a brick host's own Python. Each task prints JSON, or ends with a traceback.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

MIB = 1 << 20
RECORD_XATTR = "user.kadalu.record"
FIRST, LAST = 0x4B44_0000, 0x4B53_FFFF
SECONDS = 240.0


def pv(brick: str, name: str) -> Path:
    return Path(brick, "subvol/aa/bb", name)


def record(brick: str, name: str) -> Path:
    return Path(brick, "info/quota", name)


def value(name: str, mib: int) -> bytes:
    return json.dumps({"v": 1, "path": f"subvol/aa/bb/{name}", "size": mib * MIB}).encode()


def prepare(brick: str, name: str, mib: int) -> Path:
    """A PV's directory with a little tree, and its record as the CSI driver makes it, up to the rename."""
    (pv(brick, name) / "d").mkdir(parents=True)
    (pv(brick, name) / "d/file").touch()
    staged = record(brick, f".{name}.new")
    staged.mkdir(parents=True)
    os.setxattr(staged, RECORD_XATTR, value(name, mib))
    return staged


def put(brick: str, name: str, mib: int | str) -> None:
    prepare(brick, name, int(mib)).rename(record(brick, name))


def put_record(brick: str, name: str, mib: int) -> None:
    """Of a directory that is there."""
    staged = record(brick, f".{name}.new")
    staged.mkdir(parents=True)
    os.setxattr(staged, RECORD_XATTR, value(name, mib))
    staged.rename(record(brick, name))


def drop(brick: str, name: str) -> None:
    """As the CSI driver does: the directory moves to the trash, the record goes."""
    trash = Path(brick, "trash")
    trash.mkdir(exist_ok=True)
    pv(brick, name).rename(trash / name)
    record(brick, name).rmdir()
    shutil.rmtree(trash / name)


def output(*argv: str) -> str:
    return subprocess.run(argv, stdout=subprocess.PIPE, text=True, check=False).stdout


def limits(mount: str) -> dict[int, int]:
    """MiB by project of kadalu-quotad's range, as xfs_quota(8) tells them."""
    rows = [line.split() for line in output("xfs_quota", "-x", "-c", "report -p -n -N -b", mount).splitlines()]
    found = {int(row[0].removeprefix("#")): int(row[3]) // 1024 for row in rows if row}
    return {number: mib for number, mib in found.items() if mib and FIRST <= number <= LAST}


def tags(directory: Path) -> set[int]:
    """Every project in a tree, as lsattr(1) tells them."""
    return {project for _, project in listed(directory)}


def listed(directory: Path) -> list[tuple[str, int]]:
    shown = output("lsattr", "-paR", str(directory))
    found = re.findall(r"^ *(\d+) \S+ (/.*)$", shown, re.MULTILINE)
    return [(path, int(number)) for number, path in found if path[-3:] != "/.."]


def wait(what: str, probe: Callable[[], object]) -> None:
    deadline = time.monotonic() + SECONDS
    while not probe():
        assert time.monotonic() < deadline, f"not within {SECONDS:.0f} s: {what}"
        time.sleep(0.02)


def says(words: str) -> bool:
    return words in output("systemctl", "show", "-P", "StatusText", "kadalu-quotad")


# --- a signal at every step ---

SIGNALLED = """
import os, sys
sys.path.insert(0, "/usr/lib/kadalu-quotad")
from kadalu_ext.quotad import main, xfs
left, number = int(sys.argv[1]), int(sys.argv[2])
def before(call):
    def signalled(*arguments):
        global left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), number)
        return call(*arguments)
    return signalled
xfs.XfsTable.set_tag = before(xfs.XfsTable.set_tag)
xfs.XfsTable.set_limits = before(xfs.XfsTable.set_limits)
status = main.main(sys.argv[3:])
sys.exit(77 if left > 0 else status)
"""
"""The program as it is installed; whoever runs it sends it a signal before one of the calls that change something."""


def signalled(call: int, number: int, *words: str) -> int:
    argv = [sys.executable, "-IB", "-c", SIGNALLED, str(call), str(number), *words]
    return subprocess.run(argv, stdout=subprocess.DEVNULL, check=False).returncode


def step(brick: str) -> None:
    """Killed before any call that changes something, the next run ends where it would have."""
    mount = str(Path(brick).parent)
    output("kadalu-quotad", "once")  # what the daemon was stopped in the middle of
    before = limits(mount)
    put(brick, "step-0", 7)
    output("kadalu-quotad", "once")
    turn, status = 0, -signal.SIGKILL
    while status == -signal.SIGKILL:
        turn += 1
        put(brick, f"step-{turn}", 7 + turn)
        drop(brick, f"step-{turn - 1}")
        status = signalled(turn, signal.SIGKILL, "once")
        output("kadalu-quotad", "once")
        (project,) = tags(pv(brick, f"step-{turn}"))
        assert {**before, project: 7 + turn} == limits(mount), (turn, before, limits(mount))
    assert status == 77, status
    drop(brick, f"step-{turn}")
    output("kadalu-quotad", "once")
    print(json.dumps(turn - 1))


def stop(brick: str) -> None:
    """Told to stop at some moment of its work, the daemon ends at once and in order; the next one goes on."""
    statuses = []
    for call in range(1, 5):  # two tags below the top, its own, the limit
        put(brick, f"stop-{call}", 8)
        statuses.append(signalled(call, signal.SIGTERM, "run"))
        output("kadalu-quotad", "once")
        assert len(tags(pv(brick, f"stop-{call}"))) == 1
        drop(brick, f"stop-{call}")
        output("kadalu-quotad", "once")
    print(json.dumps(statuses))


# --- glusterd's files ---


@contextlib.contextmanager
def instead(path: Path, kind: str) -> Iterator[None]:
    """`kind` in place of the file."""
    kept, content = path.with_name(f"{path.name}.kept"), path.read_bytes()
    path.rename(kept)
    try:
        match kind:
            case "directory":
                path.mkdir()
            case "FIFO":
                os.mkfifo(path)
            case "loop":
                path.symlink_to(path.name)
            case "empty" | "half" | "rubbish" | "huge":
                made = {"empty": b"", "half": content[: len(content) // 2], "huge": content * (1 << 17)}
                path.write_bytes(made.get(kind) or (os.urandom(4096) if kind == "rubbish" else b""))
        yield
    finally:
        path.rmdir() if kind == "directory" else path.unlink(missing_ok=True)
        kept.rename(path)


KINDS = ("gone", "empty", "half", "rubbish", "huge", "directory", "FIFO", "loop")


def damage(volume: str, mount: str) -> None:
    """Whatever is in the place of one of glusterd's files, no limit changes, and the daemon goes on."""
    glusterd = Path("/var/lib/glusterd")
    files = [glusterd / "glusterd.info", glusterd / "vols" / volume / "info", glusterd / "kadalustorage.info"]
    files += (glusterd / "vols" / volume / "bricks").iterdir()
    before, silent = limits(mount), []
    assert before
    for file in files:
        for kind in KINDS if "vols" in file.parts else ("empty", "rubbish"):
            with instead(file, kind):
                crawl(1)
                said = output("kadalu-quotad", "check")
                if said.startswith("OK"):
                    silent.append(f"{file.name} {kind}")
                assert limits(mount) == before, (file, kind, before, limits(mount))
        crawl()
        assert limits(mount) == before, (file, before, limits(mount))
    print(json.dumps(silent))


def crawl(times: int = 2) -> None:
    """When two of them were begun, the first was ended."""
    journal, pid = followed(), int(output("systemctl", "show", "-P", "MainPID", "kadalu-quotad"))
    for _ in range(times):
        os.kill(pid, signal.SIGHUP)
        while '"configuration taken"' not in journal.readline():
            pass


@functools.cache
def followed() -> IO[str]:
    """What the daemon logs from now on: to ask for all of it again and again would cost this host more than the daemon
    does. Whoever runs this program has the deadline."""
    words = ["journalctl", "-u", "kadalu-quotad", "-o", "cat", "-q", "--lines=1", "--follow"]
    leash = ["setpriv", "--pdeathsig", "KILL"]
    journal = subprocess.Popen([*leash, *words], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout
    assert journal and journal.readline()  # the newest line: it follows
    return journal


# --- names, links, and what moves ---


def swap(brick: str) -> None:
    """While trees are tagged, directories in them are swapped for symlinks to what must not be touched, and back."""
    outside = Path(brick).with_name("outside")
    (outside / "secret").mkdir(parents=True)
    (outside / "file").touch()
    for number in range(8):
        staged = prepare(brick, f"swap-{number}", 8)
        for deep in range(8):
            (pv(brick, f"swap-{number}") / f"d{deep}").mkdir()
            (pv(brick, f"swap-{number}") / f"d{deep}/f").touch()
        staged.rename(record(brick, f"swap-{number}"))
        top = pv(brick, f"swap-{number}")
        for deep in range(8):
            (top / f"d{deep}").rename(top / "aside")
            (top / f"d{deep}").symlink_to(outside)
            (top / f"d{deep}").unlink()
            (top / "aside").rename(top / f"d{deep}")
    wait("the trees to be whole", lambda: all(len(tags(pv(brick, f"swap-{number}"))) == 1 for number in range(8)))
    untouched = tags(outside)
    for number in range(8):
        drop(brick, f"swap-{number}")
    shutil.rmtree(outside)
    print(json.dumps(sorted(untouched)))


def link(volume: str, brick: str) -> None:
    """A tree of old has a file with names in two directories that become PVs, and one with a name in a PV and one
    elsewhere."""
    mounted, states = Path("/run/linked"), {}
    mounted.mkdir()
    subprocess.run(["glusterfs", "--volfile-server=brick1", f"--volfile-id={volume}", str(mounted)], check=True)
    tops = [pv(str(mounted), f"link-{number}") for number in (1, 2)]
    for top in tops:
        (top / "d").mkdir(parents=True)
        (top / "d/own").touch()
    (mounted / "old").mkdir()
    for first, second in ((tops[0] / "shared", tops[1] / "shared"), (mounted / "old/file", tops[0] / "file")):
        first.write_bytes(bytes(2 * MIB))
        second.hardlink_to(first)

    def projects(number: int) -> dict[str, int]:
        top = pv(brick, f"link-{number}")
        return {path.removeprefix(f"{top}/"): project for path, project in listed(top)}

    def settled() -> bool:
        shown = json.loads(output("kadalu-quotad", "status", "--json"))
        found = {row["pv"]: (row["state"], row["used_bytes"]) for each in shown["bricks"] for row in each["pvs"]}
        states.update({name: seen for name, seen in found.items() if name.startswith("link-")})
        return [state for state, _ in states.values()] == ["enforced"] * 2

    for number in (1, 2):
        put_record(brick, f"link-{number}", 8)
    wait("both to be enforced", settled)
    tagged = projects(1), projects(2)
    for _ in range(3):  # what lost its project gets it back when its tree is looked through
        for number in (1, 2):
            output("chattr", "-p", "0", str(pv(brick, f"link-{number}") / "d/own"))
        wait("both trees to be looked through", lambda: (projects(1), projects(2)) == tagged)
    settled()
    refused = []
    for call in (
        lambda: (tops[0] / "shared").open("ab").write(bytes(16 * MIB)),
        lambda: (tops[0] / "shared").rename(tops[0] / "d/shared"),
        lambda: (tops[1] / "shared").rename(tops[1] / "d/shared"),
    ):
        try:
            call()
            refused.append("")
        except OSError as error:
            refused.append(errno.errorcode[error.errno or 0])
    outside = dict(listed(Path(brick, "old")))
    for number, top in enumerate(tops, 1):
        record(brick, f"link-{number}").rmdir()
        shutil.rmtree(top)
    shutil.rmtree(mounted / "old")
    output("umount", str(mounted))
    print(json.dumps({"projects": tagged, "used": states, "refused": refused,
                      "old": [outside[f"{brick}/old/."], outside[f"{brick}/old/file"]]}))  # fmt: skip


def odd(brick: str) -> None:
    """Whatever is in `info/quota` and whatever it is called: named or passed over, and a good record beside it is
    obeyed."""
    quota = Path(brick, "info/quota")
    before = set(os.listdir(quota))
    good = value("odd", 8)
    names = [b"new\nline", b"\xff\xfe", b"n" * 255, b" ", b"\\", b"-rf", b"$(reboot)", "ä".encode()]
    for bare in names:
        os.mkdir(os.path.join(os.fsencode(quota), bare))
        os.setxattr(os.path.join(os.fsencode(quota), bare), RECORD_XATTR, good)
    os.mkfifo(quota / "odd-fifo")
    os.mknod(quota / "odd-device", 0o020600, os.makedev(1, 5))
    (quota / "odd-file").touch()
    os.setxattr(quota / "odd-file", RECORD_XATTR, value("odd-file", 8))
    (quota / "odd-link").symlink_to("odd-zero")
    sizes = {
        "zero": "0",
        "minus": "-1",
        "2to64": str(1 << 64),
        "nan": "NaN",
        "1e400": "1e400",
        "float": "8.0",
        "text": '"8"',
    }
    for name, size in sizes.items():
        staged = prepare(brick, f"odd-{name}", 8)
        text = f'{{"v": 1, "path": "subvol/aa/bb/odd-{name}", "size": {size}}}'
        os.setxattr(staged, RECORD_XATTR, text.encode())
        staged.rename(record(brick, f"odd-{name}"))
    staged = prepare(brick, "odd-large", 8)
    with contextlib.suppress(OSError):
        os.setxattr(staged, RECORD_XATTR, b" " * (10 * MIB))
        raise AssertionError("XFS took an xattr of 10 MiB")
    os.setxattr(staged, RECORD_XATTR, b"[" * (1 << 16))
    staged.rename(record(brick, "odd-large"))
    put(brick, "odd", 8)
    report: dict[str, str] = {}

    def settled() -> bool:
        shown = json.loads(output("kadalu-quotad", "status", "--json"))
        report.update({row["pv"]: row["state"] for each in shown["bricks"] for row in each["pvs"]})
        return report.get("odd") == "enforced" and len(tags(pv(brick, "odd"))) == 1

    wait("the good record to be obeyed", settled)
    crawl()
    projects = {name: sorted(tags(pv(brick, f"odd-{name}"))) for name in sizes}
    for path in quota.iterdir():
        if path.name in before:
            continue
        if path.is_dir() and not path.is_symlink():
            path.rmdir()
        else:
            path.unlink()
    for path in Path(brick, "subvol/aa/bb").glob("odd*"):
        shutil.rmtree(path)
    print(json.dumps({"states": report, "projects": projects, "names": len(names)}))


def crowd(brick: str) -> None:
    """Records come while the file system has no room left to note their quotas in; then there is room again."""
    mount = Path(brick).parent
    staged = [(prepare(brick, f"crowd-{number}", 8), record(brick, f"crowd-{number}")) for number in range(150)]
    for number, size in enumerate((1 << 20, 1 << 12)):
        with open(mount / f"ballast-{number}", "wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(size))
    for path, final in staged:
        path.rename(final)
    wait("some of them to fail", lambda: " not" in output("systemctl", "show", "-P", "StatusText", "kadalu-quotad"))

    def failed() -> list[dict[str, str]]:
        journal = output("journalctl", "-u", "kadalu-quotad", "-o", "cat", "-q").splitlines()
        return [row for line in journal if "crowd-" in line and (row := json.loads(line)).get("state") == "failed"]

    wait("the journal to have it", failed)
    rows = failed()
    for number in range(2):
        (mount / f"ballast-{number}").unlink()

    def enforced() -> int:
        shown = json.loads(output("kadalu-quotad", "status", "--json"))
        rows = [row for each in shown["bricks"] for row in each["pvs"] if row["pv"].startswith("crowd-")]
        return sum(row["state"] == "enforced" for row in rows)

    wait("all of them to be enforced", lambda: enforced() == len(staged))
    after = enforced()
    for number in range(len(staged)):
        drop(brick, f"crowd-{number}")
    print(json.dumps({"records": len(staged), "failed": len(rows), "after": after,
                      "reasons": sorted({row["reason"] for row in rows})}))  # fmt: skip


def drift(brick: str, name: str) -> None:
    """Somebody changes a PV's limit; the next crawl puts it right."""
    (project,), mount = tags(pv(brick, name)), str(Path(brick).parent)
    before = limits(mount)
    output("xfs_quota", "-x", "-c", f"limit -p bhard=99m {project}", mount)
    wait("the limit to be put right", lambda: limits(mount) == before)


def fill(brick: str) -> None:
    """A thousand records at once, all there before the first is seen."""
    staged = [(prepare(brick, f"fill-{number}", 8), record(brick, f"fill-{number}")) for number in range(1000)]
    os.sync()
    print(json.dumps(len(staged)), flush=True)
    for path, final in staged:
        path.rename(final)


def audit(brick: str, mount: str) -> None:
    """How many of the thousand outlived the power cut, how many of those are right, and how many limits there are."""
    names = [path.name for path in Path(brick, "info/quota").iterdir() if path.name.startswith("fill-")]
    projects: dict[str, set[int]] = {name: set() for name in names}
    known, depth = limits(mount), len(pv(brick, "").parts)
    for path, project in listed(pv(brick, "")):
        name = Path(path).parts[depth] if len(Path(path).parts) > depth else ""
        if name in projects:
            projects[name].add(project)
    right = [name for name, found in projects.items() if len(found) == 1 and known.get(*found) == 8]
    print(json.dumps({"records": len(names), "right": len(right), "limits": len(known)}))


TASKS = {task.__name__: task for task in (step, stop, damage, swap, link, odd, crowd, drift, fill, audit, put)}

if __name__ == "__main__":
    TASKS[sys.argv[1]](*sys.argv[2:])
