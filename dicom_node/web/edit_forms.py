"""Peers, rules and retention as forms: checked, tried, seen as a difference, saved, and undone.

Each form is made of the settings' classes. What is pressed first shows what would change; only the
very change that was shown is written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, cast
from urllib.parse import quote

from fastapi import APIRouter, Depends, Path, Query, Request
from fastapi.responses import RedirectResponse, Response
from starlette.exceptions import HTTPException

from dicom_node.base.errors import ConfigurationError, NotFound, OutOfResources
from dicom_node.base.toml_edit import Values, table_text
from dicom_node.base.toml_fields import TableField, fields_of, table_of, texts_of
from dicom_node.editing import (
    ConfigFile,
    Draft,
    FileChanged,
    Kind,
    PastChange,
    ReadOnlyFile,
    ReloadRefused,
    Revision,
    TableChange,
)
from dicom_node.settings import DEMONSTRATION_MODELS, SENDER, Peer, Retention, Rule, Settings, When
from dicom_node.store.ledger import Ledger
from dicom_node.store.ledger.purge import FileWeight
from dicom_node.store.spool import Spool
from dicom_node.web.form_groups import LABELS, groups_of, wrong_keys
from dicom_node.web.render import Pages
from dicom_node.web.rule_trial import LAST, TriedImage, facts_of, try_rule
from dicom_node.web.sessions import Door, Person, Posted
from dicom_node.web.texts import say
from dicom_node.web.trail import WebTrail

WAY = "page"

FIELDS: Mapping[Kind, Sequence[TableField]] = {
    "peers": fields_of(Peer),
    "rules": fields_of(Rule),
    "retention": fields_of(Retention),
}

LONGEST = 16 << 10
"""Characters of one field."""

SHOWN = 100
"""Changes on the page of the history."""

_LIKE = ("modality", "body_part", "view", "calling_ae")
"""What a rule that is made from an image asks for."""

Name = Annotated[str, Path(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
RuleName = Annotated[str, Query(max_length=256)]


@dataclass(frozen=True, slots=True)
class EditForm:
    """What a form shows."""

    kind: Kind
    old: str
    """The name of the table that is changed; empty for a new one."""
    name: str
    texts: Mapping[str, str]
    base: str
    """The revision that the author has seen."""
    problem: str = ""
    draft: Draft | None = None
    then: str = "save"
    """What the button below the difference does."""
    tried: Sequence[TriedImage] | None = None
    due: Mapping[str, FileWeight] | None = None
    """What would go by the new times of retention at its next round."""
    since: Sequence[PastChange] = ()
    now: str = ""
    """The lines of the table as they are now, where somebody else has changed them."""
    is_changed: bool = False
    lines: str = ""
    """What to copy, where the file cannot be written from here."""
    place: int | None = None
    count: int = 0
    fields: Sequence[TableField] = field(default_factory=tuple)


def routes(
    settings: Settings, ledger: Ledger, spool: Spool, door: Door, pages: Pages, trail: WebTrail
) -> APIRouter:
    """Return the forms and the history."""
    router = APIRouter()
    admin = Depends(door.needs("admin"))
    edits = Depends(door.posts("admin", max_files=0, max_fields=80))

    def opened() -> ConfigFile:
        found = ConfigFile.of_running(settings, trail.note)
        if found is None:
            raise HTTPException(
                409, "this node was not started by serve: it has no node.toml to change"
            )
        return found

    def shown(person: Person, form: EditForm, status: int = 200) -> Response:
        config = opened()
        return pages.page(
            "edit_table.html",
            person,
            status,
            form=form,
            groups=groups_of(form.kind, FIELDS[form.kind]),
            labels=LABELS,
            wrong_keys=wrong_keys(FIELDS[form.kind], form.problem),
            words=known_words(),
            read_only=config.why_read_only(),
            file=config.path.name,
            last=LAST,
        )

    def known_words() -> dict[str, list[str]]:
        """Return what a field may hold on this node, beside what its kind allows."""
        names = [SENDER, *settings.peers]
        words = {f"when.{result}": names for result in When.model_fields}
        titles = sorted({peer.ae_title for peer in settings.peers.values()})
        models = sorted({rule.model for rule in settings.rules} | set(DEMONSTRATION_MODELS))
        return words | {"send_to": names, "match.calling_ae": titles, "model": models}

    def first(kind: Kind, old: str, texts: Mapping[str, str] | None = None) -> EditForm:
        revision = _read_revision(opened())
        values: Values | None = revision.table(kind, old) if old else {}
        if values is None:
            raise NotFound(f"node.toml has no such entry: {old[:64]!r}")
        known = texts or texts_of(FIELDS[kind], values)
        return EditForm(
            kind, old, old, known, revision.mark, **_place_in_order(revision, kind, old)
        )

    @router.get("/peers/new")
    def new_peer(
        person: Person = admin,
        ae_title: Annotated[str, Query(max_length=16)] = "",
        host: Annotated[str, Query(max_length=255)] = "",
    ) -> Response:
        """Show an empty form, or that of a caller who was refused."""
        texts = {"ae_title": ae_title, "host": host, "port": "104" if host else ""}
        return shown(person, first("peers", "", texts))

    @router.get("/peers/{name}/edit")
    def edit_peer(name: Name, person: Person = admin) -> Response:
        """Show the form of a peer."""
        return shown(person, first("peers", name))

    @router.get("/rules/new")
    def new_rule(
        person: Person = admin, like: Annotated[str, Query(max_length=64)] = ""
    ) -> Response:
        """Show an empty form, or one that fits an image."""
        texts = {"mode": "shadow"}
        if like:
            image = ledger.history.trace(like).instance
            facts = facts_of(settings, spool, image)
            texts |= {f"match.{key}": facts[key] or '""' for key in _LIKE if key != "calling_ae"}
            texts["match.calling_ae"] = facts["calling_ae"]
        return shown(person, first("rules", "", texts))

    @router.get("/rules/edit")
    def edit_rule(name: RuleName, person: Person = admin) -> Response:
        """Show the form of a rule."""
        return shown(person, first("rules", name))

    @router.get("/retention/edit")
    def edit_retention(person: Person = admin) -> Response:
        """Show the form of how long files stay."""
        kind: Kind = "retention"
        old = kind if opened().read().names(kind) else ""
        return shown(person, first(kind, old))

    @router.post("/retention/edit")
    def retention_edited(request: Request, posted: Posted = edits) -> Response:
        """Check, show what would go, then save how long files stay."""
        return edited(request, "retention", posted)

    @router.post("/peers/edit")
    def peer_edited(request: Request, posted: Posted = edits) -> Response:
        """Check, show, then save or remove a peer."""
        return edited(request, "peers", posted)

    @router.post("/rules/edit")
    def rule_edited(request: Request, posted: Posted = edits) -> Response:
        """Check, try and show, then save, move or remove a rule."""
        return edited(request, "rules", posted)

    def edited(request: Request, kind: Kind, posted: Posted) -> Response:
        person, config = posted.person, opened()
        old, base, act = posted.text("old", 64), posted.text("base", 64), posted.text("do", 16)
        texts = {
            form_field.key: _raw_field(posted, f"f-{form_field.key}") for form_field in FIELDS[kind]
        }
        name = posted.text("name", 64) if kind == "peers" else texts.get("name", kind).strip()
        form = EditForm(kind, old, old or name, texts, base)
        try:
            revision = _read_revision(config)
            form = _replace_fields(form, **_place_in_order(revision, kind, old))
            wanted = _wanted_change(kind, old, name, texts, act, form)
            draft = config.draft(wanted, base)
        except FileChanged as exc:
            return shown(person, _changed_meanwhile(config, form, exc), 409)
        except ConfigurationError as exc:
            return shown(person, _replace_fields(form, problem=str(exc)), 422)
        if kind == "rules" and act not in ("remove", "up", "down"):
            tried = try_rule(draft.settings, ledger, spool, draft.new_name)
            trail.listed(request, person.name, [trial.instance for trial in tried])
            form = _replace_fields(form, tried=tried)
        if kind == "retention":
            times = draft.settings.retention
            limits = (times.images, times.reports, times.ignored, times.conflicts)
            form = _replace_fields(form, due=ledger.purge.due(*limits))
        then = act if act in ("remove", "up", "down") else "save"
        form = _replace_fields(form, draft=draft, then=then)
        if why := config.why_read_only():
            return shown(person, _replace_fields(form, lines=draft.after, problem=why))
        if act in ("check", "try") or posted.text("seen", 64) != draft.mark:
            return shown(person, form)
        try:
            by = trail.actor(request, person.name)
            outcome = config.change(wanted, by, WAY, draft.base)
        except FileChanged as exc:
            return shown(person, _changed_meanwhile(config, form, exc), 409)
        except ReadOnlyFile as exc:
            return shown(person, _replace_fields(form, lines=exc.lines, problem=str(exc)))
        except (ReloadRefused, OutOfResources) as exc:
            return shown(person, _replace_fields(form, problem=str(exc), draft=None), 409)
        if not outcome.change.number:
            return shown(
                person, _replace_fields(form, problem=say("Nothing changes: it is so already."))
            )
        return RedirectResponse(f"/configuration/history?done={outcome.change.number}", 303)

    @router.get("/configuration/history")
    def history(
        person: Person = admin, done: Annotated[int, Query(ge=0, le=10**9)] = 0
    ) -> Response:
        """Show who changed what and when."""
        return listed(person, done)

    def listed(person: Person, done: int = 0, problem: str = "", status: int = 200) -> Response:
        config = opened()
        found = config.history()[::-1][:SHOWN]
        return pages.page(
            "history.html", person, status, history=found, done=done, problem=problem,
            read_only=config.why_read_only(), file=config.path.name,
        )  # fmt: skip

    @router.post("/configuration/undo")
    def undo(request: Request, posted: Posted = edits) -> Response:
        """Undo a change."""
        number = posted.text("number", 9)
        if not number.isascii() or not number.isdigit():
            raise HTTPException(422, "name a change by its number")
        try:
            by = trail.actor(request, posted.person.name)
            outcome = opened().undo(int(number), by, WAY)
        except (ConfigurationError, FileChanged, ReadOnlyFile, OutOfResources) as exc:
            return listed(posted.person, problem=str(exc), status=409)
        return RedirectResponse(f"/configuration/history?done={outcome.change.number}", 303)

    return router


def _read_revision(config: ConfigFile) -> Revision:
    """Return the file as it is now, or say on the page what is wrong with it."""
    try:
        return config.read()
    except ConfigurationError as exc:
        raise HTTPException(409, f"node.toml is wrong as it is now: {exc}") from exc


def _place_in_order(revision: Revision, kind: Kind, name: str) -> dict[str, Any]:
    if kind != "rules":
        return {}
    return {"place": revision.place(name), "count": len(revision.names(kind))}


def _raw_field(posted: Posted, name: str) -> str:
    value = posted.form.get(name, "")
    return value[:LONGEST] if isinstance(value, str) else ""


def _wanted_change(
    kind: Kind, old: str, name: str, texts: Mapping[str, str], act: str, form: EditForm
) -> TableChange:
    """Return the change that a form asks for."""
    if act == "remove":
        return TableChange(kind, old)
    if act in ("up", "down") and kind == "rules":
        place = (form.place or 0) + (1 if act == "down" else -1)
        return TableChange(kind, old, place=max(0, place), is_move=True)
    if not name:
        raise ConfigurationError(say("name: is empty; write some text"))
    return TableChange(kind, old or name, table_of(FIELDS[kind], texts), is_new=not old)


def _changed_meanwhile(config: ConfigFile, form: EditForm, exc: FileChanged) -> EditForm:
    """Return the form of who was second: what changed, what is there now, and their own words."""
    revision = _read_revision(config)
    now = table_text(revision.text, form.kind, form.old) if form.old else ""
    return _replace_fields(
        form, since=exc.since, now=now, base=revision.mark, draft=None, is_changed=True,
    )  # fmt: skip


def _replace_fields(form: EditForm, **changes: Any) -> EditForm:
    values = {name: getattr(form, name) for name in EditForm.__slots__}
    return EditForm(**cast("dict[str, Any]", values | changes))


def rule_link(name: str) -> str:
    """Return the address of a rule's form."""
    return f"/rules/edit?name={quote(name, safe='')}"
