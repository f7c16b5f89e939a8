"""A real Kubernetes in the sandbox: etcd, the control plane, containerd and one kubelet.

The binaries come from `gobuild` and from Debian, the settings from `kubeconf`.  It has RBAC, service accounts that
pods use at ``kubernetes.default``, DNS with the brick hosts' names, and no kube-proxy: a Service's address leads
nowhere but to the API.  `down` is the sandbox's: nothing here needs stopping by itself.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from . import cgroups, gobuild, host, image, kubeconf, progress, snapshots
from .errors import BedError, CommandFailed, NotRunning
from .kubeconf import NODE_NAME, Layout
from .sandbox import Sandbox

PACKAGES = (
    "containerd",
    "runc",
    "containernetworking-plugins",
    "etcd-server",
    "dnsmasq-base",
    "openssl",
    "busybox-static",
)

SIDECARS = ("csi-provisioner", "csi-resizer")

# Directories of the host that Kubernetes, containerd and the pods' hostPath volumes write to: in the sandbox each
# is an overlay, so that what they write there is the instance's own and the host keeps nothing of it.
_OVERLAID = ("/var/lib", "/var/log", "/run")
# A bound for hangs: ten times what it takes on two slow cores.
_READY_SECONDS = 300


def build() -> list[Path]:
    """Install and build what a Kubernetes is made of, minutes at the first time; return the images that it starts with.

    Raises:
        BedError: something cannot be built, or fetched.
    """
    host.install(PACKAGES)
    gobuild.binaries(gobuild.KUBERNETES)
    snapshots.build()
    return [image.pause(), image.busybox(), *map(image.sidecar, SIDECARS)]


class Kube:
    """The Kubernetes of `sandbox`; `start` it once, use it from any process afterwards."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox
        self.layout = Layout(run=sandbox.run_dir / "kube", disk=sandbox.disk_dir / "kube")
        self._programs: dict[str, Path] = {}
        self._daemons: dict[str, list[str]] = {}

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig: it is of use inside the sandbox only, where the API's address is."""
        return self.layout.kubeconfig("admin")

    @property
    def running(self) -> bool:
        """Whether `start` has succeeded in this instance."""
        return "kubeconfig" in self.sandbox.state()

    def start(self) -> None:
        """Build or find what is needed, start everything, return when the node takes pods.

        Raises:
            BedError: a part did not start; the text ends with the last lines of its log.
        """
        if self.layout.run.exists():
            raise BedError(f"Kubernetes was started before in {self.sandbox.name!r}: take that down first")
        archives = build()
        self._programs = gobuild.binaries(gobuild.KUBERNETES)
        self.sandbox.save_state({"kubectl": str(self._programs["kubectl"])})
        with progress.step("preparing Kubernetes"):
            self._overlay()
            self._configure()
            self._bind()
            make_cgroups(cgroups.hierarchies(), cgroups.group(self.sandbox.name))
        with ThreadPoolExecutor() as pool:
            runtime = pool.submit(self._start_runtime, archives)
            self._start_control_plane()
            runtime.result()
        with progress.step("kubelet"):
            self._daemon(kubeconf.kubelet(self.layout))
            self._wait("the node to be Ready", self._node_ready)
        self.sandbox.save_state({"kubeconfig": str(self.kubeconfig)})

    def kubectl(self, *args: str, input: str | None = None, timeout: float | None = _READY_SECONDS) -> str:
        """Run kubectl as administrator and return what it printed.

        Raises:
            CommandFailed: its status is not 0, or it took longer than `timeout` seconds.
            NotRunning: the instance has no Kubernetes.
        """
        return self.sandbox.run(self.kubectl_argv(*args), input=input, timeout=timeout).stdout

    def kubectl_argv(self, *args: str) -> list[str]:
        """The command that `kubectl` runs, to be run inside the sandbox.

        Raises:
            NotRunning: the instance has no Kubernetes.
        """
        state = self.sandbox.state()
        if "kubectl" not in state:
            name = self.sandbox.name
            raise NotRunning(f"{name!r} has no Kubernetes: start it with 'python3 -m tests.testbed --name {name} up'")
        # What kubectl keeps of an API server, it keeps by its address, which is every instance's, and in ~/.kube.
        kept = f"--cache-dir={self.layout.disk / 'kubectl'}"
        return [state["kubectl"], f"--kubeconfig={self.kubeconfig}", kept, *args]

    def get(self, *args: str) -> dict[str, Any]:
        """``kubectl get ARGS -o json``, parsed."""
        found: dict[str, Any] = json.loads(self.kubectl("get", *args, "-o", "json"))
        return found

    def load_image(self, archive: Path) -> None:
        """Give the node the images of a docker-archive; return when pods can use them.

        Raises:
            CommandFailed: it is not an image, or containerd has no room for it.
        """
        names = image.references(archive)
        with progress.step(f"loading {', '.join(names)}"):
            ctr = ["ctr", "--address", str(self.layout.containerd_socket), "--namespace", "k8s.io", "images"]
            self.sandbox.run([*ctr, "import", "--snapshotter", "overlayfs", str(archive)], timeout=300)
            # kubelet sees an image only after containerd's CRI plugin has taken note of it, and marked it so.
            managed = [*ctr, "list", "--quiet", 'labels."io.cri-containerd.image"==managed']
            progress.wait_until(
                f"containerd to manage {', '.join(names)}",
                lambda: set(names) <= set(self.sandbox.run(managed).stdout.split()),
                seconds=_READY_SECONDS,
            )

    def _overlay(self) -> None:
        run = self.sandbox.run
        self.layout.run.mkdir()
        held = self.layout.disk / "run"
        held.mkdir(parents=True)
        run(["mount", "--bind", str(self.sandbox.run_dir), str(held)])
        for directory in _OVERLAID:
            upper, work = (self.layout.disk / kind / directory.strip("/") for kind in ("upper", "work"))
            upper.mkdir(parents=True)
            work.mkdir(parents=True)
            options = f"lowerdir={directory},upperdir={upper},workdir={work}"
            run(["mount", "-t", "overlay", "testbed", "-o", options, directory])
        # The instance's own directory is shared with the host, as before.
        run(["mount", "--bind", str(held), str(self.sandbox.run_dir)])
        run(["umount", str(held)])

    def _configure(self) -> None:
        layout = self.layout
        tokens = {user: secrets.token_hex(16) for user in kubeconf.USERS}
        texts = {
            layout.tokens: kubeconf.tokens_csv(tokens),
            layout.audit_policy: kubeconf.audit_policy_json(),
            layout.run / "containerd.toml": kubeconf.containerd_toml(layout),
            layout.run / "kubelet.json": kubeconf.kubelet_json(layout, cgroups.group(self.sandbox.name)),
            layout.run / "resolv.conf": kubeconf.resolv_conf(),
            layout.cni / "testbed.conflist": kubeconf.cni_conflist(layout),
            **{layout.kubeconfig(user): kubeconf.kubeconfig(layout, token) for user, token in tokens.items()},
            **{layout.run / "tunables" / name: f"{value}\n" for name, value in kubeconf.KERNEL_TUNABLES.items()},
        }
        for path, text in texts.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            path.chmod(0o600)
        for argv in kubeconf.openssl(layout):
            self.sandbox.run(argv)

    def _bind(self) -> None:
        layout = self.layout
        for directory in (layout.run / "etcd", layout.disk / "kubelet"):
            directory.mkdir()
        for argv in (
            # etcd syncs at every write; nobody needs its data after a power cut.
            ["mount", "-t", "tmpfs", "-o", "mode=700", "tmpfs", str(layout.run / "etcd")],
            ["mkdir", "-p", "/var/lib/kubelet"],
            # Not on the overlay: it is where mounts are, and what is in emptyDir volumes.
            ["mount", "--bind", str(layout.disk / "kubelet"), "/var/lib/kubelet"],
            # Shared, but no longer with where it is bound from: a pod's mount is to be seen in one place.
            ["mount", "--make-private", "/var/lib/kubelet"],
            ["mount", "--make-shared", "/var/lib/kubelet"],
            ["ip", "address", "add", f"{kubeconf.SERVICE_ADDRESS}/32", "dev", "lo"],
            *(
                ["mount", "--bind", str(layout.run / "tunables" / name), f"/proc/sys/{name}"]
                for name in kubeconf.KERNEL_TUNABLES
            ),
        ):
            self.sandbox.run(argv)

    def _start_runtime(self, archives: Sequence[Path]) -> None:
        with progress.step("containerd"):
            self._daemon(kubeconf.dnsmasq())
            self._daemon(kubeconf.containerd(self.layout))
            ctr = ["ctr", "--address", str(self.layout.containerd_socket), "version"]
            self._wait("containerd to answer", lambda: self.sandbox.run(ctr, check=False).returncode == 0)
        for archive in archives:
            self.load_image(archive)

    def _start_control_plane(self) -> None:
        with progress.step("etcd and kube-apiserver"):
            # The API server waits for etcd by itself.
            self._daemon(kubeconf.etcd(self.layout))
            self._daemon(kubeconf.apiserver(self.layout))
            self._wait("the API server to be ready", lambda: self._try("get", "--raw", "/readyz") == "ok")
        self._daemon(kubeconf.controller_manager(self.layout))
        self._daemon(kubeconf.scheduler(self.layout))

    def _daemon(self, argv: Sequence[str]) -> None:
        name = argv[0]
        command = [str(self._programs.get(name, name)), *argv[1:]]
        self.sandbox.detach(command, log=self._log(name))
        self._daemons[name] = command

    def _wait(self, what: str, probe: Callable[[], bool]) -> None:
        """Wait for `probe`, but no longer than the daemons live."""

        def alive_and_true() -> bool:
            for name, command in list(self._daemons.items()):
                if self.sandbox.run(["pgrep", "--full", "--", pattern(command)], check=False).returncode != 0:
                    log = self._log(name)
                    raise BedError(f"{name} has ended (see {log}): {progress.tail(log, 5)}")
            return probe()

        progress.wait_until(what, alive_and_true, seconds=_READY_SECONDS)

    def _log(self, daemon: str) -> Path:
        return self.sandbox.log_dir / f"{daemon}.log"

    def _node_ready(self) -> bool:
        """Whether the node is Ready and pods of namespace default have their service account."""
        return "True" in self._try(
            "get", "node", NODE_NAME, "-o", "jsonpath={.status.conditions[?(@.type=='Ready')].status}"
        ) and bool(self._try("get", "serviceaccount", "default", "-o", "name"))

    def _try(self, *args: str) -> str:
        """What kubectl prints; '' also while an API server that has just begun takes connections and says nothing."""
        try:
            return self.sandbox.run(self.kubectl_argv(*args), check=False, timeout=20).stdout.strip()
        except CommandFailed:
            return ""


def pattern(command: Sequence[str]) -> str:
    """What pgrep(1) finds the process of `command` by: the program and its first argument."""
    return re.sub("[^A-Za-z0-9/=:]", ".", " ".join(command[:2]))


def make_cgroups(hierarchies: Sequence[Path], group: str) -> None:
    """Make the group below which kubelet keeps those of the pods: it wants to find it in every hierarchy.

    Raises:
        BedError: cgroups v2, and the machine does not let its controllers be used below the root.
    """
    for hierarchy in hierarchies:
        _enable_controllers(hierarchy)
        directory = hierarchy / group.lstrip("/")
        directory.mkdir(exist_ok=True)
        # A new group of v1's cpuset is empty: no process could enter it, nor any group below it.
        for setting in ("cpuset.cpus", "cpuset.mems"):
            if hierarchy.name == "cpuset":
                (directory / setting).write_text((hierarchy / setting).read_text())


def _enable_controllers(hierarchy: Path) -> None:
    """On v2 a group has the controllers that the one above it hands down (cgroup.subtree_control)."""
    available = hierarchy / "cgroup.controllers"
    for controller in available.read_text().split() if available.exists() else ():
        try:
            (hierarchy / "cgroup.subtree_control").write_text(f"+{controller}")
        except OSError as error:
            if controller in {"cpu", "cpuset", "memory", "pids"}:
                raise BedError(
                    f"kubelet needs the cgroup controller {controller}, and {hierarchy} does not hand it down "
                    f"({error.strerror}): is this itself a container? Run the testbed on a machine of its own"
                ) from error
