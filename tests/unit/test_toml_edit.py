"""Changes of tables in a TOML text: what is not changed stays, byte for byte, comments and all."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dicom_node.base.errors import ConfigurationError
from dicom_node.base.toml_edit import (
    change_peer,
    change_rule,
    change_section,
    move_rule,
    put_back,
    render,
    table_text,
)

FILE = '''# my node
[node]
ae_title = "X"  # mine

# ---- peers ----

# the archive
[peers.pacs]
ae_title = "PACS"   # title
host = "10.0.0.1"
objects = [
  "sr",  # the report
  "pdf",
]
[peers.pacs.tls]
ca = "a.pem"
# below it

# free comment

[notify]
webhook = "https://x"  # "quoted # sign"
text = """
[peers.false]
# not a comment
"""
# rule one
[[rules]]
name = "a"
match.modality = ["DX"]  # only
[rules.when]
present = ["pacs"]

# another free one
[[rules]]
name = "b"
match = { modality = ["CR"], view = ["AP"] }
# the end
'''.replace('text = """\n[peers.false]\n# not a comment\n"""\n', "")


def comments(text: str) -> list[str]:
    """Return the comments of a text that has no # elsewhere but in one quoted text."""
    lines = [line.replace('"quoted # sign"', "quoted") for line in text.splitlines()]
    return sorted(line[line.index("#") :].strip() for line in lines if "#" in line)


def test_one_key_is_changed_and_all_else_stays() -> None:
    peer = tomllib.loads(FILE)["peers"]["pacs"] | {"host": "10.0.0.2"}
    assert change_peer(FILE, "pacs", peer) == FILE.replace("10.0.0.1", "10.0.0.2")


def test_a_new_peer_stands_behind_the_others_and_a_new_rule_last() -> None:
    changed = change_peer(FILE, "a.b", {"ae_title": "Q", "tls": {"ca": "b.pem"}})
    changed = change_rule(changed, "c", {"name": "c", "match": {"view": ["PA"]}})
    assert '\n\n[peers."a.b"]\nae_title = "Q"\ntls.ca = "b.pem"\n\n# free comment' in changed
    assert changed.endswith('# the end\n\n[[rules]]\nname = "c"\nmatch.view = ["PA"]\n')


def test_a_rule_is_moved_with_its_comments_and_what_stands_between_stays() -> None:
    changed = move_rule(FILE, "b", 0)
    assert changed.index("# another free one") < changed.index('name = "b"')
    assert [rule["name"] for rule in tomllib.loads(changed)["rules"]] == ["b", "a"]
    assert move_rule(changed, "b", 1) == FILE


def test_a_removed_table_goes_with_its_own_comments_alone_and_comes_back() -> None:
    lines = table_text(FILE, "peers", "pacs")
    without = change_peer(FILE, "pacs", None)
    assert "# the archive" not in without
    assert "# free comment" in without
    assert "# ---- peers ----" in without
    again = put_back(without, "peers", "pacs", lines)
    assert tomllib.loads(again) == tomllib.loads(FILE)
    assert comments(again) == comments(FILE)


def test_text_that_looks_like_a_head_is_no_head() -> None:
    text = FILE + '[web]\nproxy = """\n[peers.false]\n# no comment\n"""\nlist = [\n[1], # one\n]\n'
    changed = change_peer(text, "new", {"ae_title": "N"})
    assert text.split("[web]")[1] == changed.split("[web]")[1]
    assert list(tomllib.loads(changed)["peers"]) == ["pacs", "new"]


def test_line_ends_of_windows_stay() -> None:
    text = FILE.replace("\n", "\r\n")
    changed = change_rule(text, "a", {"name": "a", "mode": "shadow"})
    assert "\n" not in changed.replace("\r\n", "")
    assert 'mode = "shadow"\r\n' in changed


def test_a_file_without_tables_gets_its_first() -> None:
    assert change_peer("", "a", {"port": 1}) == "[peers.a]\nport = 1\n"
    assert change_rule("# x", "r", {"name": "r"}) == '# x\n\n[[rules]]\nname = "r"\n'
    assert change_rule('[[rules]]\nname = "r"\n', "r", None).strip() == ""


@pytest.mark.parametrize(
    "text",
    [
        "peers = { a = { port = 1 } }\n",
        "[peers]\na.port = 1\n",
        "[peers.a]\nport = 1\n[node]\n[peers.a.tls]\nca = 'x'\n",
    ],
)
def test_what_is_written_otherwise_is_refused_and_stays(text: str) -> None:
    with pytest.raises(ConfigurationError, match="written in a way that cannot be changed here"):
        change_peer(text, "a", {"port": 2})


def test_keys_of_an_inline_table_are_added_and_its_comments_stay() -> None:
    rule = {"name": "b", "match": {"modality": ["CR"], "body_part": ["CHEST"]}}
    changed = change_rule(FILE, "b", rule)
    assert tomllib.loads(changed)["rules"][1] == rule
    assert comments(changed) == comments(FILE)


def test_half_a_character_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="half of a character"):
        render("\ud800")


WORDS = st.text(st.characters(codec="utf-8"), max_size=12)
VALUES: st.SearchStrategy[Any] = st.fixed_dictionaries(
    {},
    optional={
        "ae_title": WORDS,
        "host": WORDS,
        "port": st.integers(0, 65535),
        "storage_commitment": st.booleans(),
        "timeout": st.floats(0, 1e6, allow_nan=False),
        "objects": st.lists(WORDS, max_size=3),
        "tls": st.fixed_dictionaries({}, optional={"ca": WORDS, "key": WORDS}),
    },
)
RULE = st.fixed_dictionaries(
    {},
    optional={
        "model": WORDS,
        "match": st.fixed_dictionaries(
            {}, optional={"modality": st.lists(WORDS, max_size=2), "quality_control": st.booleans()}
        ),
        "when": st.fixed_dictionaries({}, optional={"present": st.lists(WORDS, max_size=2)}),
    },
)
EDITS = st.one_of(
    st.tuples(st.just("peer"), st.sampled_from(["pacs", "x", "a.b"]), VALUES),
    st.tuples(st.just("rule"), st.sampled_from(["a", "b", "ü \x7f"]), RULE),
    st.tuples(st.just("move"), st.sampled_from(["a", "b"]), st.integers(0, 3)),
)


@settings(max_examples=3, deadline=None)
@given(st.lists(EDITS, min_size=50, max_size=50), st.booleans())
def test_comments_are_intact_after_fifty_edits(edits: list[Any], is_windows: bool) -> None:
    text = FILE.replace("\n", "\r\n") if is_windows else FILE
    for kind, name, values in edits:
        if kind == "peer":
            text = change_peer(text, name, values)
            # an empty table is the same as none
            found = tomllib.loads(text)["peers"].get(name, {})
            assert {k: v for k, v in found.items() if v != {}} == {
                k: v for k, v in values.items() if v != {}
            }
        elif kind == "rule":
            text = change_rule(text, name, {"name": name, **values})
        else:
            text = move_rule(text, name, values)
    kept = comments(text)
    for comment in set(comments(FILE)):
        assert kept.count(comment) >= comments(FILE).count(comment)


SECTION = """# the node
[node]
ae_title = "X"

# how long
[retention]
images = "24h"  # a day
min_free = "2GB"
# below it

[peers.pacs]
ae_title = "PACS"
"""


def test_a_section_is_changed_where_it_stands_and_comments_stay() -> None:
    changed = change_section(SECTION, "retention", {"images": "1h", "reports": "30d"})
    assert changed == SECTION.replace('"24h"  # a day', '"1h"  # a day').replace(
        'min_free = "2GB"\n# below it\n', '# below it\nreports = "30d"\n'
    )


def test_a_section_is_added_before_peers_and_rules_and_taken_away_again() -> None:
    without = SECTION.replace(SECTION[SECTION.index("# how") : SECTION.index("[peers")], "")
    added = change_section(without, "retention", {"images": "1h"})
    assert tomllib.loads(added)["retention"] == {"images": "1h"}
    assert added.index("[retention]") < added.index("[peers.pacs]")
    assert tomllib.loads(change_section(added, "retention", None)) == tomllib.loads(without)
    lines = table_text(SECTION, "retention", "retention")
    assert lines.startswith("# how long\n[retention]")
    changed = change_section(SECTION, "retention", {"images": "1h"})
    assert put_back(changed, "retention", "retention", lines) == SECTION


def test_a_section_of_dotted_keys_is_left_alone() -> None:
    with pytest.raises(ConfigurationError, match=r"\[retention\]"):
        change_section('retention.images = "24h"\n', "retention", {"images": "1h"})
