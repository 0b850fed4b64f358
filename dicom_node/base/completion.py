"""Shell completion of both programs: the shell asks the program itself what may follow."""

from __future__ import annotations

import argparse
from pathlib import Path

PROGRAMS = ("chexfract-node", "chexfract-worker")


def shell_code(shell: str) -> str:
    """Return the lines that teach `shell` to complete both programs, for its start file."""
    from argcomplete.shell_integration import shellcode

    return str(shellcode(PROGRAMS, shell=shell)).strip()


def complete(commands: argparse.ArgumentParser) -> None:
    """Answer the shell that has set ``_ARGCOMPLETE``, and end this process."""
    import argcomplete
    from argcomplete.completers import FilesCompleter

    _name_files(commands, FilesCompleter())
    argcomplete.autocomplete(commands, always_complete_options=False)


def _name_files(commands: argparse.ArgumentParser, files: object) -> None:
    """Say which arguments are files; the others complete to their choices or to nothing."""
    for action in commands._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in set(action.choices.values()):
                _name_files(command, files)
        elif action.choices is None:
            completer = files if action.type is Path else _no_completions
            action.completer = completer  # type: ignore[attr-defined]


def _no_completions(**_: object) -> tuple[str, ...]:
    return ()
