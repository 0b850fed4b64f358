"""TLS ends of associations (DICOM PS3.15 B.12: BCP 195 profile)."""

from __future__ import annotations

import re
import ssl

from dicom_node.base.errors import ConfigurationError
from dicom_node.settings import Tls

VERSIONS = (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)

SUITES = (
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES128-GCM-SHA256",
)
"""TLS 1.2 suites of the profile, as OpenSSL calls them; TLS 1.3 brings its own."""

CIPHERS = ":".join(SUITES)

_FAULTS = {
    "HTTP_REQUEST": "an HTTP request without TLS",
    "NO_SHARED_CIPHER": "it offers none of the cipher suites that are taken here",
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "it shows no certificate",
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "it asks for a certificate of this node",
    "UNEXPECTED_EOF_WHILE_READING": "it hung up in the middle",
    "UNSUPPORTED_PROTOCOL": "its TLS is older than 1.2",
    "WRONG_VERSION_NUMBER": "it does not speak TLS",
}
"""What OpenSSL calls the commonest faults of a handshake, and what they mean for people."""

_is_distrust = re.compile(
    r"(?:SSLV3|TLSV1|TLSV13)_ALERT_((?:BAD_|UNSUPPORTED_)?CERTIFICATE\w*|UNKNOWN_CA)"
).fullmatch


class SecureSocket(ssl.SSLSocket):
    """A connection with TLS, and what was read of it before it was handed on."""

    first: bytes = b""


def acceptor(tls: Tls) -> ssl.SSLContext | None:
    """Return the context of a listening end, or None without a certificate.

    With ``ca`` every caller must show a certificate that chains to it.

    Raises
    ------
    ConfigurationError
        A file is missing or is not a certificate or key.
    """
    if not (tls.certificate or tls.key or tls.ca):
        return None
    if not tls.certificate:
        raise ConfigurationError("node.tls.certificate: a listener with TLS needs a certificate")
    context = _tls_context(ssl.PROTOCOL_TLS_SERVER, tls)
    context.sslsocket_class = SecureSocket
    if tls.ca:
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def requestor(tls: Tls) -> ssl.SSLContext | None:
    """Return the context of a calling end, or None where no file is named.

    The peer's certificate must chain to ``ca`` (without it: to the system's authorities) and bear
    the host name under which the peer is called.

    Raises
    ------
    ConfigurationError
        A file is missing or is not a certificate or key.
    """
    if not (tls.certificate or tls.key or tls.ca):
        return None
    context = _tls_context(ssl.PROTOCOL_TLS_CLIENT, tls)
    if not tls.ca:
        context.load_default_certs()
    return context


def shown_certificate(connection: object) -> bytes:
    """Return the certificate (DER) that the other end of a socket showed, empty without any."""
    shown = connection.getpeercert(True) if isinstance(connection, ssl.SSLSocket) else None
    return shown or b""


def handshake_fault(exc: OSError) -> str:
    """Return in plain words why the handshake with another end failed."""
    if isinstance(exc, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {exc.verify_message}"
    if not isinstance(exc, ssl.SSLError) or not exc.reason:
        return "it hung up in the middle"
    if alert := _is_distrust(exc.reason):
        what = alert[1].lower().replace("_", " ")
        return f"it does not trust the certificate of this node ({what})"
    # Python's own faults are sentences, OpenSSL's are names
    return _FAULTS.get(exc.reason) or exc.reason.lower().replace("_", " ").rstrip(".")


def _tls_context(protocol: int, tls: Tls) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = VERSIONS[0]
    context.set_ciphers(CIPHERS)
    try:
        if tls.certificate:
            context.load_cert_chain(tls.certificate, tls.key)
        if tls.ca:
            context.load_verify_locations(tls.ca)
    except (OSError, ssl.SSLError) as exc:
        files = ", ".join(str(path) for path in (tls.certificate, tls.key, tls.ca) if path)
        raise ConfigurationError(f"TLS files {files}: {exc.strerror or exc}") from exc
    return context
