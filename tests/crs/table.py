"""One table for two tests: what the API server says under --dry-run=server, and what the operator's parser says."""

from __future__ import annotations

from typing import Any, Final

NODE: Final = {"gluster_node": "node1", "gluster_volname": "volume_name"}


def external(details: object = NODE, **fields: object) -> dict[str, Any]:
    """A spec of type External."""
    return {"type": "External", "details": details, **fields}


def manifest(spec: object, *, name: str = "ext-storage") -> dict[str, Any]:
    """The KadaluStorage with that spec."""
    return {
        "apiVersion": "kadalu-operator.storage/v1alpha1",
        "kind": "KadaluStorage",
        "metadata": {"name": name, "namespace": "default"},
        "spec": spec,
    }


GOOD: Final[dict[str, dict[str, Any]]] = {
    "the RFC's example": external([NODE | {"Gluster_options": "log_level=DEBUG"}]),
    "Kadalu's own form": external({"gluster_host": "a", "gluster_volname": "v", "gluster_options": "log-level=INFO,"}),
    "Kadalu's defaults": external(pvReclaimPolicy="delete", kadalu_format="native", single_pv_per_pool=False),
    "hosts in every field": external(
        {
            "gluster_node": "a",
            "gluster_host": "b.example.com",
            "gluster_nodes": ["c", "10.0.0.1"],
            "gluster_hosts": "d, e",
            "gluster_backup_nodes": ["fd00::1"],
            "gluster_volname": "v",
        }
    ),
    "any case and dashes": {
        "type": "External",
        "Details": [{"Gluster-Node": "a", "GLUSTER_VOLNAME": "v", "gluster-options": {"Log-Level": "debug"}}],
        "Kadalu-Format": True,
        "MountOptions": "noatime,nodev",
    },
    "all of ours": external(overcommit=1.5, quota="required", mountOptions=["noatime", "log_level=DEBUG", "rw"]),
    "an overcommit as a text": external(overcommit="0.5"),
    "an encrypted cluster": external(tls={"secretName": "gluster-client", "management": None}),
    "encrypted bricks alone": external(TLS={"secretname": "gluster-client", "Management": False}),
    "whole volumes": external(
        [NODE, NODE | {"gluster_volname": "vol_2"}], kadalu_format="non-native", pvReclaimPolicy="retain", quota="none"
    ),
    "one whole volume": external(single_pv_per_pool=True),
    "a risk that is accepted": external(accept=["DataAtRisk"]),
    "a risk as a text": external(Accept="dataatrisk,"),
    "nulls, which are absent": external({**NODE, "gluster_hosts": None}, overcommit=None, tls=None),
    "options of a translator": external([NODE | {"gluster_options": "disperse.eager-lock=on,disperse.stripe_cache=4"}]),
    "options as a map": external({**NODE, "gluster_options": {"entry_timeout": 5, "use-readdirp": False}}),
}
REFUSED: Final[dict[str, tuple[dict[str, Any], str]]] = {
    "no type": ({"details": NODE}, "spec.type: Required value"),
    "another case of the type": (external() | {"type": "external"}, 'spec.type: Invalid value: "external": allowed'),
    "no such type": (external() | {"type": "Replicate"}, "for example: type: External"),
    "an unknown field": (external(flavour=1), "spec.flavour: unknown field; allowed: type, details,"),
    "a misspelt field": (external(overcomit=2), "spec.overcomit: unknown field; allowed: type, details,"),
    "a field of Kadalu's own types": (external(tolerations=[]), "spec.tolerations: says nothing about an External"),
    "no details": ({"type": "External"}, "spec.details: missing; for example: details: [{gluster_node: node1"),
    "two volumes": (external([NODE, NODE]), "spec.details: has 2 entries; allowed: one"),
    "an empty list": (external([]), "spec.details: has 0 entries; allowed: one"),
    "details as a text": (external("node1:/volume"), "spec.details: an object, or a list of such; for example"),
    "an unknown detail of one of many": (
        external([NODE, NODE | {"gluster_hots": "a"}], single_pv_per_pool=True),
        "spec.details: each of its entries needs a gluster_volname, and allowed are gluster_node",
    ),
    "one of many without a volume": (
        external([NODE, {"gluster_node": "a"}], single_pv_per_pool=True),
        "spec.details: each of its entries needs a gluster_volname",
    ),
    "an unknown detail": (external([NODE | {"gluster_hots": "a"}]), "spec.details[0].gluster_hots: unknown field"),
    "no host": (external({"gluster_volname": "v"}), "spec.details.gluster_node: no host given"),
    "an empty host": (external({"gluster_volname": "v", "gluster_hosts": []}), "gluster_node: no host given"),
    "a host with a port": (
        external({"gluster_host": "node1:24007", "gluster_volname": "v"}),
        "spec.details.gluster_host: allowed: host names and addresses, without a port",
    ),
    "a host that is a command": (
        external(NODE | {"gluster_hosts": ["a;reboot"]}),
        "spec.details.gluster_hosts: allowed",
    ),
    "a host that is a number": (external(NODE | {"gluster_hosts": [1]}), "spec.details.gluster_hosts: allowed"),
    "no volume": (external({"gluster_node": "a"}), "spec.details.gluster_volname: missing, or not the name"),
    "a volume with a slash": (
        external([NODE | {"gluster_volname": "/v"}]),
        "spec.details[0].gluster_volname: missing, or",
    ),
    "an unknown option": (
        external({**NODE, "gluster_options": "volfile=/etc/x"}),
        "spec.details.gluster_options: volfile is not an option that may be set; allowed: log-level, attribute-timeout",
    ),
    "an option without a value": (
        external([{**NODE, "Gluster_options": "acl"}]),
        "spec.details[0].Gluster_options: acl is not key=value",
    ),
    "an unknown option in a map": (
        external({**NODE, "gluster_options": {"log-file": "/x"}}),
        "spec.details.gluster_options: log-file is not an option that may be set",
    ),
    "an unknown mount option": (
        external(mountOptions=["noatim"]),
        "spec.mountOptions: noatim is not an option that may be set; allowed: ro, nosuid",
    ),
    "mount options as a map": (external(mountOptions={"ro": True}), "spec.mountOptions: allowed: a list of texts"),
    "an unknown reclaim policy": (external(pvReclaimPolicy="keep"), "spec.pvReclaimPolicy: allowed: delete, archive"),
    "an unknown quota": (external(quota="yes"), "spec.quota: allowed: required, optional, none"),
    "a risk that there is none of": (external(accept=["Anything"]), "spec.accept: allowed: DataAtRisk; for example"),
    "risks as a map": (external(accept={"DataAtRisk": True}), "spec.accept: allowed: DataAtRisk; for example"),
    "an unknown format": (external(kadalu_format="ext4"), "spec.kadalu-format: allowed: true or false"),
    "a pool that is neither": (external(single_pv_per_pool="maybe"), "spec.single_pv_per_pool: allowed: true or false"),
    "a contradiction": (
        external(kadalu_format="native", single_pv_per_pool=True),
        "spec.kadalu-format and spec.single_pv_per_pool: contradict each other",
    ),
    "an overcommit of nothing": (external(overcommit=0), "spec.overcommit: allowed: a ratio from 0.1 to 100"),
    "an overcommit beyond reason": (external(overcommit=1000), "spec.overcommit: allowed: a ratio from 0.1 to 100"),
    "an overcommit that is a word": (external(overcommit="twice"), "spec.overcommit: allowed: a ratio from 0.1"),
    "tls of a word": (
        external(tls={"secretName": "s", "management": "no"}),
        "spec.tls.management: allowed: true (glusterd speaks TLS, the default) or false",
    ),
    "tls without a secret": (external(tls={}), "spec.tls.secretName: missing, or not the name of a Secret"),
}
"""Name, spec, and words of the API server's sentence. The operator's parser refuses each as well."""

BY_CONDITION: Final[dict[str, tuple[dict[str, Any], str]]] = {
    "an option's value": (
        external({**NODE, "gluster_options": "log-level=LOUD"}),
        "spec.details.gluster_options: log-level is 'LOUD'; allowed is CRITICAL, ERROR, WARNING",
    ),
    "an option twice": (
        external({**NODE, "gluster_options": "lru-limit=1,lru_limit=2"}),
        "spec.details.gluster_options: lru-limit is given twice, as 1 and as 2",
    ),
    "one whole volume twice": (
        external([NODE, NODE], single_pv_per_pool=True),
        "spec.details[1].gluster_volname: volume_name is there twice; allowed: each volume once",
    ),
    "options of whole volumes that differ": (
        external(
            [
                NODE | {"gluster_options": "lru-limit=1"},
                {**NODE, "gluster_volname": "v", "gluster_options": "lru-limit=2"},
            ],
            single_pv_per_pool=True,
        ),
        "spec.details[1].gluster_options and spec.details[0].gluster_options: lru-limit is 2 in one and 1 in the other",
    ),
    "an archive of whole volumes": (
        external(kadalu_format=False, pvReclaimPolicy="archive"),
        "spec.pvReclaimPolicy: archive, and a PV that is a whole volume has no place to be moved to; allowed: delete",
    ),
    "enforced sizes of whole volumes": (
        external(kadalu_format=False, quota="required"),
        "spec.quota: required, and a PV that is a whole volume is as large as that; allowed: none",
    ),
    "overcommitted whole volumes": (
        external(kadalu_format=False, overcommit=2),
        "spec.overcommit: says nothing of PVs",
    ),
    "a field in two spellings": (
        external(quota="required", Quota="none"),
        "the same field as",
    ),
    "mount options that contradict each other": (external(mountOptions="ro,rw"), "ro and rw contradict each other"),
    "too many hosts": (external(NODE | {"gluster_hosts": [f"h{n}" for n in range(65)]}), "66 hosts; allowed: 1 to 64"),
    "an overcommit that is true": (external(overcommit=[1]), "spec.overcommit: '[1]' is not allowed; allowed: a ratio"),
    "a detail of tls": (
        external(tls={"secretName": "s", "ca": "x"}),
        "spec.tls.ca: unknown field; allowed: secretName, management",
    ),
}
"""Name, spec, and words of the condition Accepted: what the API server's rules let through."""
