"""What `rules test` finds out about a file: which rule takes it, and what the gate says."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from pydicom.filereader import read_file_meta_info

from dicom_node.base.errors import NotUnderstood
from dicom_node.flow import ask_gate, routing
from dicom_node.operate.show import print_json
from dicom_node.settings import Settings
from dicom_node.standard.header import read_header
from dicom_node.standard.unreadable import UNREADABLE


def rules_test(settings: Settings, path: Path, *, as_json: bool) -> int:
    """Say which rule a file matches and why the others do not; 1 when none matches."""
    facts = _facts_of_file(settings, path)
    verdicts = [
        {"rule": name, "matches": matches, "because": because}
        for name, matches, because in routing.why(settings.rules, facts)
    ]
    rule = routing.decide(settings.rules, facts)
    with path.open("rb") as file:
        judged = ask_gate.ask(file)
    if as_json:
        tried = {"file": str(path), "rule": rule.name if rule else None, "rules": verdicts}
        print_json(tried | {"gate": asdict(judged) if judged.is_known else None})
    else:
        for verdict in verdicts:
            sign = "✓" if verdict["matches"] else "–"
            print(f"{sign} {verdict['rule']}: {verdict['because'] or 'matches'}")
        print(f"rule: {rule.name} -> {rule.model}" if rule else "no rule: ignored")
        print(f"gate: {_gate_answer(judged)}")
    return 0 if rule else 1


def _gate_answer(judged: ask_gate.GateVerdict) -> str:
    if not judged.is_known:
        return "the worker's program gives no answer here"
    return "passes" if judged.passes else f"refuses: {judged.text} ({judged.code})"


def _facts_of_file(settings: Settings, path: Path) -> dict[str, str]:
    """Return what rules look at; the caller's AE title is not in a file."""
    try:
        syntax = str(read_file_meta_info(path).get("TransferSyntaxUID", ""))
        with path.open("rb") as file:
            header = read_header(file, syntax)
    except OSError as exc:
        raise NotUnderstood(f"{path}: {exc.strerror}") from exc
    except UNREADABLE as exc:
        raise NotUnderstood(f"{path}: not a DICOM file") from exc
    return routing.facts(settings, header)
