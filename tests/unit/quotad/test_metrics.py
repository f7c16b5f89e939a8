"""Prometheus metrics, and where they go."""

from __future__ import annotations

import http.client
import re
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from kadalu_ext.quotad import heal, metrics
from kadalu_ext.quotad.config import Config
from kadalu_ext.quotad.daemon import Daemon
from kadalu_ext.quotad.metrics import Exporter
from kadalu_ext.quotad.plan import FIRST_PROJECT_ID
from kadalu_ext.quotad.systemd import Notifier
from tests.testbed.progress import wait_until
from tests.unit.quotad.fakes import FakeHost, make_pv, put_record
from tests.unit.quotad.test_config import cycle_until_ready


@pytest.fixture
def daemon(host: FakeHost) -> Iterator[Daemon]:
    root = host.add_volume("v")
    make_pv(root, "pvc-1")
    put_record(root, "pvc-1")
    put_record(root, 'evil"\n\\\udcff', b"{}")
    with closing(Daemon(Config(glusterd_dir=str(host.glusterd)), systems=host.xfs, notifier=Notifier({}))) as daemon:
        cycle_until_ready(daemon)
        yield daemon


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def get(port: int, path: str) -> tuple[int, str]:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=10)) as connection:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


def test_states_come_from_the_daemon_and_bytes_from_the_kernel(daemon: Daemon, host: FakeHost) -> None:
    text = metrics.render(daemon, host.xfs)
    where = f'volume="v",brick="{host.bricks / "v"}"'
    assert f'kadalu_quotad_pvs{{{where},state="enforced"}} 1\n' in text
    assert f'kadalu_quotad_pvs{{{where},state="invalid"}} 1\n' in text
    assert f'kadalu_quotad_pv_limit_bytes{{{where},pv="pvc-1"}} {64 << 20}\n' in text
    assert f"kadalu_quotad_brick_refused{{{where}}} 0\n" in text
    line = re.compile(r'(# (HELP|TYPE) .*|[a-z_]+(\{([a-z]+="([^"\\\n]|\\["\\n])*",?)+\})? \d+)')
    assert all(line.fullmatch(shown) for shown in text.splitlines())


def test_a_full_pv_and_what_waits_for_heal_on_its_brick_are_metrics(host: FakeHost) -> None:
    root = host.add_volume("v")
    make_pv(root, "pvc-1")
    put_record(root, "pvc-1")
    for index, name in zip(heal.INDICES, ("00000000-0000-4000-8000-00000000000a", "xattrop-not-a-gfid"), strict=True):
        (root / index).mkdir(parents=True)
        (root / index / name).touch()
    with closing(Daemon(Config(glusterd_dir=str(host.glusterd)), systems=host.xfs, notifier=Notifier({}))) as daemon:
        cycle_until_ready(daemon)
        where = f'volume="v",brick="{root}"'
        assert f"kadalu_quotad_brick_heal_pending{{{where}}} 1\n" in metrics.render(daemon, host.xfs)
        assert "kadalu_quotad_pv_full{" not in metrics.render(daemon, host.xfs)
        host.xfs.projects.used_bytes[FIRST_PROJECT_ID] = 64 << 20
        assert f'kadalu_quotad_pv_full{{{where},pv="pvc-1"}} 1\n' in metrics.render(daemon, host.xfs)


def test_a_refused_brick_is_a_metric(daemon: Daemon, host: FakeHost) -> None:
    host.xfs.refusal = "not XFS"
    daemon.reload()
    daemon.run_cycle(patience_s=0)
    cycle_until_ready(daemon)
    assert re.search(r"brick_refused\{.*\} 1\n", metrics.render(daemon, host.xfs))


def test_names_from_the_volume_cannot_add_a_line(host: FakeHost) -> None:
    assert metrics._escape('a"\n\\\udcff') == 'a\\"\\n\\\\\\\\udcff'


def test_the_textfile_is_whole_readable_and_gone_at_the_end(daemon: Daemon, host: FakeHost, tmp_path: Path) -> None:
    file = tmp_path / "kadalu.prom"
    with closing(Exporter(daemon, host.xfs)) as exporter:
        exporter.take(Config(metrics_textfile=str(file)))
        wait_until("the file", file.exists, seconds=10)
        assert file.stat().st_mode & 0o777 == 0o644
        assert file.read_text() == metrics.render(daemon, host.xfs)
    assert list(tmp_path.glob("*kadalu*")) == []


def test_http_serves_metrics_and_nothing_else_until_it_is_turned_off(daemon: Daemon, host: FakeHost) -> None:
    port = free_port()
    with closing(Exporter(daemon, host.xfs)) as exporter:
        exporter.take(Config(metrics_address=f"127.0.0.1:{port}"))
        assert get(port, "/metrics") == (200, metrics.render(daemon, host.xfs))
        assert get(port, "/etc/passwd")[0] == 404
        exporter.take(Config())
        with pytest.raises(ConnectionRefusedError):
            get(port, "/metrics")


def test_what_cannot_be_exported_costs_nothing_else(daemon: Daemon, host: FakeHost, tmp_path: Path) -> None:
    with socket.socket() as taken, closing(Exporter(daemon, host.xfs)) as exporter:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        exporter.take(Config(metrics_address=address, metrics_textfile=str(tmp_path / "none" / "x.prom")))
