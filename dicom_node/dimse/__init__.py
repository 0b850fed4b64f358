"""DICOM associations: the only place that knows pynetdicom."""
