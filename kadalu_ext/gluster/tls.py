"""TLS as gluster has it (rpc/rpc-transport/socket/src/socket.c, tag v10.3): both sides show a certificate, and each
must be signed by something in the other's CA file. Names in certificates are not checked, by gluster or here: whoever
has a key that the CA file accepts may pass for any host of the cluster.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final, Self

from kadalu_ext.errors import InvalidInputError, TlsError

CERTIFICATE, KEY, CA = "glusterfs.pem", "glusterfs.key", "glusterfs.ca"
"""What gluster calls its files, in /usr/lib/ssl (Debian) or /etc/ssl; and so are the keys of a Secret called."""

_EXPIRED: Final = frozenset({9, 10})
"""X509_V_ERR_CERT_NOT_YET_VALID, X509_V_ERR_CERT_HAS_EXPIRED (openssl/x509_vfy.h)."""


@dataclass(frozen=True, kw_only=True)
class Tls:
    """Certificate, key and CA certificates, as PEM texts. Nothing of it is ever shown, logged or written to a disk.

    management: whether glusterd itself speaks TLS (it does where /var/lib/glusterd/secure-access exists); False for a
        cluster that encrypts only bricks (client.ssl, server.ssl of the volume). Bricks are as their volfile says.
    """

    certificate: str = field(repr=False)
    key: str = field(repr=False)
    ca: str = field(repr=False)
    management: bool = True

    @classmethod
    def of(cls, files: Mapping[str, bytes], *, management: bool = True) -> Self:
        """From the contents of gluster's files, by their names: a Secret's data, decoded.

        Raises: InvalidInputError naming the file that is missing or of no use.
        """
        texts = {}
        for name in (CERTIFICATE, KEY, CA):
            if name not in files:
                raise InvalidInputError(f"TLS: {name} is missing; needed are {CERTIFICATE}, {KEY} and {CA}")
            texts[name] = files[name].decode("ascii", "backslashreplace")
        tls = cls(certificate=texts[CERTIFICATE], key=texts[KEY], ca=texts[CA], management=management)
        _ = tls.context
        return tls

    @classmethod
    def read(cls, directory: str, *, management: bool = True) -> Self:
        """From gluster's files in `directory`. Raises: InvalidInputError; OSError if one cannot be read."""
        files = {}
        for name in (CERTIFICATE, KEY, CA):
            try:
                with open(os.path.join(directory, name), "rb") as file:
                    files[name] = file.read()
            except FileNotFoundError:
                continue
        return cls.of(files, management=management)

    @property
    def files(self) -> dict[str, bytes]:
        """What `of` makes the same of."""
        return {CERTIFICATE: self.certificate.encode(), KEY: self.key.encode(), CA: self.ca.encode()}

    @cached_property
    def context(self) -> ssl.SSLContext:
        """For a client. Raises: InvalidInputError naming the file that is of no use."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_REQUIRED
        try:
            context.load_verify_locations(cadata=self.ca)
        except (ssl.SSLError, ValueError) as error:
            raise InvalidInputError(f"TLS: {CA} is not a list of certificates in PEM form") from error
        # OpenSSL takes certificate and key from files only: this one is in memory, and ours alone.
        descriptor = os.memfd_create("tls", os.MFD_CLOEXEC)
        try:
            os.write(descriptor, f"{self.certificate}\n{self.key}\n".encode())
            # an encrypted key is refused here, rather than its password asked for at a terminal
            context.load_cert_chain(f"/proc/self/fd/{descriptor}", password="")
        except (ssl.SSLError, ValueError) as error:
            reason = getattr(error, "reason", None) or "not in PEM form"
            raise InvalidInputError(
                f"TLS: {CERTIFICATE} and {KEY} are not a certificate and its unencrypted key in PEM form ({reason})"
            ) from error
        finally:
            os.close(descriptor)
        return context


def failed(where: object, server: str, error: OSError, *, agreed: bool) -> TlsError:
    """Why TLS failed, with what to do. `where` is host and port; agreed: our side of the handshake had succeeded."""
    if isinstance(error, ssl.SSLCertVerificationError):
        remedy = (
            f"renew its {CERTIFICATE} on that host; are both clocks right?"
            if error.verify_code in _EXPIRED
            else f"whatever signed it must be in our {CA}"
        )
        return TlsError(f"{where}: the certificate of {server} is not accepted ({error.verify_message}): {remedy}")
    _, alert, said = str(getattr(error, "reason", None) or "").partition("ALERT_")
    if alert or agreed:  # with TLS 1.3 a server looks at our certificate only after that
        why = said.replace("_", " ").lower() or "it hung up after the handshake"
        return TlsError(
            f"{where}: {server} does not accept our certificate ({why}): whatever signed our {CERTIFICATE} must be in "
            f"the {CA} of that host, and it must not have expired"
        )
    return TlsError(
        f"{where}: {server} does not speak TLS: leave TLS out of the storage, or turn it on there (glusterd: the file "
        "/var/lib/glusterd/secure-access on every host; bricks: volume options client.ssl and server.ssl)"
    )


def wanted(where: object, server: str) -> TlsError:
    """Something hung up on a first question in the clear, or answered it with TLS."""
    return TlsError(
        f"{where} closed the connection at the first question: {server} may want TLS; name a Secret with "
        f"{CERTIFICATE}, {KEY} and {CA} in the storage"
    )


def is_alert(data: bytes) -> bool:
    """Whether a stream that begins with `data` is TLS: an alert's record, of whatever version (RFC 8446 §5.1)."""
    return data[:2] == b"\x15\x03"
