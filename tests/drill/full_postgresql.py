"""``unshare -m python -m tests.drill.full_postgresql``: the disk under PostgreSQL is full.

A ledger in a tablespace on a small file system, which is filled: each reception that finds no room
ends in one line (OutOfResources, so 0xA700 for the sender), and what was acknowledged stays. With
more room reception goes on by itself. As root, in a mount namespace of its own.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

import sqlalchemy as sa
from ledgers import instance, route
from postgresql import ACCOUNT, Cluster, cluster

from dicom_node.base.errors import OutOfResources
from dicom_node.store.ledger import Ledger

REFUSALS = 3


def main() -> None:
    """Fill the disk, receive until it is full, give it room; exit 1 where something is wrong."""
    place = Path(tempfile.mkdtemp(prefix="chexfract-full-"))
    mount(place, "size=24m")
    try:
        with cluster(settings=("fsync=off", "autovacuum=off")) as server:
            url = on_small_disk(server, place)
            ledger = Ledger.open(url.render_as_string(hide_password=False))
            before = [receive(ledger, n) for n in range(1, 21)]
            fill(url)
            kept, refused = receive_until_full(ledger, before)
            mount(place, "remount,size=64m")
            kept.append(receive(ledger, 10**6))
            lost = [n for n in kept if ledger.instances.known(f"1.2.3.{n}") is None]
            jobs = sum(ledger.history.status().jobs.values())
            ledger.close()
    finally:
        subprocess.run(["umount", "-l", str(place)], check=False)
        place.rmdir()
    print(f"kept {len(kept)}, refused {len(refused)}, lost {len(lost)}, jobs {jobs}")
    print(f"the line: {refused[0] if refused else 'none'}")
    is_right = len(refused) == REFUSALS and not lost and jobs == len(kept)
    sys.exit(0 if is_right and "\n" not in refused[0] else 1)


def mount(place: Path, options: str) -> None:
    """Mount a file system in memory, or change it."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", str(place)], check=True)


def on_small_disk(server: Cluster, place: Path) -> sa.URL:
    """Return the URL of a new ledger on a file system."""
    shutil.chown(place, ACCOUNT)
    place.chmod(0o700)
    url = sa.make_url(server.fresh())
    with autocommit(url.set(database="postgres")) as connection:
        connection.exec_driver_sql(f"CREATE TABLESPACE small LOCATION '{place}'")
        connection.exec_driver_sql(f"ALTER DATABASE {url.database} SET TABLESPACE small")
    return url


def fill(url: sa.URL) -> None:
    """Fill the disk of a ledger to its last page."""
    more = "INSERT INTO ballast SELECT repeat('x', 7000) FROM generate_series(1, %s)"
    with autocommit(url) as connection:
        connection.exec_driver_sql("CREATE TABLE ballast (content TEXT)")
        connection.exec_driver_sql("ALTER TABLE ballast ALTER content SET STORAGE PLAIN")
        for rows in (100, 1):
            try:
                while True:
                    connection.exec_driver_sql(more, (rows,))
            except sa.exc.OperationalError as exc:
                assert "No space left" in str(exc.orig)  # noqa: PT017 - no test of pytest's


def autocommit(url: sa.URL) -> sa.Connection:
    """Return a connection of which each statement is a transaction of its own."""
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    return engine.connect()


def receive(ledger: Ledger, n: int) -> int:
    """Receive an Instance with a study of its own; return its number."""
    ledger.instances.receive(instance(n, study_instance_uid=f"1.2.{n}"), [route()])
    return n


def receive_until_full(ledger: Ledger, before: list[int]) -> tuple[list[int], list[str]]:
    """Return which Instances were taken, with those of before, and the lines of the others."""
    kept, refused = list(before), list[str]()
    for n in range(1000, 5000):
        try:
            kept.append(receive(ledger, n))
        except OutOfResources as exc:
            refused.append(str(exc))
            if len(refused) == REFUSALS:
                break
    return kept, refused


if __name__ == "__main__":
    main()
