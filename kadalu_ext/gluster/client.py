"""How programs ask glusterd: `first_answer` of several hosts, through the connections that this process keeps.

`Glusterd` is one host by itself, for who needs that very one; `Hosts` is for a set of connections of one's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, TypeVar

from kadalu_ext.gluster.glusterd import GLUSTERD_PORT, Glusterd
from kadalu_ext.gluster.hosts import Hosts
from kadalu_ext.gluster.tls import Tls

__all__ = ["GLUSTERD_PORT", "SHARED", "Glusterd", "Hosts", "first_answer"]

T = TypeVar("T")

SHARED: Final = Hosts()
"""Of this process: nobody closes it. A host that nobody asks for a while costs neither thread nor connection."""


def first_answer(
    hosts: Iterable[str],
    call: Callable[[Glusterd], T],
    timeout_s: float = 2.0,
    *,
    port: int = GLUSTERD_PORT,
    tls: Tls | None = None,
) -> T:
    """`Hosts.first_answer` through SHARED."""
    return SHARED.first_answer(hosts, call, timeout_s, port=port, tls=tls)
