"""An image that no rule took, analysed all the same: by a rule that a person names."""

from __future__ import annotations

import logging

from dicom_node.base.errors import NotFound, NotUnderstood
from dicom_node.dimse import Sender
from dicom_node.flow.intake import describe, route_of
from dicom_node.settings import Settings
from dicom_node.standard.header import read_header
from dicom_node.store.actor import Actor
from dicom_node.store.ledger import Ledger
from dicom_node.store.spool import Spool

logger = logging.getLogger(__name__)


def analyse_anyway(
    settings: Settings, spool: Spool, ledger: Ledger, ident: str, rule_name: str, by: Actor
) -> str:
    """Let an ignored image be analysed as by a rule whose conditions it does not meet.

    Returns
    -------
    str
        The new job.

    Raises
    ------
    NotFound
        Nothing has this name, no rule has, or the image's file is gone.
    Busy
        It has a job already.
    """
    rule = next((known_rule for known_rule in settings.rules if known_rule.name == rule_name), None)
    if rule is None:
        raise NotFound(f"no rule is named {rule_name[:64]!r}")
    known = ledger.history.trace(ident).instance
    sender = Sender(
        known.calling_ae, known.calling_host, known.called_ae, known.priority, known.association
    )
    try:
        with spool.path(known.file or "gone").open("rb") as file:
            header = read_header(file, known.transfer_syntax_uid)
    except (OSError, NotFound, NotUnderstood) as exc:
        raise NotFound(f"{known.sop_instance_uid}: its file is gone; send it again") from exc
    instance = describe(header, known.file, known.size, known.transfer_syntax_uid, sender)
    job = ledger.acts.analyse(instance, route_of(settings, rule, sender), by)
    logger.info("analysed anyway sop=%s rule=%s by=%s", known.sop_instance_uid, rule.name, by.name)
    return job
