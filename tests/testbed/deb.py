"""kadalu-quotad's .deb, built as a release would be."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from . import gobuild, paths

_BUILDER = paths.REPOSITORY / "packaging" / "build_deb.py"


def build() -> Path:
    """The package of this work tree, made anew: that takes less time than to tell whether it must be."""
    return _builder().build(paths.REPOSITORY / "build", gobuild.binary("nfpm"))  # type: ignore[no-any-return]


def _builder() -> ModuleType:
    """packaging/build_deb.py, which is a program beside the project and no module of it."""
    spec = importlib.util.spec_from_file_location("build_deb", _BUILDER)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
