"""The objects that the operator makes, word for word: others read them."""

from __future__ import annotations

import json
from pathlib import Path

from kadalu_ext.operator import render
from kadalu_ext.storage import from_json, from_parameters
from tests.unit.operator.samples import NOW, VOLUME_ID, usable

GOLDEN = Path(__file__).parent / "golden" / "objects.json"


def test_objects_are_as_in_the_golden_file() -> None:
    spec = usable().spec
    made = {
        "storage_class": render.storage_class(spec, owner="default/ext", volume_id=VOLUME_ID),
        "config_map": {render.config_key(spec.storage.name): render.config_entry(spec, volume_id=VOLUME_ID)},
        "event": render.event(
            namespace="default",
            name="ext",
            uid="u",
            warning=True,
            reason="VolumeStopped",
            message="m",
            at=NOW,
            change="c",
        ),
    }
    assert made == json.loads(GOLDEN.read_text())


def test_the_csi_driver_reads_the_same_storage_from_class_and_config_map() -> None:
    spec = usable().spec
    made = render.storage_class(spec, owner="default/ext", volume_id=VOLUME_ID)
    assert from_parameters(made["parameters"]) == from_json(render.config_entry(spec, volume_id="")) == spec.storage
