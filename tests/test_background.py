"""A call in the background gives what the call itself gives, on any number of CPUs and where no thread starts."""

from __future__ import annotations

import threading

import pytest

from qcompiler import background as beside
from qcompiler.background import Background, run_all


@pytest.fixture(params=["two CPUs", "one CPU", "no thread"], autouse=True)
def machine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(beside, "usable_cpus", lambda: 1 if request.param == "one CPU" else 2)
    if request.param == "no thread":

        def refuse(self: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        monkeypatch.setattr(threading.Thread, "start", refuse)
    return request.param


def test_results_and_errors_come_back() -> None:
    assert Background(lambda: 6 * 7).result() == 42
    with pytest.raises(ZeroDivisionError):
        Background(lambda: 1 // 0).result()


def test_it_runs_on_another_thread_where_there_is_one(machine: str) -> None:
    where = Background(threading.get_ident).result()
    assert (where != threading.get_ident()) == (machine == "two CPUs")


def test_every_task_runs_once() -> None:
    done: list[int] = []
    run_all([lambda i=i: done.append(i) for i in range(200)])
    assert sorted(done) == list(range(200))


@pytest.mark.parametrize("bad", [0, 7, 19])
def test_an_error_of_a_task_is_raised(bad: int) -> None:
    def task(i: int) -> None:
        if i == bad:
            raise ValueError(f"task {i}")

    with pytest.raises(ValueError, match=f"task {bad}"):
        run_all([lambda i=i: task(i) for i in range(20)])
