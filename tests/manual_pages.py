"""The manual's pages that are made from the code: ``python -m tests.manual_pages`` writes them."""

from __future__ import annotations

import argparse
import ast
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import grimp

from dicom_node import cli as node_cli
from dicom_node import settings as node_settings
from dicom_node.base.examples import EXAMPLES
from dicom_node.base.json_schema import document
from dicom_node.settings import duration_text, size_text
from worker import cli as worker_cli
from worker import settings as worker_settings
from worker.models.options import KINDS

ROOT = Path(__file__).resolve().parents[1]
REFERENCE = ROOT / "dicom_node" / "manual" / "reference"


def pages() -> dict[str, str]:
    """Return the text of each page by its file name."""
    return {
        "node-toml.md": _configuration(
            "node.toml",
            "Every key has a default that works. An unknown key is refused. A key may be set by "
            "the environment, too: `CHEXFRACT_NODE__PORT=4104` for `port` in `[node]`.",
            document(node_settings.Settings, node_settings),
        ),
        "worker-toml.md": _configuration(
            "worker.toml",
            "Every key has a default. A key may be set by the environment, too: "
            "`CHEXFRACT_WORKER_WORKER__BROKER=redis://…` for `broker` in `[worker]`. "
            f"Engines of `[models.NAME]`: {', '.join(f'`{name}`' for name in KINDS)}; the keys of "
            "each stand in `configs/models.toml` and `configs/worker.schema.json`.",
            document(worker_settings.Settings, worker_settings),
        ),
        "commands.md": _commands(),
        "house.md": _house(),
        "metrics.md": _metrics(),
    }


def _configuration(name: str, opening: str, schema: dict[str, Any]) -> str:
    lines = [f"# {name}", "", opening, ""]
    for table, content in schema["properties"].items():
        target, heading = _target(content), f"[{table}]"
        if content.get("type") == "object":
            heading = f"[{table}.NAME]"
        elif content.get("type") == "array":
            heading = f"[[{table}]]"
        if target:
            lines += [*_table(heading, schema["$defs"][target], schema["$defs"]), ""]
    return "\n".join(lines)


def _target(content: dict[str, Any]) -> str:
    """Return the definition that a key's value has, or each of its values."""
    for key in ("additionalProperties", "items"):
        if isinstance(content.get(key), dict) and "$ref" in content[key]:
            content = content[key]
    return str(content.get("$ref", "")).rpartition("/")[2]


def _table(heading: str, table: dict[str, Any], definitions: dict[str, Any]) -> Iterator[str]:
    yield f"## {heading}"
    yield ""
    if what := table.get("description", ""):
        text = what.partition(": ")[2] or what
        yield text[:1].upper() + text[1:]
        yield ""
    yield "| key | default | what |"
    yield "|---|---|---|"
    for key, content in table.get("properties", {}).items():
        inner = _target(content)
        if inner and "properties" in definitions[inner]:
            what = definitions[inner].get("description", "")
            keys = ", ".join(f"`{key}.{name}`" for name in definitions[inner]["properties"])
            yield _row(f"`{key}.…`", "", f"{_plain(what)} Keys: {keys}.")
        else:
            yield _row(
                f"`{key}`", _default(content, key in table.get("required", ())), _what(content)
            )


def _row(*cells: str) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _default(content: dict[str, Any], is_required: bool) -> str:
    if is_required:
        return "required"
    value = content.get("default")
    if value is None or value == "":
        return ""
    forms = "".join(str(form.get("pattern", "")) for form in content.get("anyOf", ()))
    if "[smhd]" in forms:
        value = duration_text(value)
    elif "[KMGT]" in forms:
        value = size_text(value)
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _what(content: dict[str, Any]) -> str:
    text = _plain(content.get("description", ""))
    kinds = content.get("enum") or content.get("items", {}).get("enum")
    if kinds:
        text += f" One of {', '.join(f'`{kind}`' for kind in kinds)}."
    return text.strip()


def _plain(text: str) -> str:
    return " ".join(text.replace("``", "`").split())


def _commands() -> str:
    lines = [
        "# Commands",
        "",
        "Every listing prints JSON with `--json`. Exit codes: 0 ok, 1 some item failed, 2 usage, "
        "69 peer or broker unreachable, 75 try later, 78 configuration. `--help` behind a command "
        "says the same.",
        "",
    ]
    for parser in (node_cli.parser(), worker_cli.parser()):
        lines += [f"## {parser.prog}", ""]
        for command, what in _walk(parser):
            lines += [f"### {command.prog}", "", *([f"{what}", ""] if what else [])]
            lines += [*_options(command), ""]
            if examples := EXAMPLES.get(command.prog):
                lines += ["For example:", "", "```text", *examples, "```", ""]
    return "\n".join(lines)


def _house() -> str:
    """Return the rooms of both programs from top to bottom, and what each really imports."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    layers = {
        contract["containers"][0]: [layer.split(" | ") for layer in contract["layers"]]
        for contract in contracts["contracts"]
        if contract.get("containers") in (["dicom_node"], ["worker"])
    }
    graph = grimp.build_graph("dicom_node", "worker", cache_dir=None)
    lines = [
        "# The house",
        "",
        "The rooms of both programs. A room may import what stands below it and nothing else; "
        "`make check` holds that. Pictures and tables are made from the contracts and the imports.",
    ]
    for program, floors in layers.items():
        rooms = [room for floor in floors for room in floor if room != "__main__"]
        lines += ["", f"## {program}", "", "```text", *_picture(floors), "```", ""]
        lines += ["| room | what it is | imports |", "|---|---|---|"]
        for room in rooms:
            module = f"{program}.{room}"
            lower = [name for name in rooms if name != room]
            used = [name for name in lower if _imports(graph, module, f"{program}.{name}")]
            if program == "worker":
                node = [f"dicom_node.{name}" for name in ("flow", "standard", "base")]
                used += [name for name in node if _imports(graph, module, name)]
            lines.append(_row(f"`{room}`", _sentence(module), ", ".join(used)))
    return "\n".join(lines)


def _metrics() -> str:
    """Return every metric with its labels, as the code names them."""
    lines = [
        "# Metrics",
        "",
        "`/metrics` of the node, in Prometheus' text format. Counts come from the ledger at each "
        'scrape, so nothing is lost at a restart. `[web] metrics = "loopback"` answers this '
        "machine alone. No label holds what belongs to a patient. The dashboard "
        "`configs/grafana/chexfract.json` uses these names.",
        "",
        "| metric | kind | labels | what |",
        "|---|---|---|---|",
    ]
    found = {}
    for path in sorted((ROOT / "dicom_node" / "web").glob("*.py")):
        tree = ast.parse(path.read_text())
        given = {
            ast.unparse(one.targets[0]): one.value
            for one in ast.walk(tree)
            if isinstance(one, ast.Assign)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                kind, is_metric, _ = node.func.id.partition("MetricFamily")
                if is_metric:
                    found |= {row[0]: row for row in _metric(node, kind.lower(), given)}
    lines += [_row(f"`{name}`", kind, labels, what) for name, kind, labels, what in
              sorted(found.values())]  # fmt: skip
    return "\n".join(lines)


COUNTED = ("instances", "jobs", "deliveries")
"""What `chexfract_{what}` stands for."""


def _metric(
    call: ast.Call, kind: str, given: Mapping[str, ast.expr]
) -> Iterator[tuple[str, str, str, str]]:
    name, what = (ast.unparse(one).removeprefix("f").strip("'\"") for one in call.args[:2])
    named = {word.arg: word.value for word in call.keywords}
    wanted = named.get("labels", ast.List([]))
    labels = ast.literal_eval(given.get(ast.unparse(wanted), wanted))
    shown = ", ".join(f"`{label}`" for label in labels)
    end = "_total" if kind == "counter" else ""
    for one in COUNTED if "{what}" in name else ("",):
        yield name.format(what=one) + end, kind, shown, what.format(what=one)


def _imports(graph: grimp.ImportGraph, importer: str, imported: str) -> bool:
    return graph.direct_import_exists(importer=importer, imported=imported, as_packages=True)


def _picture(floors: Sequence[Sequence[str]]) -> Iterator[str]:
    width = max(len("   ".join(floor)) for floor in floors) + 4
    yield f"┌{'─' * width}┐"
    for number, floor in enumerate(floor for floor in floors if floor != ["__main__"]):
        if number:
            yield f"├{'─' * width}┤"
        yield f"│{'   '.join(floor):^{width}}│"
    yield f"└{'─' * width}┘"


def _sentence(module: str) -> str:
    """Return the sentence that a room or file opens with."""
    path = ROOT / module.replace(".", "/")
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    text = ast.get_docstring(ast.parse(file.read_text())) or ""
    return _plain(text.partition("\n\n")[0])


def _walk(parser: argparse.ArgumentParser) -> Iterator[tuple[argparse.ArgumentParser, str]]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            shown = {choice.dest: choice.help or "" for choice in action._choices_actions}
            for name, command in action.choices.items():
                if name not in shown:
                    continue  # started by programs, not by people
                if any(isinstance(one, argparse._SubParsersAction) for one in command._actions):
                    yield from _walk(command)
                else:
                    yield command, shown[name]


def _options(command: argparse.ArgumentParser) -> Iterator[str]:
    yield "```text"
    yield " ".join(command.format_usage().removeprefix("usage: ").split())
    yield "```"
    rows = [
        (", ".join(action.option_strings) or str(action.metavar or action.dest), action.help)
        for action in command._actions
        if action.help and action.help != argparse.SUPPRESS and action.dest != "help"
    ]
    if rows:
        yield ""
        yield "| option | what |"
        yield "|---|---|"
        for name, what in rows:
            yield _row(f"`{name}`", str(what))


if __name__ == "__main__":
    for name, text in pages().items():
        (REFERENCE / name).write_text(text.rstrip("\n") + "\n", encoding="utf-8")
        print(REFERENCE / name)
