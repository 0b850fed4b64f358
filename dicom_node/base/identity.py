"""How this software names itself in associations, files and UIDs."""

from __future__ import annotations

from uuid import UUID

from dicom_node.base.version import __version__

IMPLEMENTATION_CLASS_UID = "2.25.214808289997248432257053077411689441604"
"""Implementation Class UID (0002,0012), fixed for the project (DICOM PS3.5 B.2)."""

IMPLEMENTATION_VERSION_NAME = f"CHEXFRACT_{__version__.partition('.dev')[0]}"
"""Implementation Version Name (0002,0013): at most 16 characters."""

UID_NAMESPACE = UUID("7e1361c4-fff7-5900-8713-f516e3e516b9")
"""Namespace of every derived UID; changing it would give every report a second identity."""

MANUFACTURER = "ChexFract Node project"
MODEL_NAME = "ChexFract DICOM Worker"
