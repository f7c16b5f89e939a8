"""What is read of the machine."""

from __future__ import annotations

from pathlib import Path

from tests.testbed import host


def test_os_release_is_read_with_and_without_quotes() -> None:
    release = host.os_release('# a comment\nID=debian\nVERSION_ID="12"\nPRETTY_NAME="Debian GNU/Linux 12"\n\n')
    assert release == {"ID": "debian", "VERSION_ID": "12", "PRETTY_NAME": "Debian GNU/Linux 12"}


def test_amx_is_told_by_the_cpus_flags() -> None:
    assert host.has_amx("processor : 0\nflags\t\t: fpu vme amx_bf16 amx_tile amx_int8\n")
    assert not host.has_amx("processor : 0\nmodel name : amx_tile\nflags\t\t: fpu vme avx512f\n")


def test_a_removed_package_does_not_count_as_installed() -> None:
    listing = "installed tini\nconfig-files etcd-server\nnot-installed gcc\ninstalled libc6-dev\n"
    assert host.installed(listing) == {"tini", "libc6-dev"}


def test_the_first_of_apts_errors_is_the_reason(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("Reading package lists...\nE: Failed to fetch x  Could not connect\nE: apt-get update failed\n")
    assert host.apt_reason(log).startswith("E: Failed to fetch x  Could not connect (a network")
