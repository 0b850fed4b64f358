"""What a reader thinks of a report: the form of the pages, and what was said before."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, cast

from dicom_node.base.errors import NotFound
from dicom_node.base.job import finding_names
from dicom_node.store.actor import Actor
from dicom_node.store.ledger import Ledger
from dicom_node.store.ledger.acts import Judged
from dicom_node.store.ledger.views import FindingJudgement, JobView, JudgementView
from dicom_node.web.sessions import Person, Posted

VERDICTS = ("agree", "disagree")
COMMENT = 1000
CORRECTED = 4000
"""Characters of a comment and of a corrected text."""

ANYBODY = "a reader"
"""Who reads where nobody signs in."""

Verdict = Literal["agree", "disagree"]


def findings_of(job: JobView) -> tuple[str, ...]:
    """Return the findings of a job's report by the names under which they are judged."""
    return finding_names(job.result.fractures) if job.result else ()


def reader_of(person: Person) -> str:
    """Return the name under which a person judges."""
    return person.name or ANYBODY


def own(judgements: Sequence[JudgementView], job: str, person: Person) -> JudgementView | None:
    """Return what this person said last of a report."""
    mine = [
        judgement
        for judgement in judgements
        if judgement.job == job and judgement.reader == reader_of(person)
    ]
    return mine[-1] if mine else None


def keep(
    ledger: Ledger, uid: str, posted: Posted, by: Actor, *, sends: bool, rejects: bool
) -> tuple[str, Judged]:
    """Keep a judgement that was posted from the page of an Instance.

    Parameters
    ----------
    sends, rejects : bool
        As `Acts.judge` takes them.

    Returns
    -------
    tuple
        The verdict, and what follows from it.

    Raises
    ------
    NotFound
        The Instance has no such report, or the verdict is none.
    """
    verdict, job = posted.text("verdict"), posted.text("job")
    jobs = {view.job: view for view in ledger.history.trace(uid).jobs}
    if verdict not in VERDICTS or job not in jobs:
        raise NotFound("there is no such report to judge")
    said: list[FindingJudgement] = []
    for place, words in enumerate(findings_of(jobs[job])):
        if (answer := posted.text(f"finding-{place}", 16)) in VERDICTS:
            said.append(FindingJudgement(words, answer))
    judged = ledger.acts.judge(
        job,
        cast("Verdict", verdict),
        by,
        posted.text("comment", COMMENT),
        corrected_text=posted.text("corrected_text", CORRECTED),
        findings=said,
        sends=sends,
        rejects=rejects,
    )
    return verdict, judged


def shown(judgements: Sequence[JudgementView], job: JobView, person: Person) -> dict[str, Any]:
    """Return what the form of a report shows: its findings, one's own last words, the history."""
    last = own(judgements, job.job, person)
    answers = {judged.finding: judged.verdict for judged in last.findings} if last else {}
    return {
        "findings": [(words, answers.get(words, "")) for words in findings_of(job)],
        "own": last,
        "history": [judgement for judgement in judgements if judgement.job == job.job][::-1],
    }
