"""What people and programs use on the web side, noted for the audit trail: who and from where."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from urllib.parse import urlencode

from fastapi import Request

from dicom_node.settings import Settings
from dicom_node.standard.web_services import ROOT
from dicom_node.store.actor import Actor
from dicom_node.store.ledger import Ledger
from dicom_node.store.uses import Kind, OfStudy, Use, encoded, noting, studies_of
from dicom_node.web.sessions import client_address

PROGRAM = "DICOMweb secret"
"""Who shows the secret of DICOMweb clients has no name."""

LISTED_S = 600.0
"""Time after which a study that a list shows to the same person is noted again."""

MOST_LISTED = 1000
MOST_PEOPLE = 256

NO_SIGN_IN = "nobody signed in"
"""Who looks where pages need no sign-in."""


class WebTrail:
    """Notes uses; none of its calls ever stops what it notes.

    Parameters
    ----------
    settings : Settings
    ledger : Ledger
    """

    def __init__(self, settings: Settings, ledger: Ledger) -> None:
        self._note = noting(settings, ledger)
        self.note = self._note
        self._proxies = settings.web.proxy_addresses
        self.is_kept = settings.audit_file is not None
        self._lock = threading.Lock()
        self._listed: OrderedDict[tuple[str, str], dict[str, float]] = OrderedDict()

    def actor(self, request: Request, name: str) -> Actor:
        """Return who asks for what an act leaves in the ledger."""
        return Actor(_user_of_request(request, name), self.address(request))

    def address(self, request: Request) -> str:
        """Return the address of who asks; through a trusted proxy, what that says of it."""
        return client_address(request, self._proxies)

    def queried(self, request: Request, name: str, query: str = "") -> None:
        """Note a search; `query` in place of the address's where that does not show it."""
        asked = encoded((query or request.url.query).encode())
        self._keep_use("queried", request, name, query=asked)

    def retrieved(self, request: Request, name: str, found: Sequence[OfStudy]) -> None:
        """Note that objects, or all that stands in them, were sent."""
        self._keep_use("retrieved", request, name, found)

    def accessed(self, request: Request, name: str, found: Iterable[OfStudy]) -> None:
        """Note that reports, pictures or rows of a list were shown."""
        self._keep_use("accessed", request, name, found)

    def listed(
        self, request: Request, name: str, rows: Sequence[OfStudy], words: str = "", state: str = ""
    ) -> None:
        """Note that a list was shown, and what was searched for to get it.

        What the same person saw in a list a moment ago is not noted again: pages load again, and
        live ones with each image that comes.
        """
        if not self.is_kept:
            return
        if words or state:
            self.queried(request, name, urlencode({"q": words, "state": state}))
        if fresh := self._not_listed_lately(name, self.address(request), rows):
            self.accessed(request, name, fresh)

    def _not_listed_lately(self, name: str, address: str, rows: Sequence[OfStudy]) -> list[OfStudy]:
        now = time.monotonic()
        with self._lock:
            known = self._listed.pop((name, address), {})
            if len(known) > MOST_LISTED:
                known = {study: at for study, at in known.items() if now - at < LISTED_S}
            fresh = [
                row
                for row in rows
                if now - known.get(row.study_instance_uid, -LISTED_S) >= LISTED_S
            ]
            known |= {row.study_instance_uid: now for row in fresh}
            self._listed[name, address] = known
            if len(self._listed) > MOST_PEOPLE:
                self._listed.popitem(last=False)
        return fresh

    def changed(self, request: Request, name: str, what: Kind, alert: str) -> None:
        """Note that somebody changed users, keys or what is held, and how."""
        address = self.address(request)
        self._note(
            Use(
                what,
                _user_of_request(request, name),
                request.url.path,
                address=address,
                alert=alert,
            )
        )

    def signed_in(self, request: Request, name: str, *, is_right: bool) -> None:
        """Note an attempt to sign in."""
        address = self.address(request)
        use = Use("signed-in", name[:64], request.url.path, address=address, is_served=is_right)
        self._note(use)

    def signed_out(self, request: Request, name: str) -> None:
        """Note that somebody has signed out."""
        address = self.address(request)
        self._note(
            Use("signed-out", _user_of_request(request, name), request.url.path, address=address)
        )

    def refused(self, job: str, worker: str, why: str) -> None:
        """Note that a worker posted a result about something else than its job (A.5.3.11)."""
        self._note(Use("result-refused", f"worker {worker}", f"/jobs/{job}/result", alert=why))

    def _keep_use(
        self,
        what: Kind,
        request: Request,
        name: str,
        found: Iterable[OfStudy] = (),
        query: str = "",
    ) -> None:
        if not self.is_kept:
            return
        use = Use(
            what,
            _user_of_request(request, name),
            request.url.path,
            address=self.address(request),
            query=query,
            studies=studies_of(found),
        )
        self._note(use)


def _user_of_request(request: Request, name: str) -> str:
    if name:
        return name
    return PROGRAM if request.url.path.startswith(f"{ROOT}/") else NO_SIGN_IN
