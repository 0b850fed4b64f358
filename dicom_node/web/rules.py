"""Rules: what is looked at, and which of them a file would meet and why."""

from __future__ import annotations

import io
from typing import Annotated, Any, BinaryIO

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import HTMLResponse
from pydicom import dcmread
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from dicom_node.base.errors import NotUnderstood
from dicom_node.flow import ask_gate, routing
from dicom_node.settings import Settings
from dicom_node.standard.header import read_header
from dicom_node.standard.part10 import has_length, head_size
from dicom_node.standard.unreadable import UNREADABLE
from dicom_node.store.ledger import Ledger
from dicom_node.store.spool import Spool
from dicom_node.web.holding import held_names
from dicom_node.web.render import Pages
from dicom_node.web.rule_trial import facts_of
from dicom_node.web.sessions import Door, Person, Posted
from dicom_node.web.trail import WebTrail

_HEAD = 1 << 16

TESTED = "/rules/test"
"""Where a file goes; `web.guard` lets it be as large as an Instance."""


def routes(
    settings: Settings, ledger: Ledger, spool: Spool, door: Door, pages: Pages, trail: WebTrail
) -> APIRouter:
    """Return the page of the rules and their test."""
    router = APIRouter()
    viewer = Depends(door.needs("viewer"))
    tests = Depends(door.posts("viewer", max_files=1, max_fields=8))

    def shown(person: Person, **values: Any) -> HTMLResponse:
        empty: dict[str, Any] = {
            "file": None,
            "verdicts": None,
            "facts": {},
            "met": None,
            "gate": None,
            "image": "",
            "held": held_names(ledger, "rule"),
            "problem": "",
        }
        return pages.page(
            "rules.html", person, rules=settings.rules, keys=routing.KEYS, **(empty | values)
        )

    @router.get("/rules")
    def rules(
        request: Request,
        image: Annotated[str, Query(max_length=64)] = "",
        person: Person = viewer,
    ) -> HTMLResponse:
        """Show the rules in their order, or which of them an image meets that is here."""
        if not image:
            return shown(person)
        known = ledger.history.trace(image).instance
        facts = facts_of(settings, spool, known)
        trail.accessed(request, person.name, [known])
        gate = ask_gate.GateVerdict(is_known=False)
        if known.file and spool.path(known.file).is_file():
            with spool.path(known.file).open("rb") as file:
                gate = ask_gate.ask(file)
        return shown(
            person,
            file=known.sop_instance_uid,
            image=known.sop_instance_uid,
            facts=facts,
            verdicts=routing.why(settings.rules, facts),
            met=routing.decide(settings.rules, facts),
            gate=gate,
        )

    @router.get(TESTED)
    def again(person: Person = viewer) -> HTMLResponse:
        """Show the rules to who reloads a test."""
        return shown(person)

    @router.post(TESTED)
    def test(posted: Posted = tests) -> HTMLResponse:
        """Say which rule a file meets and what the gate says; nothing of it is kept."""
        file = posted.form.get("file")
        if not isinstance(file, UploadFile) or not file.size:
            raise HTTPException(422, "choose a DICOM file first")
        known = {"file": (file.filename or "file")[:128]}
        try:
            facts = _facts_of_file(settings, file, posted.text("calling_ae", 16))
        except NotUnderstood as exc:
            return shown(posted.person, problem=str(exc), **known)
        return shown(
            posted.person,
            facts={key: facts[key] for key in routing.KEYS},
            verdicts=routing.why(settings.rules, facts),
            met=routing.decide(settings.rules, facts),
            gate=ask_gate.ask(file.file),
            **known,
        )

    return router


def _transfer_syntax(file: BinaryIO) -> str:
    """Return what the File Meta Information says; nothing behind it is read (PS3.10 7.1)."""
    head = file.read(144)
    length = head_size(head) - len(head) if has_length(head) else _HEAD
    meta = dcmread(io.BytesIO(head + file.read(min(length, _HEAD)))).file_meta
    return str(meta.get("TransferSyntaxUID", ""))


def _facts_of_file(settings: Settings, file: UploadFile, calling_ae: str) -> dict[str, str]:
    """Return what rules look at; who would send it is not in the file."""
    try:
        header = read_header(file.file, _transfer_syntax(file.file))
    except UNREADABLE as exc:
        raise NotUnderstood("this is not a DICOM file (Part 10)") from exc
    return routing.facts(settings, header, calling_ae)
