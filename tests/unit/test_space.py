"""The disk: what takes its space, and what a person may let go; never what is not delivered."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pages
import pytest
from serving import Api, serving
from stations import wait_for

from dicom_node.store import space as of_space
from dicom_node.store.actor import Actor
from dicom_node.store.ledger import Instance
from dicom_node.store.ledger.purge import FREED_IMAGES
from dicom_node.store.space import FREED_KINDS, DiskSpace

ANNA = Actor("anna", "10.1.1.1")


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Api]:
    with serving(tmp_path, sign_in=False) as running:
        yield running


def content(mark: str) -> bytes:
    head = bytes(128) + b"DICM\x02\x00\x00\x00UL\x04\x00" + bytes(4)
    return head + mark.encode() * 1000


def received(api: Api, mark: str, **route: Any) -> str:
    return pages.keep(api, content(mark), pages.route(**route))


def reported(api: Api, mark: str, **route: Any) -> str:
    uid = received(api, mark, **route)
    pages.reported(api, pages.claimed(api))
    return uid


def delivered(api: Api, mark: str) -> str:
    uid = reported(api, mark)
    pages.deliver(api, 0)
    return uid


def every_state(api: Api) -> dict[str, str]:
    """Return one image in each state that there is; those that wait come last."""
    found = {"delivered": delivered(api, "delivered")}
    found["settled"] = reported(api, "settled")
    pages.deliver(api, None)
    api.ledger.acts.settle(found["settled"], "sent", by=ANNA)
    found["given up"] = reported(api, "given up")
    pages.deliver(api, None)
    api.ledger.acts.settle(found["given up"], "given-up", by=ANNA)
    found["withheld"] = reported(api, "withheld", mode="shadow")
    found["nowhere"] = reported(api, "nowhere", send_to=(), objects={})
    found["turned away"] = received(api, "turned away")
    pages.rejected(api, pages.claimed(api))
    found["failed"] = received(api, "failed")
    pages.fail(api, pages.claimed(api))
    found["retrying"] = reported(api, "retrying")
    pages.deliver(api, None)
    found["pending"] = reported(api, "pending")
    found["ignored"] = pages.keep(api, content("ignored"))
    found["running"] = received(api, "running")
    pages.claimed(api)
    found["received"] = received(api, "received")
    return found


def may_go(api: Api, kind: Any, before: float) -> set[str]:
    """Return the images of a kind, by their UIDs."""
    items = api.ledger.purge.removable(kind, before)
    assert api.ledger.purge.weigh(kind, before).count == len(items)
    jobs = {item.key[0] for item in items}
    if kind == "reports":
        return {str(api.ledger.history.trace(job).instance.sop_instance_uid) for job in jobs}
    return jobs


def test_only_what_is_delivered_or_wanted_by_nobody_may_go(api: Api) -> None:
    found = every_state(api)
    later = api.ledger.clock.wall() + 60
    names = {uid: name for name, uid in found.items()}
    seen = {kind: {names[uid] for uid in may_go(api, kind, later)} for kind in FREED_KINDS}
    assert seen == {
        "delivered": {"delivered", "settled"},
        "kept": {"withheld", "nowhere", "turned away"},
        "ignored": {"ignored"},
        "reports": {"delivered", "settled"},
        "conflicts": set(),
    }


def test_what_is_younger_stays(api: Api) -> None:
    every_state(api)
    before = api.ledger.clock.wall() - 3600
    assert [api.ledger.purge.weigh(kind, before).count for kind in FREED_KINDS] == [0] * 5


def remove(space: DiskSpace, kind: Any, older_s: float = 0.0) -> of_space.Removal:
    ended: list[of_space.Removal] = []
    assert space.begin(kind, older_s, ANNA, ended.append)
    wait_for("the removal is over", lambda: ended, 60)
    return ended[0]


def test_images_go_with_a_name_in_their_history_and_are_known_when_they_come_again(
    api: Api,
) -> None:
    found = every_state(api)
    sizes = {uid: api.ledger.history.trace(uid).instance.size for uid in found.values()}
    space = DiskSpace(api.settings, api.ledger, api.spool)
    run = remove(space, "delivered")
    gone = {found["delivered"], found["settled"]}
    assert (run.done, run.size, run.problem) == (2, sum(sizes[uid] for uid in gone), "")
    for uid in found.values():
        trace = api.ledger.history.trace(uid)
        is_there = bool(trace.instance.file) and api.spool.path(trace.instance.file).is_file()
        assert is_there == (uid not in gone)
    last = api.ledger.history.trace(found["delivered"]).stages[-1]
    assert (last.stage, "by anna" in last.detail) == ("purged", True)
    assert api.ledger.history.trace(found["delivered"]).instance.sha256


def test_what_somebody_needs_again_meanwhile_stays(api: Api) -> None:
    uid = delivered(api, "needed")
    before = api.ledger.clock.wall() + 60
    images = api.ledger.purge.removable("delivered", before)
    reports = api.ledger.purge.removable("reports", before)
    api.ledger.acts.resend(uid, by=ANNA)
    assert not api.ledger.purge.let_go(images[0], "delivered", before, ANNA)
    assert not api.ledger.purge.let_go(reports[0], "reports", before, ANNA)
    pages.deliver(api, 0)
    api.ledger.acts.replay(uid, by=ANNA)
    assert not api.ledger.purge.let_go(images[0], "delivered", before, ANNA)


def test_reports_go_from_the_disk_and_their_words_stay(api: Api) -> None:
    uid = delivered(api, "report")
    assert remove(DiskSpace(api.settings, api.ledger, api.spool), "reports").done == 1
    assert api.reports == []
    job = api.ledger.history.trace(uid).jobs[0]
    assert job.result is not None
    assert job.result.text


def test_other_content_is_let_go_only_when_somebody_says_so(api: Api) -> None:
    pages.keep(api, content("first"), pages.route(), patient_name="Doe^Jane", patient_id="1")
    pages.reported(api, pages.claimed(api))
    pages.deliver(api, 0)
    with api.spool.writing() as incoming:
        incoming.write(content("other"))
        kept = incoming.keep("1.2.77.1")
    facts = {"sha256": api.spool.digest(kept.name), "size": kept.size, "file": kept.name}
    known = api.ledger.history.trace("1.2.77.1").instance
    api.ledger.instances.note_digest("1.2.77.1", api.spool.digest(known.file))
    other = Instance(
        "1.2.77.1", known.sop_class_uid, known.transfer_syntax_uid, known.study_instance_uid,
        "1.2.8", patient_name="Roe^Richard", patient_id="2", **facts,
    )  # fmt: skip
    receipt = api.ledger.instances.receive(other, [pages.route()])
    assert receipt.kind == "conflict"
    space = DiskSpace(api.settings, api.ledger, api.spool)
    for kind in FREED_IMAGES:
        remove(space, kind)
    assert api.spool.path(kept.name).is_file()
    assert remove(space, "conflicts").done == 1
    assert not api.spool.path(kept.name).exists()


def test_left_over_files_go_and_files_that_rows_name_stay(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(of_space, "SECOND_LOOK_S", 0.0)
    uid = delivered(api, "named")
    with api.spool.writing() as incoming:
        incoming.write(content("left"))
        left = incoming.keep("1.2.99")
    with api.spool.writing() as incoming:
        incoming.write(content("young"))
        young = incoming.keep("1.2.98")
    old = api.ledger.clock.wall() - 2 * 86400
    named = api.ledger.history.trace(uid).instance.file
    for name in (left.name, named):
        os.utime(api.spool.path(name), (old, old))
    run = remove(DiskSpace(api.settings, api.ledger, api.spool), "left")
    assert run.done == 1
    assert not api.spool.path(left.name).exists()
    assert api.spool.path(named).is_file()
    assert api.spool.path(young.name).is_file()


def test_what_takes_the_space_is_counted(api: Api) -> None:
    uid = delivered(api, "counted")
    view = DiskSpace(api.settings, api.ledger, api.spool).count(0.0)
    parts = {part.key: part for part in view.parts}
    assert parts["images"].count == 1
    assert parts["images"].size == api.ledger.history.trace(uid).instance.size
    assert parts["reports"].size == len(b"SR")
    assert parts["ledger"].size > 10_000
    assert {"incoming", "conflicts", "log", "audit"} < set(parts)
    assert 0 < view.free <= view.total


# the page -----------------------------------------------------------------------------------------


@pytest.fixture
def client(api: Api) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=api.url, trust_env=False, timeout=30) as client:
        yield client


def token(client: httpx2.Client) -> str:
    found = re.search(r'name="csrf" value="([^"]+)"', client.get("/disk?older=0").text)
    assert found
    return found[1]


def test_the_page_shows_what_may_go_and_removes_it(api: Api, client: httpx2.Client) -> None:
    uid = delivered(api, "page")
    wait_for(
        "it is counted", lambda: "Remove 1 file for good" in client.get("/disk?older=0").text, 60
    )
    csrf = token(client)
    done = client.post("/disk/remove/delivered", data={"csrf": csrf, "older": "0"})
    assert (done.status_code, done.headers["location"]) == (303, "/disk/removal")
    wait_for("it is done", lambda: "Done." in client.get("/disk/removal").text, 60)
    assert "1 file removed" in client.get("/disk/removal").text
    assert not api.ledger.history.trace(uid).instance.file


@pytest.mark.parametrize(
    ("kind", "older", "status"),
    [
        ("everything", "0", 422),
        ("delivered", "5", 422),
        ("delivered", "-1", 422),
        ("left", "", 422),
    ],
)
def test_what_the_page_does_not_offer_is_refused(
    api: Api, client: httpx2.Client, kind: str, older: str, status: int
) -> None:
    delivered(api, "stays")
    answer = client.post(f"/disk/remove/{kind}", data={"csrf": token(client), "older": older})
    assert answer.status_code == status
    assert api.ledger.purge.weigh("delivered", api.ledger.clock.wall() + 1).count == 1


def test_nothing_goes_by_a_clock_that_was_set_back(api: Api, client: httpx2.Client) -> None:
    delivered(api, "clock")
    csrf = token(client)
    back = api.ledger.clock.wall() - 7200
    vars(api.ledger.clock).update(wall=lambda: back)
    try:
        answer = client.post("/disk/remove/delivered", data={"csrf": csrf, "older": "0"})
    finally:
        vars(api.ledger.clock).clear()
    assert answer.status_code == 409
    assert "clock" in answer.text
