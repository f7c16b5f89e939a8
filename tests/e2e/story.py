"""The whole way once, as steps: `make demo` shows them, tests/e2e/test_story.py runs the same as tests.

A step does something as a user or administrator would, waits until its effect is seen, asserts it, and returns one line
of evidence. Steps build on each other, in order.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from kadalu_ext.layout import pv_path
from kadalu_ext.record import CANARY
from tests.testbed import deb, image, paths, progress
from tests.testbed.brickhosts import BrickHosts
from tests.testbed.errors import Unmet
from tests.testbed.kube import Kube

VOLUME: Final = "exported"
STORAGE: Final = "ext-storage"
STORAGE_CLASS: Final = f"kadalu.external.{STORAGE}"
NAMESPACE: Final = "kadalu-ext"
CLAIM: Final = "data"
NO_ROOM: Final = "No space left on device|Transport endpoint is not connected"
"""At the limit. The latter where bricks took different parts of one write, so that no two agree (docs/facts.md)."""
SIZE_MIB: Final = 64
SLOW_MACHINE_S: Final = 300.0
"""How long a condition is waited for: a bound for hangs, far above what anything takes."""


class Broken(Exception):
    """A step that was not tried, because one before it failed; its argument says which, and how."""


class Story:
    """The story on one testbed; `pv` and the like are learnt on the way."""

    def __init__(self, hosts: BrickHosts, kube: Kube) -> None:
        self.hosts = hosts
        self.kube = kube
        self.names = [host.name for host in hosts.hosts]
        self.pv = ""
        self.done: list[str] = []
        self.broken = ""
        """Which step failed, and how, if one did: those after it would only fail for its sake."""

    def perform(self, step: Callable[[Story], str]) -> str:
        """Does a step, and returns its evidence; does nothing if it was done before.

        Raises: what the step raises; Broken if an earlier one failed.
        """
        if self.broken:
            raise Broken(self.broken)
        if step.__name__ in self.done:
            return ""
        try:
            evidence = step(self)
        except BaseException as error:
            self.broken = f"an earlier step failed: {step.__name__}: {error}"
            raise
        self.done.append(step.__name__)
        return evidence

    # --- the steps ---

    def brick_hosts(self) -> str:
        self.hosts.create_volume(VOLUME, "replica 3", self.names, start=False)
        # What a brick has missed, since its host was slow for once, comes with self-heal's next turn. By default that
        # is after ten minutes, which is longer than anything is waited for here.
        self.hosts.gluster("volume", "set", VOLUME, "cluster.heal-timeout", "20")
        self.hosts.start_volume(VOLUME)
        mounts = [self.on(name, "findmnt", "-no", "FSTYPE,OPTIONS", "/bricks") for name in self.names]
        assert all("xfs" in mount and "prjquota" in mount for mount in mounts), mounts
        return f"{', '.join(self.names)}: xfs, prjquota; volume {VOLUME} started"

    def kubernetes(self) -> str:
        version = self.kube.kubectl("version", "-o", "json")
        node = self.get("nodes")["items"][0]
        assert condition(node, "Ready") == "True"
        return f"{json.loads(version)['serverVersion']['gitVersion']}, node {node['metadata']['name']} Ready"

    def install(self) -> str:
        self.kube.load_image(image.project())
        self.kube.kubectl("apply", "-k", str(paths.REPOSITORY / "manifests"))
        workloads = [
            f"{item['kind'].lower()}/{item['metadata']['name']}"
            for item in self.get("deploy,ds", "-n", NAMESPACE)["items"]
        ]
        self.wait("all pods of the project to be ready", lambda: all(map(self.is_rolled_out, workloads)))
        return f"{len(workloads)} workloads are ready: {', '.join(workloads)}"

    def install_quotad(self) -> str:
        package = deb.install(self.hosts, [VOLUME], anew=True)
        states = [self.on(name, "systemctl", "is-active", "kadalu-quotad") for name in self.names]
        assert states == ["active"] * len(states), states
        return f"{package}: active on {', '.join(self.names)}"

    def storage(self) -> str:
        self.kube.kubectl("create", "-f", str(paths.REPOSITORY / "examples" / "storage-config.yaml"))
        self.wait(
            f"KadaluStorage {STORAGE} to be Ready",
            lambda: condition(self.get("kds", STORAGE, "-n", "default"), "Ready") == "True",
        )
        assert self.get("sc", STORAGE_CLASS)["provisioner"] == "kadalu.external"
        return self.kube.kubectl("get", "kds", STORAGE, "-n", "default", "--no-headers").strip()

    def claim(self) -> str:
        self.kube.kubectl("create", "-f", str(paths.REPOSITORY / "examples" / "pvc.yaml"))
        self.wait_bound(CLAIM)
        claim = self.get("pvc", CLAIM)
        self.pv = claim["spec"]["volumeName"]
        assert claim["status"]["capacity"]["storage"] == f"{SIZE_MIB}Mi"
        return f"{CLAIM} is Bound to {self.pv}, {claim['status']['capacity']['storage']}"

    def write_to_the_limit(self) -> str:
        self.kube.kubectl("create", "-f", str(paths.REPOSITORY / "examples" / "pod.yaml"))
        self.wait_running("app")
        size = self.in_pod("app", "df", "-m", "/data").splitlines()[-1].split()
        assert str(SIZE_MIB) in size, size
        refused = self.try_kubectl(
            "exec", "app", "--", "dd", "if=/dev/zero", "of=/data/big", "bs=1M", "count=80", "conv=fsync"
        )
        assert refused.returncode != 0, "80 MiB were written to a PV of 64 MiB"
        assert re.search(NO_ROOM, refused.stderr), refused.stderr
        # Blocks, not the length: a write that was refused may lie before one that found a last free block.
        written = int(self.in_pod("app", "stat", "-c", "%b", "/data/big")) * 512 / (1 << 20)
        # A few blocks of grace: at the limit XFS still gives one to attributes in trusted., which gluster's are.
        assert SIZE_MIB * 0.9 <= written <= SIZE_MIB + 0.1, written
        self.in_pod("app", "rm", "/data/big")
        return f"df: {' '.join(size[1:3])} MiB; refused after {written:.1f} MiB"

    def status(self) -> str:
        shown = []
        # PV, its size, project, what is used, the brick's limit, state: no reason after it
        row = re.compile(rf" *{self.pv} +{SIZE_MIB} MiB +\d+ +[\d.]+ \w+ +{SIZE_MIB} MiB +enforced")
        for name in self.names:
            # XFS takes its time to free what was removed: until then it is full. And the canary may be changing now.
            found: re.Match[str] = self.wait(f"{name} to say so, and no more", partial(self.status_row, name, row))
            shown.append(f"{name}: {' '.join(found[0].split())}")
        return "\n".join(shown)

    def status_row(self, host: str, row: re.Pattern[str]) -> re.Match[str] | None:
        """The line of `kadalu-quotad status` that is such a row, and nothing besides."""
        shown = self.hosts.host(host).run(["kadalu-quotad", "status"], check=False).stdout
        return next(filter(None, map(row.fullmatch, shown.splitlines())), None)

    def grow(self) -> str:
        wanted = {"spec": {"resources": {"requests": {"storage": f"{2 * SIZE_MIB}Mi"}}}}
        self.kube.kubectl("patch", "pvc", CLAIM, "--type=merge", "--patch", json.dumps(wanted))
        self.wait(
            f"claim {CLAIM} to be larger",
            lambda: self.get("pvc", CLAIM)["status"]["capacity"]["storage"] == f"{2 * SIZE_MIB}Mi",
        )
        size = self.in_pod("app", "df", "-m", "/data").splitlines()[-1].split()
        assert str(2 * SIZE_MIB) in size, size
        self.in_pod("app", "dd", "if=/dev/zero", "of=/data/big", "bs=1M", "count=80", "conv=fsync")
        self.in_pod("app", "rm", "/data/big")
        return f"df: {' '.join(size[1:3])} MiB, and the 80 MiB are written"

    def replace_node_plugin(self) -> str:
        old = self.node_plugin()
        # 256 KiB at a time, each one synced, a line for each, until told to stop
        loop = (
            "while [ ! -e /data/stop ]; do"
            " dd if=/dev/zero of=/data/w bs=256k count=1 conv=fsync 2>/dev/null && echo written || echo failed; done"
        )
        log = self.kube.sandbox.log_dir / "writer.log"

        def count(word: str) -> int:
            return log.read_text().split().count(word)

        writer = self.kube.sandbox.popen(self.kube.kubectl_argv("exec", "app", "--", "sh", "-c", loop), log=log)
        try:
            self.wait("the writer to write", lambda: count("written"))
            self.kube.kubectl("delete", "pod", "-n", NAMESPACE, old)
            self.wait("a new node plugin", lambda: self.node_plugin() not in ("", old))
            after = count("written")
            self.wait("writes to go on with the new node plugin", lambda: count("written") > after)
            self.in_pod("app", "touch", "/data/stop")
            writer.wait(timeout=SLOW_MACHINE_S)
        finally:
            if writer.poll() is None:
                os.killpg(writer.pid, signal.SIGKILL)
        assert not count("failed"), log.read_text()
        self.in_pod("app", "rm", "/data/w", "/data/stop")
        return f"{count('written')} synced writes, none failed, while pod {old} was deleted and replaced"

    def pending(self) -> str:
        self.wait_measured()
        self.on("brick2", "systemctl", "stop", "kadalu-quotad")
        self.apply(claim_manifest("second", SIZE_MIB))
        parts = ("brick2", f"/bricks/{VOLUME}", "systemctl start kadalu-quotad")
        # the first try may tell that a host was slow
        what = self.wait("an event that says where, and what to do", lambda: self.failure_event("second", *parts))
        assert self.get("pvc", "second")["status"]["phase"] == "Pending"
        described = self.kube.kubectl("describe", "pvc", "second")
        assert all(part in described for part in parts), described
        return str(what)

    def not_ready(self) -> str:
        def named() -> str:
            storage = self.get("kds", STORAGE, "-n", "default")
            message = finding(storage, "QuotaEnforced").get("message", "")
            # an operator that was started anew has yet to see what the others do
            enforcing = {brick["host"]: brick.get("enforcing") for brick in storage["status"]["bricks"]}
            alone = enforcing == {name: name != "brick2" for name in self.names}
            return message if alone and condition(storage, "Ready") == "False" and "brick2" in message else ""

        return str(self.wait("the storage not to be Ready for the sake of brick2 alone", named))

    def bound_by_itself(self) -> str:
        self.on("brick2", "systemctl", "start", "kadalu-quotad")
        self.wait_bound("second")
        self.wait_measured()
        return f"second is Bound to {self.get('pvc', 'second')['spec']['volumeName']}, and the storage is Ready again"

    def delete_claims(self) -> str:
        gone = {self.get("pvc", name)["spec"]["volumeName"] for name in (CLAIM, "second")}
        self.kube.kubectl("delete", "pod", "app", "--grace-period=0", "--force")
        self.kube.kubectl("delete", "pvc", CLAIM, "second")
        self.wait("the PVs to be gone", lambda: not gone & {pv["metadata"]["name"] for pv in self.get("pv")["items"]})
        self.wait("the bricks to be empty of them", lambda: not self.left_on_bricks(gone))
        return f"no directory, record, trash or limit of {len(gone)} PVs on any of {len(self.names)} bricks"

    # --- what they are made of ---

    def on(self, host: str, *argv: str) -> str:
        """What `argv` prints on a brick host."""
        return self.hosts.host(host).run(list(argv)).stdout.strip()

    def get(self, *argv: str) -> dict[str, Any]:
        """`kubectl get … -o json`."""
        answer: dict[str, Any] = json.loads(self.kube.kubectl("get", *argv, "-o", "json"))
        return answer

    def try_kubectl(self, *argv: str) -> subprocess.CompletedProcess[str]:
        """`kubectl …`, whatever its status."""
        return self.kube.sandbox.run(self.kube.kubectl_argv(*argv), check=False, timeout=SLOW_MACHINE_S)

    def apply(self, manifest: dict[str, Any]) -> None:
        """`kubectl apply` of one object."""
        self.kube.kubectl("apply", "-f", "-", input=json.dumps(manifest))

    def in_pod(self, pod: str, *argv: str) -> str:
        """What `argv` prints in the pod."""
        return self.kube.kubectl("exec", pod, "--", *argv, timeout=SLOW_MACHINE_S).strip()

    @staticmethod
    def wait(what: str, probe: Callable[[], Any]) -> Any:
        """What `probe` returns once it is true."""
        return progress.wait_until(what, probe, seconds=SLOW_MACHINE_S, interval=0.25)

    def wait_bound(self, claim: str) -> None:
        """Until the claim is Bound; what there is to see if it never is."""
        try:
            self.wait(f"claim {claim} to be Bound", lambda: self.get("pvc", claim)["status"]["phase"] == "Bound")
        except Unmet as error:
            raise Unmet(f"{error}\n{self._seen('pvc', claim, 'controller')}") from None

    def wait_measured(self) -> None:
        """Until the storage is Ready, and every brick was seen to follow the canary."""

        def well() -> bool:
            storage = self.get("kds", STORAGE, "-n", "default")
            return condition(storage, "Ready") == condition(storage, "QuotaEnforced") == "True"

        self.wait("every brick to be seen to enforce", well)

    def wait_running(self, pod: str) -> None:
        """Until the pod runs; what there is to see if it never does."""
        try:
            self.wait(f"pod {pod} to run", lambda: condition(self.get("pod", pod), "Ready") == "True")
        except Unmet as error:
            raise Unmet(f"{error}\n{self._seen('pod', pod, 'node')}") from None

    def _seen(self, kind: str, name: str, component: str) -> str:
        """Why something may not come: events, what storage, driver and each daemon say, and what bricks have missed."""
        label = f"app.kubernetes.io/component={component}"
        looks = [
            ("get", "events", "--field-selector", f"involvedObject.name={name}"),
            ("get", "kds", "-A"),
            ("logs", "-n", NAMESPACE, "-l", label, "--all-containers", "--tail=15"),
        ]
        lines = [self.try_kubectl(*look).stdout[-3000:] for look in looks]
        hosts = [self.hosts.host(host).run(["kadalu-quotad", "status"], check=False).stdout for host in self.names]
        missed = self.hosts.host("brick1").run(["gluster", "volume", "heal", VOLUME, "info"], check=False).stdout
        return "\n".join([f"{kind} {name}:", *lines, *hosts, missed[-2000:]])

    def is_rolled_out(self, workload: str) -> bool:
        """Whether a Deployment or DaemonSet has all its pods ready, of its newest generation, and no others."""
        status = self.get(workload, "-n", NAMESPACE)
        now, spec = status["status"], status["spec"]
        if status["kind"] == "Deployment":
            # ready is one of the generation before, too, until it has ended
            counts, wanted = ["replicas", "updatedReplicas", "readyReplicas"], spec["replicas"]
        else:
            counts, wanted = ["updatedNumberScheduled", "numberReady"], max(1, now.get("desiredNumberScheduled", 0))
        current = now.get("observedGeneration") == status["metadata"]["generation"]
        return bool(current and all(now.get(count, 0) == wanted for count in counts))

    def node_plugin(self) -> str:
        """The name of the ready pod of the node plugin, or ''."""
        pods = self.get("pods", "-n", NAMESPACE, "-l", "app.kubernetes.io/component=node")["items"]
        alive = [pod for pod in pods if not pod["metadata"].get("deletionTimestamp")]
        return str(alive[0]["metadata"]["name"]) if alive and condition(alive[0], "Ready") == "True" else ""

    def failure_event(self, claim: str, *words: str) -> str:
        """A warning about `claim` whose message has all these words, or ''."""
        events = self.get("events", "--field-selector", f"involvedObject.name={claim},type=Warning")["items"]
        found = [event["message"] for event in events if all(word in event["message"] for word in words)]
        return str(found[-1]) if found else ""

    def left_on_bricks(self, names: set[str]) -> list[str]:
        """What of these PVs is still on any brick: directories, records, trash, and limits but for the canary's and
        those of other volumes' PVs."""
        left = []
        for host in self.names:
            root = f"/bricks/{VOLUME}"
            looks = ["-maxdepth", "4", "-not", "-path", f"{root}/.glusterfs*", "-name", "*pvc-*"]
            done = self.hosts.host(host).run(["find", root, *looks], check=False)
            # 1: a directory went away while it was looked into, as the trash's do
            assert done.returncode in (0, 1), done.stderr
            found = done.stdout
            left += [f"{host}:{path}" for path in found.splitlines() if any(name in path for name in names)]
            report = self.on(host, "xfs_quota", "-x", "-c", "report -p -n -N -b", "/bricks")
            limits = set(re.findall(r"^#(\d+)\s+\d+\s+\d+\s+[1-9]", report, re.MULTILINE))
            shown = self.hosts.host(host).run(["sh", "-c", "lsattr -pd /bricks/*/subvol/*/*/*"], check=False).stdout
            for number, path in re.findall(r"^ *(\d+) \S+ (\S+)$", shown, re.MULTILINE):
                if path == f"{root}/{pv_path(CANARY)}" or not path.startswith(f"{root}/"):
                    limits.discard(number)
            left += [f"{host}: project {number}" for number in limits]
        return left


STEPS: Final[tuple[tuple[str, Callable[[Story], str]], ...]] = (
    ("three brick hosts, XFS with prjquota, a replica 3 volume", Story.brick_hosts),
    ("Kubernetes: a node is Ready", Story.kubernetes),
    ("the project's image, and kubectl apply -k manifests/", Story.install),
    ("kadalu-quotad from its .deb on each brick host", Story.install_quotad),
    ("kubectl create -f examples/storage-config.yaml: Ready", Story.storage),
    ("a 64 MiB claim is Bound", Story.claim),
    ("df in a pod says 64M, and 80 MiB stop at 64: ENOSPC", Story.write_to_the_limit),
    ("kadalu-quotad status: enforced on each brick host", Story.status),
    ("kubectl patch pvc: twice the size under the pod that runs", Story.grow),
    ("the node plugin is replaced while a pod writes", Story.replace_node_plugin),
    ("quotad stopped on one host: the next claim waits, and says why", Story.pending),
    ("kubectl get kds: not Ready, with that host and the remedy", Story.not_ready),
    ("quotad started: that claim becomes Bound by itself", Story.bound_by_itself),
    ("claims deleted: nothing is left on any brick", Story.delete_claims),
)
"""Title and step, in order."""

SET_UP: Final = tuple(step for _, step in STEPS[:5])
"""The steps after which claims can be made."""


def condition(thing: dict[str, Any], kind: str) -> str:
    """The status of condition `kind`: True, False, Unknown, or '' if it is not there."""
    return str(finding(thing, kind).get("status", ""))


def finding(thing: dict[str, Any], kind: str) -> dict[str, Any]:
    """The condition `kind`, with its reason and message; empty if it is not there."""
    conditions = thing.get("status", {}).get("conditions", [])
    return next((item for item in conditions if item["type"] == kind), {})


def claim_manifest(name: str, mebibytes: int | str, storage_class: str = STORAGE_CLASS) -> dict[str, Any]:
    """A claim of `mebibytes` MiB."""
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": name},
        "spec": {
            "accessModes": ["ReadWriteMany"],
            "storageClassName": storage_class,
            "resources": {"requests": {"storage": f"{mebibytes}Mi" if isinstance(mebibytes, int) else mebibytes}},
        },
    }
