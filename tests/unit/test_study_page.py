"""A study on one page: its images, its reports, what readers think, whole names."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from typing import Any

import httpx2
import numpy as np
import pages
import pytest
import scene
from PIL import Image
from pydicom import dcmread
from serving import Api, serving
from stations import wait_for

from dicom_node.web import preview
from dicom_node.web.regions import OutlinedRegion, regions_of
from dicom_node.web.render import whole_name

NEVER = 4e9
"""A time that these tests do not see."""


@pytest.fixture(scope="module")
def scenery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Api, dict[str, str]]]:
    web: dict[str, Any] = {"proxy_header": "X-User", "proxy_addresses": ["127.0.0.1"]}
    with serving(tmp_path_factory.mktemp("node"), rules=scene.RULES, **web) as api:
        yield api, scene.fill(api)


def client(api: Api, name: str = "dr.house", role: str = "viewer") -> httpx2.Client:
    """Return a client that a trusted proxy vouches for."""
    if role != "viewer":
        from dicom_node.users import add_user

        add_user(api.settings.node.data_dir / "users", name, role, "a few words in a row")
    headers = {"X-User": name, "Accept": "text/html"}
    return httpx2.Client(base_url=api.url, trust_env=False, timeout=60, headers=headers)


def judged(http: httpx2.Client, path: str, **fields: str) -> httpx2.Response:
    found = re.search(r'name="csrf" value="([^"]+)"', http.get(path).text)
    assert found
    return http.post(f"{path}/judge", data={"csrf": found[1], **fields})


def test_a_study_shows_all_its_images_and_reports(scenery: tuple[Api, dict[str, str]]) -> None:
    api, found = scenery
    with client(api) as http:
        for shown in ("two", "lateral"):
            text = http.get(f"/images/{found[shown]}").text
            assert "Image 1 of 2" in text
            assert "Image 2 of 2" in text
            assert "Possible fracture of the left seventh rib" in text
            assert "Not analysed: lateral view" in text


def test_a_page_that_asks_again_and_again_is_noted_at_times_only(
    scenery: tuple[Api, dict[str, str]],
) -> None:
    api, found = scenery
    trail = api.settings.audit_file
    assert trail
    with client(api, "dr.wilson") as http:
        counts = []
        for headers in ({}, *[{"HX-Request": "true"}] * 4, {}):
            http.get(f"/images/{found['two']}", headers=headers)
            counts.append(sum(b"dr.wilson" in line for line in trail.read_bytes().splitlines()))
    assert counts[0] >= 1, "opening it is noted"
    assert counts[1:5] == [counts[1]] * 4, "its timer is not, but for the first time"
    assert counts[5] == counts[4] + 1


def test_another_name_of_an_image_leads_to_it(scenery: tuple[Api, dict[str, str]]) -> None:
    api, found = scenery
    with client(api) as http:
        answer = http.get("/images/1.2.70.500")
        assert (answer.status_code, answer.headers["location"]) == (303, f"/images/{found['two']}")


def test_what_is_technical_is_folded_for_those_who_read(
    scenery: tuple[Api, dict[str, str]],
) -> None:
    api, found = scenery
    with client(api) as viewer, client(api, "otto", "operator") as operator:
        folded = viewer.get(f"/images/{found['two']}").text
        shown = operator.get(f"/images/{found['two']}").text
    assert '<details class="timeline"><summary>' in folded
    assert '<details class="timeline" open><summary>' in shown
    assert "Run again" not in folded
    assert "Run again" in shown


def test_a_reader_judges_each_finding_and_says_what_is_right(
    scenery: tuple[Api, dict[str, str]],
) -> None:
    api, found = scenery
    path, job = f"/images/{found['two']}", api.ledger.history.trace(found["two"]).jobs[0].job
    said = {"finding-0": "agree", "finding-1": "disagree", "finding-7": "agree"}
    with client(api) as http:
        judged(http, path, job=job, verdict="disagree", corrected_text="Old clavicle.", **said)
        last = api.ledger.history.trace(found["two"]).judgements[-1]
        assert (last.reader, last.verdict) == ("dr.house", "disagree")
        assert last.corrected_text == "Old clavicle."
        assert [(finding.finding, finding.verdict) for finding in last.findings] == [
            ("left rib 7", "agree"),
            ("right clavicle", "disagree"),
        ]
        text = http.get(path).text
        assert 'value="disagree" class="secondary outline" aria-pressed="true"' in text
        assert ">Old clavicle.</textarea>" in text
        # said again, it is changed, and what was said before is kept
        judged(http, path, job=job, verdict="agree")
        assert 'value="agree" class="secondary outline" aria-pressed="true"' in http.get(path).text
    with client(api, "dr.cuddy") as other:
        text = other.get(path).text
        assert 'aria-pressed="true"' not in text.split('class="judge"')[1]
        assert text.split('class="timeline"')[0].count("</strong> dr.house") == 2


def test_a_report_is_judged_by_whoever_may_read_it(scenery: tuple[Api, dict[str, str]]) -> None:
    api, found = scenery
    job = api.ledger.history.trace(found["absent"]).jobs[0].job
    with client(api, "radiologist") as http:
        answer = judged(http, f"/images/{found['absent']}", job=job, verdict="agree")
        assert answer.status_code == 303
        # but what changes deliveries is for operators
        text = http.get(f"/images/{found['withheld']}").text
        assert "This report is withheld: modality did not get it" in text
        assert "Release report" not in text


def test_a_report_that_sends_a_judgement_shows_it_before_the_text_that_was_judged(
    scenery: tuple[Api, dict[str, str]],
) -> None:
    api, found = scenery
    first = api.ledger.history.trace(found["absent"]).jobs[0].job
    said: dict[str, Any] = {"corrected_text": "Fracture of the left 4th rib.", "sends": True}
    next_job = api.ledger.acts.judge(first, "disagree", "dr.cameron", "Look again.", **said).job
    text = "No acute fracture of the visualised ribs, clavicles or shoulders."
    tickets = {ticket.job: ticket for ticket in api.ledger.jobs.hand_out("phantom", 9, NEVER)}
    api.ledger.jobs.claim(next_job, tickets[next_job].token, "gpu-host:4711", 60)
    pages.reported(api, tickets[next_job], presence="absent", fractures=(), text=text)
    with client(api) as http:
        page = http.get(f"/images/{found['absent']}").text
    report = page.split(f'id="job-{next_job}"')[1].split("</article>")[0]
    before = report.split(text)[0]
    shown = ("Disagree", "dr.cameron", "Look again.", "Fracture of the left 4th rib.")
    assert [words for words in shown if words not in before] == []
    assert before.index("dr.cameron") < before.index("No fracture described")
    judged_report = page.split(f'id="job-{first}"')[1].split("</article>")[0]
    assert "The text that was judged" not in judged_report


def test_an_ignored_image_says_why_and_where_to_look(scenery: tuple[Api, dict[str, str]]) -> None:
    api, found = scenery
    with client(api) as http:
        text = http.get(f"/images/{found['ignored']}").text
    assert "no rule matched" in text
    assert 'href="/rules"' in text


def test_who_only_reads_is_told_what_stops_images_alone(
    scenery: tuple[Api, dict[str, str]],
) -> None:
    api, _ = scenery
    scene.refuse(api)
    with client(api) as viewer, client(api, "otto", "operator") as operator:
        wait_for(
            "what is wrong is looked at again",
            lambda: "was refused 12 times" in operator.get("/alerts").text,
        )
        seen, shown = viewer.get("/alerts").text, operator.get("/alerts").text
    assert "modality is away" in seen
    assert "was refused" not in seen
    assert "chexfract-" not in seen
    assert "XRAY9 at 10.0.0.9 was refused 12 times" in shown


def test_the_peers_page_says_what_the_last_echo_was(scenery: tuple[Api, dict[str, str]]) -> None:
    api, _ = scenery
    with client(api, "otto", "operator") as http:
        assert "not asked since the node started" in http.get("/peers").text
        token = re.search(r'name="csrf" value="([^"]+)"', http.get("/peers").text)
        assert token
        text = http.post("/peers/all/echo-all", data={"csrf": token[1]}).text
        assert "refuses connections" in text
        assert "no answer" in http.get("/peers").text
        assert http.get("/peers/all/echo-all").status_code == 303


def test_the_list_is_filtered_by_dates_and_sorted_without_a_name_in_the_address(
    scenery: tuple[Api, dict[str, str]],
) -> None:
    api, _ = scenery
    with client(api) as http:
        assert "Adams" in http.get("/?period=today").text
        assert "Nothing matches" in http.get("/?period=yesterday").text
        assert "Nothing matches" in http.get("/?period=dates&until=2001-01-01").text
        assert "Adams" in http.get("/?period=dates&since=2001-01-01").text
        for strange in ("period=x", "period=dates&since=99", "sort=x", "state=x", "before=@x~"):
            assert http.get(f"/?{strange}").status_code == 200
        by_name = http.get("/?sort=name").text
        assert by_name.index("Adams, Rev.") < by_name.index("Poe, Edgar") < by_name.index("Yamada")
        assert "Yamada, Tarou (山田 太郎, やまだ たろう)" in http.get("/?state=disagreed").text
        token = re.search(r'name="csrf" value="([^"]+)"', http.get("/").text)
        assert token
        form = {"csrf": token[1], "q": "Adams", "period": "today", "sort": "name"}
        answer = http.post("/find", data=form)
        assert "Adams" not in answer.headers["location"]
        assert "period=today&sort=name" in answer.headers["location"]


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("Doe^John", "Doe, John"),
        (
            "Adams^John Robert^Quincy^Rev.^B.A. M.Div.",
            "Adams, Rev. John Robert Quincy, B.A. M.Div.",
        ),
        ("Yamada^Tarou=山田^太郎=やまだ^たろう", "Yamada, Tarou (山田 太郎, やまだ たろう)"),
        ("=山田^太郎", "山田 太郎"),
        ("Hong^Gildong==홍^길동", "Hong, Gildong (홍 길동)"),
        ("Buc^Jérôme", "Buc, Jérôme"),
        ("OnlyFamily", "OnlyFamily"),
        ("^Given", "Given"),
        ("^^^", "^^^"),
        ("", ""),
    ],
)
def test_names_are_whole(name: str, shown: str) -> None:
    assert whole_name(name) == shown


def test_regions_are_those_of_this_image_with_the_words_of_their_group() -> None:
    drawn = (("Left rib 7", scene.box(1, 2, 3, 4)), ("Right clavicle", scene.box(5, 6, 7, 8)))
    report = dcmread(io.BytesIO(scene.report_with_region("1.2.3", *drawn)))
    first = OutlinedRegion("Left rib 7", ((1, 2), (4, 2), (4, 6), (1, 6), (1, 2)))
    found = regions_of(report, "1.2.3")
    assert found[0] == first
    assert [match.words for match in found] == ["Left rib 7", "Right clavicle"]
    assert regions_of(report, "1.2.4") == []


@pytest.mark.parametrize("window", ["data", "full"])
def test_the_viewer_gets_every_value_that_it_needs(window: str) -> None:
    content = pages.picture()
    drawn = Image.open(io.BytesIO(preview.draw(io.BytesIO(content), window)))
    text = drawn.text  # type: ignore[attr-defined]
    original = dcmread(io.BytesIO(content)).pixel_array.astype(float)
    assert (int(text["rows"]), int(text["columns"])) == original.shape
    low, high = float(text["low"]), float(text["high"])
    values = low + np.asarray(drawn).astype(float) / 65535 * (high - low)
    assert np.abs(values - original).max() < 1
    begins, ends = map(float, text["lung"].split())
    assert low <= begins < ends <= high
