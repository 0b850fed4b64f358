"""A PostgreSQL of the tests' own, and new ledgers in it."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import sqlalchemy as sa
from peers import need
from ports import free_port

from dicom_node.store.ledger import Ledger
from dicom_node.store.ledger.database import Database

USER = "chexfract"
ACCOUNT = "postgres"  # the Debian package's; the server refuses to run as root
START_S = 30.0

_NUMBERED = (
    "SELECT table_name FROM information_schema.columns WHERE table_schema = 'public' "
    "AND column_name = 'id' AND column_default LIKE 'nextval%%'"
)
"""Tables whose rows get numbers: they begin behind those of a dump."""


class Cluster:
    """One running server; each ledger is a database of its own, copied from one that is empty."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._numbers = count(1)
        if not self._has("empty"):
            self._create("empty", "template1")
        Ledger.upgrade(self._url("empty"))

    def fresh(self) -> str:
        """Return the URL of a new ledger."""
        name = f"ledger{next(self._numbers)}"
        self._create(name, "empty")
        return self._url(name)

    def without_tables(self) -> str:
        """Return the URL of a database without a ledger."""
        name = f"ledger{next(self._numbers)}"
        self._create(name, "template1")
        return self._url(name)

    def old(self, version: str, dump: str) -> str:
        """Return the URL of a ledger of an older version, with the rows of its dump.

        The dumps are SQLite's: 0 and 1 become false and true, and keys are looked at by nobody
        while the rows come in.
        """
        from alembic import command
        from alembic.config import Config

        url = self.without_tables()
        config = Config()
        config.set_main_option("script_location", "dicom_node.store:migrations")
        database = Database(url)
        with database.writing() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, version)
        rows = [line for line in dump.splitlines() if line.startswith("INSERT INTO")]
        with database.writing() as connection:
            connection.exec_driver_sql("SET LOCAL session_replication_role = replica")
            # what the migrations have put into an empty ledger stands in the dump as well
            for table in {line.split('"')[1] for line in rows}:
                connection.exec_driver_sql(f'DELETE FROM "{table}"')
            casts = "castsource = 'int4'::regtype AND casttarget = 'bool'::regtype"
            connection.exec_driver_sql(f"UPDATE pg_cast SET castcontext = 'i' WHERE {casts}")
            for row in rows:
                connection.exec_driver_sql(row.rstrip(";").replace("%", "%%"))
            for (table,) in connection.exec_driver_sql(_NUMBERED).all():
                last = f'(SELECT coalesce(max(id), 0) + 1 FROM "{table}")'
                connection.exec_driver_sql(f"SELECT setval('\"{table}_id_seq\"', {last}, false)")
        database.close()
        return url

    def named(self, name: str) -> str:
        """Return the URL of the ledger of this name, which is made when it is not there."""
        if not self._has(name):
            self._create(name, "empty")
        return self._url(name)

    def _has(self, name: str) -> bool:
        engine = sa.create_engine(self._url("postgres"))
        with engine.connect() as connection:
            found = sa.text("SELECT 1 FROM pg_database WHERE datname = :name")
            there = connection.scalar(found, {"name": name})
        engine.dispose()
        return there is not None

    def _url(self, name: str) -> str:
        return f"postgresql+psycopg://{USER}@127.0.0.1:{self.port}/{name}"

    def _create(self, name: str, template: str) -> None:
        engine = sa.create_engine(self._url("postgres"), isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.exec_driver_sql(f"CREATE DATABASE {name} TEMPLATE {template}")
        engine.dispose()


@contextmanager
def cluster(
    kept: Path | None = None, settings: Sequence[str] = ("fsync=off",)
) -> Iterator[Cluster]:
    """Run a server on loopback until the end of the block.

    Parameters
    ----------
    kept : Path, optional
        A folder whose databases stay for the next time; without it nothing is kept.
    settings : sequence of str
        Settings of the server. A test needs no disk that survives a power cut.
    """
    need("psql")
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin"))[-1]
    as_account = ["runuser", "-u", ACCOUNT, "--"] if os.geteuid() == 0 else []
    folder = kept or Path(tempfile.mkdtemp(prefix="chexfract-postgresql-"))
    folder.mkdir(parents=True, exist_ok=True)
    if as_account:
        shutil.chown(folder, ACCOUNT)
    data = str(folder / "data")
    if not (folder / "data").exists():
        made = [*as_account, str(programs / "initdb"), "-D", data, "-U", USER, "-A", "trust", "-N"]
        subprocess.run(made, check=True, stdout=subprocess.DEVNULL, cwd=folder)
    port = free_port()
    settings = [
        f"port={port}",
        "listen_addresses=127.0.0.1",
        "unix_socket_directories=",
        *settings,
    ]
    command = [*as_account, str(programs / "postgres"), "-D", data]
    command += [word for setting in settings for word in ("-c", setting)]
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)
    try:
        _wait(server, port, folder / "log")
        yield Cluster(port)
    finally:
        server.terminate()
        server.wait(START_S)
        if kept is None:
            shutil.rmtree(folder, ignore_errors=True)


def _wait(server: subprocess.Popen[bytes], port: int, log: Path) -> None:
    end = time.monotonic() + START_S
    while time.monotonic() < end and server.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0 and "ready to accept" in log.read_text():
                return
        time.sleep(0.1)
    raise RuntimeError(f"PostgreSQL did not start: {log.read_text()[-500:]}")
