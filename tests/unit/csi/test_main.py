"""What the controller does for itself before it serves."""

from __future__ import annotations

import resource

from kadalu_ext.csi import main


def test_it_may_open_as_many_files_as_its_container_allows() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, hard) // 2, hard))
    try:
        main.allow_descriptors()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
