"""node.toml is changed as a whole or not at all, by one of two authors, and can be undone."""

from __future__ import annotations

import json
import stat
import threading
from pathlib import Path
from typing import Any

import pytest

from dicom_node import cli, editing
from dicom_node.base.errors import ConfigurationError, NotFound, Unreachable
from dicom_node.base.toml_fields import fields_of, table_of, texts_of, value_of
from dicom_node.editing import (
    ConfigFile,
    FileChanged,
    ReadOnlyFile,
    ReloadRefused,
    TableChange,
)
from dicom_node.running import Reloaded
from dicom_node.settings import Peer, Rule, load
from dicom_node.store.actor import Actor
from dicom_node.store.uses import Use

TEXT = """# the node of the ward
[notify]
webhook = "https://hooks.example/S3CRET"  # S3CRET
[peers.pacs]  # the archive
ae_title = "PACS"
host = "10.0.0.1"
port = 104

[[rules]]
name = "chests"
match.modality = ["DX"]
mode = "shadow"
"""
PACS = {"ae_title": "PACS", "host": "10.0.0.2", "port": 104}
JANE = Actor("jane", "10.1.1.1")


class Writer:
    """A file with all that an editor of it does noted."""

    def __init__(self, folder: Path, text: str = TEXT) -> None:
        self.path = folder / "node.toml"
        self.path.write_text(text)
        self.uses: list[Use] = []
        self.reloads: list[str] = []
        self.refusal: Exception | None = None
        self.file = ConfigFile(self.path, self.uses.append, self._reload)

    def _reload(self, by: Actor) -> Reloaded:
        self.reloads.append(self.path.read_text())
        if self.refusal:
            raise self.refusal
        settings = load(self.path)
        return Reloaded(tuple(settings.peers), tuple(rule.name for rule in settings.rules))

    def change(self, *wanted: Any, base: str = "", **more: Any) -> Any:
        return self.file.change(TableChange(*wanted, **more), JANE, "page", base)


@pytest.fixture
def writer(tmp_path: Path) -> Writer:
    return Writer(tmp_path)


def test_a_change_is_written_taken_kept_and_audited(writer: Writer) -> None:
    writer.path.chmod(0o640)
    outcome = writer.change("peers", "pacs", PACS, base=writer.file.read().mark)
    assert writer.path.read_text() == TEXT.replace("10.0.0.1", "10.0.0.2")
    assert stat.S_IMODE(writer.path.stat().st_mode) == 0o640
    assert outcome.reloaded == Reloaded(("pacs",), ("chests",))
    (past,) = writer.file.history()
    assert (past.by, past.address, past.way, past.what) == (
        "jane", "10.1.1.1", "page", "peer 'pacs' changed",
    )  # fmt: skip
    assert past.diff.splitlines()[2:4] == ['-host = "10.0.0.1"', '+host = "10.0.0.2"']
    (use,) = writer.uses
    assert (use.what, use.user, use.alert) == ("configured", "jane", "peer 'pacs' changed: host")


def test_nothing_of_other_tables_is_in_the_history(writer: Writer) -> None:
    writer.change("peers", "pacs", PACS)
    history = writer.path.with_name("node.toml.history")
    assert "S3CRET" not in history.read_text()
    assert stat.S_IMODE(history.stat().st_mode) == 0o600


def test_a_password_in_a_comment_is_hidden_in_history_and_difference(tmp_path: Path) -> None:
    text = TEXT.replace("port = 104\n", "port = 104\n# the web password: hunter22\n")
    writer = Writer(tmp_path, text)
    outcome = writer.change("peers", "pacs", PACS)
    assert "hunter22" in writer.path.read_text()
    assert "hunter22" not in outcome.change.diff
    assert "hunter22" not in writer.path.with_name("node.toml.history").read_text()


def test_what_config_check_refuses_is_not_written(writer: Writer) -> None:
    with pytest.raises(ConfigurationError, match=r"peers.pacs.prt: unknown key; did you mean port"):
        writer.change("peers", "pacs", {**PACS, "prt": 1})
    with pytest.raises(ConfigurationError, match="no peer is named 'nowhere'"):
        writer.change("rules", "chests", {"name": "chests", "send_to": ["nowhere"]})
    with pytest.raises(ConfigurationError, match="TLS files"):
        writer.change("peers", "pacs", {**PACS, "tls": {"ca": "missing.pem"}})
    assert writer.path.read_text() == TEXT
    assert writer.reloads == []
    assert writer.file.history() == []


def test_the_second_of_two_authors_sees_what_changed_and_loses_nothing(writer: Writer) -> None:
    base = writer.file.read().mark
    writer.change("peers", "pacs", PACS, base=base)
    with pytest.raises(FileChanged, match="changed by jane meanwhile") as found:
        writer.change("peers", "other", {**PACS, "ae_title": "B"}, base=base)
    assert [change.what for change in found.value.since] == ["peer 'pacs' changed"]
    assert "other" not in writer.path.read_text()
    writer.change("peers", "other", {**PACS, "ae_title": "B"}, base=writer.file.read().mark)


def test_an_edit_by_hand_meanwhile_is_noticed(writer: Writer) -> None:
    base = writer.file.read().mark
    writer.path.write_text(TEXT + "# by hand\n")
    with pytest.raises(FileChanged):
        writer.change("peers", "pacs", PACS, base=base)
    assert writer.path.read_text() == TEXT + "# by hand\n"


def test_two_writers_at_once_both_last(writer: Writer) -> None:
    def add(number: int) -> None:
        peer = {**PACS, "ae_title": f"P{number}", "host": f"10.0.1.{number}"}
        writer.change("peers", f"p{number}", peer)

    threads = [threading.Thread(target=add, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(load(writer.path).peers) == {"pacs", *(f"p{n}" for n in range(6))}
    assert [change.number for change in writer.file.history()] == list(range(1, 7))


def test_a_refused_reload_puts_the_file_back_and_says_why(writer: Writer) -> None:
    writer.refusal = ConfigurationError("its TLS file went away")
    with pytest.raises(ReloadRefused, match="TLS file went away; the file is what it was before"):
        writer.change("peers", "pacs", PACS)
    assert len(writer.reloads) == 1
    assert writer.path.read_text() == TEXT
    (past,) = writer.file.history()
    assert "went away" in past.problem
    assert not writer.uses[0].is_served
    with pytest.raises(NotFound, match="did not last"):
        writer.file.undo(1, JANE, "page")


def test_what_somebody_wrote_during_a_refused_reload_stays(writer: Writer) -> None:
    def reload(by: Actor) -> Reloaded:
        writer.path.write_text(TEXT + "# by hand\n")
        raise ConfigurationError("refused")

    file = ConfigFile(writer.path, writer.uses.append, reload)
    with pytest.raises(ReloadRefused):
        file.change(TableChange("peers", "pacs", PACS), JANE, "page")
    assert writer.path.read_text() == TEXT + "# by hand\n"


def test_a_node_that_gives_no_answer_keeps_the_change(writer: Writer) -> None:
    writer.refusal = Unreachable("it did not say within 20 s that it reloaded")
    assert "did not say" in writer.change("peers", "pacs", PACS).remark
    assert "10.0.0.2" in writer.path.read_text()


def test_a_file_that_cannot_be_written_gives_the_lines_to_copy(
    writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    # the tests' user may write everywhere
    monkeypatch.setattr(editing.os, "access", lambda path, mode: False)
    with pytest.raises(ReadOnlyFile, match="this user may not write it") as found:
        writer.change("peers", "pacs", PACS)
    assert found.value.lines.startswith("[peers.pacs]  # the archive\n")
    assert writer.path.read_text() == TEXT


def test_every_kind_of_change_is_undone(writer: Writer) -> None:
    new = {"name": "two", "match": {"view": ["PA"]}, "mode": "shadow"}
    writer.change("rules", "two", new, 0)
    writer.change("rules", "chests", None, 0, is_move=True)
    writer.change("rules", "two", {**new, "name": "renamed"})
    writer.change("peers", "pacs", None)
    for number in (4, 3, 2, 1):
        writer.file.undo(number, JANE, "page")
    text = writer.path.read_text()
    assert "[peers.pacs]  # the archive" in text
    assert text.count("[[rules]]") == 1
    assert [change.undoes for change in writer.file.history()] == [0, 0, 0, 0, 4, 3, 2, 1]
    writer.file.undo(8, JANE, "page")  # an undo is a change, too
    assert [rule.name for rule in load(writer.path).rules] == ["two", "chests"]


def test_what_was_changed_again_is_undone_from_the_end(writer: Writer) -> None:
    writer.change("peers", "pacs", PACS)
    writer.change("peers", "pacs", {**PACS, "port": 105})
    with pytest.raises(FileChanged, match="undo change 2 first"):
        writer.file.undo(1, JANE, "page")


def test_what_is_so_already_is_not_written_again(writer: Writer) -> None:
    same = {**PACS, "host": "10.0.0.1"}
    assert writer.change("peers", "pacs", same).change.number == 0
    assert writer.file.history() == []
    assert writer.reloads == []


def test_the_history_has_an_end_and_survives_a_line_that_was_cut(
    writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(editing, "MOST_KEPT", 10)
    history = writer.path.with_name("node.toml.history")
    for port in range(105, 118):
        writer.change("peers", "pacs", {**PACS, "port": port})
        with history.open("a") as file:
            file.write('{"number": 9')
    kept = writer.file.history()
    assert len(kept) <= 10
    assert kept[-1].number == 13


def test_a_link_is_followed_and_stays_a_link(tmp_path: Path, writer: Writer) -> None:
    link = tmp_path / "etc.toml"
    link.symlink_to(writer.path)
    ConfigFile(link, writer.uses.append).change(TableChange("peers", "pacs", PACS), JANE, "page")
    assert link.is_symlink()
    assert "10.0.0.2" in writer.path.read_text()


def test_every_key_of_peers_and_rules_is_a_field_with_its_help() -> None:
    for model in (Peer, Rule):
        fields = fields_of(model)
        assert all(field.help for field in fields), [f.key for f in fields if not f.help]
    keys = {field.key for field in fields_of(Rule)}
    assert {"name", "match.modality", "match.quality_control", "when.undetermined"} <= keys
    assert {field.key for field in fields_of(Peer) if field.is_needed} == {
        "ae_title", "host", "port",
    }  # fmt: skip


def test_a_form_says_what_the_file_says() -> None:
    fields = fields_of(Rule)
    values = {
        "name": "x", "match": {"body_part": ["", "CHEST, PA"], "quality_control": False},
        "send_to": [], "when": {"undetermined": []}, "priority": "stat",
    }  # fmt: skip
    assert table_of(fields, texts_of(fields, values)) == values
    known = {field.key: field for field in fields_of(Peer)}
    assert value_of(known["port"], "104") == 104
    assert value_of(known["port"], "9" * 5000) == "9" * 5000
    assert value_of(known["timeout"], "1.5") == 1.5
    assert value_of(known["timeout"], "90s") == "90s"


def test_commands_change_list_and_undo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "node.toml"
    path.write_text(f'[node]\ndata_dir = "{tmp_path / "var"}"\n# end\n')
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> tuple[int, str]:
        code = cli.main(words)
        return code, capsys.readouterr().out

    added = run("peer", "add", "pacs", "ae_title=PACS", "host=10.0.0.7", "port=104")
    assert added == (0, '+[peers.pacs]\n+ae_title = "PACS"\n+host = "10.0.0.7"\n+port = 104\n')
    assert run("peer", "add", "pacs", "ae_title=PACS")[0] == 78
    assert run("peer", "change", "nobody", "port=1")[0] == 1
    assert run("rule", "add", "chests", "match.modality=CR,DX", "mode=shadow")[0] == 0
    assert run("rule", "add", "--place", "1", "first", "mode=shadow")[0] == 0
    assert run("rule", "move", "chests", "--to", "1", "--dry-run")[0] == 0
    assert run("rule", "move", "chests", "--to", "1")[0] == 0
    assert run("rule", "list")[1].splitlines()[0].startswith("1. chests")
    assert run("config", "undo", "4")[0] == 0
    assert [one["name"] for one in json.loads(run("rule", "list", "--json")[1])] == [
        "first", "chests",
    ]  # fmt: skip
    history = json.loads(run("config", "history", "--json")[1])
    assert [change["act"] for change in history] == ["add", "add", "add", "move", "undo"]
    assert history[0]["by"] == cli._own_actor().name
    assert run("rule", "remove", "first")[0] == 0
    assert path.read_text().count("# end") == 1
    assert [one.name for one in (tmp_path / "var").iterdir()] == ["audit"]
