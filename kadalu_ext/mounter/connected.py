"""Which bricks a client has no connection to, as the client itself says.

Every glusterfs client shows its state in the directory .meta of its mount's root, which pods, who have a directory
beneath, never see (xlators/meta; protocol/client's `connected` is in xlators/protocol/client/src/client.c,
client_priv_dump, tag v10.3). Read by a call on the mount: it may hang, so bound it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Final

from kadalu_ext.gluster.clientvolfile import Brick

_CONNECTED: Final = re.compile(r"^connected = (\d)$", re.MULTILINE)


def down(mount: str, bricks: Mapping[str, Brick]) -> tuple[str, ...]:
    """Those of `bricks`, by the names of their translators, as host:path.

    One of which the client says nothing counts as connected. Raises: OSError, if the mount does not answer at all.
    """
    directory = os.path.join(mount, ".meta", "graphs", "active")
    found = []
    for name, (host, path) in sorted(bricks.items()):
        try:
            with open(os.path.join(directory, name, "private"), encoding="utf-8", errors="replace") as file:
                said = _CONNECTED.search(file.read())
        except FileNotFoundError:
            continue  # between two graphs
        if said is not None and said[1] == "0":
            found.append(f"{host}:{path}")
    return tuple(found)
