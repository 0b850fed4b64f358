"""What a node asks its ledger all day, each as one call: it costs no more in a large one."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count, islice
from typing import Any

from grower import live_through
from ledgers import NOW, on

from dicom_node.store.ledger import Ledger, Wanted
from dicom_node.store.ledger.studies import StudyFilter

_NUMBERS = count(10**7)

STUDIES: tuple[dict[str, Any], ...] = (
    {},
    {"state": "failed"},
    {"state": "ignored"},
    {"state": "disagreed"},
    {"search": "doe jane"},
    {"since": NOW, "until": NOW + 9},
)

WANTED = (
    Wanted(exact={"study_instance_uid": ("1.2.4",)}),
    Wanted(exact={"patient_id": ("PHANTOM-7",)}),
    Wanted(exact={"accession_number": ("PH7",)}),
    Wanted(like={"patient_id": "PHANTOM-21*"}),
    Wanted(exact={"sop_instance_uid": ("2.25.1",)}),
    Wanted(words=("nobody",)),
)
"""Questions of an archive that few reports answer."""

HOT: dict[str, Callable[[Ledger], Any]] = {
    "reception to delivery": lambda ledger: live_through(
        ledger, next(_NUMBERS), "reports/aa/x.dcm"
    ),
    "a hand-out": lambda ledger: on(ledger, NOW + 30).jobs.hand_out("phantom", 2, NOW + 90, 1),
    "expiry": lambda ledger: on(ledger, NOW + 31).jobs.expire(5),
    "what waits": lambda ledger: on(ledger, NOW + 31).jobs.waiting(),
    "when a job is due": lambda ledger: on(ledger, NOW).jobs.next_due(),
    "a clock that was ahead": lambda ledger: on(ledger, NOW + 31).jobs.redate(),
    "deliveries from a clock that was ahead": lambda ledger: on(
        ledger, NOW + 31
    ).deliveries.redate(),
    "leases after a jump": lambda ledger: on(ledger, NOW + 31).jobs.extend_leases(0.0),
    "due destinations": lambda ledger: on(ledger, NOW + 31).deliveries.due_destinations(),
    "due deliveries": lambda ledger: on(ledger, NOW + 31).deliveries.due(),
    "when a delivery is due": lambda ledger: on(ledger, NOW).deliveries.next_due(),
    "a destination that is held": lambda ledger: ledger.deliveries.hold("nobody", "away", NOW),
    "a destination that is back": lambda ledger: ledger.deliveries.wake("nobody"),
    "due commitments": lambda ledger: on(ledger, NOW + 31).commitments.due(),
    "when a commitment is due": lambda ledger: ledger.commitments.next_due(),
    "what waits to be compared": lambda ledger: ledger.repeats.waiting(),
    "failed jobs again": lambda ledger: ledger.acts.retry_failed(),
    "a trace": lambda ledger: ledger.history.trace(ledger.history.page(1).rows[0].sop_instance_uid),
    "status": lambda ledger: ledger.history.status(),
    "health": lambda ledger: ledger.history.answers(),
    "events": lambda ledger: ledger.history.events_after(3, 10, ("received",)),
    "stage times": lambda ledger: ledger.history.stage_times(0, 50),
    "the newest event": lambda ledger: (ledger.history.newest_event(), ledger.history.last_event()),
    "a page": lambda ledger: ledger.history.page(5),
    "the next page": lambda ledger: ledger.history.page(5, before=ledger.history.page(5).older),
    "a page by state": lambda ledger: [
        ledger.history.page(5, state=state)
        for state in ("failed", "delivered", "reported", "ignored", "undelivered")
    ],
    "a search for one of all": lambda ledger: ledger.history.page(5, "chest"),
    "a search for two words": lambda ledger: ledger.history.page(5, "chest name7"),
    "a search for nobody": lambda ledger: ledger.history.page(5, "chest nobody"),
    "a search by patient id": lambda ledger: ledger.history.page(5, "PHANTOM-7"),
    "a search by UID": lambda ledger: ledger.history.page(5, "1.2.3.1"),
    "a page of studies": lambda ledger: [
        ledger.studies.page(5, StudyFilter(**wanted), before)
        for before in ("", ledger.studies.page(5).older)
        for wanted in STUDIES
    ],
    "the study of an image": lambda ledger: ledger.studies.of_image(
        ledger.history.page(1).rows[0].sop_instance_uid
    ),
    "tiles": lambda ledger: ledger.results.pulse(NOW),
    "workers": lambda ledger: ledger.results.workers(),
    "versions": lambda ledger: ledger.results.versions(0.0),
    "export": lambda ledger: list(islice(ledger.results.between(0.0, NOW + 99), 50)),
    "studies with reports": lambda ledger: list(islice(ledger.results.studies(), 5)),
    "studies that are named": lambda ledger: [
        list(islice(ledger.results.studies(wanted), 5)) for wanted in WANTED
    ],
    "the reports of a study": lambda ledger: ledger.results.objects(
        [study for study, _ in islice(ledger.results.studies(), 1)]
    ),
    "a session": lambda ledger: ledger.sessions.find("nobody's"),
    "purge": lambda ledger: ledger.purge.purgeable(10**8, 10**8),
    "steps to drop": lambda ledger: ledger.purge.condense(0.0),
    "events to pack": lambda ledger: on(ledger, NOW + 10**7).past.pack(),
    "files that have a row": lambda ledger: list(islice(ledger.purge.named_files(), 10)),
    "filling": lambda ledger: ledger.filling.next_rows(),
}
