"""Takes pictures of the pages to look at: ``python -m tests.screens FOLDER [WIDTH | PAGE …]``.

Names in other scripts need fonts: apt-get install fonts-noto-core fonts-noto-cjk.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent / "support"))

import pages
import scene
from serving import Api, serving
from stations import wait_for

from dicom_node import in_force
from dicom_node.editing import ConfigFile, TableChange
from dicom_node.settings import Settings
from dicom_node.store.actor import Actor
from dicom_node.users import add_user

WIDTHS = (390, 820, 1440)

FILE = """# the node of the ward
[peers.archive]  # second floor
ae_title = "PACS"
host = "127.0.0.1"
port = 1
[peers.modality]
ae_title = "MODALITY"
host = "127.0.0.1"
port = 1
[[rules]]
name = "chests"
match = { modality = ["DX", "CR"], body_part = ["CHEST", ""] }
allow_demonstration = true
[[rules]]
name = "trial"
match.calling_ae = ["X*"]
mode = "shadow"
priority = "low"
"""


def give_file(api: Api) -> None:
    """Let a node have accepted a node.toml, which its forms change, and a past."""
    config = api.settings.node.data_dir / "node.toml"
    config.write_text(FILE)
    in_force.accept(config, Settings(node=api.settings.node))
    file = ConfigFile(config, lambda use: None)
    anna = Actor("anna", "10.1.1.1")
    peer = {"ae_title": "PACS", "host": "127.0.0.1", "port": 104, "objects": ["sr", "pdf"]}
    file.change(TableChange("peers", "archive", peer), anna, "page")
    file.change(TableChange("rules", "trial", place=0, is_move=True), anna, "API")
    file.undo(2, Actor("dr.wilson", "10.1.1.7"), "page")
    hold = api.ledger.holds.hold
    hold("destination", "archive", anna, "it moves to the new machine room tonight")
    hold("rule", "trial", anna, "the ward moves")


PASSWORD = "correct horse battery"


def add_people(api: Api) -> None:
    """Add users and keys of the API."""
    for name, role in (("anna", "admin"), ("dr.wilson", "operator"), ("reading-room-2", "viewer")):
        add_user(api.settings.node.data_dir / "users", name, role, PASSWORD)
    for label in ("the RIS asks for states", "", "x" * 64):
        api.ledger.api_keys.make("anna", label, "anna")


def sign_in(page: Any, url: str, name: str = "anna") -> None:
    """Sign in, as the administrator unless another is named."""
    page.goto(f"{url}/sign-in")
    page.get_by_label("Name").fill(name)
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_load_state()


def press(page: Any, name: str, **texts: str) -> None:
    """Fill fields of a form and press a button of it."""
    for key, text in texts.items():
        page.locator(f"[id='f-{key.replace('__', '.')}']").fill(text)
    page.get_by_role("button", name=name, exact=True).click()
    page.wait_for_load_state()


def act_on_all(page: Any) -> None:
    """Go to an act on many images, which is begun the first time."""
    if not RUN:
        page.get_by_role("button", name="Send reports again").click()
        page.wait_for_url("**/bulk/run/*")
        RUN.append(page.url)
    page.goto(RUN[0])


def remove_all(page: Any) -> None:
    """Go to a removal of files, which is begun the first time."""
    if not REMOVAL:
        page.locator("#space h3").first.wait_for()
        open_all(page)
        page.get_by_role("button", name="for good").first.click()
        page.wait_for_url("**/disk/removal")
        REMOVAL.append(page.url)
    page.goto(REMOVAL[0])


def meet_another(page: Any) -> None:
    """Change a peer in a second window while the first has its form open, then go on there."""
    other = page.context.new_page()
    other.goto(page.url)
    press(other, CHECK, port=str(10000 + time.monotonic_ns() % 50000))  # another each time
    press(other, SAVE)
    other.close()
    press(page, CHECK, host="10.0.0.7")


def open_all(page: Any) -> None:
    """Unfold everything."""
    page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")


RUN: list[str] = []
REMOVAL: list[str] = []
CHECK, SAVE = "Check and show the change", "Save and take it"

ACTS: dict[str, tuple[str, Callable[[Any], None]]] = {
    "peer-seen": ("/peers/archive/edit", lambda page: press(page, CHECK, host="10.0.0.9")),
    "peer-wrong": ("/peers/archive/edit", lambda page: press(page, CHECK, port="0x")),
    "peer-conflict": ("/peers/archive/edit", lambda page: meet_another(page)),
    "rule-tried": (
        "/rules/edit?name=trial",
        lambda page: press(page, "Try on the last 50 images", match__body_part="KNEE"),
    ),
    "rule-removed": ("/rules/edit?name=trial", lambda page: press(page, "Remove")),
    "peers-open": ("/peers", lambda page: open_all(page)),
    "rule-open": ("/rules/edit?name=trial", lambda page: open_all(page)),
    "users-open": ("/users", lambda page: open_all(page)),
    "bulk-run": ("/bulk", lambda page: act_on_all(page)),
    "disk-open": ("/disk?older=0", lambda page: open_all(page)),
    "models-open": ("/models", lambda page: open_all(page)),
    "retention-seen": ("/retention/edit", lambda page: press(page, CHECK, images="0")),
    "retention-wrong": ("/retention/edit", lambda page: press(page, CHECK, images="one day")),
    "removal": ("/disk?older=0", lambda page: remove_all(page)),
}
"""Pages that come after something was pressed."""


def main() -> int:
    """Take each page at each width in both themes and return 0."""
    out = Path(sys.argv[1])
    widths = [int(text) for text in sys.argv[2:] if text.isdecimal()] or WIDTHS
    only = [text for text in sys.argv[2:] if not text.isdecimal()]
    out.mkdir(parents=True, exist_ok=True)
    peers = {
        "archive": {"ae_title": "PACS", "host": "127.0.0.1", "port": 1},
        "modality": {"ae_title": "MODALITY", "host": "127.0.0.1", "port": 1},
        "archive-of-the-radiology-department-second-floor-east-wing": {
            "ae_title": "ARCHIVE_OF_16_CH",
            "host": "archive-01.radiology.second-floor.east-wing.hospital.example",
            "port": 11112,
            "objects": ["sr", "basic-text", "sc", "gsps", "pdf"],
        },
    }
    with (
        tempfile.TemporaryDirectory() as folder,
        tempfile.TemporaryDirectory() as second,
        tempfile.TemporaryDirectory() as third,
        tempfile.TemporaryDirectory() as fourth,
        tempfile.TemporaryDirectory() as fifth,
        serving(Path(folder), sign_in=False, rules=scene.RULES, peers=peers) as api,
        serving(Path(second), sign_in=False, rules=scene.RULES) as empty,
        serving(Path(third)) as closed,
        serving(Path(fourth)) as kept,
        serving(Path(fifth), sign_in=False, rules=scene.RULES) as crowded,
    ):
        scene.crowd(crowded)
        crowded.spool.min_free = 10**15  # the disk is full for it
        names = scene.name_all(api)
        found = scene.fill(api)
        scene.refuse(api)
        give_file(api)
        add_people(kept)
        for model in ("phantom", "of-patients"):
            hold = api.ledger.holds.hold
            hold("model", model, Actor("anna", "10.1.1.1"), "the card is changed")
        hold("worker", "gpu-host:4711", Actor("anna", "10.1.1.1"), "it answers slowly")
        paths = {"worklist": "/", "peers": "/peers", "rules": "/rules", "models": "/models"}
        paths |= {"configuration": "/configuration", "error": "/images/9.9.9"}
        paths |= {
            "manual": "/manual",
            "guide": "/manual/tutorial/first-pacs",
            "none": "/?state=committed",
            "by-name": "/?sort=name",
            "disk": "/disk?older=0",
            "retention": "/retention/edit",
            "missing-page": "/nowhere",
        }
        paths |= {f"study-{name}": f"/images/{uid}" for name, uid in found.items()}
        paths |= {f"name-{name}": f"/images/{uid}" for name, uid in names.items()}
        paths |= {"peer-new": "/peers/new?ae_title=XRAY9&host=10.0.0.9"}
        paths |= {"rule-new": f"/rules/new?like={found['ignored']}", "bulk": "/bulk"}
        paths |= {"peer-edit": "/peers/archive/edit", "history": "/configuration/history"}
        paths |= {"rule-edit": "/rules/edit?name=trial"}
        paths |= {"bulk-search": "/bulk?state=retrying&period=week"}
        paths |= {name: path for name, (path, _) in ACTS.items() if name != "removal"}
        addresses = {name: api.url + path for name, path in paths.items()}
        addresses |= {"empty": f"{empty.url}/", "sign-in": f"{closed.url}/sign-in"}
        addresses |= {"users": f"{kept.url}/users", "keys": f"{kept.url}/keys"}
        addresses |= {"many": f"{crowded.url}/", "full": f"{crowded.url}/disk?older=0"}
        addresses |= {"removal": f"{crowded.url}/disk?older=0"}
        addresses["users-open"] = addresses["forbidden"] = f"{kept.url}/users"
        addresses = {name: url for name, url in addresses.items() if not only or name in only}
        with pages.browser() as page:
            first = page
            viewer = pages.watched(page.context.browser.new_page())
            sign_in(first, kept.url)
            sign_in(viewer, kept.url, "reading-room-2")
            for scheme in ("light", "dark"):
                for width in widths:
                    for name, url in addresses.items():
                        page = viewer if name == "forbidden" else first
                        page.emulate_media(color_scheme=scheme)
                        page.set_viewport_size({"width": width, "height": 900})
                        page.goto(url)
                        if "/disk?" in url:
                            page.locator("#space h3, #removal p").first.wait_for(timeout=60000)
                        if name in ACTS:
                            ACTS[name][1](page)
                        page.wait_for_timeout(200)
                        if name in ("study-two", "study-absent", "name-arabic"):
                            ready = "document.querySelector('canvas').dataset.state === 'ready'"
                            wait_for(ready, lambda: page.evaluate(ready), 60)  # noqa: B023
                        page.screenshot(
                            path=out / f"{name}-{width}-{scheme}.png", full_page=width < 1000
                        )
            first.goto("about:blank")
            print(*first.faults, sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
