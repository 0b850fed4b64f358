"""Certificates of a PEM file, in each of the forms that OpenSSL takes."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # half of the programs look at no certificate
    from cryptography.x509 import Certificate

_TRUSTED = re.compile(
    rb"-----BEGIN TRUSTED CERTIFICATE-----([A-Za-z0-9+/=\s]*)-----END TRUSTED CERTIFICATE-----"
)
_SEQUENCE = 0x30


def read_certificates(content: bytes) -> list[Certificate]:
    """Return the certificates of a PEM file.

    Those that ``openssl x509 -trustout`` writes have what they are trusted for behind them, and a
    label of their own; TLS takes them, and cryptography does not.

    Raises
    ------
    ValueError
        There is none, or it cannot be read.
    """
    from cryptography.x509 import load_pem_x509_certificates

    return load_pem_x509_certificates(_TRUSTED.sub(_plain_block, content))


def _plain_block(match: re.Match[bytes]) -> bytes:
    import base64

    der = base64.b64decode(match[1])
    return (
        b"-----BEGIN CERTIFICATE-----\n"
        + base64.encodebytes(der[: _first_size(der)])
        + b"-----END CERTIFICATE-----"
    )


def _first_size(der: bytes) -> int:
    """Return the bytes of the first value of DER (X.690 8.1.3): the certificate itself."""
    if len(der) < 2 or der[0] != _SEQUENCE:
        raise ValueError("not a certificate")
    if der[1] < 0x80:
        return 2 + der[1]
    count = der[1] & 0x7F
    return 2 + count + int.from_bytes(der[2 : 2 + count], "big")
