"""Every ARM level runs under an emulator or says what is missing; with QC_REQUIRE_ALL all must run."""

from __future__ import annotations

import pytest

from qcompiler import knobs
from qcompiler.backends import host
from qcompiler.backends.target import known_targets, parse_target


@pytest.mark.skipif(host.arch() == "aarch64", reason="an ARM machine runs the levels that its CPU has")
@pytest.mark.parametrize("name", [name for name in known_targets() if name.startswith("aarch64+")])
def test_the_level_runs_or_says_what_is_missing(name: str) -> None:
    target = parse_target(name)
    if knobs.REQUIRE_ALL.get():
        assert target.execution() == "emulated", target.why_not()
    assert target.can_run() != bool(target.why_not())
