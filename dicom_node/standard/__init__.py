"""Tables and rules of the DICOM Standard, pure: no pynetdicom, no disk."""
