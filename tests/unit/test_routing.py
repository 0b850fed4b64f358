"""Which rule an Instance meets, and where its report goes."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicom_node.flow import routing
from dicom_node.settings import Match, Peer, Rule


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
facts = st.dictionaries(st.sampled_from(routing.KEYS), values)
matches = st.dictionaries(
    st.sampled_from(routing.KEYS), st.lists(values, min_size=1, max_size=3).map(tuple)
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
