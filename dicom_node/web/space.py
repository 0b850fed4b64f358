"""The disk: what takes its space, what of it may go now, and how long files stay."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from starlette.exceptions import HTTPException

from dicom_node.base.plurals import counted
from dicom_node.base.translation import mark
from dicom_node.settings import Settings
from dicom_node.store.ledger import Ledger
from dicom_node.store.space import DiskSpace, Removal, RemovalKind
from dicom_node.store.spool import Spool
from dicom_node.web.render import Pages
from dicom_node.web.sessions import Door, Person, Posted
from dicom_node.web.texts import say
from dicom_node.web.trail import WebTrail

AGES: Mapping[int, str] = {
    0: mark("for a moment"),
    3600: mark("for an hour"),
    6 * 3600: mark("for 6 hours"),
    86400: mark("for a day"),
    7 * 86400: mark("for 7 days"),
    30 * 86400: mark("for 30 days"),
}
"""How long nothing has waited for a file that may go."""

FIRST_AGE = 3600
"""Less than retention's own times: what is over by these is gone already."""

PARTS: Mapping[str, str] = {
    "images": mark("Images"),
    "reports": mark("Reports"),
    "conflicts": mark("Kept apart: other content under a known UID"),
    "incoming": mark("Being received, or left by a crash"),
    "ledger": mark("Ledger"),
    "log": mark("Log"),
    "audit": mark("Audit trail"),
}

KINDS: Mapping[RemovalKind, str] = {
    "delivered": mark("Images whose reports were delivered"),
    "ignored": mark("Images that no rule took"),
    "kept": mark("Images whose reports stay here"),
    "reports": mark("Reports that were delivered"),
    "conflicts": mark("Other content under a known UID"),
    "left": mark("Files that are left over"),
}

MEANINGS: Mapping[RemovalKind, str] = {
    "delivered": mark("The archive has their reports. Here they cannot be looked at or analysed "
                      "again; texts and history stay."),
    "ignored": mark("They were not analysed. A rule that is made later finds them no more; send "
                    "them again then."),
    "kept": mark("Their reports are withheld, or go nowhere. The reports stay and may be released; "
                 "nobody can look at the images here any more."),
    "reports": mark("All peers that should have them have them. They cannot be sent again from "
                    "here; their texts stay on the pages."),
    "conflicts": mark("They came with the UID of an image that is known and were not analysed. "
                      "They cannot be adopted as corrections afterwards."),
    "left": mark("A crash has left them and nothing names them; younger than a day they stay."),
}  # fmt: skip


def routes(
    settings: Settings,
    ledger: Ledger,
    spool: Spool,
    door: Door,
    pages: Pages,
    trail: WebTrail,
    space: DiskSpace,
) -> APIRouter:
    """Return the page of the disk, and the acts on it."""
    router = APIRouter(prefix="/disk")
    operator, administers = Depends(door.needs("operator")), Depends(door.posts("admin"))
    looks_on = Depends(door.needs("operator", is_act=False))

    def clock_is_wrong() -> bool:
        # By a clock that was set back nothing is old, by one that is ahead everything.
        return ledger.history.last_event() - ledger.clock.wall() > 60

    @router.get("")
    def disk(
        person: Person = operator, older: Annotated[int, Query(ge=0, le=10**9)] = FIRST_AGE
    ) -> HTMLResponse:
        """Show what takes the space and what may go."""
        older = older if older in AGES else FIRST_AGE
        view = space.view(older)
        return pages.page(
            "disk.html",
            person,
            view=view,
            older=older,
            ages=AGES,
            parts=PARTS,
            kinds=KINDS,
            meanings=MEANINGS,
            min_free=spool.min_free,
            has_room=spool.has_room(),
            folder=str(spool.root.absolute()),
            limits=settings.retention,
            run=space.removal,
            clock_is_wrong=clock_is_wrong(),
        )

    @router.get("/removal")
    def removal(person: Person = looks_on) -> HTMLResponse:
        """Show how far the last removal has come."""
        run = space.removal
        if run is None:
            raise HTTPException(404, say("nothing was removed since the node started"))
        return pages.page(
            "removal.html", person, run=run, kinds=KINDS, ages=AGES, has_room=spool.has_room()
        )

    @router.post("/remove/{kind}")
    def remove(request: Request, kind: str, posted: Posted = administers) -> Response:
        """Begin to remove files of one kind."""
        known: RemovalKind | None = next((one for one in KINDS if one == kind), None)
        text = posted.text("older", 9)
        older = int(text) if text.isascii() and text.isdigit() else -1
        if known is None or older not in AGES:
            raise HTTPException(422, say("name what is to be removed, and how old it has to be"))
        if clock_is_wrong():
            raise HTTPException(
                409, say("the clock is wrong, so no file's age is known; set it first")
            )
        name, by = posted.person.name, trail.actor(request, posted.person.name)
        what = KINDS[known] + ("" if known == "left" else f", not waited for {AGES[older]}")

        def note(run: Removal) -> None:
            ended = f", then: {run.problem}" if run.problem else ""
            files, size = counted(run.done, "file"), counted(run.size, "byte")
            trail.changed(request, name, "configured", f"removed {files}: {what}, {size}{ended}")

        if not space.begin(known, older, by, note):
            raise HTTPException(503, say("another removal is under way; wait until it is done"))
        trail.changed(request, name, "configured", f"begins to remove: {what}")
        return RedirectResponse("/disk/removal", 303)

    return router
