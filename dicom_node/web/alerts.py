"""The strip of what is wrong, which pages that are open ask for again."""

from __future__ import annotations

from fastapi import APIRouter, Depends
from fastapi.responses import HTMLResponse

from dicom_node.web.render import Pages
from dicom_node.web.sessions import Door, Person


def routes(door: Door, pages: Pages) -> APIRouter:
    """Return the strip by itself; to ask for it is not an act that keeps a session open."""
    router = APIRouter()
    looks_on = Depends(door.needs("viewer", is_act=False))

    @router.get("/alerts")
    def alerts(person: Person = looks_on) -> HTMLResponse:
        """Show what is wrong now."""
        return pages.page("alerts.html", person)

    return router
