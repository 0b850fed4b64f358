"""Takes pictures of the pages to look at: ``python -m tests.screens FOLDER [WIDTH | PAGE …]``.

Names in other scripts need fonts: apt-get install fonts-noto-core fonts-noto-cjk.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "support"))

import pages
import scene
from serving import serving
from stations import wait_for

WIDTHS = (390, 820, 1440)


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
        serving(Path(folder), sign_in=False, rules=scene.RULES, peers=peers) as api,
        serving(Path(second), sign_in=False, rules=scene.RULES) as empty,
        serving(Path(third)) as closed,
    ):
        names = scene.name_all(api)
        found = scene.fill(api)
        scene.refuse(api)
        paths = {"worklist": "/", "peers": "/peers", "rules": "/rules", "models": "/models"}
        paths |= {"configuration": "/configuration", "error": "/images/9.9.9"}
        paths |= {
            "manual": "/manual",
            "guide": "/manual/tutorial/first-pacs",
            "none": "/?state=committed",
        }
        paths |= {f"study-{name}": f"/images/{uid}" for name, uid in found.items()}
        paths |= {f"name-{name}": f"/images/{uid}" for name, uid in names.items()}
        paths |= {"peer-new": "/peers/new?ae_title=XRAY9&host=10.0.0.9", "users": "/users"}
        paths |= {"rule-new": f"/rules/new?like={found['ignored']}", "bulk": "/bulk"}
        paths |= {"peer-edit": "/peers/archive/edit", "history": "/configuration/history"}
        addresses = {name: api.url + path for name, path in paths.items()}
        addresses |= {"empty": f"{empty.url}/", "sign-in": f"{closed.url}/sign-in"}
        addresses = {name: url for name, url in addresses.items() if not only or name in only}
        with pages.browser() as page:
            for scheme in ("light", "dark"):
                page.emulate_media(color_scheme=scheme)
                for width in widths:
                    page.set_viewport_size({"width": width, "height": 900})
                    for name, url in addresses.items():
                        page.goto(url)
                        page.wait_for_timeout(200)
                        if name in ("study-two", "study-absent", "name-arabic"):
                            ready = "document.querySelector('canvas').dataset.state === 'ready'"
                            wait_for(ready, lambda: page.evaluate(ready), 60)  # noqa: B023
                        page.screenshot(
                            path=out / f"{name}-{width}-{scheme}.png", full_page=width < 1000
                        )
            page.goto("about:blank")
            print(*page.faults, sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
