"""What is wrong with a PV on this node, and what a person should do: from what was looked at to words. Pure."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from kadalu_ext.csi.condition import Condition, Status, degraded, is_full
from kadalu_ext.csi.mounterclient import StorageState

_ENDED: Final = frozenset({errno.ENOTCONN, errno.ECONNABORTED})
_GONE: Final = frozenset({errno.ENOENT, errno.ESTALE})


@dataclass(frozen=True, kw_only=True)
class Space:
    """Of a PV, as statvfs(3) has it."""

    total_bytes: int
    available_bytes: int
    used_bytes: int
    inodes: int
    available_inodes: int
    used_inodes: int


@dataclass(frozen=True, kw_only=True)
class Look:
    """What was seen of a PV at one path.

    space: what the volume said; else error: the errno that statvfs ended with, 0 if it has not ended in time.
    current: whether the mount is of the storage's client of now.
    replaced: whether a mount of an earlier client was replaced there, and some container of this node has it still.
    storage: what the mounter says; None if it says nothing of this storage. mounter: why it does not answer at all.
    """

    path: str
    space: Space | None = None
    error: int = 0
    error_text: str = ""
    current: bool = True
    replaced: bool = False
    storage: StorageState | None = None
    mounter: str = ""


def conditions(look: Look) -> list[Condition]:
    """All that is wrong, the worst first; none of them twice."""
    found = [*_of_volume(look), *_of_storage(look)]
    return sorted(dict.fromkeys(found), key=lambda each: -each.status)


def _of_volume(look: Look) -> Iterator[Condition]:
    space = look.space
    if space is None:
        yield _not_answering(look)
        return
    if look.replaced:
        yield degraded(
            "ClientReplaced",
            f"the glusterfs client behind {look.path} died and was replaced; containers of this node that were started "
            "before still have the dead mount and get 'Transport endpoint is not connected': delete such pods",
        )
    if is_full(total_bytes=space.total_bytes, free_bytes=space.available_bytes):
        yield degraded(
            "Full",
            "no space is left: writers are refused, and what bricks took last may wait for heal, with fewer copies "
            "until there is room; make the claim larger, or delete files",
        )
    elif space.inodes and not space.available_inodes:
        yield degraded(
            "OutOfInodes", "no inode is left: no file can be made; delete files, or allow the volume more of them"
        )


def _not_answering(look: Look) -> Condition:
    dead = look.storage is not None and not look.storage.mounted
    if look.error in _GONE:
        return Condition(
            status=Status.DATA_LOSS,
            reason="DirectoryGone",
            message=f"the PV's directory is not on the gluster volume any more ({look.error_text}): somebody removed "
            "it there, or the volume was made anew; stop the pods and restore from a backup",
        )
    if look.error in _ENDED and (dead or not look.current):
        why = f": {look.storage.reason}" if look.storage is not None and look.storage.reason else ""
        return _inaccessible(
            "ClientDied",
            f"the glusterfs client behind {look.path} is gone{why}; it is started again by itself, and pods that were "
            "running must be deleted then",
        )
    if look.error in _ENDED:
        return _inaccessible(
            "NoBricks",
            "the glusterfs client of this node has no connection to as many bricks as the volume needs: are the brick "
            "hosts up, and does this node reach port 24007 and the bricks' (49152 and up)? gluster volume status",
        )
    if look.error == 0:
        return _inaccessible(
            "NoAnswer",
            f"the volume does not answer ({look.error_text}): a brick host is silent, or the network between it and "
            "this node is; it goes on by itself when the host answers, or after the volume's ping-timeout",
        )
    return _inaccessible(
        "Unreadable",
        f"the PV's directory cannot be read ({look.error_text}): fewer bricks than are needed have it whole; see "
        "gluster volume heal VOLUME info",
    )


def _of_storage(look: Look) -> Iterator[Condition]:
    if look.mounter:
        yield degraded("MounterNotThere", f"{look.mounter}; a client that ends meanwhile is not started again")
    if look.storage is not None and (look.storage.mounted or look.space is not None):
        for each in of_storage(look.storage):
            yield replace(each, status=Status.DEGRADED)


def of_storage(storage: StorageState) -> Iterator[Condition]:
    """What is wrong with a storage on this node, whichever of its PVs one looks at."""
    name = f"storage {storage.name}"
    if not storage.mounted:
        why = f": {storage.reason}" if storage.reason else ""
        yield _inaccessible(
            "StorageNotMounted", f"{name} is not mounted on this node{why}; it is tried again by itself"
        )
        return
    if storage.hidden_hosts:
        yield degraded(
            "BrickHostSilent",
            f"{name}: brick hosts that do not answer this node: {', '.join(storage.hidden_hosts)}; the others serve "
            "it. Is the host up, and reached from here?",
        )
    if storage.down_bricks:
        yield degraded(
            "BrickDown",
            f"{name}: this node has no connection to the bricks {', '.join(storage.down_bricks)}; the others serve it. "
            "See gluster volume status; gluster volume start VOLUME force starts bricks that ended",
        )


def _inaccessible(reason: str, message: str) -> Condition:
    return Condition(status=Status.INACCESSIBLE, reason=reason, message=message)
