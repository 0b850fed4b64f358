"""A container that is given two processors of sixty-four has two."""

import os
from pathlib import Path

import pytest

from dicom_node.base.processors import processor_count

SEEN = 64


@pytest.fixture(autouse=True)
def many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(SEEN)), raising=False)


def host(folder: Path, own: str, **files: str) -> Path:
    """Lay out a host on which the process is in the groups `own`."""
    (folder / "proc/self").mkdir(parents=True)
    (folder / "proc/self/cgroup").write_text(own)
    for name, text in files.items():
        path = folder / "sys/fs/cgroup" / name.replace("__", "/").replace("cpu_", "cpu.")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    return folder


@pytest.mark.parametrize(
    ("own", "files", "count"),
    [
        ("0::/\n", {"cpu_max": "200000 100000"}, 2),
        ("0::/\n", {"cpu_max": "max 100000"}, SEEN),
        ("0::/\n", {"cpu_max": "50000 100000"}, 1),
        ("0::/\n", {"cpu_max": "250000 100000"}, 3),
        ("0::/\n", {"cpu_max": "12800000 100000"}, SEEN),
        ("0::/a/b\n", {"a__cpu_max": "300000 100000", "a__b__cpu_max": "max 100000"}, 3),
        ("0::/a/b\n", {"a__cpu_max": "300000 100000", "a__b__cpu_max": "100000 100000"}, 1),
        ("0::/../other\n", {"cpu_max": "400000 100000"}, 4),
        (
            "3:cpu,cpuacct:/docker/1\n2:cpuset:/docker/1\n0::/\n",
            {"cpu__cpu_cfs_quota_us": "200000", "cpu__cpu_cfs_period_us": "100000"},
            2,
        ),
        ("1:cpu:/\n", {"cpu__cpu_cfs_quota_us": "-1", "cpu__cpu_cfs_period_us": "100000"}, SEEN),
        ("2:cpuset:/\n", {"cpu__cpu_cfs_quota_us": "1", "cpu__cpu_cfs_period_us": "1"}, SEEN),
        ("\nodd\n", {"cpu_max": "nothing"}, SEEN),
    ],
)
def test_a_limit_of_a_container_counts(
    tmp_path: Path, own: str, files: dict[str, str], count: int
) -> None:
    assert processor_count(host(tmp_path, own, **files)) == count


def test_without_control_groups_all_that_may_be_used_count(tmp_path: Path) -> None:
    assert processor_count(tmp_path) == SEEN
