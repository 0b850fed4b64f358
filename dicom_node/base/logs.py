"""Log lines of both programs: readable on a terminal, one JSON object a line elsewhere."""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import time
import warnings
from datetime import UTC, datetime
from logging.handlers import RotatingFileHandler
from pathlib import Path

from dicom_node.base.plurals import counted

FILE_VARIABLE = "CHEXFRACT_LOG_FILE"
"""Environment variable with the file that a process keeps its lines in, too; `serve` sets it."""

FILE_BYTES, FILES = 10_000_000, 5
"""Size at which a file is put aside, and how many are kept beside it."""

_PLAIN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonLines(logging.Formatter):
    """One JSON object a line; ``extra`` keys become keys of the object."""

    def format(self, record: logging.LogRecord) -> str:
        """Return `record` as JSON."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {key: value for key, value in vars(record).items() if key not in _PLAIN}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str, ensure_ascii=False)


class Lines(logging.Formatter):
    """One readable line; control characters cannot forge a second line."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s: %(message)s", "%H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:
        """Return the line without control characters."""
        line = super().formatMessage(record)
        return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in line)


class LogFile(RotatingFileHandler):
    """JSON lines on disk for `chexfract-node logs`; a full disk costs lines, never work."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, maxBytes=FILE_BYTES, backupCount=FILES, delay=True, encoding="utf-8")
        self.setFormatter(JsonLines())

    def handleError(self, record: logging.LogRecord) -> None:
        """Let the line go: standard error has it as well."""


def keep(path: Path) -> None:
    """Keep the lines of this process in `path`, too."""
    logging.getLogger().addHandler(LogFile(path))


def silence_values() -> None:
    """Let pydicom warn of nothing in this process: it quotes odd values, which are patient data."""
    warnings.filterwarnings("ignore", category=UserWarning, module="pydicom")


def start(level: int = logging.INFO) -> None:
    """Send every log line of this process to standard error, and to the file it was given."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Lines() if sys.stderr.isatty() else JsonLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    if named := os.environ.get(FILE_VARIABLE):
        keep(Path(named))
    root.setLevel(level)
    # neither form names the place in the code, nor thread or process: not to look for them makes a
    # line cheaper by a third (Logging HOWTO, Optimization)
    logging._srcfile = None
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    # These say per request or per element what our own lines say once per stage; pydicom and
    # pynetdicom would also print values of elements, which are a patient's.
    for name in ("pynetdicom", "httpx2", "httpcore2", "uvicorn.access", "kombu", "PIL"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # pydicom sets its logger to WARNING when it is imported, which is later as a rule
    logging.getLogger("pydicom").addFilter(_is_error)
    # a traceback for each connection that a server of the ledger has closed; ours is one line
    logging.getLogger("sqlalchemy.pool").setLevel(logging.CRITICAL)
    for name in ("alembic", "celery", "transformers", "highdicom"):
        logging.getLogger(name).setLevel(logging.WARNING)


def _is_error(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR


class Sparse:
    """Writes lines that strangers cause: so many a minute, then one that counts the others.

    Parameters
    ----------
    logger : logging.Logger
        Where they go.
    per_minute : int
        Most lines in one minute.
    """

    def __init__(self, logger: logging.Logger, per_minute: int = 12) -> None:
        self._logger = logger
        self._per_minute = per_minute
        self._lock = threading.Lock()
        self._began = float("-inf")
        self._count = 0

    def warning(self, message: str, *values: object, **more: object) -> None:
        """Write a warning, unless there were enough."""
        self._write_line(logging.WARNING, message, values, more)

    def error(self, message: str, *values: object, **more: object) -> None:
        """Write an error, unless there were enough."""
        self._write_line(logging.ERROR, message, values, more)

    def _write_line(
        self, level: int, message: str, values: tuple[object, ...], more: dict[str, object]
    ) -> None:
        now = time.monotonic()
        with self._lock:
            silent = 0
            if now - self._began >= 60:
                silent = max(0, self._count - self._per_minute)
                self._began, self._count = now, 0
            self._count += 1
            is_enough = self._count > self._per_minute
        if silent:
            lines = counted(
                silent, "more line like the next one was", "more lines like the next one were"
            )
            self._logger.log(level, "%s left out", lines)
        if not is_enough:
            self._logger.log(level, message, *values, extra=more)
