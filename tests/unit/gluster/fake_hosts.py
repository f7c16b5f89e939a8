"""Who listens to which hosts, as gluster.hosts.Hosts keeps it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from kadalu_ext.gluster.tls import Tls


class FakeHosts:
    """Its hosts tell of a change when the test says so."""

    def __init__(self) -> None:
        self.listening: dict[int, tuple[tuple[str, ...], Callable[[str], None]]] = {}
        self.count = 0
        self.spoken: Tls | None = None

    def listen(self, hosts: Sequence[str], listener: Callable[[str], None], *, tls: Tls | None) -> Callable[[], None]:
        self.spoken = tls
        self.count += 1
        number = self.count
        self.listening[number] = (tuple(hosts), listener)
        return lambda: self.listening.pop(number) and None

    def hosts(self) -> list[tuple[str, ...]]:
        return [hosts for hosts, _ in list(self.listening.values())]

    def tell(self) -> None:
        """Each of the hosts says that volfiles changed."""
        for hosts, listener in list(self.listening.values()):
            for host in hosts:
                listener(host)
