"""Tables of the conformance statement that no other code holds: the attributes of our objects.

Each row says whether the attribute is always there (ALWAYS), there without a value where the image
has none (VNAP), or there under a condition (ANAP), and where its value comes from: the IMAGE, AUTO
(made by this system), or CONFIG (node.toml), as PS3.2 Annex N has it.
"""

from __future__ import annotations

from typing import Final

Row = tuple[str, str, str, str]
"""Module, keyword, presence, source."""

_COMMON: Final[tuple[Row, ...]] = (
    ("Patient", "PatientName", "VNAP", "IMAGE"),
    ("Patient", "PatientID", "VNAP", "IMAGE"),
    ("Patient", "IssuerOfPatientID", "ANAP", "IMAGE"),
    ("Patient", "IssuerOfPatientIDQualifiersSequence", "ANAP", "IMAGE"),
    ("Patient", "PatientBirthDate", "VNAP", "IMAGE"),
    ("Patient", "PatientSex", "VNAP", "IMAGE"),
    ("Patient", "OtherPatientIDsSequence", "ANAP", "IMAGE"),
    ("General Study", "StudyInstanceUID", "ALWAYS", "IMAGE"),
    ("General Study", "StudyDate", "VNAP", "IMAGE"),
    ("General Study", "StudyTime", "VNAP", "IMAGE"),
    ("General Study", "StudyID", "VNAP", "IMAGE"),
    ("General Study", "StudyDescription", "ANAP", "IMAGE"),
    ("General Study", "AccessionNumber", "VNAP", "IMAGE"),
    ("General Study", "IssuerOfAccessionNumberSequence", "ANAP", "IMAGE"),
    ("General Study", "ReferringPhysicianName", "VNAP", "IMAGE"),
    ("Patient Study", "PatientAge", "ANAP", "IMAGE"),
    ("Patient Study", "PatientSize", "ANAP", "IMAGE"),
    ("Patient Study", "PatientWeight", "ANAP", "IMAGE"),
    ("Series", "Modality", "ALWAYS", "AUTO"),
    ("Series", "SeriesInstanceUID", "ALWAYS", "AUTO"),
    ("Series", "SeriesNumber", "ALWAYS", "CONFIG"),
    ("Series", "SeriesDescription", "ALWAYS", "CONFIG"),
    ("Series", "SeriesDate", "ALWAYS", "AUTO"),
    ("Series", "SeriesTime", "ALWAYS", "AUTO"),
    ("General Equipment", "Manufacturer", "ALWAYS", "AUTO"),
    ("General Equipment", "ManufacturerModelName", "ANAP", "AUTO"),
    ("General Equipment", "SoftwareVersions", "ANAP", "AUTO"),
    ("General Equipment", "StationName", "ALWAYS", "CONFIG"),
    ("General Equipment", "DeviceSerialNumber", "ANAP", "CONFIG"),
    ("General Equipment", "InstitutionName", "ANAP", "IMAGE"),
    ("SOP Common", "SpecificCharacterSet", "ALWAYS", "AUTO"),
    ("SOP Common", "SOPClassUID", "ALWAYS", "AUTO"),
    ("SOP Common", "SOPInstanceUID", "ALWAYS", "AUTO"),
    ("SOP Common", "InstanceNumber", "ALWAYS", "AUTO"),
    ("SOP Common", "InstanceCreationDate", "ALWAYS", "AUTO"),
    ("SOP Common", "InstanceCreationTime", "ALWAYS", "AUTO"),
    ("SOP Common", "TimezoneOffsetFromUTC", "ANAP", "AUTO"),
    ("SOP Common", "ContributingEquipmentSequence", "ALWAYS", "AUTO"),
)

_CONTENT_TIME: Final[tuple[Row, ...]] = (
    ("Content", "ContentDate", "ALWAYS", "AUTO"),
    ("Content", "ContentTime", "ALWAYS", "AUTO"),
)

_DOCUMENT: Final[tuple[Row, ...]] = (
    *_CONTENT_TIME,
    ("SR Document Series", "ReferencedPerformedProcedureStepSequence", "VNAP", "IMAGE"),
    ("SR Document General", "ReferencedRequestSequence", "ANAP", "IMAGE"),
    ("SR Document General", "CurrentRequestedProcedureEvidenceSequence", "ALWAYS", "IMAGE"),
    ("SR Document Content", "ValueType", "ALWAYS", "AUTO"),
    ("SR Document Content", "ConceptNameCodeSequence", "ALWAYS", "AUTO"),
    ("SR Document Content", "ContinuityOfContent", "ALWAYS", "AUTO"),
    ("SR Document Content", "ContentTemplateSequence", "ALWAYS", "AUTO"),
    ("SR Document Content", "ContentSequence", "ALWAYS", "AUTO"),
)

_REPORT: Final[tuple[Row, ...]] = (
    *_DOCUMENT,
    ("SR Document General", "CompletionFlag", "ALWAYS", "AUTO"),
    ("SR Document General", "CompletionFlagDescription", "ANAP", "AUTO"),
    ("SR Document General", "VerificationFlag", "ALWAYS", "AUTO"),
    ("SR Document General", "PreliminaryFlag", "ALWAYS", "AUTO"),
    ("SR Document General", "PerformedProcedureCodeSequence", "VNAP", "IMAGE"),
    ("SR Document General", "PredecessorDocumentsSequence", "ANAP", "AUTO"),
    ("SR Document General", "AuthorObserverSequence", "ALWAYS", "AUTO"),
    ("SR Document General", "ParticipantSequence", "ALWAYS", "AUTO"),
)

_PIXELS: Final = (
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "PixelData",
)

_CAPTURE: Final[tuple[Row, ...]] = (
    *_CONTENT_TIME,
    ("General Image", "ImageType", "ALWAYS", "AUTO"),
    ("General Image", "PatientOrientation", "VNAP", "AUTO"),
    ("General Image", "BurnedInAnnotation", "ALWAYS", "AUTO"),
    ("General Image", "DerivationDescription", "ALWAYS", "AUTO"),
    ("General Image", "SourceImageSequence", "ANAP", "IMAGE"),
    ("General Series", "Laterality", "VNAP", "AUTO"),
    ("SC Equipment", "ConversionType", "ALWAYS", "AUTO"),
    ("SC Image", "DateOfSecondaryCapture", "ALWAYS", "AUTO"),
    ("SC Image", "TimeOfSecondaryCapture", "ALWAYS", "AUTO"),
    *(("Image Pixel", keyword, "ALWAYS", "AUTO") for keyword in _PIXELS),
)

_PRESENTATION: Final[tuple[Row, ...]] = (
    ("Presentation State Identification", "PresentationCreationDate", "ALWAYS", "AUTO"),
    ("Presentation State Identification", "PresentationCreationTime", "ALWAYS", "AUTO"),
    ("Presentation State Identification", "ContentLabel", "ALWAYS", "AUTO"),
    ("Presentation State Identification", "ContentDescription", "ALWAYS", "AUTO"),
    ("Presentation State Identification", "ContentCreatorName", "VNAP", "AUTO"),
    ("Presentation State Relationship", "ReferencedSeriesSequence", "ALWAYS", "IMAGE"),
    ("General Series", "Laterality", "VNAP", "AUTO"),
    ("Displayed Area", "DisplayedAreaSelectionSequence", "ALWAYS", "IMAGE"),
    ("Graphic Annotation", "GraphicAnnotationSequence", "ALWAYS", "AUTO"),
    ("Graphic Layer", "GraphicLayerSequence", "ALWAYS", "AUTO"),
    ("Modality LUT", "ModalityLUTSequence", "ANAP", "IMAGE"),
    ("Modality LUT", "RescaleIntercept", "ANAP", "IMAGE"),
    ("Modality LUT", "RescaleSlope", "ANAP", "IMAGE"),
    ("Modality LUT", "RescaleType", "ANAP", "IMAGE"),
    ("Softcopy VOI LUT", "SoftcopyVOILUTSequence", "ANAP", "IMAGE"),
    ("Softcopy Presentation LUT", "PresentationLUTShape", "ALWAYS", "AUTO"),
)

_ENCAPSULATED: Final[tuple[Row, ...]] = (
    *_CONTENT_TIME,
    ("SC Equipment", "ConversionType", "ALWAYS", "AUTO"),
    ("Encapsulated Document", "AcquisitionDateTime", "VNAP", "IMAGE"),
    ("Encapsulated Document", "BurnedInAnnotation", "ALWAYS", "AUTO"),
    ("Encapsulated Document", "RecognizableVisualFeatures", "ALWAYS", "AUTO"),
    ("Encapsulated Document", "ConceptNameCodeSequence", "VNAP", "AUTO"),
    ("Encapsulated Document", "DocumentTitle", "ALWAYS", "AUTO"),
    ("Encapsulated Document", "MIMETypeOfEncapsulatedDocument", "ALWAYS", "AUTO"),
    ("Encapsulated Document", "SourceInstanceSequence", "ANAP", "IMAGE"),
    ("Encapsulated Document", "EncapsulatedDocument", "ALWAYS", "AUTO"),
    ("Encapsulated Document", "EncapsulatedDocumentLength", "ALWAYS", "AUTO"),
)

IODS: Final[dict[str, tuple[str, tuple[Row, ...]]]] = {
    "sr": ("Comprehensive 3D SR, Comprehensive SR, Enhanced SR", (*_COMMON, *_REPORT)),
    "basic-text": ("Basic Text SR", (*_COMMON, *_REPORT)),
    "sc": ("Secondary Capture Image", (*_COMMON, *_CAPTURE)),
    "gsps": ("Grayscale Softcopy Presentation State", (*_COMMON, *_PRESENTATION)),
    "ko": ("Key Object Selection Document", (*_COMMON, *_DOCUMENT)),
    "pdf": ("Encapsulated PDF", (*_COMMON, *_ENCAPSULATED)),
}
"""Attributes of the objects that this system makes, by the word of ``objects`` in node.toml."""

READ: Final = (
    ("SOPClassUID", "which objects are taken"),
    ("Modality", "rules; the gate: CR and DX"),
    ("BodyPartExamined", "rules; the gate: a chest"),
    ("ViewPosition", "rules; the gate: no lateral view"),
    ("PatientOrientation", "how the picture is turned"),
    ("PresentationIntentType", "rules; FOR PROCESSING is not analysed"),
    ("Manufacturer", "rules"),
    ("StationName", "rules"),
    ("InstitutionName", "rules"),
    ("StudyDescription", "rules"),
    ("SeriesDescription", "rules"),
    ("QualityControlImage", "YES: held, unless a rule asks for such images"),
    ("PhotometricInterpretation", "polarity of the picture"),
    ("PixelSpacing", "form of the picture"),
    ("VOILUTSequence", "contrast of the picture, before a window"),
    ("WindowCenter", "contrast of the picture"),
    ("ModalityLUTSequence", "grey values"),
)
"""Attributes of received images that change what is done, and how."""

REVISIONS: Final = (
    ("0.1.0", "2026-11-29", "First statement."),
    (
        "0.2.0",
        "",
        "By the template of PS3.2 Annex N. Searches ignore what they do not know; reports are "
        "moved in the SR class that is accepted; several AE titles; STOW-RS answers say where to "
        "retrieve.",
    ),
)
"""Version, date and change of this statement; a date is missing until the version is out."""
