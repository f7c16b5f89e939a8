"""The one tree of errors.

A message says what failed, on which host, brick, volume or field, why, and what to do about it; whoever catches one
can show it to a person as it stands. Nothing here knows gRPC or Kubernetes: rpc.py has the one table from these classes
to gRPC codes, operator/plan.py the one to the reasons of conditions.
"""

from __future__ import annotations


class KadaluExtError(Exception):
    """The root: everything this project raises on purpose."""


# --- what somebody gave us is wrong: a retry with the same input fails again ---


class InvalidInputError(KadaluExtError):
    """A CR, request, parameter, name or configuration is wrong. The message names the field and what is allowed."""


class RecordError(InvalidInputError):
    """A quota record is not usable: bad JSON, version, path or size. The message names the field."""


class PvNameError(RecordError):
    """A name that no PV can have. The message says what is allowed."""


class ClaimError(InvalidInputError):
    """What a whole volume's root says of whose it is cannot be read. The message names the attribute."""


class VolfileError(InvalidInputError):
    """A volfile cannot be parsed. The message names the line, never its text: volfiles hold passwords."""


class WireError(KadaluExtError):
    """A peer sent bytes that are not what the protocol allows: truncated, too long, wrong program."""


class ConflictError(KadaluExtError):
    """The name is taken by something that differs in size or parameters."""


class TokenError(KadaluExtError):
    """A list cannot be gone on with where a caller wants it to: it must begin again. The message says why."""


class NotFoundError(KadaluExtError):
    """What was asked about does not exist. The message names it."""


class PreconditionError(KadaluExtError):
    """As things are it must not be done; a retry fails until somebody has changed them. The message says what to."""


class CapacityError(KadaluExtError):
    """More was asked for than there is. The message has both figures."""


class UnsupportedVolumeError(KadaluExtError):
    """Sizes cannot be enforced on a volume of this kind. The message says which option or type, and what to do."""


class DistributedError(UnsupportedVolumeError):
    """A directory of the volume is spread over several subvolumes, none of which knows the whole of its size."""


class ShardedError(UnsupportedVolumeError):
    """Pieces of files lie outside of their directory."""


class BlockHostingError(UnsupportedVolumeError):
    """The volume belongs to gluster-block."""


class ThinArbiterError(UnsupportedVolumeError):
    """The volume has a thin arbiter, of which our own probe of bricks knows nothing."""


class TrashError(UnsupportedVolumeError):
    """Gluster's trash is on: what is removed goes on counting."""


class GlusterQuotaError(UnsupportedVolumeError):
    """Gluster's own quota answers statfs in place of the brick."""


class DataAtRiskError(UnsupportedVolumeError):
    """The volume is disperse or has an arbiter: a PV that gets full may lose data there. Nobody has accepted that."""


class SharedFileSystemError(UnsupportedVolumeError):
    """Several bricks of the volume are on one file system, and each shows a part of every size."""


# --- the world is not ready: a retry may succeed ---


class UnavailableError(KadaluExtError):
    """Something that must answer does not."""


class HostUnreachableError(UnavailableError):
    """A host did not answer: refused, silent, or closed the connection. The message names host, port and why."""


class HostRefusedError(HostUnreachableError):
    """A host is there, but what should listen on the port is not: it refuses or closes the connection."""


class TlsError(HostUnreachableError):
    """A host is up and we and it do not agree about TLS or a certificate. The message has the remedy."""


class HostSilentError(HostUnreachableError):
    """A host neither answers nor refuses within the time that it was given: powered off, cut off, or hung."""


class HostHungError(HostSilentError):
    """Of the silent ones: a connection was had, or not even tried for, so it need not be the host that is gone."""


class VolumeStoppedError(UnavailableError):
    """The volume exists but is not started."""


class VolumeReplacedError(UnavailableError):
    """The gluster volume of that name is not the one on which the storage's PVs are. The message has both ids."""


class NotEnforcedError(UnavailableError):
    """A brick that is up does not enforce a PV's size. The message names host, brick and remedy."""


class BricksDownError(UnavailableError):
    """So many bricks are down that the volume takes no writes. The message names them."""


class MounterError(UnavailableError):
    """The mounter could not mount a storage, or is not there."""


class KubernetesError(UnavailableError):
    """The Kubernetes API did not answer, or refused. The message says what was asked of it."""


class BusyError(KubernetesError):
    """The Kubernetes API has too much to do just now. `retry_after_s`: seconds in which it wants not to be asked."""

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class GoneError(KubernetesError):
    """The Kubernetes API no longer has the version from which a watch was to go on: list again."""


class ShortageError(UnavailableError):
    """This process lacks something, as descriptors or memory; whom it was to ask is as well as before."""


class InProgressError(KadaluExtError):
    """An earlier call for the same volume is still at work."""


class DeadlineError(UnavailableError):
    """The caller's time was up before the work was done; nothing is lost, the caller tries again."""


# --- the machine ---


class VolumeIOError(KadaluExtError):
    """A file operation on the volume failed. `errno` is the system's number.

    Raised by gluster.gfapi with the volume, the operation and the path in the message.
    """

    def __init__(self, errno: int, message: str) -> None:
        super().__init__(message)
        self.errno = errno


class QuotaError(KadaluExtError):
    """A brick's file system cannot enforce: not XFS, no prjquota, read-only. The message has the remedy's line."""
