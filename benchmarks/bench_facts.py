"""What the operator asks of a glusterd, through our client and through gluster's own command."""

from __future__ import annotations

import statistics
import subprocess
import time
from collections.abc import Callable
from xml.etree import ElementTree

from benchmarks.figure import Figure
from kadalu_ext.gluster import volfile
from kadalu_ext.gluster.geometry import geometry
from kadalu_ext.gluster.glusterd import Glusterd
from kadalu_ext.gluster.hosts import Hosts
from tests.testbed.brickhosts import BrickHosts

OURS, THEIRS = 300, 10


def run(hosts: BrickHosts, volume: str) -> list[Figure]:
    """Of `volume`, which is started, from the machine that the brick hosts run on."""
    names = [host.name for host in hosts.hosts]
    kept = Hosts()

    def wire(glusterd: Glusterd) -> tuple[str, str]:
        return glusterd.started_volume_info(volume).volume_id, glusterd.getspec(volume)

    def facts() -> None:
        volume_id, text = kept.first_answer(names, wire, 30.0)
        assert volume_id
        assert geometry(volfile.parse(text)).bricks

    def anew() -> None:
        with Glusterd(names[0], timeout_s=30.0) as glusterd:
            wire(glusterd)

    def command() -> None:
        argv = ["gluster", f"--remote-host={names[0]}", "volume", "info", volume, "--xml"]
        shown = subprocess.run(argv, check=True, capture_output=True, timeout=120).stdout
        assert ElementTree.fromstring(shown).findtext("volInfo/volumes/volume/name") == volume  # noqa: S314 (our guest)

    try:
        facts()
        theirs = _median_ms(command, THEIRS)
        rows = [
            ("volume facts (GET_VOLUME, GETSPEC, geometry), connection kept", _median_ms(facts, OURS)),
            ("the same two calls on a new connection", _median_ms(anew, OURS)),
        ]
    finally:
        kept.close()
    return [
        Figure(
            name=name,
            value=value,
            unit="ms",
            anchor="gluster --remote-host … volume info --xml",
            anchor_value=theirs,
            goal="value <= 1 ms, of a glusterd that is no emulated guest",
        )
        for name, value in rows
    ]


def _median_ms(call: Callable[[], None], times: int) -> float:
    spent = []
    for _ in range(times):
        began = time.monotonic()
        call()
        spent.append((time.monotonic() - began) * 1000)
    return statistics.median(spent)
