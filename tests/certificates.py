"""Certificates for tests, made by openssl when they are wanted: no key is in the repository."""

from __future__ import annotations

import subprocess
from pathlib import Path

from kadalu_ext.gluster.tls import CA, CERTIFICATE, KEY

_EC = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")


class Authority:
    """A certificate authority in `directory`, which must exist."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._key, self._certificate = directory / "ca.key", directory / "ca.pem"
        _openssl("req", "-x509", *_EC, "-keyout", self._key, "-out", self._certificate, "-subj", "/CN=ca", "-days", "9")

    @property
    def certificate(self) -> bytes:
        return self._certificate.read_bytes()

    def issue(self, name: str, *, days: int = 9) -> dict[str, bytes]:
        """gluster's three files for `name`, valid for `days` from now; negative: up to so long ago."""
        key, request, made = (self._directory / f"{name}.{what}" for what in ("key", "csr", "pem"))
        _openssl("req", *_EC, "-keyout", key, "-out", request, "-subj", f"/CN={name}")
        signed_by = ("-CA", self._certificate, "-CAkey", self._key, "-CAcreateserial")
        _openssl("x509", "-req", "-in", request, *signed_by, "-out", made, "-days", str(days))
        return {CERTIFICATE: made.read_bytes(), KEY: key.read_bytes(), CA: self.certificate}


def _openssl(*words: str | Path) -> None:
    subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True)
