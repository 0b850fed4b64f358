"""The DICOM Conformance Statement (PS3.2), made by the code that speaks DICOM."""

from __future__ import annotations

import json
from ssl import TLSVersion
from typing import Any

from pydicom.datadict import dictionary_VR, keyword_for_tag
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.tag import Tag
from pydicom.uid import UID

from dicom_node import __version__
from dicom_node.base.identity import (
    IMPLEMENTATION_CLASS_UID,
    IMPLEMENTATION_VERSION_NAME,
    MANUFACTURER,
)
from dicom_node.dimse import acceptor, commitment, contexts, entity, pull, retrieve, scp, security
from dicom_node.flow.commit import LINGER_S
from dicom_node.flow.deliver import Pace
from dicom_node.operate.conformance_tables import IODS, READ, REVISIONS, Row
from dicom_node.operate.conformance_text import as_markdown
from dicom_node.settings import Settings
from dicom_node.standard import status
from dicom_node.standard.matching import WILD
from dicom_node.standard.sr_classes import SR_CLASSES
from dicom_node.standard.web_services import (
    RENDERED_PARAMETERS,
    RESOURCES,
    ROOT,
    SEARCH_PARAMETERS,
    STORE_FAILURES,
    STORE_STATUSES,
)
from dicom_node.store.catalogue import ATTRIBUTES, LEVELS, UNIQUE, Level, uncompared

STATUSES = (
    (status.SUCCESS, "Success", "the Instance is on disk and in the ledger; also for a repetition"),
    (
        status.OUT_OF_RESOURCES,
        "Refused: Out of Resources",
        "disk or ledger cannot keep it: send later",
    ),
    (
        status.OTHER_SOP_CLASS,
        "Error: Data Set does not match SOP Class",
        "it says another SOP Class",
    ),
    (
        status.CANNOT_UNDERSTAND,
        "Error: Cannot understand",
        "no data set, or UIDs missing or malformed",
    ),
    (status.NOT_SUPPORTED, "SOP Class not supported", "not that of the context"),
)
"""C-STORE statuses of the SCP: code, name in PS3.4 B.2.3 and PS3.7 C, when."""

QUERY_STATUSES = (
    (0x0000, "Success", "FIND GET MOVE", "all matches were sent, all objects were sent"),
    (retrieve.PENDING, "Pending", "FIND GET MOVE", "a match, or sub-operations go on"),
    (retrieve.NOT_ALL_KEYS, "Pending", "FIND", "a match; a key without a column was not compared"),
    (0xB000, "Warning", "GET MOVE", "some sub-operations failed"),
    (retrieve.CANCEL, "Cancelled", "FIND GET MOVE", "after C-CANCEL"),
    (retrieve.OUT_OF_RESOURCES, "Refused: Out of Resources", "FIND GET MOVE", "ask later"),
    (retrieve.CANNOT_COUNT, "Refused: Out of Resources", "GET MOVE", "more than 65535 objects"),
    (0xA702, "Refused: Out of Resources", "GET MOVE", "no sub-operation succeeded"),
    (0xA801, "Refused: Move Destination unknown", "MOVE", "no known peer, or it gives no answer"),
    (
        retrieve.IDENTIFIER_DOES_NOT_MATCH,
        "Failed: Identifier does not match SOP Class",
        "FIND GET MOVE",
        "a level that the model has not, or no unique key",
    ),
    (retrieve.UNABLE_TO_PROCESS, "Failed: Unable to process", "FIND GET MOVE", "not understood"),
)
"""Statuses of the Query/Retrieve SCP (PS3.4 Tables C.4-1 to C.4-3): code, name, where, when."""

REPORT_STATUSES = (
    (status.SUCCESS, "Success", "the answer is in the ledger; also for a repetition"),
    (commitment.PROCESSING_FAILURE, "Processing failure", "the ledger cannot keep it: send later"),
    (commitment.NO_SUCH_EVENT_TYPE, "No such event type", "neither 1 nor 2"),
    (commitment.INVALID_ARGUMENT, "Invalid argument value", "no such transaction was begun"),
)
"""Statuses of the response to N-EVENT-REPORT."""

AIR_TRANSACTIONS = (
    (
        "RAD-18",
        "Creator Images Stored",
        "C-STORE SCU of a Secondary Capture, where a peer takes it",
    ),
    ("RAD-29", "Key Image Note Stored", "C-STORE SCU of a Key Object Selection, where configured"),
    ("RAD-43", "Evidence Documents Stored", "C-STORE SCU of the structured report"),
    ("RAD-10", "Storage Commitment", "N-ACTION SCU, where `storage_commitment = true`"),
    ("RAD-14", "Query Images", "not used: images are sent to the node"),
    ("RAD-16", "Retrieve Images", "not used: images are sent to the node"),
    ("RAD-107", "WADO-RS Retrieve", "as the responder, over the reports of this node"),
    ("RAD-108", "Store Instances Over the Web", "as the responder, for images"),
    ("RAD-129", "QIDO-RS Query", "as the responder, over the reports of this node"),
    ("RAD-136", "Display Analysis Results", "not claimed: the pages are not an image display"),
)
"""Transactions around AI Results, and what this node does of each."""

AIR_CONTENT = (
    (
        "Qualitative findings",
        "Comprehensive 3D SR, root template TID 1500; Comprehensive and Enhanced SR, its subsets, "
        "where a peer takes no other",
        "peer/test_validators.py::test_every_case_passes_in_every_sop_class",
    ),
    (
        "A finding of the image as a whole, negative and undetermined ones included",
        "one group of each report (TID 1501): presence (125605004, SCT) with site, algorithm "
        "(TID 4019) and source image",
        "peer/test_readers.py::test_a_reader_finds_the_groups_that_were_written",
    ),
    (
        "Each fracture",
        "a group with site, side, part, certainty (408729009, SCT), clinical course (263502005, "
        "SCT) and the sentence it was read from",
        "unit/test_codes.py::test_what_the_text_says_reads_back_from_the_codes",
    ),
    (
        "Tracking",
        "Tracking Identifier is the place, with one Tracking UID over all reports of an image",
        "unit/test_sr.py::test_one_tracking_uid_has_one_name_over_all_reports_of_an_image",
    ),
    (
        "Regions",
        "boxes that a model drew around fractures, where the worker has `regions = true`: planar "
        "ROI groups (TID 1410) with a closed POLYLINE (SCOORD) on the source image; off by default",
        "peer/test_validators.py::test_regions_pass_in_every_sop_class",
    ),
    (
        "Measurements, locations (points), segmentations, parametric maps",
        "none are made",
        "unit/test_boxes.py::test_without_boxes_the_report_has_the_bytes_it_had",
    ),
    (
        "Key images",
        "Key Object Selection Document, where a peer takes it",
        "peer/test_validators.py::test_every_second_object_passes",
    ),
    (
        "Image Library (TID 1600)",
        "the image with modality, view, laterality, orientation, spacing, rows and columns",
        "unit/test_sr.py::test_the_library_describes_the_image",
    ),
    (
        "Procedure reported (121058, DCM)",
        "the imaging procedure, not the algorithm; `[report] procedure` names another",
        "unit/test_sr.py::test_the_procedure_reported_can_be_chosen",
    ),
    (
        "Contributing Equipment Sequence (0018,A001)",
        "one item for the model: Processing Equipment (109102, DCM), Manufacturer, Manufacturer's "
        "Model Name, Software Versions, Device UID; equal to the observer and the algorithm",
        "unit/test_sr.py::test_equipment_observer_and_algorithm_bear_the_same_names",
    ),
    (
        "Device UID",
        "derived from model, weights, code and options: another model has another one",
        "unit/test_sr.py::test_another_model_version_is_another_device_with_another_series",
    ),
    (
        "A later result replaces an earlier one",
        "Predecessor Documents Sequence, and the report's comment says so",
        "unit/test_sr.py::test_a_rerun_names_the_report_that_it_replaces",
    ),
    (
        "Verification",
        "UNVERIFIED and PRELIMINARY, always",
        "unit/test_sr.py::test_each_case_has_its_own_codes",
    ),
)
"""What IHE AI Results says of content, and what the reports hold."""

REPORT_CONTENT = {
    "template": "TID 1500 Measurement Report",
    "groups": "one for the image (TID 1501), one for each fracture: TID 1501, or TID 1410 where "
    "the report holds its region",
    "value_types": ("CONTAINER", "CODE", "TEXT", "NUM", "UIDREF", "IMAGE", "SCOORD"),
    "relationships": (
        "CONTAINS",
        "HAS CONCEPT MOD",
        "HAS OBS CONTEXT",
        "HAS ACQ CONTEXT",
        "SELECTED FROM",
    ),
    "coding_schemes": ("DCM", "SCT", "UCUM", "UMLS", "NCIt", "RFC5646", "99CHEXFRACT"),
    "completion": "COMPLETE, or PARTIAL where the image was not analysed",
    "verification": "UNVERIFIED",
    "character_set": "ISO_IR 192",
}
"""What the SR objects hold (PS3.3 A.35, PS3.4 Annex O)."""

NOT_CLAIMED = (
    "Storage Commitment as SCP",
    "User Identity Negotiation",
    "Modality Worklist",
    "Modality Performed Procedure Step",
    "Unified Procedure Step (IHE AI Workflow for Imaging)",
    "Print",
    "Media Storage",
)


def conformance(settings: Settings, *, as_json: bool) -> None:
    """Print the statement as Markdown or JSON."""
    content = statement(settings)
    print(json.dumps(content, indent=2, ensure_ascii=False) if as_json else as_markdown(content))


def statement(settings: Settings) -> dict[str, Any]:
    """Return the facts of the statement, read from what the code really proposes and accepts."""
    node = settings.node
    return {
        "product": {"name": "chexfract-node", "manufacturer": MANUFACTURER, "version": __version__},
        "implementation": {
            "class_uid": IMPLEMENTATION_CLASS_UID,
            "version_name": IMPLEMENTATION_VERSION_NAME,
        },
        "ae": {
            "title": node.ae_title,
            "titles": [node.ae_title, *node.ae_titles],
            "port": node.port,
            "max_pdu": node.max_pdu,
            "max_associations": node.max_associations,
            "max_associations_per_peer": node.max_associations_per_peer,
            "asynchronous_operations": 1,
            "idle_timeout_s": node.idle_timeout,
            "request_within_s": acceptor.FIRST_PDU_S,
            "max_instance_bytes": node.max_instance,
            "known_peers_only": node.known_peers_only,
            "called_ae_check": node.called_ae_check,
        },
        "accepted": [_context_facts(context) for context in entity.accepted()],
        "accepted_for_get": [
            _context_facts(context) for context in entity.sent_back(contexts.REPORTS)
        ],
        "accepted_for_commitment": [_context_facts(entity.commitment())],
        "proposed": _proposed_contexts(),
        "rejections": [
            {"result": r.result, "source": r.source, "reason": r.diagnostic, "when": r.reason}
            for r in vars(scp).values()
            if isinstance(r, scp.Rejection)
        ],
        "store_scp_statuses": [
            {"status": f"{code:04X}", "meaning": meaning, "when": when}
            for code, meaning, when in STATUSES
        ],
        "store_scu": _store_scu(settings),
        "query_retrieve": _query_retrieve(),
        "storage_commitment": _commitment_facts(settings),
        "dicomweb": _dicomweb_facts(),
        "air": {
            "actor": "Evidence Creator",
            "transactions": [
                _named_values(("id", "name", "support"), transaction)
                for transaction in AIR_TRANSACTIONS
            ],
            "content": [
                _named_values(("subject", "support", "test"), content) for content in AIR_CONTENT
            ],
        },
        "reports": REPORT_CONTENT
        | {"sop_classes": [_uid_with_name(uid) for uid in SR_CLASSES.values()]},
        "security": {
            "tls": f"{' and '.join(map(_tls_version, security.VERSIONS))}, mutual where a CA is "
            "named (PS3.15 B.12, BCP 195)",
            "tls_versions": [_tls_version(version) for version in security.VERSIONS],
            "suites": list(security.SUITES),
            "ciphers": security.CIPHERS,
            "web": "bearer secret or sign-in; HTTPS with the same suites (`web.certificate`), or a "
            "proxy in front (`proxy_addresses`)",
            "audit": "DICOM PS3.15 A.5 messages to a file or to syslog (RFC 5424)",
        },
        "iods": [
            {"kind": kind, "name": name, "attributes": [_attribute_row(row) for row in rows]}
            for kind, (name, rows) in IODS.items()
        ],
        "read": [{**_tag_of(keyword), "use": use} for keyword, use in READ],
        "revisions": [
            _named_values(("version", "date", "change"), revision) for revision in REVISIONS
        ],
        "not_claimed": list(NOT_CLAIMED),
    }


def _tls_version(version: TLSVersion) -> str:
    return version.name.removeprefix("TLSv").replace("_", ".")


def _attribute_row(row: Row) -> dict[str, str]:
    module, keyword, presence, source = row
    return {"module": module, **_tag_of(keyword), "presence": presence, "source": source}


def _tag_of(keyword: str) -> dict[str, str]:
    tag = Tag(keyword)
    return {
        "tag": f"({tag.group:04X},{tag.element:04X})",
        "keyword": keyword,
        "vr": dictionary_VR(tag).replace(" or ", "/"),
    }


def _matching_kind(vr: str) -> str:
    """Return how a key of this value representation is compared (PS3.4 C.2.2.2)."""
    if vr == "SQ":
        return "sequence"
    if vr == "UI":
        return "list of UID"
    if vr in ("DA", "TM", "DT"):
        return "single value, range"
    return "single value, wild card" if vr in WILD else "single value"


def _compared_within(level: Level, keyword: str) -> str:
    """Return where alone a key is compared, if not everywhere."""
    item, keys = Dataset(), Dataset()
    item.CodeValue = "1"
    tag = Tag(keyword)
    vr = dictionary_VR(tag)
    keys[tag] = DataElement(tag, vr, Sequence([item]) if vr == "SQ" else "1")
    return " with a UID" if uncompared(level, keys) else ""


def _query_retrieve() -> dict[str, Any]:
    return {
        "statuses": [
            {"status": f"{code:04X}", "meaning": name, "operations": operations, "when": when}
            for code, name, operations, when in QUERY_STATUSES
        ],
        "levels": [
            {
                "level": level,
                "unique": UNIQUE[level],
                "keys": [
                    {
                        **key,
                        "matching": _matching_kind(key["vr"])
                        + _compared_within(level, key["keyword"]),
                    }
                    for key in map(_tag_of, map(keyword_for_tag, sorted(ATTRIBUTES[level])))
                ],
            }
            for level in LEVELS
        ],
        "wildcards": sorted(WILD),
    }


def _commitment_facts(settings: Settings) -> dict[str, Any]:
    waits = settings.delivery
    return {
        "peers": sorted(n for n, peer in settings.peers.items() if peer.storage_commitment),
        "wait_for_answer_s": (waits.uncommitted_first, waits.uncommitted_longest),
        "wait_on_association_s": LINGER_S,
        "report_statuses": [
            {"status": f"{code:04X}", "meaning": meaning, "when": when}
            for code, meaning, when in REPORT_STATUSES
        ],
        "failure_reasons": [
            {"reason": f"{code:04X}", "meaning": status.read_status(code).text}
            for code in status.FAILURE_REASONS
        ],
    }


def _dicomweb_facts() -> dict[str, Any]:
    return {
        "root": ROOT,
        "services": [
            {
                "service": resource.service,
                "method": resource.method,
                "path": resource.path,
                "media_types": ", ".join(resource.media_types),
                "payload": ", ".join(resource.payload),
                "parameters": list(resource.parameters),
            }
            for resource in RESOURCES
        ],
        "search_parameters": list(SEARCH_PARAMETERS),
        "rendered_parameters": list(RENDERED_PARAMETERS),
        "store_statuses": [{"status": code, "when": when} for code, when in STORE_STATUSES],
        "store_failures": [
            {"reason": f"{code:04X}", "when": when} for code, when in STORE_FAILURES
        ],
    }


def _named_values(names: tuple[str, ...], values: tuple[str, ...]) -> dict[str, str]:
    return dict(zip(names, values, strict=True))


def _context_facts(context: Any) -> dict[str, Any]:
    # A context names the roles of the requestor: where that may be the SCP, we are the SCU.
    is_reversed = context.scp_role is True
    roles = {"SCP": context.scu_role is not False, "SCU": is_reversed}
    return {
        **_uid_with_name(context.abstract_syntax),
        "role": "/".join(role for role, is_played in roles.items() if is_played),
        "transfer_syntaxes": [_uid_with_name(uid) for uid in context.transfer_syntax],
    }


def _proposed_contexts() -> list[dict[str, Any]]:
    little = (contexts.EXPLICIT_LITTLE, contexts.IMPLICIT_LITTLE)
    return [
        {
            **_uid_with_name(uid),
            "role": "SCU",
            "transfer_syntaxes": [_uid_with_name(syntax) for syntax in little],
        }
        # C-FIND: whose report a duplicate is, and what `pull` brings by C-GET
        for uid in (contexts.VERIFICATION, *contexts.REPORTS, pull.FIND, pull.GET)
    ]


def _uid_with_name(uid: object) -> dict[str, str]:
    return {"uid": str(uid), "name": UID(str(uid)).name}


def _store_scu(settings: Settings) -> dict[str, Any]:
    waits = settings.delivery
    return {
        "delivered": list(status.STORED),
        "wait_after_refusal_s": (waits.refused_first, waits.refused_longest),
        "wait_after_silence_s": (waits.silent_first, waits.silent_longest),
        "association_kept_idle_s": Pace().idle,
    }
