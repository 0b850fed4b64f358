"""The site's clock: node.time_zone for reports, pages and commands, whatever the host's is."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from dicom_node.base import local_time as clock
from dicom_node.base.local_time import is_zone_doubtful, local_time, read_local, set_zone
from dicom_node.operate import doctor
from dicom_node.settings import Settings
from dicom_node.store.ledger.instances import content_datetime

SUMMER = datetime(2026, 7, 1, 12, tzinfo=UTC).timestamp()
WINTER = datetime(2026, 12, 1, 12, tzinfo=UTC).timestamp()


@pytest.fixture(autouse=True)
def host_zone() -> Iterator[None]:
    yield
    set_zone("")


@pytest.mark.parametrize(
    ("zone", "at", "shown"),
    [
        ("Europe/Berlin", SUMMER, "2026-07-01T14:00:00+02:00"),
        ("Europe/Berlin", WINTER, "2026-12-01T13:00:00+01:00"),
        ("Asia/Kolkata", SUMMER, "2026-07-01T17:30:00+05:30"),
        ("America/St_Johns", WINTER, "2026-12-01T08:30:00-03:30"),
        ("UTC", SUMMER, "2026-07-01T12:00:00+00:00"),
    ],
)
def test_a_moment_is_told_in_the_sites_zone(zone: str, at: float, shown: str) -> None:
    set_zone(zone)
    assert local_time(at).isoformat() == shown
    assert content_datetime(at).isoformat() == shown, "what a report says, with its offset"
    assert read_local(shown) == at
    assert read_local(shown[:19]) == at, "without an offset it is a time of the site"


def test_without_a_zone_the_hosts_counts() -> None:
    set_zone("")
    assert local_time(SUMMER) == datetime.fromtimestamp(SUMMER, UTC)
    assert local_time(SUMMER).utcoffset() == datetime.fromtimestamp(SUMMER).astimezone().utcoffset()


@pytest.mark.parametrize("name", ["Europe/Berlinn", "CEST+2", "../../etc/passwd", "/etc/localtime"])
def test_what_is_no_zone_is_refused_at_start(name: str) -> None:
    with pytest.raises(ValueError, match="is not a time zone; write one such as Europe/Berlin"):
        Settings(node={"time_zone": name})


def test_a_container_without_a_zone_is_doubtful(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clock, "CONTAINER_MARKS", (tmp_path,))
    monkeypatch.setattr(clock.time, "daylight", 0)
    monkeypatch.setattr(clock.time, "localtime", lambda: clock.time.gmtime())
    monkeypatch.delenv("TZ", raising=False)
    assert is_zone_doubtful()
    monkeypatch.setenv("TZ", "UTC")
    assert not is_zone_doubtful(), "somebody has said UTC"
    monkeypatch.delenv("TZ")
    set_zone("UTC")
    assert not is_zone_doubtful()
    set_zone("")
    monkeypatch.setattr(clock, "CONTAINER_MARKS", ())
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    assert not is_zone_doubtful(), "a host in UTC is a host in UTC"


def test_doctor_takes_the_zone_of_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "node.toml"
    config.write_text('[node]\ntime_zone = "Asia/Kolkata"\n')
    monkeypatch.setattr(doctor, "_all_looks", lambda *_: [])
    doctor.doctor(config)
    capsys.readouterr()
    assert local_time(SUMMER).isoformat() == "2026-07-01T17:30:00+05:30"
