"""What the API server refuses, the operator refuses as well, and takes what that takes: one table holds both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from kadalu_ext.errors import InvalidInputError
from kadalu_ext.operator.options import ALLOWED
from kadalu_ext.operator.spec import DETAIL_HOSTS, parse_spec
from kadalu_ext.storage import MOUNT_OPTIONS
from tests.crs.table import BY_CONDITION, GOOD, REFUSED

MANIFESTS = Path(__file__).parents[3] / "manifests"


@pytest.mark.parametrize("spec", GOOD.values(), ids=GOOD)
def test_what_is_right_is_taken(spec: dict[str, Any]) -> None:
    assert parse_spec("ext-storage", spec).hosts


@pytest.mark.parametrize("spec", [spec for spec, _ in REFUSED.values()], ids=REFUSED)
def test_what_the_api_server_refuses_the_operator_would_refuse_too(spec: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError):
        parse_spec("ext-storage", spec)


@pytest.mark.parametrize(("spec", "words"), BY_CONDITION.values(), ids=BY_CONDITION)
def test_what_gets_through_to_the_operator_is_refused_by_it(spec: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        parse_spec("ext-storage", spec)
    assert words in str(caught.value)


def test_the_api_servers_lists_of_options_are_the_operators() -> None:
    policy = next(iter(yaml.safe_load_all((MANIFESTS / "admission.yaml").read_text())))
    lists = {
        row["name"]: yaml.safe_load(row["expression"])
        for row in policy["spec"]["variables"]
        if "['" in row["expression"][:2]
    }
    assert lists == {
        "detailFields": [*DETAIL_HOSTS, "gluster_volname", "gluster_options"],
        "allowedOptions": list(ALLOWED),
        "allowedMountOptions": [*MOUNT_OPTIONS, "rw", "defaults"],
    }
    crd = " ".join((MANIFESTS / "crd.yaml").read_text().split())
    assert ", ".join(ALLOWED) in crd
    assert ", ".join(MOUNT_OPTIONS) in crd
