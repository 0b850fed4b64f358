"""The DICOM Conformance Statement (PS3.2), told by the code that speaks DICOM."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from pydicom.uid import UID

from dicom_node import __version__
from dicom_node.dimse import contexts, scp, security, stream
from dicom_node.flow.deliver import SR_CLASSES, TAKEN, Pace
from dicom_node.identity import (
    IMPLEMENTATION_CLASS_UID,
    IMPLEMENTATION_VERSION_NAME,
    MANUFACTURER,
)
from dicom_node.settings import Settings

STATUSES = (
    (scp.SUCCESS, "Success", "the Instance is on disk and in the ledger; also for a repetition"),
    (
        scp.OUT_OF_RESOURCES,
        "Refused: Out of Resources",
        "disk or ledger cannot keep it: send later",
    ),
    (scp.OTHER_SOP_CLASS, "Error: Data Set does not match SOP Class", "it says another SOP Class"),
    (
        scp.CANNOT_UNDERSTAND,
        "Error: Cannot understand",
        "no data set, or UIDs missing or malformed",
    ),
    (scp.SOP_CLASS_NOT_SUPPORTED, "SOP Class not supported", "not that of the context"),
)
"""C-STORE statuses of the SCP: code, name in PS3.4 B.2.3 and PS3.7 C, when."""

REPORT_CONTENT = {
    "template": "TID 1500 Measurement Report",
    "value_types": ("CONTAINER", "CODE", "TEXT", "UIDREF", "IMAGE"),
    "relationships": ("CONTAINS", "HAS CONCEPT MOD", "HAS OBS CONTEXT", "HAS ACQ CONTEXT"),
    "coding_schemes": ("DCM", "SCT", "UCUM", "UMLS", "RFC5646"),
    "completion": "COMPLETE, or PARTIAL where the image was not analysed",
    "verification": "UNVERIFIED",
    "character_set": "ISO_IR 192",
}
"""What the SR objects hold (PS3.3 A.35, PS3.4 Annex O)."""

_YES = {True: "Yes", False: "No"}

NOT_CLAIMED = ("Modality Worklist", "Modality Performed Procedure Step", "Print", "Media Storage")


def conformance(settings: Settings, *, as_json: bool) -> None:
    """Print the statement as Markdown or JSON."""
    told = statement(settings)
    print(json.dumps(told, indent=2, ensure_ascii=False) if as_json else as_markdown(told))


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
            "title": node.ae_title.strip(),
            "port": node.port,
            "max_pdu": node.max_pdu,
            "max_associations": node.max_associations,
            "max_associations_per_peer": node.max_associations_per_peer,
            "asynchronous_operations": 1,
            "idle_timeout_s": node.idle_timeout,
            "request_within_s": stream.FIRST_PDU_S,
            "max_instance_bytes": node.max_instance,
            "known_peers_only": node.known_peers_only,
            "called_ae_check": node.called_ae_check,
        },
        "accepted": [_context(context) for context in contexts.accepted()],
        "proposed": _proposed(),
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
        "reports": REPORT_CONTENT | {"sop_classes": [_named(uid) for uid in SR_CLASSES.values()]},
        "security": {
            "tls": "1.2 and 1.3, mutual where a CA is named (PS3.15 B.12, BCP 195)",
            "ciphers": security.CIPHERS,
        },
        "not_claimed": list(NOT_CLAIMED),
    }


def _context(context: Any) -> dict[str, Any]:
    roles = {"SCP": context.scp_role is not False, "SCU": bool(context.scu_role)}
    return {
        **_named(context.abstract_syntax),
        "role": "/".join(role for role, is_played in roles.items() if is_played),
        "transfer_syntaxes": [_named(uid) for uid in context.transfer_syntax],
    }


def _proposed() -> list[dict[str, Any]]:
    little = (contexts.EXPLICIT_LITTLE, contexts.IMPLICIT_LITTLE)
    return [
        {**_named(uid), "role": "SCU", "transfer_syntaxes": [_named(one) for one in little]}
        for uid in (contexts.VERIFICATION, *contexts.REPORTS)
    ]


def _named(uid: object) -> dict[str, str]:
    return {"uid": str(uid), "name": UID(str(uid)).name}


def _store_scu(settings: Settings) -> dict[str, Any]:
    waits = settings.delivery
    return {
        "delivered": [f"{status:04X}" for status in sorted(TAKEN)],
        "wait_after_refusal_s": (waits.refused_first, waits.refused_longest),
        "wait_after_silence_s": (waits.silent_first, waits.silent_longest),
        "association_kept_idle_s": Pace().idle,
    }


def as_markdown(told: dict[str, Any]) -> str:
    """Return the statement in the order of PS3.2 Annex A."""
    chapters = (
        _overview,
        _introduction,
        _associations,
        _acceptance,
        _initiation,
        _configuration,
        _media_to_security,
        _annexes,
    )
    return "\n".join(line for chapter in chapters for line in chapter(told)) + "\n"


def _overview(told: dict[str, Any]) -> Iterable[str]:
    product = told["product"]
    yield f"# DICOM Conformance Statement: {product['name']} {product['version']}\n"
    yield f"{product['manufacturer']}. Written by `chexfract-node conformance` from its own code."
    yield "\n## 1 Overview\n"
    yield (
        "The node receives chest radiographs, has them described by a model, and sends a "
        "structured report about each to an archive, into the study of the image. Its answers are "
        "for research and are no diagnosis.\n"
    )
    rows = [(name, *roles) for name, roles in _services(told).items()]
    yield from _table(("Network service", "SCU", "SCP"), rows)


def _introduction(_: dict[str, Any]) -> Iterable[str]:
    yield "\n## 2 Table of contents\n"
    yield "1 Overview, 3 Introduction, 4 Networking, 5 Media interchange,"
    yield "6 Support of character sets, 7 Security, 8 Annexes"
    yield "\n## 3 Introduction\n"
    yield (
        "Audience: those who connect this node to archives and modalities. Terms are those of the "
        "DICOM Standard. Conformance does not by itself promise interoperability: run "
        "`chexfract-node doctor` and `chexfract-node selftest` against each peer."
    )
    yield "\n## 4 Networking\n\n### 4.1 Implementation model\n"
    yield (
        "One application entity. Storage: an Instance is answered when it is on disk and in the "
        "ledger; then a worker describes it; then its report is sent to each destination. "
        "Nothing waits for a series or a study to be complete."
    )


def _configuration(told: dict[str, Any]) -> Iterable[str]:
    ae = told["ae"]
    yield "\n### 4.3 Network interfaces\n\nTCP/IP version 4 and 6 of the operating system."
    yield "\n### 4.4 Configuration\n"
    yield from _table(
        ("Parameter", "Value"),
        [
            ("AE title", ae["title"]),
            ("Port", ae["port"]),
            ("Called AE title is checked", _YES[ae["called_ae_check"]]),
            ("Only known calling AE titles and addresses", _YES[ae["known_peers_only"]]),
            ("Largest data set, bytes", ae["max_instance_bytes"]),
        ],
    )
    yield "\nPeers, rules and destinations stand in node.toml."


def _media_to_security(told: dict[str, Any]) -> Iterable[str]:
    yield "\n## 5 Media interchange\n\nNone."
    yield "\n## 6 Support of character sets\n"
    yield (
        "Received: all of PS3.3 C.12.1.1.2; what cannot be decoded is replaced where it is shown. "
        f"Sent: {told['reports']['character_set']}."
    )
    yield "\n## 7 Security\n"
    yield f"TLS {told['security']['tls']}; suites of TLS 1.2: {told['security']['ciphers']}."
    yield "No user identity is negotiated. AE titles are names, not proof: use TLS or addresses."


def _services(told: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """Return, for each SOP class, whether it is used as SCU and offered as SCP."""
    scu_names = {one["name"] for one in told["proposed"]}
    scu_names |= {one["name"] for one in told["accepted"] if "SCU" in one["role"]}
    scp_names = {one["name"] for one in told["accepted"] if "SCP" in one["role"]}
    names = dict.fromkeys(one["name"] for one in (*told["accepted"], *told["proposed"]))
    return {name: (_YES[name in scu_names], _YES[name in scp_names]) for name in names}


def _associations(told: dict[str, Any]) -> Iterable[str]:
    ae, implementation = told["ae"], told["implementation"]
    yield "\n### 4.2 AE specification\n\n#### 4.2.1 Association policies\n"
    yield from _table(
        ("Parameter", "Value"),
        [
            ("Application context", "1.2.840.10008.3.1.1.1"),
            ("Implementation Class UID", implementation["class_uid"]),
            ("Implementation Version Name", implementation["version_name"]),
            ("Maximum PDU size received", ae["max_pdu"]),
            ("Simultaneous associations accepted", ae["max_associations"]),
            ("… of one peer", ae["max_associations_per_peer"]),
            ("Asynchronous operations window", ae["asynchronous_operations"]),
            ("An A-ASSOCIATE-RQ is awaited for, s", ae["request_within_s"]),
            ("An idle association is aborted after, s", ae["idle_timeout_s"]),
        ],
    )


def _acceptance(told: dict[str, Any]) -> Iterable[str]:
    yield "\n#### 4.2.2 Associations accepted\n\nPresentation contexts, in order of preference:\n"
    yield from _contexts(told["accepted"])
    yield "\nRejections (PS3.8 Table 9-21):\n"
    yield from _table(
        ("Result", "Source", "Reason", "When"),
        [(r["result"], r["source"], r["reason"], r["when"]) for r in told["rejections"]],
    )
    yield "\nStatuses of C-STORE:\n"
    rows = [(s["status"], s["meaning"], s["when"]) for s in told["store_scp_statuses"]]
    yield from _table(("Status", "Meaning", "When"), rows)
    yield (
        "\nLevel 2 (Full): every element is kept as received. No attribute is coerced. An Instance "
        "with a known UID and the same content is answered 0000 and not described again; with "
        "other content it is answered 0000 and kept apart for the operator. An image that cannot "
        "be described (lateral, not a chest, For Processing) is no failure: its report says so."
    )


def _initiation(told: dict[str, Any]) -> Iterable[str]:
    sending = told["store_scu"]
    yield "\n#### 4.2.3 Associations initiated\n"
    yield "One per destination, used again while work comes. It proposes:\n"
    yield from _contexts(told["proposed"])
    names = ", ".join(one["name"] for one in told["reports"]["sop_classes"])
    yield (
        f"\nOf {names} the first is sent that the peer accepts, in the order of its configuration. "
        f"A status of {', '.join(sending['delivered'])} is a delivery. After another one the "
        f"object is sent again {_waits(sending['wait_after_refusal_s'])}, and after no answer "
        f"{_waits(sending['wait_after_silence_s'])}. An association is released after "
        f"{sending['association_kept_idle_s']:g} s without work. `chexfract-node send` proposes "
        "each file's own SOP Class and transfer syntax."
    )


def _waits(bounds: tuple[float, float]) -> str:
    return f"after {bounds[0]:g} s, doubling up to every {bounds[1]:g} s, without end"


def _annexes(told: dict[str, Any]) -> Iterable[str]:
    reports = told["reports"]
    yield "\n## 8 Annexes\n\n### 8.1 IOD contents\n"
    yield from _table(
        ("Structured report", "Content"),
        [
            ("Root template", reports["template"]),
            ("Value types", ", ".join(reports["value_types"])),
            ("Relationships", ", ".join(reports["relationships"])),
            ("Coding schemes", ", ".join(reports["coding_schemes"])),
            ("Completion Flag", reports["completion"]),
            ("Verification Flag", reports["verification"]),
            ("Referenced SOP Classes", ", ".join(contexts.IMAGES.values())),
        ],
    )
    yield (
        "\nUIDs derive from the image's UID, the model's version and the options: the same work "
        "gives the same objects. A report that replaces another names it in Predecessor Documents "
        "Sequence (0040,A360)."
    )
    yield "\n### 8.2 Not claimed\n"
    yield ", ".join(told["not_claimed"]) + "."


def _contexts(rows: Sequence[dict[str, Any]]) -> Iterable[str]:
    yield from _table(
        ("Abstract syntax", "UID", "Transfer syntaxes", "Role"),
        [
            (
                one["name"],
                one["uid"],
                "<br>".join(f"{s['name']} ({s['uid']})" for s in one["transfer_syntaxes"]),
                one["role"],
            )
            for one in rows
        ],
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> Iterable[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    for row in rows:
        yield f"| {' | '.join(str(cell) for cell in row)} |"
