"""The self-test sends what it says it sends, and finds the way or says what is missing."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread

from dicom_node.base.errors import ConfigurationError, Unreachable
from dicom_node.dimse.contexts import TRANSFER_SYNTAXES
from dicom_node.operate.selftest import find_way
from dicom_node.settings import Settings, load
from worker import selftest
from worker.image.decode import Decoder
from worker.image.encode import EIGHT_BITS

LOSSY = {"1.2.840.10008.1.2.4.51": 16, "1.2.840.10008.1.2.4.81": 3}
LOSSY |= {"1.2.840.10008.1.2.4.91": 16, "1.2.840.10008.1.2.4.203": 16}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    out = tmp_path_factory.mktemp("drawn")
    return {row.transfer_syntax_uid: out / row.file for row in selftest.write(out)}


def test_every_transfer_syntax_that_the_node_takes_is_drawn(files: dict[str, Path]) -> None:
    assert set(files) == set(TRANSFER_SYNTAXES)


def test_each_file_is_encoded_in_its_transfer_syntax_and_shows_the_same_picture(
    files: dict[str, Path],
) -> None:
    first = dcmread(next(iter(files.values())))
    drawn = np.frombuffer(first.PixelData, "<u2").reshape(first.Rows, first.Columns).astype(int)
    with Decoder() as decoder:
        for syntax, path in files.items():
            ds = dcmread(path)
            assert ds.file_meta.TransferSyntaxUID == syntax
            pixels = decoder.decode(ds).astype(int)
            if syntax == EIGHT_BITS:
                low, width = float(ds.WindowCenter) - 128, 256
                window = first.WindowCenter - first.WindowWidth / 2
                expected = ((drawn - window) / first.WindowWidth * width + low).clip(0, 255)
                assert abs(pixels - expected).mean() < 2
            else:
                assert abs(pixels - drawn).max() <= LOSSY.get(syntax, 0), syntax
            assert (ds.LossyImageCompression == "01") == (syntax in {*LOSSY, EIGHT_BITS})


def test_two_runs_share_no_uid(files: dict[str, Path], tmp_path: Path) -> None:
    again = {row.sop_instance_uid for row in selftest.write(tmp_path)}
    before = {dcmread(path, stop_before_pixels=True).SOPInstanceUID for path in files.values()}
    assert len(before) == len(files)
    assert again.isdisjoint(before)


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Path]:
    """A data folder that a node holds."""
    with (tmp_path / "serve.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield tmp_path


def settings_of(folder: Path, host: str = "127.0.0.1", **tables: Any) -> Settings:
    archive = {"ae_title": "PACS", "host": host, "port": 104}
    rule = {"name": "all", "allow_demonstration": True} | tables.pop("rule", {})
    peers = {"archive": archive} | tables.pop("peers", {})
    return Settings(node={"data_dir": folder, **tables}, peers=peers, rules=[rule])


def test_an_archive_on_this_machine_gets_its_report_as_the_sender(
    running: Path, files: dict[str, Path]
) -> None:
    way = find_way(settings_of(running), "archive", next(iter(files.values())))
    assert (way.calling_ae, way.destination, way.reads_drawings) == ("PACS", "archive", True)
    assert (way.node.host, way.node.port) == ("127.0.0.1", 11112)


def test_an_archive_elsewhere_is_reached_through_a_peer_of_this_machine(
    running: Path, files: dict[str, Path]
) -> None:
    peers = {"selftest": {"ae_title": "SELFTEST", "host": "127.0.0.1", "port": 0}}
    rule = {"send_to": ["archive"]}
    settings = settings_of(running, "10.0.0.5", peers=peers, rule=rule)
    way = find_way(settings, "archive", next(iter(files.values())))
    assert way.calling_ae == "SELFTEST"


@pytest.mark.parametrize(
    ("rule", "cause"),
    [
        ({"match": {"modality": ["CR"]}}, "no rule takes a frontal chest DX"),
        ({"mode": "shadow"}, "sends none from PACS"),
    ],
)
def test_a_way_that_is_not_there_is_described(
    running: Path, files: dict[str, Path], rule: dict[str, Any], cause: str
) -> None:
    with pytest.raises(ConfigurationError, match=cause) as caught:
        find_way(settings_of(running, rule=rule), "archive", next(iter(files.values())))
    added = str(caught.value).partition("Add to node.toml:\n")[2]
    archive = '[peers.archive]\nae_title = "PACS"\nhost = "127.0.0.1"\nport = 104\n'
    node = f'[node]\ndata_dir = "{running}"\n'
    (running / "node.toml").write_text(node + archive + added)
    way = find_way(load(running / "node.toml"), "archive", next(iter(files.values())))
    assert way.destination == "archive"


def test_a_node_that_does_not_run_is_not_tested(tmp_path: Path, files: dict[str, Path]) -> None:
    with pytest.raises(Unreachable, match="serve"):
        find_way(settings_of(tmp_path), "archive", next(iter(files.values())))
