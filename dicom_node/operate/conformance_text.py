"""The text of the DICOM Conformance Statement, in the order of PS3.2 Annex N."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from dicom_node.dimse import contexts

_YES = {True: "Yes", False: "No"}


CHAPTERS = (
    "1 Overview",
    "2 Table of contents",
    "3 Introduction",
    "4 Implementation model",
    "5 Service and interoperability description",
    "6 Configuration",
    "7 Network and media communication details",
    "8 Security",
    "A Information object definitions",
    "B Structured report content encoding",
    "C Security details",
    "D Mapping of attributes",
    "E Code set usage",
    "F IHE AI Results (AIR)",
    "G Not claimed",
)
"""Chapters 1 to 8 and annexes A to E are those of the template; what it has no place for follows.

Sections of services that this node does not have are left out, and their numbers with them.
"""


def as_markdown(facts: dict[str, Any]) -> str:
    """Return the statement in the order of PS3.2 Annex N."""
    parts = (
        _cover_chapter,
        _overview_chapter,
        _contents_chapter,
        _introduction_chapter,
        _model_chapter,
        _mapped_services,
        _storage_chapter,
        _commitment_chapter,
        _retrieval_chapter,
        _web_chapter,
        _other_services,
        _configuration_chapter,
        _associations_chapter,
        _initiation_chapter,
        _acceptance_chapter,
        _dimse_statuses,
        _web_statuses,
        _security_chapter,
        _objects_chapter,
        _structured_report,
        _security_details,
        _mapping_chapter,
        _code_sets,
        _air_chapter,
        _not_claimed,
    )
    return "\n".join(line for part in parts for line in part(facts)) + "\n"


def _cover_chapter(facts: dict[str, Any]) -> Iterable[str]:
    product = facts["product"]
    yield f"# DICOM Conformance Statement: {product['name']} {product['version']}\n"
    yield from _table_lines(
        ("Cover page", ""),
        [
            ("Company", product["manufacturer"]),
            ("Product", product["name"]),
            ("Version", product["version"]),
            ("Date", next(r["date"] for r in reversed(facts["revisions"]) if r["date"])),
            ("Written by", "`chexfract-node conformance`, from its own code"),
        ],
    )


def _overview_chapter(facts: dict[str, Any]) -> Iterable[str]:
    yield "\n## 1 Overview\n"
    yield (
        "The node receives chest radiographs, has them described by a model, and sends a "
        "structured report about each to an archive, into the study of the image. Its answers are "
        "for research and are not a diagnosis.\n"
    )
    yield "### 1.1 Content and transfer, and 1.2 DIMSE services\n"
    rows = [(name, *roles) for name, roles in _service_roles(facts).items()]
    yield from _table_lines(("Network service", "SCU", "SCP"), rows)
    yield f"\nRoot template of structured reports: {facts['reports']['template']}."
    yield "\n### 1.3 DICOM web services\n"
    rows = [(name, "No", "Yes") for name in ("QIDO-RS", "WADO-RS", "STOW-RS")]
    yield from _table_lines(("DICOMweb service", "User agent", "Origin server"), rows)
    yield "\n### 1.4 Media services, 1.5 Real-time video, 1.6 De-identification profiles\n\nNone."
    yield "\n### 1.7 Specific character sets\n"
    yield f"Of all that is sent: {facts['reports']['character_set']}. More in 5.7."


def _contents_chapter(_: dict[str, Any]) -> Iterable[str]:
    yield "\n## 2 Table of contents\n"
    yield from (f"- {chapter}" for chapter in CHAPTERS)


def _introduction_chapter(facts: dict[str, Any]) -> Iterable[str]:
    yield "\n## 3 Introduction\n\n### 3.1 Revision history\n"
    rows = [
        (revision["version"], revision["date"], revision["change"])
        for revision in facts["revisions"]
    ]
    yield from _table_lines(("Version", "Date", "Change"), rows)
    yield "\n### 3.2 Audience\n"
    yield "Those who connect this node to archives, modalities and viewers."
    yield "\n### 3.3 Remarks\n"
    yield (
        "Conformance does not by itself promise interoperability: run `chexfract-node doctor` and "
        "`chexfract-node selftest` against each peer."
    )
    yield "\n### 3.4 Terms and definitions\n\nTerms are those of the DICOM Standard."
    yield "\n### 3.5 Abbreviations\n"
    yield (
        "AE: application entity. SCU, SCP: user and provider of a service. IOD: information "
        "object definition."
    )
    yield "\n### 3.6 References\n"
    yield (
        "DICOM PS3.2 Annex N, PS3.3, PS3.4, PS3.6, PS3.7, PS3.8, PS3.15, PS3.16, PS3.18; IHE RAD "
        "AI Results (AIR)."
    )


def _model_chapter(facts: dict[str, Any]) -> Iterable[str]:
    yield "\n## 4 Implementation model\n\n### 4.1 Application entities and data flow\n"
    yield (
        "One application entity, with the titles "
        f"{', '.join(facts['ae']['titles'])}. Modalities and archives send images to it (C-STORE, "
        "STOW-RS); workers, which speak no DICOM network protocol, describe them; the reports are "
        "sent to the configured peers (C-STORE) and can be queried (C-FIND, C-MOVE, C-GET, "
        "QIDO-RS, WADO-RS)."
    )
    yield "\n#### 4.1.1 Functional definition\n"
    yield (
        "Storage: an Instance is answered when it is on disk and in the ledger; then a worker "
        "describes it; then its report is sent to each destination. Nothing waits for a series or "
        "a study to be complete."
    )


def _mapped_services(facts: dict[str, Any]) -> Iterable[str]:
    yield (
        "\n## 5 Service and interoperability description\n\n"
        "### 5.1 Mapping of services to application entities\n"
    )
    yield f"The one application entity, {facts['ae']['title']}, has all services of 1.2 and 1.3."
    yield "\n### 5.2 DIMSE services"


def _storage_chapter(facts: dict[str, Any]) -> Iterable[str]:
    yield "\n#### 5.2.5 Storage\n\n##### 5.2.5.1 Storage SCU\n"
    names = ", ".join(sop_class["name"] for sop_class in facts["reports"]["sop_classes"])
    yield (
        f"Of {names} the first is sent that the peer accepts, in the order of its configuration: "
        "one is made, and the others are the same report under a UID of their own. "
        "`chexfract-node send` proposes each file's own SOP Class and transfer syntax."
    )
    yield "\n##### 5.2.5.2 Storage SCP\n"
    yield (
        "Level 2 (Full): every element is kept as received. No attribute is coerced. An Instance "
        "with a known UID and the same content is answered 0000 and not described again; with "
        "other content it is answered 0000 and kept apart for the operator. An image that cannot "
        "be described (lateral, not a chest, For Processing) is not a failure: its report says "
        "so."
    )


def _configuration_chapter(facts: dict[str, Any]) -> Iterable[str]:
    ae = facts["ae"]
    yield "\n## 6 Configuration\n"
    yield from _table_lines(
        ("Parameter", "Value"),
        [
            ("AE title", ae["title"]),
            ("Further AE titles", ", ".join(ae["titles"][1:]) or "none"),
            ("Port", ae["port"]),
            ("Called AE title is checked", _YES[ae["called_ae_check"]]),
            ("Only known calling AE titles and addresses", _YES[ae["known_peers_only"]]),
            ("Largest data set, bytes", ae["max_instance_bytes"]),
        ],
    )
    yield "\nPeers, their rights, rules and destinations stand in node.toml."


def _security_chapter(facts: dict[str, Any]) -> Iterable[str]:
    yield "\n## 8 Security\n"
    yield "AE titles are names, not proof: use TLS or addresses."
    yield f"\nTCP port: {facts['ae']['port']}. Secure transport: TLS {facts['security']['tls']}."
    yield "User identity is not negotiated."
    yield f"\nWeb: {facts['security']['web']}. Audit trail: {facts['security']['audit']}."


def _security_details(facts: dict[str, Any]) -> Iterable[str]:
    yield "\n## C Security details\n"
    yield f"Suites of TLS 1.2: {', '.join(facts['security']['suites'])}."


def _service_roles(facts: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """Return, for each SOP class, whether it is used as SCU and offered as SCP."""
    ours = (*facts["accepted"], *facts["proposed"], *facts["accepted_for_commitment"])
    scu_names = {context["name"] for context in ours if "SCU" in context["role"]}
    scp_names = {context["name"] for context in facts["accepted"] if "SCP" in context["role"]}
    names = dict.fromkeys(context["name"] for context in ours)
    return {name: (_YES[name in scu_names], _YES[name in scp_names]) for name in names}


def _associations_chapter(facts: dict[str, Any]) -> Iterable[str]:
    ae, implementation = facts["ae"], facts["implementation"]
    yield "\n## 7 Network and media communication details\n\nTCP/IP versions 4 and 6; no media."
    yield "\n### 7.1 General association parameters\n"
    yield from _table_lines(
        ("Parameter", "Value"),
        [
            ("Application context", contexts.APPLICATION),
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


def _acceptance_chapter(facts: dict[str, Any]) -> Iterable[str]:
    yield "\n##### 7.2.1.4 Associations accepted\n"
    yield "Presentation contexts, in order of preference:\n"
    yield from _context_table(facts["accepted"])
    yield "\nFrom a requestor that proposes to be the SCP of what a C-GET brings:\n"
    yield from _context_table(facts["accepted_for_get"])
    yield "\nFrom a peer with `storage_commitment = true`, which reports what it commits to:\n"
    yield from _context_table(facts["accepted_for_commitment"])
    yield "\nRejections (PS3.8 Table 9-21):\n"
    yield from _table_lines(
        ("Result", "Source", "Reason", "When"),
        [(r["result"], r["source"], r["reason"], r["when"]) for r in facts["rejections"]],
    )


def _initiation_chapter(facts: dict[str, Any]) -> Iterable[str]:
    sending = facts["store_scu"]
    yield "\n### 7.2 Specifications\n\n#### 7.2.1 The application entity"
    yield "\n##### 7.2.1.3 Associations initiated\n"
    yield "One per destination, used again while work comes. It proposes:\n"
    yield from _context_table(facts["proposed"])
    idle = sending["association_kept_idle_s"]
    yield f"\nAn association is released after {idle:g} s without work."


def _retrieval_chapter(facts: dict[str, Any]) -> Iterable[str]:
    found = facts["query_retrieve"]
    yield "\n#### 5.2.7 Query/Retrieve SCP\n"
    yield (
        "The objects are the reports of this node, as far as a live rule made them for a "
        "destination. Of the SOP Classes of one report that is shown which a destination took. "
        "Images are not queried. C-MOVE goes to configured peers only.\n"
    )
    rows = [
        (level["level"], key["keyword"], key["tag"], key["vr"], key["matching"])
        for level in found["levels"]
        for key in level["keys"]
    ]
    yield from _table_lines(("Level", "Attribute", "Tag", "VR", "Matching"), rows)
    keys = ", ".join(f"{level['level']} {level['unique']}" for level in found["levels"])
    yield (
        f"\nUnique keys: {keys}. At the level IMAGE (INSTANCE is taken for it) every other "
        "attribute before Content Sequence (0040,A730) is a key, too. Every attribute of the table "
        "is returned when asked for; keys of the levels above are matched and returned, too; an "
        "empty key, and `*`, match everything, and so does a sequence whose item holds such keys "
        "only. Several values: one is enough. Names match without regard to case, the whole or one "
        "of their component groups. No relational queries, no fuzzy matching by C-FIND, no "
        "combined date and time. An attribute that no column of the ledger holds is matched where "
        "a UID of study, series or instance is a key, and counts as empty elsewhere (0xFF01). A "
        "text with wild cards has at most 1,024 characters. Responses "
        "are in ISO_IR 192. C-MOVE and C-GET send a report in the SR class that the receiver "
        "accepts."
    )


def _commitment_chapter(facts: dict[str, Any]) -> Iterable[str]:
    found = facts["storage_commitment"]
    yield "\n#### 5.2.6 Storage Commitment SCU\n"
    yield (
        "Each peer with `storage_commitment = true` is asked (N-ACTION, action 1) to commit to "
        "what it has taken, on an association of its own with a new Transaction UID. Its "
        f"N-EVENT-REPORT is taken on that association for {found['wait_on_association_s']:g} s, "
        "and at any time later on one that the peer opens to the listener, with SCP/SCU role "
        "selection or without. An object that the peer does not have is sent again and asked for "
        "again. Without an answer it is asked for again "
        f"{_wait_words(found['wait_for_answer_s'])}. An answer to an earlier transaction counts."
    )


def _dimse_statuses(facts: dict[str, Any]) -> Iterable[str]:
    sending, commitment = facts["store_scu"], facts["storage_commitment"]
    yield "\n### 7.3 Status codes\n\n#### 7.3.2 DIMSE services\n\nStorage, as SCU:\n"
    yield (
        f"A status of {', '.join(sending['delivered'])} is a delivery. After another one the "
        f"object is sent again {_wait_words(sending['wait_after_refusal_s'])}, and after no answer "
        f"{_wait_words(sending['wait_after_silence_s'])}.\n"
    )
    rows = [(s["status"], s["meaning"], s["when"]) for s in facts["store_scp_statuses"]]
    yield from _table_lines(("Status of C-STORE, as SCP", "Meaning", "When"), rows)
    yield ""
    rows = [(s["status"], s["meaning"], s["when"]) for s in commitment["report_statuses"]]
    yield from _table_lines(("Status of N-EVENT-REPORT", "Meaning", "When"), rows)
    yield "\nFailure Reasons that are known by name; every one but 0131 sends the object again:\n"
    reasons = [(reason["reason"], reason["meaning"]) for reason in commitment["failure_reasons"]]
    yield from _table_lines(("Failure Reason", "Meaning"), reasons)
    yield ""
    found = facts["query_retrieve"]["statuses"]
    answers = [(s["status"], s["meaning"], s["operations"], s["when"]) for s in found]
    yield from _table_lines(("Status of a query", "Meaning", "Operations", "When"), answers)


def _web_chapter(facts: dict[str, Any]) -> Iterable[str]:
    found = facts["dicomweb"]
    yield "\n### 5.3 DICOM web services\n\n#### 5.3.2 Studies service, as origin server\n"
    yield (
        f"Root `{found['root']}`, over the same reports as Query/Retrieve; STOW-RS takes the "
        "images that the Storage SCP takes.\n"
    )
    services = [
        (s["service"], s["method"], s["path"], s["media_types"], s["payload"])
        for s in found["services"]
    ]
    head = ("Service", "Method", "Path", "Media types of the answer", "Of the request")
    yield from _table_lines(head, services)
    yield (
        "\nEvery GET is answered to HEAD, too; OPTIONS names these capabilities as WADL or JSON. "
        f"QIDO-RS knows {', '.join(f'`{name}`' for name in found['search_parameters'])} as "
        "parameters, the attributes being those of Query/Retrieve; what is rendered, and "
        f"thumbnails, know {', '.join(f'`{name}`' for name in found['rendered_parameters'])}; "
        "others are ignored with Warning 299. Other retrievals and STOW-RS know `accept`. One "
        "object alone is had as `application/dicom`; what is rendered is had as what the "
        "objects can be."
    )


def _other_services(facts: dict[str, Any]) -> Iterable[str]:
    yield "\n### 5.4 Media services, 5.5 Real-time video services\n\nNone."
    yield "\n### 5.6 Cross-service considerations\n"
    yield (
        "An Instance is the same one whichever service it comes by. A sender by STOW-RS is sent "
        "nothing: it fetches the report by WADO-RS."
    )
    yield "\n### 5.7 Specific character sets\n"
    yield (
        "Received: all of PS3.3 C.12.1.1.2; what cannot be decoded is replaced where it is shown. "
        f"Sent: {facts['reports']['character_set']}."
    )


def _web_statuses(facts: dict[str, Any]) -> Iterable[str]:
    found = facts["dicomweb"]
    answers = ", ".join(
        f"{status['status']} ({status['when']})" for status in found["store_statuses"]
    )
    yield "\n#### 7.3.3 DICOM web services\n"
    yield (
        "A media type that is not named in 5.3.2 is answered 406, another method 405. "
        f"STOW-RS answers {answers}, with a Failure Reason for each Instance:\n"
    )
    failures = [(failure["reason"], failure["when"]) for failure in found["store_failures"]]
    yield from _table_lines(("Failure Reason", "When"), failures)


def _air_chapter(statement: dict[str, Any]) -> Iterable[str]:
    facts = statement["air"]
    yield "\n## F IHE AI Results (AIR)\n"
    yield (
        f"The node takes the part of the {facts['actor']}. This mapping is the manufacturer's own; "
        "it was not tested at a Connectathon.\n"
    )
    rows = [
        (transaction["id"], transaction["name"], transaction["support"])
        for transaction in facts["transactions"]
    ]
    yield from _table_lines(("Transaction", "Name", "This node"), rows)
    yield ""
    subjects = [
        (subject["subject"], subject["support"], f"`{subject['test']}`")
        for subject in facts["content"]
    ]
    yield from _table_lines(("Content", "This node", "Proved by"), subjects)


def _wait_words(bounds: tuple[float, float]) -> str:
    return f"after {bounds[0]:g} s, doubling up to every {bounds[1]:g} s, without end"


def _objects_chapter(facts: dict[str, Any]) -> Iterable[str]:
    yield "\n## A Information object definitions\n"
    yield (
        "ALWAYS: with a value. VNAP: without a value where the image has none. ANAP: left out "
        "where there is none. IMAGE: copied from the image; CONFIG: from node.toml; AUTO: made "
        "here."
    )
    for number, iod in enumerate(facts["iods"], 1):
        yield f"\n### A.{number} {iod['name']}\n"
        rows = [
            (
                attribute["module"],
                attribute["keyword"],
                attribute["tag"],
                attribute["vr"],
                attribute["presence"],
                attribute["source"],
            )
            for attribute in iod["attributes"]
        ]
        yield from _table_lines(("Module", "Attribute", "Tag", "VR", "Presence", "Source"), rows)
    yield (
        "\nUIDs derive from the image's UID, the model's version and the options: the same work "
        "gives the same objects. A report that replaces another names it in Predecessor Documents "
        "Sequence (0040,A360)."
    )
    yield "\nPrivate attributes: none are written."


def _mapping_chapter(facts: dict[str, Any]) -> Iterable[str]:
    yield "\n## D Mapping of attributes\n"
    yield (
        "From the image to its report: what annex A marks IMAGE keeps its tag. Attributes of an "
        "image that change what is done:\n"
    )
    read = [
        (attribute["keyword"], attribute["tag"], attribute["use"]) for attribute in facts["read"]
    ]
    yield from _table_lines(("Attribute", "Tag", "Use"), read)


def _code_sets(facts: dict[str, Any]) -> Iterable[str]:
    yield "\n## E Code set usage\n"
    yield f"Coding schemes: {', '.join(facts['reports']['coding_schemes'])}."


def _structured_report(facts: dict[str, Any]) -> Iterable[str]:
    reports = facts["reports"]
    yield "\n## B Structured report content encoding\n"
    yield from _table_lines(
        ("Structured report", "Content"),
        [
            ("Root template", reports["template"]),
            ("Measurement groups", reports["groups"]),
            ("Value types", ", ".join(reports["value_types"])),
            ("Relationships", ", ".join(reports["relationships"])),
            ("Completion Flag", reports["completion"]),
            ("Verification Flag", reports["verification"]),
            ("Referenced SOP Classes", ", ".join(contexts.IMAGES.values())),
        ],
    )


def _not_claimed(facts: dict[str, Any]) -> Iterable[str]:
    yield "\n## G Not claimed\n"
    yield ", ".join(facts["not_claimed"]) + "."


def _context_table(rows: Sequence[dict[str, Any]]) -> Iterable[str]:
    yield from _table_lines(
        ("Abstract syntax", "UID", "Transfer syntaxes", "Role"),
        [
            (
                context["name"],
                context["uid"],
                "<br>".join(f"{s['name']} ({s['uid']})" for s in context["transfer_syntaxes"]),
                context["role"],
            )
            for context in rows
        ],
    )


def _table_lines(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> Iterable[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    for row in rows:
        yield f"| {' | '.join(str(cell) for cell in row)} |"
