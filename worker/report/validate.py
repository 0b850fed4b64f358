"""Independent judges of result objects: dciodvfy, dcentvfy, PixelMed and the table of codes."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from pydicom import dcmread, dcmwrite
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.errors import InvalidDicomError
from pydicom.uid import ExplicitVRLittleEndian

from dicom_node.base.errors import ConfigurationError, NotUnderstood
from worker.report import codes, header

PIXELMED = Path("/usr/share/java/pixelmed.jar")
"""Where Debian's package libpixelmed-java puts it."""

# Debian's own script fails on Java 17 (JAXP0801003, a limit of XPath) and still exits 0. The
# compiler's first tier and the serial collector halve the time of a run this short.
JAVA_OPTIONS = (
    "-XX:TieredStopAtLevel=1",
    "-XX:+UseSerialGC",
    "-Djdk.xml.xpathTotalOpLimit=0",
    "-Djdk.xml.xpathExprOpLimit=0",
    "-Djdk.xml.xpathExprGrpLimit=0",
)
SR_CLASSES = "1.2.840.10008.5.1.4.1.1.88."
LONGEST_RUN = 180.0

EXPECTED_WARNINGS = (
    # dicom3tools of 2022 does not know Device UID in Contributing Equipment (PS3.3 C.12.1.1.5).
    "Attribute is not present in standard DICOM IOD - (0x0018,0x1002) UI Device UID",
    "Dicom dataset contains attributes not present in standard DICOM IOD - this is a Standard Ext",
    # The scheme of this project's own codes (`worker.report.codes.PRIVATE`).
    "Unrecognized defined term <99CHEXFRACT>",
    # What the image itself lacks.
    "Missing attribute or value that would be needed to build DICOMDIR",
    # The report's requests stand at another level than those of the image.
    "Different information entities for attribute - Element=<AccessionNumber>",
    "Attribute present in one instance but not the other",
    "is only permitted to be empty when actually unknown",
)


@dataclass(frozen=True, slots=True)
class ValidatorVerdict:
    """What one validator says of one file."""

    file: str
    validator: str
    passed: bool | None
    """None where the validator is not installed."""
    errors: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def validate(paths: Sequence[Path], source: Path | None = None) -> list[ValidatorVerdict]:
    """Return the verdicts of each validator that applies, file by file.

    Parameters
    ----------
    paths : sequence of Path
        Result objects as Part 10 files.
    source : Path or None
        The image they are about; without it dcentvfy has nothing to compare with.
    """
    return [verdict for path in paths for verdict in _judge_file(path, source)]


def _judge_file(path: Path, source: Path | None) -> Iterator[ValidatorVerdict]:
    try:
        ds = dcmread(path, stop_before_pixels=True)
    except OSError as exc:
        yield ValidatorVerdict(str(path), "read", False, (exc.strerror or str(exc),))
        return
    except InvalidDicomError:
        yield ValidatorVerdict(str(path), "read", False, ("it is not a DICOM Part 10 file",))
        return
    except (ValueError, EOFError) as exc:
        yield ValidatorVerdict(str(path), "read", False, (f"cannot be read as DICOM: {exc}",))
        return
    yield codes_of(path, ds)
    yield dciodvfy(path)
    if source is not None:
        yield dcentvfy(path, source)
    if str(ds.get("SOPClassUID", "")).startswith(SR_CLASSES):
        yield pixelmed(path)


def codes_of(path: Path, ds: Dataset) -> ValidatorVerdict:
    """Return whether each code stands in `worker.report.codes.TABLE` with just that meaning."""
    errors = tuple(_wrong_codes(ds))
    return ValidatorVerdict(str(path), "codes", not errors, errors)


def _wrong_codes(ds: Dataset) -> Iterator[str]:
    if "CodeValue" in ds or "CodingSchemeDesignator" in ds:
        value, scheme = str(ds.get("CodeValue", "")), str(ds.get("CodingSchemeDesignator", ""))
        meaning, known = str(ds.get("CodeMeaning", "")), codes.TABLE.get((value, scheme))
        if known is None:
            yield f"({value}, {scheme}) is not in the table of codes"
        elif meaning != known:
            yield f"({value}, {scheme}) means {known!r}, not {meaning!r}"
    for element in ds:
        if element.VR == "SQ" and element.keyword not in header.COPIED_CODES:
            for item in element.value:
                yield from _wrong_codes(item)


def dciodvfy(path: Path) -> ValidatorVerdict:
    """Judge the IOD: modules, types, value representations, evidence (dicom3tools).

    The program counts the bytes of a value, the Standard its characters (PS3.5 6.2): what it calls
    too long and is not, is not an error.
    """
    verdict = _run_dicom3tools(path, ["dciodvfy", str(path)])
    if not any(_TOO_LONG.search(line) for line in verdict.errors):
        return verdict
    ds = dcmread(path, stop_before_pixels=True)
    errors = [line for line in verdict.errors if not _counts_bytes(line, ds)]
    if all(line == SUMMED_UP for line in errors):
        errors = []
    return replace(verdict, passed=not errors, errors=tuple(errors))


SUMMED_UP = "Error - Dicom dataset contains invalid data values for Value Representations"
_TOO_LONG = re.compile(
    r"\((0x[0-9a-f]{4}),(0x[0-9a-f]{4})\).*Length invalid for this VR = \d+, expected <= (\d+)",
    re.DOTALL,
)


def _counts_bytes(line: str, ds: Dataset) -> bool:
    """Return whether a line calls values too long of which each has few enough characters."""
    found = _TOO_LONG.search(line)
    if found is None:
        return False
    tag, most = (int(found[1], 16) << 16) + int(found[2], 16), int(found[3])
    values = [element.value for element in ds.iterall() if element.tag == tag]
    # dciodvfy counts bytes where the Standard counts characters (PS3.5 6.2).
    singles = [
        item for value in values for item in (value if hasattr(value, "append") else [value])
    ]
    parts = (part for item in singles for part in re.split(r"[\\=]", str(item)))
    return bool(singles) and all(len(part) <= most for part in parts)


def dcentvfy(path: Path, source: Path) -> ValidatorVerdict:
    """Judge whether Patient and Study are those of the image (dicom3tools).

    The program compares bytes. An image in another character set, or with illegal dates, is
    compared in the form that its report must have (`worker.report.header`).
    """
    if not _same_study(path, source):
        return ValidatorVerdict(
            str(path), "dcentvfy", False, ("it is in another Study than the image",)
        )
    verdict = _run_dicom3tools(path, ["dcentvfy", str(source), str(path)])
    if verdict.passed is not False:
        return verdict
    with tempfile.TemporaryDirectory() as folder:
        legal = Path(folder) / "source.dcm"
        try:
            _write_legal(source, legal)
        except (OSError, InvalidDicomError, ValueError, NotUnderstood):
            return verdict
        return _run_dicom3tools(path, ["dcentvfy", str(legal), str(path)])


def are_of_one_study(paths: Sequence[Path], source: Path) -> bool:
    """Return whether dcentvfy finds all objects of one image in order; False may mean it cannot.

    A program that is started once for many files takes a fraction of the time; `dcentvfy` says
    which of them is at fault.
    """
    every = [str(source), *map(str, paths)]
    is_comparable = all(_same_study(path, source) for path in paths)
    return is_comparable and bool(_run_dicom3tools(source, ["dcentvfy", *every]).passed)


def _same_study(path: Path, source: Path) -> bool:
    """Return whether both files can be compared at all: dcentvfy passes strangers."""
    files = (dcmread(file, stop_before_pixels=True, force=True) for file in (path, source))
    return len({str(ds.get("StudyInstanceUID", "")) for ds in files}) == 1


def _write_legal(source: Path, target: Path) -> None:
    evidence = header.read(dcmread(source, stop_before_pixels=True, force=True))
    ds = Dataset()
    for element in evidence.common:
        ds[element.tag] = element
    header.put(ds, "SOPClassUID", evidence.sop_class_uid)
    header.put(ds, "SOPInstanceUID", evidence.sop_instance_uid)
    header.put(ds, "SeriesInstanceUID", evidence.series_instance_uid)
    header.put(ds, "Modality", evidence.modality)
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dcmwrite(target, ds, enforce_file_format=True)


def _run_dicom3tools(path: Path, command: list[str]) -> ValidatorVerdict:
    program = command[0]
    if shutil.which(program) is None:
        return ValidatorVerdict(str(path), program, None)
    status, lines = _run_command(command)
    errors = [line for line in lines if line.startswith("Error")]
    # A validator that crashes has said nothing against the file, and nothing for it.
    if status != 0 and not errors:
        errors = [f"exit status {status}", *lines[-3:]]
    warnings = (line.removeprefix("Warning - ") for line in lines if line.startswith("Warning"))
    unexpected = tuple(line for line in warnings if not line.startswith(EXPECTED_WARNINGS))
    return ValidatorVerdict(
        str(path), program, status == 0 and not errors, tuple(errors), unexpected
    )


def pixelmed(path: Path) -> ValidatorVerdict:
    """Judge the templates of an SR or KO (PixelMed DicomSRValidator; IHE's own criterion)."""
    if shutil.which("java") is None or not PIXELMED.is_file():
        return ValidatorVerdict(str(path), "pixelmed", None)
    name = "com.pixelmed.validate.DicomSRValidator"
    _, lines = _run_command(["java", *JAVA_OPTIONS, "-cp", str(PIXELMED), name, str(path)])
    return pixelmed_says(path, lines)


def pixelmed_says(path: Path, lines: Sequence[str]) -> ValidatorVerdict:
    """Return the verdict in PixelMed's words: its exit status is 0 whatever happens."""
    errors = [line for line in lines if line.startswith("Error")]
    for needed in ("IOD validation complete", "Found Root Template"):
        if not any(needed in line for line in lines):
            errors.append(f"the validator did not say {needed!r}")
    warnings = tuple(line for line in lines if line.startswith("Warning"))
    return ValidatorVerdict(str(path), "pixelmed", not errors, tuple(errors), warnings)


def _run_command(command: list[str]) -> tuple[int, list[str]]:
    """Return exit status and the stripped lines of both streams; validators echo any bytes."""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=LONGEST_RUN,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return 124, [f"Error - no verdict within {LONGEST_RUN:.0f} s"]
    lines = done.stdout.decode("utf-8", "replace").splitlines()
    return done.returncode, [line.strip() for line in lines if line.strip()]


def main(paths: Sequence[Path], source: Path | None = None, as_json: bool = False) -> int:
    """Print each verdict as it comes; return 0, or 1 when some file does not pass.

    Raises
    ------
    ConfigurationError
        The image, or a folder of reports, holds nothing to compare or to judge.
    """
    if source is not None:
        _check_source(source)
    verdicts = []
    for path in _list_files(paths):
        for verdict in _judge_file(path, source):
            verdicts.append(verdict)
            if not as_json:
                _print_verdict(verdict)
    if as_json:
        print(json.dumps([asdict(verdict) for verdict in verdicts], ensure_ascii=False, indent=1))
    missing = sorted({verdict.validator for verdict in verdicts if verdict.passed is None})
    if missing:
        packages = "apt-get install dicom3tools pixelmed-apps default-jre-headless"
        print(f"not installed: {', '.join(missing)} ({packages})", file=sys.stderr)
    return 1 if any(verdict.passed is False for verdict in verdicts) else 0


def _check_source(source: Path) -> None:
    try:
        found = dcmread(source, stop_before_pixels=True, force=True).get("StudyInstanceUID")
    except OSError as exc:
        raise ConfigurationError(f"--source: {source}: {exc.strerror or exc}") from exc
    except (InvalidDicomError, ValueError, EOFError, NotImplementedError):
        found = None
    if not found:
        raise ConfigurationError(f"--source: {source} is not a DICOM image of a Study")


def _list_files(paths: Sequence[Path]) -> Iterator[Path]:
    """Yield the files, and those of a folder such as ``reports`` of a describe run."""
    for path in paths:
        if not path.is_dir():
            yield path
            continue
        inside = sorted(path.rglob("*.dcm"))
        if not inside:
            raise ConfigurationError(f"{path}: no *.dcm in this folder")
        yield from inside


def _print_verdict(verdict: ValidatorVerdict) -> None:
    word = {True: "pass", False: "FAIL", None: "absent"}[verdict.passed]
    print(f"{word:6} {verdict.validator:9} {verdict.file}", flush=True)
    for line in (*verdict.errors, *verdict.warnings):
        print(f"       {line}")
