"""What a glusterd says becomes a usable volume, or a problem that names host and volume."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import pytest

from kadalu_ext.claim import CLAIM_XATTR, Claim, ClaimState, encode
from kadalu_ext.errors import HostSilentError, KadaluExtError, VolumeStoppedError
from kadalu_ext.gluster.brick import Attribute, BrickAnswer, BrickStat
from kadalu_ext.gluster.geometry import Geometry
from kadalu_ext.gluster.support import BLOCK_META
from kadalu_ext.gluster.tls import Tls
from kadalu_ext.operator import observe
from kadalu_ext.operator.actions import Problem, Usable
from kadalu_ext.operator.observe import Observer
from kadalu_ext.operator.reasons import Reason
from kadalu_ext.operator.reconcile import Done
from kadalu_ext.operator.spec import StorageSpec, parse_spec
from kadalu_ext.record import PvName
from kadalu_ext.storage import StorageName
from kadalu_ext.units import GIB
from tests.unit.operator.samples import SPEC as SAMPLE
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
DISPERSE = """
volume v-disperse-0
    type cluster/disperse
    option redundancy 1
    subvolumes v-client-1 v-client-2 v-client-3
end-volume
"""
ARBITER = """
volume v-replicate-0
    type cluster/replicate
    option arbiter-count 1
    subvolumes v-client-1 v-client-2 v-client-3
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
        self.options: dict[str, str] = {}
        self.bricks = ()

    def started_volume_info(self, volume: str, *, volume_id: str = "") -> FakeGlusterd:
        if self.error:
            raise self.error
        return self

    def getspec(self, volume: str) -> str:
        return self.volfile


class FakeProbe:
    """Bricks that answer, but for the last one."""

    opened: ClassVar[list[FakeProbe]] = []
    block_hosting: ClassVar[bool] = False
    claims: ClassVar[dict[str, Claim]] = {}
    """Of whole volumes, by their names."""

    def _claims(self, attribute: Attribute | None) -> dict[str, bytes] | None:
        if attribute is None or attribute.name != f"{CLAIM_XATTR}*":
            return None
        claim = self.claims.get(self.volume)
        return {} if claim is None else {claim.xattr: encode(claim)}

    def __init__(self, volume: str, volume_id: str, geometry: Geometry, timeout_s: float, *, tls: Tls | None) -> None:
        self.volume = volume
        self.bricks = geometry.bricks
        self.closed = False
        self.tls = tls
        self.opened.append(self)

    def stat_directory(self, path: str, attribute: Attribute | None = None) -> list[BrickAnswer]:
        stat = BrickStat(total_bytes=8 * GIB, free_bytes=GIB, block_bytes=4096)
        last = len(self.bricks) - 1
        if path == BLOCK_META and not self.block_hosting:
            return [BrickAnswer(brick=brick, stat=None, error="ENOENT", up=True) for brick in self.bricks]
        return [
            BrickAnswer(brick=brick, stat=None, error="gone", up=False)
            if number == last
            else BrickAnswer(brick=brick, stat=stat, error=None, up=True, attributes=self._claims(attribute))
            for number, brick in enumerate(self.bricks)
        ]

    def close(self) -> None:
        self.closed = True


@pytest.fixture(autouse=True)
def bricks(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeProbe.opened = []
    FakeProbe.claims = {}
    monkeypatch.setattr(observe, "BrickProbe", FakeProbe)


def observed(
    monkeypatch: pytest.MonkeyPatch,
    volfile: str,
    error: KadaluExtError | None = None,
    by: Observer | None = None,
    *,
    spec: StorageSpec = SPEC,
    tls: Tls | None = None,
) -> Usable | Problem:
    def first_answer(hosts: Iterable[str], call: Callable[[Any], Any], timeout_s: float, *, tls: Tls | None) -> Any:
        assert list(hosts) == ["node1"]
        return call(FakeGlusterd(volfile, error))

    monkeypatch.setattr(observe, "first_answer", first_answer)
    return (by or Observer())(spec, tls)


def test_a_replicated_volume_is_usable(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = observed(monkeypatch, CLIENTS + REPLICA + DHT.format("v-replicate-0"))
    assert isinstance(seen, Usable)
    assert (seen.volume_id, [str(brick) for brick in seen.geometry.bricks]) == (VOLUME_ID, ["node1:/b", "node2:/b"])
    assert [str(offline.brick) for offline in seen.offline] == ["node2:/b"]
    assert (seen.takes_writes, seen.capacity_bytes) == (True, 8 * GIB)
    assert seen.enforcement is not None
    assert seen.enforcement.reason is Reason.NOT_MEASURED


def test_connections_to_bricks_are_kept_until_the_volume_changes_or_the_storage_is_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    observer = Observer()
    volfile = CLIENTS + REPLICA + DHT.format("v-replicate-0")
    for text in (volfile, volfile, volfile.replace("remote-subvolume /b", "remote-subvolume /c")):
        observed(monkeypatch, text, by=observer)
    assert [probe.closed for probe in FakeProbe.opened] == [True, False]
    observer.forget(("default", "ext"))
    assert [probe.closed for probe in FakeProbe.opened] == [True, True]


def test_the_end_of_a_twin_that_never_had_the_name_closes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    observer = Observer()
    seen = observed(monkeypatch, CLIENTS + REPLICA + DHT.format("v-replicate-0"), by=observer)
    observer.watch(("default", "ext"), Done(spec=SPEC, outcome=seen))
    observer.watch(("second", "ext"), Done())
    observer.forget(("second", "ext"))
    assert not FakeProbe.opened[0].closed
    observer.forget(("default", "ext"))
    assert FakeProbe.opened[0].closed


def test_a_host_that_does_not_answer_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[tuple[str, str]] = []
    observer = Observer(failed=lambda host, error: counted.append((host, error)))
    observed(monkeypatch, "", HostSilentError("node1 is silent"), by=observer)
    assert counted == [("node1", "HostSilentError")]


def test_a_distributed_volume_is_a_problem_that_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = observed(monkeypatch, CLIENTS + DHT.format("v-client-1 v-client-2"))
    assert isinstance(seen, Problem)
    assert seen.reason is Reason.DISTRIBUTED
    assert seen.message.startswith("node1: volume exported: the volume is distributed over 2 subvolumes")


@pytest.mark.parametrize(
    ("fields", "refused"),
    [({}, True), ({"quota": "optional"}, True), ({"quota": "none"}, False), ({"accept": "DataAtRisk"}, False),
     ({"kadalu-format": False}, False)],
)  # fmt: skip
@pytest.mark.parametrize(("top", "what"), [(DISPERSE, "is disperse"), (ARBITER, "has an arbiter")])
def test_sizes_are_enforced_on_disperse_and_arbiter_volumes_only_by_those_who_accept_what_a_full_pv_loses(
    fields: dict[str, object], refused: bool, top: str, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    volfile = CLIENTS + CLIENT.format(3) + top + DHT.format(top.split()[1])
    seen = observed(monkeypatch, volfile, spec=parse_spec("ext", {**SAMPLE, **fields}))
    if refused:
        assert isinstance(seen, Problem) and seen.reason is Reason.DATA_AT_RISK
        assert f"volume exported: it {what}" in seen.message and "spec.accept: [DataAtRisk]" in seen.message
    else:
        assert isinstance(seen, Usable)


def test_a_stopped_volume_is_a_problem_and_no_exception(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = observed(monkeypatch, "", VolumeStoppedError("node1: exported is stopped"))
    assert seen == Problem(reason=Reason.VOLUME_STOPPED, details="node1: exported is stopped", volume="exported")


def test_a_volume_of_gluster_block_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeProbe, "block_hosting", True)
    seen = observed(monkeypatch, CLIENTS + REPLICA + DHT.format("v-replicate-0"))
    assert isinstance(seen, Problem)
    assert seen.reason is Reason.BLOCK_HOSTING


@pytest.mark.parametrize(
    ("ssl", "tls", "words"),
    [
        ("on", None, "the volume wants TLS (client.ssl is on) and the storage has none"),
        ("off", {"secretName": "s", "management": False}, "client.ssl is off: nothing would be"),
    ],
)
def test_a_volume_and_a_storage_that_differ_about_tls_are_a_problem_with_its_remedy(
    monkeypatch: pytest.MonkeyPatch, ssl: str, tls: object, words: str
) -> None:
    option = f"    option transport.socket.ssl-enabled {ssl}\nend-volume"
    volfile = CLIENTS.replace("end-volume", option) + REPLICA + DHT.format("v-replicate-0")
    spoken = None if tls is None else Tls(certificate="c", key="k", ca="a", management=False)
    seen = observed(monkeypatch, volfile, spec=usable({**SAMPLE, "tls": tls}).spec, tls=spoken)
    assert isinstance(seen, Problem)
    assert seen.reason is Reason.TLS_MISMATCH
    assert words in seen.message


def test_bricks_are_spoken_to_with_the_newest_files(monkeypatch: pytest.MonkeyPatch) -> None:
    observer, volfile = Observer(), CLIENTS + REPLICA + DHT.format("v-replicate-0")
    for key in ("1", "1", "2"):
        observed(monkeypatch, volfile, by=observer, tls=Tls(certificate="c", key=key, ca="a"))
    assert [probe.tls.key for probe in FakeProbe.opened if probe.tls] == ["1", "2"]


TAKEN = Claim(number=1, state=ClaimState.TAKEN, pv=PvName("pvc-1"), storage=StorageName("heketi"))
THREE = REPLICA.replace("v-client-1 v-client-2", "v-client-1 v-client-2 v-client-3")


def test_whole_volumes_are_looked_at_one_by_one_and_each_tells_whose_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    details = [{"gluster_node": "node1", "gluster_volname": name} for name in ("vol_1", "vol_2")]
    spec = parse_spec("heketi", {"type": "External", "kadalu-format": False, "details": details})
    FakeProbe.claims = {"vol_1": TAKEN}
    by = Observer()
    for _ in range(2):
        outcome = observed(
            monkeypatch, CLIENTS + CLIENT.format(3) + THREE + DHT.format("v-replicate-0"), by=by, spec=spec
        )
    assert isinstance(outcome, Usable)
    assert [each.status()["state"] for each in outcome.members] == ["Claimed", "Free"]
    assert (outcome.capacity_bytes, len(outcome.bricks), len(FakeProbe.opened)) == (16 * GIB, 6, 2)
    assert outcome.volume_id == f"whole:vol_1={VOLUME_ID},vol_2={VOLUME_ID}"
    assert outcome.enforcement is None
    by.forget(("default", "heketi"))
    assert all(each.closed for each in FakeProbe.opened)


def test_a_volume_that_is_a_pv_as_a_whole_gets_no_directories(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeProbe.claims = {SPEC.volume: TAKEN}
    outcome = observed(monkeypatch, CLIENTS + CLIENT.format(3) + THREE + DHT.format("v-replicate-0"))
    assert isinstance(outcome, Problem)
    assert outcome.reason is Reason.VOLUME_SHARED and "heketi/pvc-1" in outcome.details
