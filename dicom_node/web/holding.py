"""Hold and let go on the pages: a destination, a model's queue, a rule, a worker."""

from __future__ import annotations

from fastapi import APIRouter, Depends, Request
from fastapi.responses import RedirectResponse, Response
from starlette.exceptions import HTTPException

from dicom_node.conditions import HELD_PAGES
from dicom_node.store.ledger import Ledger
from dicom_node.store.ledger.holds import Hold, HoldKind, known_kind
from dicom_node.web.sessions import Door, Posted
from dicom_node.web.texts import say
from dicom_node.web.trail import WebTrail


def held_names(ledger: Ledger, kind: HoldKind) -> dict[str, Hold]:
    """Return what is held of a kind by its name."""
    return {hold.name: hold for hold in ledger.holds.held() if hold.kind == kind}


def routes(ledger: Ledger, door: Door, trail: WebTrail) -> APIRouter:
    """Return both acts."""
    router = APIRouter(prefix="/holds/{kind}")
    operates = Depends(door.posts("operator"))

    @router.post("/hold")
    def hold(request: Request, kind: str, posted: Posted = operates) -> Response:
        """Hold something back."""
        known, name = known_kind(kind), _hold_name(posted)
        by, why = trail.actor(request, posted.person.name), posted.text("why", 256)
        if ledger.holds.hold(known, name, by, why):
            trail.changed(request, posted.person.name, "configured", f"{known} {name} is held")
        return RedirectResponse(HELD_PAGES[known], 303)

    @router.post("/let-go")
    def let_go(request: Request, kind: str, posted: Posted = operates) -> Response:
        """Let something go; what waited goes on."""
        known, name = known_kind(kind), _hold_name(posted)
        ledger.holds.let_go(known, name)
        trail.changed(request, posted.person.name, "configured", f"{known} {name} is let go")
        return RedirectResponse(HELD_PAGES[known], 303)

    return router


def _hold_name(posted: Posted) -> str:
    name = posted.text("name", 128)
    if not name or not name.isprintable():
        raise HTTPException(422, say("name what is to be held"))
    return name
