"""What is wrong with a PV, seen from its bricks, and what a person should do: from bricks' answers to words. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from kadalu_ext.csi import enforcement
from kadalu_ext.csi.condition import Condition, Status, degraded, is_full
from kadalu_ext.errors import BricksDownError, DeadlineError, KadaluExtError
from kadalu_ext.gluster.brick import BrickAnswer
from kadalu_ext.gluster.geometry import Geometry
from kadalu_ext.record import QuotaRecord
from kadalu_ext.storage import Quota


def conditions(
    record: QuotaRecord,
    answers: Sequence[BrickAnswer],
    geometry: Geometry,
    *,
    found: bool,
    volume: str,
    quota: Quota = Quota.REQUIRED,
) -> list[Condition]:
    """All that is wrong, the worst first; no reason twice. Nobody looks for limits where there is no quota.

    found: the volume has the PV's directory. answers: of every brick, to STATFS of it, or of the volume if it has not.
    """
    if not found:
        return [_gone(record, volume)]
    return sorted(_seen(record, answers, geometry, volume, quota), key=lambda each: -each.status)


def unusable(error: KadaluExtError) -> Condition:
    """Of every PV on a volume that takes no writes, is stopped, or does not answer, which is what the error says."""
    reasons: dict[type[KadaluExtError], str] = {BricksDownError: "BricksDown", DeadlineError: "NoAnswer"}
    return Condition(status=Status.INACCESSIBLE, reason=reasons.get(type(error), "VolumeStopped"), message=str(error))


def _seen(
    record: QuotaRecord, answers: Sequence[BrickAnswer], geometry: Geometry, volume: str, quota: Quota
) -> Iterator[Condition]:
    lack = enforcement.not_enforced(
        answers, geometry, size_bytes=record.size_bytes, inodes=record.inodes, volume=volume
    )
    if isinstance(lack, BricksDownError):
        yield unusable(lack)
        return
    if down := [answer for answer in answers if not answer.up]:
        yield degraded(
            "BrickDown",
            f"{len(down)} of the {len(geometry.bricks)} bricks of volume {volume} are down: "
            f"{enforcement.describe(down)}. The others serve it, with fewer copies. Start them; on a brick host, "
            f"`gluster volume status {volume}` tells more",
        )
    if lack is not None and quota is not Quota.NONE:
        yield degraded("NotEnforced", str(lack))
        return
    stats = [answer.stat for answer in answers if answer.stat is not None]
    data = [answer.stat for answer in answers if answer.stat is not None and not answer.brick.arbiter]
    if any(is_full(total_bytes=stat.total_bytes, free_bytes=stat.free_bytes) for stat in data):
        also = "With an arbiter, files and directories may also answer ENOTCONN until then. "
        yield degraded(
            "Full",
            "no space is left: writers are refused, and what bricks took last may wait for self-heal, with fewer "
            f"copies until there is room. {also if geometry.has_arbiter else ''}Make the claim larger, or delete files",
        )
    if record.inodes is not None and any(not stat.free_inodes for stat in stats):
        yield degraded(
            "OutOfInodes",
            f"none of its {record.inodes} inodes is left: no file can be made. Delete files, or give the claim a "
            "VolumeAttributesClass with more of them",
        )


def _gone(record: QuotaRecord, volume: str) -> Condition:
    return Condition(
        status=Status.DATA_LOSS,
        reason="DirectoryGone",
        message=f"volume {volume} has no directory {record.path}: somebody removed it there. Stop the pods and restore "
        "from a backup",
    )
