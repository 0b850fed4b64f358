"""People are found as people search, in every script, and alike in both databases."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ledgers import fresh, instance, route
from postgresql import cluster
from pydicom import Dataset

from dicom_node.base.job import ClaimRequest, LeaseRequest, Message, Reason, ReleaseRequest
from dicom_node.standard.names import folded, spaced
from dicom_node.store.catalogue import Catalogue
from dicom_node.store.ledger import Ledger, search
from dicom_node.store.ledger.search import MOST_TEXT, searched_text, words_of
from dicom_node.store.spool import Spool
from dicom_node.web.jobs import CallHead

NAMES = (
    "Doe^Jane",
    "O'Brien^Seán^Patrick",
    "OBRIEN^MARY",
    "Müller-Schmidt^Jörg",
    "Straßer^Günther",
    "Sørensen^Bjørn",
    "Łukasiewicz^Đorđe",
    "Yılmaz^Işık",
    "İnönü^İpek",
    "Παπαδόπουλος^Γιώργος",
    "Ёлкин^Пётр^Иванович",
    "محمّد^عليّ",
    "العـــربي^فاطمة",
    "כהן^משה",
    "Hong^Gildong=洪^吉洞=홍^길동",
    "김^철수",
    "Yamada^Tarou=山田^太郎=やまだ^たろう",
    "王小东",
    "ชื่น^สมชาย",
    "कमला^देवी",
    "Nguyễn^Thị Minh Khai",
    "𫠝^𠮷",
    "de la Cruz^María José",
    "Smith^12e5 7abc a@b.c",
)


@pytest.fixture(scope="module")
def ledgers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Ledger, Ledger]]:
    """The same Instances in SQLite and in PostgreSQL."""
    with cluster() as running:
        both = (
            Ledger.open(fresh(tmp_path_factory.mktemp("search"))),
            Ledger.open(running.fresh()),
        )
        for ledger in both:
            for n, name in enumerate(NAMES):
                facts = {
                    "patient_name": name,
                    "patient_id": f"00{n}-A",
                    "accession_number": f"X{n}",
                }
                ledger.instances.receive(instance(n, **facts), [route()])
        yield both
        for ledger in both:
            ledger.close()


def found(ledger: Ledger, search: str) -> list[str]:
    return [row.patient_name for row in ledger.history.page(50, search).rows]


def shown_words(name: str) -> list[str]:
    """The words of a name as a page shows it: ``Doe, Jane``."""
    return name.replace("=", " ").replace("^", ", ").split()


@given(data=st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_beginnings_of_words_in_any_order_and_case_find_a_person(
    ledgers: tuple[Ledger, Ledger], data: st.DataObject
) -> None:
    name = data.draw(st.sampled_from(NAMES))
    some = data.draw(st.lists(st.sampled_from(shown_words(name)), min_size=1, max_size=4))
    typed = [word[: data.draw(st.integers(1, len(word)))] for word in some]
    change = data.draw(st.sampled_from((str, str.upper, str.lower, str.title)))
    search = change(data.draw(st.sampled_from((" ", ", ", "^"))).join(typed))
    answers = [found(ledger, search) for ledger in ledgers]
    if words_of(search):
        assert name in answers[0], search
    assert answers[0] == answers[1], search


@given(search=st.one_of(st.text(max_size=12), st.text("aeo'-* \"\\:&|!()0129", max_size=8)))
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_text_is_a_search_with_one_answer(ledgers: tuple[Ledger, Ledger], search: str) -> None:
    assert found(ledgers[0], search) == found(ledgers[1], search)


@pytest.mark.parametrize(
    ("search", "name"),
    [
        ("obrien", "O'Brien^Seán^Patrick"),
        ("o’brien", "OBRIEN^MARY"),
        ("brien sean", "O'Brien^Seán^Patrick"),
        ("STRASSER", "Straßer^Günther"),
        ("sorensen", "Sørensen^Bjørn"),
        ("lukas djord", None),
        ("lukas dord", "Łukasiewicz^Đorđe"),
        ("ISIK YILMAZ", "Yılmaz^Işık"),
        ("inonu", "İnönü^İpek"),
        ("παπαδοπουλοσ", "Παπαδόπουλος^Γιώργος"),
        ("ЕЛКИН ПЕТР", "Ёлкин^Пётр^Иванович"),
        ("محمد", "محمّد^عليّ"),
        ("العربي فاطمه", "العـــربي^فاطمة"),
        ("길동", "Hong^Gildong=洪^吉洞=홍^길동"),
        ("山田 た", "Yamada^Tarou=山田^太郎=やまだ^たろう"),
        ("ｙａｍａｄａ", "Yamada^Tarou=山田^太郎=やまだ^たろう"),
        ("nguyen khai", "Nguyễn^Thị Minh Khai"),
        ("7ab 12e", "Smith^12e5 7abc a@b.c"),
        ("003", "Müller-Schmidt^Jörg"),
        ("003\0", "Müller-Schmidt^Jörg"),
    ],
)
def test_names_are_found_as_people_write_them(
    ledgers: tuple[Ledger, Ledger], search: str, name: str | None
) -> None:
    for ledger in ledgers:
        assert (name in found(ledger, search)) is (name is not None)


@given(st.text())
@settings(max_examples=60, deadline=None)
def test_folding_again_changes_nothing_and_case_does_not_count(text: str) -> None:
    once = folded(text)
    assert folded(once) == once
    assert folded(text.casefold()) == once
    assert len(spaced(once)) == len(once)


def test_a_name_of_any_length_costs_no_more_than_a_long_one() -> None:
    assert len(searched_text("'a" * 10**6, "b " * 10**6, "c" * 10**6)) <= 2 * 3 * MOST_TEXT


def test_what_is_near_and_what_is_far_behind_is_found_once_and_in_order(
    ledgers: tuple[Ledger, Ledger], monkeypatch: pytest.MonkeyPatch
) -> None:
    """PostgreSQL looks at its newest rows, as long as that is quick, and then into its index."""
    monkeypatch.setattr(search, "_WINDOW", 3)
    monkeypatch.setattr(search, "_WIDEST", 5)
    monkeypatch.setattr(search, "_FIRST_CHUNK", 2)
    both = [{}, {}]
    for ledger, known in zip(ledgers, both, strict=True):
        for n in range(100, 140):
            name = "Rare^Seldom" if n in (101, 102, 120) else "Often^Seen"
            facts = {"patient_name": name, "patient_id": f"{n}", "accession_number": f"Y{n}"}
            ledger.instances.receive(instance(n, **facts), [route()])
        for often in (0.0, 0.5, 2.0):  # from windows alone to the index at once
            monkeypatch.setattr(search, "_OFTEN", often)
            for words in ("often", "se", "rare", "seldom rare", "often rare", "y1", "nobody"):
                rows, before = [], ""
                while True:
                    page = ledger.history.page(2, words, before=before)
                    rows += [row.sop_instance_uid for row in page.rows]
                    if not (before := page.older):
                        break
                known[often, words] = rows
    for (often, words), rows in both[1].items():
        assert rows == both[0][often, words], (often, words)
    assert [len(both[1][0.5, words]) for words in ("often", "rare", "nobody")] == [37, 3, 0]


@pytest.mark.parametrize("keyword", ["PatientID", "AccessionNumber", "StudyInstanceUID"])
@pytest.mark.parametrize("text", ["A\0B", "*\0B", "\0", "A\0"])
def test_a_key_with_nul_matches_nothing_that_is_kept_in_either_database(
    ledgers: tuple[Ledger, Ledger], tmp_path: Path, keyword: str, text: str
) -> None:
    """PostgreSQL refuses NUL, which made the ledger seem to be away."""
    keys = Dataset()
    keys.add_new(keyword, "LO", text)
    for ledger in ledgers:
        found = Catalogue(ledger, Spool(tmp_path)).find("STUDY", keys)
        assert [*found] == []


@pytest.mark.parametrize(
    "message",
    [
        ClaimRequest(token="a\0", worker="b\0"),
        LeaseRequest(token="a\0"),
        ReleaseRequest(token="a\0", reason="b\0"),
        Reason(code="a\0", text="b\0"),
    ],
)
def test_what_a_worker_says_reaches_the_ledger_without_nul(message: Message) -> None:
    values = message.model_dump().values()
    assert not [value for value in values if "\0" in str(value)]
    assert CallHead("a\0b", {"headers": ()}).job == "a\ufffdb"
