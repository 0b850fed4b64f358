"""Anything may be raised at the rims alone, and no import changes the process that imports."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

from dicom_node.base.errors import ModelFault, NotUnderstood, Unreachable
from dicom_node.base.rims import OneOfMany, foreign_code

ROOT = Path(__file__).parents[2]
PROGRAMS = ("dicom_node", "worker")

RIMS = {
    "dicom_node/base/command.py": ("the edge of the process", 1),
    "dicom_node/base/rims.py": ("code of others", 1),
    "worker/models/child.py": ("the child of another interpreter", 1),
    "dicom_node/flow/commit.py": ("the thread of one peer's storage commitment", 1),
    "dicom_node/flow/deliver.py": ("the thread of one destination", 1),
    "dicom_node/flow/loop.py": ("the loops of the flow", 4),
}
"""Where an `except` may catch what it does not name: what lies behind it, and how many at most."""

MOST = 12


def broad_excepts(source: str) -> list[int]:
    """Return the lines on which a source catches, or suppresses, what it does not name."""
    broad = {"Exception", "BaseException"}
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ExceptHandler):
            caught: list[ast.expr] = [node.type] if node.type else []
            if node.type is None:
                found.append(node.lineno)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("suppress"):
            caught = node.args
        elif isinstance(node, ast.AnnAssign | ast.Assign) and isinstance(node.value, ast.Tuple):
            caught = [node.value]  # a tuple that an except may name
        else:
            continue
        names = {ast.unparse(part) for problem in caught for part in ast.walk(problem)}
        if names & broad:
            found.append(node.lineno)
    return found


def test_broad_excepts_are_seen_in_every_form() -> None:
    forms = (
        "try: pass\nexcept Exception: pass",
        "try: pass\nexcept (Exception, SystemExit): pass",
        "try: pass\nexcept BaseException: pass",
        "try: pass\nexcept: pass",
        "with suppress(Exception): pass",
        "with contextlib.suppress(Exception): pass",
        "caught = (Exception, *more)",
    )
    assert [len(broad_excepts(form)) for form in forms] == [1] * len(forms)
    assert broad_excepts("try: pass\nexcept (ValueError, OSError): pass") == []


def test_what_is_not_named_is_caught_at_the_rims_alone() -> None:
    found = {}
    for program in PROGRAMS:
        for path in sorted((ROOT / program).rglob("*.py")):
            if lines := broad_excepts(path.read_text()):
                found[str(path.relative_to(ROOT))] = lines

    strangers = {file: lines for file, lines in found.items() if file not in RIMS}
    assert strangers == {}, "name the errors, or go by dicom_node.base.rims"
    too_many = {file: lines for file, lines in found.items() if len(lines) > RIMS[file][1]}
    assert too_many == {}
    assert sum(map(len, found.values())) <= MOST


def test_whatever_foreign_code_raises_is_an_error_of_this_project() -> None:
    def fault(exc: BaseException) -> NotUnderstood:
        return NotUnderstood(f"{type(exc).__name__} in it")

    with (
        pytest.raises(NotUnderstood, match="ZeroDivisionError in it") as caught,
        foreign_code(fault),
    ):
        _ = 1 / 0
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_errors_of_this_project_pass_foreign_code() -> None:
    with pytest.raises(Unreachable), foreign_code(lambda _: NotUnderstood("")):
        raise Unreachable("away")
    with pytest.raises(ModelFault), foreign_code(lambda _: ModelFault(""), passes=(OSError,)):
        raise Unreachable("away")


def test_what_ends_the_process_is_caught_where_that_is_said() -> None:
    with pytest.raises(SystemExit), foreign_code(lambda _: ModelFault("")):
        sys.exit()
    with pytest.raises(ModelFault), foreign_code(lambda _: ModelFault(""), also=(SystemExit,)):
        sys.exit()


def test_one_fault_of_many_is_noted_and_the_rest_goes_on() -> None:
    noted: list[str] = []
    for divisor in (1, 0, 2):
        with OneOfMany(lambda exc: noted.append(type(exc).__name__)):
            noted.append(str(2 // divisor))

    assert noted == ["2", "ZeroDivisionError", "1"]
    with pytest.raises(KeyboardInterrupt), OneOfMany(noted.append):
        raise KeyboardInterrupt


IMPORT_ALL = """
import importlib, json, logging, os, pkgutil, signal, sys, threading, types, warnings

class Kind(type):
    def __getattr__(cls, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return Kind(name, (), {"__call__": lambda self, *args, **more: args[0]})

class Stub(types.ModuleType):
    __path__ = ()
    __getattr__ = Kind.__getattr__

class Heavy:
    # Torch and transformers take five seconds to import, and what they do is not looked at.
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "transformers"):
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
    def create_module(self, spec):
        return Stub(spec.name)
    def exec_module(self, module):
        pass

sys.meta_path.insert(0, Heavy())
own = tuple(os.path.join(sys.argv[1], name) + os.sep for name in ("dicom_node", "worker"))
calls = []

def watched(owner, name):
    # Libraries do change these at import; this project does not.
    real = getattr(owner, name)
    def call(*args, **more):
        frame = sys._getframe(1)
        if frame.f_code.co_filename.startswith(own):
            calls.append(f"{frame.f_code.co_filename}:{frame.f_lineno}: {name}")
        return real(*args, **more)
    setattr(owner, name, call)

def state():
    loggers = [logging.getLogger()] + [
        one for name, one in sorted(logging.root.manager.loggerDict.items())
        if isinstance(one, logging.Logger) and name.split(".")[0] in ("dicom_node", "worker")
    ]
    return {
        "signals": [str(signal.getsignal(one)) for one in sorted(signal.valid_signals())],
        "threads": [one.name for one in threading.enumerate()],
        "log handlers": [str(one) for logger in loggers for one in logger.handlers],
        "hooks": [str(sys.excepthook), str(threading.excepthook), str(sys.unraisablehook)],
        "limits": [sys.getrecursionlimit(), sys.getswitchinterval(), os.getcwd()],
    }

for name in ("filterwarnings", "simplefilter", "resetwarnings"):
    watched(warnings, name)
for name in ("__setitem__", "__delitem__"):
    watched(type(os.environ), name)
for name in ("putenv", "umask", "chdir"):
    watched(os, name)
before, modules = state(), []
for program in ("dicom_node", "worker"):
    package = importlib.import_module(program)
    modules.append(program)
    for found in pkgutil.walk_packages(package.__path__, program + "."):
        if not found.name.endswith("__main__") and ".migrations." not in found.name:
            importlib.import_module(found.name)
            modules.append(found.name)
after = state()
changed = {key: [before[key], after[key]] for key in before if before[key] != after[key]}
print(json.dumps({"modules": len(modules), "changed": changed, "calls": calls}))
"""


def test_no_import_changes_the_process() -> None:
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL, str(ROOT)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["modules"] > 250
    assert found["changed"] == {}
    assert found["calls"] == []
