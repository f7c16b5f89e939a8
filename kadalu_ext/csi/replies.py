"""What is known of a volume, as CSI has it."""

from __future__ import annotations

from collections.abc import Sequence

from kadalu_ext.api import csi_pb2
from kadalu_ext.csi.condition import Condition
from kadalu_ext.errors import NotFoundError
from kadalu_ext.record import QuotaRecord, is_snapshot
from kadalu_ext.storage import GID_ATTRIBUTE, Storage, to_parameters, volume_id


def volume(storage: Storage, record: QuotaRecord) -> csi_pb2.Volume:
    """A PV of that storage."""
    shown = csi_pb2.Volume(
        volume_id=volume_id(storage.name, record.name),
        capacity_bytes=record.size_bytes,
        volume_context=to_parameters(storage),
    )
    if record.gid is not None:
        shown.volume_context[GID_ATTRIBUTE] = str(record.gid)
    if record.source is not None and is_snapshot(record.source):
        shown.content_source.snapshot.snapshot_id = volume_id(storage.name, record.source)
    elif record.source is not None:
        shown.content_source.volume.volume_id = volume_id(storage.name, record.source)
    return shown


def condition(wrong: Sequence[Condition]) -> csi_pb2.VolumeCondition:
    """CSI 1.12's: one text."""
    text = "; ".join(f"{each.reason}: {each.message}" for each in wrong)
    return csi_pb2.VolumeCondition(abnormal=bool(wrong), message=text or "nothing is wrong")


def health(text: str, wrong: Sequence[Condition]) -> csi_pb2.VolumeHealth:
    """CSI 1.13's, of the volume with that id."""
    entries = [
        csi_pb2.VolumeHealth.VolumeHealthEntry(
            status=csi_pb2.VolumeHealthErrorType.Value(each.status.name), reason=each.reason, message=each.message
        )
        for each in wrong
    ]
    return csi_pb2.VolumeHealth(volume_id=text, health_statuses=entries)


def unknown(text: str) -> NotFoundError:
    """Of an id that no volume has."""
    return NotFoundError(f"volume_id: there is no volume {text}")
