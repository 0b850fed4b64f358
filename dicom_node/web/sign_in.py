"""Signing in and out."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Form, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from starlette.exceptions import HTTPException

from dicom_node.base.addresses import is_loopback
from dicom_node.web.render import Pages
from dicom_node.web.sessions import Door, Posted, from_our_page, inside
from dicom_node.web.trail import WebTrail

Field = Annotated[str, Form(max_length=1024)]


def routes(door: Door, pages: Pages, trail: WebTrail) -> APIRouter:
    """Return the page to sign in on, and the way out."""
    router = APIRouter()
    leaves = Depends(door.posts("viewer"))

    def shown(
        request: Request, to: str, problem: str = "", status: int = 200, name: str = ""
    ) -> HTMLResponse:
        is_open = not (is_loopback(door.address(request)) or door.is_encrypted(request))
        said = {"to": to, "problem": problem, "is_open": is_open, "name": name}
        return pages.page("sign_in.html", None, status, **said)

    @router.get("/sign-in")
    def sign_in(request: Request, to: str = "/") -> Response:
        """Show the form."""
        if door.person(request) is not None:
            return RedirectResponse(inside(to), 303)
        return shown(request, inside(to))

    @router.post("/sign-in")
    async def signed_in(
        request: Request, name: Field = "", password: Field = "", to: Field = "/"
    ) -> Response:
        """Begin a session."""
        from_our_page(request)

        def note(*, is_right: bool) -> None:
            trail.signed_in(request, name.strip(), is_right=is_right)

        try:
            cookie = await door.sign_in(request, name.strip(), password)
        except HTTPException:
            await run_in_threadpool(note, is_right=False)
            raise
        await run_in_threadpool(note, is_right=cookie is not None)
        if cookie is None:
            return shown(request, inside(to), "Name or password is wrong.", 403, name.strip()[:64])
        answer: Response = RedirectResponse(inside(to), 303)
        if await run_in_threadpool(door.has_weak_password, name.strip()):
            answer = pages.page("signed_in.html", None, to=inside(to), is_weak=True)
        door.keep(request, answer, cookie)
        return answer

    @router.post("/sign-out")
    def sign_out(request: Request, posted: Posted = leaves) -> Response:
        """End the session, here and on the server."""
        door.leave(request)
        trail.signed_out(request, posted.person.name)
        answer = RedirectResponse("/sign-in", 303)
        answer.delete_cookie(
            door.cookie_name(request),
            httponly=True,
            samesite="strict",
            secure=door.is_encrypted(request),
        )
        return answer

    return router
