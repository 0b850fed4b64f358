"""What pydicom raises when it makes values of bytes that nobody vouches for."""

from __future__ import annotations

import struct

from pydicom.errors import BytesLengthException, InvalidDicomError

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
