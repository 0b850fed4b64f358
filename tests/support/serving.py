"""The web side on its real ledger and spool, served by uvicorn as the web role does it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

from ports import free_port
from pydicom import dcmwrite
from pydicom.dataset import Dataset, FileMetaDataset

from dicom_node.base.job import ReportOrder, Ticket
from dicom_node.settings import Settings
from dicom_node.store.ledger import Instance, Ledger, Route
from dicom_node.store.spool import Spool
from dicom_node.web.app import create_app, serve_web

SECRET = "a secret of the job API"
DX = "1.2.840.10008.5.1.4.1.1.1.1"


@dataclass
class Api:
    """A served application, and the ledger and spool behind it."""

    settings: Settings
    ledger: Ledger
    spool: Spool
    count: int = 0
    end: Callable[[], None] = lambda: None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.settings.web.port}"

    def receive(self, *routes: Route, **facts: Any) -> str:
        """Receive an Instance and return its SOP Instance UID."""
        self.count += 1
        uid = f"1.2.3.{self.count}"
        with self.spool.writing() as incoming:
            incoming.write(radiograph(uid))
            kept = incoming.keep(uid)
        of_file = {"sha256": "", "size": kept.size, "file": kept.name}
        instance = Instance(uid, DX, "1.2.840.10008.1.2.1", "1.2", "1.3", **of_file, **facts)
        self.ledger.instances.receive(instance, routes)
        return uid

    def ticket(self, **facts: Any) -> Ticket:
        """Receive an Instance and hand its job out."""
        order = ReportOrder(content_datetime=datetime.fromtimestamp(0, UTC))
        to = ("modality",)
        uid = self.receive(Route("all", "phantom", "live", to, {}, None, True, order), **facts)
        job = self.ledger.history.trace(uid).jobs[0].job
        # Jobs that an earlier test left behind are handed out too: the new one is meant.
        tickets = self.ledger.jobs.hand_out("phantom", 100, time.time() + 60)
        return next(ticket for ticket in tickets if ticket.job == job)

    def state(self, ticket: Ticket) -> str:
        return str(self.ledger.history.trace(ticket.job).jobs[0].state)

    @property
    def reports(self) -> list[str]:
        return list(self.spool.names("reports"))


def radiograph(uid: str, **attributes: str) -> bytes:
    """Return the header of a DX Instance as a Part 10 file; a job needs no more of it."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = DX
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = uid
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.Modality = "1.2", "1.3", "DX"
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    content = BytesIO()
    dcmwrite(content, ds, enforce_file_format=True)
    return content.getvalue()


@contextmanager
def serving(
    folder: Path, rules: Sequence[Any] = (), peers: Any = None, jobs: Any = None, **web: Any
) -> Iterator[Api]:
    port = free_port()
    if web.pop("own_url", False):  # others lead people back to it
        web["url"] = f"http://127.0.0.1:{port}"
    settings = Settings(
        node={"data_dir": folder},
        web={"port": port, "url": f"http://127.0.0.1:{port}", **web},
        jobs=jobs or {},
        rules=rules,
        peers=peers or {"modality": {"ae_title": "MODALITY", "host": "127.0.0.1", "port": 1}},
    )
    Ledger.upgrade(settings.ledger_url)
    api = Api(settings, Ledger.open(settings.ledger_url), Spool(folder / "spool"))
    app = create_app(settings, api.ledger, api.spool, SECRET)
    stop, ready = threading.Event(), threading.Event()
    role = threading.Thread(target=serve_web, args=(settings, app, stop, ready.set))
    role.start()

    def end() -> None:
        stop.set()
        role.join(5)

    api.end = end
    try:
        assert ready.wait(10)
        yield api
    finally:
        api.end()
        api.ledger.close()
        assert not role.is_alive()
