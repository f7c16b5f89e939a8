"""Mounter and node plugin as processes, on three real brick hosts: what a node goes through, without Kubernetes."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import grpc
import pytest

from kadalu_ext import mountinfo, mounting
from kadalu_ext.api import csi_pb2, csi_pb2_grpc, mounter_pb2, mounter_pb2_grpc
from kadalu_ext.api import pluginregistration_pb2 as registration_pb2
from kadalu_ext.api import pluginregistration_pb2_grpc as registration_pb2_grpc
from kadalu_ext.layout import pv_path
from kadalu_ext.record import PvName
from kadalu_ext.storage import Storage, StorageName, to_json, to_parameters
from tests.testbed import paths
from tests.testbed.brickhosts import BrickHosts
from tests.testbed.progress import wait_until

REFRESH_S = 1
LONG_S = 180.0
"""A bound for hangs: the mounter may pause for half a minute between two tries, each of which takes up to 20 s."""

HOSTS = ("brick1", "brick2", "brick3")
EXT = Storage(name=StorageName("ext"), hosts=HOSTS, volume="mnt-rep")
EXT_1 = Storage(name=StorageName("ext-1"), hosts=HOSTS, volume="mnt-dis")
DEGRADED, DATA_LOSS = csi_pb2.DEGRADED, csi_pb2.DATA_LOSS
MOUNTED, DEAD = mounter_pb2.StorageStatus.MOUNTED, mounter_pb2.StorageStatus.DEAD


class Node:
    """One Kubernetes node's directories, and the two programs on it."""

    def __init__(self, kubelet: Path, run: Path) -> None:
        self.kubelet = kubelet
        self.plugin = kubelet / "plugins/kadalu.external"
        self.registry = kubelet / "plugins_registry"
        self.run = run
        self._programs: dict[str, subprocess.Popen[bytes]] = {}
        self._channels = [grpc.insecure_channel(f"unix:{self.plugin}/{name}.sock") for name in ("mounter", "csi")]
        self.mounter = mounter_pb2_grpc.MounterStub(self._channels[0])
        self.csi = csi_pb2_grpc.NodeStub(self._channels[1])

    def start_mounter(self) -> None:
        words = [f"--dir={self.plugin}", f"--run-dir={self.run}/volfiles", f"--refresh={REFRESH_S}"]
        words += [f"--storages={self.run}/storages", f"--tls={self.run}/tls"]
        self._start("mounter", "kadalu_ext.mounter.main", *words)

    def start_plugin(self) -> None:
        self._start(
            "csi",
            "kadalu_ext.csi.main",
            "node",
            f"--endpoint={self.plugin}/csi.sock",
            "--node-id=node1",
            f"--mounter={self.plugin}/mounter.sock",
            f"--storages={self.run}/storages",
            f"--registration-dir={self.registry}",
            f"--kubelet-dir={self.kubelet}",
        )

    def _start(self, name: str, module: str, *words: str) -> None:
        with (self.run / f"{name}.log").open("ab") as log:
            program = subprocess.Popen([sys.executable, "-m", module, *words], stderr=log, cwd=paths.REPOSITORY)
        self._programs[name] = program
        socket = self.plugin / f"{name}.sock"
        wait_until(f"{name} to listen", lambda: listens(socket), seconds=LONG_S)

    def pid(self, name: str) -> int:
        """Of the program `name`, mounter or csi."""
        return self._programs[name].pid

    def kill(self, name: str) -> None:
        """kill -9."""
        program = self._programs.pop(name)
        program.kill()
        program.wait()

    def stop(self) -> None:
        for channel in self._channels:
            channel.close()
        for name in list(self._programs):
            self.kill(name)

    def mount(self, storage: Storage) -> Path:
        request = mounter_pb2.MountRequest(
            storage=storage.name,
            hosts=storage.hosts,
            volume=storage.volume,
            options=storage.options,
            tls=storage.tls,
            pv=storage.whole or "",
        )
        return Path(self.mounter.Mount(request, timeout=60, wait_for_ready=True).path)

    def status(self, storage: Storage) -> mounter_pb2.StorageStatus | None:
        known = self.mounter.List(mounter_pb2.ListRequest(), timeout=60, wait_for_ready=True).storages
        return next((each for each in known if each.storage == storage.name), None)

    def release(self, storage: Storage) -> None:
        pids = clients(storage)
        self.mounter.Release(mounter_pb2.ReleaseRequest(storage=storage.name), timeout=60, wait_for_ready=True)
        wait_until(f"the clients of {storage.name} to end", lambda: not pids & clients(storage), seconds=LONG_S)


class Pv:
    """A PV as kubelet stages and publishes it."""

    def __init__(self, node: Node, name: str, storage: Storage = EXT) -> None:
        self.node = node
        self.storage = storage
        self.volume_id = f"{storage.name}/{name}"
        if storage.whole is None:
            self.on_volume = node.mount(storage) / pv_path(PvName(name))
            self.on_volume.mkdir(parents=True, exist_ok=True)
        self.staging = node.kubelet / f"plugins/kubernetes.io/csi/kadalu.external/{name}/globalmount"
        self.staging.mkdir(parents=True, exist_ok=True)
        self.capability = csi_pb2.VolumeCapability(
            mount=csi_pb2.VolumeCapability.MountVolume(),
            access_mode=csi_pb2.VolumeCapability.AccessMode(
                mode=csi_pb2.VolumeCapability.AccessMode.MULTI_NODE_MULTI_WRITER
            ),
        )

    def target(self, pod: str) -> Path:
        path = self.node.kubelet / f"pods/{pod}/volumes/kubernetes.io~csi/{self.volume_id.replace('/', '~')}/mount"
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def stage(self) -> None:
        request = csi_pb2.NodeStageVolumeRequest(
            volume_id=self.volume_id,
            staging_target_path=str(self.staging),
            volume_capability=self.capability,
            volume_context=to_parameters(self.storage),
        )
        self.node.csi.NodeStageVolume(request, timeout=60, wait_for_ready=True)

    def publish(self, pod: str, *, readonly: bool = False) -> Path:
        request = csi_pb2.NodePublishVolumeRequest(
            volume_id=self.volume_id,
            staging_target_path=str(self.staging),
            target_path=str(self.target(pod)),
            volume_capability=self.capability,
            volume_context=to_parameters(self.storage),
            readonly=readonly,
        )
        self.node.csi.NodePublishVolume(request, timeout=60, wait_for_ready=True)
        return self.target(pod)

    def unpublish(self, pod: str) -> None:
        request = csi_pb2.NodeUnpublishVolumeRequest(volume_id=self.volume_id, target_path=str(self.target(pod)))
        self.node.csi.NodeUnpublishVolume(request, timeout=60, wait_for_ready=True)

    def unstage(self) -> None:
        request = csi_pb2.NodeUnstageVolumeRequest(volume_id=self.volume_id, staging_target_path=str(self.staging))
        self.node.csi.NodeUnstageVolume(request, timeout=60, wait_for_ready=True)

    def health(self) -> list[tuple[int, str]]:
        request = csi_pb2.NodeGetVolumeHealthRequest(volume_id=self.volume_id)
        reply = self.node.csi.NodeGetVolumeHealth(request, timeout=60, wait_for_ready=True)
        return [(each.status, each.reason) for each in reply.volume_health.health_statuses]

    def stats(self, pod: str) -> csi_pb2.NodeGetVolumeStatsResponse:
        request = csi_pb2.NodeGetVolumeStatsRequest(volume_id=self.volume_id, volume_path=str(self.target(pod)))
        return self.node.csi.NodeGetVolumeStats(request, timeout=60, wait_for_ready=True)


class Writer:
    """Writes and fsyncs one small file after the other, as an application would, until it is told to stop."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.files = 0
        self.error: OSError | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Writer:
        self._thread.start()
        self.wait_more(1)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(LONG_S)
        if self.error is not None:
            raise self.error
        assert not self._thread.is_alive()

    def wait_more(self, count: int = 10) -> None:
        """Until `count` files more are written."""
        enough = self.files + count
        wait_until("the writer to go on", lambda: self.error is not None or self.files >= enough, seconds=LONG_S)
        if self.error is not None:
            raise self.error

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                with (self.directory / f"w{self.files}").open("wb") as file:
                    file.write(b"x" * 4096)
                    file.flush()
                    os.fsync(file.fileno())
                self.files += 1
        except OSError as error:
            self.error = error


def is_dead(node: Node, storage: Storage) -> bool:
    return (status := node.status(storage)) is not None and status.state == DEAD


def is_mounted(node: Node, storage: Storage) -> bool:
    return (status := node.status(storage)) is not None and status.state == MOUNTED


def has_another(node: Node, before: set[int]) -> bool:
    return bool(clients(EXT) - before) and is_mounted(node, EXT)


def hidden(node: Node) -> list[str] | None:
    """The brick hosts that the client of EXT is not told of."""
    return None if (status := node.status(EXT)) is None else list(status.hidden_hosts)


def reason(node: Node, storage: Storage) -> str:
    return "" if (status := node.status(storage)) is None else status.reason


def listens(path: Path) -> bool:
    with grpc.insecure_channel(f"unix:{path}") as channel:
        try:
            grpc.channel_ready_future(channel).result(timeout=0.5)
        except grpc.FutureTimeoutError:
            return False
    return True


def clients(storage: Storage) -> set[int]:
    """The glusterfs processes of a storage."""
    return clients_shown_as(storage.name)


def clients_shown_as(name: str) -> set[int]:
    """The glusterfs processes whose mounts have kadalu.external:`name` as their source."""
    word = f"--fs-display-name=kadalu.external:{name}".encode()
    found = set()
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        try:
            if word in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"):
                found.add(int(pid))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


@pytest.fixture(scope="module")
def volumes(brick_hosts: BrickHosts) -> Iterator[BrickHosts]:
    brick_hosts.create_volume(EXT.volume, "replica 3")
    brick_hosts.create_volume(EXT_1.volume, "disperse 2+1")
    yield brick_hosts
    for volume in (EXT.volume, EXT_1.volume):
        brick_hosts.delete_volume(volume)


@contextmanager
def running_node(mktemp: Callable[[str], Path], *storages: Storage) -> Iterator[Node]:
    """A node whose mounter may mount these storages; nothing of it is left afterwards. mktemp: makes directories."""
    kubelet, run = mktemp("kubelet"), mktemp("run")
    # On a file system of its own: mount points are immutable, and pytest could not remove them.
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=0755", "tmpfs", str(kubelet)], check=True)
    node = Node(kubelet, run)
    try:
        node.registry.mkdir()
        (run / "storages").mkdir()
        for storage in storages:
            (run / "storages" / f"{storage.name}.json").write_text(to_json(storage))
        node.start_mounter()
        node.start_plugin()
        yield node
        for storage in storages:
            node.release(storage)
    finally:
        node.stop()
        for storage in storages:
            for pid in clients(storage):
                with suppress(ProcessLookupError):  # it was about to end
                    os.kill(pid, signal.SIGKILL)
        for mount in reversed([each for each in mountinfo.read() if each.path.startswith(f"{kubelet}")]):
            mounting.unmount(mount.path, lazily=True)


@pytest.fixture(scope="module")
def node(volumes: BrickHosts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with running_node(tmp_path_factory.mktemp, EXT, EXT_1) as node:
        yield node


def test_two_storages_with_names_that_begin_alike_are_two_mounts(node: Node) -> None:
    replicate, disperse = node.mount(EXT), node.mount(EXT_1)
    (replicate / "here").write_text("replicate")
    assert not (disperse / "here").exists()
    assert node.mount(EXT) == replicate
    assert [len(clients(storage)) for storage in (EXT, EXT_1)] == [1, 1]


def test_a_disperse_clients_risky_options_are_off(node: Node) -> None:
    graph = (node.plugin / "log/ext-1.log").read_text()
    for name in ("eager-lock off", "other-eager-lock off", "parallel-writes off", "stripe-cache 0"):
        assert f"option {name}\n" in graph


def test_a_mounter_that_is_killed_disturbs_no_writer_and_finds_its_client_again(node: Node) -> None:
    directory = node.mount(EXT)
    before = clients(EXT)
    with Writer(directory) as writer:
        node.kill("mounter")
        writer.wait_more()
        node.start_mounter()
        status = node.status(EXT)
        assert status is not None and status.state == MOUNTED
        assert node.mount(EXT) == directory
        writer.wait_more()
    assert clients(EXT) == before


def test_a_changed_volfile_reaches_a_client_under_a_running_writer(node: Node, volumes: BrickHosts) -> None:
    log = node.plugin / "log/ext.log"
    with Writer(node.mount(EXT)) as writer:
        graphs = log.read_text().count("Final graph:")
        volumes.gluster("volume", "set", EXT.volume, "performance.quick-read", "off")
        wait_until("the client to switch", lambda: log.read_text().count("Final graph:") > graphs, seconds=LONG_S)
        writer.wait_more()
    assert "performance/quick-read" not in log.read_text().rpartition("Final graph:")[2]


def test_a_silent_host_is_hidden_from_a_start_and_joined_when_it_answers(node: Node, volumes: BrickHosts) -> None:
    node.release(EXT)
    third = volumes.host("brick3")
    third.cut()
    try:
        directory = node.mount(EXT)
        # others that were only slow to answer are hidden for a moment, too
        wait_until("no other to be hidden", lambda: hidden(node) == ["brick3"], seconds=LONG_S)
        (directory / "while-cut").write_text("x")
    finally:
        third.uncut()
        volumes.wait_joined()
    wait_until("brick3 to be joined", lambda: hidden(node) == [], seconds=LONG_S)

    def reaches_brick3() -> bool:
        (directory / f"after-{time.monotonic_ns()}").write_text("x")
        return any(name.startswith("after-") for name in third.run(["ls", f"/bricks/{EXT.volume}"]).stdout.split())

    wait_until("writes to reach brick3", reaches_brick3, seconds=LONG_S)


def test_a_client_that_was_thrown_out_leaves_nothing_to_write_on_and_is_back_when_it_is_let_in(
    node: Node, volumes: BrickHosts
) -> None:
    directory = node.mount(EXT)
    volumes.gluster("volume", "set", EXT.volume, "auth.allow", "10.9.9.9")
    try:
        wait_until("the client to be thrown out", lambda: is_dead(node, EXT), seconds=LONG_S)
        wait_until("a write to be refused", lambda: refuses(directory), seconds=LONG_S)
        wait_until("the reason", lambda: "authentication failed" in reason(node, EXT), seconds=LONG_S)
        with pytest.raises(grpc.RpcError, match=r"auth\.allow have this node's address"):
            node.mount(EXT)
    finally:
        volumes.gluster("volume", "reset", EXT.volume, "auth.allow")
    wait_until("the client to be back by itself", lambda: is_mounted(node, EXT), seconds=LONG_S)
    assert (directory / "here").read_text() == "replicate"


def refuses(directory: Path) -> bool:
    """False while another client is tried, which is mounted until it is thrown out as well."""
    try:
        (directory / "x").write_text("x")
    except PermissionError:
        return True
    except OSError:
        return False
    raise AssertionError(f"{directory / 'x'} was written")


def test_a_client_that_was_killed_is_back_by_itself(node: Node) -> None:
    directory = node.mount(EXT)
    before = clients(EXT)
    for _ in range(2):
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        wait_until("another client", partial(has_another, node, before), seconds=LONG_S)
        assert (directory / "here").read_text() == "replicate"
        before = clients(EXT)
    assert len(before) == 1


def test_a_storages_mount_that_somebody_took_away_is_back_by_itself(node: Node) -> None:
    directory = node.mount(EXT)
    mounting.unmount(str(directory), lazily=True)
    wait_until("another mount", lambda: is_mounted(node, EXT) and directory.is_mount(), seconds=LONG_S)
    wait_until("the client without a mount to end", lambda: len(clients(EXT)) == 1, seconds=LONG_S)
    assert (directory / "here").read_text() == "replicate"


def test_a_volume_that_does_not_exist_or_is_stopped_is_named_with_what_to_do(node: Node, volumes: BrickHosts) -> None:
    missing = Storage(name=StorageName("missing"), hosts=HOSTS, volume="missing")
    with pytest.raises(grpc.RpcError, match="there is no gluster volume missing"):
        node.mount(missing)
    node.release(EXT_1)
    volumes.gluster("volume", "stop", EXT_1.volume)
    try:
        with pytest.raises(grpc.RpcError, match=f"start it: gluster volume start {EXT_1.volume}"):
            node.mount(EXT_1)
    finally:
        volumes.start_volume(EXT_1.volume)
    assert node.mount(EXT_1).is_dir()


def test_a_pv_goes_to_pods_and_back(node: Node) -> None:
    pv = Pv(node, "pv-way")
    pv.unpublish("pod1")
    pv.unstage()
    for _ in range(2):
        pv.stage()
        pod1 = pv.publish("pod1")
        pod2 = pv.publish("pod2", readonly=True)
    (pod1 / "hello").write_text("from pod1")
    assert (pod2 / "hello").read_text() == (pv.on_volume / "hello").read_text() == "from pod1"
    with pytest.raises(OSError, match="Read-only"):
        (pod2 / "no").write_text("x")
    seen = os.statvfs(pod1)
    in_bytes, inodes = pv.stats("pod1").usage
    assert in_bytes.total == seen.f_blocks * seen.f_frsize and inodes.total == seen.f_files
    for _ in range(2):
        pv.unpublish("pod1")
        pv.unpublish("pod2")
        pv.unstage()
    assert not pod1.exists() and not any("pv-way" in each.root for each in mountinfo.read())


def test_a_target_that_holds_files_of_its_own_is_left_alone(node: Node) -> None:
    pv = Pv(node, "pv-files")
    pv.stage()
    target = pv.target("pod1")
    target.mkdir()
    (target / "mine").write_text("x")
    with pytest.raises(grpc.RpcError, match="holds files of the node's own"):
        pv.publish("pod1")
    with pytest.raises(grpc.RpcError, match="they are left there"):
        pv.unpublish("pod1")
    (target / "mine").unlink()
    pv.publish("pod1")
    pv.unpublish("pod1")
    pv.unstage()
    assert not target.exists()


def test_nothing_is_written_on_the_node_where_a_pods_mount_was_taken_away(node: Node) -> None:
    pv = Pv(node, "pv-taken")
    pv.stage()
    target = pv.publish("pod1")
    mounting.unmount(str(target))
    with pytest.raises(PermissionError):
        (target / "x").write_text("x")
    pv.publish("pod1")
    (target / "x").write_text("x")
    pv.unpublish("pod1")
    pv.unstage()


def test_a_single_writer_has_the_node_for_itself_also_if_two_come_at_once(node: Node) -> None:
    pv = Pv(node, "pv-single")
    pv.capability.access_mode.mode = csi_pb2.VolumeCapability.AccessMode.SINGLE_NODE_SINGLE_WRITER
    pv.stage()
    with ThreadPoolExecutor(8) as pool:
        outcomes = [pool.submit(pv.publish, f"pod{n}") for n in range(8)]
    refused = [error for each in outcomes if isinstance(error := each.exception(), grpc.RpcError)]
    assert len(refused) == 7
    assert {error.code() for error in refused} <= {grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.ABORTED}
    for n in range(8):
        pv.unpublish(f"pod{n}")
    pv.unstage()


def test_fifty_volumes_come_and_go_at_once(node: Node) -> None:
    pvs = [Pv(node, f"pv-many-{n}", (EXT, EXT_1)[n % 2]) for n in range(50)]

    def life(pv: Pv) -> None:
        pv.stage()
        (pv.publish("many") / "whose").write_text(pv.volume_id)
        assert (pv.on_volume / "whose").read_text() == pv.volume_id
        pv.unpublish("many")
        pv.unstage()

    with ThreadPoolExecutor(50) as pool:
        for each in [pool.submit(life, pv) for pv in pvs]:
            each.result()
    assert not [each for each in mountinfo.read() if "pv-many" in each.root]
    assert [len(clients(storage)) for storage in (EXT, EXT_1)] == [1, 1]


def test_a_pv_that_is_a_symlink_or_not_there_is_not_mounted(node: Node) -> None:
    pv = Pv(node, "pv-link")
    pv.on_volume.rmdir()
    with pytest.raises(grpc.RpcError, match="there is no directory /subvol/"):
        pv.stage()
    pv.on_volume.symlink_to("/etc")
    with pytest.raises(grpc.RpcError, match="Not a directory"):
        pv.stage()
    pv.on_volume.unlink()


def test_a_node_plugin_that_is_killed_and_replaced_disturbs_no_pod(node: Node) -> None:
    pv = Pv(node, "pv-upgrade")
    pv.stage()
    with Writer(pv.publish("pod1")) as writer:
        node.kill("csi")
        writer.wait_more()
        node.start_plugin()
        pv.publish("pod2")
        writer.wait_more()
    pv.unpublish("pod1")
    pv.unpublish("pod2")
    pv.unstage()


def test_a_pod_that_starts_after_the_client_died_gets_a_mount_that_works(node: Node) -> None:
    pv = Pv(node, "pv-again")
    pv.stage()
    pv.publish("pod1")
    for pid in clients(EXT):
        os.kill(pid, signal.SIGKILL)
    retried(lambda: (pv.publish("pod2") / "x").write_text("x"))
    for pod in ("pod1", "pod2"):
        retried(partial(pv.unpublish, pod))
    retried(pv.unstage)


def retried(call: Callable[[], object]) -> None:
    """Until it is not refused because the plugin itself is at work on the volume, as kubelet does."""

    def done() -> bool:
        try:
            call()
        except grpc.RpcError as error:
            if error.code() not in (grpc.StatusCode.ABORTED, grpc.StatusCode.UNAVAILABLE):
                raise
            return False
        return True

    wait_until("a call to be taken", done, seconds=LONG_S)


class Container:
    """A process with a mount namespace of its own, which a volume was mounted in before it began, as runc does."""

    def __init__(self, source: Path, there: Path) -> None:
        there.mkdir()
        script = 'mount --bind "$0" "$1" && echo ready && exec cat'
        words = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, str(source), str(there)]
        self._process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdout is not None and self._process.stdout.readline() == b"ready\n"
        self._there = there

    def has_the_volume(self) -> bool:
        seen = Path(f"/proc/{self._process.pid}/root{self._there}/hello")
        try:
            return seen.read_text() == "hello"
        except OSError:
            return False

    def end(self) -> None:
        self._process.kill()
        self._process.communicate()


def test_mounts_of_pods_whose_client_died_are_mended_and_what_cannot_be_is_told(node: Node, tmp_path: Path) -> None:
    pv = Pv(node, "pv-mend")
    pv.stage()
    target, read_only = pv.publish("pod1"), pv.publish("pod2", readonly=True)
    (target / "hello").write_text("hello")
    assert not pv.stats("pod1").volume_condition.abnormal
    sub_path = node.kubelet / "pods/pod1/volume-subpaths/pv/c/0"
    sub_path.parent.mkdir(parents=True)
    sub_path.touch()
    mounting.bind(str(target / "hello"), str(sub_path))
    container = Container(target, tmp_path / "data")
    try:
        assert container.has_the_volume()
        for pid in clients(EXT):
            os.kill(pid, signal.SIGKILL)
        wait_until("the client's end to be told", lambda: told(pv), seconds=LONG_S)
        for path in (target, read_only):
            wait_until(f"{path} to be mended", partial(answers, path / "hello"), seconds=LONG_S)
        wait_until("the subPath to be mended", lambda: answers(sub_path), seconds=LONG_S)
        with pytest.raises(OSError, match="Read-only"):
            (read_only / "no").write_text("x")
        assert not container.has_the_volume()
        wait_until("all to be told", lambda: told(pv) == [(DEGRADED, "ClientReplaced")], seconds=LONG_S)
        assert pv.stats("pod1").volume_condition.message.startswith("ClientReplaced: ")
    finally:
        container.end()
    wait_until("nothing to be told any more", lambda: pv.health() == [], seconds=LONG_S)
    assert not pv.stats("pod1").volume_condition.abnormal
    mounting.unmount(str(sub_path), lazily=True)
    for pod in ("pod1", "pod2"):
        retried(partial(pv.unpublish, pod))
    retried(pv.unstage)


def told(pv: Pv) -> list[tuple[int, str]] | None:
    """What is wrong with it; None in the moment in which one mount takes another's place."""
    try:
        return pv.health()
    except grpc.RpcError as error:
        if error.code() is not grpc.StatusCode.NOT_FOUND:
            raise
        return None


def answers(path: Path) -> bool:
    try:
        return path.read_text() == "hello"
    except OSError:
        return False


def test_a_brick_that_is_down_and_a_directory_that_is_gone_are_told(node: Node, volumes: BrickHosts) -> None:
    pv = Pv(node, "pv-health")
    pv.stage()
    pv.publish("pod1")
    host = volumes.host("brick3")
    pid = host.run(["pgrep", "-f", f"glusterfsd.*{EXT.volume}"]).stdout.split()[0]
    host.run(["kill", "-9", pid])
    try:
        wait_until("the brick to be told of", lambda: (DEGRADED, "BrickDown") in pv.health(), seconds=LONG_S)
        message = pv.stats("pod1").volume_condition.message
        assert f"brick3:/bricks/{EXT.volume}" in message and "gluster volume start" in message
        reply = node.csi.NodeGetStorageHealth(csi_pb2.NodeGetStorageHealthRequest(), timeout=60, wait_for_ready=True)
        # a storage that an earlier test has left without its mount may be told of, too
        assert "BrickDown" in {each.reason for each in reply.backend_health}
    finally:
        volumes.gluster("volume", "start", EXT.volume, "force")
        volumes.wait_online(EXT.volume)
    wait_until("nothing to be told", lambda: pv.health() == [], seconds=LONG_S)
    pv.on_volume.rmdir()
    wait_until("the loss to be told of", lambda: (DATA_LOSS, "DirectoryGone") in pv.health(), seconds=LONG_S)
    assert "restore from a backup" in pv.stats("pod1").volume_condition.message
    pv.unpublish("pod1")
    pv.unstage()
    with pytest.raises(grpc.RpcError, match="is not mounted on this node"):
        pv.health()


def test_a_node_that_was_rebooted_goes_on_with_what_is_left_on_its_disk(node: Node) -> None:
    pv, other = Pv(node, "pv-reboot"), Pv(node, "pv-not-back")
    for each in (pv, other):
        each.stage()
        (each.publish("pod1") / "kept").write_text("kept")
    for name in ("csi", "mounter"):
        node.kill(name)
    for pid in clients(EXT) | clients(EXT_1):
        os.kill(pid, signal.SIGKILL)
    for mount in reversed([each for each in mountinfo.read() if each.path.startswith(f"{node.kubelet}/")]):
        mounting.unmount(mount.path, lazily=True)
    shutil.rmtree(node.run / "volfiles")
    assert pv.target("pod1").is_dir() and (node.plugin / "mounts/ext").is_dir() and (node.plugin / "csi.sock").exists()
    node.start_mounter()
    node.start_plugin()
    assert not (node.plugin / "mounts/ext").exists(), "nobody uses it yet"
    retried(partial(other.unpublish, "pod1"))
    retried(other.unstage)
    retried(pv.stage)
    retried(partial(pv.publish, "pod1"))
    assert (pv.target("pod1") / "kept").read_text() == "kept"
    assert not other.target("pod1").exists()
    pv.unpublish("pod1")
    pv.unstage()


def test_a_storage_that_was_deleted_and_that_no_pod_uses_is_let_go(node: Node) -> None:
    gone = Storage(name=StorageName("ext-gone"), hosts=HOSTS, volume=EXT.volume)
    pv = Pv(node, "pv-last", gone)
    pv.stage()
    assert clients(gone)
    pv.unstage()
    wait_until("its client to end", lambda: not clients(gone), seconds=LONG_S)
    wait_until("it to be forgotten", lambda: node.status(gone) is None, seconds=LONG_S)
    # the client ends, and the storage is forgotten, a moment before its mount point goes
    wait_until("its mount point to go", lambda: not (node.plugin / "mounts/ext-gone").exists(), seconds=LONG_S)


def test_kubelet_finds_the_plugin_by_its_registration_socket(node: Node) -> None:
    with grpc.insecure_channel(f"unix:{node.registry}/kadalu.external-reg.sock") as channel:
        stub = registration_pb2_grpc.RegistrationStub(channel)
        info = stub.GetInfo(registration_pb2.InfoRequest(), timeout=60, wait_for_ready=True)
    assert (info.type, info.name, info.endpoint) == ("CSIPlugin", "kadalu.external", f"{node.plugin}/csi.sock")


def test_a_released_storages_client_lives_as_long_as_a_pod_uses_it(node: Node) -> None:
    pv = Pv(node, "pv-release")
    pv.stage()
    with Writer(pv.publish("pod1")) as writer:
        old = clients(EXT)
        node.mounter.Release(mounter_pb2.ReleaseRequest(storage=EXT.name), timeout=60)
        assert node.status(EXT) is None
        writer.wait_more()
        assert clients(EXT) == old
    # the plugin looks at mounts whose storage has none, and one that it looks at is in use
    retried(partial(pv.unpublish, "pod1"))
    retried(pv.unstage)
    wait_until("the client to end with its last mount", lambda: not clients(EXT), seconds=LONG_S)
