"""The configuration of every part of the Kubernetes: pure texts and argument lists, no files and no processes.

Why each setting is not the usual one stands beside it.  All addresses are of the sandbox's own network.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .sandbox import BRIDGE, BRIDGE_ADDRESS, NODE_ADDRESS

NODE_NAME = "kube1"
CLUSTER_DOMAIN = "cluster.local"
SERVICE_RANGE = "10.96.0.0/16"
# The address of the Service "kubernetes", which is what pods are told.  There is no kube-proxy: the address is on
# lo, and the API server itself answers there on the Service's port.  Other Services' addresses lead nowhere.
SERVICE_ADDRESS = "10.96.0.1"
API_PORT = 443
# Pods are on the bridge of the brick hosts, above their addresses: no routing and no NAT between them.
POD_RANGE = ("10.77.0.64", "10.77.0.254")
ETCD_URL = "http://127.0.0.1:2379"
PAUSE_IMAGE = "localhost/testbed/pause:1"

# What kubelet writes to the whole machine's kernel settings if they differ
# (pkg/kubelet/cm/container_manager_linux.go, setupKernelTunables): it is shown files with these values instead.
KERNEL_TUNABLES = {
    "vm/overcommit_memory": 1,
    "vm/panic_on_oom": 0,
    "kernel/panic": 10,
    "kernel/panic_on_oops": 1,
    "kernel/keys/root_maxkeys": 1_000_000,
    "kernel/keys/root_maxbytes": 25_000_000,
}

# Who may log in by token: name, groups.  The roles are those that Kubernetes itself binds to these names.
USERS = {
    "admin": ("admin", "system:masters"),
    "controller-manager": ("system:kube-controller-manager", ""),
    "scheduler": ("system:kube-scheduler", ""),
    "kubelet": (f"system:node:{NODE_NAME}", "system:nodes"),
}


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Where the parts keep things: `run` is small and beside the sockets, `disk` is on a real file system."""

    run: Path
    disk: Path

    @property
    def authority(self) -> Path:
        """The certificate that signed the API server's; every client and pod is told to trust it."""
        return self.run / "ca.crt"

    @property
    def certificate(self) -> Path:
        """What the API server serves with."""
        return self.run / "apiserver.crt"

    @property
    def service_account_key(self) -> Path:
        """What service accounts' tokens are signed with."""
        return self.run / "service-account.key"

    @property
    def tokens(self) -> Path:
        return self.run / "tokens.csv"

    @property
    def containerd_socket(self) -> Path:
        return self.run / "containerd.sock"

    @property
    def cni(self) -> Path:
        return self.run / "cni"

    @property
    def audit_policy(self) -> Path:
        return self.run / "audit.json"

    @property
    def audit_log(self) -> Path:
        """What the project's own service accounts asked of the API server, a line of JSON each."""
        return self.disk / "audit.log"

    def kubeconfig(self, user: str) -> Path:
        return self.run / f"{user}.kubeconfig"


def audit_policy_json() -> str:
    """Every answer to the project's service accounts, and nothing else: tests compare them with their rights."""
    ours = {"level": "Metadata", "userGroups": ["system:serviceaccounts:kadalu-ext"], "omitStages": ["RequestReceived"]}
    return _json({"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "rules": [ours, {"level": "None"}]})


def tokens_csv(tokens: Mapping[str, str]) -> str:
    """The API server's token file: token, user name, user id, groups."""
    return "".join(f'{tokens[user]},{name},{name},"{groups}"\n' for user, (name, groups) in USERS.items())


def kubeconfig(layout: Layout, token: str) -> str:
    """A kubeconfig; JSON is YAML."""
    cluster = {"server": f"https://{NODE_ADDRESS}:{API_PORT}", "certificate-authority": str(layout.authority)}
    return _json(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "testbed", "cluster": cluster}],
            "users": [{"name": "testbed", "user": {"token": token}}],
            "contexts": [{"name": "testbed", "context": {"cluster": "testbed", "user": "testbed"}}],
            "current-context": "testbed",
        }
    )


def openssl(layout: Layout) -> list[list[str]]:
    """The commands that make every key and certificate, to be run in this order."""
    new_key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "3650"]
    names = ("kubernetes", "kubernetes.default", "kubernetes.default.svc", f"kubernetes.default.svc.{CLUSTER_DOMAIN}")
    valid_for = [f"DNS:{name}" for name in names] + [f"IP:{address}" for address in (NODE_ADDRESS, SERVICE_ADDRESS)]

    def files(certificate: Path) -> list[str]:
        return ["-out", str(certificate), "-keyout", str(certificate.with_suffix(".key"))]

    authority = ["-subj", "/CN=testbed", "-addext", "keyUsage=critical,keyCertSign,cRLSign"]
    server = ["-subj", "/CN=kube-apiserver", "-addext", f"subjectAltName={','.join(valid_for)}"]
    server += ["-addext", "basicConstraints=critical,CA:FALSE"]
    signed = ["-CA", str(layout.authority), "-CAkey", str(layout.authority.with_suffix(".key"))]
    return [
        ["openssl", "req", "-x509", *new_key, *authority, *files(layout.authority)],
        ["openssl", "req", "-x509", *new_key, *signed, *server, *files(layout.certificate)],
        ["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", str(layout.service_account_key)],
    ]


def etcd(layout: Layout) -> list[str]:
    return [
        "etcd",
        f"--data-dir={layout.run}/etcd",
        f"--listen-client-urls={ETCD_URL}",
        f"--advertise-client-urls={ETCD_URL}",
        "--listen-peer-urls=http://127.0.0.1:2380",
        # nothing of it outlives the machine, and a disk that is slow for a moment would stop all of Kubernetes
        "--unsafe-no-fsync",
    ]


def apiserver(layout: Layout) -> list[str]:
    return [
        "kube-apiserver",
        f"--etcd-servers={ETCD_URL}",
        "--bind-address=0.0.0.0",
        f"--advertise-address={NODE_ADDRESS}",
        f"--secure-port={API_PORT}",
        f"--service-cluster-ip-range={SERVICE_RANGE}",
        f"--tls-cert-file={layout.certificate}",
        f"--tls-private-key-file={layout.certificate.with_suffix('.key')}",
        f"--token-auth-file={layout.tokens}",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        "--allow-privileged=true",
        f"--service-account-issuer=https://kubernetes.default.svc.{CLUSTER_DOMAIN}",
        f"--service-account-key-file={layout.service_account_key}",
        f"--service-account-signing-key-file={layout.service_account_key}",
        # Logs and exec would look the node's name up otherwise.
        "--kubelet-preferred-address-types=InternalIP",
        f"--audit-policy-file={layout.audit_policy}",
        f"--audit-log-path={layout.audit_log}",
        "--audit-log-mode=blocking",
    ]


def controller_manager(layout: Layout) -> list[str]:
    return [
        "kube-controller-manager",
        f"--kubeconfig={layout.kubeconfig('controller-manager')}",
        f"--service-account-private-key-file={layout.service_account_key}",
        f"--root-ca-file={layout.authority}",
        "--use-service-account-credentials=true",
        "--leader-elect=false",
        # Its 20 requests a second would be the measure of everything that waits for many claims.
        "--kube-api-qps=1000",
        "--kube-api-burst=2000",
    ]


def scheduler(layout: Layout) -> list[str]:
    return ["kube-scheduler", f"--kubeconfig={layout.kubeconfig('scheduler')}", "--leader-elect=false"]


def kubelet(layout: Layout) -> list[str]:
    return [
        "kubelet",
        f"--config={layout.run}/kubelet.json",
        f"--kubeconfig={layout.kubeconfig('kubelet')}",
        f"--hostname-override={NODE_NAME}",
        f"--node-ip={NODE_ADDRESS}",
    ]


def containerd(layout: Layout) -> list[str]:
    return ["containerd", f"--config={layout.run}/containerd.toml"]


def dnsmasq() -> list[str]:
    """Names for pods: those of the sandbox's /etc/hosts and the API's; any other does not exist, at once."""
    return [
        "dnsmasq",
        "--keep-in-foreground",
        "--conf-file=/dev/null",
        "--pid-file=",
        f"--listen-address={NODE_ADDRESS}",
        "--bind-interfaces",
        "--no-resolv",
        "--local=/#/",
        f"--host-record=kubernetes.default.svc.{CLUSTER_DOMAIN},{SERVICE_ADDRESS}",
    ]


def containerd_toml(layout: Layout) -> str:
    """containerd 1.6's configuration, version 2."""
    return f"""\
version = 2
root = "{layout.disk}/containerd"
state = "{layout.run}/containerd"
# opt makes /opt/containerd; the snapshotters probe devices and load modules.
disabled_plugins = [
  "io.containerd.internal.v1.opt",
  "io.containerd.snapshotter.v1.aufs",
  "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs",
]

[grpc]
address = "{layout.containerd_socket}"

[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{PAUSE_IMAGE}"
disable_apparmor = true
restrict_oom_score_adj = true
netns_mounts_under_state_dir = true

[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
conf_dir = "{layout.cni}"
"""


def cni_conflist(layout: Layout) -> str:
    """Puts pods on the brick hosts' bridge (the CNI specification, and its bridge and host-local plugins)."""
    ranges = {"subnet": "10.77.0.0/24", "rangeStart": POD_RANGE[0], "rangeEnd": POD_RANGE[1], "gateway": BRIDGE_ADDRESS}
    ipam = {
        "type": "host-local",
        "dataDir": f"{layout.run}/addresses",
        "ranges": [[ranges]],
        "routes": [{"dst": "0.0.0.0/0"}],
    }
    return _json(
        {"cniVersion": "1.0.0", "name": "testbed", "plugins": [{"type": "bridge", "bridge": BRIDGE, "ipam": ipam}]}
    )


def kubelet_json(layout: Layout, cgroup: str) -> str:
    """KubeletConfiguration; `cgroup` is the group that pods' groups are made in."""
    return _json(
        {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": NODE_ADDRESS,
            # Only this network, which is private, reaches it: the API server needs no certificate then.
            "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
            "authorization": {"mode": "AlwaysAllow"},
            "containerRuntimeEndpoint": f"unix://{layout.containerd_socket}",
            "clusterDNS": [NODE_ADDRESS],
            "clusterDomain": CLUSTER_DOMAIN,
            "resolvConf": f"{layout.run}/resolv.conf",
            "volumePluginDir": f"{layout.run}/volume-plugins",
            "failSwapOn": False,
            # Groups as the machine has them, v1 or v2, and as files: no systemd is asked for them.
            "failCgroupV1": False,
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": cgroup,
            "enforceNodeAllocatable": [],
            "localStorageCapacityIsolation": False,
            "makeIPTablesUtilChains": False,
            # The disk is the machine's: images and pods are not to be thrown out because it is full of other things.
            "imageGCHighThresholdPercent": 100,
            "evictionHard": {},
            # What a CSI driver says of a volume's health becomes an event of the pod, and soon.
            "featureGates": {"CSIVolumeHealth": True},
            "volumeStatsAggPeriod": "10s",
            # A changed ConfigMap is in the pods that have it mounted at their next turn, after a minute or more.
            "syncFrequency": "5s",
            # Tests kill containers, each one several times in a run: not five minutes until the next start.
            "crashLoopBackOff": {"maxContainerRestartPeriod": "5s"},
        }
    )


def resolv_conf() -> str:
    """resolv.conf(5) of pods that take the node's."""
    return f"nameserver {NODE_ADDRESS}\n"


def _json(value: Any) -> str:
    return json.dumps(value, indent=1) + "\n"
