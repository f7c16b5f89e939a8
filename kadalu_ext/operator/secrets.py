"""A Secret's data to what a cluster is spoken to with. Nothing of it is ever logged, or part of a message."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from kadalu_ext.errors import InvalidInputError
from kadalu_ext.gluster.tls import CA, CERTIFICATE, KEY, Tls

KEYS: Final = {CERTIFICATE: "tls.crt", KEY: "tls.key", CA: "ca.crt"}
"""gluster's names of files, and those of a Secret of type kubernetes.io/tls. A Secret may have either, or some of each;
where it has both, Kubernetes' own is taken."""


def tls_of(data: Mapping[str, bytes], *, where: str, management: bool) -> Tls:
    """What the Secret `where`, a namespace and a name, holds.

    Raises: InvalidInputError naming the Secret, and the key that is missing or of no use.
    """
    files = {}
    for file, key in KEYS.items():
        found = data.get(key) or data.get(file)
        if not found:
            raise InvalidInputError(f"Secret {where}: it has no {key} (or {file})")
        files[file] = found
    try:
        return Tls.of(files, management=management)
    except InvalidInputError as error:
        raise InvalidInputError(f"Secret {where}: {error}") from error
