"""The pages say what happened to whom, do what is asked, and show hostile text harmlessly."""

from __future__ import annotations

import html
import re
import time
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import httpx2
import pages
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.multival import MultiValue
from serving import Api, serving

from dicom_node import in_force
from dicom_node.flow import test_report
from dicom_node.standard.header import clean
from dicom_node.web import board, preview, worklist


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    with serving(tmp_path_factory.mktemp("node"), sign_in=False) as running:
        yield running


@pytest.fixture
def http(api: Api) -> Iterator[httpx2.Client]:
    accept = {"Accept": "text/html"}
    with httpx2.Client(base_url=api.url, trust_env=False, timeout=20, headers=accept) as client:
        yield client


def token(http: httpx2.Client, path: str = "/") -> str:
    found = re.search(r'name="csrf" value="([^"]+)"', http.get(path).text)
    assert found
    return found[1]


def post(http: httpx2.Client, path: str, **fields: str) -> httpx2.Response:
    return http.post(path, data={"csrf": token(http), **fields})


def finished(api: Api, **facts: Any) -> str:
    uid = pages.keep(api, b"\0" * 128 + b"DICM some pixels", pages.route(), **facts)
    pages.reported(api, pages.claimed(api))
    return uid


# The worklist


def search(http: httpx2.Client, q: str, state: str = "") -> httpx2.Response:
    return http.post(
        "/find", data={"csrf": token(http), "q": q, "state": state}, follow_redirects=True
    )


def test_the_worklist_shows_what_was_received_and_why(api: Api, http: httpx2.Client) -> None:
    uid = api.receive(patient_name="Roe^Jane", accession_number="A77", modality="DX")
    text = http.get("/").text
    for word in ("Research use only", "Roe, Jane", "A77", uid, "no rule matched", "Ignored"):
        assert word in text


def test_the_worklist_is_searched_without_a_name_in_the_address(
    api: Api, http: httpx2.Client
) -> None:
    api.receive(patient_name="Findme^One", patient_id="F1")
    api.receive(patient_name="Other^Two", patient_id="F2")
    answer = search(http, "Findme")
    assert "Findme, One" in answer.text
    assert "Other, Two" not in answer.text
    assert "Findme" not in str(answer.url)
    assert "Nothing matches" in search(http, "nobody here").text
    assert "Findme, One" not in search(http, "Findme", "failed").text
    assert search(http, "").url.query == b""


@pytest.mark.parametrize("find", ["x", "gAAAA", "%00", "a" * 1024])
def test_a_search_that_this_node_did_not_seal_finds_everything(
    http: httpx2.Client, find: str
) -> None:
    assert "Nothing matches" not in http.get(f"/?find={find}").text


def test_seals_of_another_secret_do_not_open() -> None:
    sealed = worklist.Seals("one secret").seal("Roe^Jane")
    assert worklist.Seals("one secret").open(sealed) == "Roe^Jane"
    assert worklist.Seals("another").open(sealed) == ""


def test_tiles_count_what_waits_and_what_ended(
    api: Api, http: httpx2.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(board, "FRESH_S", 0.0)
    finished(api)
    pages.keep(api, b"\0" * 128 + b"DICM waits", pages.route())
    text = http.get("/").text
    assert re.search(r'class="figure">[1-9]\d* <small>waiting', text)
    assert re.search(r'class="figure">[1-9]\d* <small>reported', text)
    assert "gpu-host:4711" in text
    assert "takes images" in text
    peers = re.search(r"<h2>Peers</h2>\s*<ul.*?</ul>", text, re.DOTALL)
    assert peers is not None
    assert re.search(r"modality <small>(\d+ waiting|no report waits)</small>", peers[0])
    assert "·" not in peers[0]
    for ticket in api.ledger.jobs.hand_out("phantom", 99, time.time() + 60):
        api.ledger.jobs.claim(ticket.job, ticket.token, "w", 60)
        pages.rejected(api, ticket)


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [([], 0.5, None), ([3.0], 0.95, 3.0), ([1.0, 2.0, 3.0], 0.5, 2.0), ([1.0, 2.0], 0.95, 2.0)],
)
def test_a_quantile_is_a_value_that_occurred(
    values: list[float], share: float, expected: float | None
) -> None:
    assert board.quantile(values, share) == expected


def test_the_live_stream_tells_the_whole_state_first_and_then_each_change(
    api: Api, http: httpx2.Client
) -> None:
    with http.stream("GET", "/live") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = answer.iter_lines()
        first = next(lines)
        assert first.startswith("data: ")
        api.receive(patient_name="Comes^Live")
        end = time.monotonic() + 15
        assert any("Comes, Live" in line or time.monotonic() > end for line in lines)
        assert time.monotonic() < end


def test_a_stream_ends_when_its_time_is_over(
    http: httpx2.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next one asks again whether the person is still signed in."""
    monkeypatch.setattr(worklist, "STREAM_S", 0.2)
    assert http.get("/live").text.startswith("data: ")


def test_an_open_stream_does_not_hold_the_node_up(tmp_path: Path) -> None:
    with (
        httpx2.Client(trust_env=False, timeout=20) as http,
        serving(tmp_path, sign_in=False) as api,
        http.stream("GET", api.url + "/live") as answer,
    ):
        assert next(answer.iter_lines()).startswith("data: ")
        started = time.monotonic()
        api.end()
        assert time.monotonic() - started < 2.5


# One image


def test_an_image_shows_words_codes_delivery_and_timeline(api: Api, http: httpx2.Client) -> None:
    uid = finished(api, patient_name="Doe^John")
    pages.deliver(api, 0xB000)
    text = http.get(f"/images/{uid}").text
    for word in ("Possible fracture", "seventh rib", "possible", "0.1.0+phantom-1", "0xB000"):
        assert word in text
    for stage in ("received", "fetch", "model", "reported", "sent"):
        assert f"<td>{stage}</td>" in text
    assert "demonstration model" in text


def test_an_image_that_nobody_knows_is_a_page_that_says_so(http: httpx2.Client) -> None:
    answer = http.get("/images/9.9.9")
    assert answer.status_code == 404
    assert "nothing is known" in answer.text
    assert http.get("/images/..%2f..").status_code == 404
    for name in ("%00", "1" * 65, "abc", "1.2%0a"):
        answer = http.get(f"/images/{name}", headers={"Accept": "text/html"})
        assert answer.status_code == 404
        assert answer.headers["content-type"].startswith("text/html")


def test_a_report_is_offered_to_be_sent_again_once_there_is_one(
    api: Api, http: httpx2.Client
) -> None:
    uid = pages.keep(api, b"\0" * 128 + b"DICM other pixels", pages.route())
    assert "Send report again" not in http.get(f"/images/{uid}").text
    pages.reported(api, pages.claimed(api))
    assert "Send report again" in http.get(f"/images/{uid}").text


def test_acts_do_what_they_say(api: Api, http: httpx2.Client) -> None:
    uid = finished(api)
    pages.deliver(api, 0)
    assert post(http, f"/images/{uid}/resend").status_code == 303
    assert api.ledger.history.trace(uid).deliveries[0].state == "pending"
    assert post(http, f"/images/{uid}/replay").status_code == 303
    again = api.ledger.history.trace(uid).jobs[-1]
    assert (again.generation, again.state) == (2, "received")
    pages.fail(api, pages.claimed(api))
    assert post(http, f"/images/{uid}/retry").status_code == 303
    assert api.ledger.history.trace(uid).jobs[-1].state == "received"
    pages.rejected(api, pages.claimed(api))


def test_a_judgement_is_kept_as_an_event_and_shown(api: Api, http: httpx2.Client) -> None:
    uid = finished(api)
    job = api.ledger.history.trace(uid).jobs[0].job
    comment = "the eighth <b>rib</b>, not the seventh"
    answer = post(http, f"/images/{uid}/judge", job=job, verdict="disagree", comment=comment)
    assert answer.status_code == 303
    last = api.ledger.history.trace(uid).stages[-1]
    assert (last.stage, last.job) == ("disagree", job)
    assert last.detail.endswith(comment)
    text = http.get(f"/images/{uid}").text
    assert html.escape(comment) in text
    assert comment not in text


@pytest.mark.parametrize("fields", [{"verdict": "maybe"}, {"job": "x" * 32}, {"job": ""}])
def test_a_judgement_of_nothing_is_refused(
    api: Api, http: httpx2.Client, fields: dict[str, str]
) -> None:
    uid = finished(api)
    job = api.ledger.history.trace(uid).jobs[0].job
    answer = post(http, f"/images/{uid}/judge", **({"job": job, "verdict": "agree"} | fields))
    assert answer.status_code == 404
    assert api.ledger.history.trace(uid).stages[-1].stage == "reported"


def test_an_act_asked_by_htmx_answers_in_place(api: Api, http: httpx2.Client) -> None:
    uid = finished(api)
    headers = {"HX-Request": "true", "X-CSRF-Token": token(http)}
    answer = http.post(f"/images/{uid}/resend", headers=headers)
    assert answer.status_code == 200
    assert 'class="said good"' in answer.text
    refused = http.post("/images/9.9.9/resend", headers=headers)
    assert refused.status_code == 404
    assert 'class="said bad"' in refused.text


def test_a_preview_is_drawn_in_each_window(api: Api, http: httpx2.Client, tmp_path: Path) -> None:
    uid = pages.keep(api, pages.picture())
    drawn = {http.get(f"/images/{uid}/preview.png?window={w}").content for w in preview.WINDOWS}
    assert len(drawn) == len(preview.WINDOWS)
    assert all(png.startswith(b"\x89PNG") for png in drawn)


def test_the_preview_shows_bright_what_the_radiograph_shows_bright(tmp_path: Path) -> None:
    import io

    from PIL import Image
    from pydicom import dcmread, dcmwrite

    plain = tmp_path / "plain.dcm"
    plain.write_bytes(pages.picture())
    inverse = dcmread(plain)
    inverse.PhotometricInterpretation = "MONOCHROME1"
    dcmwrite(tmp_path / "inverse.dcm", inverse)
    bright, dark = (
        Image.open(io.BytesIO(preview.draw(io.BytesIO(content), "sent"))).getpixel((260, 320))
        for content in ((tmp_path / f"{name}.dcm").read_bytes() for name in ("plain", "inverse"))
    )
    assert bright > 180
    assert dark < 75


def test_what_cannot_be_drawn_is_said_and_hurts_nobody(api: Api, http: httpx2.Client) -> None:
    uid = finished(api)
    assert http.get(f"/images/{uid}/preview.png").status_code == 404
    assert http.get("/healthz").status_code == 200


def test_a_node_without_numpy_says_what_the_preview_needs(
    api: Api, http: httpx2.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    uid = finished(api)
    monkeypatch.setattr(preview, "find_spec", lambda name: None)
    text = http.get(f"/images/{uid}").text
    assert "chexfract-node[worker]" in html.unescape(text)
    assert "<img" not in text


# Peers, rules, models, configuration


def test_an_echo_that_fails_says_why(http: httpx2.Client) -> None:
    answer = post(http, "/peers/modality/echo")
    assert "refuses connections" in answer.text
    assert post(http, "/peers/nobody/echo").status_code == 404


def test_a_test_send_that_fails_says_why(http: httpx2.Client) -> None:
    assert "refuses connections" in post(http, "/peers/modality/test").text
    assert post(http, "/peers/nobody/test").status_code == 404
    assert http.get("/peers/modality/test").status_code == 303


def test_a_test_send_says_what_became_of_each_kind(
    http: httpx2.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    what: list[test_report.Taken] = [
        test_report.Taken("sr", "Enhanced SR", "taken", 0, "", "", 3.0),
        test_report.Taken("sc", "SC", "taken with warning", 0xB000, "", "0xB000 coercion", 3.0),
        test_report.Taken("ko", "KO", "refused", 0xA700, "0xA700 out of resources", "", 3.0),
        test_report.Taken("gsps", "GSPS", "no context", None, "it accepts none", "", 0.0),
        test_report.Taken("pdf", "PDF", "no answer", None, "it broke the association", "", 3.0),
    ]
    monkeypatch.setattr(test_report, "send", lambda ae_title, peer: what)
    answer = " ".join(post(http, "/peers/modality/test").text.split())
    for said in (
        "sr, Enhanced SR: taken, 0x0000 in 3 ms",
        "sc, SC: taken with warning, 0xB000 coercion in 3 ms",
        "ko, KO: refused, 0xA700 out of resources in 3 ms",
        "gsps, GSPS: no context: it does not accept this SOP class",
        "pdf, PDF: no answer: it broke the association",
    ):
        assert said in answer


def test_peers_show_what_to_type_in_at_their_side(api: Api, http: httpx2.Client) -> None:
    text = http.get("/peers").text
    for word in ("MODALITY", "CHEXFRACT", "11112"):
        assert word in text


def tried(http: httpx2.Client, content: bytes, name: str = "a.dcm") -> httpx2.Response:
    files = {"file": (name, content, "application/dicom")}
    return http.post("/rules/test", data={"csrf": token(http)}, files=files)


def test_a_file_is_tried_against_the_rules(tmp_path: Path) -> None:
    rules = [
        {"name": "knees", "match": {"body_part": ["KNEE"]}, "mode": "shadow"},
        {"name": "chests", "match": {"modality": ["DX"]}, "mode": "shadow"},
    ]
    with (
        serving(tmp_path, sign_in=False, rules=rules) as api,
        httpx2.Client(base_url=api.url, trust_env=False, timeout=30) as http,
    ):
        text = html.unescape(tried(http, pages.picture()).text)
        assert "“chests”: model phantom" in text
        assert "“knees” is not met: body_part is “”" in text
        assert "Gate: by its header a frontal chest radiograph" in text


@pytest.mark.parametrize("content", [b"\0" * 2000, b"no dicom", b"\0" * 128 + b"DICM\2\0"])
def test_a_file_that_is_no_dicom_is_said_to_be_none(http: httpx2.Client, content: bytes) -> None:
    answer = tried(http, content, "<script>alert(1)</script>.dcm")
    assert answer.status_code == 200
    assert 'class="said bad"' in answer.text
    assert "<script>" not in answer.text


def test_no_file_and_a_bare_form_are_refused(http: httpx2.Client) -> None:
    assert post(http, "/rules/test").status_code == 422
    assert http.post("/rules/test", files={"file": ("a", b"x")}).status_code == 403


def test_every_file_of_the_malformed_folder_gets_an_answer(
    http: httpx2.Client, shared_data: Path
) -> None:
    for path in sorted((shared_data / "malformed").glob("*.dcm")):
        answer = tried(http, path.read_bytes(), path.name)
        assert answer.status_code == 200, path.name


def test_models_that_are_demonstrations_say_so(api: Api, http: httpx2.Client) -> None:
    finished(api)
    text = http.get("/models").text
    assert "0.1.0+phantom-1" in text
    assert "Demonstration model" in text


def test_the_configuration_shows_no_secret(tmp_path: Path) -> None:
    with (
        serving(tmp_path, sign_in=False, secret="hidden-hidden-hidden") as api,
        httpx2.Client(base_url=api.url, trust_env=False) as http,
    ):
        text = http.get("/configuration").text
        assert "ae_title" in text
        assert "hidden-hidden" not in text


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "is right, and in force as it stands"),
        ('[peers.new]\nae_title = "NEW"\nhost = "h"\nport = 1\n', "after a reload: peers."),
        ("[dispatch]\nwindow = 7\n", "after the next start: dispatch."),
        ("[node]\nprot = 7\n", "would be refused"),
        ("[node", "line 1: [node is not closed"),
    ],
)
def test_the_configuration_page_says_what_the_file_is_now(
    tmp_path: Path, content: str, said: str
) -> None:
    config = tmp_path / "node.toml"
    config.write_text("")
    with serving(tmp_path, sign_in=False) as api:
        in_force.accept(config, api.settings)
        config.write_text(content)
        text = httpx2.get(f"{api.url}/configuration", trust_env=False, timeout=20).text
    assert said in text


# Hostile text

HOSTILE = "<script>alert(1)</script>{{7*7}}\"'><img src=x onerror=alert(1)>"


@pytest.mark.parametrize(
    "hostile", [HOSTILE, "</td></table><svg/onload=alert(1)>", "'-alert(1)-'", '" autofocus x="']
)
def test_what_stands_in_headers_cannot_become_a_page(
    api: Api, http: httpx2.Client, hostile: str
) -> None:
    facts = ("patient_name", "patient_id", "accession_number", "modality", "body_part", "view",
             "study_description", "series_description", "institution", "manufacturer",
             "station_name", "calling_ae", "study_date", "patient_birth_date")  # fmt: skip
    uid = pages.keep(
        api, b"\0" * 128 + b"DICM" + hostile.encode(), pages.route(),
        **dict.fromkeys(facts, hostile),
    )  # fmt: skip
    pages.reported(api, pages.claimed(api), text=hostile, warnings=(hostile,), model_version="v1")
    for answer in (http.get("/"), http.get(f"/images/{uid}"), search(http, hostile)):
        assert answer.status_code == 200
        text = answer.text
        assert hostile not in text.replace("|", "")
        assert "<script>" not in text
        assert "<svg/" not in text
        assert "onerror=alert(1)>" not in text
        assert "49" not in text.split("alert(1)", 1)[-1][:60]


def strings(path: Path) -> Iterator[str]:
    """Yield every text of a file, at any depth, as far as it can be read."""
    try:
        ds = dcmread(path, force=True)
        for element in ds.iterall():
            try:
                values = element.value
                for value in values if isinstance(values, (list, MultiValue)) else [values]:
                    if isinstance(value, bytes):
                        yield value[:4096].decode("latin-1")
                    elif value is not None:
                        yield str(value)[:4096]
            except Exception:
                continue
    except Exception:
        return


SHOWN = ("patient_name", "patient_id", "accession_number", "modality", "body_part", "view",
         "study_description", "series_description", "institution", "manufacturer",
         "station_name", "calling_ae")  # fmt: skip


def test_every_string_of_the_malformed_files_is_shown_harmlessly(
    api: Api, http: httpx2.Client, shared_data: Path
) -> None:
    """The pages have the tags of their templates and none more, whatever stands in a header."""
    found: dict[str, None] = {}
    files = [*shared_data.glob("malformed/*"), *shared_data.glob("charsets/*")]
    for path in sorted(file for file in files if file.is_file()):
        found |= dict.fromkeys(clean(text) for text in strings(path))
    texts = [text for text in found if text]
    assert len(texts) > 200
    plain = pages.keep(api, b"\0" * 128 + b"DICM plain", pages.route(), **dict.fromkeys(SHOWN, "x"))
    pages.reported(api, pages.claimed(api), text="x", warnings=("x",))
    wanted = tags(http.get(f"/images/{plain}").text)
    for start in range(0, len(texts), len(SHOWN)):
        some = (texts[start : start + len(SHOWN)] + ["x"] * len(SHOWN))[: len(SHOWN)]
        mark = start.to_bytes(4, "little")
        uid = pages.keep(
            api, b"\0" * 128 + b"DICM" + mark, pages.route(), **dict(zip(SHOWN, some, strict=True))
        )
        pages.reported(api, pages.claimed(api), text=some[0], warnings=(some[1],))
        answer = http.get(f"/images/{uid}")
        assert answer.status_code == 200, some
        assert tags(answer.text) == wanted, some
    assert http.get("/").status_code == 200


def tags(text: str) -> list[str]:
    """Return the tags of a page in their order; what a person reads between them may differ."""
    seen: list[str] = []

    class Tags(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            seen.append(tag)

    Tags().feed(text)
    return [tag for tag in seen if tag not in ("tr", "td", "time", "dt", "dd")]


@given(text=st.text(max_size=100))
@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_search_is_answered(http: httpx2.Client, text: str) -> None:
    assert search(http, text.encode("utf-8", "replace").decode()).status_code == 200


def attributes(text: str) -> set[tuple[str, str]]:
    """Return names and values of all attributes of a page."""
    found: set[tuple[str, str]] = set()

    class Tags(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            found.update((name, value or "") for name, value in attrs)

    Tags().feed(text)
    return found


def test_pages_load_nothing_from_elsewhere_and_run_no_inline_script(
    api: Api, http: httpx2.Client
) -> None:
    uid = finished(api)
    for path in ("/", f"/images/{uid}", "/peers", "/rules", "/models", "/configuration"):
        answer = http.get(path)
        found = attributes(answer.text)
        leads = {value for name, value in found if name in ("src", "href", "action", "hx-get")}
        assert all(lead.startswith(("/", "#")) and lead[:2] != "//" for lead in leads)
        assert set(re.findall(r"<script[^>]*>", answer.text)) == {
            '<script src="/static/htmx.min.js" defer>',
            '<script src="/static/hx-sse.min.js" defer>',
            '<script src="/static/pages.js" defer>',
            *(['<script src="/static/viewer.js" defer>'] if "/images/" in path else []),
        }
        assert not {name for name, _ in found if name[:2] == "on" or name == "style"}
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
    for name in re.findall(r"/static/[\w.-]+", http.get("/").text):
        assert http.get(name).status_code == 200
    assert http.get("/static/..%2fpages.py").status_code == 404
    assert http.get("/docs").status_code == 404
    assert http.get("/openapi.json").status_code == 404


def test_each_part_that_pages_load_has_its_licence(http: httpx2.Client) -> None:
    text = http.get("/static/LICENCES.txt").text
    for word in ("htmx.org 4.0.1", "Zero-Clause BSD", "Pico CSS 2.1.1", "MIT License"):
        assert word in text
