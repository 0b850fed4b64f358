"""Imports pydicom without what no role of the node uses: pixel codecs, NumPy, a downloader.

``import pydicom`` takes in whatever codec and HTTP library is installed beside it: a worker on the
same host brings them all. Measured there: 250 ms and 49 MB with them, 110 ms and 20 MB without.
"""

from __future__ import annotations

import sys

UNUSED = (
    *("numpy", "PIL", "gdcm", "pylibjpeg", "openjpeg", "libjpeg", "rle", "jpeg_ls"),
    *("requests", "tqdm"),
)
"""What pydicom tries to import and does without."""


def import_pydicom() -> None:
    """Import pydicom where nothing has imported it yet, as if `UNUSED` were not installed.

    They stay importable afterwards; pydicom alone goes on without them, so a process that decodes
    pixels must not call this.
    """
    if "pydicom" in sys.modules:
        return
    hidden = [name for name in UNUSED if name not in sys.modules]
    # None for a module makes its import raise ImportError, which pydicom expects of each of these.
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]
    try:
        import pydicom  # noqa: F401
    finally:
        for name in hidden:
            del sys.modules[name]
