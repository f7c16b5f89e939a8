"""What a PV's directory is called, where the StorageClass says so by a pattern. Pure.

The parameter `subDir` is the one of csi-driver-nfs (docs/driver-parameters.md there), with the same variables:

    ${pvc.metadata.namespace}   ${pvc.metadata.name}   ${pv.metadata.name}

csi-provisioner tells them in parameters of its own, if it runs with --extra-create-metadata.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from kadalu_ext.errors import InvalidInputError, PvNameError
from kadalu_ext.record import CANARY, PvName, check_pv_name

SUB_DIR: Final = "subDir"
"""The StorageClass parameter."""

_VARIABLES: Final = {
    "pvc.metadata.namespace": "csi.storage.k8s.io/pvc/namespace",
    "pvc.metadata.name": "csi.storage.k8s.io/pvc/name",
    "pv.metadata.name": "csi.storage.k8s.io/pv/name",
}
_VARIABLE: Final = re.compile(r"\$\{([^}]*)\}")


def directory_name(asked: PvName, parameters: Mapping[str, str]) -> PvName:
    """The name of the directory for the PV that is `asked` for: by the pattern, or its own.

    Raises: InvalidInputError naming the parameter: an unknown variable, one that csi-provisioner did not tell, or a
    name that no PV can have. Two PVs may come to the same name: whoever makes them refuses the second.
    """
    pattern = parameters.get(SUB_DIR)
    if pattern is None:
        return asked

    def value(match: re.Match[str]) -> str:
        key = _VARIABLES.get(match[1])
        if key is None:
            raise InvalidInputError(
                f"parameters.{SUB_DIR}: ${{{match[1][:40]}}} is unknown; allowed are {', '.join(_VARIABLES)}"
            )
        if key not in parameters:
            raise InvalidInputError(
                f"parameters.{SUB_DIR}: ${{{match[1]}}} is not known; csi-provisioner tells it with "
                "--extra-create-metadata"
            )
        return parameters[key]

    name = _VARIABLE.sub(value, pattern)
    try:
        found = check_pv_name(name)
    except PvNameError as error:
        raise InvalidInputError(
            f"parameters.{SUB_DIR}: it comes to a name that no directory of a PV can have: {error}"
        ) from error
    if found == CANARY:
        raise InvalidInputError(f"parameters.{SUB_DIR}: {CANARY} is reserved; choose another")
    return found
