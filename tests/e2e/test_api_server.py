"""An API server that is away, that has too much to do, and an operator that is killed between any two of its calls."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
from kubernetes import client, config

from kadalu_ext.operator.actions import Action
from kadalu_ext.operator.kube import Kube
from kadalu_ext.operator.reconcile import Done, Reconciler
from tests.e2e.story import NAMESPACE, Story
from tests.e2e.test_operator_life import LIFE, OPERATOR, assert_told_once, entry, events, processes, ready, storage
from tests.unit.operator.samples import usable

FLOW = "flowcontrol.apiserver.k8s.io/v1"
USER = {"kind": "ServiceAccount", "serviceAccount": {"namespace": NAMESPACE, "name": "kadalu-ext-operator"}}
ALL_BUT_LEASES = {
    "verbs": ["*"],
    "apiGroups": ["*"],
    "resources": ["kadalustorages", "kadalustorages/status", "storageclasses", "configmaps", "events"],
    "namespaces": ["*"],
    "clusterScope": True,
}
NO_SEATS: dict[str, Any] = {
    "nominalConcurrencyShares": 0,
    "lendablePercent": 0,
    "borrowingLimitPercent": 0,
    "limitResponse": {"type": "Reject"},
}


@pytest.fixture
def life(installed: Story) -> Iterator[Story]:
    """A second storage on the story's volume, Ready."""
    installed.apply(storage())
    try:
        ready(installed)
        yield installed
    finally:
        installed.kube.kubectl("delete", "kds", LIFE, "-n", "default", "--ignore-not-found")


@contextmanager
def hung(story: Story) -> Iterator[None]:
    story.kube.sandbox.run(["pkill", "-STOP", "-x", "kube-apiserver"])
    try:
        yield
    finally:
        story.kube.sandbox.run(["pkill", "-CONT", "-x", "kube-apiserver"])


@contextmanager
def refused(story: Story) -> Iterator[None]:
    run = story.kube.sandbox.run
    pid = run(["pgrep", "-x", "kube-apiserver"]).stdout.strip()
    argv = run(["cat", f"/proc/{pid}/cmdline"]).stdout.split("\0")[:-1]
    run(["kill", "-KILL", pid])
    try:
        yield
    finally:
        story.kube.sandbox.detach(argv, log=story.kube.sandbox.log_dir / "kube-apiserver-again.log")
        story.wait("the API server to be back", lambda: story.try_kubectl("get", "--raw", "/readyz").stdout == "ok")


@pytest.mark.parametrize("away", [hung, refused])
def test_an_api_server_that_is_away_costs_the_lease_and_nothing_else(life: Story, away: Any) -> None:
    uid, before = ready(life)["metadata"]["uid"], processes(life)
    with away(life):
        # the leader can no longer know that it is one: it ends, and kubelet starts it anew
        life.wait("the operator to give up", lambda: not before & processes(life))
    life.wait("the operator to be back", lambda: life.is_rolled_out(OPERATOR))
    life.apply(storage(hosts="brick2"))
    ready(life)
    assert (entry(life) or {})["hosts"] == ["brick2"]
    assert_told_once(life, uid)


@contextmanager
def overloaded(story: Story) -> Iterator[None]:
    """The API server answers 429 to all that the operator asks, but for its Lease, most of the time.

    A priority level without seats still serves one call at a time: so one is made that waits for an admission webhook.
    """
    level = {"type": "Limited", "limited": NO_SEATS}
    schema = {
        "priorityLevelConfiguration": {"name": "none"},
        "matchingPrecedence": 2,
        "rules": [{"subjects": [USER], "resourceRules": [ALL_BUT_LEASES]}],
    }
    for kind, spec in (("PriorityLevelConfiguration", level), ("FlowSchema", schema)):
        story.apply({"apiVersion": FLOW, "kind": kind, "metadata": {"name": "none"}, "spec": spec})
    stop = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        story.apply(webhook(silent.getsockname()[1]))
        thread = threading.Thread(target=hold_the_seat, args=(story, stop))
        thread.start()
        try:
            yield
        finally:
            stop.set()
            silent.close()
            story.kube.kubectl("delete", "flowschema/none", "prioritylevelconfiguration/none")
            thread.join()
            story.kube.kubectl("delete", "validatingwebhookconfiguration", "silent")


def webhook(port: int) -> dict[str, Any]:
    """One that a ConfigMap `slow` waits for, half a minute."""
    hook = {
        "name": "silent.kadalu.external",
        "clientConfig": {"url": f"https://127.0.0.1:{port}/"},
        "rules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"]}],
        "matchConditions": [{"name": "slow", "expression": "object.metadata.name == 'slow'"}],
        "timeoutSeconds": 30,
        "sideEffects": "None",
        "admissionReviewVersions": ["v1"],
    }
    kind = {"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration"}
    return {**kind, "metadata": {"name": "silent"}, "webhooks": [hook]}


def hold_the_seat(story: Story, stop: threading.Event) -> None:
    while not stop.is_set():
        made_as = f"--as=system:serviceaccount:{NAMESPACE}:kadalu-ext-operator"
        story.try_kubectl("create", "configmap", "slow", "-n", NAMESPACE, made_as)


def sent_away(story: Story) -> int:
    """How often the API server answered 429."""
    found = 0
    for line in story.kube.layout.audit_log.read_text().splitlines():
        record = json.loads(line)
        own = "impersonatedUser" not in record
        found += own and record.get("responseStatus", {}).get("code") == 429
    return found


def test_an_api_server_that_has_too_much_to_do_is_asked_again_until_it_has_not(life: Story) -> None:
    uid, before = ready(life)["metadata"]["uid"], processes(life)
    earlier = sent_away(life)
    with overloaded(life):
        life.wait("the operator to be sent away", lambda: sent_away(life) > earlier)
        life.apply(storage(hosts="brick3"))
        seen = sent_away(life)
        life.wait("it to be sent away again", lambda: sent_away(life) > seen)
    ready(life)
    assert (entry(life) or {})["hosts"] == ["brick3"]
    assert_told_once(life, uid)
    assert processes(life) == before


class Mortal(Kube):
    """The API server, for an operator that is killed once it has changed so many things."""

    def __init__(self, story: Story, steps: int) -> None:
        settings = client.Configuration()
        path = str(story.kube.kubeconfig)
        config.load_kube_config(path, client_configuration=settings)  # type: ignore[no-untyped-call]
        super().__init__(client.ApiClient(settings), namespace=NAMESPACE)
        self.left = steps

    def apply(self, action: Action) -> None:
        if self.left == 0:
            raise SystemExit
        self.left -= 1
        super().apply(action)


@pytest.fixture
def alone(installed: Story) -> Iterator[Story]:
    """No operator but the test's own."""
    installed.kube.kubectl("scale", OPERATOR, "-n", NAMESPACE, "--replicas=0")
    try:
        installed.wait("the operator to end", lambda: not processes(installed))
        yield installed
    finally:
        installed.kube.kubectl("scale", OPERATOR, "-n", NAMESPACE, "--replicas=1")
        installed.wait("the operator to be back", lambda: installed.is_rolled_out(OPERATOR))


def killed_and_started_anew(story: Story, name: str, steps: int) -> tuple[bool, Done]:
    """Whether it was killed before it was through, and what the next one did."""

    def operator(lives: int) -> Done:
        cluster = Mortal(story, lives)
        return Reconciler(cluster, lambda spec, _tls: replace(usable(), spec=spec)).reconcile("default", name)

    killed = False
    try:
        operator(steps)
    except SystemExit:
        killed = True
    return killed, operator(1000)


def test_killed_between_any_two_calls_it_ends_where_it_would_have_and_tells_it_once(alone: Story) -> None:
    seen = set()
    for steps in range(20):
        name = f"step-{steps}"
        alone.apply(storage(name))
        made, _ = killed_and_started_anew(alone, name, steps)
        uid = alone.get("kds", name)["metadata"]["uid"]
        assert sorted(why for why, _ in events(alone, uid)) == [
            "GlusterdAnswers",
            "StorageReady",
            "Valid",
            "VolumeUsable",
        ]
        alone.apply(storage(name, hosts="brick2"))
        changed, _ = killed_and_started_anew(alone, name, steps)
        assert (entry(alone, name) or {})["hosts"] == ["brick2"]
        assert alone.get("sc", f"kadalu.external.{name}")["parameters"]["hosts"] == "brick2"
        told = [text for why, text in events(alone, uid) if why == "StorageChanged"]
        assert told == ["hosts: brick1 -> brick2"]
        alone.kube.kubectl("delete", "kds", name, "--wait=false")
        removed, done = killed_and_started_anew(alone, name, steps)
        assert done.gone
        assert f"kadalu.external.{name}" not in alone.kube.kubectl("get", "sc", "-o", "name")
        assert entry(alone, name) is None
        assert name not in alone.kube.kubectl("get", "kds", "-o", "name").split("/")
        seen |= {each for each, killed in (("made", made), ("changed", changed), ("removed", removed)) if killed}
        if not (made or changed or removed):
            break
    assert seen == {"made", "changed", "removed"}
    assert not (made or changed or removed)
