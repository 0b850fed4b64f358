"""A small archive for demonstrations and self-tests: takes what it is sent and keeps it."""

from __future__ import annotations

import hashlib
import logging
import threading
from pathlib import Path
from typing import Any, cast

from pynetdicom import evt
from pynetdicom.transport import ThreadedAssociationServer

from dicom_node.base.errors import ConfigurationError
from dicom_node.dimse import patches
from dicom_node.dimse.contexts import (
    EXPLICIT_LITTLE,
    IMAGES,
    IMPLICIT_LITTLE,
    REPORTS,
    TRANSFER_SYNTAXES,
    VERIFICATION,
)
from dicom_node.dimse.entity import entity

logger = logging.getLogger(__name__)


class Archive:
    """Storage and Verification SCP that keeps Part 10 files in one folder.

    It checks nothing and syncs nothing: it plays the hospital's archive and is none.

    Parameters
    ----------
    ae_title : str
    folder : Path
        Created when absent; each SOP Instance has one file, named by the hash of its UID.
    port : int
        0 takes a free one.
    """

    def __init__(self, ae_title: str, folder: Path, port: int = 0) -> None:
        self.ae_title = ae_title
        self.folder = folder
        self._port = port
        self._server: ThreadedAssociationServer | None = None
        self._changed = threading.Condition()
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def port(self) -> int:
        """The TCP port that is listened on."""
        if self._server is None:
            raise RuntimeError("the archive has not been started")
        return int(self._server.server_address[1])

    @property
    def files(self) -> list[Path]:
        """The files kept so far, oldest first."""
        return sorted(self.folder.glob("*.dcm"), key=lambda path: path.stat().st_mtime_ns)

    def start(self) -> None:
        """Listen on the loopback address.

        Raises
        ------
        ConfigurationError
            The port is in use.
        """
        ae = entity(self.ae_title, 131072)
        ae.add_supported_context(VERIFICATION, [EXPLICIT_LITTLE, IMPLICIT_LITTLE])
        for uid in IMAGES | REPORTS:
            ae.add_supported_context(uid, list(TRANSFER_SYNTAXES))
        handlers: list[Any] = [
            (evt.EVT_CONN_OPEN, _on_open),
            (evt.EVT_C_ECHO, lambda event: 0x0000),
            (evt.EVT_C_STORE, self._on_store),
        ]
        try:
            self._server = ae.start_server(
                ("127.0.0.1", self._port), block=False, evt_handlers=handlers
            )
        except OSError as exc:
            raise ConfigurationError(f"port {self._port} is in use") from exc

    def stop(self) -> None:
        """Abort what is open and stop listening."""
        if self._server is not None:
            self._server.ae.shutdown()
            self._server = None

    def wait_for(self, count: int, timeout: float) -> bool:
        """Return whether `count` files are kept, as soon as they are, after `timeout` s at most."""
        with self._changed:
            return self._changed.wait_for(lambda: len(self.files) >= count, timeout)

    def __enter__(self) -> Archive:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def _on_store(self, event: evt.Event) -> int:
        request = cast("Any", event.request)
        name = hashlib.sha256(str(request.AffectedSOPInstanceUID).encode()).hexdigest()[:40]
        part = self.folder / f"{name}.part"
        try:
            part.write_bytes(event.encoded_dataset())
            part.rename(self.folder / f"{name}.dcm")
        except OSError as exc:
            logger.warning("the archive cannot write: %s", exc.strerror or exc)
            return 0xA700
        with self._changed:
            self._changed.notify_all()
        return 0x0000


def _on_open(event: evt.Event) -> None:
    patches.set_no_delay(event.assoc)
