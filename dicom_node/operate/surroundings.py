"""What `doctor` asks of the processes around a node: ledger, broker, web side, worker."""

from __future__ import annotations

import json
import ssl
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2 as httpx

from dicom_node import __version__, conditions
from dicom_node.base.addresses import is_loopback
from dicom_node.base.checks import Check, failed, passed, warned
from dicom_node.base.confine import python_command
from dicom_node.base.errors import ChexFractError, ConfigurationError, Unreachable
from dicom_node.flow import broker as doorbell
from dicom_node.operate import machine
from dicom_node.operate.certificate import COMMAND
from dicom_node.running import is_running
from dicom_node.settings import Settings
from dicom_node.store.clock import HOST_CLOCK
from dicom_node.store.ledger import Ledger
from dicom_node.store.schema import VERSIONS

WORKER_S = 20.0
"""Longest wait for the worker's doctor, which imports numpy and starts decoders."""

OLDEST_BROKER = (6, 2)
_CONFIG, _UNREACHABLE = ConfigurationError.exit_code, Unreachable.exit_code


def ledger(settings: Settings) -> Iterator[Check]:
    """Look at the ledger's revision, its clock, and what waits in it."""
    url = settings.ledger_url
    file = Path(url.removeprefix("sqlite:///"))
    if url.startswith("sqlite:///") and not file.exists():
        yield passed("ledger", f"serve will make {file}")
        return
    book = Ledger(url)
    try:
        revision = book.revision()
        if not book.may_use(revision):
            yield _check_revision(revision)
            return
        yield _check_used(str(revision))
        for wrong in conditions.of_ledger(book):
            yield machine.check_of("ledger", wrong)
        for wrong in conditions.of_clock(book.clock.wall(), book.history.last_event()):
            yield machine.check_of("clock", wrong)
        yield from _check_work(settings, book)
    except ChexFractError as exc:
        advice = "start the database, or correct node.ledger"
        yield failed("ledger", str(exc), advice, exc.exit_code)
    finally:
        book.close()


def _check_used(revision: str) -> Check:
    if revision == VERSIONS[-1]:
        return passed("ledger", f"revision {revision}")
    what = f"revision {revision} is newer than {VERSIONS[-1]} of this software, which may use it"
    return warned("ledger", what, "install the newer version again when you can")


def _check_revision(revision: str | None) -> Check:
    if revision is None:
        return warned("ledger", "no tables yet", "serve makes them")
    if revision in VERSIONS:
        what = f"revision {revision}, this software has {VERSIONS[-1]}"
        return failed("ledger", what, "restart serve, which upgrades it", _CONFIG)
    what = f"revision {revision} was written by a newer version"
    return failed("ledger", what, "install that version again", _CONFIG)


def _check_work(settings: Settings, book: Ledger) -> Iterator[Check]:
    """Look whether somebody takes the jobs, and takes the reports."""
    now = book.clock.wall()
    waiting, claims = book.jobs.waiting(), book.results.workers()
    here = _models_here(settings)
    if here is None:  # nobody who would know answers: what was claimed lately speaks
        here = conditions.models_claimed(waiting, claims, now)
    late = list(conditions.of_jobs(waiting, here, now))
    claimed = [f"{claim.worker} {_time_ago(now - claim.claimed_at)}" for claim in claims[:3]]
    for condition in late:
        last = f"last claim: {claimed[0]}" if claimed else "no worker ever claimed one"
        yield machine.check_of("jobs", condition, f"({last})")
    if claimed and not late:
        yield passed("jobs", f"last claims: {', '.join(claimed)}")
    elif not late and is_running(settings.node.data_dir):
        advice = "send an image, or run chexfract-node selftest"
        yield warned("jobs", "no worker has claimed a job yet", advice)
    for held in conditions.of_holds(book.holds.held()):
        yield warned("held", held.text, f"chexfract-node let-go {held.name}")
    for condition in conditions.of_destinations(book.history.status().destinations):
        yield machine.check_of("deliveries", condition)


def _models_here(settings: Settings) -> set[str] | None:
    """Return the models whose workers the running node hears of; None where it gives no answer."""
    if not is_running(settings.node.data_dir):
        return None
    try:
        answer = _get_page(
            f"{settings.web.url.rstrip('/')}/readyz", settings.web.certificate
        ).json()
        return {str(model) for model in answer["models"]}
    except (httpx.HTTPError, OSError, ValueError, TypeError, LookupError):
        return None


def _time_ago(seconds: float) -> str:
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"


def broker(settings: Settings) -> Iterator[Check]:
    """Look at the broker: answers, version, keeps what it is given, has the same time."""
    url = settings.broker.url
    if url == "embedded":
        yield _embedded_broker()
        return
    where = doorbell.redacted(url)
    try:
        facts = doorbell.facts(url, files=doorbell.files_of(settings.broker))
    except Unreachable as exc:
        yield failed("broker", str(exc), doorbell.node_advice(exc), _UNREACHABLE)
        return
    if doorbell.is_unverified(url):
        what = f"{where}: its certificate is not verified, so anybody may be it"
        advice = "take ssl_cert_reqs and ssl_check_hostname out of broker.url and set broker.ca"
        yield failed("broker tls", what, advice, _CONFIG)
    elif url.startswith("redis:") and not _is_local(url):
        what = f"{where}: password and hand-outs cross the network openly"
        yield warned("broker tls", what, "let Redis take TLS, write rediss://, and set broker.ca")
    version = str(facts.get("version", ""))
    listening = facts.get("listening")
    more = f", {listening} connections wait for work" if listening else ""
    if version and _version_numbers(version) < OLDEST_BROKER:
        oldest = ".".join(map(str, OLDEST_BROKER))
        yield failed("broker", f"{where} is version {version}", f"install {oldest} or newer")
    elif facts.get("is_full"):
        advice = "raise its maxmemory, or remove what else is kept there; hand-outs wait meanwhile"
        yield failed("broker", f"{where} is full: it uses more than its maxmemory", advice)
    else:
        yield passed("broker", f"{where} answers, version {version or 'unknown'}{more}")
    policy = facts.get("policy", "noeviction")
    if policy != "noeviction":
        advice = "set maxmemory-policy noeviction: else a full broker drops hand-outs unseen"
        yield failed("broker", f"{where}: maxmemory-policy {policy}", advice)
    now = HOST_CLOCK.wall()
    skew = now - float(facts.get("at", now))
    if abs(skew) > conditions.MOST_SKEW_S:
        what = f"the clocks of this machine and {where} differ by {skew:.0f} s"
        yield warned("clock", what, machine.KEEP_CLOCK)


def _embedded_broker() -> Check:
    program = doorbell.program()
    if program is None:
        what = "embedded: the stand-in written in Python; no redis-server or valkey-server on PATH"
        return warned("broker", what, "install redis-server or valkey-server for production")
    return passed("broker", f"embedded: {program}")


def _version_numbers(version: str) -> tuple[int, ...]:
    parts = version.split(".")[:2]
    return tuple(int(part) for part in parts if part.isdigit())


def web(settings: Settings, config: Path) -> Iterator[Check]:
    """Look whether workers will find this node under ``web.url``."""
    address = urlsplit(settings.web.url)
    url = settings.web.url.rstrip("/")
    own = settings.web.port
    port = address.port or (443 if address.scheme == "https" else 80)
    if is_loopback(address.hostname or "") and own and port != own:
        what = f"web.url is {url}, but this node's pages are at port {own}"
        yield failed(
            "web", what, f'set web.url = "{address.scheme}://{address.hostname}:{own}"', _CONFIG
        )
        return
    if is_loopback(address.hostname or "") and not _is_local(settings.broker.url):
        what = f"web.url is {url}: workers on other machines cannot fetch images there"
        yield warned("web", what, "set web.url to an address that they reach, and web.host to it")
    yield from _open_jobs(settings)
    if not is_running(settings.node.data_dir):
        yield warned("node", "it is not running", f"chexfract-node serve --config {config}")
        return
    yield _health_check(url, settings.web.certificate)


def _open_jobs(settings: Settings) -> Iterator[Check]:
    """Look whether the job API's secret and the images cross a network openly."""
    host = settings.jobs.host or settings.web.host
    if is_loopback(host) or settings.jobs_url.startswith("https:"):
        return
    what = f"the job API listens on {host} without TLS: its secret and images cross the network"
    yield warned("job API tls", what, f"{COMMAND}, and write what it prints")


def _is_local(url: str) -> bool:
    return url == "embedded" or is_loopback(urlsplit(url.split(";")[0]).hostname or "")


def _health_check(url: str, certificate: Path | None = None) -> Check:
    advice = "web.url must lead to this node, from here and from every worker"
    try:
        version = str(_get_page(f"{url}/healthz", certificate).json().get("version", ""))
    except (httpx.HTTPError, OSError, ValueError, AttributeError) as exc:
        what = f"{url}/healthz: {type(exc).__name__}"
        return failed("node", what, advice, _UNREACHABLE)
    if version != __version__:
        what = f"{url} runs version {version or 'unknown'}, this is {__version__}"
        return warned("node", what, "restart serve, or use its own doctor")
    return passed("node", f"running, version {version}; answers at {url}")


def _get_page(url: str, certificate: Path | None) -> httpx.Response:
    trusted = ssl.create_default_context(cafile=certificate)
    trusted.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return httpx.get(url, timeout=3, trust_env=False, verify=trusted)


def ask_worker(config: Path | None) -> subprocess.Popen[str]:
    """Start the worker's own doctor, which this program does not import."""
    command = python_command("-m", "worker", "doctor", "--json", "--beside-node")
    if config is not None:
        command += ["--config", str(config)]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        stdin=subprocess.DEVNULL,
    )


def worker(
    settings: Settings | None, config: Path | None, asked: subprocess.Popen[str]
) -> Iterable[Check]:
    """Tell what the worker's doctor found.

    Without a worker.toml the worker is somewhere else, or not yet there: what is missing for it
    here is not a fault.
    """
    try:
        answer, _ = asked.communicate(timeout=WORKER_S)
        found = json.loads(answer)
    except subprocess.TimeoutExpired:
        asked.kill()
        asked.wait()
        what = f"its doctor gave no answer within {WORKER_S:.0f} s"
        return [warned("worker", what, "run chexfract-worker doctor by itself")]
    except ValueError:
        return [warned("worker", "none is installed here", "run its doctor where it is")]
    checks = [
        Check(**{**line, "name": f"worker {line['name']}"} | _as_warning(line, config))
        for line in found["checks"]
    ]
    return [*checks, *_check_meeting(settings, found)] if settings and config else checks


def _as_warning(line: dict[str, Any], config: Path | None) -> dict[str, Any]:
    if config is not None or line["verdict"] != "fail":
        return {}
    advice = f"only if a worker is to run here: {line['advice']}"
    return {"verdict": "warn", "advice": advice, "exit_code": 0}


def _check_meeting(settings: Settings, found: dict[str, Any]) -> Iterator[Check]:
    """Look whether node and worker will meet: same broker, a model that a rule asks for."""
    theirs, ours = found.get("broker", ""), doorbell.redacted(settings.broker.url)
    if settings.broker.url != "embedded" and theirs != ours:
        what = f"the worker listens at {theirs}, the node publishes at {ours}"
        yield failed("worker broker", what, f'set worker.broker = "{ours}"', _CONFIG)
    asked = sorted({rule.model for rule in settings.rules})
    if asked and found.get("model") not in asked:
        what = f"this worker serves {found.get('model')!r}, the rules ask for {', '.join(asked)}"
        yield warned(
            "worker model", what, "one worker per model: set worker.model, or a rule's model"
        )
