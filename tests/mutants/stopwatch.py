"""A plugin of pytest: ends a run before the next test once the process has used its time."""

from __future__ import annotations

import time

import pytest

from tests.mutants.coverage_map import MOST_SECONDS


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item) -> None:
    if time.process_time() > MOST_SECONDS:
        item.session.shouldstop = f"{MOST_SECONDS} s of processor time are used"
