"""The Python API: a path, bytes, an array or a data set gives words, findings and a report."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom import Dataset, dcmread

from dicom_node.base.errors import ConfigurationError
from worker import load
from worker.phantom.draw import instance, phantom
from worker.research.reader import LoadedModel


@pytest.fixture(scope="module")
def reader() -> Iterator[LoadedModel]:
    with load("phantom") as loaded:
        yield loaded


@pytest.fixture(scope="module")
def drawn() -> Dataset:
    return instance(55, 0)


def test_a_data_set_its_file_and_its_bytes_give_the_same(
    reader: LoadedModel, drawn: Dataset, tmp_path: Path
) -> None:
    """Each kind goes the way of files, and the caller's data set is left as it was."""
    drawn.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    content = (tmp_path / "a.dcm").read_bytes()
    first, *others = reader.describe_each(
        [drawn, tmp_path / "a.dcm", str(tmp_path / "a.dcm"), content]
    )
    assert first.text
    assert [other.text for other in others] == [first.text] * 3
    assert first.presence in ("present", "absent")
    assert first.sop_instance_uid == drawn.SOPInstanceUID
    assert first.picture is not None
    assert first.picture.dtype == np.uint8
    assert {"decode", "model", "report"} <= first.timings.keys()
    report = dcmread(io.BytesIO(first.report or b""))
    assert report.StudyInstanceUID == drawn.StudyInstanceUID
    assert "PixelData" in drawn
    assert first.text in first._repr_html_()


def test_grey_values_of_any_type_are_described_alike(reader: LoadedModel) -> None:
    grey = np.clip(phantom(55, 0).grey, 0, 1) * 255
    arrays = [grey.astype(np.uint8), (grey * 257).astype(np.uint16), grey.astype(np.float64) / 255]
    texts = [reader.describe(array).text for array in arrays]
    assert texts[0]
    assert texts[1:] == texts[:1] * 2
    assert reader.describe(arrays[0]).report is None
    made = reader.describe(arrays[0], make_study=True).report
    assert dcmread(io.BytesIO(made or b"")).StudyInstanceUID
    coloured = np.asarray(Image.fromarray(arrays[0]).convert("RGB"))
    assert reader.describe(coloured).text == texts[0]


def test_what_cannot_be_described_has_a_reason_or_one_clear_error(
    reader: LoadedModel, tmp_path: Path
) -> None:
    found = reader.describe(b"no image")
    assert (found.text, found.findings, found.picture) == (None, (), None)
    assert (found.reason or "").startswith("not-dicom: ")
    assert reader.describe(np.zeros((300, 300), np.uint8)).reason
    for wrong in (np.zeros((4, 4, 4, 4)), np.full((300, 300), -1), tmp_path / "none.dcm"):
        with pytest.raises(ConfigurationError):
            reader.describe(wrong)
    with pytest.raises(ConfigurationError, match="no model 'other'; configured: phantom"):
        load("other")


def test_importing_the_package_is_cheap() -> None:
    code = "import sys, worker; print(len([m for m in sys.modules if m.partition('.')[0] in "
    code += "('torch', 'numpy', 'pydicom', 'transformers', 'pydantic')]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "0"


def test_the_notebooks_are_valid_and_keep_no_outputs() -> None:
    import nbformat

    manual = Path(__file__).resolve().parents[2] / "dicom_node" / "manual"
    notebooks = [nbformat.read(path, as_version=4) for path in manual.rglob("*.ipynb")]
    assert notebooks
    for notebook in notebooks:
        nbformat.validate(notebook)
        cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
        assert not any(cell.outputs or cell.execution_count for cell in cells)
        for cell in cells:
            compile(cell.source, "cell", "exec")


def test_what_a_console_shows_of_an_answer_fits_it(reader: LoadedModel) -> None:
    """Neither the bytes of the report nor those of the picture."""
    answer = reader.describe(b"not an image")
    shown = repr(replace(answer, report=bytes(5000), picture=np.zeros((500, 600), np.uint8)))
    assert "not-dicom" in shown
    assert len(shown) < 500
