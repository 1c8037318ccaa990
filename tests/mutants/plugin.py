"""A plugin of pytest. It runs the tests that MUTANTS_TESTS (a file of JSON) lists, in that order, or writes what each
test evaluates to the file MUTANTS_RECORD, and starts no further test after MUTANTS_SECONDS of processor time. Kernels
run on the first and the last of the levels that this machine runs natively: others would take most of the time."""

from __future__ import annotations

import builtins
import json
import os
import pathlib
import time
from collections.abc import Iterator
from typing import Any

import pytest

from qcompiler.backends.target import known_targets, parse_target
from tests.backends import levels

_NATIVE = [name for name in known_targets() if parse_target(name).execution() == "native"]
levels.LEVELS = tuple(dict.fromkeys((_NATIVE[0], _NATIVE[-1])))

_found: dict[str, Any] = {"imported": [], "tests": {}}
_failed: set[str] = set()


def _taken() -> list[str]:
    """What was noted since the last call."""
    noted: set[str] = builtins._noted_mutants.__self__  # type: ignore[attr-defined]
    keys = sorted(noted)
    noted.clear()
    return keys


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if "MUTANTS_TESTS" in os.environ:
        wanted = json.loads(pathlib.Path(os.environ["MUTANTS_TESTS"]).read_text())
        by_name = {item.nodeid: item for item in items}
        items[:] = [by_name[test] for test in wanted if test in by_name]
    if "MUTANTS_RECORD" in os.environ:
        _found["imported"] = _taken()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    if "MUTANTS_RECORD" not in os.environ:
        return (yield)
    started = time.process_time()
    result = yield
    keys = _taken()
    if item.nodeid not in _failed:
        _found["tests"][item.nodeid] = (round(time.process_time() - started, 3), keys)
    if time.process_time() > float(os.environ["MUTANTS_SECONDS"]):
        item.session.shouldstop = "its processor time is used"
    return result


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.failed or report.skipped:
        _failed.add(report.nodeid)


def pytest_sessionfinish() -> None:
    if "MUTANTS_RECORD" in os.environ:
        pathlib.Path(os.environ["MUTANTS_RECORD"]).write_text(json.dumps(_found))
