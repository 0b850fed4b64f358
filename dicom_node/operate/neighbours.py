"""What `doctor` asks of peers: TCP, association, C-ECHO and the reports' SOP classes."""

from __future__ import annotations

import socket
from collections.abc import Iterator

from dicom_node.base.checks import Check, failed, passed, warned
from dicom_node.base.errors import ChexFractError, Refused, Unreachable
from dicom_node.dimse.contexts import EXPLICIT_LITTLE, PUSH_MODEL, REPORTS, SECOND_OBJECTS
from dicom_node.dimse.scu import Destination
from dicom_node.flow import routing
from dicom_node.settings import SENDER, Match, Peer, Rule, Settings
from dicom_node.standard.sr_classes import SR_CLASSES

TCP_S, ASSOCIATION_S = 2.5, 3.0
"""A neighbour in a hospital's network answers within milliseconds."""

ADVICE = (
    ("calling AE title", "ask whoever runs {name} to register {ae} (this machine, port {port})"),
    (
        "is not called",
        "correct peers.{name}.ae_title, or ask whoever runs {name} to register {ae}: some archives "
        "say this to callers whom they do not know",
    ),
    ("host name cannot be resolved", "correct peers.{name}.host"),
    ("certificate is not trusted", "set peers.{name}.tls.ca to the authority of {name}"),
    ("TLS", "does {name} want TLS, and this certificate? See peers.{name}.tls"),
    ("during negotiation", "is peers.{name}.port its DICOM port, and does it want TLS?"),
    ("too many associations", "wait, or ask {name} to allow more associations"),
    ("congested", "wait, or ask {name} to allow more associations"),
)
"""Part of a message of `dimse.scu` -> what to do."""


def peer(settings: Settings, name: str) -> Iterator[Check]:
    """Look whether a peer can be reached and takes what will be sent to it."""
    known = settings.peers[name]
    check = f"peer {name}"
    is_destination, why = _is_destination(settings, name)
    if not known.port and not is_destination:
        yield passed(check, f"{known.ae_title} only sends (port 0)")
        return
    try:
        yield from _ask_peer(settings, name, known, check)
    except ChexFractError as exc:
        advice = _peer_advice(str(exc), settings, name)
        if is_destination:
            yield failed(check, str(exc), f"{advice}. {why}", Unreachable.exit_code)
        else:
            yield warned(check, str(exc), f"{advice}. No rule sends to it: port = 0 says so")


def _is_destination(settings: Settings, name: str) -> tuple[bool, str]:
    """Return whether reports go to a peer, and by which rule."""
    for rule in settings.rules:
        if rule.mode != "live":
            continue
        if name in rule.send_to:
            return True, f"Rule {rule.name!r} sends reports to it"
        if SENDER in rule.send_to and _may_send(rule, settings.peers[name]):
            advice = "if it only sends images, name the archive in send_to"
            return True, f"Rule {rule.name!r} sends a report back to each sender: {advice}"
    return False, ""


def _may_send(rule: Rule, known: Peer) -> bool:
    only = Rule(name=rule.name, match=Match(calling_ae=rule.match.calling_ae), mode="shadow")
    return routing.decide([only], {"calling_ae": known.ae_title}) is not None


def _ask_peer(settings: Settings, name: str, known: Peer, check: str) -> Iterator[Check]:
    _open_connection(known)
    wanted = [SR_CLASSES[word] for word in known.sop_classes]
    wanted += [SECOND_OBJECTS[word] for word in known.objects if word in SECOND_OBJECTS]
    brief = known.model_copy(update={"timeout": min(known.timeout, ASSOCIATION_S)})
    with Destination(settings.node.ae_title, brief) as destination:
        destination.connect([*wanted, *([PUSH_MODEL] if known.storage_commitment else [])])
        commits = destination.accepts(PUSH_MODEL)
        taken = [uid for uid in wanted if destination.accepts(uid)]
        explicit = [uid for uid in taken if destination.accepts(uid, EXPLICIT_LITTLE)]
        state = f"{destination.name} {_echo_answer(destination)}"
    names = [REPORTS[uid].removesuffix(" Storage") for uid in taken]
    if not set(taken) & set(SR_CLASSES.values()):
        advice = f"ask whoever runs {name} to accept Comprehensive SR Storage"
        yield failed(check, f"{state}, but takes no structured report", advice)
        return
    yield passed(check, f"{state}; takes {', '.join(names)}")
    for uid in wanted:
        if uid in SECOND_OBJECTS.values() and uid not in taken:
            advice = f"ask for it there, or take it out of peers.{name}.objects"
            yield warned(check, f"does not take {REPORTS[uid]}", advice)
    if known.storage_commitment and not commits:
        advice = f"ask for it there, or take storage_commitment out of peers.{name}"
        yield warned(check, "offers no Storage Commitment: nothing becomes committed", advice)
    if len(explicit) < len(taken):
        what = "takes some reports in Implicit VR Little Endian only"
        yield warned(check, what, "nothing has to be done: they are sent in that")


def _open_connection(known: Peer) -> None:
    """Open a TCP connection, which fails faster and clearer than an association."""
    where = f"{known.ae_title}@{known.host}:{known.port}"
    try:
        socket.create_connection((known.host, known.port), TCP_S).close()
    except socket.gaierror as exc:
        raise Unreachable(f"{where}: the host name cannot be resolved ({exc.strerror})") from exc
    except TimeoutError as exc:
        raise Unreachable(f"{where} gives no answer within {TCP_S:g} s") from exc
    except ConnectionRefusedError as exc:
        raise Unreachable(f"{where} refuses connections") from exc
    except OSError as exc:
        raise Unreachable(f"{where} cannot be reached: {exc.strerror or exc}") from exc


def _echo_answer(destination: Destination) -> str:
    try:
        return f"answers C-ECHO in {destination.echo():.0f} ms"
    except Refused as exc:
        return f"associates ({str(exc).removeprefix(destination.name).strip()})"


def _peer_advice(message: str, settings: Settings, name: str) -> str:
    known = settings.peers[name]
    text = next((text for part, text in ADVICE if part in message), "")
    if not text:
        where = f"{known.host}:{known.port}"
        text = f"check that {{name}} runs, that {where} is right and that no firewall stops us"
    return text.format(name=name, ae=settings.node.ae_title, port=settings.node.port)
