"""The pages for people, put together, and the files that they load."""

from __future__ import annotations

import hashlib
from importlib.resources import files

from fastapi import APIRouter
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from dicom_node.conditions import Conditions
from dicom_node.credentials import Credentials
from dicom_node.settings import Settings
from dicom_node.store.ledger import Ledger
from dicom_node.store.space import DiskSpace
from dicom_node.store.spool import Spool
from dicom_node.web import (
    alerts,
    bulk,
    configuration,
    edit_forms,
    holding,
    manual,
    peers,
    people,
    rules,
    sign_in,
    space,
    study,
    worker_start,
    worklist,
)
from dicom_node.web.render import Pages
from dicom_node.web.sessions import Door
from dicom_node.web.trail import WebTrail
from dicom_node.web.workers import Workers

_TYPES = {"css": "text/css", "js": "text/javascript", "txt": "text/plain", "svg": "image/svg+xml"}


def routes(
    settings: Settings,
    ledger: Ledger,
    spool: Spool,
    credentials: Credentials,
    workers: Workers,
    conditions: Conditions,
    echoes: peers.Echoes,
    runs: bulk.BulkRuns,
    disk: DiskSpace,
) -> APIRouter:
    """Return all pages; each asks for the sign-in that [web] wants."""
    door, pages = Door(settings, credentials, ledger.sessions), Pages(settings, conditions.now)
    router = APIRouter()
    seals = worklist.Seals(credentials.pages)
    trail = WebTrail(settings, ledger)
    router.include_router(
        worklist.routes(settings, ledger, spool, door, pages, seals, workers, trail)
    )
    router.include_router(bulk.routes(settings, ledger, spool, door, pages, seals, trail, runs))
    router.include_router(study.routes(settings, ledger, spool, door, pages, trail))
    router.include_router(alerts.routes(door, pages))
    # in front of the peers and rules, whose addresses begin alike
    router.include_router(edit_forms.routes(settings, ledger, spool, door, pages, trail))
    router.include_router(peers.routes(settings, ledger, door, pages, echoes))
    router.include_router(rules.routes(settings, ledger, spool, door, pages, trail))
    router.include_router(configuration.routes(settings, ledger, door, pages, workers))
    router.include_router(worker_start.routes(settings, door, trail))
    router.include_router(holding.routes(ledger, door, trail))
    router.include_router(space.routes(settings, ledger, spool, door, pages, trail, disk))
    router.include_router(people.routes(settings, ledger, door, pages, trail))
    router.include_router(sign_in.routes(door, pages, trail))
    if settings.web.oidc.issuer:
        from dicom_node.web import oidc

        router.include_router(oidc.routes(settings, door, pages, trail, credentials.pages.encode()))
    router.include_router(manual.routes(door, pages))
    folder = files("dicom_node.web").joinpath("static")
    known = {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}
    marks = {name: hashlib.sha256(content).hexdigest()[:16] for name, content in known.items()}

    @router.get("/static/{name}")
    def static(name: str) -> Response:
        """Return a file that pages load; nothing in it is secret."""
        if name not in known:
            raise HTTPException(404, "no such file")
        headers = {"Cache-Control": "public, max-age=300", "ETag": f'"{marks[name]}"'}
        kind = _TYPES.get(name.rpartition(".")[2], "application/octet-stream")
        return Response(known[name], media_type=kind, headers=headers)

    return router
