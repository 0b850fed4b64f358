"""A received Instance on its way to disk and ledger, before C-STORE is answered."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import ClassVar, cast

from dicom_node.base.errors import NotFound, NotUnderstood, OutOfResources
from dicom_node.base.job import ReportOrder
from dicom_node.dimse import Accepted, Sender
from dicom_node.flow import routing
from dicom_node.peers import who_calls
from dicom_node.settings import SENDER, Rule, Settings, unknown_sender
from dicom_node.standard.header import clean, read_header
from dicom_node.standard.part10 import write_head
from dicom_node.standard.priority import FROM_RULE
from dicom_node.standard.sr_classes import SR_CLASSES
from dicom_node.standard.status import OTHER_SOP_CLASS
from dicom_node.store.ledger import Instance, Ledger, Receipt, Route
from dicom_node.store.ledger.repeats import LOST
from dicom_node.store.spool import Incoming, Kept, Spool

logger = logging.getLogger(__name__)

_KEPT_S = 2.0
"""Time for which routes that were found are used again."""
_MOST_KEPT = 256

_UID = re.compile(r"[0-9]+(\.[0-9]+)*")


class OtherSopClass(NotUnderstood):
    """The data set is of another SOP class than the request says: 0xA900."""

    status: ClassVar[int] = OTHER_SOP_CLASS


class Intake:
    """Writes Instances to the spool, finds their rule and records them.

    Parameters
    ----------
    settings : Settings
        Rules, peers and what reports say of this site; others may take their place at any time.
    spool, ledger
        Where Instances are kept and recorded.
    """

    def __init__(self, settings: Settings, spool: Spool, ledger: Ledger) -> None:
        self.settings = settings
        self.spool = spool
        self.ledger = ledger
        self._routes = _LatestRoutes()

    def begin(self, accepted: Accepted) -> Incoming:
        """Return a temporary Part 10 file that already holds its head (DICOM PS3.10 7.1).

        Raises
        ------
        OutOfResources
            Answer 0xA700 (DICOM PS3.4 Table B.2-1).
        """
        incoming = self.spool.writing()
        is_begun = False
        try:
            incoming.write(
                write_head(
                    accepted.sop_class_uid, accepted.sop_instance_uid, accepted.transfer_syntax_uid
                )
            )
            is_begun = True
        finally:
            if not is_begun:
                incoming.discard()
        return incoming

    def finish(self, incoming: Incoming, accepted: Accepted, sender: Sender) -> Receipt:
        """Keep and record a data set that is complete; after this 0x0000 may be answered.

        Raises
        ------
        NotUnderstood
            Answer 0xC000; `OtherSopClass`: 0xA900. Nothing stays on disk.
        OutOfResources, Unreachable
            Answer 0xA700. Nothing was recorded.
        """
        with incoming:
            _check_uid("SOP Instance UID", accepted.sop_instance_uid)
            _check_uid("SOP Class UID", accepted.sop_class_uid)
            with incoming.reader() as file:
                header = read_header(file, accepted.transfer_syntax_uid, is_new=True)
            _check_header(header, accepted)
            kept = incoming.keep(accepted.sop_instance_uid)
            receipt = self._record_receipt(header, kept, accepted, sender)
        if receipt.file != kept.name:
            self.spool.remove(kept.name)
        logger.info(
            "received sop=%s calling=%s association=%s state=%s jobs=%d reason=%s",
            accepted.sop_instance_uid,
            sender.calling_ae,
            sender.association or "-",
            receipt.kind,
            len(receipt.jobs),
            receipt.reason,
        )
        return receipt

    def _record_receipt(
        self, header: dict[str, str], kept: Kept, accepted: Accepted, sender: Sender
    ) -> Receipt:
        instance = describe(header, kept.name, kept.size, accepted.transfer_syntax_uid, sender)
        routes, reason = self._routes.find(self.settings, header, sender)
        receipt = self.ledger.instances.receive(instance, routes, reason)
        if receipt.kind != "known":
            return receipt
        return self.ledger.instances.receive(
            self._with_digest(instance, receipt.file), routes, reason
        )

    def _with_digest(self, instance: Instance, first: str) -> Instance:
        """Return `instance` with its digest, when that of the file that came first is noted."""
        try:
            digest = self.spool.digest(first)
        except NotFound:
            digest = LOST  # equal to none
        self.ledger.instances.note_digest(instance.sop_instance_uid, digest)
        try:
            return replace(instance, sha256=self.spool.digest(instance.file))
        except NotFound as exc:
            # somebody removed it; on a disk without locks a sweep may have, too
            raise OutOfResources("the file is gone before it was recorded: send it again") from exc


def describe(
    header: Mapping[str, str], file: str, size: int, transfer_syntax_uid: str, sender: Sender
) -> Instance:
    """Return what the ledger records of an Instance."""
    return Instance(
        **{name: text for name, text in header.items() if name != "quality_control_image"},
        transfer_syntax_uid=transfer_syntax_uid,
        calling_ae=clean(sender.calling_ae),
        calling_host=clean(sender.calling_host),
        called_ae=clean(sender.called_ae),
        association=sender.association,
        priority=sender.priority,
        sha256="",  # not on the way to the answer: hashing costs more than receiving
        size=size,
        file=file,
    )


def find_routes(
    settings: Settings, header: Mapping[str, str], sender: Sender
) -> tuple[list[Route], str]:
    """Return what the rules of now ask for an Instance, and why they ask for nothing."""
    facts = routing.facts(settings, header, sender.calling_ae, sender.called_ae)
    return _routes_of_facts(settings, facts, sender)


def _routes_of_facts(
    settings: Settings, facts: Mapping[str, str], sender: Sender
) -> tuple[list[Route], str]:
    rule = routing.decide(settings.rules, facts)
    if rule is None:
        return [], routing.why_ignored(settings.rules, facts)
    return [route_of(settings, rule, sender)], ""


@dataclass(frozen=True, slots=True)
class _KeptRoutes:
    """What was found by these settings, and until when it is used."""

    settings: Settings | None
    until: float
    found: dict[tuple[object, ...], tuple[list[Route], str]] = field(default_factory=dict)


class _LatestRoutes:
    """What was found for the images of the last seconds: those of a study ask the same rules.

    Which peer calls may hang on a name service (`peers.HostNames`), so nothing is kept for long.
    """

    def __init__(self) -> None:
        self._kept = _KeptRoutes(None, 0.0)

    def find(
        self, settings: Settings, header: Mapping[str, str], sender: Sender
    ) -> tuple[list[Route], str]:
        """Return what `find_routes` does."""
        now = time.monotonic()
        # looked at once: another thread may put a table of other settings there at any moment
        kept = self._kept
        if settings is not kept.settings or now >= kept.until or len(kept.found) >= _MOST_KEPT:
            kept = self._kept = _KeptRoutes(settings, now + _KEPT_S)
        found = kept.found
        facts = routing.facts(settings, header, sender.calling_ae, sender.called_ae)
        caller = (sender.calling_ae, sender.calling_host, sender.certificate, sender.is_web)
        key = (*facts.values(), *caller)
        answer = found.get(key)
        if answer is None:
            answer = _routes_of_facts(settings, facts, sender)
            # a sender that is not a peer yet has its line of the log with each image
            if not any(SENDER in route.send_to for route in answer[0]):
                found[key] = answer
        return answer


def route_of(settings: Settings, rule: Rule, sender: Sender) -> Route:
    """Return what a rule asks for an Instance of this sender, whether it is met or not."""
    peers = settings.peers
    if sender.is_web:
        # Nobody can send to an HTTP client: it fetches the report by WADO-RS.
        others = tuple(name for name in rule.send_to if name != SENDER)
        rule = rule.model_copy(update={"send_to": others})
    caller = who_calls(peers, sender.calling_ae, sender.calling_host, sender.certificate)
    waits = unknown_sender(sender.calling_ae, sender.calling_host, caller.problem)
    names, problems = routing.destinations(rule, peers, caller.name, waits)
    for problem in problems:
        logger.warning("rule=%s %s", rule.name, problem)
    wanted = {name: rule.objects or peers[name].objects for name in names if name in peers}
    if rule.objects and SENDER in names:
        wanted[SENDER] = rule.objects
    kinds = ["sr", *(kind for kinds in wanted.values() for kind in kinds)]
    # One SR is made; who takes another class gets it recast from that.
    takers = (peers[name] for name in names if name in peers)
    classes = (sop_class for peer in takers for sop_class in peer.sop_classes)
    sop_class = next(classes, next(iter(SR_CLASSES)))
    order = ReportOrder(
        content_datetime=datetime.fromtimestamp(0, UTC),
        series_number=settings.report.series_number,
        series_description=settings.report.series_description,
        station_name=settings.node.ae_title,
        serial_number=settings.node.serial_number,
        objects=tuple(dict.fromkeys(kinds)),
        sop_classes=(sop_class,),
        not_analysed=settings.report.not_analysed,
        procedure=cast("tuple[str, str, str] | None", settings.report.procedure or None),
        text_series=settings.report.text_series,
    )
    return Route(
        rule=rule.name,
        model=rule.model,
        mode=rule.mode,
        send_to=names,
        objects=wanted,
        when=routing.conditions(rule, caller.name),
        priority=FROM_RULE[rule.priority] if rule.priority else None,
        allow_demonstration=rule.allow_demonstration,
        order=order,
    )


def _check_header(header: Mapping[str, str], accepted: Accepted) -> None:
    """Raise unless the data set is what the request says and names its study and series."""
    for what in ("sop_class_uid", "sop_instance_uid", "study_instance_uid", "series_instance_uid"):
        _check_uid(what, header[what])
    if header["sop_class_uid"] != accepted.sop_class_uid:
        raise OtherSopClass("the data set is of another SOP class than the request")
    if header["sop_instance_uid"] != accepted.sop_instance_uid:
        raise NotUnderstood("the data set has another SOP Instance UID than the request")


def _check_uid(what: str, value: str) -> None:
    """Raise unless `value` may be a UID; leading zeros occur in practice and are let through."""
    if not value:
        raise NotUnderstood(f"no {what}")
    if len(value) > 64 or not _UID.fullmatch(value):
        raise NotUnderstood(f"{what} is not a UID")
