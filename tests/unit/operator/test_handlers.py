"""Whatever goes wrong in a handler, kopf tries again, and the log has it once."""

from __future__ import annotations

import logging

import kopf
import pytest

from kadalu_ext.errors import KubernetesError
from kadalu_ext.log import Logger
from kadalu_ext.operator import handlers, main
from kadalu_ext.operator.actions import Existing
from kadalu_ext.operator.plan import plan
from tests.unit.operator.samples import NOW, resource, usable


@pytest.mark.parametrize(
    ("error", "event"),
    [(KubernetesError("away"), "storage not reconciled"), (ZeroDivisionError("oops"), "reconciling crashed")],
)
def test_an_error_is_logged_and_tried_again_soon(
    error: Exception, event: str, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(kopf.TemporaryError) as caught, handlers._Shell(Logger("o"), "default", "ext"):
        raise error
    assert caught.value.delay == handlers.RETRY_S
    assert [record.getMessage() for record in caplog.records] == [event]


def test_what_was_done_is_logged_with_the_storages_name(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with handlers._Shell(Logger("o"), "default", "ext") as shell:
        shell.tell(plan(resource(), usable(), Existing(), now=NOW))
    assert [vars(record)["action"] for record in caplog.records][:3] == [
        "CreateStorageClass",
        "SetEntry",
        "PatchStatus",
    ]
    assert {vars(record)["storage"] for record in caplog.records} == {"ext"}


def test_kopf_asks_for_no_right_that_the_operator_does_not_have() -> None:
    settings = handlers.settings()
    assert settings.scanning.disabled
    assert not settings.posting.enabled
    assert settings.persistence.finalizer == handlers.FINALIZER


def test_namespaces_to_watch_may_be_several_and_are_all_by_default() -> None:
    assert main.parse([]).watch == ()
    assert main.parse(["--watch-namespace=a", "--watch-namespace=b"]).watch == ("a", "b")
