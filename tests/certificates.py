"""Certificates for tests, made by openssl when they are wanted: no key is in the repository."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

from kadalu_ext.gluster.tls import CA, CERTIFICATE, KEY

_EC = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")


_SINCE = timedelta(hours=1)
"""Hosts' clocks differ: a certificate that begins now is not valid yet for one that is a second behind."""

_CONFIGURATION = """\
[ca]
default_ca = made
[made]
database = {0}/index
serial = {0}/serial
new_certs_dir = {0}
default_md = sha256
unique_subject = no
policy = anything
[anything]
commonName = supplied
"""


class Authority:
    """A certificate authority in `directory`, which must exist."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._configuration = directory / "ca.conf"
        self._configuration.write_text(_CONFIGURATION.format(directory))
        (directory / "index").write_text("")
        (directory / "serial").write_text("01\n")
        self._key, self._certificate = directory / "ca.key", directory / "ca.pem"
        _openssl("req", "-x509", *_EC, "-keyout", self._key, "-out", self._certificate, "-subj", "/CN=ca", "-days", "9")

    @property
    def certificate(self) -> bytes:
        return self._certificate.read_bytes()

    def issue(self, name: str, *, days: int = 9) -> dict[str, bytes]:
        """gluster's three files for `name`, valid for `days` from now; negative: up to so long ago."""
        key, request, made = (self._directory / f"{name}.{what}" for what in ("key", "csr", "pem"))
        _openssl("req", *_EC, "-keyout", key, "-out", request, "-subj", f"/CN={name}")
        end = datetime.now(UTC) + timedelta(days=days)
        dates = ("-startdate", _written(min(datetime.now(UTC), end) - _SINCE), "-enddate", _written(end))
        signed_by = ("-config", self._configuration, "-cert", self._certificate, "-keyfile", self._key)
        _openssl("ca", "-batch", "-notext", *signed_by, *dates, "-in", request, "-out", made)
        return {CERTIFICATE: made.read_bytes(), KEY: key.read_bytes(), CA: self.certificate}


def _written(time: datetime) -> str:
    return f"{time:%Y%m%d%H%M%SZ}"


def _openssl(*words: str | Path) -> None:
    subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True)
