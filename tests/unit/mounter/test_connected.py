"""What a client's own state says of its connections."""

from __future__ import annotations

from pathlib import Path

from kadalu_ext.mounter.connected import down

BRICKS = {"v-client-0": ("h1", "/b"), "v-client-1": ("h2", "/b"), "v-client-2": ("h3", "/b")}


def say(mount: Path, name: str, text: str) -> None:
    directory = mount / ".meta/graphs/active" / name
    directory.mkdir(parents=True)
    (directory / "private").write_text(text)


def test_bricks_without_a_connection_are_named_by_host_and_path(tmp_path: Path) -> None:
    say(tmp_path, "v-client-0", "[xlator.protocol.client.v-client-0.priv]\nconnected = 1\nping_timeout = 42\n")
    say(tmp_path, "v-client-1", "[xlator.protocol.client.v-client-1.priv]\nconnected = 0\nping_timeout = 42\n")
    say(tmp_path, "v-client-2", "connected = 0\n")
    assert down(str(tmp_path), BRICKS) == ("h2:/b", "h3:/b")


def test_of_what_the_client_says_nothing_nothing_is_said(tmp_path: Path) -> None:
    say(tmp_path, "v-client-1", "")
    assert down(str(tmp_path), BRICKS) == ()
