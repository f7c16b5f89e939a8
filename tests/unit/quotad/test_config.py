"""The configuration file."""

from __future__ import annotations

from contextlib import closing
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kadalu_ext.errors import InvalidInputError
from kadalu_ext.quotad import config
from kadalu_ext.quotad.config import Config
from kadalu_ext.quotad.daemon import Daemon
from kadalu_ext.quotad.systemd import Notifier
from tests.unit.quotad.fakes import FakeHost, make_pv, put_record


def test_an_empty_file_and_none_are_the_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "CONFIG_FILE", str(tmp_path / "none.toml"))
    assert config.load() == config.parse("") == Config()


def test_a_file_that_was_asked_for_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="there is no such file"):
        config.load(str(tmp_path / "none.toml"))


def test_the_command_line_goes_before_the_file(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text('crawl_interval_s = 5\nlog_level = "DEBUG"\n')
    assert config.load(str(file), crawl_interval_s=7.0, log_level=None) == Config(crawl_interval_s=7, log_level="DEBUG")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("crawl_intervall_s = 5", "'crawl_intervall_s' is not a key: did you mean crawl_interval_s?"),
        ("xyz = 5", "there are glusterd_dir, crawl_interval_s"),
        ("crawl_interval_s = true", "crawl_interval_s: 'True' is not a number"),
        ("crawl_interval_s = nan", "crawl_interval_s: nan is not from 1 to 86400"),
        ("crawl_interval_s = 0.5", "from 1 to 86400"),
        ("glusterd_dir = 1", "glusterd_dir: '1' is not text"),
        ('glusterd_dir = ""', "not an absolute path"),
        ('log_level = "LOUD"', "none of DEBUG"),
        ('metrics_textfile = "/var/x.txt"', ".prom"),
        ('metrics_address = "9813"', "127.0.0.1:9813"),
        ('metrics_address = "::1:9813"', "[::1]:9813"),
        ('metrics_address = "a:99999"', "1 to 65535"),
        ("=", "not TOML"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(text: str, reason: str, tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text(text)
    with pytest.raises(InvalidInputError) as refused:
        config.load(str(file))
    assert str(refused.value).startswith(f"{file}: ")
    assert reason in str(refused.value)


def test_every_key_is_explained_and_what_is_written_is_what_is_read() -> None:
    chosen = Config(glusterd_dir='/a "b"\\c\n', crawl_interval_s=2.5, metrics_address="[::1]:9813")
    text = config.render(chosen)
    assert config.parse(text) == chosen
    assert config.parse(config.render(Config())) == Config()
    assert all(f"{key.name} = " in text and key.metadata["unit"] in text for key in fields(Config))


def test_every_key_is_in_the_documentation() -> None:
    page = (Path(__file__).parents[3] / "docs" / "brick-hosts.md").read_text()
    for key in fields(Config):
        meta = key.metadata
        assert f"| `{key.name}` | {meta['unit']} | `{config.toml(key.default)}` | {meta['help']} |" in page


@given(st.text())
def test_any_text_is_a_configuration_or_refused(text: str) -> None:
    try:
        config.parse(text)
    except InvalidInputError:
        pass


def cycle_until_ready(daemon: Daemon) -> None:
    while not daemon.ready or daemon.busy:
        daemon.run_cycle(patience_s=0)


def test_a_reload_takes_the_new_configuration_without_a_restart(host: FakeHost, tmp_path: Path) -> None:
    root = host.add_volume("v")
    make_pv(root, "pvc-1")
    put_record(root, "pvc-1")
    (tmp_path / "glusterd2").mkdir()
    chosen = Config(glusterd_dir=str(tmp_path / "glusterd2"))
    fresh = Config(glusterd_dir=str(host.glusterd))
    with closing(Daemon(chosen, systems=host.xfs, notifier=Notifier({}), reread=lambda: fresh)) as daemon:
        cycle_until_ready(daemon)
        assert daemon.outcomes == {}
        daemon.reload()
        daemon.run_cycle(patience_s=0)
        cycle_until_ready(daemon)
        assert [owner.pv for owner in daemon.outcomes] == ["pvc-1"]


def test_a_configuration_that_cannot_be_used_leaves_the_one_before(host: FakeHost) -> None:
    def refuse() -> Config:
        raise InvalidInputError("crawl_interval_s: nan")

    chosen = Config(glusterd_dir=str(host.glusterd))
    with closing(Daemon(chosen, systems=host.xfs, notifier=Notifier({}), reread=refuse)) as daemon:
        cycle_until_ready(daemon)
        daemon.reload()
        daemon.reload()
        daemon.run_cycle(patience_s=0)
        assert not daemon.busy
        assert daemon.ready
