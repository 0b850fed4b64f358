"""What `pull` fetches from an archive for research, and what it prints."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dicom_node.base.errors import ConfigurationError, NotFound
from dicom_node.base.plurals import counted
from dicom_node.dimse.pull import MODALITIES, FoundSeries, Puller
from dicom_node.operate import progress
from dicom_node.operate.sandbox_privacy import privacy_of
from dicom_node.operate.show import print_json
from dicom_node.settings import Peer, Settings
from dicom_node.standard.deidentify import content_of, deidentify

if TYPE_CHECKING:
    from pydicom import Dataset

    from dicom_node.operate.sandbox_privacy import Hidden


@dataclass(slots=True)
class _Tally:
    """What came of each accession number."""

    fetched: int = 0
    there: int = 0
    """Files of an earlier call."""
    skipped: dict[str, int] = field(default_factory=dict)
    """Series of other modalities."""
    problems: list[tuple[str, str]] = field(default_factory=list)


def pull(
    settings: Settings,
    peer: Peer,
    accessions: Sequence[str],
    out: Path,
    *,
    is_deidentified: bool,
    as_json: bool,
) -> int:
    """Fetch the CR and DX Instances of studies; return 1 where one did not come.

    The same call goes on where it stopped: what lies in `out` already is not fetched again.

    Raises
    ------
    ConfigurationError
        `out` cannot be written.
    Unreachable, Refused
        The peer cannot be asked; what came lies in `out`.
    """
    hidden = privacy_of(settings) if is_deidentified else None
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise ConfigurationError(f"--out: {out}: {exc.strerror}") from exc
    tally = _Tally()

    def keep(ds: Dataset, content: bytes) -> None:
        path = _image_path(out, str(ds.SOPInstanceUID), hidden)
        if hidden is not None:
            content = content_of(deidentify(ds, hidden.names, hidden.profile))
        temporary = path.with_suffix(".part")
        temporary.write_bytes(content)
        temporary.replace(path)
        tally.fetched += 1

    puller = Puller(settings.node.ae_title, peer, keep)
    try:
        with progress.bar("pull", len(accessions)) as advance:
            for number, accession in enumerate(accessions, 1):
                _pull_one(puller, accession, out, hidden, tally)
                advance(number)
    except KeyboardInterrupt:
        _print_line(
            f"interrupted: {counted(tally.fetched, 'file is', 'files are')} kept in {out}; "
            "the same command goes on"
        )
        raise
    finally:
        puller.close()
    _print_pulled(tally, accessions, out, hidden, as_json)
    return 1 if tally.problems else 0


def _pull_one(
    puller: Puller, accession: str, out: Path, hidden: Hidden | None, tally: _Tally
) -> None:
    puller.open()
    found = puller.series(accession)
    if not found:
        tally.problems.append((accession, "no such study"))
    for series in found:
        if series.modality not in MODALITIES:
            kind = series.modality or "without modality"
            tally.skipped[kind] = tally.skipped.get(kind, 0) + 1
            continue
        if problem := _fetch_series(puller, series, out, hidden, tally):
            tally.problems.append((accession, problem))


def _fetch_series(
    puller: Puller, series: FoundSeries, out: Path, hidden: Hidden | None, tally: _Tally
) -> str:
    uids = puller.instances(series)
    missing = [uid for uid in uids if not _image_path(out, uid, hidden).exists()]
    if not missing:
        tally.there += len(uids)
        return ""
    if problem := puller.fetch(series):
        return problem
    absent = [uid for uid in missing if not _image_path(out, uid, hidden).exists()]
    return f"{len(absent)} of {counted(len(uids), 'image')} did not come" if absent else ""


def _image_path(out: Path, uid: str, hidden: Hidden | None) -> Path:
    name = hidden.uid(uid) if hidden is not None else uid
    # A UID has digits and dots; what else an archive writes there must not lead elsewhere.
    safe = "".join(letter for letter in name if letter in "0123456789.").strip(".")
    if not safe:
        raise NotFound("the archive names an image without a SOP Instance UID")
    return out / f"{safe}.dcm"


def _print_pulled(
    tally: _Tally, accessions: Sequence[str], out: Path, hidden: Hidden | None, as_json: bool
) -> None:
    shown = [
        (hidden.accession(accession) if hidden else accession, why)
        for accession, why in tally.problems
    ]
    if as_json:
        row: dict[str, Any] = {
            "accessions": len(accessions),
            "fetched": tally.fetched,
            "there": tally.there,
            "skipped_series": tally.skipped,
            "problems": [
                {"accession_number": accession, "problem": why} for accession, why in shown
            ],
            "out": os.fspath(out),
        }
        print_json(row)
        return
    places = (
        {hidden.accession(number): n for n, number in enumerate(accessions, 1)} if hidden else {}
    )
    for accession, why in shown:
        place = f" (number {places[accession]} of the list)" if accession in places else ""
        print(f"{accession}{place}: {why}")
    for kind, count in sorted(tally.skipped.items()):
        print(f"skipped: {counted(count, 'series', 'series')} {kind}")
    earlier = f", {counted(tally.there, 'was', 'were')} there" if tally.there else ""
    print(f"{counted(tally.fetched, 'image')} fetched{earlier}: {out}")


def _print_line(text: str) -> None:
    print(text, file=sys.stderr)
