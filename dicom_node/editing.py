"""Changes peers, rules and retention of node.toml: the one way of pages, command line and API.

A change is made on the text that its author has seen: where the file is another one by now, nothing
is written. It has to pass what ``config check`` and ``reload`` ask, is written as a whole or not at
all, and is kept in ``node.toml.history`` beside the file, from where it can be undone. The running
node takes it at once; where it refuses, the file is what it was before.
"""

from __future__ import annotations

import difflib
import fcntl
import hashlib
import json
import os
import re
import shutil
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self

from dicom_node import in_force, running
from dicom_node.base import toml, toml_edit
from dicom_node.base.errors import (
    ConfigurationError,
    NotFound,
    OutOfResources,
    Permanent,
    Unreachable,
)
from dicom_node.base.toml_edit import Values
from dicom_node.running import Reloaded
from dicom_node.settings import Settings
from dicom_node.store.actor import Actor
from dicom_node.store.clock import HOST_CLOCK
from dicom_node.store.uses import Note, Use

Kind = Literal["peers", "rules", "retention"]
Act = Literal["add", "change", "remove", "move", "undo"]

WORDS: dict[str, str] = {"peers": "peer", "rules": "rule", "retention": "table"}

LARGEST = 64 << 10
"""Characters of one table: no peer and no rule needs as many."""

MOST_KEPT = 500
"""Changes in the history; when there are more, the oldest fifth goes."""

_SECRET_COMMENT = re.compile(
    r"^([ \t]*#.*?(?:password|passwort|secret|token|webhook|bearer)\w*\s*[=:]).*$",
    re.IGNORECASE | re.MULTILINE,
)

Reload = Callable[[Actor], Reloaded]


class FileChanged(Permanent):
    """The file is not that which a change was made on; nothing was written.

    Parameters
    ----------
    why : str
    since : sequence of PastChange
        What was changed meanwhile by way of the node, the oldest first; empty where the file was
        edited by other means.
    """

    def __init__(self, why: str, since: Sequence[PastChange] = ()) -> None:
        super().__init__(why)
        self.since = tuple(since)


class ReadOnlyFile(Permanent):
    """The file cannot be written from here.

    Parameters
    ----------
    why : str
    lines : str
        What the table has to be; empty for a table that has to go.
    """

    def __init__(self, why: str, lines: str) -> None:
        super().__init__(why)
        self.lines = lines


class ReloadRefused(ConfigurationError):
    """The node did not take the file, which is again what it was before."""


@dataclass(frozen=True, slots=True)
class TableChange:
    """One wish: what a table shall be.

    ``values`` are its keys as TOML has them, None removes it. ``place`` is where a rule shall
    stand, 0 for the first. ``is_new`` refuses a name that is taken.
    """

    kind: Kind
    name: str
    values: Values | None = None
    place: int | None = None
    is_new: bool = False
    is_move: bool = False


@dataclass(frozen=True, slots=True)
class Revision:
    """The file at one moment."""

    text: str
    mark: str
    """Its hash: what a change was made on."""
    content: dict[str, Any]

    def table(self, kind: Kind, name: str) -> Values | None:
        """Return the keys of a peer, a rule or [retention]; None where there is none."""
        if kind == "peers":
            found = self.content.get("peers", {}).get(name)
        elif kind == "retention":
            found = self.content.get(kind)
        else:
            found = next((r for r in self.content.get("rules", []) if r.get("name") == name), None)
        return found if isinstance(found, dict) else None

    def place(self, name: str) -> int | None:
        """Return where a rule stands, 0 for the first."""
        names = self.names("rules")
        return names.index(name) if name in names else None

    def names(self, kind: Kind) -> list[str]:
        """Return the names of all peers or rules in the order of the file."""
        if kind == "retention":
            return [kind] if kind in self.content else []
        if kind == "peers":
            return list(self.content.get("peers", {}))
        return [str(rule.get("name", "")) for rule in self.content.get("rules", [])]


@dataclass(frozen=True, slots=True)
class Draft:
    """A change as it would be written, found right."""

    act: Act
    kind: Kind
    name: str
    new_name: str
    before: str
    """The lines of the table; empty for a new table."""
    after: str
    """The lines that it would have; empty for a table that is removed."""
    old_place: int | None
    place: int | None
    text: str
    base: str
    settings: Settings

    @property
    def diff(self) -> str:
        """The difference that people look at before it is written."""
        return _table_difference(self.before, self.after, self.old_place, self.place)

    @property
    def mark(self) -> str:
        """The hash of the file as it would be: that of which somebody has seen the difference."""
        return _text_mark(self.text)

    @property
    def keys(self) -> list[str]:
        """The keys that change."""
        old, new = _keys_of(self.before), _keys_of(self.after)
        return [key for key in {**old, **new} if old.get(key) != new.get(key)]


@dataclass(frozen=True, slots=True)
class PastChange:
    """A change as the history keeps it."""

    number: int
    at: float
    by: str
    address: str
    way: str
    """How it came: ``page``, ``command line`` or ``API``."""
    act: Act
    kind: Kind
    name: str
    new_name: str
    before: str
    after: str
    old_place: int | None
    place: int | None
    old_mark: str
    mark: str
    undoes: int = 0
    """The earlier change that this change has undone."""
    problem: str = ""
    """Why it did not last: the file is what it was before."""

    @property
    def diff(self) -> str:
        """What it changed, line by line."""
        return _table_difference(self.before, self.after, self.old_place, self.place)

    @property
    def what(self) -> str:
        """Return it in a few words."""
        words = {"add": "added", "change": "changed", "remove": "removed", "move": "moved"}
        which = f"{WORDS[self.kind]} {self.name!r}"
        if self.act == "undo":
            return f"{which}: change {self.undoes} undone"
        return f"{which} {words[self.act]}"

    @classmethod
    def read(cls, line: str) -> Self:
        """Return the change that a line of the history holds."""
        return cls(**json.loads(line))


@dataclass(frozen=True, slots=True)
class ChangeOutcome:
    """A change that was written."""

    change: PastChange
    """What the history keeps; number 0 where nothing had to be changed."""
    reloaded: Reloaded | None
    """What the running node took; None where none runs, or it gives no answer."""
    remark: str = ""
    """What a person should know beside."""


class ConfigFile:
    """node.toml, changed by people through this node.

    Parameters
    ----------
    path : Path
        The file; a link is followed.
    note : callable
        Keeps a change in the audit trail.
    reload : callable, optional
        Lets the running node take the file; None where none runs.
    """

    def __init__(self, path: Path, note: Note, reload: Reload | None = None) -> None:
        self.path = path.resolve()
        self._note = note
        self._reload = reload

    @classmethod
    def of_node(cls, path: Path, data_dir: Path, note: Note) -> Self:
        """Return the file of the node that runs on a data folder, if any does."""

        def reload(by: Actor) -> Reloaded:
            return running.ask_reload(data_dir, by)

        return cls(path, note, reload if running.is_running(data_dir) else None)

    @classmethod
    def of_running(cls, settings: Settings, note: Note) -> Self | None:
        """Return the file that a node has accepted; None where `serve` did not start this node."""
        path = in_force.config_file(settings)
        return None if path is None else cls.of_node(path, settings.node.data_dir, note)

    def read(self) -> Revision:
        """Return the file as it is now.

        Raises
        ------
        ConfigurationError
            It cannot be read, or is not TOML.
        """
        try:
            text = self.path.read_bytes().decode("utf-8")
        except OSError as exc:
            raise ConfigurationError(f"{self.path}: {exc.strerror or exc}") from exc
        except UnicodeDecodeError as exc:
            raise ConfigurationError(f"{self.path}: save the file as UTF-8") from exc
        content = toml.parse(text.lstrip("\ufeff"), self.path)
        return Revision(text, _text_mark(text), content)

    def why_read_only(self) -> str:
        """Return why the file cannot be written from here; empty where it can."""
        folder = self.path.parent
        try:
            known = self.path.stat()
            if os.statvfs(folder).f_flag & os.ST_RDONLY:
                return "its file system is mounted read-only"
        except OSError as exc:
            return exc.strerror or str(exc)
        if not os.access(self.path, os.W_OK):
            return "this user may not write it"
        if not os.access(folder, os.W_OK | os.X_OK):
            return f"this user may not write the folder {folder}, which a safe change needs"
        # a file is changed by a new one in its place, which root alone can give to another user
        if os.geteuid() not in (0, known.st_uid):
            return "it belongs to another user, and would be this one's afterwards"
        return ""

    def draft(self, wanted: TableChange, base: str = "") -> Draft:
        """Return a change as it would be written; nothing is.

        Parameters
        ----------
        base : str
            The mark of the revision that it was made on; empty: of whatever there is now.

        Raises
        ------
        ConfigurationError
            The file would be wrong; the message is that of ``config check``.
        FileChanged
            The file is another one by now.
        NotFound
            There is no such peer or rule to remove or to move.
        """
        revision = self.read()
        if base and revision.mark != base:
            since = self._changes_since(base)
            who = f" by {since[-1].by}" if since and since[-1].by else ""
            raise FileChanged(f"{self.path.name} was changed{who} meanwhile", since)
        return self._make_draft(revision, wanted)

    def _make_draft(self, revision: Revision, wanted: TableChange) -> Draft:
        kind, name, values = wanted.kind, wanted.name, wanted.values
        old = revision.table(kind, name)
        if old is None and (values is None or wanted.is_move):
            raise NotFound(f"no {WORDS[kind]} is named {name[:64]!r}")
        if old is not None and wanted.is_new:
            raise ConfigurationError(f"a {WORDS[kind]} is named {name!r} already; take another")
        act: Act = "move" if wanted.is_move else "add" if old is None else "change"
        act = "remove" if values is None and not wanted.is_move else act
        text, place = revision.text, wanted.place
        if wanted.is_move:
            text = toml_edit.move_rule(text, name, place or 0)
        elif kind == "peers":
            text = toml_edit.change_peer(text, name, values)
        elif kind == "retention":
            text = toml_edit.change_section(text, kind, values)
        else:
            text = toml_edit.change_rule(text, name, values, place)
        has_name = values is not None and kind == "rules"
        new_name = str((values or {}).get("name", name)) if has_name else name
        return self._judge_draft(revision, act, kind, (name, new_name), text)

    def _judge_draft(
        self, revision: Revision, act: Act, kind: Kind, names: tuple[str, str], text: str
    ) -> Draft:
        """Return a draft, once the whole file is found right."""
        name, new_name = names
        after = toml_edit.table_text(text, kind, new_name)
        if len(after) > LARGEST:
            raise ConfigurationError(f"{WORDS[kind]} {name!r} has more than {LARGEST} characters")
        content = toml.parse(text.lstrip("\ufeff"), self.path)
        settings = toml.settings(Settings, content, self.path.name)
        in_force.check_tls(settings, self.path.name)
        fresh = Revision(text, _text_mark(text), content)
        is_rule = kind == "rules"
        return Draft(
            act,
            kind,
            name,
            new_name,
            toml_edit.table_text(revision.text, kind, name),
            after,
            revision.place(name) if is_rule else None,
            fresh.place(new_name) if is_rule else None,
            text,
            revision.mark,
            settings,
        )

    def change(self, wanted: TableChange, by: Actor, way: str, base: str = "") -> ChangeOutcome:
        """Write a change, keep it in the history and let the running node take it.

        Raises
        ------
        ConfigurationError, FileChanged, NotFound
            See `draft`; nothing was written.
        ReadOnlyFile
            The file cannot be written; the error holds the text to copy.
        ReloadRefused
            The node did not take it: file and node are what they were before.
        """
        with self._lock_file():
            return self._write_draft(self.draft(wanted, base), by, way)

    def undo(self, number: int, by: Actor, way: str) -> ChangeOutcome:
        """Undo a change of the history; this is a change itself, and may be undone.

        Raises
        ------
        NotFound
            The history has no such change, or it did not last.
        FileChanged
            The table was changed again since.
        ConfigurationError, ReadOnlyFile, ReloadRefused
            See `change`.
        """
        with self._lock_file():
            return self._write_draft(self.undoing(number), by, way, undoes=number)

    def undoing(self, number: int) -> Draft:
        """Return the change that would undo a change of the history; see `undo`."""
        known = {change.number: change for change in self.history()}
        past = known.get(number)
        if past is None:
            raise NotFound(f"the history has no change {number}")
        if past.problem:
            raise NotFound(f"change {number} did not last: there is nothing to undo")
        revision = self.read()
        name, text = past.new_name, revision.text
        now = toml_edit.table_text(text, past.kind, name)
        if _hide_secrets(now) != past.after:
            later = [
                change for change in known.values()
                if change.number > number and not change.problem and change.kind == past.kind
                and past.new_name in (change.name, change.new_name)
            ]  # fmt: skip
            what = f"change {later[-1].number} first" if later else "nothing here, but edit it"
            raise FileChanged(
                f"{WORDS[past.kind]} {name!r} was changed again since; undo {what}", later
            )
        if not past.before and past.after:
            remove = {
                "peers": toml_edit.change_peer,
                "rules": toml_edit.change_rule,
                "retention": toml_edit.change_section,
            }[past.kind]
            text = remove(text, name, None)
        elif past.before != past.after:
            text = toml_edit.put_back(text, past.kind, name, past.before, past.old_place)
        elif past.old_place is not None:
            text = toml_edit.move_rule(text, name, past.old_place)
        return self._judge_draft(revision, "undo", past.kind, (name, past.name), text)

    def history(self) -> list[PastChange]:
        """Return the changes that are kept, the oldest first.

        Raises
        ------
        ConfigurationError
            The history cannot be read.
        """
        try:
            lines = self._history_path.read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return []
        except (OSError, UnicodeDecodeError) as exc:
            raise ConfigurationError(f"{self._history_path}: cannot be read: {exc}") from exc
        found: dict[int, PastChange] = {}
        for line in lines:
            with suppress(ValueError, TypeError):  # a line that a full disk has cut
                change = PastChange.read(line)
                found[change.number] = change  # a later line tells that it did not last
        return list(found.values())

    def _write_draft(self, draft: Draft, by: Actor, way: str, undoes: int = 0) -> ChangeOutcome:
        if why := self.why_read_only():
            raise ReadOnlyFile(f"{self.path.name} cannot be written: {why}", draft.after)
        old = self.read()
        if old.mark != draft.base:
            raise FileChanged(
                f"{self.path.name} was changed meanwhile", self._changes_since(draft.base)
            )
        known = self.history()
        past = PastChange(
            number=known[-1].number + 1 if known else 1,
            at=HOST_CLOCK.wall(),
            by=by.name,
            address=by.address,
            way=way,
            act=draft.act,
            kind=draft.kind,
            name=draft.name,
            new_name=draft.new_name,
            before=_hide_secrets(draft.before),
            after=_hide_secrets(draft.after),
            old_place=draft.old_place,
            place=draft.place,
            old_mark=old.mark,
            mark=_text_mark(draft.text),
            undoes=undoes,
        )
        if draft.text == old.text:
            return ChangeOutcome(replace(past, number=0), None, "nothing changes: it is so already")
        # First what shall be, then the file: no change is in force that nobody can look up.
        self._keep_change(past, known)
        try:
            self._put_text(draft.text)
        except OutOfResources as exc:
            self._note_failed(past, str(exc), by, way)
            raise
        return self._take_file(past, draft, old.text, by, way)

    def _take_file(
        self, past: PastChange, draft: Draft, old: str, by: Actor, way: str
    ) -> ChangeOutcome:
        """Let the running node take the file, or put the old file back."""
        reloaded, remark = None, "no node runs here; its next start reads it"
        if self._reload is not None:
            try:
                reloaded, remark = self._reload(by), ""
            except ConfigurationError as exc:
                remark = f"the node refused it: {exc}"
                # only what was written here is taken back: somebody may have edited the file since
                if self.read().mark == past.mark:
                    self._put_text(old)
                    remark = f"{remark}; the file is what it was before"
                self._note_failed(past, remark, by, way)
                raise ReloadRefused(remark) from exc
            except Unreachable as exc:
                remark = f"written; {exc}"
        keys = f": {', '.join(draft.keys)}" if draft.keys else ""
        alert = f"{past.what}{keys}"
        self._note(Use("configured", by.name, way, address=by.address, alert=alert))
        return ChangeOutcome(past, reloaded, remark)

    def _note_failed(self, past: PastChange, why: str, by: Actor, way: str) -> None:
        self._append_change(replace(past, problem=why))
        alert = f"{past.what}: {why}"
        use = Use("configured", by.name, way, address=by.address, alert=alert, is_served=False)
        self._note(use)

    def _changes_since(self, base: str) -> list[PastChange]:
        """Return the changes that lead from a revision to that of now, as far as they are known."""
        with suppress(ConfigurationError):
            lasting = [change for change in self.history() if not change.problem]
            at = [n for n, change in enumerate(lasting) if change.old_mark == base]
            if at:
                return lasting[at[-1] :]
        return []

    # files ----------------------------------------------------------------------------------------

    @property
    def _history_path(self) -> Path:
        return self.path.with_name(f"{self.path.name}.history")

    @contextmanager
    def _lock_file(self) -> Iterator[None]:
        """Keep other writers out: two browsers, or a browser and a command."""
        lock = self.path.with_name(f".{self.path.name}.lock")
        try:
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError:
            yield  # a folder that cannot be written: nothing will be
            return
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _put_text(self, text: str) -> None:
        """Put a text in the file's place as a whole, with the owner and the mode of before."""
        _replace_file(self.path, text, like=self.path)

    def _keep_change(self, past: PastChange, known: Sequence[PastChange]) -> None:
        if len(known) >= MOST_KEPT:
            kept = known[MOST_KEPT // 5 :]
            # a fifth at a time, so that the file is not written again for each change
            text = "".join(f"{_history_line(change)}\n" for change in kept)
            _replace_file(self._history_path, text, like=self._history_path)
        self._append_change(past)

    def _append_change(self, past: PastChange) -> None:
        is_new = not self._history_path.exists()
        try:
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
            descriptor = os.open(self._history_path, flags, 0o600)
            with os.fdopen(descriptor, "ab") as file:
                # behind a line that was cut the new line begins on its own
                file.write(f"\n{_history_line(past)}\n".encode())
                file.flush()
                os.fsync(file.fileno())
            if is_new:
                known = self.path.stat()
                with suppress(PermissionError):
                    os.chown(self._history_path, known.st_uid, known.st_gid)
                _sync_folder(self.path.parent)
        except OSError as exc:
            raise OutOfResources(f"{self._history_path}: {exc.strerror or exc}") from exc


def _replace_file(path: Path, text: str, like: Path) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        known = like.stat()
        temporary.unlink(missing_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(text.encode())
            file.flush()
            # with its extended attributes, as a security label; its times are those of now
            shutil.copystat(like, temporary)
            os.utime(temporary)
            if (known.st_uid, known.st_gid) != (os.geteuid(), os.getegid()):
                os.fchown(file.fileno(), known.st_uid, known.st_gid)
            os.fchmod(file.fileno(), stat.S_IMODE(known.st_mode))
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as exc:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise OutOfResources(f"{path}: cannot be written: {exc.strerror or exc}") from exc


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _history_line(past: PastChange) -> str:
    return json.dumps(asdict(past), ensure_ascii=False)


def _text_mark(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _hide_secrets(lines: str) -> str:
    """Return the lines of a table without what a comment in them may tell of a password."""
    return _SECRET_COMMENT.sub(r"\1 (hidden)", lines)


def _keys_of(lines: str) -> dict[str, Any]:
    content = toml.parse(lines, "") if lines else {}
    for peer in content.get("peers", {}).values():
        return dict(peer)
    if "retention" in content:
        return dict(content["retention"])
    return dict(content["rules"][0]) if content.get("rules") else {}


def _table_difference(before: str, after: str, old_place: int | None, place: int | None) -> str:
    before, after = _hide_secrets(before), _hide_secrets(after)
    lines = list(difflib.unified_diff(before.splitlines(), after.splitlines(), lineterm="", n=50))
    shown = [line for line in lines if not line.startswith(("---", "+++", "@@"))]
    if old_place is not None and place is not None and old_place != place:
        shown.append(f"place among the rules: {old_place + 1} -> {place + 1}")
    return "\n".join(shown)
