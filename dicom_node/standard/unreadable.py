"""What pydicom raises when it makes values of a stranger's bytes, and how it decodes them.

Whoever has such bytes read asks for `UNREADABLE`, so its texts are bounded from this import on.
"""

from __future__ import annotations

import struct

from pydicom import charset
from pydicom.errors import BytesLengthException, InvalidDicomError

from dicom_node.standard.header import defined_character_sets

UNREADABLE = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    BytesLengthException,  # a descendant of Exception alone
    EOFError,
    InvalidDicomError,
    LookupError,
    NotImplementedError,
    OSError,
    RecursionError,
    TypeError,
    ValueError,
    struct.error,
)
"""What pydicom and pynetdicom raise when they make values of a stranger's bytes."""


def _defined_codec(encoding: str) -> str:
    """Return the codec of a Specific Character Set that pydicom does not know as it stands.

    pydicom 3.0.2 takes any codec of Python: of ``punycode`` 900 KB would take minutes, in a data
    set or in one of its items.
    """
    return charset.python_encoding[defined_character_sets([encoding])[0]]


charset._python_encoding_for_corrected_encoding = _defined_codec
