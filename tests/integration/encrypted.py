"""The brick hosts with TLS everywhere, for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.certificates import Authority
from tests.testbed.brickhosts import BrickHost, BrickHosts

SSL_DIRECTORY = "/usr/lib/ssl"


@contextmanager
def encrypted(
    hosts: BrickHosts, authority: Authority, directory: Path, *volumes: str, management: bool = True
) -> Iterator[None]:
    """The bricks of `volumes` encrypted, whose options stay, and the hosts' management if `management`.

    `directory` is ours.
    """
    for volume in volumes:
        for option in ("client.ssl", "server.ssl"):
            hosts.gluster("volume", "set", volume, option, "on")
    for host in hosts.hosts:
        for name, content in authority.issue(host.name).items():
            (directory / name).write_bytes(content)
            host.put(directory / name, f"{SSL_DIRECTORY}/{name}")
    if not management:
        for volume in volumes:
            hosts.gluster("volume", "stop", volume)
            hosts.start_volume(volume)
        yield
        return
    try:
        _encrypt(hosts, True)
        yield
    finally:
        _encrypt(hosts, False)


def _encrypt(hosts: BrickHosts, on: bool) -> None:
    """As gluster's manual has it: everything stopped, then started anew on all hosts."""

    def stop(host: BrickHost) -> None:
        host.run(["systemctl", "stop", "glusterd"])
        host.run(["pkill", "glusterfs"], check=False)
        host.run([*(["touch"] if on else ["rm", "-f"]), "/var/lib/glusterd/secure-access"])

    hosts.together(stop)
    hosts.together(lambda host: host.run(["systemctl", "start", "glusterd"]))
    hosts.wait_joined()
    for volume in hosts.volumes():
        if volume.status == "Started":
            hosts.wait_online(volume.name)
