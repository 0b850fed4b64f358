"""What every command of both programs shares: how it is declared, run and ended."""

from __future__ import annotations

import argparse
import atexit
import gc
import os
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from dicom_node.base import logs
from dicom_node.base.errors import ChexFractError, ConfigurationError
from dicom_node.base.examples import EXAMPLES

OK, FAILED, USAGE = 0, 1, 2
INTERRUPTED = 130

EXIT_CODES = (
    "Exit codes: 0 ok, 1 some item failed, 2 usage, 69 unreachable, 75 try later,\n"
    "78 configuration."
)

OBJECTS = 20_000
"""New objects after which the collector looks; with 700 it walks the imports again and again."""

Act = Callable[[argparse.Namespace], int]


class CommandParser(argparse.ArgumentParser):
    """Names the nearest command where one is not known, instead of all that there are."""

    def error(self, message: str) -> NoReturn:
        """End with 2 and one line."""
        found = re.match(r"argument (?:COMMAND|ACT): invalid choice: '(.*?)' ", message)
        if found is not None:
            import difflib  # --help need not wait for it

            listed = (action for action in self._actions if isinstance(action.choices, dict))
            # what programs start among themselves is not listed, and not proposed
            shown = [choice.dest for action in listed for choice in action._choices_actions]  # type: ignore[attr-defined]
            near = difflib.get_close_matches(found[1], shown, n=1)
            advice = f"did you mean {near[0]}?" if near else f"known: {', '.join(shown)}"
            message = f"{found[1]!r} is not a command; {advice}"
        super().error(message)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse, and name the nearest option of the command where one is not known."""
        options, unknown = self.parse_known_args(args, namespace)
        if unknown:
            self._refuse_words(getattr(options, "parser", self), unknown)
        return options

    def _refuse_words(self, command: argparse.ArgumentParser, unknown: list[str]) -> NoReturn:
        """End by the usage of the command that was meant, not by that of the program."""
        import difflib

        near = difflib.get_close_matches(
            unknown[0].partition("=")[0], command._option_string_actions
        )
        advice = f"; did you mean {near[0]}?" if near and unknown[0].startswith("-") else ""
        command.error(f"{' '.join(unknown)!r} is not understood{advice}")


def add(commands: Any, name: str, what: str, act: Act) -> argparse.ArgumentParser:
    """Add the command `name` that does `act`; one without `what` stays out of the list."""
    shown = {"help": what} if what else {}
    command: argparse.ArgumentParser = commands.add_parser(
        name, description=what, formatter_class=argparse.RawDescriptionHelpFormatter, **shown
    )
    lines = "".join(f"  {line}\n" for line in EXAMPLES.get(command.prog, ()))
    command.epilog = f"{'Examples:' if lines else ''}\n{lines}\n{EXIT_CODES}".strip()
    command.set_defaults(act=act, parser=command)
    return command


def run(commands: argparse.ArgumentParser, arguments: Sequence[str] | None) -> int:
    """Do the command that `arguments` name and return its exit code."""
    if "_ARGCOMPLETE" in os.environ:
        from dicom_node.base.completion import complete

        complete(commands)
    options = commands.parse_args(arguments)
    gc.set_threshold(OBJECTS)
    # pydantic would read the metadata of every package that is installed, in search of plug-ins:
    # 20 ms of each command beside a worker, and nobody's code shall see what is validated here
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    logs.silence_values()
    if arguments is None and getattr(options, "is_brief", False):
        # This process ends in half a second, and all objects with it. The collector would only cost
        # time: a quarter of that of `status`, most of it at the end, where Python lets it look
        # twice. Whoever calls this with arguments of its own may go on afterwards.
        gc.disable()
        atexit.register(gc.freeze)
    try:
        return int(options.act(options))
    except ChexFractError as exc:
        for line in getattr(exc, "faults", ()) or (exc,):
            print(f"{commands.prog}: {line}", file=sys.stderr)
        return exc.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED
    except UnicodeDecodeError as exc:
        print(f"{commands.prog}: a file or standard input is not UTF-8: {exc}", file=sys.stderr)
        return FAILED
    except BrokenPipeError:
        # The reader of a pipe has gone; say nothing more, also not at interpreter exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except OSError as exc:
        what = f"{exc.filename}: {exc.strerror}" if exc.filename else str(exc.strerror or exc)
        print(f"{commands.prog}: {what}", file=sys.stderr)
        return FAILED
    except Exception as exc:  # the edge of the process: a defect is one line, too
        if package := _absent_package(exc):
            advice = f"{sys.executable} -m pip install 'chexfract-node[worker]'"
            print(f"{commands.prog}: {package} is not installed: {advice}", file=sys.stderr)
            return ConfigurationError.exit_code
        if "CHEXFRACT_TRACEBACK" in os.environ:
            raise
        *_, frame = traceback.extract_tb(exc.__traceback__)
        place = f"{Path(frame.filename).name}:{frame.lineno}"
        print(
            f"{commands.prog}: unexpected {type(exc).__name__} at {place}: {exc}; please report "
            "it; CHEXFRACT_TRACEBACK=1 shows where it came from",
            file=sys.stderr,
        )
        return FAILED


def _absent_package(exc: Exception) -> str:
    """Return the package that is missing: the node alone has the worker's command, too."""
    if not isinstance(exc, ModuleNotFoundError):
        return ""
    package = (exc.name or "").partition(".")[0]
    return "" if package in ("dicom_node", "worker") else package
