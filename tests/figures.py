"""Measures names, functions and comments of the code: ``python -m tests.figures [FOLDER …]``.

The same figures for any Python code, so that it can be laid beside code that others admire:
``python -m tests.figures path/to/site-packages/httpx``.
"""

from __future__ import annotations

import ast
import io
import re
import statistics
import sys
import tokenize
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OURS = ("dicom_node", "worker")
WORST = 12
"""Files, functions and names that are listed of each kind."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(slots=True)
class Figures:
    """What was counted in some files."""

    files: int = 0
    lines: int = 0
    """Lines with code: neither blank nor comment nor docstring."""
    comments: int = 0
    """Lines that end in or are a comment."""
    names: list[str] = field(default_factory=list)
    """Of functions, without dunders."""
    lengths: list[int] = field(default_factory=list)
    """Lines of each function's body without its docstring."""
    nested: int = 0
    documented: int = 0
    public: int = 0
    uses: Counter[str] = field(default_factory=Counter)
    """How often each word of code occurs."""
    longest: list[tuple[int, str]] = field(default_factory=list)
    classes: dict[str, set[str]] = field(default_factory=dict)
    barest: list[tuple[int, str]] = field(default_factory=list)
    """Lines with code and the file, of files without any comment."""

    def read(self, path: Path) -> None:
        """Count a file in."""
        source = path.read_text(encoding="utf-8")
        tree = ast.parse(source)
        self.files += 1
        lines, comments = _lines_of(source, tree)
        self.lines += lines
        self.comments += comments
        if not comments:
            self.barest.append((lines, str(path)))
        self.uses.update(re.findall(r"\w+", source))
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                self.classes.setdefault(node.name, set()).add(str(path))
            elif isinstance(node, Function):
                self._read_function(node, path)

    def _read_function(self, node: Function, path: Path) -> None:
        body = node.body[1:] if ast.get_docstring(node) is not None else node.body
        length = (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0
        self.lengths.append(length)
        self.longest.append((length, f"{path}:{node.lineno} {node.name}"))
        self.nested += _depth(node) > 3
        if node.name.startswith("__"):
            return
        self.names.append(node.name)
        if not node.name.startswith("_"):
            self.public += 1
            self.documented += ast.get_docstring(node) is not None

    @property
    def rows(self) -> Iterator[tuple[str, str]]:
        """What is counted, and how much of it."""
        words = [len([word for word in name.split("_") if word]) for name in self.names]
        private = [name for name in self.names if name.startswith("_")]
        once = [name for name in private if self.uses[name] <= 2]  # where it is, and its one use
        count = max(1, len(self.lengths))
        yield "files", f"{self.files}"
        yield "code lines", f"{self.lines}"
        yield "words per function name", f"{statistics.fmean(words or [0]):.2f}"
        yield "names of one word", f"{_share(words.count(1), len(words))}"
        yield "private functions per 1,000 lines", f"{1000 * len(private) / max(1, self.lines):.0f}"
        yield "private functions used once", _share(len(once), len(private))
        yield "comments per 100 code lines", f"{100 * self.comments / max(1, self.lines):.1f}"
        ordered = sorted(self.lengths) or [0]
        yield "lines of a function, median", f"{statistics.median(ordered):.0f}"
        yield "lines of a function, 90 %", f"{ordered[int(0.9 * (len(ordered) - 1))]}"
        yield "functions over 50 lines", _share(sum(one > 50 for one in self.lengths), count)
        yield "functions nested over 3", _share(self.nested, count)
        yield "public functions with a docstring", _share(self.documented, self.public)
        several = [name for name, where in self.classes.items() if len(where) > 1]
        yield "class names in several files", f"{len(several)}"


def _share(part: int, whole: int) -> str:
    return f"{100 * part / max(1, whole):.1f} %"


def _lines_of(source: str, tree: ast.AST) -> tuple[int, int]:
    """Return how many lines have code, and how many a comment that says something."""
    documented: set[int] = set()
    for node in ast.walk(tree):
        is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if is_text and isinstance(node.value.value, str):  # type: ignore[attr-defined]
            documented.update(range(node.lineno, (node.end_lineno or 0) + 1))  # type: ignore[attr-defined]
    code: set[int] = set()
    comments = 0
    quiet = {tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            # what tools read is not written for people
            comments += not re.match(r"#\s*(type: ignore|noqa|fmt:|pragma)", token.string)
        elif token.type not in quiet:
            code.update(range(token.start[0], token.end[0] + 1))
    return len(code - documented), comments


def _depth(node: ast.AST) -> int:
    """Return how many blocks of a function stand within each other."""
    blocks = (ast.If, ast.For, ast.While, ast.With, ast.Try, ast.AsyncFor, ast.AsyncWith, ast.Match)
    deepest = 0
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, (*Function.__args__, ast.ClassDef)):  # type: ignore[attr-defined]
            deepest = max(deepest, isinstance(child, blocks) + _depth(child))
    return deepest


def figures_of(places: list[Path]) -> Figures:
    """Return the figures of all Python files below some folders, tests left out."""
    found = Figures()
    for place in places:
        for path in sorted(place.rglob("*.py") if place.is_dir() else [place]):
            if not {"tests", "_dicom_dict.py"} & set(path.parts):
                found.read(path)
    return found


def main() -> int:
    """Print the figures and what stands out; return 0."""
    places = [Path(one) for one in sys.argv[1:]] or [ROOT / one for one in OURS]
    found = figures_of(places)
    for what, figure in found.rows:
        print(f"{what:36} {figure:>8}")
    if sys.argv[1:]:
        return 0
    print("\nlongest functions")
    for length, where in sorted(found.longest, reverse=True)[:WORST]:
        print(f"  {length:4}  {where.replace(f'{ROOT}/', '')}")
    print("\nfiles with most code and no comment")
    for lines, where in sorted(found.barest, reverse=True)[:WORST]:
        print(f"  {lines:4}  {where.replace(f'{ROOT}/', '')}")
    print("\nclass names in several files")
    for name, where in sorted(found.classes.items()):
        if len(where) > 1:
            files = ", ".join(sorted(one.replace(f"{ROOT}/", "") for one in where))
            print(f"  {name}: {files}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
