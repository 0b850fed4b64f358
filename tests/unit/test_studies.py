"""The worklist by study: each once, with all of its images, however it is asked for."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ledgers import NOW, fresh, instance, on, post, reported, result, route

from dicom_node.base.errors import NotFound
from dicom_node.base.job import Reason, Result
from dicom_node.store.ledger import Ledger, studies, upgrading
from dicom_node.store.ledger.history import is_in_state
from dicom_node.store.ledger.search import sort_name
from dicom_node.store.ledger.studies import StudyFilter, StudyView
from dicom_node.store.schema import instances, jobs


def receive(ledger: Ledger, n: int, study: str, *, routed: bool = False, **facts: Any) -> str:
    one = instance(n, study_instance_uid=study, **facts)
    on(ledger, NOW + n).instances.receive(one, [route()] if routed else [])
    return one.sop_instance_uid


def uids(found: tuple[StudyView, ...]) -> list[list[str]]:
    return [[image.sop_instance_uid.split(".")[-1] for image in match.images] for match in found]


def everything(ledger: Ledger, limit: int, **wanted: Any) -> list[list[str]]:
    """Return the studies of all pages."""
    found, before = [], ""
    for _ in range(200):
        page = ledger.studies.page(limit, StudyFilter(**wanted), before)
        found += uids(page.studies)
        before = page.older
        if not before:
            return found
    raise AssertionError("no end")


def test_a_study_stands_once_at_its_newest_image_with_all_of_them(ledger: Ledger) -> None:
    for n, study in enumerate(("1.1", "1.2", "1.1", "1.3", "1.2"), 1):
        receive(ledger, n, study)
    assert uids(ledger.studies.page().studies) == [["2", "5"], ["4"], ["1", "3"]]
    numbers = [image.number for image in ledger.studies.page().studies[0].images]
    assert numbers == [1, 2]


@given(numbers=st.lists(st.integers(0, 6), max_size=24), limit=st.integers(1, 7))
@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_pages_show_each_study_once_and_leave_none_out(
    tmp_path_factory: pytest.TempPathFactory, numbers: list[int], limit: int
) -> None:
    ledger = Ledger.open(fresh(tmp_path_factory.mktemp("ledger")))
    for n, study in enumerate(numbers, 1):
        receive(ledger, n, f"1.{study}")
    shown = everything(ledger, limit)
    expected = {
        study: [str(n) for n, number in enumerate(numbers, 1) if number == study]
        for study in numbers
    }
    assert sorted(shown) == sorted(expected.values())
    assert shown == sorted(shown, key=lambda images: -int(images[-1]))
    ledger.close()


def test_images_of_another_patient_are_never_in_the_same_study(ledger: Ledger) -> None:
    one = receive(ledger, 1, "1.1", patient_id="P1", patient_name="Doe^Jane")
    receive(ledger, 2, "1.1", patient_id="P2", patient_name="Roe^Richard")
    receive(ledger, 3, "1.1", patient_id="P1", patient_name="DOE^JANE")
    assert uids(ledger.studies.page().studies) == [["1", "3"], ["2"]]
    study = ledger.studies.of_image(one)
    assert [image.row.patient_id for image in study.images] == ["P1", "P1"]
    assert [image.row.patient_id for image in study.strangers] == ["P2"]


def test_images_without_a_study_stand_by_themselves(ledger: Ledger) -> None:
    receive(ledger, 1, "")
    receive(ledger, 2, "")
    assert uids(ledger.studies.page().studies) == [["2"], ["1"]]


def test_a_state_shows_the_whole_study_of_an_image_in_it(ledger: Ledger) -> None:
    receive(ledger, 1, "1.1", routed=True)
    receive(ledger, 2, "1.1")
    receive(ledger, 3, "1.2", routed=True)
    assert everything(ledger, 1, state="ignored") == [["1", "2"]]
    assert everything(ledger, 1, state="received") == [["3"], ["1", "2"]]
    assert everything(ledger, 1, state="failed") == []


def test_a_search_finds_a_study_by_words_and_by_the_uid_of_any_image(ledger: Ledger) -> None:
    receive(ledger, 1, "1.1", patient_name="Müller^Anna", patient_id="A")
    receive(ledger, 2, "1.1", patient_name="Müller^Anna", patient_id="A")
    receive(ledger, 3, "1.2", patient_name="Other^One", patient_id="B")
    assert everything(ledger, 1, search="muller an") == [["1", "2"]]
    assert everything(ledger, 5, search="1.2.3.1") == [["1", "2"]]
    assert everything(ledger, 5, search="nobody") == []


def test_dates_bound_what_is_shown(ledger: Ledger) -> None:
    for n in range(1, 9):
        receive(ledger, n, f"1.{n}")
    assert everything(ledger, 2, since=NOW + 3, until=NOW + 6) == [["5"], ["4"], ["3"]]
    assert everything(ledger, 2, until=NOW + 3) == [["2"], ["1"]]
    assert everything(ledger, 2, since=NOW + 8) == [["8"]]


def test_an_order_sorts_the_newest_studies(ledger: Ledger) -> None:
    for n, name in enumerate(("Émile^B", "Adam^A", "zoe^C"), 1):
        receive(ledger, n, f"1.{n}", patient_name=name, patient_id=name)
    assert everything(ledger, 1, sort="name") == [["2"], ["1"], ["3"]]
    assert everything(ledger, 2, sort="oldest") == [["1"], ["2"], ["3"]]


@pytest.mark.parametrize("again", ["by the same model", "by another"])
def test_a_study_that_says_the_same_twice_stands_on_one_page(ledger: Ledger, again: str) -> None:
    models = [route(), route(model="other")] if again == "by another" else [route()]
    for n in (1, 2):
        one = instance(n, study_instance_uid=f"1.{n}", patient_id=str(n))
        on(ledger, NOW + n).instances.receive(one, models)
        for model in [routed.model for routed in models]:
            (ticket,) = ledger.jobs.hand_out(model, 1, NOW + 60)
            ledger.jobs.claim(ticket.job, ticket.token, "w", 60)
            post(ledger, ticket, result(ticket, n, model=model, presence="present"), NOW + n)
    if again == "by the same model":
        on(ledger, NOW + 9).acts.replay(instance(2).sop_instance_uid)
        (ticket,) = on(ledger, NOW + 9).jobs.hand_out("phantom", 1, NOW + 60)
        ledger.jobs.claim(ticket.job, ticket.token, "w", 60)
        post(ledger, ticket, result(ticket, 3, presence="present"), NOW + 10)
    assert everything(ledger, 1, sort="finding") == [["2"], ["1"]]


def test_fractures_and_trouble_come_first_where_asked(ledger: Ledger) -> None:
    reported(ledger)
    receive(ledger, 2, "1.2")
    receive(ledger, 3, "1.3", routed=True)
    assert everything(ledger, 5, sort="finding")[0] == ["1"]
    assert everything(ledger, 5, sort="trouble")[0] == ["3"]


def scattered(ledger: Ledger) -> None:
    """Receive images of some studies; then 2 and 5 have failed, 4 is rejected, 7 to 9 wait."""
    kinds = "ignored failed ignored received rejected ignored received failed received ignored"
    for n, kind in enumerate(kinds.split(), 1):
        facts = {"patient_name": "ABCDEF"[n % 6], "patient_id": str(n % 6)}
        one = instance(n, study_instance_uid=f"1.{n % 6}", **facts)
        on(ledger, NOW + n).instances.receive(one, [] if kind == "ignored" else [route()])
        if kind in ("failed", "rejected"):
            (ticket,) = ledger.jobs.hand_out("phantom", 1, NOW + n + 60)
            ledger.jobs.claim(ticket.job, ticket.token, "w", 60)
            if kind == "failed":
                assert ledger.jobs.release(ticket.job, ticket.token, "oom", True, 0, 1)
            else:
                done = Result(
                    token=ticket.token, outcome="rejected", model="phantom", model_version="1",
                    device_uid="2.25.1", reason=Reason(code="lateral-view", text="lateral view"),
                )  # fmt: skip
                assert ledger.jobs.report(ticket.job, ticket.token, done, {})


@pytest.mark.parametrize("limit", [1, 3])
@pytest.mark.parametrize(
    ("sort", "wanted"),
    [
        ("oldest", [["5"], ["6"], ["1", "7"], ["2", "8"], ["3", "9"], ["4", "10"]]),
        ("trouble", [["5"], ["2", "8"], ["3", "9"], ["1", "7"], ["4", "10"], ["6"]]),
        ("name", [["6"], ["1", "7"], ["2", "8"], ["3", "9"], ["4", "10"], ["5"]]),
    ],
)
def test_each_order_leads_through_all_pages(
    ledger: Ledger, sort: str, wanted: list[list[str]], limit: int
) -> None:
    scattered(ledger)
    assert everything(ledger, limit, sort=sort) == wanted
    inside = [study for study in wanted if set(study) & {"3", "4", "5", "6", "7"}]
    within = everything(ledger, limit, sort=sort, since=NOW + 3, until=NOW + 8)
    assert sorted(within) == sorted(inside)


def test_the_oldest_of_a_state_come_first(ledger: Ledger) -> None:
    scattered(ledger)
    assert everything(ledger, 1, sort="oldest", state="failed") == [["2", "8"], ["5"]]
    assert everything(ledger, 1, sort="oldest", state="ignored") == [
        ["1", "7"], ["3", "9"], ["6"], ["4", "10"]
    ]  # fmt: skip


def test_an_order_of_what_a_search_finds_says_when_it_is_of_the_newest(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    scattered(ledger)
    monkeypatch.setattr(studies, "MOST_SORTED", 1)
    by_name = StudyFilter(sort="name", search="A1")
    assert ledger.studies.page(5, by_name).sorted_among == 1
    for sort in ("oldest", "trouble", "name", "finding"):
        assert ledger.studies.page(5, StudyFilter(sort=sort)).sorted_among == 0


@pytest.mark.parametrize("sort", ["name", "finding"])
def test_rows_of_an_older_version_are_sorted_among_the_newest_until_they_are_filled(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, sort: str
) -> None:
    scattered(ledger)
    whole = everything(ledger, 2, sort=sort)
    with ledger.database.writing() as connection:
        connection.execute(instances.update().values(sort_name=""))
        connection.execute(jobs.update().values(finding=None))
    monkeypatch.setattr(studies, "MOST_SCANNED", 4)
    page = ledger.studies.page(5, StudyFilter(sort=sort))
    assert (page.sorted_among, len(page.studies)) == (4, 4)
    monkeypatch.setattr(upgrading, "SORTED_AT_ONCE", 3)
    steps = []
    while step := ledger.upgrading.step():
        steps.append(step)
    assert len(steps) > 3
    assert ledger.studies.page(5, StudyFilter(sort=sort)).sorted_among == 0
    assert everything(ledger, 2, sort=sort) == whole


@pytest.mark.parametrize("sort", ["newest", "oldest"])
@pytest.mark.parametrize("state", ["reported", "delivered", "undelivered"])
def test_a_state_leads_through_all_images_also_behind_one_that_ran_again(
    ledger: Ledger, state: str, sort: str
) -> None:
    """Its new job began after those of images that came later."""
    for n in (1, 2, 3):
        receive(ledger, n, f"1.{n}", routed=True)
    for ticket in ledger.jobs.hand_out("phantom", 9, NOW + 60):
        ledger.jobs.claim(ticket.job, ticket.token, "w", 60)
        post(ledger, ticket, result(ticket, 1), NOW + 5)
    on(ledger, NOW + 100).acts.replay("1.2.3.1")
    (ticket,) = on(ledger, NOW + 100).jobs.hand_out("phantom", 9, NOW + 160)
    on(ledger, NOW + 100).jobs.claim(ticket.job, ticket.token, "w", 60)
    post(ledger, ticket, result(ticket, 9), NOW + 101)
    if state == "delivered":
        for delivery in on(ledger, NOW + 200).deliveries.due():
            on(ledger, NOW + 200).deliveries.delivered(delivery.id, 0)
    assert sorted(everything(ledger, 1, state=state, sort=sort)) == [["1"], ["2"], ["3"]]
    if sort == "newest":
        before, found = "", []
        while page := ledger.history.page(1, state=state, before=before):
            found += [row.sop_instance_uid[-1] for row in page.rows]
            if not (before := page.older):
                break
        assert sorted(set(found)) == ["1", "2", "3"]


NAMES = ("", "Émile^B", "emile^b", "Adam", "zoe^C", "Ünal", "山田^太郎", "^^", "0")
FINDINGS = ("present", "undetermined", "absent", "rejected", "failed", "received", "ignored")
IMAGES = st.lists(
    st.tuples(st.integers(0, 5), st.sampled_from(NAMES), st.sampled_from(FINDINGS), st.booleans()),
    max_size=14,
)


def live_through(ledger: Ledger, n: int, study: int, name: str, found: str, again: bool) -> None:
    """Receive an image, let its report say something, and then, where wanted, something else."""
    one = instance(n, study_instance_uid=f"1.{study}", patient_name=name, patient_id=name)
    routes = [] if found == "ignored" else [route(send_to=())]
    on(ledger, NOW + n).instances.receive(one, routes)
    for at, said in (
        (0, found),
        *(((1000, ("absent", "present")[n % 2]),) if again and found == "present" else ()),
    ):
        if at:
            on(ledger, NOW + n + at).acts.replay(one.sop_instance_uid)
        if said in ("received", "ignored"):
            return
        known = {job.job for job in ledger.history.trace(one.sop_instance_uid).jobs}
        tickets = ledger.jobs.hand_out("phantom", 99, NOW + n + 60)
        (ticket,) = (given for given in tickets if given.job in known)
        ledger.jobs.claim(ticket.job, ticket.token, "w", 60)
        if said == "failed":
            ledger.jobs.release(ticket.job, ticket.token, "oom", True, 0, 1)
        elif said == "rejected":
            reason = Reason(code="lateral-view", text="lateral view")
            done = Result(
                token=ticket.token, outcome="rejected", model="phantom", model_version="1",
                device_uid="2.25.1", reason=reason,
            )  # fmt: skip
            assert ledger.jobs.report(ticket.job, ticket.token, done, {})
        else:
            post(ledger, ticket, result(ticket, n, presence=said), NOW + n + at)


def all_studies(ledger: Ledger, limit: int, **wanted: Any) -> list[StudyView]:
    found, before = [], ""
    for _ in range(200):
        page = ledger.studies.page(limit, StudyFilter(**wanted), before)
        found += page.studies
        assert page.sorted_among == 0
        before = page.older
        if not before:
            return found
    raise AssertionError("no end")


PLACES = {"present": 0, "undetermined": 1, "absent": 2}


@given(images=IMAGES, limit=st.integers(1, 4), since=st.sampled_from([0.0, NOW + 4]),
       state=st.sampled_from(["", "ignored", "reported", "failed"]))  # fmt: skip
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_every_order_is_right_over_all_images_whatever_else_is_asked(
    tmp_path_factory: pytest.TempPathFactory,
    images: list[tuple[int, str, str, bool]],
    limit: int,
    since: float,
    state: str,
) -> None:
    """The newest would do for none of these: no more than two are ever sorted as a whole."""
    ledger = Ledger.open(fresh(tmp_path_factory.mktemp("ledger")))
    for n, image in enumerate(images, 1):
        live_through(ledger, n, *image)
    asked: dict[str, Any] = {"since": since, "state": state}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(studies, "MOST_SCANNED", 2)
        patch.setattr(studies, "MOST_SORTED", 2)
        wanted = {tuple(one) for one in everything(ledger, limit, **asked)}
        by_name = all_studies(ledger, limit, sort="name", **asked)
        by_finding = all_studies(ledger, limit, sort="finding", **asked)
    for found in (by_name, by_finding):
        shown = [tuple(uid) for uid in uids(tuple(found))]
        assert len(shown) == len(set(shown))
        assert set(shown) == wanted
    names = [sort_name(one.newest.row.patient_name) for one in by_name]
    assert names == sorted(names)

    def place(study: StudyView) -> int:
        rows = [row for image in study.images for row in image.rows]
        seen = [one for one in rows if one.received_at >= since and is_in_state(one, state)]
        return min(PLACES.get(row.presence or "", 3) for row in seen)

    places = [place(one) for one in by_finding]
    assert places == sorted(places)
    ledger.close()


def test_a_place_in_an_order_holds_no_name_and_stays_when_others_come(ledger: Ledger) -> None:
    for n, name in enumerate(("Alpha", "Gamma", "Zeta"), 1):
        receive(ledger, n, f"1.{n}", patient_name=name, patient_id=name)
    by_name = StudyFilter(sort="name")
    page = ledger.studies.page(2, by_name)
    assert "gamma" not in page.older.lower()
    receive(ledger, 4, "1.4", patient_name="Beta", patient_id="Beta")
    assert uids(ledger.studies.page(2, by_name, page.older).studies) == [["3"]]


def test_a_report_that_a_reader_disagrees_with_is_found(ledger: Ledger) -> None:
    job = reported(ledger).job
    receive(ledger, 2, "1.2")
    assert everything(ledger, 5, state="disagreed") == []
    ledger.acts.judge(job, "agree", "ann")
    ledger.acts.judge(job, "disagree", "bob")
    assert everything(ledger, 5, state="disagreed") == [["1"]]


def test_an_image_that_nobody_knows_has_no_study(ledger: Ledger) -> None:
    with pytest.raises(NotFound):
        ledger.studies.of_image("9.9")


def test_a_page_ends_early_rather_than_look_at_everything(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(studies, "MOST_LOOKS", 10)
    for n in range(1, 200):
        receive(ledger, n, "1.1" if n > 2 else f"1.{n + 1}")
    assert ledger.studies.page(5).older
    assert [images[-1] for images in everything(ledger, 5)] == ["199", "2", "1"]
