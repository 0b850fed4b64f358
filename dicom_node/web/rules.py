"""Rules: what is looked at, and which of them a file would meet and why."""

from __future__ import annotations

import io
from typing import Any, BinaryIO

from fastapi import APIRouter, Depends
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
from dicom_node.web.render import Pages
from dicom_node.web.sessions import Door, Person, Posted

_HEAD = 1 << 16

TESTED = "/rules/test"
"""Where a file goes; `web.guard` lets it be as large as an Instance."""


def routes(settings: Settings, door: Door, pages: Pages) -> APIRouter:
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
            "problem": "",
        }
        return pages.page(
            "rules.html", person, rules=settings.rules, keys=routing.KEYS, **(empty | values)
        )

    @router.get("/rules")
    def rules(person: Person = viewer) -> HTMLResponse:
        """Show the rules in their order."""
        return shown(person)

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
            facts = _facts(settings, file, posted.text("calling_ae", 16))
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


def _facts(settings: Settings, file: UploadFile, calling_ae: str) -> dict[str, str]:
    """Return what rules look at; who would send it is not in the file."""
    try:
        header = read_header(file.file, _transfer_syntax(file.file))
    except UNREADABLE as exc:
        raise NotUnderstood("this is not a DICOM file (Part 10)") from exc
    return routing.facts(settings, header, calling_ae)
