"""docs/troubleshooting.md has what people read in events and in `kadalu-quotad status`, in the programs' own words."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from kadalu_ext.operator.reasons import Condition
from kadalu_ext.quotad.plan import State

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text()
SHOWN = sorted(
    ROOT / "kadalu_ext" / name
    for name in (
        "bounded.py", "claim.py", "record.py", "csi/capacity.py", "csi/clients.py", "csi/controller.py",
        "csi/copies.py", "csi/filling.py", "csi/gids.py", "csi/groups.py", "csi/leases.py", "csi/snapshots.py",
        "csi/enforcement.py", "csi/listing.py", "csi/pools.py", "csi/wholevolume.py", "csi/wholevolumes.py",
        "csi/mounterclient.py", "csi/mounts.py", "csi/nodevolumes.py", "csi/params.py", "csi/promises.py",
        "csi/same.py", "csi/volumes.py", "csi/workers.py", "storages.py", "gluster/addresses.py", "gluster/brick.py",
        "gluster/connection.py",
        "gluster/feed.py", "gluster/geometry.py", "gluster/glusterd.py", "gluster/gfapi.py", "gluster/hosts.py",
        "gluster/tls.py", "gluster/vetting.py", "mounter/client.py", "mounter/supervisor.py", "quotad/bricks.py",
        "quotad/config.py", "quotad/enforce.py", "quotad/plan.py", "quotad/scan.py", "quotad/tree.py", "quotad/xfs.py",
    )
)  # fmt: skip
"""Where errors are made that people see as they stand."""

NOBODY_SEES = (
    # what Kubernetes never asks for
    "missing", "must not be negative", "sizes are whole blocks of", "is more than limit_bytes", "access_mode: ",
    "must be an absolute path below", "is reserved", "its id is missing", "is negative", "is none of ours",
    "there is no such volume", "there is no volume ", "there is no such snapshot", "there is no snapshot ",
    ": there is no …", "is not mounted at",
    "with root … is mounted there",
    "is this driver's own", "longer than a path may be", "lies on a gluster volume", "lies on the gluster volume",
    # caught, and said in other words
    "deadline", "is no path on a brick", "not a record's name", "its client is closed", "a path holds a NUL",
    "these hosts are closed", "it speaks TLS", "it is not to be emptied",
)  # fmt: skip
OTHERS = (
    "storageclass.storage.k8s.io … not found", "Waiting for a volume to be created",
    "driver name kadalu.external not found", "No route to host",
)  # fmt: skip
"""Words of Kubernetes and of the system, not ours."""


def phrases() -> list[str]:
    """What stands between backticks in the first cell of the page's tables."""
    cells = re.findall(r"^\| (`.*?) \|", PAGE, re.MULTILINE)
    found = {phrase for cell in cells for phrase in re.findall(r"`([^`]+)`", cell)} - set(State) - set(Condition)
    return sorted(found)


def texts(node: ast.AST) -> Iterator[str]:
    """The strings in `node`; an f-string with … for what it puts in."""
    if isinstance(node, ast.JoinedStr):
        yield "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
        for part in node.values:
            yield from texts(part) if isinstance(part, ast.FormattedValue) else ()
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    else:
        for child in ast.iter_child_nodes(node):
            yield from texts(child)


def messages() -> list[str]:
    """Of every error that is made in SHOWN and has words of its own."""
    calls = (node for path in SHOWN for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call))
    made = (call for call in calls if isinstance(call.func, ast.Name) and call.func.id.endswith("Error"))
    said = ("".join(texts(argument)) for call in made for argument in call.args)
    return [text for text in said if re.search(r"[a-z]+ [a-z]+", text)]


@pytest.mark.parametrize("message", messages())
def test_every_message_has_its_row(message: str) -> None:
    assert any(phrase in message for phrase in (*phrases(), *NOBODY_SEES))


def test_no_row_is_so_short_that_it_is_about_any_message() -> None:
    assert [phrase for phrase in phrases() if len(phrase) < 8] == []


def test_every_row_is_about_a_message_that_there_is() -> None:
    sources = [path.read_text() for path in (ROOT / "kadalu_ext").rglob("*.py") if "_pb2" not in path.name]
    said = "\0".join(text for source in sources for text in texts(ast.parse(source)))
    gone = [phrase for phrase in phrases() if phrase not in said and phrase not in OTHERS]
    assert gone == []


@pytest.mark.parametrize("state", State)
def test_every_state_of_a_pv_is_explained(state: State) -> None:
    assert f"| `{state.value}` |" in PAGE
