"""A storage is looked at when something happened, again at its interval, and sooner or later after any failure."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest

from kadalu_ext.errors import BusyError, KubernetesError
from kadalu_ext.gluster.geometry import Brick
from kadalu_ext.log import Logger
from kadalu_ext.operator.actions import BrickSeen, Existing, Problem
from kadalu_ext.operator.controller import HUNG_S, THREADS, Controller
from kadalu_ext.operator.metrics import MAX_HOSTS, Key, Metrics
from kadalu_ext.operator.plan import plan
from kadalu_ext.operator.pvs import Provisioned
from kadalu_ext.operator.reasons import Reason
from kadalu_ext.operator.reconcile import Done
from kadalu_ext.operator.report import report
from tests.unit.operator.samples import NOW, resource, usable

EXT: Key = ("default", "ext")


class FakeReconciler:
    def __init__(self, answer: Done | Exception) -> None:
        self.answer = answer
        self.asked: list[Key] = []

    def reconcile(self, namespace: str, name: str) -> Done:
        self.asked.append((namespace, name))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


class FakeWatcher:
    def __init__(self) -> None:
        self.told: list[str] = []

    def watch(self, key: Key, done: Done) -> None:
        self.told.append(f"watch {key[1]}")

    def forget(self, key: Key) -> None:
        self.told.append(f"forget {key[1]}")


def controller(answer: Done | Exception) -> tuple[Controller, FakeReconciler, FakeWatcher]:
    reconciler, watcher = FakeReconciler(answer), FakeWatcher()
    made = Controller(reconciler, interval_s=15, log=Logger("o"), metrics=Metrics(), watchers=[watcher])
    return made, reconciler, watcher


def delay(of: Controller, key: Key = EXT) -> float | None:
    """After one look, in how many seconds the next one is due."""
    of.queue.add(key)
    taken = of.queue.take()
    assert taken == key
    of.look(taken)
    due = of.queue._due.get(key)
    return None if due is None else due - of.queue._clock()


def test_a_look_that_went_well_is_followed_by_the_next_at_the_interval() -> None:
    made, _, watcher = controller(Done())
    assert 13 < (delay(made) or 0) < 17
    assert watcher.told == ["watch ext"]


@pytest.mark.parametrize(
    ("error", "event"),
    [(KubernetesError("away"), "storage not reconciled"), (ZeroDivisionError("oops"), "reconciling crashed")],
)
def test_an_error_is_logged_and_tried_again_ever_more_patiently(
    error: Exception, event: str, caplog: pytest.LogCaptureFixture
) -> None:
    made, reconciler, _ = controller(error)
    delays = [delay(made) or 0 for _ in range(9)]
    assert delays[0] < 1.1
    assert 25 < delays[-1] < 61
    assert [record.getMessage() for record in caplog.records] == [event] * 9
    reconciler.answer = Done()
    delay(made)
    reconciler.answer = error
    assert (delay(made) or 0) < 1.1


def test_an_api_server_that_says_when_to_come_again_is_not_asked_before() -> None:
    made, _, _ = controller(BusyError("429 too many requests", retry_after_s=120))
    assert 119 < (delay(made) or 0) < 133


def test_what_is_gone_is_forgotten_everywhere() -> None:
    made, _, watcher = controller(Done(gone=True))
    assert delay(made) is None
    assert watcher.told == ["forget ext"]


def test_a_storage_of_a_silent_host_is_known_as_slow() -> None:
    made, reconciler, _ = controller(Done(outcome=Problem(reason=Reason.HOST_UNREACHABLE, details="silent")))
    delay(made)
    assert made.queue._slow == {EXT}
    reconciler.answer = Done()
    delay(made)
    assert made.queue._slow == set()


def seen(name: str, namespace: str = "default") -> dict[str, dict[str, str]]:
    return {"metadata": {"namespace": namespace, "name": name}}


def test_what_happens_makes_storages_due_and_those_that_vanished_unseen_too() -> None:
    made, _, _ = controller(Done())
    made.replace("None", [seen("a"), seen("b")])
    made.change("None", "ADDED", seen("c"))
    assert made.queue.state().waiting == 3
    for _ in range(3):
        made.queue.done(made.queue.take() or EXT, slow=False)
    made.replace("None", [seen("c")])
    assert {made.queue.take() for _ in range(3)} == {("default", name) for name in "abc"}


def test_a_change_of_its_pvs_makes_a_storage_due_in_whatever_namespace_it_is() -> None:
    made, _, _ = controller(Done())
    made.change("x", "ADDED", seen("ext", "x"))
    made.queue.done(made.queue.take() or EXT, slow=False)
    for _ in range(12):
        made.poke("ext")
    made.poke("another")
    assert made.queue.state().waiting == 0  # more may come: they are one look
    assert made.queue.take() == ("x", "ext")
    assert made.queue._due == {}


def test_threads_work_until_the_queue_stops_and_one_that_hangs_is_unhealthy() -> None:
    made, reconciler, _ = controller(Done())
    made.start()
    for number in range(3 * THREADS):
        made.queue.add(("default", str(number)))
    done = threading.Event()
    while len(reconciler.asked) < 3 * THREADS:
        assert not done.wait(0.01)
    assert made.unhealthy() == ""
    made.queue.stop()
    made.queue._running[EXT] = made.queue._clock() - HUNG_S - 1
    assert made.unhealthy().startswith("a KadaluStorage has been waited for")


def test_what_was_done_is_logged_with_the_storages_name(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    made, _, _ = controller(Done(actions=tuple(plan(resource(), usable(), Existing(), now=NOW))))
    delay(made)
    assert [vars(record)["action"] for record in caplog.records] == [
        "SetFinalizers", "CreateStorageClass", "SetEntry", "PatchStatus",
    ]  # fmt: skip
    assert {vars(record)["storage"] for record in caplog.records} == {"ext"}


def test_metrics_are_of_the_last_look_and_go_with_their_storage() -> None:
    metrics = Metrics()
    (patch,) = (a.status for a in report(resource(), usable(offline=1), now=NOW) if hasattr(a, "status"))
    done = Done(outcome=usable(offline=1), status=patch, provisioned=Provisioned(pvs=2, total_bytes=4096))
    metrics.storages.put(EXT, done)
    value = metrics.registry.get_sample_value
    of = {"namespace": "default", "storage": "ext"}
    brick = {**of, "host": "node3", "path": "/bricks/v"}
    assert value("kadalu_storage_condition", {**of, "condition": "Ready", "status": "true"}) == 1
    assert value("kadalu_storage_condition", {**of, "condition": "Ready", "status": "false"}) == 0
    assert value("kadalu_storage_brick_online", brick) == 0
    assert value("kadalu_storage_provisioned_bytes", of) == 4096
    assert value("kadalu_storage_capacity_bytes", of) == 8 << 30
    metrics.storages.forget(EXT)
    assert "node3" not in metrics.text().decode()


def test_a_status_that_was_written_is_no_reason_to_look_again() -> None:
    made, _, _ = controller(Done())

    def told(kind: str, **metadata: object) -> int:
        made.change("None", kind, {"metadata": {"namespace": "default", "name": "ext", "uid": "u", **metadata}})
        waiting = made.queue.state().waiting
        if waiting:
            made.queue.done(made.queue.take() or EXT, slow=False)
        return waiting

    assert told("ADDED", generation=1) == 1
    assert told("MODIFIED", generation=1, resourceVersion="2") == 0
    assert told("MODIFIED", generation=2) == 1
    assert told("MODIFIED", generation=2, finalizers=["f"]) == 1
    assert told("MODIFIED", generation=2, finalizers=["f"], deletionTimestamp="now") == 1
    assert told("DELETED", generation=2) == 1


def test_hosts_without_end_do_not_make_metrics_without_end() -> None:
    metrics = Metrics()
    for number in range(MAX_HOSTS + 50):
        metrics.host_failed(f"host{number}", "BrickSilent")
    metrics.host_failed("host1", "BrickSilent")
    metrics.host_failed("one more", "BrickSilent")
    value = metrics.registry.get_sample_value
    assert value("kadalu_operator_host_errors_total", {"host": "others", "error": "BrickSilent"}) == 51
    assert value("kadalu_operator_host_errors_total", {"host": "host1", "error": "BrickSilent"}) == 2


def test_names_that_are_no_text_do_not_end_the_page_of_metrics() -> None:
    metrics = Metrics()
    metrics.host_failed("odd\udce4", "BrickSilent")
    odd = BrickSeen(brick=Brick(name="b", host="h\udce4", path="/\udce4"), online=True, free_bytes=1)
    found = replace(usable(), bricks=(odd,))
    metrics.storages.put(EXT, Done(outcome=found, spec=found.spec))
    text = metrics.text().decode()
    assert 'host="odd?"' in text
    assert 'host="h?",namespace="default",path="/?"' in text
