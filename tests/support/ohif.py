"""The OHIF viewer, served to a real Chromium beside an Orthanc that keeps the studies."""

from __future__ import annotations

import http.server
import tarfile
import tempfile
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import npm
from npm import CACHE
from peers import need

PACKAGE = "@ohif/app@3.12.10"
SHA512 = "0kuF66Mq9c9dMD++bUsTjMrJpXJwaZhz9B4uS244DawAjSkTwIYFU93pxPuRUQixaRi7QAHlF3Fe1qudBlZrmA=="
"""Outside the project, so that the 48 MB are fetched once."""

CONFIGURATION = b"""
window.config = {
  routerBasename: null, extensions: [], modes: [], showStudyList: true,
  showWarningMessageForCrossOrigin: false, showCPUFallbackMessage: false,
  investigationalUseDialog: { option: 'never' },
  defaultDataSourceName: 'dicomweb',
  dataSources: [{
    namespace: '@ohif/extension-default.dataSourcesModule.dicomweb',
    sourceName: 'dicomweb',
    configuration: {
      friendlyName: 'Archive', name: 'archive',
      qidoRoot: '/dicom-web', wadoRoot: '/dicom-web', wadoUriRoot: '/wado',
      qidoSupportsIncludeField: false, imageRendering: 'wadors', thumbnailRendering: 'wadors',
      enableStudyLazyLoad: true, supportsFuzzyMatching: false, supportsWildcard: true,
      omitQuotationForMultipartRequest: true, dicomUploadEnabled: false,
    },
  }],
};
"""

# No graphics hardware: WebGL is drawn by the processor.
ARGUMENTS = (
    "--no-sandbox",
    "--use-gl=angle",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
)

ENTRIES = '[data-cy^="study-browser-thumbnail"]'
"""What can be opened: images first, then documents."""


def viewer() -> Path:
    """Return the folder of OHIF's pages, fetched where it is not at hand."""
    pages = CACHE / PACKAGE.rpartition("@")[2] / "package" / "dist"
    if pages.is_dir():
        return pages
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        with tarfile.open(npm.packed(PACKAGE, SHA512, Path(folder))) as package:
            package.extractall(Path(folder) / "whole", filter="data")
        try:
            (Path(folder) / "whole").rename(pages.parent.parent)
        except OSError:  # another run was faster
            assert pages.is_dir()
    return pages


@contextmanager
def served(archive: str) -> Iterator[str]:
    """Serve OHIF with the DICOMweb of `archive` behind it; yield the address."""
    handler = type("Handler", (_Handler,), {"pages": viewer(), "archive": archive})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(http.server.SimpleHTTPRequestHandler):
    pages: Path
    archive: str

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments, directory=str(self.pages))

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path.startswith(("/dicom-web", "/wado")):
            self._pass_on()
        elif path == "/app-config.js":
            self._answer(200, "text/javascript", CONFIGURATION)
        else:
            if not (self.pages / path.lstrip("/")).is_file():
                self.path = "/index.html"  # one page for all addresses of the application
            super().do_GET()

    def _pass_on(self) -> None:
        wanted = {"Accept": self.headers.get("Accept", "*/*")}
        request = urllib.request.Request(self.archive + self.path, headers=wanted)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                kind = answer.headers.get("Content-Type", "application/octet-stream")
                self._answer(answer.status, kind, answer.read())
        except urllib.error.HTTPError as error:
            with error:
                self._answer(error.code, "text/plain", error.read())

    def _answer(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        try:
            self.wfile.write(body)
        except ConnectionError:
            self.close_connection = True  # the page was left meanwhile

    def end_headers(self) -> None:
        # The viewer shares memory between its threads, which browsers allow such pages only.
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        super().end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def opened(address: str, study_instance_uid: str, entries: int) -> Iterator[Any]:
    """Yield a page of Chromium with a study in OHIF, once it lists `entries`."""
    from playwright.sync_api import sync_playwright

    program = need("chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=[*ARGUMENTS])
        try:
            page = browser.new_page(viewport={"width": 1500, "height": 850})
            page.set_default_timeout(90_000)
            # The tour of the first visit covers the page.
            page.goto(f"{address}/viewer?StudyInstanceUIDs={study_instance_uid}")
            page.get_by_text("Skip all").click()
            page.wait_for_function(
                "([found, count]) => document.querySelectorAll(found).length >= count",
                arg=[ENTRIES, entries],
            )
            yield page
        finally:
            browser.close()
