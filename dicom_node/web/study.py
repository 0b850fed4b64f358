"""One Instance: its picture beside the words, what became of them, and what to do next."""

from __future__ import annotations

from typing import Annotated, Any, Literal, cast

from fastapi import APIRouter, Depends, Path, Query, Request
from fastapi.responses import HTMLResponse, Response

from dicom_node.base.errors import NotFound
from dicom_node.flow.repeat import adopt
from dicom_node.settings import Settings
from dicom_node.standard.status import meaning
from dicom_node.store.ledger import Ledger, as_json
from dicom_node.store.ledger.views import Trace
from dicom_node.store.spool import Spool
from dicom_node.web.preview import DATA, WINDOWS, Previews
from dicom_node.web.render import Pages, told
from dicom_node.web.sessions import Door, Person, Posted
from dicom_node.web.trail import WebTrail

OPEN = ("received", "queued", "running", "reported", "pending", "retrying")
"""States in which something will still happen by itself."""

JUDGED = ("agree", "disagree")
COMMENT = 1000

Uid = Annotated[str, Path(pattern=r"^[0-9.]{1,64}$")]


def routes(
    settings: Settings, ledger: Ledger, spool: Spool, door: Door, pages: Pages, trail: WebTrail
) -> APIRouter:
    """Return the page of an Instance, its preview and its acts."""
    router = APIRouter(prefix="/images/{uid}")
    previews = Previews()
    viewer = Depends(door.needs("viewer"))
    judges = Depends(door.posts("viewer"))
    operates = Depends(door.posts("operator"))

    @router.get("")
    def image(
        request: Request, uid: Uid, window: str = "", person: Person = viewer
    ) -> HTMLResponse:
        """Show all that is known of an Instance."""
        trace = ledger.history.trace(uid)
        known = _told(trace)
        trail.accessed(request, person.name, [trace.instance])
        preview = previews.why_not() or ("" if known["instance"]["file"] else "purged")
        chosen = window if window in WINDOWS else next(iter(WINDOWS))
        return pages.page(
            "image.html",
            person,
            trace=known,
            windows=WINDOWS,
            window=chosen,
            no_preview=preview,
            comment_length=COMMENT,
        )

    @router.get("/preview.png")
    def preview(
        request: Request,
        uid: Uid,
        window: Annotated[str, Query(max_length=16)] = "",
        person: Person = viewer,
    ) -> Response:
        """Draw the Instance."""
        instance = ledger.history.trace(uid).instance
        if not instance.file:
            raise NotFound("retention has removed the image")
        chosen = window if window in (*WINDOWS, DATA) else "sent"
        picture = previews.png(spool.path(instance.file), chosen)
        trail.accessed(request, person.name, [instance])
        return Response(picture, media_type="image/png")

    @router.post("/retry")
    def retry(request: Request, uid: Uid, posted: Posted = operates) -> Response:
        """Let what failed or waits try again now."""
        count = ledger.acts.retry(uid, by=trail.actor(request, posted.person.name))
        what = f"{count} will be tried again now" if count else "nothing had failed or was waiting"
        return told(request, what, f"/images/{uid}")

    @router.post("/resend")
    def resend(request: Request, uid: Uid, posted: Posted = operates) -> Response:
        """Send the report once more."""
        count = ledger.acts.resend(uid, by=trail.actor(request, posted.person.name))
        what = f"{count} will be sent again" if count else "nothing was ever sent"
        what = "; ".join((what, *ledger.acts.unsent(uid)))
        return told(request, what, f"/images/{uid}")

    @router.post("/release")
    def release(request: Request, uid: Uid, posted: Posted = operates) -> Response:
        """Send what a shadow rule has withheld."""
        count, left = ledger.acts.release(uid, by=trail.actor(request, posted.person.name))
        what = f"{count} will be sent" if count else "nothing is withheld by a shadow rule"
        return told(request, "; ".join((what, *left)), f"/images/{uid}")

    @router.post("/settle/{outcome}")
    def settle(
        request: Request,
        uid: Uid,
        outcome: Literal["sent", "given-up"],
        posted: Posted = operates,
    ) -> Response:
        """End deliveries that wait: a person knows that they arrived, or gives them up."""
        count = ledger.acts.settle(uid, outcome, by=trail.actor(request, posted.person.name))
        return told(request, f"{count} settled as {outcome}", f"/images/{uid}")

    @router.post("/adopt")
    def take_over(request: Request, uid: Uid, posted: Posted = operates) -> Response:
        """Let corrected content take the place of the first, and report again."""
        made = adopt(settings, spool, ledger, uid, by=trail.actor(request, posted.person.name))
        return told(request, f"adopted; {len(made)} new report(s) follow", f"/images/{uid}")

    @router.post("/replay")
    def replay(request: Request, uid: Uid, posted: Posted = operates) -> Response:
        """Analyse the image again."""
        rejects, by = settings.report.reject_replaced, trail.actor(request, posted.person.name)
        count = len(ledger.acts.replay(uid, by=by, rejects=rejects))
        what = f"{count} new analysis begins" if count == 1 else f"{count} new analyses begin"
        return told(request, what, f"/images/{uid}")

    @router.post("/judge")
    def judge(request: Request, uid: Uid, posted: Posted = judges) -> Response:
        """Keep what a reader thinks of a report."""
        verdict, comment = posted.text("verdict"), posted.text("comment", COMMENT)
        job = posted.text("job")
        if verdict not in JUDGED or job not in {one.job for one in ledger.history.trace(uid).jobs}:
            raise NotFound("there is no such report to judge")
        by = trail.actor(request, posted.person.name or "a reader")
        report = settings.report
        judged = ledger.acts.judge(
            job,
            cast('Literal["agree", "disagree"]', verdict),
            by,
            comment,
            sends=report.send_judgements,
            rejects=report.reject_replaced,
        )
        follows = "; a report that says so follows" if judged.job else ""
        follows = f"; not sent: {judged.why}" if judged.why else follows
        return told(request, f"kept: {verdict}{follows}", f"/images/{uid}")

    return router


def _told(view: Trace) -> dict[str, Any]:
    """Return a trace with what the page shows beside it: newest job first, statuses as words."""
    trace: dict[str, Any] = as_json(view)
    sent: dict[str, list[dict[str, Any]]] = {}
    for delivery in trace["deliveries"]:
        status = delivery["status"]
        delivery["meaning"] = "" if status is None else meaning(status)
        sent.setdefault(delivery["job"], []).append(delivery)
    judged: dict[str, list[dict[str, Any]]] = {}
    for stage in trace["stages"]:
        if stage["stage"] in JUDGED:
            judged.setdefault(stage["job"], []).append(stage)
    for job in trace["jobs"]:
        job["deliveries"] = sent.get(job["job"], [])
        job["judged"] = judged.get(job["job"], [])
    trace["jobs"].reverse()
    states = {trace["state"], *(d["state"] for d in trace["deliveries"])}
    states |= {job["state"] for job in trace["jobs"]}
    trace["is_open"] = bool(states & {s for s in OPEN if s != "reported"})
    return trace
