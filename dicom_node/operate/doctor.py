"""Checks everything that a node stands on, all at once, and says what to do about each fault."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

from dicom_node import in_force
from dicom_node.base.checks import Check, failed, passed, show, warned
from dicom_node.base.errors import ChexFractError, ConfigurationError
from dicom_node.base.local_time import set_zone
from dicom_node.base.plurals import counted
from dicom_node.base.rims import OneOfMany
from dicom_node.operate import machine, neighbours, people, surroundings
from dicom_node.operate.config_faults import address_faults
from dicom_node.settings import Settings, load

LIMIT_S = 9.0
"""Longest wait for all checks together; a dead peer must not hide the other faults."""

Look = Callable[[], Iterable[Check]]


def doctor(config: Path, *, worker_config: Path | None = None, as_json: bool = False) -> int:
    """Print every check and return the exit code.

    Parameters
    ----------
    config : Path
        node.toml.
    worker_config : Path, optional
        worker.toml of a worker on this machine; that beside node.toml when left out.
    """
    beside = config.with_name("worker.toml")
    worker = worker_config or (beside if beside.is_file() else None)
    asked = surroundings.ask_worker(worker)
    settings = None
    try:
        settings = load(config)
        set_zone(settings.node.time_zone)
        checks = [*_config_checks(config, settings), *together(_all_looks(settings, config))]
    except ConfigurationError as exc:
        advice = f"correct {config}" if config.exists() else "chexfract-node init writes one"
        checks = [failed("config", str(exc), advice, exc.exit_code)]
        # A node that runs goes on with what it accepted: so does the look at all the rest.
        settings = in_force.beside_broken_file(config)
        checks += together(_all_looks(settings, config)) if settings else machine.python()
    checks += surroundings.worker(settings, worker, asked)
    return show(checks, as_json=as_json, config=str(config))


def _all_looks(settings: Settings, config: Path) -> list[tuple[str, Look]]:
    looks: list[tuple[str, Look]] = [
        ("python", machine.python),
        ("ports", lambda: machine.ports(settings)),
        ("who may send", lambda: machine.openness(settings)),
        ("who calls", lambda: machine.callers(settings)),
        ("disk", lambda: machine.disk(settings)),
        ("secret", lambda: machine.secret(settings)),
        ("data_dir", lambda: machine.data_dir(settings)),
        ("confinement", machine.confinement),
        ("tls", lambda: machine.tls(settings)),
        ("ledger", lambda: surroundings.ledger(settings)),
        ("broker", lambda: surroundings.broker(settings)),
        ("web", lambda: surroundings.web(settings, config)),
        ("users", lambda: people.users(settings)),
        ("notify", lambda: people.notify(settings)),
        ("audit", lambda: people.audit(settings)),
    ]
    looks += [(f"peer {name}", partial(neighbours.peer, settings, name)) for name in settings.peers]
    return looks


def _config_checks(config: Path, settings: Settings) -> list[Check]:
    """Look at the file itself and at its addresses; what else it names has looks of its own."""
    found = [
        failed("config", what, advice, ConfigurationError.exit_code)
        for what, _, advice in (fault.rpartition("; ") for fault in address_faults(settings))
    ]
    return found or [_config_check(config, settings)]


def _config_check(config: Path, settings: Settings) -> Check:
    what_is_there = f"{config}: {settings.node.ae_title}, {counted(len(settings.peers), 'peer')}"
    if not settings.rules:
        advice = "add [[rules]], see configs/node.toml"
        return warned("config", f"{what_is_there}, no rules: every Instance is ignored", advice)
    if not settings.peers and settings.node.known_peers_only:
        what = f"{what_is_there}: with known_peers_only every association is rejected"
        return failed(
            "config", what, "add [peers.NAME] for each archive", ConfigurationError.exit_code
        )
    return passed("config", f"{what_is_there}, {counted(len(settings.rules), 'rule')}")


def together(looks: Sequence[tuple[str, Look]], limit_s: float = LIMIT_S) -> list[Check]:
    """Run every look at the same time and return their checks in the order of `looks`.

    A look that has not ended in time, or that fails by itself, is a failed check of its name.
    """
    found: dict[int, list[Check]] = {}

    def run(place: int, name: str, look: Look) -> None:
        def note(exc: Exception) -> None:
            what = f"{type(exc).__name__}: {exc}"
            found[place] = [failed(name, what, "report this as a defect of doctor")]

        with OneOfMany(note):  # one broken look must not hide the others
            try:
                found[place] = list(look())
            except ChexFractError as exc:
                found[place] = [failed(name, str(exc), "see the message", exc.exit_code)]

    end = time.monotonic() + limit_s
    threads = [
        # Daemons: what hangs in a resolver or a network file system must not keep us here.
        threading.Thread(target=run, args=(place, *named), daemon=True)
        for place, named in enumerate(looks)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    return [
        check for place, named in enumerate(looks) for check in _checks_at(found, place, named[0])
    ]


def _checks_at(found: dict[int, list[Check]], place: int, name: str) -> list[Check]:
    if place in found:
        return found[place]
    return [failed(name, f"no answer within {LIMIT_S:.0f} s", "try it again when less goes on")]
