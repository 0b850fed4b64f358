"""The manual is whole: every link leads somewhere, every page is served and printed."""

import re
from html.parser import HTMLParser
from pathlib import Path

import httpx2
import pytest
from serving import serving

from dicom_node.cli import main
from dicom_node.manual import read_pages
from dicom_node.web.manual import rendered

PAGES = read_pages()


class Anchors(HTMLParser):
    """The links of a page, and the marks that others may link to."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.marks: set[str] = set()
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.links += [str(found["href"])] if tag == "a" and found.get("href") else []
        self.marks |= {str(found["id"])} if found.get("id") else set()


@pytest.mark.parametrize("path", PAGES)
def test_every_link_leads_to_a_page_and_a_heading(path: str) -> None:
    anchors = Anchors(rendered(PAGES[path]))
    for link in anchors.links:
        if link.startswith("http"):
            continue
        target, _, mark = link.removeprefix("/manual/").partition("#")
        there = PAGES.get(target) if target else PAGES[path]
        assert there is not None, link
        assert not mark or mark in Anchors(rendered(there)).marks, link


def test_the_first_page_leads_to_every_other() -> None:
    assert PAGES.keys() - set(re.findall(r"\]\(([^)#]+)\.md", PAGES["index"].text)) == {"index"}


@pytest.mark.parametrize("path", PAGES)
def test_every_page_opens_with_its_title_and_says_something(path: str) -> None:
    assert re.match(r"# \S", PAGES[path].text)
    assert len(PAGES[path].text.split()) >= 20


def test_pages_are_served_without_a_sign_in(tmp_path: Path) -> None:
    with serving(tmp_path) as api:
        for path in ("/manual", *(f"/manual/{path}" for path in PAGES)):
            assert httpx2.get(api.url + path).status_code == 200, path
        assert httpx2.get(f"{api.url}/manual/%2e%2e/secret").status_code == 404
        assert httpx2.get(f"{api.url}/manual/how-to/no-such-page").status_code == 404


def test_html_in_a_page_stays_text() -> None:
    from dicom_node.manual import ManualPage

    page = ManualPage("x", "X", "", "# X\n\n<script>alert(1)</script> [a](javascript:alert(1))")
    assert "<script>" not in rendered(page)
    assert 'href="javascript:' not in rendered(page)


def test_a_page_is_printed_by_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["manual", "index"]) == 0
    assert capsys.readouterr().out.startswith("# ChexFract Node")
    assert main(["manual"]) == 0
    assert "index" in capsys.readouterr().out
    assert main(["manual", "indx"]) == 1
    assert "did you mean index?" in capsys.readouterr().err


def test_every_link_of_the_readme_leads_to_a_file() -> None:
    root = Path(__file__).resolve().parents[2]
    links = re.findall(r"\]\(([^)#]+)\)", (root / "README.md").read_text())
    assert links
    assert [link for link in links if "://" not in link and not (root / link).exists()] == []


def test_the_readme_stays_short() -> None:
    root = Path(__file__).resolve().parents[2]
    assert len((root / "README.md").read_text().split()) <= 900


def test_the_pages_that_are_made_from_the_code_are_renewed() -> None:
    """``python -m tests.manual_pages`` renews them."""
    import sys

    root = Path(__file__).resolve().parents[2]
    sys.path.insert(0, str(root))
    from tests.manual_pages import pages

    folder = root / "dicom_node" / "manual" / "reference"
    for name, text in pages().items():
        assert (folder / name).read_text().strip() == text.strip(), name
