"""Look, think, do, again and again, on a cluster that others change too."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace

import pytest

from kadalu_ext.errors import BusyError, ConflictError, KubernetesError
from kadalu_ext.operator.actions import CreateStorageClass, PatchStatus, Problem, SetFiles
from kadalu_ext.operator.eventbudget import BURST, EVERY_S, EventBudget
from kadalu_ext.operator.reasons import Reason
from kadalu_ext.operator.reconcile import Done, Reconciler
from tests.unit.operator.samples import SPEC, FakeCluster, resource, usable

CLASS = "kadalu.external.ext"
OTHER_HOSTS = {"type": "External", "details": {"gluster_nodes": "a,b", "gluster_volname": "exported"}}


def operator_of(cluster: FakeCluster) -> Reconciler:
    return Reconciler(cluster, cluster.observe)


def ready(cluster: FakeCluster, namespace: str = "default") -> tuple[str, str]:
    condition = cluster.resources[namespace, "ext"].status["conditions"][-1]
    return condition["status"], condition["reason"]


def test_a_new_storage_gets_its_class_and_entry_and_is_left_alone_from_then_on() -> None:
    cluster = FakeCluster(resource())
    assert len(operator_of(cluster).reconcile("default", "ext").actions) == 8
    assert (list(cluster.classes), list(cluster.entries), ready(cluster)[0]) == ([CLASS], ["ext.json"], "True")
    assert operator_of(cluster).reconcile("default", "ext").actions == ()


@pytest.mark.parametrize("kind", ["Replica1", "Replica3", "Disperse", "external", None])
def test_a_storage_of_another_type_is_kadalus_and_nothing_of_it_is_touched(kind: str | None) -> None:
    cluster = FakeCluster(resource({"type": kind, "storage": [{"node": "n"}]}))
    assert operator_of(cluster).reconcile("default", "ext").actions == ()
    assert not cluster.applied
    assert not cluster.asked


def test_a_spec_that_is_wrong_costs_the_gluster_cluster_no_question() -> None:
    cluster = FakeCluster(resource({**SPEC, "flavour": 1}))
    operator_of(cluster).reconcile("default", "ext")
    assert (cluster.asked, cluster.classes, ready(cluster)) == (0, {}, ("False", "InvalidSpec"))


@pytest.mark.parametrize("steps", range(9))
def test_killed_after_any_step_it_ends_where_it_would_have_and_tells_everything_once(steps: int) -> None:
    cluster = FakeCluster(resource())
    cluster.applies_left = steps
    with suppress(SystemExit):
        operator_of(cluster).reconcile("default", "ext")
    cluster.applies_left = 1000
    operator_of(cluster).reconcile("default", "ext")
    assert (list(cluster.classes), list(cluster.entries), ready(cluster)[0]) == ([CLASS], ["ext.json"], "True")
    told = sorted(reason for reason, _ in cluster.events.values())
    assert told == ["GlusterdAnswers", "StorageReady", "Valid", "VolumeUsable"]


@pytest.mark.parametrize("steps", range(4))
def test_killed_after_any_step_of_a_removal_nothing_is_left_behind(steps: int) -> None:
    cluster = FakeCluster(resource())
    operator_of(cluster).reconcile("default", "ext")
    cluster.delete("default", "ext")
    cluster.applies_left = steps
    with suppress(SystemExit):
        operator_of(cluster).reconcile("default", "ext")
    cluster.applies_left = 1000
    assert operator_of(cluster).reconcile("default", "ext").gone
    assert (cluster.classes, cluster.entries, cluster.resources) == ({}, {}, {})


@pytest.mark.parametrize("steps", range(5))
def test_killed_after_any_step_of_a_change_it_is_told_once_and_in_effect(steps: int) -> None:
    cluster = FakeCluster(resource())
    operator_of(cluster).reconcile("default", "ext")
    changed = replace(cluster.resources["default", "ext"], spec=OTHER_HOSTS, generation=2)
    cluster.resources["default", "ext"] = changed
    cluster.applies_left = steps
    with suppress(SystemExit):
        operator_of(cluster).reconcile("default", "ext")
    cluster.applies_left = 1000
    operator_of(cluster).reconcile("default", "ext")
    assert cluster.classes[CLASS]["parameters"]["hosts"] == "a,b"
    assert json.loads(cluster.entries["ext.json"])["hosts"] == ["a", "b"]
    told = [message for reason, message in cluster.events.values() if reason == "StorageChanged"]
    assert told == ["hosts: node1 -> a, b; options.log-level: DEBUG -> not set"]


def test_two_operators_at_once_make_and_tell_everything_once() -> None:
    cluster = FakeCluster(resource())
    twice = cluster.resources["default", "ext"]
    operator_of(cluster).reconcile("default", "ext")
    told = dict(cluster.events)
    cluster.resources["default", "ext"] = twice  # the second one has looked before the first one wrote
    operator_of(cluster).reconcile("default", "ext")
    assert cluster.events == told


def test_of_two_storages_of_one_name_the_first_keeps_it_and_the_other_follows_when_that_is_gone() -> None:
    cluster = FakeCluster(resource(), resource(namespace="second"))
    operator = operator_of(cluster)
    operator.reconcile("default", "ext")
    operator.reconcile("second", "ext")
    assert ready(cluster, "second") == ("False", "NameTaken")
    cluster.delete("default", "ext")
    assert operator.reconcile("default", "ext").gone
    operator.reconcile("second", "ext")
    assert ready(cluster, "second")[0] == "True"
    assert cluster.classes[CLASS]["metadata"]["annotations"]["kadalu.external/owner"] == "second/ext"


def test_who_loses_the_race_for_a_name_looks_again_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = FakeCluster(resource(), resource(namespace="second"))
    looked = cluster.existing(resource(namespace="second"))
    operator_of(cluster).reconcile("default", "ext")
    stale = iter([looked])
    existing = cluster.existing
    monkeypatch.setattr(cluster, "existing", lambda of: next(stale, None) or existing(of))
    operator_of(cluster).reconcile("second", "ext")
    assert ready(cluster, "second") == ("False", "NameTaken")


def test_what_the_api_server_refuses_is_said_in_the_status_and_tried_again() -> None:
    cluster = FakeCluster(resource())
    cluster.refused[CreateStorageClass] = KubernetesError("refused to create StorageClass: 403 no")
    with pytest.raises(KubernetesError):
        operator_of(cluster).reconcile("default", "ext")
    assert ready(cluster) == ("False", "NotApplied")
    cluster.refused.clear()
    operator_of(cluster).reconcile("default", "ext")
    assert ready(cluster)[0] == "True"


def test_an_api_server_that_takes_nothing_is_an_error_and_not_a_crash() -> None:
    cluster = FakeCluster(resource())
    cluster.refused = dict.fromkeys((CreateStorageClass, PatchStatus), KubernetesError("away"))
    with pytest.raises(KubernetesError, match="away"):
        operator_of(cluster).reconcile("default", "ext")
    cluster.refused = {CreateStorageClass: ConflictError("always")}
    with pytest.raises(ConflictError, match="changed by others"):
        operator_of(cluster).reconcile("default", "ext")


def test_of_an_api_server_that_has_too_much_to_do_nothing_more_is_asked() -> None:
    cluster = FakeCluster(resource())
    cluster.refused[CreateStorageClass] = BusyError("429", retry_after_s=1)
    with pytest.raises(BusyError):
        operator_of(cluster).reconcile("default", "ext")
    assert cluster.resources["default", "ext"].status == {}


def test_an_outage_leaves_the_class_and_its_end_is_seen() -> None:
    cluster = FakeCluster(resource())
    operator_of(cluster).reconcile("default", "ext")
    cluster.volume = Problem(reason=Reason.VOLUME_STOPPED, details="halted")
    operator_of(cluster).reconcile("default", "ext")
    assert (list(cluster.classes), ready(cluster)) == ([CLASS], ("False", "VolumeStopped"))
    cluster.volume = usable()
    operator_of(cluster).reconcile("default", "ext")
    assert ready(cluster)[0] == "True"


def test_a_storage_that_is_gone_or_held_by_others_alone_is_left_alone() -> None:
    cluster = FakeCluster(replace(resource(), deleting=True, finalizers=("another/one",)))
    assert operator_of(cluster).reconcile("default", "ext") == Done(gone=True)
    assert operator_of(cluster).reconcile("default", "gone") == Done(gone=True)


def test_a_storage_for_which_nothing_was_made_goes_at_once() -> None:
    cluster = FakeCluster(resource({**SPEC, "flavour": 1}))
    operator_of(cluster).reconcile("default", "ext")
    cluster.delete("default", "ext")
    assert cluster.resources == {}


def test_a_deletion_goes_on_when_the_last_pv_is_gone_and_is_told_once() -> None:
    cluster = FakeCluster(resource())
    operator = operator_of(cluster)
    operator.reconcile("default", "ext")
    cluster.delete("default", "ext")
    for pvs in (("pvc-1", "pvc-2"), ("pvc-2",), ("pvc-2",)):
        cluster.pvs = pvs
        assert not operator.reconcile("default", "ext").gone
    assert (list(cluster.classes), ready(cluster)) == ([CLASS], ("False", "HeldByVolumes"))
    assert "1 of its PVs: pvc-2" in cluster.resources["default", "ext"].status["conditions"][-1]["message"]
    told = [message for reason, message in cluster.events.values() if reason == "HeldByVolumes"]
    assert ["pvc-1, pvc-2" in message for message in told] == [True]
    cluster.pvs = ()
    assert operator.reconcile("default", "ext").gone
    assert (cluster.classes, cluster.entries, cluster.resources) == ({}, {}, {})


def test_an_operator_that_lost_the_lease_while_it_looked_writes_nothing() -> None:
    cluster = FakeCluster(resource())
    may_write = iter([True, True, False])
    operator = Reconciler(cluster, cluster.observe, may_write=lambda: next(may_write, False))
    with pytest.raises(KubernetesError, match="no Lease any more"):
        operator.reconcile("default", "ext")
    assert len(cluster.applied) == 2


SAFE = {**SPEC, "tls": {"secretName": "client"}}
SECRET = {"tls.crt": b"certificate", "tls.key": b"key 1", "ca.crt": b"ca"}
FILES = {"ext.crt": b"certificate", "ext.key": b"key 1", "ext.ca": b"ca"}


@pytest.fixture
def safe() -> FakeCluster:
    """A storage with TLS and its Secret, beside another one that has some."""
    cluster = FakeCluster(resource(SAFE))
    cluster.secrets["default/client"] = dict(SECRET)
    cluster.secret_of_files = {"other.key": b"of another storage"}
    return cluster


def test_the_files_of_a_secret_are_spoken_with_handed_on_renewed_and_gone_with_the_storage(safe: FakeCluster) -> None:
    operator_of(safe).reconcile("default", "ext")
    assert safe.secret_of_files == {"other.key": b"of another storage", **FILES}
    assert safe.spoken is not None and safe.spoken.key == "key 1"
    assert json.loads(safe.entries["ext.json"])["tls"] == "all"
    assert operator_of(safe).reconcile("default", "ext").actions == ()
    safe.secrets["default/client"]["tls.key"] = b"key 2"
    assert operator_of(safe).reconcile("default", "ext").actions == (SetFiles(files={**FILES, "ext.key": b"key 2"}),)
    safe.delete("default", "ext")
    assert operator_of(safe).reconcile("default", "ext").gone
    assert safe.secret_of_files == {"other.key": b"of another storage"}


@pytest.mark.parametrize(("data", "reason"), [(None, "SecretNotFound"), ({"tls.crt": b"c"}, "SecretUnusable")])
def test_a_secret_that_is_of_no_use_is_an_outage_in_which_clients_keep_what_they_have(
    safe: FakeCluster, data: dict[str, bytes] | None, reason: str
) -> None:
    operator_of(safe).reconcile("default", "ext")
    safe.secrets = {} if data is None else {"default/client": data}
    done = operator_of(safe).reconcile("default", "ext")
    assert (ready(safe), list(safe.classes)) == (("False", reason), [CLASS])
    assert "default/client" in str(done.outcome)
    assert safe.secret_of_files == {"other.key": b"of another storage", **FILES}


def test_a_certificate_that_the_cluster_refuses_is_not_handed_on(safe: FakeCluster) -> None:
    operator_of(safe).reconcile("default", "ext")
    safe.secrets["default/client"]["tls.crt"] = b"refused"
    safe.volume = Problem(reason=Reason.TLS_MISMATCH, details="node1 does not accept our certificate")
    operator_of(safe).reconcile("default", "ext")
    assert (ready(safe)[1], safe.secret_of_files["ext.crt"]) == ("TlsMismatch", b"certificate")


@pytest.mark.parametrize("steps", range(4))
def test_killed_after_any_step_no_file_outlives_the_end_of_tls(safe: FakeCluster, steps: int) -> None:
    operator_of(safe).reconcile("default", "ext")
    safe.resources["default", "ext"] = replace(safe.resources["default", "ext"], spec=SPEC)
    safe.applies_left = steps
    with suppress(SystemExit):
        operator_of(safe).reconcile("default", "ext")
    safe.applies_left = 1000
    operator_of(safe).reconcile("default", "ext")
    assert safe.secret_of_files == {"other.key": b"of another storage"}
    assert json.loads(safe.entries["ext.json"])["tls"] == "none"
    assert safe.spoken is None


def test_nothing_of_a_secret_is_in_what_is_told_or_can_be_printed(safe: FakeCluster) -> None:
    done = operator_of(safe).reconcile("default", "ext")
    told = repr((done, safe.events, safe.resources))
    assert not any(text.decode() in told for text in SECRET.values() if text != b"ca")


def test_a_brick_that_flaps_all_day_fills_no_api_server_with_events() -> None:
    cluster = FakeCluster(resource(), resource(namespace="second", name="calm"))
    cluster.applies_left = 10_000
    operator = operator_of(cluster)
    for number in range(1000):
        cluster.resources["default", "ext"] = replace(cluster.resources["default", "ext"], generation=number)
        cluster.volume = usable(offline=number % 2)
        operator.reconcile("default", "ext")
    assert len(cluster.events) <= BURST + 1
    assert ready(cluster) == ("True", "StorageDegraded")
    operator.reconcile("second", "calm")
    assert len(cluster.events) > BURST + 1


def test_the_budget_of_events_comes_back_with_time() -> None:
    now = [0.0]
    budget = EventBudget(clock=lambda: now[0])
    assert [budget.allows("u") for _ in range(BURST + 1)] == [True] * BURST + [False]
    now[0] += EVERY_S
    assert [budget.allows("u"), budget.allows("u"), budget.allows("other")] == [True, False, True]
