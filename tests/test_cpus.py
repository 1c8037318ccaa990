"""The CPUs that a process may use: its affinity, and the quota of its control group in the files of either version."""

from __future__ import annotations

import os
import pathlib

import pytest

from qcompiler import cpus


@pytest.mark.parametrize(
    "text,expected",
    [
        ("max 100000", None),
        ("150000 100000", 2),
        ("50000 100000", 1),
        ("800000 100000", 8),
        ("", None),
        ("100000", None),
        ("1 0", None),
        ("many 100000", None),
    ],
)
def test_quota_of_version_2(text: str, expected: int | None, tmp_path: pathlib.Path) -> None:
    (tmp_path / "cpu.max").write_text(text + "\n")
    assert cpus.quota(tmp_path) == expected


@pytest.mark.parametrize("allowed,expected", [("-1", None), ("250000", 3)])
def test_quota_of_version_1(allowed: str, expected: int | None, tmp_path: pathlib.Path) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu/cpu.cfs_quota_us").write_text(allowed + "\n")
    (tmp_path / "cpu/cpu.cfs_period_us").write_text("100000\n")
    assert cpus.quota(tmp_path) == expected


def test_no_control_group(tmp_path: pathlib.Path) -> None:
    assert cpus.quota(tmp_path / "absent") is None


def test_the_smaller_of_affinity_and_quota(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(6)), raising=False)
    for quota, expected in ((None, 6), (2, 2), (9, 6)):
        monkeypatch.setattr(cpus, "quota", lambda quota=quota: quota)
        assert cpus.usable_cpus() == expected
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    monkeypatch.setattr(cpus, "quota", lambda: None)
    assert cpus.usable_cpus() == 3


def test_more_threads_than_cpus_are_not_started(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(cpus, "usable_cpus", lambda: 2)
    with caplog.at_level("INFO", logger="qcompiler"):
        assert [cpus.thread_count(n) for n in (1, 2, 3, 64)] == [1, 2, 2, 2]
    assert "64 threads asked for, 2 used" in caplog.text
