"""Read a TOML file into settings, and say in one plain line what is wrong with it."""

from __future__ import annotations

import difflib
import os
import re
import tomllib
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from dicom_node.base.environment import prefix_of
from dicom_node.base.errors import ConfigurationError

SettingsModel = TypeVar("SettingsModel", bound=BaseModel)

_SECRET = re.compile(r"secret|password|webhook|url|ledger|broker|syslog|key", re.IGNORECASE)
"""Keys whose values may hold a password: no message repeats them."""


@dataclass(frozen=True, slots=True)
class Wording:
    """What a value of an annotated type is, in words that complete "… is not …"."""

    words: str


def read(path: Path) -> dict[str, Any]:
    """Return the content of `path`.

    Raises
    ------
    ConfigurationError
        The file cannot be read or is not TOML.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as exc:
        advice = "chexfract-node init writes one, --config names another"
        raise ConfigurationError(f"{path}: No such file; {advice}") from exc
    except IsADirectoryError as exc:
        raise ConfigurationError(f"{path}: is a folder; name the file in it") from exc
    except OSError as exc:
        raise ConfigurationError(f"{path}: {exc.strerror or exc}") from exc
    except UnicodeDecodeError as exc:
        line = exc.object[: exc.start].count(b"\n") + 1
        raise ConfigurationError(
            f"{path}: line {line} is not UTF-8 text; save the file as UTF-8"
        ) from exc
    return parse(text, path)


def parse(text: str, where: object) -> dict[str, Any]:
    """Return the content of a TOML text.

    Parameters
    ----------
    where : object
        What to name at the head of a message: the file.

    Raises
    ------
    ConfigurationError
        It is not TOML.
    """
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        raise ConfigurationError(f"{where}: {_syntax_fault(str(exc), text)}") from exc


def settings(
    model: type[SettingsModel], content: Mapping[str, Any], where: object
) -> SettingsModel:
    """Return `content` as settings.

    Parameters
    ----------
    model : type
        The settings' class.
    content : mapping
        What stands in the file.
    where : object
        What to name at the head of a message: the file.

    Raises
    ------
    ConfigurationError
        A key is wrong; the message names each key and what to write.
    """
    try:
        return model(**content)
    except ValidationError as exc:
        faults = list_faults(exc, model, content)
        raise ConfigurationError(
            f"{where}: {'; '.join(faults)}", [f"{where}: {fault}" for fault in faults]
        ) from exc


def explain(
    error: ValidationError,
    model: type[BaseModel],
    content: Mapping[str, Any] | None = None,
    under: str = "",
) -> str:
    """Return the faults of `list_faults` in one line."""
    return "; ".join(list_faults(error, model, content, under))


def list_faults(
    error: ValidationError,
    model: type[BaseModel],
    content: Mapping[str, Any] | None = None,
    under: str = "",
) -> list[str]:
    """Return each fault as ``key.path: what is wrong, what to write``.

    Parameters
    ----------
    error : ValidationError
        What pydantic found.
    model : type
        The class that was validated: its keys and types are what the messages speak of.
    content : mapping, optional
        What was validated; a rule is then named by its name.
    under : str
        The table that was validated, where it was not the whole file.
    """
    faults = []
    for fault in error.errors(include_url=False):
        loc = _without_kind(model, [part for part in fault["loc"] if part != "[key]"])
        where = _key_place(((under,) if under else ()) + loc, content or {})
        what = _fault_text(fault, model, loc)
        where += _set_by(model, loc)
        faults.append(f"{where}: {what}" if where else what)
    return list(dict.fromkeys(faults))


def wording_of(annotation: Any) -> str:
    """Return what a value of an annotated type is, as `Wording` says it; empty without."""
    return next((mark.words for mark in _bare_type(annotation)[1] if isinstance(mark, Wording)), "")


def _key_place(loc: Sequence[int | str], content: Mapping[str, Any]) -> str:
    """Return the way to a key as people name it: rules by their name, not by their number."""
    if len(loc) > 1 and loc[0] == "rules" and isinstance(loc[1], int):
        name = _look_up(content, ("rules", loc[1], "name"))
        called = f"rule {name!r}" if isinstance(name, str) and name else f"rule {loc[1] + 1}"
        return ": ".join(filter(None, (called, ".".join(map(str, loc[2:])))))
    return ".".join(str(part) for part in loc)


def _set_by(model: type[BaseModel], loc: Sequence[int | str]) -> str:
    """Return the variable of the environment that a value comes from, empty where none is set."""
    prefix = prefix_of(model)
    wanted = (prefix + "__".join(map(str, loc))).upper()
    is_set = bool(prefix and loc) and any(name.upper() == wanted for name in os.environ)
    return f" (from the environment: {wanted})" if is_set else ""


def _without_kind(model: type[BaseModel], loc: Sequence[int | str]) -> tuple[int | str, ...]:
    """Return the way to a key that may be of several kinds without the kind that was tried."""
    if len(loc) > 1 and re.fullmatch(r"int|float|str|literal\[.*\]", str(loc[-1])):
        kind = _annotation_at(model, loc[:-1])[0]
        if kind is not None and get_origin(kind) is not dict and not _model_keys(kind):
            return tuple(loc[:-1])
    return tuple(loc)


def _look_up(content: Any, path: Sequence[int | str]) -> Any:
    for part in path:
        try:
            content = content[part]
        except (KeyError, IndexError, TypeError):
            return None
    return content


def _fault_text(fault: ErrorDetails, model: type[BaseModel], loc: Sequence[int | str]) -> str:
    kind, context = fault["type"], fault.get("ctx", {})
    if kind == "extra_forbidden":
        return f"unknown key{_near_key(model, loc)}"
    if kind == "missing":
        return "is missing"
    if kind in ("value_error", "assertion_error"):
        return fault["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    value, (kind_of, wording) = _shown_value(fault["input"], loc), _annotation_at(model, loc)
    if fault["loc"] and fault["loc"][-1] == "[key]":
        return f"{value} is not a name of 1 to 64 letters, digits, and _ . -"
    if kind in ("tuple_type", "list_type", "set_type"):
        if isinstance(fault["input"], Mapping):
            return f"write [[{'.'.join(map(str, loc))}]], in double brackets, once for each"
        items = ", ".join(f'"{item.strip()}"' for item in str(fault["input"]).split(","))
        return f"write a list: [{items}]" if value else "write a list: [ … ]"
    if kind in ("dict_type", "model_type", "model_attributes_type"):
        name = ".".join(map(str, loc))
        if isinstance(fault["input"], list):
            if kind != "dict_type":
                return f"write [{name}], in single brackets"
            return f"write [{name}.NAME], in single brackets, once for each"
        return f"is a table: write [{name}] and its keys below"
    if wording is not None and kind != "greater_than":
        return f"{value or 'this'} is not {wording.words}"
    if kind == "literal_error":
        known = [str(word) for word in get_args(kind_of)] or [str(context.get("expected", ""))]
        return f"{value or 'this'} is not known; write {_any_of(known)}"
    return _plain_fault(kind, value or "this", context)


def _plain_fault(kind: str, value: str, context: Mapping[str, Any]) -> str:
    """Return pydantic's usual faults in the words of this project's messages."""
    limits = {
        "greater_than_equal": ("ge", "at least"),
        "greater_than": ("gt", "more than"),
        "less_than_equal": ("le", "at most"),
        "less_than": ("lt", "less than"),
    }
    if kind in limits:
        key, words = limits[kind]
        return f"{value} is out of range; write {words} {context[key]:g}"
    if kind == "string_too_long":
        return f"{value} is too long; at most {context['max_length']} characters"
    if kind == "string_too_short":
        return "is empty; write some text"
    forms = {
        "int": "is not a whole number; write it in digits, without quotes",
        "float": "is not a number; write it in digits, without quotes",
        "bool": "is not true or false; write one of the two, without quotes",
        "string": 'is not text; write it in quotes: "…"',
        "path": 'is not a path; write it in quotes: "…"',
    }
    return f"{value} {forms.get(kind.split('_')[0], 'is not of the right form')}"


def _any_of(words: Sequence[str]) -> str:
    quoted = [f'"{word}"' for word in words]
    return quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} or {quoted[-1]}"


def _shown_value(value: object, loc: Sequence[int | str]) -> str:
    """Return a value that a message may repeat; empty for a table, a list or a secret."""
    if any(_SECRET.search(str(part)) for part in loc[-1:]) or isinstance(value, list | Mapping):
        return ""
    shown = repr(value) if isinstance(value, str) else str(value)
    if isinstance(value, bool):
        shown = shown.lower()
    return shown if len(shown) <= 60 else f"{shown[:57]}…"


def _near_key(model: type[BaseModel], loc: Sequence[int | str]) -> str:
    """Return ``; did you mean …?`` for a key that nearly stands here, or stands elsewhere."""
    here = _model_keys(_annotation_at(model, loc[:-1])[0])
    key = str(loc[-1])
    if len(loc) > 1 and key in _model_keys(model):
        return f"; did you mean the table [{key}]?"
    for table in _model_keys(model):
        if key in _model_keys(_annotation_at(model, (table,))[0]):
            return f"; did you mean {key} in [{table}]?"
    near = difflib.get_close_matches(key, here, n=1, cutoff=0.6)
    if near:
        return f"; did you mean {near[0]}?"
    return f"; known here: {', '.join(here)}" if 0 < len(here) <= 12 else ""


def _model_keys(annotation: Any) -> list[str]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return list(annotation.model_fields)
    return []


def _annotation_at(model: Any, loc: Sequence[int | str]) -> tuple[Any, Wording | None]:
    """Follow `loc` through the fields; return the type there and its wording."""
    annotation: Any = model
    metadata: list[Any] = []
    for part in loc:
        annotation, metadata = _bare_type(annotation)
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            field = annotation.model_fields.get(str(part))
            if field is None:
                return None, None
            annotation, metadata = field.annotation, list(field.metadata)
        else:  # an item of a tuple, a value of a dictionary
            arguments = get_args(annotation)
            if not arguments:
                return None, None
            annotation, metadata = arguments[-1 if get_origin(annotation) is dict else 0], []
    annotation, more = _bare_type(annotation)
    wordings: Iterator[Wording] = (mark for mark in metadata + more if isinstance(mark, Wording))
    return annotation, next(wordings, None)


def _bare_type(annotation: Any) -> tuple[Any, list[Any]]:
    """Take Annotated[…] and … | None away; return the type and what was annotated."""
    metadata: list[Any] = []
    while True:
        if get_origin(annotation) is Annotated:
            annotation, *more = get_args(annotation)
            metadata += more
        elif get_origin(annotation) in (Union, types.UnionType):
            annotation = next(part for part in get_args(annotation) if part is not type(None))
        else:
            return annotation, metadata


def _syntax_fault(message: str, text: str) -> str:
    """Return what tomllib found in plain words, with the line."""
    found = re.search(r"\(at (?:line (\d+), column \d+|end of document)\)$", message)
    number = int(found[1]) if found and found[1] else text.count("\n") + 1
    lines = text.splitlines()
    line = lines[number - 1].strip() if 0 < number <= len(lines) else ""
    what = re.sub(r"\s*\(at [^)]*\)$", "", message)
    key = line.split("=")[0].strip()
    if table := re.match(r"\[\[?\s*([^\]]+?)\s*\]\]?", line):
        if "twice" in what or "declare" in what or "overwrite" in what or "mutate" in what:
            first = _first_table(lines, table[1], number)
            at = f" (first in line {first})" if first else ""
            return f"line {number}: the table [{table[1]}] stands twice{at}; put its keys together"
    elif "overwrite" in what or "twice" in what:
        return f"line {number}: {key} stands twice; keep one"
    if "nclosed array" in what or ("Invalid value" in what and not line):
        # what follows the line that lacks the end is where the fault is found
        opened = [at for at, text in enumerate(lines[:number], 1) if _OPEN_LIST.match(text)]
        number = opened[-1] if opened else number
        key = lines[number - 1].split("=")[0].strip() if opened else key
        return f"line {number}: the list in the value of {key} has no closing ] or quote"
    if "end of a table declaration" in what:
        return f"line {number}: {line} is not closed; write [{line.strip('[] ')}]"
    if "Invalid value" in what or "after a statement" in what:
        return f"line {number}: the value of {key} is not TOML; {_as_toml(line)}"
    if "Illegal character" in what or what == 'Expected "\'"' or "nterminated" in what:
        number = next((at for at, line in enumerate(lines, 1) if _OPEN_TEXT.match(line)), number)
        key = lines[number - 1].split("=")[0].strip() if lines else key
        return f"line {number}: the text in the value of {key} has no closing quote"
    if "nescaped" in what:
        advice = "write it in single quotes: 'C:\\data'"
        return f"line {number}: a backslash in the value of {key}; {advice}"
    if "Expected '='" in what or "Invalid statement" in what:
        return f"line {number}: not TOML; write key = value, text in quotes, or [table]"
    return f"line {number}: not TOML: {what[:1].lower()}{what[1:]}"


_OPEN_TEXT = re.compile(r"""[^=#'"]+=\s*+(?:'(?!'')[^']*+|"(?!"")(?:[^"\\]|\\.)*+)$""")

_OPEN_LIST = re.compile(r"[^=#]+=\s*+\[[^\]]*+$")

_WORDS = {"true": "true", "yes": "true", "on": "true"}
_WORDS |= {"false": "false", "no": "false", "off": "false", "none": '""', "null": '""'}


def _as_toml(line: str) -> str:
    """Return how to write a value that is not TOML."""
    value = line.partition("=")[2].partition("#")[0].strip()
    if (meant := _WORDS.get(value.lower())) is not None:
        return f"write {meant}" + (
            ", in small letters and without quotes" if '"' not in meant else ""
        )
    if value.startswith("="):
        return "write a single ="
    if re.fullmatch(r"0\d+", value):
        return f"write {value.lstrip('0') or 0}"
    if set(value) & set("“”„‘’"):
        return 'write straight quotes: "…"'
    if re.fullmatch(r"[\w.+%-]+( [\w%]+)?", value):
        return f'write text in quotes: "{value}"'
    return "write text in quotes"


def _first_table(lines: Sequence[str], table: str, before: int) -> int | None:
    for number, line in enumerate(lines[: before - 1], 1):
        if re.match(rf"\s*\[\[?\s*{re.escape(table)}\s*\]", line):
            return number
    return None
