"""What the mounter asks of gluster hosts, each question with a bound: the volfile, and which hosts are silent."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from kadalu_ext.errors import HostSilentError, HostUnreachableError, WireError
from kadalu_ext.gluster import volfile
from kadalu_ext.gluster.client import Glusterd, first_answer
from kadalu_ext.gluster.connection import Connection
from kadalu_ext.gluster.oncrpc import Procedure
from kadalu_ext.gluster.volfile import Volfile
from kadalu_ext.storage import Storage

TIMEOUT_S: Final = 1.0
"""How long a host may take. One that is alive answers within milliseconds."""

_NOTHING: Final = Procedure(program=14398633, version=2, number=0)
"""A call that does nothing: a brick that lives says that it does not serve it."""


def fetch(storage: Storage) -> Volfile:
    """The volume's volfile, from whichever of the storage's hosts answers first.

    Raises: VolumeStoppedError, NotFoundError, HostUnreachableError with each host's reason, VolfileError, WireError.
    """

    def ask(glusterd: Glusterd) -> str:
        glusterd.started_volume_info(storage.volume)  # the volfile of a stopped volume is served too
        return glusterd.getspec(storage.volume)

    return volfile.parse(first_answer(storage.hosts, ask, TIMEOUT_S))


def silent(volume: Volfile, among: frozenset[str] | None) -> frozenset[str]:
    """The brick hosts, of those in `among` (None: of all), that are silent: glusterd, or a brick that should run, takes
    no question within TIMEOUT_S.

    A host that refuses is not silent: a client that asks it knows at once. All are asked side by side.
    """
    options = [xlator.options for xlator in volume.xlators if xlator.type == "protocol/client"]
    bricks = [(each.get("remote-host", ""), each.get("remote-subvolume", "")) for each in options]
    asked = [brick for brick in bricks if among is None or brick[0] in among]
    if not asked:
        return frozenset()
    with ThreadPoolExecutor(max_workers=len(asked), thread_name_prefix="probe") as pool:
        answers = list(pool.map(_takes_questions, asked))
    return frozenset(host for (host, _path), answer in zip(asked, answers, strict=True) if not answer)


def _takes_questions(brick: tuple[str, str]) -> bool:
    host, path = brick
    try:
        with Glusterd(host, timeout_s=TIMEOUT_S) as glusterd:
            port = glusterd.brick_port(path)
        if port is not None:
            with Connection(host, port, server="the brick") as connection:
                connection.call(_NOTHING, b"", time.monotonic() + TIMEOUT_S)
    except HostSilentError:
        return False
    except (HostUnreachableError, WireError):
        pass  # an answer, if not the one that was hoped for
    return True
