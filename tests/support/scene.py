"""A node with something of everything that the pages show: studies, states, faults, readers."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pages
from pydicom import Dataset, dcmwrite
from pydicom.dataset import FileMetaDataset
from pydicom.sequence import Sequence
from serving import Api

from dicom_node.base.job import FractureFound
from dicom_node.store.ledger.views import FindingJudgement

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data" / "chest"
REAL = ("cr_chest_pa_mono1_10bit_fuji_small.dcm", "cr_chest_pa_mono1_15bit_philips_jpegls-near.dcm")

RULES = [
    {
        "name": "chests",
        "match": {"modality": ["DX", "CR"], "body_part": ["CHEST", ""]},
        "allow_demonstration": True,
    },
    {"name": "trial", "match": {"calling_ae": ["X*"]}, "mode": "shadow", "priority": "low"},
]


def images() -> list[bytes]:
    """Return two radiographs, real ones where they are at hand."""
    real = [SHARED / name for name in REAL]
    return [path.read_bytes() for path in real if path.is_file()] or [pages.picture()] * 2


def report_with_region(image: str, *boxes: tuple[str, tuple[float, ...]]) -> bytes:
    """Return a Structured Report whose groups each draw a closed line on an image."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = pages.SR
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = "2.25.99"
    groups = []
    for words, points in boxes:
        name, tracking = Dataset(), Dataset()
        name.CodeValue, name.CodingSchemeDesignator = "112039", "DCM"
        tracking.ValueType, tracking.TextValue = "TEXT", words
        tracking.ConceptNameCodeSequence = Sequence([name])
        reference, source, region = Dataset(), Dataset(), Dataset()
        reference.ReferencedSOPInstanceUID = image
        source.ValueType, source.ReferencedSOPSequence = "IMAGE", Sequence([reference])
        region.ValueType, region.GraphicType = "SCOORD", "POLYLINE"
        region.GraphicData, region.ContentSequence = list(points), Sequence([source])
        group = Dataset()
        group.ValueType, group.ContentSequence = "CONTAINER", Sequence([tracking, region])
        groups.append(group)
    ds.ContentSequence = Sequence(groups)
    file = io.BytesIO()
    dcmwrite(file, ds, enforce_file_format=True)
    return file.getvalue()


def box(left: float, top: float, width: float, height: float) -> tuple[float, ...]:
    """Return the points of a closed rectangle."""
    right, bottom = left + width, top + height
    return (left, top, right, top, right, bottom, left, bottom, left, top)


def fill(api: Api) -> dict[str, str]:
    """Put a study of each kind into a node; return one SOP Instance UID by what it shows."""
    first, second = images()
    count = 0

    def kept(content: bytes, *, routed: bool = True, study: str = "", **facts: Any) -> str:
        nonlocal count
        count += 1
        known: dict[str, Any] = {
            "modality": "DX", "body_part": "CHEST", "view": "PA", "study_date": "20260102",
            "patient_id": f"P{1000 + count}", "accession_number": f"A{700 + count}",
            "study_instance_uid": study or f"1.2.70.{count}", "patient_sex": "F",
            "patient_birth_date": "19600102",
        }  # fmt: skip
        routes = [facts.pop("route", pages.route())] if routed else []
        return pages.keep(api, content, *routes, **(known | facts))

    def junk(mark: str) -> bytes:
        return b"\0" * 128 + b"DICM" + mark.encode()

    found: dict[str, str] = {}
    found["ignored"] = kept(junk("knee"), routed=False, patient_name="Knie^Otto", body_part="KNEE")
    found["withheld"] = kept(
        junk("shadow"), patient_name="Trial^Vera", route=pages.route(mode="shadow", rule="trial")
    )
    pages.reported(api, pages.claimed(api), presence="undetermined", text="Limited film.")
    found["failed"] = kept(junk("fails"), patient_name="Roe^Richard")
    pages.fail(api, pages.claimed(api))
    found["absent"] = kept(second, patient_name="Yamada^Tarou=山田^太郎=やまだ^たろう", view="AP")
    pages.reported(
        api, pages.claimed(api), presence="absent", fractures=(),
        text="No acute fracture of the visualised ribs, clavicles or shoulders.",
    )  # fmt: skip
    pages.deliver(api, 0)
    judged = api.ledger.history.trace(found["absent"]).jobs[0].job
    api.ledger.acts.judge(
        judged, "disagree", "dr.house", "I see one", corrected_text="Fracture of the left 6th rib."
    )
    study = "1.2.70.500"
    who = {"patient_name": "Adams^John Robert^Quincy^Rev.^B.A. M.Div.", "patient_id": "4711"}
    who |= {"accession_number": "A4711", "study_description": "Chest two views"}
    found["lateral"] = kept(junk("lateral"), study=study, view="LL", **who)
    pages.rejected(api, pages.claimed(api))
    pages.deliver(api, 0)
    found["two"] = kept(first, study=study, **who)
    fractures = (
        FractureFound(bone="rib", number="7", side="left", certainty="possible"),
        FractureFound(bone="clavicle", side="right", certainty="definite", age="old"),
    )
    drawn = (("Left rib 7", box(250, 190, 60, 50)), ("Right clavicle", box(70, 45, 80, 30)))
    pages.reported(
        api, pages.claimed(api), lambda uid: report_with_region(found["two"], *drawn),
        fractures=fractures, warnings=("no window in the file",),
        text="Possible fracture of the left seventh rib, posterior. Old fracture of the right "
        "clavicle. No displacement.",
    )  # fmt: skip
    pages.deliver(api, 0)
    two = api.ledger.history.trace(found["two"]).jobs[0].job
    said = (FindingJudgement("left rib 7", "agree"),)
    api.ledger.acts.judge(two, "agree", "dr.wilson", findings=said)
    found["retrying"] = kept(junk("away"), patient_name="Poe^Edgar")
    pages.reported(api, pages.claimed(api))
    pages.deliver(api, None)
    found["waiting"] = kept(junk("waits"), patient_name="Waits^Tom")
    return found


LONG = "Wolfeschlegelsteinhausenbergerdorff"

NAMES = {
    "arabic": "قباني^لنزار",
    "hebrew": "שרון^דבורה^^^",
    "korean": "Hong^Gildong=洪^吉洞=홍^길동",
    "chinese": "Zhang^XiaoDong=张^小东",
    "long": f"{LONG}^Adolph Blaine Charles David Earl Frederick^Gerald Hubert^Dr.^Sr.",
    "unbroken": LONG.upper() * 2,
}
"""Names as people have them, and as one who fits no column does."""


def name_all(api: Api) -> dict[str, str]:
    """Put one study of each of `NAMES` into a node, with facts as long as they come."""
    found = {}
    for number, (what, name) in enumerate(NAMES.items()):
        content = pages.picture() if what == "arabic" else b"\0" * 128 + b"DICM" + what.encode()
        found[what] = pages.keep(
            api, content, pages.route(rule="chests of the emergency department, all rooms, trial"),
            patient_name=name, patient_id=f"HOSPITAL-{number}-" + "0123456789" * 4,
            accession_number=f"ACC{number:013d}", modality="DX", body_part="CHEST", view="PA",
            study_instance_uid=f"1.2.71.{number}", study_date="20260102",
            study_description="Röntgen-Thorax in zwei Ebenen, stehend, p.a. und seitlich, Notfall",
            station_name="ROOM-OF-THE-EAST", calling_ae="MODALITY-OF-16CH",
            institution="Universitätsklinikum der Freien und Hansestadt, Institut für Radiologie",
        )  # fmt: skip
        pages.reported(
            api, pages.claimed(api), text=
            "There is a minimally displaced fracture of the posterolateral aspect of the left "
            "seventh rib; the eighth and ninth ribs cannot be assessed below the diaphragm. " * 3,
        )  # fmt: skip
        pages.deliver(api, 0)
    return found


def refuse(api: Api) -> None:
    """Let two callers have been refused, one of them a scan without a name."""
    from dicom_node.dimse.refusals import Refusal

    now = api.ledger.clock.wall()
    reason = "no peer has this AE title"
    api.ledger.refused.add(
        [
            Refusal("XRAY9", "10.0.0.9", "CHEXFRACT", reason, 12, now - 900, now - 60),
            Refusal("", "10.0.0.66", "", "not DICOM", 3, now - 900, now - 60),
        ]
    )


def crowd(api: Api, count: int = 200) -> None:
    """Receive so many images that a list has more than it shows; of the first the report went."""
    for number in range(count):
        content = b"\0" * 128 + b"DICM" + str(number).encode() * 500
        pages.keep(
            api, content, *([pages.route()] if number < 40 else []),
            patient_name=f"Patient^Number {number:03d}", patient_id=f"N{number}",
            accession_number=f"A{number}", modality="DX", body_part="CHEST", view="PA",
            study_instance_uid=f"1.2.72.{number // 2 if number > 150 else number}",
        )  # fmt: skip
        if number < 30:
            pages.reported(api, pages.claimed(api))
            pages.deliver(api, 0)
