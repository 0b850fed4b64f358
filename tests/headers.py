"""Headers as no modality may write them, and what the validators say of reports about them.

``python -m tests.headers --count 500 --seed 1`` spoils headers, builds a report and a second object
of each, and prints what has an error; the same seed spoils the same way. It exits 1 on a fault.
"""

from __future__ import annotations

import argparse
import random
import struct
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from itertools import cycle
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE / "support"), str(HERE), str(HERE.parent)]

import gallery  # noqa: E402 - the tests' own modules stand beside this file
import reports  # noqa: E402
from pydicom.datadict import dictionary_VR, tag_for_keyword  # noqa: E402
from reports import ALGORITHM, CASES, ORDER  # noqa: E402

from dicom_node.base.errors import ChexFractError  # noqa: E402
from worker.report import validate  # noqa: E402
from worker.report.renderings import BUILDERS, render  # noqa: E402
from worker.report.sr import SOP_CLASSES, build  # noqa: E402

TEXTS = [
    "AccessionNumber", "InstitutionName", "IssuerOfPatientID", "PatientID", "PatientName",
    "PatientSex", "ReferringPhysicianName", "RequestedProcedureDescription",
    "RequestedProcedureID", "StudyDescription", "StudyID", "PatientBirthDate", "StudyDate",
    "StudyTime", "TimezoneOffsetFromUTC", "PatientIdentityRemoved",
    "DeidentificationMethod", "ClinicalTrialSponsorName", "ClinicalTrialProtocolID",
    "ClinicalTrialSubjectID", "ClinicalTrialSubjectReadingID", "ClinicalTrialSiteID",
    "ClinicalTrialTimePointID", "Modality", "ViewPosition", "ImageLaterality", "Laterality",
    "PatientOrientation", "PixelSpacing", "ImagerPixelSpacing", "RescaleSlope",
    "RescaleIntercept", "WindowCenter", "WindowWidth", "VOILUTFunction",
    "PhotometricInterpretation", "NumberOfFrames", "InstanceNumber", "SeriesNumber",
    "BodyPartExamined", "PatientAge", "PatientComments", "StationName", "Manufacturer",
    "SoftwareVersions",
]  # fmt: skip
NUMBERS = [
    "Rows", "Columns", "PixelRepresentation", "SamplesPerPixel", "BitsAllocated",
    "BitsStored",
]  # fmt: skip
SEQUENCES = [
    "RequestAttributesSequence", "ProcedureCodeSequence", "RequestedProcedureCodeSequence",
    "IssuerOfAccessionNumberSequence", "IssuerOfPatientIDQualifiersSequence",
    "OtherPatientIDsSequence", "ModalityLUTSequence", "VOILUTSequence",
    "DeidentificationMethodCodeSequence",
]  # fmt: skip
INSIDE = [
    "AccessionNumber", "StudyInstanceUID", "RequestedProcedureID", "CodeValue",
    "CodingSchemeDesignator", "CodeMeaning", "LocalNamespaceEntityID", "UniversalEntityID",
    "UniversalEntityIDType", "PatientID", "TypeOfPatientID", "LUTDescriptor", "LUTData",
    "ModalityLUTType", "RequestedProcedureDescription",
]  # fmt: skip
SPOILT = [
    b"", b" ", b"\x00", b"\\", b"\\\\\\", b"^", b"^^^^^^", b"=", b"==", b"A" * 70, b"A" * 2000,
    b"A\x00B", b"\x1b$B\x1b(B", b"\x1b[31mred", b"a\tb\r\nc", b"\x7f\x80\x9f", b"\xff\xfe\xfd",
    "Ж".encode() * 40, "王小东".encode(), b"a\\b\\c", b"-1", b"1e400", b"nan", b"0", b"0.0\\0.0",
    b"20261399", b"2026.01.02", b"10:15:00", b"9999999999999999999", b"YES\\NO", b"M\\F", b"X",
    b"1.2.3.", b"01.2", b"1.2.840.10008.1.2", b"' OR 1=1 --", b"<b>&amp;", b"L\\R", b"PA\\AP",
    "🦴".encode(), "e\u0301".encode() * 30, b"Doe^Jane=\xe7\x8e\x8b^=", b"^=^=^",
    b"Doe=Doe=Doe=Doe",
]  # fmt: skip
"""Bytes that no element, or not this one, may hold."""


Elements = dict[int, "tuple[str, bytes | list[Elements]]"]
"""Tag -> value representation and value, or items."""

LONG = ("OB", "OW", "SQ", "UC", "UN", "UT")


def _raw(ds: Elements, keyword: str, value: bytes, vr: str = "") -> None:
    """Put bytes as they are: pydicom would refuse or repair them."""
    vr = vr or str(dictionary_VR(keyword)).split(" or ", maxsplit=1)[0]
    ds[tag_for_keyword(keyword) or 0] = (vr, value[: 60_000 if vr in LONG else 4_000])


def _written(ds: Elements) -> bytes:
    """Return a data set in Explicit VR Little Endian."""
    out = []
    for tag, (vr, value) in sorted(ds.items()):
        if isinstance(value, list):
            items = (_written(item) for item in value)
            content = b"".join(struct.pack("<HHI", 0xFFFE, 0xE000, len(i)) + i for i in items)
        else:
            content = value + b" " * (len(value) % 2)
        head = struct.pack("<HH2s", tag >> 16, tag & 0xFFFF, vr.encode())
        length = struct.pack("<HI" if vr in LONG else "<H", *([0] * (vr in LONG)), len(content))
        out += [head, length, content]
    return b"".join(out)


def _spoil(ds: Elements, chance: random.Random, depth: int = 0) -> None:
    names = TEXTS if depth == 0 else INSIDE
    for keyword in chance.sample(names, chance.randint(1, 12)):
        kind = chance.random()
        if kind < 0.15:
            ds.pop(tag_for_keyword(keyword) or 0, None)
        elif kind < 0.25:  # another value representation than the dictionary's
            _raw(ds, keyword, chance.choice(SPOILT), chance.choice(["UN", "LO", "US", "DS", "UT"]))
        else:
            count = chance.choice([1, 1, 1, 2, 5])
            _raw(ds, keyword, b"\\".join(chance.choice(SPOILT) for _ in range(count)))
    if depth == 0:
        for keyword in chance.sample(NUMBERS, chance.randint(0, 2)):
            _raw(ds, keyword, chance.choice([b"", b"\0\0", b"\xff\xff", b"\1\0\2\0", b"\1"]))
    if depth < 2:
        for keyword in chance.sample(SEQUENCES, chance.randint(0, 3)):
            items: list[Elements] = [{} for _ in range(chance.randint(0, 3))]
            for item in items:
                _spoil(item, chance, depth + 1)
            ds[tag_for_keyword(keyword) or 0] = ("SQ", items)
    ds[0x00110010] = ("LO", b"HOSTILE")
    ds[0x00111000 + chance.randint(0, 255)] = ("UN", chance.choice(SPOILT))


def spoilt(seed: int) -> bytes:
    """Return a Part 10 file whose UIDs alone are right."""
    chance = random.Random(seed)
    whole = reports.as_bytes(reports.source())
    source = reports.read(whole)
    ds: Elements = {}
    for tag in source.keys():  # noqa: SIM118 - as they are in the file, not as pydicom reads them
        element = source.get_item(tag)
        value = element.value if isinstance(element.value, bytes) else str(element.value).encode()
        ds[int(tag)] = (str(element.VR), value)
    if chance.random() < 0.3:
        names = [b"", b"ISO_IR 100", b"ISO 2022 IR 87\\", b"?"]
        _raw(ds, "SpecificCharacterSet", chance.choice(names))
    _spoil(ds, chance)
    head = whole[: 144 + int.from_bytes(whole[140:144], "little")]
    return head + _written(ds)


def faults(seeds: Sequence[int], folder: Path) -> Iterator[str]:
    """Yield what is wrong with the objects about headers that are spoilt so."""
    kinds, cases = cycle([*SOP_CLASSES, *BUILDERS]), cycle(CASES.values())
    for seed in seeds:
        content = spoilt(seed)
        image = folder / f"{seed}.dcm"
        image.write_bytes(content)
        outcome = next(cases)
        judged = gallery.replacing(judgement=gallery.DISPUTED)
        order = judged if seed % 5 == 0 else ORDER
        for kind in ("comprehensive3d", next(kinds)):
            try:
                source = reports.read(content)
                if kind in SOP_CLASSES:
                    made = build(source, outcome, ALGORITHM, order, kind)
                else:
                    second = render(kind, source, None, outcome, ALGORITHM, order)  # type: ignore[arg-type]
                    if second is None:
                        continue
                    made = second
            except ChexFractError as exc:
                yield f"{seed} {kind}: no report: {exc}"
                continue
            except Exception as exc:
                yield f"{seed} {kind}: {type(exc).__name__}: {exc}"
                continue
            path = folder / f"{seed}.{kind}.dcm"
            path.write_bytes(made.content)
            verdicts = [
                validate.codes_of(path, reports.read(made.content)),
                validate.dciodvfy(path),
            ]
            verdicts.append(validate.dcentvfy(path, image))
            for verdict in verdicts:
                if verdict.passed is False:
                    yield f"{seed} {kind}: {verdict.validator}: {verdict.errors}"


def main(arguments: Sequence[str] | None = None) -> int:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--count", type=int, default=500)
    options.add_argument("--seed", type=int, default=1)
    chosen = options.parse_args(arguments)
    started, count = time.monotonic(), 0
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for fault in faults(range(chosen.seed, chosen.seed + chosen.count), Path(folder)):
            count += 1
            print(fault, flush=True)
    print(f"{chosen.count} headers: {count} faults, {time.monotonic() - started:.0f} s")
    return int(count > 0)


if __name__ == "__main__":
    sys.exit(main())
