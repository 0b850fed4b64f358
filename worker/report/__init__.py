"""The words and the codes: from a model text to DICOM objects."""
