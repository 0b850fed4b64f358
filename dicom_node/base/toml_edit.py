"""Changes tables of a TOML text; what is not changed stays as it is, byte for byte.

A table is edited where it stands in blocks of its own: ``[peers.NAME]`` with its sub-tables, one
``[[rules]]``, or a section such as ``[retention]``. To a block belong the comments directly above
its head and directly below its last key. All else (other tables, free comments, blank lines, order)
is outside and is never written again. Each result is read back and compared with what it should
say.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tomlkit
from tomlkit.exceptions import TOMLKitError

from dicom_node.base.errors import ConfigurationError

Values = dict[str, Any]
"""The keys of one table as TOML has them."""

_TOKEN = re.compile(
    r'"""(?:[^"\\]|\\.|"(?!""))*+"{3,5}'
    r"|'''(?:[^']|'(?!''))*+'{3,5}"
    r'|"(?:[^"\\\n]|\\.)*+"'
    r"|'[^'\n]*+'"
    r"|(?P<comment>\#[^\n]*+)"
    r"|[\[\]{}]",
    re.DOTALL,
)
_BARE = re.compile(r"[A-Za-z0-9_-]+")
_IDLE_LINE = re.compile(r"[ \t]*(?:#.*)?")


@dataclass(frozen=True, slots=True)
class TableBlock:
    """Where one table stands in the text."""

    path: tuple[str, ...]
    """``("peers", NAME)``, ``("rules",)`` for one of its tables, or the name of a section."""
    start: int
    """First character: of the comments above, or of the head."""
    end: int
    """Behind its last line."""
    heads: tuple[tuple[int, tuple[str, ...]], ...]
    """Where its head and those of its sub-tables begin, with their paths."""


def change_peer(text: str, name: str, values: Values | None) -> str:
    """Return `text` with a table ``[peers.NAME]`` added, changed or, with None, removed.

    Raises
    ------
    ConfigurationError
        It is written in a way that cannot be changed here.
    """
    wanted = _read_toml(text)
    peers = dict(wanted.get("peers", {}))
    if values is None:
        peers.pop(name, None)
    else:
        peers[name] = values
    blocks = [block for block in _table_blocks(text, "peers") if block.path == ("peers", name)]
    has_it = name in _read_toml(text).get("peers", {})
    if has_it and len(blocks) != 1:
        raise _not_here(f"peers.{name}", f"[peers.{name}]")
    head = f"[peers.{_render_key(name)}]"
    if blocks:
        changed = _replace_block(
            text, blocks[0], None if values is None else values, ("peers", name)
        )
    elif values is None:
        changed = text
    else:
        fresh = _render_block(head, values)
        known, rules = _table_blocks(text, "peers"), _table_blocks(text, "rules")
        if known:
            changed = _insert_block(text, known[-1].end, fresh)
        elif rules:
            changed = _insert_block(text, rules[0].start, fresh)
        else:
            changed = _insert_block(text, len(text), fresh)
    return _check_text(changed, wanted | {"peers": peers}, f"peers.{name}")


def change_section(text: str, name: str, values: Values | None) -> str:
    """Return `text` with the keys of a section ``[NAME]`` changed; with None, without it.

    Raises
    ------
    ConfigurationError
        It is written in a way that cannot be changed here.
    """
    wanted = _read_toml(text)
    blocks = _table_blocks(text, name)
    if name in wanted and len(blocks) != 1:
        raise _not_here(name, f"[{name}]")
    if blocks:
        changed = _replace_block(text, blocks[0], values, (name,))
    elif values is None:
        changed = text
    else:
        others = [*_table_blocks(text, "peers"), *_table_blocks(text, "rules")]
        at = min((other.start for other in others), default=len(text))
        changed = _insert_block(text, at, _render_block(f"[{name}]", values))
    rest = {key: value for key, value in wanted.items() if key != name}
    return _check_text(changed, rest | ({} if values is None else {name: values}), name)


def change_rule(text: str, name: str, values: Values | None, place: int | None = None) -> str:
    """Return `text` with the ``[[rules]]`` of this name added, changed or, with None, removed.

    Parameters
    ----------
    place : int, optional
        Where it shall stand among the rules, 0 for the first; left out, an old rule stays where it
        is and a new rule is the last.

    Raises
    ------
    ConfigurationError
        It is written in a way that cannot be changed here.
    """
    wanted = _read_toml(text)
    rules = list(wanted.get("rules", []))
    blocks = _table_blocks(text, "rules")
    if len(blocks) != len(rules):
        raise _not_here(f"rule {name!r}", "[[rules]]")
    known = [at for at, rule in enumerate(rules) if rule.get("name") == name]
    if known and values is None:
        changed = _replace_block(text, blocks[known[0]], None, ("rules",))
        del rules[known[0]]
    elif known:
        assert values is not None  # noqa: S101 - said to the type checker
        changed = _replace_block(text, blocks[known[0]], values, ("rules",))
        rules[known[0]] = values
    elif values is None:
        return text
    else:
        fresh = _render_block("[[rules]]", values)
        changed = _insert_block(text, blocks[-1].end if blocks else len(text), fresh)
        rules.append(values)
    changed = _check_text(changed, wanted | {"rules": rules}, f"rule {name!r}")
    if place is None or values is None:
        return changed
    return move_rule(changed, str(values.get("name", name)), place)


def move_rule(text: str, name: str, place: int) -> str:
    """Return `text` with the rule of this name at another place, 0 for the first.

    Raises
    ------
    ConfigurationError
        The rules are written in a way that cannot be changed here.
    """
    wanted = _read_toml(text)
    rules, blocks = list(wanted.get("rules", [])), _table_blocks(text, "rules")
    if len(blocks) != len(rules):
        raise _not_here(f"rule {name!r}", "[[rules]]")
    order = list(range(len(rules)))
    (old,) = [at for at in order if rules[at].get("name") == name]
    order.remove(old)
    order.insert(max(0, min(place, len(order))), old)
    # The blocks change their contents; what stands between them stays.
    changed = text
    # from the end, so that the places of the blocks before stay right
    for block, source in reversed(list(zip(blocks, order, strict=True))):
        moved = text[blocks[source].start : blocks[source].end]
        moved = moved if moved.endswith("\n") else moved + _newline_of_text(text)
        changed = changed[: block.start] + moved + changed[block.end :]
    return _check_text(changed, wanted | {"rules": [rules[at] for at in order]}, f"rule {name!r}")


def table_text(text: str, kind: str, name: str) -> str:
    """Return the lines of one table with its comments; empty where it has no block of its own."""
    if kind == "peers":
        found = [block for block in _table_blocks(text, kind) if block.path == (kind, name)]
    elif kind != "rules":
        found = _table_blocks(text, kind)
    else:
        rules, blocks = _read_toml(text).get(kind, []), _table_blocks(text, kind)
        pairs = zip(blocks, rules, strict=True) if len(rules) == len(blocks) else ()
        found = [block for block, rule in pairs if rule.get("name") == name]
    return text[found[0].start : found[0].end].replace("\r\n", "\n") if found else ""


def put_back(text: str, kind: str, name: str, lines: str, place: int | None = None) -> str:
    """Return `text` with the lines of a table, as `table_text` gave them, in its place.

    Raises
    ------
    ConfigurationError
        The table is written in a way that cannot be changed here.
    """
    wanted, content = _read_toml(text), _read_toml(lines)
    if kind == "peers":
        values = content["peers"][name]
        expected: Any = {**wanted.get(kind, {}), name: values}
    elif kind != "rules":
        expected = content.get(kind, {})
    else:
        (values,) = content["rules"]
        expected = list(wanted.get(kind, []))
    before = table_text(text, kind, name)
    if before:
        block = next(
            block for block in _table_blocks(text, kind)
            if text[block.start : block.end].replace("\r\n", "\n") == before
        )  # fmt: skip
        changed = text[: block.start] + _with_newlines_of(text, lines) + text[block.end :]
        if kind == "rules":
            at = next(i for i, rule in enumerate(expected) if rule.get("name") == name)
            expected[at] = values
    else:
        known = _table_blocks(text, kind)
        changed = _insert_block(text, known[-1].end if known else len(text), lines)
        if kind == "rules":
            expected.append(values)
    changed = _check_text(changed, wanted | {kind: expected}, f"{kind}.{name}")
    if kind == "rules" and place is not None:
        return move_rule(changed, str(values["name"]), place)
    return changed


# where tables stand -------------------------------------------------------------------------------


def _table_blocks(text: str, kind: str) -> list[TableBlock]:
    """Return the blocks of ``[peers.…]``, of ``[[rules]]`` or of a section in their order."""
    heads = list(_table_heads(text))
    groups: list[list[tuple[int, tuple[str, ...], bool]]] = []
    for head in heads:
        _, path, is_array = head
        if groups and _belongs_to_block(groups[-1][0], head):
            groups[-1].append(head)
        else:
            groups.append([head])
        if path[0] == "rules" and len(path) == 1 and not is_array:
            continue
    starts = [_block_start(text, group[0][0]) for group in groups]
    blocks = []
    for number, group in enumerate(groups):
        limit = starts[number + 1] if number + 1 < len(starts) else len(text)
        _, path, is_array = group[0]
        path = path[:2] if path[0] == "peers" else path
        is_one = {"peers": len(path) == 2, "rules": is_array}.get(kind, path == (kind,))
        if path[0] != kind or not is_one:
            continue
        end = _block_end(text, group[-1][0], limit)
        inner = tuple((at, of) for at, of, _ in group)
        blocks.append(TableBlock(path, starts[number], end, inner))
    return blocks


def _belongs_to_block(
    first: tuple[int, tuple[str, ...], bool], head: tuple[int, tuple[str, ...], bool]
) -> bool:
    """Return whether a head is of a sub-table of the block that began with `first`."""
    path, of = head[1], first[1]
    if of[0] == "peers":
        return len(path) > 2 and len(of) >= 2 and path[:2] == of[:2]
    return of == ("rules",) and first[2] and path[0] == "rules" and len(path) > 1


def _table_heads(text: str) -> Iterator[tuple[int, tuple[str, ...], bool]]:
    """Yield where each head of a table begins, its path, and whether it is in double brackets."""
    depth = 0
    for token in _TOKEN.finditer(text):
        sign = token[0]
        if sign in ("[", "{"):
            line = text.rfind("\n", 0, token.start()) + 1
            # only a bracket outside of all values that begins its line is a head
            if depth == 0 and sign == "[" and not text[line : token.start()].strip(" \t\ufeff"):
                end = text.find("\n", line)
                head = text[line : end if end >= 0 else len(text)].lstrip("\ufeff")
                path, is_array = _head_path(head)
                yield line, path, is_array
            depth += 1
        elif sign in ("]", "}"):
            depth -= 1


def _head_path(head: str) -> tuple[tuple[str, ...], bool]:
    # tomllib takes the head apart: quoted keys and dots are its business
    content: Any = tomllib.loads(head.rstrip("\r"))
    path, is_array = [], False
    while isinstance(content, dict) and content:
        ((key, content),) = content.items()
        path.append(key)
        if isinstance(content, list):
            content, is_array = content[0], True
    return tuple(path), is_array


def _block_start(text: str, head: int) -> int:
    """Return where a block begins: at the comments that stand directly above its head."""
    start = head
    while start > 0:
        line = text.rfind("\n", 0, start - 1) + 1
        if not text[line:start].lstrip(" \t\ufeff").startswith("#"):
            return start
        start = line
    return start


def _block_end(text: str, head: int, limit: int) -> int:
    """Return where a block ends: behind its last key, and comments directly below that."""
    lines = text[head:limit].splitlines(keepends=True)
    last = max(
        (n for n, line in enumerate(lines) if not _IDLE_LINE.fullmatch(line.rstrip("\r\n"))),
        default=0,
    )
    while last + 1 < len(lines) and lines[last + 1].strip():
        last += 1
    return head + sum(len(line) for line in lines[: last + 1])


# what is written ----------------------------------------------------------------------------------


def _replace_block(
    text: str, block: TableBlock, values: Values | None, path: tuple[str, ...]
) -> str:
    if values is None:
        rest = text[block.end :]
        # of the blank lines on both sides those above stay
        while match := re.match(r"[ \t]*\r?\n", rest):
            rest = rest[match.end() :]
        return (
            text[: block.start] + rest
            if rest
            else text[: block.start].rstrip() + _newline_of_text(text)
        )
    old = text[block.start : block.end].replace("\r\n", "\n")
    old = old if old.endswith("\n") else old + "\n"
    try:
        new = _update_block(old, path, values)
        is_right = _prune_empty(_block_content(new, path)) == _prune_empty(values)
    except ConfigurationError:
        is_right = False
    if not is_right:
        # Inline tables, and keys of one table apart from each other, are beyond tomlkit.
        new = _rebuild_block(old, path, values)
    # a comment that lost its line is kept above: what people have noted is never dropped
    lost = Counter(_comments_in(old)) - Counter(_comments_in(new))
    above = "".join(f"{comment}\n" for comment in lost.elements())
    return text[: block.start] + _with_newlines_of(text, above + new) + text[block.end :]


def _block_content(lines: str, path: tuple[str, ...]) -> Any:
    """Return what the lines of one block say."""
    return _keys_of(_read_toml(lines), path)


def _keys_of(content: Any, path: tuple[str, ...]) -> Any:
    """Return the keys of the one table in what a block says."""
    if path[0] == "peers":
        return content.get("peers", {}).get(path[1], {})
    return content["rules"][0] if path[0] == "rules" else content.get(path[0], {})


def _rebuild_block(lines: str, path: tuple[str, ...], values: Values) -> str:
    """Return the lines of a block written afresh below its own head, with the comments above it."""
    (block,) = _table_blocks(lines, path[0])
    at, of = block.heads[0]
    end = lines.find("\n", at) + 1
    head = lines[at:end] if of == path else f"[peers.{_render_key(path[-1])}]\n"
    return lines[:at] + _render_block(head.rstrip("\n"), values)


def _update_block(lines: str, path: tuple[str, ...], values: Values) -> str:
    """Return the lines of a block with other values: changed and removed by tomlkit, then added."""
    try:
        content = tomlkit.parse(lines)
        _merge_values(_keys_of(content, path), values)
        changed = tomlkit.dumps(content)
        now = _keys_of(tomllib.loads(changed), path)
    except (TOMLKitError, tomllib.TOMLDecodeError, KeyError, IndexError, TypeError) as exc:
        raise _not_here(".".join(path), f"[{'.'.join(path)}]") from exc
    for way, value in _leaf_values(values):
        if not _has_way(now, way):
            changed = _add_line(changed, path, way, value)
    return changed


def _merge_values(table: Any, values: Mapping[str, Any]) -> None:
    for key in list(table):
        if key not in values:
            del table[key]
            continue
        value, old = values[key], table[key]
        if isinstance(value, dict) and isinstance(old, dict):
            _merge_values(old, value)
            if not list(old):
                del table[key]
        elif _plain_item(old) != value or type(_plain_item(old)) is not type(value):
            table[key] = tomlkit.parse(f"x = {render(value)}")["x"]


def _add_line(lines: str, path: tuple[str, ...], way: tuple[str, ...], value: Any) -> str:
    """Add a key to the section of a block that its first part has, else to the first section."""
    (block,) = _table_blocks(lines, path[0])
    depth = len(path)
    sections = {head[depth:]: at for at, head in block.heads}
    inner = way[:-1] if way[:-1] in sections else ()
    at = sections[inner]
    after = [start for start, _ in block.heads if start > at]
    end = _block_end(lines, at, _block_start(lines, after[0]) if after else block.end)
    key = ".".join(_render_key(part) for part in way[len(inner) :])
    line = f"{key} = {render(value)}\n"
    return lines[:end] + line + lines[end:]


def _render_block(head: str, values: Values) -> str:
    lines = [f"{head}\n"]
    lines += [
        f"{'.'.join(map(_render_key, way))} = {render(value)}\n"
        for way, value in _leaf_values(values)
    ]
    return "".join(lines)


def render(value: Any) -> str:
    """Return a value as TOML writes it.

    Raises
    ------
    ConfigurationError
        It is a text that no file can hold.
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as exc:
            raise ConfigurationError("a text holds half of a character (a surrogate)") from exc
        # TOML's basic strings are JSON's, but for DEL, which TOML wants escaped
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007F")
    if isinstance(value, list | tuple):
        return f"[{', '.join(render(item) for item in value)}]"
    if isinstance(value, dict):
        inner = ", ".join(f"{_render_key(key)} = {render(item)}" for key, item in value.items())
        return f"{{ {inner} }}" if inner else "{}"
    if not isinstance(value, int | float):
        raise ConfigurationError("null has no form in TOML; leave the key out")
    # a float stays a float: `1` would be read as an integer
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return f"{value:.1f}"
    return str(value).lower() if isinstance(value, float) else str(value)


def _render_key(text: str) -> str:
    return text if _BARE.fullmatch(text) else render(text)


def _leaf_values(values: Mapping[str, Any], way: tuple[str, ...] = ()) -> Iterator[tuple[Any, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _leaf_values(value, (*way, key))
        else:
            yield (*way, key), value


def _has_way(table: Any, way: Sequence[str]) -> bool:
    for key in way:
        if not isinstance(table, dict) or key not in table:
            return False
        table = table[key]
    return True


def _insert_block(text: str, at: int, lines: str) -> str:
    """Insert a block at `at`, with a blank line on both sides."""
    newline = _newline_of_text(text)
    before, after = text[:at], text[at:]
    if before.strip("\ufeff"):
        before = before if before.endswith("\n") else before + newline
        if not re.search(r"\n[ \t]*\r?\n$", before):
            before += newline
    if after.strip() and not re.match(r"[ \t]*\r?\n", after):
        after = newline + after
    return before + _with_newlines_of(text, lines) + after


def _newline_of_text(text: str) -> str:
    return "\r\n" if "\r\n" in text else "\n"


def _with_newlines_of(text: str, lines: str) -> str:
    return lines.replace("\r\n", "\n").replace("\n", _newline_of_text(text))


def _comments_in(text: str) -> list[str]:
    return [token["comment"].rstrip("\r") for token in _TOKEN.finditer(text) if token["comment"]]


def _plain_item(item: Any) -> Any:
    return item.unwrap() if hasattr(item, "unwrap") else item


def _read_toml(text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text.lstrip("\ufeff"))
    except tomllib.TOMLDecodeError as exc:
        raise ConfigurationError(f"not TOML: {exc}") from exc


def _check_text(text: str, wanted: Mapping[str, Any], what: str) -> str:
    """Return `text` where it says exactly what it should.

    Raises
    ------
    ConfigurationError
        It does not: the file is written in a way that was not foreseen, and stays as it is.
    """
    found, expected = _prune_empty(_read_toml(text)), _prune_empty(dict(wanted))
    if {**found, "rules": found.get("rules", [])} != {
        **expected,
        "rules": expected.get("rules", []),
    }:
        raise _not_here(what, "a table of its own")
    return text


def _prune_empty(value: Any) -> Any:
    """Return a value without empty tables, which mean the same as none."""
    if isinstance(value, dict):
        inner = {key: _prune_empty(item) for key, item in value.items()}
        return {key: item for key, item in inner.items() if item != {}}
    if isinstance(value, list):
        return [_prune_empty(item) if isinstance(item, dict) else item for item in value]
    return value


def _not_here(what: str, form: str) -> ConfigurationError:
    return ConfigurationError(
        f"{what} is written in a way that cannot be changed here; write it as {form}, "
        "all of it in one place, or change it in the file"
    )
