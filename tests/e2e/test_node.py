"""What a real kubelet makes of a node's trouble: a client that died, a group for a tree of files, one pod on a node."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kadalu_ext.storage import Storage, StorageName
from tests.e2e.story import NAMESPACE, SLOW_MACHINE_S, STORAGE, Story, claim_manifest, condition
from tests.integration.test_mounter import clients
from tests.testbed import image, progress

FILES = int(os.environ.get("KADALU_EXT_FILES", "200"))
"""In the tree that a pod's group is applied to; more by hand."""

AT_ONCE = 8
MEMBER = {"runAsUser": 1000, "runAsGroup": 3000, "fsGroup": 4000}


def pod_manifest(name: str, claim: str, **spec: Any) -> dict[str, Any]:
    container = {
        "name": "main",
        "image": image.BUSYBOX_IMAGE,
        "imagePullPolicy": "Never",
        # its name on the command line, so that a test finds the process
        "command": ["sh", "-c", f": {name}; while true; do sleep 3600; done"],
        "volumeMounts": [{"name": "data", "mountPath": "/data"}],
    }
    volume = {"name": "data", "persistentVolumeClaim": {"claimName": claim}}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {"terminationGracePeriodSeconds": 0, "containers": [container], "volumes": [volume], **spec},
    }


@contextmanager
def claimed(story: Story, name: str, *modes: str) -> Iterator[None]:
    """A Bound claim, and neither it nor a pod of the test's afterwards."""
    manifest = claim_manifest(name, 64)
    if modes:
        manifest["spec"]["accessModes"] = list(modes)
    story.apply(manifest)
    try:
        story.wait_bound(name)
        yield
    finally:
        story.kube.kubectl("delete", "pod", "-l", f"claim={name}", "--ignore-not-found", timeout=SLOW_MACHINE_S)
        story.kube.kubectl("delete", "pvc", name)


def run(story: Story, name: str, claim: str, **spec: Any) -> None:
    manifest = pod_manifest(name, claim, **spec)
    manifest["metadata"]["labels"] = {"claim": claim}
    story.apply(manifest)
    story.wait_running(name)


def events(story: Story, pod: str, reason: str) -> list[str]:
    found = story.get("events", "--field-selector", f"involvedObject.name={pod},reason={reason}")["items"]
    return [event["message"] for event in found]


def test_a_pod_whose_client_died_is_told_and_works_when_it_is_started_anew(installed: Story) -> None:
    storage = Storage(name=StorageName(STORAGE), hosts=("brick1",), volume="-")
    with claimed(installed, "mended"):
        run(installed, "lost", "mended")
        installed.in_pod("lost", "sh", "-c", "echo kept > /data/file && sync")
        before = clients(storage)
        assert before
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        installed.wait("another client", lambda: clients(storage) - before)
        (told,) = installed.wait(
            "kubelet to say so at the pod",
            lambda: [each for each in events(installed, "lost", "VolumeConditionAbnormal") if "ClientReplaced" in each][
                :1
            ],
        )
        assert "delete such pods" in told
        run(installed, "another", "mended")
        assert installed.in_pod("another", "cat", "/data/file") == "kept"
        installed.kube.kubectl("delete", "pod", "lost")
        run(installed, "lost", "mended")
        assert installed.in_pod("lost", "cat", "/data/file") == "kept"


def test_a_container_that_is_started_again_in_its_pod_works_after_the_client_died(installed: Story) -> None:
    storage = Storage(name=StorageName(STORAGE), hosts=("brick1",), volume="-")
    with claimed(installed, "restarted"):
        run(installed, "restarted", "restarted")
        installed.in_pod("restarted", "sh", "-c", "echo kept > /data/file && sync")
        before = clients(storage)
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        installed.wait("another client", lambda: clients(storage) - before)
        installed.wait("the pod's mount to be mended", lambda: told_of_replacement(installed, "restarted"))
        for pid in processes(": restarted; "):
            os.kill(pid, signal.SIGKILL)
        installed.wait("the container to be another", lambda: restart(installed, "restarted"))
        assert installed.in_pod("restarted", "cat", "/data/file") == "kept"


def test_a_mounter_that_was_replaced_mounts_what_the_nodes_pods_have(installed: Story) -> None:
    storage = Storage(name=StorageName(STORAGE), hosts=("brick1",), volume="-")
    with claimed(installed, "replaced"):
        run(installed, "survivor", "replaced")
        installed.in_pod("survivor", "sh", "-c", "echo kept > /data/file && sync")
        before = clients(storage)
        installed.kube.kubectl("delete", "pod", "-n", NAMESPACE, "-l", "app.kubernetes.io/component=mounter")
        installed.wait("the clients to end with their pod", lambda: not before & clients(storage))
        installed.wait("another client, though nobody stages anything", lambda: clients(storage))
        installed.wait("kubelet to say so at the pod", lambda: told_of_replacement(installed, "survivor"))
        installed.kube.kubectl("delete", "pod", "survivor")
        run(installed, "survivor", "replaced")
        assert installed.in_pod("survivor", "cat", "/data/file") == "kept"


def processes(word: str) -> list[int]:
    """Whose command line begins a shell's script with `word`."""
    found = []
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            words = (directory / "cmdline").read_bytes().split(b"\0")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if words[:2] == [b"sh", b"-c"] and words[2].startswith(word.encode()):
            found.append(int(directory.name))
    return found


def told_of_replacement(story: Story, pod: str) -> list[str]:
    return [each for each in events(story, pod, "VolumeConditionAbnormal") if "ClientReplaced" in each]


def restart(story: Story, pod: str) -> bool:
    status = story.get("pod", pod)["status"]
    return bool(status["containerStatuses"][0]["restartCount"]) and condition({"status": status}, "Ready") == "True"


def test_a_group_is_applied_to_a_tree_of_files(installed: Story) -> None:
    with claimed(installed, "grouped"):
        run(installed, "maker", "grouped")
        of_one = "mkdir d$d; for f in $(seq 1 100); do : > d$d/f$f; done"
        of_some = f"for d in $(seq $n {AT_ONCE} {FILES // 100}); do {of_one}; done"
        make = f"cd /data; for n in $(seq 1 {AT_ONCE}); do ({of_some}) & done; wait"
        began = time.monotonic()
        installed.kube.kubectl("exec", "maker", "--", "sh", "-c", make, timeout=SLOW_MACHINE_S + FILES)
        made = time.monotonic()
        installed.kube.kubectl("delete", "pod", "maker")
        deleted = time.monotonic()
        member = pod_manifest("member", "grouped", securityContext=MEMBER)
        member["metadata"]["labels"] = {"claim": "grouped"}
        installed.apply(member)
        progress.wait_until("the pod to run", lambda: runs(installed, "member"), seconds=SLOW_MACHINE_S + FILES)
        running = time.monotonic()
        look = "find /data -type f -exec stat -c '%g %a' {} + | sort | uniq -c"
        groups = installed.kube.kubectl("exec", "member", "--", "sh", "-c", look, timeout=SLOW_MACHINE_S + FILES)
        progress.say(f"{FILES} files made in {made - began:.0f} s; the pod runs after {running - deleted:.0f} s")
        assert groups.split() == [str(FILES), "4000", "664"], groups
        installed.in_pod("member", "sh", "-c", "echo mine > /data/d1/f1 && echo new > /data/d1/new")


def runs(story: Story, pod: str) -> bool:
    return condition(story.get("pod", pod), "Ready") == "True"


def test_a_claim_for_one_pod_goes_to_one_pod(installed: Story) -> None:
    with claimed(installed, "single", "ReadWriteOncePod"):
        run(installed, "first", "single")
        second = pod_manifest("second", "single")
        # without the scheduler, which would never let it get as far as kubelet
        second["spec"]["nodeName"] = installed.get("nodes")["items"][0]["metadata"]["name"]
        second["metadata"]["labels"] = {"claim": "single"}
        installed.apply(second)
        # kubelet 1.36 asks the driver no more while it knows of another pod itself
        installed.wait("the second to be refused", lambda: refused(installed))
        installed.kube.kubectl("delete", "pod", "first")
        installed.wait_running("second")


def refused(story: Story) -> bool:
    words = ("already in use by another pod", "allows one pod on a node")
    return any(word in each for word in words for each in events(story, "second", "FailedMount"))
