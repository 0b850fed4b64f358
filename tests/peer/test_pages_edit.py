"""A first peer and a first rule, set up, tried, changed, held and undone: in a browser alone."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import axe
import pages
import pytest
from serving import radiograph, serving
from stations import NodeProcess

from dicom_node.cli import main
from dicom_node.settings import load
from dicom_node.store.ledger import Ledger
from dicom_node.store.ledger.acts import Acts
from dicom_node.users import add_user

pytestmark = [
    pytest.mark.peer,
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

PASSWORD = "correct horse battery"
WAIT_MS = 60_000


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    """A node without peers and rules, at which people sign in."""
    node = NodeProcess(tmp_path_factory.mktemp("node"), "# the ward's node", with_worker=False)
    node.config.write_text(
        node.config.read_text().replace("sign_in = false", "")
        .replace("[node]", "[node]\nknown_peers_only = false")
    )  # fmt: skip
    (node.folder / "var").mkdir()
    add_user(node.folder / "var" / "users", "jane", "admin", PASSWORD)
    node.start(120)
    try:
        yield node
    finally:
        node.stop()


@pytest.fixture(scope="module")
def page(node: NodeProcess) -> Iterator[Any]:
    with pages.browser(viewport={"width": 1280, "height": 900}) as page:
        page.set_default_timeout(WAIT_MS)
        sign_in(page, url(node))
        yield page


def url(node: NodeProcess) -> str:
    return f"http://127.0.0.1:{node.web_port}"


def sign_in(page: Any, at: str, name: str = "jane") -> None:
    page.goto(f"{at}/sign-in")
    page.get_by_label("Name").fill(name)
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url(re.compile("/$"))


def faults(page: Any) -> list[str]:
    """Return what went wrong in the browser; an answer such as 422 is meant to be shown."""
    return [one for one in page.faults if "Failed to load resource" not in one]


def press(page: Any, name: str) -> None:
    page.get_by_role("button", name=name, exact=True).click()


def send(node: NodeProcess, folder: Path, uid: str, **attributes: str) -> None:
    path = folder / f"{uid}.dcm"
    path.write_bytes(radiograph(uid, StudyInstanceUID=f"{uid}.1", **attributes))
    assert node.send(path) == [0]


CHECK, SAVE = "Check and show the change", "Save and take it"


def fill(page: Any, **texts: str) -> None:
    """Fill fields of a form by their keys."""
    for key, text in texts.items():
        page.locator("#name" if key == "name" else f"#f-{key}").fill(text)


def rule_of(node: NodeProcess, uid: str) -> str:
    ledger = Ledger.open(f"sqlite:///{node.folder}/var/ledger.sqlite")
    try:
        jobs = ledger.history.trace(uid).jobs
        return jobs[0].rule if jobs else ""
    finally:
        ledger.close()


def test_a_first_peer_and_a_first_rule_without_a_shell(
    node: NodeProcess, page: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script, first = axe.script(), node.config.read_text()
    # an image comes before there is any rule
    send(node, tmp_path, "1.2.3.1", BodyPartExamined="CHEST", ViewPosition="PA")
    # the first peer
    page.goto(f"{url(node)}/peers")
    page.get_by_role("button", name="Add a peer").click()
    page.locator("#name").fill("xray")
    for key, text in (("ae_title", "XRAY1"), ("host", "127.0.0.1"), ("port", "0x")):
        page.locator(f"#f-{key}").fill(text)
    press(page, CHECK)
    page.get_by_text("peers.xray.port: '0x' is not a port").wait_for()
    page.locator("#f-port").fill("0")
    press(page, CHECK)
    page.locator("#diff").get_by_text('+ae_title = "XRAY1"').wait_for()
    assert axe.violations(page, script) == []
    press(page, SAVE)
    page.get_by_text("Done, and in force.").wait_for()
    assert axe.violations(page, script) == []
    page.goto(f"{url(node)}/peers")
    assert page.locator("article", has_text="XRAY1").first.is_visible()
    # the first rule, made from the image that no rule took, and tried on it
    page.goto(f"{url(node)}/images/1.2.3.1")
    page.get_by_role("button", name="Make a rule from this image").click()
    assert page.locator("[id='f-match.body_part']").input_value() == "CHEST"
    page.locator("#f-name").fill("chests")
    press(page, "Try on the last 50 images")
    page.get_by_text("1 of the one image that there is matches").wait_for()
    assert axe.violations(page, script) == []
    press(page, SAVE)
    page.get_by_text("rule 'chests' added").wait_for()
    send(node, tmp_path, "1.2.3.2", BodyPartExamined="CHEST", ViewPosition="PA")
    assert rule_of(node, "1.2.3.2") == "chests"
    # changed
    page.goto(f"{url(node)}/rules")
    page.get_by_role("link", name="Change: chests").click()
    page.locator("#f-priority").select_option("stat")
    press(page, CHECK)
    press(page, SAVE)
    page.get_by_text("rule 'chests' changed").wait_for()
    assert load(node.config).rules[0].priority == "stat"
    # held, and let go
    page.goto(f"{url(node)}/rules")
    page.locator("details.hold summary").first.click()
    page.get_by_label("Why, for those who see it").first.fill("the ward moves")
    page.get_by_role("button", name="Hold: chests").click()
    page.get_by_text("the ward moves").first.wait_for()
    assert axe.violations(page, script) == []
    capsys.readouterr()
    main(["status", "--json", "--config", str(node.config)])
    (held,) = json.loads(capsys.readouterr().out)["held"]
    assert (held["kind"], held["name"], held["reason"]) == ("rule", "chests", "the ward moves")
    page.get_by_role("button", name="Let go: chests").click()
    page.locator("details.hold summary").first.wait_for()
    # undone, from the last to the first: the file is what it was, byte for byte
    for number in (3, 2, 1):
        page.goto(f"{url(node)}/configuration/history")
        press(page, f"Undo change {number}")
        page.get_by_text(f"change {number} undone").wait_for()
    assert node.config.read_text().strip() == first.strip()
    assert faults(page) == []


def test_the_second_of_two_browsers_sees_what_changed(node: NodeProcess, page: Any) -> None:
    page.goto(f"{url(node)}/peers/new")
    with page.context.browser.new_context() as context:
        other = pages.watched(context.new_page())
        other.set_default_timeout(WAIT_MS)
        sign_in(other, url(node))
        for one, name in ((other, "theirs"), (page, "ours")):
            if one is other:
                one.goto(f"{url(node)}/peers/new")
            one.locator("#name").fill(name)
            for key, text in (("ae_title", name.upper()), ("host", "10.0.0.9"), ("port", "104")):
                one.locator(f"#f-{key}").fill(text)
            press(one, CHECK)
            if one is other:
                press(one, SAVE)
                one.get_by_text("Done, and in force.").wait_for()
    page.get_by_text("was changed while you were writing").wait_for()
    assert page.locator("#f-ae_title").input_value() == "OURS"
    press(page, CHECK)
    press(page, SAVE)
    page.get_by_text("Done, and in force.").wait_for()
    assert {"theirs", "ours"} <= set(load(node.config).peers)


def test_what_the_running_node_refuses_leaves_the_file_as_it_was(
    node: NodeProcess, page: Any
) -> None:
    """A key of a table that waits for the next start: the file is right, the node cannot yet."""
    page.goto(f"{url(node)}/peers/new")
    fill(page, name="later", ae_title="LATER", host="10.0.0.8", port="104")
    press(page, CHECK)
    press(page, SAVE)
    page.get_by_text("Done, and in force.").wait_for()
    text = node.config.read_text() + '\n[node.tls]\nca = "authority.pem"\n'
    node.config.write_text(text)
    page.goto(f"{url(node)}/peers/later/edit")
    page.locator("summary", has_text="What it may do here").click()
    fill(page, certificate="CN=LATER")
    press(page, CHECK)
    page.locator("#diff").get_by_text('+certificate = "CN=LATER"').wait_for()
    press(page, SAVE)
    alert = page.locator("main [role=alert]")
    alert.get_by_text("the node refused it: ").wait_for()
    assert "peers.later.certificate: needs node.tls.ca" in alert.inner_text()
    assert "the file is what it was before" in alert.inner_text()
    assert page.locator("#f-certificate").input_value() == "CN=LATER"
    assert page.locator("#f-certificate").get_attribute("aria-invalid") == "true"
    assert node.config.read_text() == text
    assert node.answers()
    page.goto(f"{url(node)}/configuration/history")
    page.locator("article.past").first.get_by_text("It did not last: ").wait_for()
    node.config.write_text(text.split("\n[node.tls]")[0])
    assert faults(page) == []


def test_an_ignored_image_says_why_and_is_analysed_anyway(
    node: NodeProcess, page: Any, tmp_path: Path
) -> None:
    rule = ["rule", "add", "hands", "match.body_part=HAND", "mode=shadow"]
    assert main([*rule, "--config", str(node.config)]) == 0
    send(node, tmp_path, "1.2.3.9", BodyPartExamined="FOOT")
    page.goto(f"{url(node)}/images/1.2.3.9")
    page.get_by_text("“hands”: body_part is “FOOT”").wait_for()
    assert axe.violations(page, axe.script()) == []
    page.get_by_role("button", name="Try it on the rules").click()
    page.get_by_text("“hands” is not met").wait_for()
    page.go_back()
    press(page, "Analyse anyway")
    page.get_by_text("analysed anyway by jane").wait_for()
    assert rule_of(node, "1.2.3.9") == "hands"


def test_users_are_kept_by_administrators(node: NodeProcess, page: Any) -> None:
    script = axe.script()
    page.goto(f"{url(node)}/users")
    section = page.locator("section", has=page.get_by_role("heading", name="Add a user"))
    section.get_by_label("Name").fill("joe")
    section.get_by_label("Role").select_option("operator")
    section.get_by_role("button", name="Add").click()
    page.locator("#secret").wait_for()
    assert len(page.locator("#secret").inner_text().strip()) >= 12
    assert axe.violations(page, script) == []
    card = page.locator("article.user", has=page.get_by_role("heading", name="jane"))
    card.locator("summary", has_text="Remove").click()
    page.get_by_role("button", name="Remove for good: jane").click()
    page.get_by_text("the last administrator stays").wait_for()
    card = page.locator("article.user", has=page.get_by_role("heading", name="joe"))
    card.locator("summary", has_text="Key").click()
    page.get_by_role("button", name="Make a key: joe").click()
    assert page.locator("#secret").inner_text().startswith("cfx_")
    page.goto(f"{url(node)}/keys")
    press(page, "Make a key")
    page.locator("#secret").wait_for()
    assert axe.violations(page, script) == []
    page.goto(f"{url(node)}/users")
    card.locator("summary", has_text="Remove").click()
    page.get_by_role("button", name="Remove for good: joe").click()
    card.wait_for(state="detached")
    assert faults(page) == []


def test_what_a_search_finds_is_released_with_progress_and_a_name(
    page: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    goes_on, release = threading.Event(), Acts.release

    def released(acts: Acts, *given: Any, **named: Any) -> Any:
        assert goes_on.wait(60)
        return release(acts, *given, **named)

    monkeypatch.setattr(Acts, "release", released)
    with serving(tmp_path) as api, page.context.browser.new_context() as context:
        add_user(tmp_path / "users", "joe", "operator", PASSWORD)
        names = ("Trial^Vera", "Trial^Otto", "Other^Ida")
        uids = [
            pages.keep(api, b"\0" * 128 + b"DICM", pages.route(mode="shadow"), patient_name=name)
            for name in names
        ]
        for _ in uids:
            pages.reported(api, pages.claimed(api))
        joe = pages.watched(context.new_page())
        joe.set_default_timeout(WAIT_MS)
        sign_in(joe, api.url, "joe")
        joe.goto(f"{api.url}/bulk")
        joe.get_by_role("button", name="Release reports: 3 images").wait_for()
        joe.goto(f"{api.url}/")
        joe.get_by_role("searchbox").fill("trial")
        joe.get_by_role("searchbox").press("Enter")
        joe.get_by_text("filtered or sorted").wait_for()
        joe.get_by_role("link", name="Act on all that is found").click()
        joe.get_by_text("The search: trial").wait_for()
        joe.get_by_role("button", name="Release reports: 2 images").click()
        joe.get_by_text("0 of 2 images").wait_for()
        goes_on.set()
        joe.get_by_text("2 changed, 0 failed.").wait_for()
        assert joe.get_by_role("progressbar").get_attribute("value") == "2"
        assert axe.violations(joe, axe.script()) == []
        traces = [api.ledger.history.trace(uid) for uid in uids]
        by_joe = [any("by joe" in stage.detail for stage in one.stages) for one in traces]
        assert by_joe == [True, True, False]
        assert "withheld" not in {one.deliveries[0].state for one in traces[:2]}
        assert traces[2].deliveries[0].state == "withheld"
        assert faults(joe) == []
