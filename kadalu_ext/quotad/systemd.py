"""What systemd is told and what it says: sd_notify(3), in the few lines that it is."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping


class Notifier:
    """Sends states to the socket that systemd names; to nobody when it was not systemd that started this process."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._address = environment.get("NOTIFY_SOCKET", "")
        watchdog = environment.get("WATCHDOG_USEC", "") if environment.get("WATCHDOG_PID") == str(os.getpid()) else ""
        self.watchdog_s = int(watchdog) / 1e6 if watchdog.isdigit() else None
        """Within how many seconds WATCHDOG=1 must follow the last one; None: nobody waits for it."""

    def send(self, *states: str) -> None:
        """`send("READY=1", "STATUS=…")`. What cannot be sent is dropped: nothing depends on it but being watched."""
        if not self._address:
            return
        # a leading @ stands for the zero byte of an abstract address
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            with socket.socket(
                socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
            ) as sender:
                sender.sendto("\n".join(states).encode("utf-8", "replace"), address)
        except OSError:
            pass
