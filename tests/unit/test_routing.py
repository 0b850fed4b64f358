"""Which rule an Instance meets, and where its report goes."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicom_node.flow import routing
from dicom_node.settings import Match, Peer, Rule, Settings


def rule(name: str = "r", **match: tuple[str, ...]) -> Rule:
    return Rule(name=name, match=Match(**match), allow_demonstration=True)


def peer(ae_title: str, host: str = "10.0.0.1", **changed: object) -> Peer:
    return Peer(ae_title=ae_title, host=host, port=104, **changed)


def test_the_first_rule_that_is_met_wins() -> None:
    rules = [
        rule("hip", body_part=("HIP",)),
        rule("chest", body_part=("CHEST", "")),
        rule("rest"),
    ]
    name = lambda part: routing.decide(rules, {"body_part": part}).name  # type: ignore[union-attr]  # noqa: E731
    assert [name(part) for part in ("CHEST", "", "HIP", "SKULL")] == [
        "chest",
        "chest",
        "hip",
        "rest",
    ]
    assert routing.decide(rules[:1], {"body_part": "KNEE"}) is None
    assert routing.decide([], {}) is None


def test_a_rule_with_a_modality_only_meets_any_body_part_and_view() -> None:
    rules = [rule(modality=("CR",))]
    assert routing.decide(rules, {"modality": "CR", "body_part": "HAND", "view": "LL"})
    assert not routing.decide(rules, {"modality": "DX"})
    assert not routing.decide(rules, {})


@pytest.mark.parametrize(
    ("pattern", "value", "is_met"),
    [
        ("CHEST", "chest", True),
        ("chest", " CHEST ", True),
        ("CHE?T", "CHEST", True),
        ("*THORAX*", "Thorax PA", True),
        ("CHEST", "CHEST PA", False),
        ("", "", True),
        ("", "CHEST", False),
        ("*", "", False),
        ("*", "x", True),
        ("?", "", False),
        ("[AP]A", "PA", True),
        ("STRASSE", "straße", True),
    ],
)
def test_patterns(pattern: str, value: str, is_met: bool) -> None:
    found = routing.decide([rule(body_part=(pattern,))], {"body_part": value})
    assert (found is not None) is is_met


def test_why_names_the_first_key_that_fails() -> None:
    rules = [rule("a", modality=("CR",), view=("PA",)), rule("b", view=("LL",)), rule("c")]
    assert routing.why(rules, {"modality": "CR", "view": "LL"}) == [
        ("a", False, "view"),
        ("b", True, None),
        ("c", True, None),
    ]


values = st.text(alphabet=string.ascii_letters + " _-.", max_size=12)
facts = st.dictionaries(st.sampled_from(routing.TEXT_KEYS), values)
matches = st.dictionaries(
    st.sampled_from(routing.TEXT_KEYS), st.lists(values, min_size=1, max_size=3).map(tuple)
)


@given(matches=st.lists(matches, max_size=4), instance_facts=facts)
def test_the_decision_is_the_first_met_rule_and_every_key_of_it_holds(
    matches: list[dict[str, tuple[str, ...]]], instance_facts: dict[str, str]
) -> None:
    rules = [rule(str(i), **match) for i, match in enumerate(matches)]

    def meets(match: dict[str, tuple[str, ...]]) -> bool:
        return all(
            instance_facts.get(key, "").strip().lower() in [p.strip().lower() for p in patterns]
            for key, patterns in match.items()
        )

    expected = next((str(i) for i, match in enumerate(matches) if meets(match)), None)
    found = routing.decide(rules, instance_facts)
    assert (found.name if found else None) == expected


PEERS = {"archive": peer("ARCHIVE"), "room": peer("MOD", "10.0.0.5")}


def test_destinations_name_each_peer_once_and_tell_what_is_missing() -> None:
    asked = Rule(name="r", send_to=("@sender", "archive", "gone"), allow_demonstration=True)
    names, problems = routing.destinations(asked, PEERS, "archive")
    assert names == ("archive", "gone")
    assert problems == ("no peer is named 'gone'; add [peers.gone]",)
    names, problems = routing.destinations(asked, PEERS, None, "NEW is not known")
    assert names == ("@sender", "archive", "gone")
    assert problems[0] == "NEW is not known"


PATIENT = {"sop_class_uid": "1.2.3", "patient_name": "Doe^Jane", "patient_id": "4711"}
HELD = [
    {"quality_control_image": "YES"},
    {"patient_name": "Phantom^Chest^No 1"},
    {"patient_name": "ANTHROPOMORPHIC PHANTOM"},
    {"patient_name": "QC^Monday"},
    {"patient_id": "QA-0001"},
    {"patient_id": "phantom-7-0001"},
]


def live(name: str = "chest", **more: object) -> Rule:
    return Rule(name=name, model="chexfract", **more)


@pytest.mark.parametrize("more", HELD)
def test_a_phantom_is_held_with_its_reason(more: dict[str, str]) -> None:
    settings = Settings(rules=[live()])
    seen = routing.facts(settings, PATIENT | more)
    assert routing.decide(settings.rules, seen) is None
    why = routing.why_ignored(settings.rules, seen)
    assert why.startswith("held as a phantom or quality-control image: ")
    assert "rule 'chest' needs match.quality_control = true" in why
    assert routing.why(settings.rules, seen) == [("chest", False, "quality_control")]


@pytest.mark.parametrize("more", HELD)
def test_a_rule_that_says_so_takes_a_phantom(more: dict[str, str]) -> None:
    control = live("control", match=Match(quality_control=True), mode="shadow")
    drawings = Rule(name="drawings", allow_demonstration=True)
    for rules in ([live(), control], [live(), drawings]):
        settings = Settings(rules=rules)
        taken = routing.decide(rules, routing.facts(settings, PATIENT | more))
        assert taken is rules[1]


@pytest.mark.parametrize("name", ["Doe^Jane", "Quack^Q", "Phan^Tom", "", "Acqua^QA Name"])
def test_a_patient_is_no_phantom(name: str) -> None:
    settings = Settings(rules=[live("control", match=Match(quality_control=True)), live("rest")])
    seen = routing.facts(settings, PATIENT | {"patient_name": name})
    taken = routing.decide(settings.rules, seen)
    assert taken is not None
    assert taken.name == "rest"


def test_a_site_names_its_own_phantoms() -> None:
    settings = Settings(
        rules=[live()], quality_control={"patient_name": ["PRUEF*"], "patient_id": []}
    )
    assert not routing.decide(
        settings.rules, routing.facts(settings, PATIENT | {"patient_name": "Pruefkoerper"})
    )
    assert routing.decide(
        settings.rules, routing.facts(settings, PATIENT | {"patient_name": "Phantom"})
    )


def test_why_nothing_takes_an_image() -> None:
    rules = [live(match=Match(modality=("CR",)))]
    settings = Settings(rules=rules)
    seen = routing.facts(settings, PATIENT | {"modality": "DX"})
    assert routing.why_ignored(rules, seen) == "no rule matched"
    assert routing.why_ignored([], seen) == "there are no rules"
    held = routing.facts(settings, PATIENT | {"modality": "DX", "patient_name": "QC"})
    assert routing.why_ignored(rules, held) == "no rule matched", "it is not for want of that"


def test_results_decide_who_gets_a_report_beside_the_others() -> None:
    asked = Rule(
        name="r",
        send_to=("@sender",),
        when={"present": ("worklist", "archive"), "absent": ("archive", "quiet")},
        allow_demonstration=True,
    )
    assert asked.destinations == ("@sender", "worklist", "archive", "quiet")
    assert routing.conditions(asked, "modality") == {
        "worklist": ("present", "undetermined"),
        "archive": ("present", "absent", "undetermined"),
        "quiet": ("absent",),
    }
    assert "archive" not in routing.conditions(asked, "archive"), "the sender gets every report"
    exact = Rule(
        name="r",
        send_to=(),
        when={"present": ("worklist",), "undetermined": (), "rejected": ("@sender",)},
        allow_demonstration=True,
    )
    assert routing.conditions(exact, "modality") == {
        "worklist": ("present",),
        "modality": ("rejected",),
    }


def test_names_in_when_must_be_peers() -> None:
    with pytest.raises(ValueError, match="no peer is named 'worklist'"):
        Settings(rules=[live(when={"present": ["worklist"]})])
