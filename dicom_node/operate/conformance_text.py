"""The text of the DICOM Conformance Statement, in the order of PS3.2 Annex A."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from dicom_node.dimse import contexts

_YES = {True: "Yes", False: "No"}


def as_markdown(told: dict[str, Any]) -> str:
    """Return the statement in the order of PS3.2 Annex A."""
    chapters = (
        _overview,
        _introduction,
        _associations,
        _acceptance,
        _retrieval,
        _initiation,
        _commitment,
        _web,
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
    yield ""
    rows = [(name, "No", "Yes") for name in ("QIDO-RS", "WADO-RS", "STOW-RS")]
    yield from _table(("DICOMweb service", "User agent", "Origin server"), rows)


def _introduction(_: dict[str, Any]) -> Iterable[str]:
    yield "\n## 2 Table of contents\n"
    yield "1 Overview, 3 Introduction, 4 Networking, 5 Media interchange,"
    yield "6 Support of character sets, 7 Security, 8 Annexes (8.2: IHE AI Results)"
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
    yield f"\nWeb: {told['security']['web']}. Audit trail: {told['security']['audit']}."


def _services(told: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """Return, for each SOP class, whether it is used as SCU and offered as SCP."""
    ours = (*told["accepted"], *told["proposed"], *told["accepted_for_commitment"])
    scu_names = {one["name"] for one in ours if "SCU" in one["role"]}
    scp_names = {one["name"] for one in told["accepted"] if "SCP" in one["role"]}
    names = dict.fromkeys(one["name"] for one in ours)
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
    yield "\nFrom a requestor that proposes to be the SCP of what a C-GET brings:\n"
    yield from _contexts(told["accepted_for_get"])
    yield "\nFrom a peer with `storage_commitment = true`, which reports what it commits to:\n"
    yield from _contexts(told["accepted_for_commitment"])
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
    yield "\n#### 4.2.4 Associations initiated\n"
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


def _retrieval(told: dict[str, Any]) -> Iterable[str]:
    found = told["query_retrieve"]
    yield "\n#### 4.2.3 Query/Retrieve SCP\n"
    yield (
        "The objects are the reports of this node, as far as a live rule made them for a "
        "destination. Of the SOP Classes of one report that is shown which a destination took. "
        "Images are not queried. C-MOVE goes to configured peers only.\n"
    )
    levels = [(level["level"], level["unique"], _keys(level["keys"])) for level in found["levels"]]
    yield from _table(("Level", "Unique key", "Other keys"), levels)
    yield (
        "\nKeys of the levels above are matched and returned, too. Matching: single value, list of "
        "UID, range of dates and times, sequence, universal, and wild card for "
        f"{', '.join(found['wildcards'])}; names without regard to case. No relational queries, no "
        "fuzzy matching, no combined date and time. Responses are in ISO_IR 192.\n"
    )
    rows = [(s["status"], s["meaning"], s["operations"], s["when"]) for s in found["statuses"]]
    yield from _table(("Status", "Meaning", "Operations", "When"), rows)


def _keys(keywords: Sequence[str]) -> str:
    return ", ".join(keywords) or "every attribute before Content Sequence (0040,A730)"


def _commitment(told: dict[str, Any]) -> Iterable[str]:
    found = told["storage_commitment"]
    yield "\n#### 4.2.5 Storage Commitment SCU\n"
    yield (
        "Each peer with `storage_commitment = true` is asked (N-ACTION, action 1) to commit to "
        "what it has taken, on an association of its own with a new Transaction UID. Its "
        f"N-EVENT-REPORT is taken on that association for {found['wait_on_association_s']:g} s, "
        "and at any time later on one that the peer opens to the listener, with SCP/SCU role "
        "selection or without. An object that the peer does not have is sent again and asked for "
        "again. Without an answer it is asked for again "
        f"{_waits(found['wait_for_answer_s'])}. An answer to an earlier transaction counts.\n"
    )
    rows = [(s["status"], s["meaning"], s["when"]) for s in found["report_statuses"]]
    yield from _table(("Status of N-EVENT-REPORT", "Meaning", "When"), rows)
    yield "\nFailure Reasons that are known by name; every one but 0131 sends the object again:\n"
    reasons = [(one["reason"], one["meaning"]) for one in found["failure_reasons"]]
    yield from _table(("Failure Reason", "Meaning"), reasons)


def _web(told: dict[str, Any]) -> Iterable[str]:
    found = told["dicomweb"]
    yield "\n#### 4.2.6 DICOMweb origin server\n"
    yield (
        f"Root `{found['root']}`, over the same reports as Query/Retrieve; STOW-RS takes the "
        "images that the Storage SCP takes.\n"
    )
    rows = [(s["service"], s["method"], s["path"], s["media_types"]) for s in found["services"]]
    yield from _table(("Service", "Method", "Path", "Media types"), rows)
    yield (
        "\nEvery GET is answered to HEAD, too; OPTIONS names these capabilities as WADL or JSON. "
        f"QIDO-RS knows {', '.join(f'`{name}`' for name in found['search_parameters'])} as "
        "parameters, the attributes being those of Query/Retrieve; others are ignored with Warning "
        "299. STOW-RS answers 200, 202 (some failed), 409 (all failed), 415 (another media type, "
        "or an encoding), 503 (no room), with a Failure Reason for each Instance:\n"
    )
    failures = [(one["reason"], one["when"]) for one in found["store_failures"]]
    yield from _table(("Failure Reason", "When"), failures)


def _air(told: dict[str, Any]) -> Iterable[str]:
    yield "\n### 8.2 IHE AI Results (AIR)\n"
    yield (
        f"The node takes the part of the {told['actor']}. This mapping is the manufacturer's own; "
        "it was not tested at a Connectathon.\n"
    )
    rows = [(one["id"], one["name"], one["support"]) for one in told["transactions"]]
    yield from _table(("Transaction", "Name", "This node"), rows)
    yield ""
    subjects = [(one["subject"], one["support"]) for one in told["content"]]
    yield from _table(("Content", "This node"), subjects)


def _waits(bounds: tuple[float, float]) -> str:
    return f"after {bounds[0]:g} s, doubling up to every {bounds[1]:g} s, without end"


def _annexes(told: dict[str, Any]) -> Iterable[str]:
    reports = told["reports"]
    yield "\n## 8 Annexes\n\n### 8.1 IOD contents\n"
    yield from _table(
        ("Structured report", "Content"),
        [
            ("Root template", reports["template"]),
            ("Measurement groups", reports["groups"]),
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
    yield from _air(told["air"])
    yield "\n### 8.3 Not claimed\n"
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
