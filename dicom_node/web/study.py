"""A study: the image beside the words of all its reports, what became of them, what to do next."""

from __future__ import annotations

import logging
from dataclasses import asdict
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Path, Query, Request
from fastapi.responses import RedirectResponse, Response
from pydicom import dcmread
from starlette.exceptions import HTTPException

from dicom_node.base.errors import Busy, NotFound, NotUnderstood
from dicom_node.base.rims import foreign_code
from dicom_node.flow.by_hand import analyse_anyway
from dicom_node.flow.repeat import adopt
from dicom_node.settings import Settings
from dicom_node.standard.status import meaning
from dicom_node.store.ledger import Ledger, as_json
from dicom_node.store.ledger.studies import StudyImage
from dicom_node.store.ledger.views import Trace
from dicom_node.store.spool import Spool
from dicom_node.web import judging
from dicom_node.web.judging import COMMENT, CORRECTED
from dicom_node.web.preview import DEEP, WINDOWS, Previews
from dicom_node.web.regions import regions_of
from dicom_node.web.render import Pages, answered
from dicom_node.web.rule_trial import RoutingVerdict, facts_of, verdicts
from dicom_node.web.sessions import Door, Person, Posted
from dicom_node.web.texts import say, say_counted
from dicom_node.web.trail import WebTrail

logger = logging.getLogger(__name__)

OPEN = ("received", "queued", "running", "reported", "pending", "retrying")
"""States in which something will still happen by itself."""

MOST_TRACES = 24
"""Other images of a study whose reports stand on the page."""

Uid = Annotated[str, Path(pattern=r"^[0-9.]{1,64}$")]


def routes(
    settings: Settings, ledger: Ledger, spool: Spool, door: Door, pages: Pages, trail: WebTrail
) -> APIRouter:
    """Return the page of an Instance, its preview and its acts."""
    router = APIRouter(prefix="/images/{uid}")
    previews = Previews()
    viewer = Depends(door.needs("viewer"))
    judges = Depends(door.posts("viewer", max_files=0, max_fields=200))
    operates = Depends(door.posts("operator"))

    def why_not(trace: Trace) -> list[RoutingVerdict]:
        """Return what each rule says of an image that none took."""
        if trace.state != "ignored":
            return []
        return verdicts(settings, facts_of(settings, spool, trace.instance))

    @router.get("")
    def image(request: Request, uid: Uid, window: str = "", person: Person = viewer) -> Response:
        """Show all that is known of an Instance, among the other images of its study."""
        trace = ledger.history.trace(uid)
        if trace.sop_instance_uid != uid:  # a study, an accession number or a report
            return RedirectResponse(f"/images/{trace.sop_instance_uid}", 303)
        study = ledger.studies.of_image(uid)
        shown = [image for image in study.images if image.sop_instance_uid == uid]
        others = [image for image in study.images if image.sop_instance_uid != uid]
        near = [*shown, *others[:MOST_TRACES]]  # the words of the image that is seen come first
        traces = {
            image.sop_instance_uid: ledger.history.trace(image.sop_instance_uid) for image in near
        }
        # an open page asks every two seconds, for as long as an image waits
        note = trail.listed if "hx-request" in request.headers else trail.accessed
        note(request, person.name, [trace.instance for trace in traces.values()])
        known = [_shown_trace(image, traces[image.sop_instance_uid], person) for image in near]
        for shown_image in known:
            shown_image["verdicts"] = why_not(traces[shown_image["sop_instance_uid"]])
        preview = previews.why_not() or ("" if trace.instance.file else "purged")
        return pages.page(
            "study.html",
            person,
            study=study,
            images=known,
            selected=next(
                shown_image for shown_image in known if shown_image["sop_instance_uid"] == uid
            ),
            is_open=any(shown_image["is_open"] for shown_image in known),
            windows=WINDOWS,
            window=window if window in WINDOWS else next(iter(WINDOWS)),
            no_preview=preview,
            regions=_outlined_regions(spool, trace),
            lengths=(COMMENT, CORRECTED),
            are_judgements_sent=settings.report.send_judgements,
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
        wanted = window if window in (*WINDOWS, *DEEP) else "sent"
        picture = previews.png(spool.path(instance.file), wanted)
        trail.accessed(request, person.name, [instance])
        # The browser that shows it may keep it while the page is open; nobody else.
        headers = {"Cache-Control": "private, max-age=600"} if wanted in DEEP else None
        return Response(picture, media_type="image/png", headers=headers)

    @router.post("/retry")
    def retry(request: Request, uid: Uid, posted: Posted = operates) -> Response:
        """Let what failed or waits try again now."""
        count = ledger.acts.retry(uid, by=trail.actor(request, posted.person.name))
        what = say("%(count)s will be tried again now", count=count)
        what = what if count else say("nothing had failed or was waiting")
        return answered(request, what, f"/images/{uid}")

    @router.post("/resend")
    def resend(request: Request, uid: Uid, posted: Posted = operates) -> Response:
        """Send the report once more."""
        count = ledger.acts.resend(uid, by=trail.actor(request, posted.person.name))
        what = say("%(count)s will be sent again", count=count)
        what = what if count else say("nothing was ever sent")
        what = "; ".join((what, *ledger.acts.unsent(uid)))
        return answered(request, what, f"/images/{uid}")

    @router.post("/release")
    def release(request: Request, uid: Uid, posted: Posted = operates) -> Response:
        """Send what a shadow rule has withheld."""
        count, left = ledger.acts.release(uid, by=trail.actor(request, posted.person.name))
        what = say("%(count)s will be sent", count=count)
        what = what if count else say("nothing is withheld by a shadow rule")
        return answered(request, "; ".join((what, *left)), f"/images/{uid}")

    @router.post("/settle/{outcome}")
    def settle(
        request: Request,
        uid: Uid,
        outcome: Literal["sent", "given-up"],
        posted: Posted = operates,
    ) -> Response:
        """End deliveries that wait: a person knows that they arrived, or gives them up."""
        count = ledger.acts.settle(uid, outcome, by=trail.actor(request, posted.person.name))
        as_sent = say("%(count)s settled as sent", count=count)
        as_given_up = say("%(count)s settled as given up", count=count)
        return answered(request, as_sent if outcome == "sent" else as_given_up, f"/images/{uid}")

    @router.post("/adopt")
    def take_over(request: Request, uid: Uid, posted: Posted = operates) -> Response:
        """Let corrected content take the place of the first, and report again."""
        made = adopt(settings, spool, ledger, uid, by=trail.actor(request, posted.person.name))
        what = say_counted(
            "adopted; %(count)s new report follows",
            "adopted; %(count)s new reports follow",
            len(made),
        )
        return answered(request, what, f"/images/{uid}")

    @router.post("/analyse")
    def analyse(request: Request, uid: Uid, posted: Posted = operates) -> Response:
        """Analyse an image that no rule took, as by a rule."""
        by = trail.actor(request, posted.person.name)
        rule = posted.text("rule", 64)
        try:
            analyse_anyway(settings, spool, ledger, uid, rule, by)
        except Busy as exc:
            raise HTTPException(409, str(exc)) from exc
        note = f"{uid} is analysed anyway, as by rule {rule!r}"
        trail.changed(request, posted.person.name, "configured", note)
        return RedirectResponse(f"/images/{uid}", 303)

    @router.post("/replay")
    def replay(request: Request, uid: Uid, posted: Posted = operates) -> Response:
        """Analyse the image again."""
        rejects, by = settings.report.reject_replaced, trail.actor(request, posted.person.name)
        count = len(ledger.acts.replay(uid, by=by, rejects=rejects))
        what = say("new analyses that begin: %(count)s", count=count)
        return answered(request, what, f"/images/{uid}")

    @router.post("/judge")
    def judge(request: Request, uid: Uid, posted: Posted = judges) -> Response:
        """Keep what a reader thinks of a report."""
        by, report = trail.actor(request, judging.reader_of(posted.person)), settings.report
        sends = {"sends": report.send_judgements, "rejects": report.reject_replaced}
        verdict, judged = judging.keep(ledger, uid, posted, by, **sends)
        kept = say("kept: agree") if verdict == "agree" else say("kept: disagree")
        if judged.why:
            kept += "; " + say("not sent: %(why)s", why=judged.why)
        elif judged.job:
            kept += "; " + say("a report that says so follows")
        return answered(request, kept, f"/images/{uid}")

    return router


def _shown_trace(image: StudyImage, view: Trace, person: Person) -> dict[str, Any]:
    """Return a trace with what the page shows beside it: newest job first, statuses as words."""
    trace: dict[str, Any] = as_json(view)
    trace["number"] = image.number
    sent: dict[str, list[dict[str, Any]]] = {}
    for delivery in trace["deliveries"]:
        status = delivery["status"]
        delivery["meaning"] = "" if status is None else meaning(status)
        sent.setdefault(delivery["job"], []).append(delivery)
    for job, typed in zip(trace["jobs"], view.jobs, strict=True):
        job["deliveries"] = sent.get(job["job"], [])
        job["judging"] = judging.shown(view.judgements, typed, person)
    newest: dict[str, int] = {}
    for job in trace["jobs"]:
        newest[job["model"]] = max(newest.get(job["model"], 0), job["generation"])
    for job in trace["jobs"]:
        job["is_replaced"] = job["generation"] < newest[job["model"]]
    trace["jobs"].reverse()
    states = {trace["state"], *(d["state"] for d in trace["deliveries"])}
    states |= {job["state"] for job in trace["jobs"]}
    trace["is_open"] = bool(states & {s for s in OPEN if s != "reported"})
    trace["is_withheld"] = any(d["state"] == "withheld" for d in trace["deliveries"])
    return trace


def _outlined_regions(spool: Spool, trace: Trace) -> list[dict[str, Any]]:
    """Return the regions of the newest report that draws any on this image."""
    for job in reversed(trace.jobs):
        for made in trace.objects:
            if made.job == job.job and made.kind == "sr" and made.file:
                try:
                    # a worker's file, whatever is in it
                    with foreign_code(lambda exc: NotUnderstood(type(exc).__name__), passes=()):
                        found = regions_of(dcmread(spool.path(made.file)), trace.sop_instance_uid)
                except NotUnderstood as exc:
                    logger.warning("regions of %s cannot be read: %s", made.file, exc)
                    found = []
                if found:
                    return [asdict(region) for region in found]
    return []
