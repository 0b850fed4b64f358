"""The HTTP side as one application: job API, health, worklist; and the loop that serves it."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress

import uvicorn
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from dicom_node import __version__
from dicom_node.base.addresses import is_in, parse_address, parse_network
from dicom_node.base.errors import (
    ChexFractError,
    ConfigurationError,
    NotFound,
    OutOfResources,
    Stale,
    Transient,
    for_strangers,
    hide_paths,
)
from dicom_node.base.logs import Sparse
from dicom_node.conditions import Conditions
from dicom_node.credentials import Credentials
from dicom_node.dimse.security import acceptor
from dicom_node.settings import Settings, Tls
from dicom_node.store.ledger import Ledger
from dicom_node.store.space import DiskSpace
from dicom_node.store.spool import Spool
from dicom_node.web import api, dicomweb, health, jobs, pages
from dicom_node.web import workers as of_workers
from dicom_node.web.brake import Brake
from dicom_node.web.bulk import BulkRuns
from dicom_node.web.connections import Gate, connections_of, handshakes_of, most_connections
from dicom_node.web.cross_origin import CrossOrigin
from dicom_node.web.guard import HEALTH, SECRET_PATHS, Guard
from dicom_node.web.peers import Echoes
from dicom_node.web.render import templates
from dicom_node.web.rules import TESTED
from dicom_node.web.sessions import Door
from dicom_node.web.trail import WebTrail
from dicom_node.web.workers import Workers

logger = logging.getLogger(__name__)
_cut_off = Sparse(logger)

_NO_ROOM = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO),
    *(errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS),
)
"""What the operating system says where a request may do better later."""

STOP_S = 1
"""Time that requests in progress have to end when the server stops."""


class WebSite:
    """The application in force; one with other peers and rules may take its place at any time.

    Requests under way end on the application that they began on. Parameters as of `create_app`.
    """

    def __init__(
        self,
        settings: Settings,
        ledger: Ledger,
        spool: Spool,
        credentials: Credentials,
    ) -> None:
        self._of_all = (ledger, spool, credentials)
        self._counts = health.LedgerCounts(ledger, spool)
        self._workers = Workers()
        self._echoes = Echoes()
        self._brake = Brake()
        self._runs = BulkRuns()
        self._space = DiskSpace(settings, ledger, spool)
        self._threads = jobs.CallThreads()
        self._app = self._make_application(settings)

    def take(self, settings: Settings) -> None:
        """Answer with other settings from the next request on; pages that are open follow."""
        old, self._app = self._app, self._make_application(settings)
        # its live pages end their streams and ask again, from the new application
        old.state.is_over.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on."""
        await self._app(scope, receive, send)

    def _make_application(self, settings: Settings) -> FastAPI:
        return create_app(
            settings,
            *self._of_all,
            self._counts,
            self._workers,
            self._echoes,
            self._brake,
            self._runs,
            self._space,
            self._threads,
        )


class _Application(FastAPI):
    """The application, of which the job API is asked before FastAPI's layers are gone through."""

    job_api: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] == "http" and scope["path"].startswith(jobs.JOBS):
            await self.job_api(scope, receive, send)
            return
        await super().__call__(scope, receive, send)


def create_app(
    settings: Settings,
    ledger: Ledger,
    spool: Spool,
    credentials: Credentials | str,
    counts: health.LedgerCounts | None = None,
    workers: Workers | None = None,
    echoes: Echoes | None = None,
    brake: Brake | None = None,
    runs: BulkRuns | None = None,
    space: DiskSpace | None = None,
    threads: jobs.CallThreads | None = None,
) -> FastAPI:
    """Return the application.

    Parameters
    ----------
    credentials : Credentials
        What workers, DICOMweb clients and the first administrator show; one text for all of them
        is what 0.1.0 had.
    counts : Counts, optional
        Counts that go on from an application before this one.
    workers : Workers, optional
        Workers that sent a heartbeat to an application before this one.
    echoes : Echoes, optional
        Echoes that an application before this one has seen.
    brake : Brake, optional
        Tries of unknown keys that an application before this one has counted.
    runs : BulkRuns, optional
        Acts on many images that an application before this one has begun.
    space : DiskSpace, optional
        What an application before this one has counted and removes.
    threads : CallThreads, optional
        The threads in which an application before this one answers workers.
    """
    if isinstance(credentials, str):
        credentials = Credentials.same(credentials)
    app = _Application(
        title="chexfract-node",
        version=__version__,
        # Their pages load scripts from a third party.
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        # A redirect would lead to whatever host the request named.
        redirect_slashes=False,
    )
    app.state.is_over = threading.Event()
    workers = workers or Workers()
    conditions = Conditions(settings, ledger, spool, workers.models, workers.born)
    batches = of_workers.BatchGauges(workers)
    app.include_router(
        health.routes(
            ledger, spool, counts, settings.web.metrics, conditions, workers.models, [batches]
        )
    )
    app.include_router(of_workers.routes(workers))
    door = Door(settings, credentials, ledger.sessions)
    app.include_router(dicomweb.routes(settings, ledger, spool, door, credentials))
    trail = WebTrail(settings, ledger)
    runs = runs or BulkRuns()
    app.include_router(api.routes(settings, ledger, spool, door, trail, brake or Brake(), runs))
    app.include_router(
        pages.routes(
            settings,
            ledger,
            spool,
            credentials,
            workers,
            conditions,
            echoes or Echoes(),
            runs,
            space or DiskSpace(settings, ledger, spool),
        )
    )
    for kind, answer in _ANSWERS.items():
        app.add_exception_handler(kind, answer)
    is_https = settings.web.url.startswith("https:")
    app.add_middleware(
        Guard,
        secret=credentials.jobs,
        larger={TESTED: settings.node.max_instance},
        is_https=is_https,
    )
    threads = threads or jobs.CallThreads()
    api_of_jobs = jobs.application(settings, ledger, spool, _ANSWERS, threads)
    app.job_api = Guard(api_of_jobs, credentials.jobs, is_https=is_https)
    app.add_middleware(CrossOrigin, origins=settings.web.cors_origins)
    return app


def serve_web(
    settings: Settings,
    app: ASGIApp,
    stop: threading.Event,
    ready: Callable[[], None] = lambda: None,
    turn: Callable[[], None] = lambda: None,
) -> None:
    """Serve `app` until `stop` is set; requests in progress get a second to end.

    Parameters
    ----------
    ready : callable
        Called once the port is served.
    turn : callable
        Called by the event loop about once a second, as long as it turns.

    Raises
    ------
    ConfigurationError
        The port is in use or not ours to take, or a TLS file is wrong.
    """
    web, own = settings.web, settings.jobs
    tls = acceptor(Tls(certificate=web.certificate, key=web.key))
    proxies = [parse_network(text) for text in web.proxy_addresses]

    def is_proxy(address: str) -> bool:
        caller = parse_address(address)
        return caller is not None and is_in(caller, proxies)

    pages_app = all_but_jobs(app) if own.port is not None else app
    ports = [_Port(pages_app, web.host, web.port, tls, is_proxy)]
    try:
        if own.port is not None:
            ports.append(_Port(only_jobs(app), own.host or web.host, own.port, tls, is_proxy))
        ports[0].turn = turn
        # It would say in three more lines that it starts and ends.
        logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
        for port in ports:
            port.start()
        words = ["pages and job API"] if len(ports) == 1 else ["pages", "job API"]
        for what, port in zip(words, ports, strict=True):
            logger.info("%s at %s", what, port.url)
        ready()
        while all(port.is_serving for port in ports) and not stop.wait(0.5):
            for port in ports:
                port.sweep()
    finally:
        for port in ports:
            port.stop()


class _Port:
    """One listening port, served by a thread with an event loop, and threads, of its own."""

    def __init__(
        self,
        app: ASGIApp,
        host: str,
        port: int,
        tls: ssl.SSLContext | None,
        is_proxy: Callable[[str], bool],
    ) -> None:
        self.turn: Callable[[], None] = lambda: None
        self._tls = tls
        self._listening = _bind_socket(host, port)
        self._gate = Gate(most_connections(), is_proxy=is_proxy)
        self._loop: asyncio.AbstractEventLoop | None = None
        config = uvicorn.Config(
            app,
            http=handshakes_of(self._gate, tls) if tls else connections_of(self._gate),
            log_config=None,
            access_log=False,
            lifespan="off",
            server_header=False,
            # who is believed about addresses is decided in one place, `client_address`
            proxy_headers=False,
            timeout_graceful_shutdown=STOP_S,
            callback_notify=self._notify,
            timeout_notify=1,
        )
        self._server = uvicorn.Server(config)
        # In a thread of its own uvicorn leaves this process's signals alone.
        self._thread = threading.Thread(
            target=self._server.run, args=([self._listening],), name="web"
        )

    @property
    def url(self) -> str:
        """Where it listens."""
        host, port = self._listening.getsockname()[:2]
        return f"{'https' if self._tls else 'http'}://{host}:{port}/"

    @property
    def is_serving(self) -> bool:
        """Whether its thread lives."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Serve, and return when it does."""
        self._thread.start()
        while self._thread.is_alive() and not self._server.started:
            self._thread.join(0.01)

    def sweep(self) -> None:
        """Close connections that wait too long."""
        if self._loop is not None:
            with suppress(RuntimeError):  # it has just ended
                self._loop.call_soon_threadsafe(self._gate.sweep)

    def stop(self) -> None:
        """End; requests in progress get a second."""
        self._server.should_exit = True
        if self._thread.is_alive():
            end = time.monotonic() + STOP_S
            # again and again: a connection may become idle while others are hung up on
            while self._tls and self._thread.is_alive() and time.monotonic() < end:
                self._thread.join(0.2)
                _hang_up(self._server)
            self._thread.join(STOP_S + 1)
        if not self._thread.is_alive():  # else its loop still closes it
            self._listening.close()

    async def _notify(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.turn()


def only_jobs(app: ASGIApp) -> ASGIApp:
    """Return the application of the job API's own port."""
    return _limit_paths(app, lambda path: path.startswith(SECRET_PATHS) or path in HEALTH)


def all_but_jobs(app: ASGIApp) -> ASGIApp:
    """Return the application of the web port where the job API has one of its own."""
    return _limit_paths(app, lambda path: not path.startswith(SECRET_PATHS))


def _limit_paths(app: ASGIApp, is_here: Callable[[str], bool]) -> ASGIApp:
    async def parted(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not is_here(scope["path"]):
            await JSONResponse({"detail": "Not Found"}, 404)(scope, receive, send)
            return
        await app(scope, receive, send)

    return parted


def _hang_up(server: uvicorn.Server) -> None:
    """Close idle connections of TLS, which would wait for the good-bye of their peers."""
    for connection in list(server.server_state.connections):
        cycle = getattr(connection, "cycle", None)
        transport = getattr(connection, "transport", None)
        if transport is not None and (cycle is None or cycle.response_complete):
            with suppress(RuntimeError):  # its loop has just ended
                connection.loop.call_soon_threadsafe(transport.abort)


def _bind_socket(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen(1024)
    except OSError as exc:
        listening.close()
        raise ConfigurationError(_why_no_port(host, port, exc)) from exc
    return listening


def _why_no_port(host: str, port: int, exc: OSError) -> str:
    if exc.errno == errno.EADDRINUSE:
        advice = "stop the other program or change [web] port"
        return f"port {port} is in use ({host}): {advice}"
    return f"cannot listen on {host} port {port}: {exc.strerror or exc}; check [web] host and port"


def _answer_error(request: Request, exc: Exception) -> Response:
    """Answer an error of ours with its HTTP status."""
    status = 400
    if isinstance(exc, NotFound):
        status = 404
    elif isinstance(exc, Stale):
        status = 409
    elif isinstance(exc, Transient):
        status = 503
        logger.warning("%s: %s", request.url.path, exc)
    headers = {"Retry-After": "5"} if status == 503 else None
    return _error_response(request, status, for_strangers(exc), headers)


def _answer_no_room(request: Request, exc: Exception) -> Response:
    """Answer a request for which this host has no room: its disk, or where bodies wait, is full."""
    has_no_folder = isinstance(exc, FileNotFoundError) and "temporary directory" in str(exc)
    if not isinstance(exc, OSError) or not (has_no_folder or exc.errno in _NO_ROOM):
        raise exc
    what = "the disk cannot be written" if has_no_folder else str(exc.strerror or exc)
    return _answer_error(request, OutOfResources(f"no room for this request: {what}"))


def _answer_cut_off(request: Request, exc: Exception) -> Response:
    """Note a request whose sender went away, or broke off its own chunks; few hear the answer."""
    address = request.client.host if request.client else "?"
    _cut_off.warning("a request of %s to %a ended before its end", address, request.url.path)
    return _error_response(request, 400, "the body ended before its end")


def _answer_refusal(request: Request, exc: Exception) -> Response:
    """Answer what a page or the server itself refused."""
    if not isinstance(exc, HTTPException):
        raise HTTPException(500)
    return _error_response(request, exc.status_code, hide_paths(str(exc.detail)), exc.headers)


def _error_response(
    request: Request, status: int, what: str, headers: Mapping[str, str] | None = None
) -> Response:
    """Say what went wrong as whoever asked reads it: in place, as a page, or as JSON."""
    if request.headers.get("hx-request"):
        text = templates.get_template("said.html").render(said=what, is_good=False)
        return HTMLResponse(text, status, headers)
    if "text/html" in request.headers.get("accept", ""):
        return HTMLResponse(
            templates.get_template("error.html").render(said=what, status=status), status, headers
        )
    return JSONResponse({"detail": what}, status, headers)


def _answer_malformed(request: Request, exc: Exception) -> Response:
    """Say which fields of a body are wrong, and nothing of what stood in them."""
    if not isinstance(exc, RequestValidationError):
        raise HTTPException(500)
    if request.method in ("GET", "HEAD") and any(e["loc"][:1] == ("path",) for e in exc.errors()):
        # an address that can be nobody's is an unknown one, for people on a page, too
        return _error_response(request, 404, "nothing is known by this name")
    return JSONResponse({"detail": jobs.faults(exc.errors())}, 422)


_ANSWERS: jobs.Answers = {
    ChexFractError: _answer_error,
    OSError: _answer_no_room,
    ClientDisconnect: _answer_cut_off,
    RequestValidationError: _answer_malformed,
    HTTPException: _answer_refusal,
}
