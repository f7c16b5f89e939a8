"""What a glusterd says becomes a usable volume, or a problem that names host and volume."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest

from kadalu_ext.errors import KadaluExtError, VolumeStoppedError
from kadalu_ext.operator import observe
from kadalu_ext.operator.actions import Problem, Usable
from kadalu_ext.operator.reasons import Reason
from tests.unit.operator.samples import VOLUME_ID, usable

SPEC = usable().spec
CLIENT = """
volume v-client-{0}
    type protocol/client
    option remote-host node{0}
    option remote-subvolume /b
end-volume
"""
REPLICA = """
volume v-replicate-0
    type cluster/replicate
    subvolumes v-client-1 v-client-2
end-volume
"""
DHT = """
volume v-dht
    type cluster/distribute
    subvolumes {0}
end-volume
"""
CLIENTS = CLIENT.format(1) + CLIENT.format(2)


class FakeGlusterd:
    host = "node1"

    def __init__(self, volfile: str, error: KadaluExtError | None) -> None:
        self.volfile = volfile
        self.error = error
        self.volume_id = VOLUME_ID

    def started_volume_info(self, volume: str) -> FakeGlusterd:
        if self.error:
            raise self.error
        return self

    def getspec(self, volume: str) -> str:
        return self.volfile


def observed(monkeypatch: pytest.MonkeyPatch, volfile: str, error: KadaluExtError | None = None) -> Usable | Problem:
    def first_answer(hosts: Iterable[str], call: Callable[[Any], Any], timeout_s: float) -> Any:
        assert list(hosts) == ["node1"]
        return call(FakeGlusterd(volfile, error))

    monkeypatch.setattr(observe, "first_answer", first_answer)
    return observe.observe(SPEC)


def test_a_replicated_volume_is_usable(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = observed(monkeypatch, CLIENTS + REPLICA + DHT.format("v-replicate-0"))
    assert isinstance(seen, Usable)
    assert (seen.volume_id, [str(brick) for brick in seen.geometry.bricks]) == (VOLUME_ID, ["node1:/b", "node2:/b"])


def test_a_distributed_volume_is_a_problem_that_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = observed(monkeypatch, CLIENTS + DHT.format("v-client-1 v-client-2"))
    assert isinstance(seen, Problem)
    assert seen.reason is Reason.UNSUPPORTED_VOLUME
    assert seen.message.startswith("node1: volume exported: the volume is distributed over 2 subvolumes")


def test_a_stopped_volume_is_a_problem_and_no_exception(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = observed(monkeypatch, "", VolumeStoppedError("node1: exported is stopped"))
    assert seen == Problem(reason=Reason.VOLUME_STOPPED, details="node1: exported is stopped", volume="exported")
