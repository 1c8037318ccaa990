"""Calibration on the workers of an executor: the bits of one process, whatever happens to a worker."""

from __future__ import annotations

import logging
import multiprocessing
import os
import pathlib
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import numpy as np
import pytest

import qcompiler as qc
from qcompiler import knobs, nn
from qcompiler.errors import ArgumentError, QuantizationError
from qcompiler.quantization import executors
from tests.quantization.test_compiled_calibration import state

RNG = np.random.default_rng(0)
X = RNG.normal(size=(2, 3, 8, 8)).astype(np.float32)
DATA = [(RNG.normal(size=X.shape) * 2.0 ** (i % 5)).astype(np.float32) for i in range(37)]
MODEL = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.Flatten(), nn.Linear(64, 5))
PREPARED = qc.prepare(MODEL, "int8", (X,))
OVERFLOWING = qc.prepare(lambda x: np.maximum(x * np.float32(1e30) @ np.ones((8, 8), np.float32), 0), "int8", (X,))


def everything(calibration: qc.Calibration, path: pathlib.Path) -> bytes:
    """All that a calibration holds, as the bytes of its file."""
    calibration.save(path)
    return path.read_bytes()


@pytest.fixture
def expected(tmp_path: pathlib.Path) -> bytes:
    return everything(qc.calibrate(PREPARED, DATA), tmp_path / "expected")


def _kill(function: Callable[..., Any], flag: str, *args: Any) -> Any:
    """Run a call, but the first worker that finds the flag removes it and is killed."""
    try:
        os.unlink(flag)
    except FileNotFoundError:
        return function(*args)
    os.kill(os.getpid(), signal.SIGKILL)
    return None


class Deadly(ProcessPoolExecutor):
    """A process pool, one of whose processes is killed in the middle of its `call`-th call."""

    def __init__(self, flag: pathlib.Path, call: int, **options: Any) -> None:
        super().__init__(2, **options)
        self._flag, self._call, self._count = flag, call, 0

    def submit(self, function: Callable[..., Any], /, *args: Any, **named: Any) -> Future[Any]:
        self._count += 1
        if self._count == self._call:
            self._flag.write_text("")
            return super().submit(_kill, function, str(self._flag), *args, **named)
        return super().submit(function, *args, **named)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_processes_give_the_same_bits(method: str, expected: bytes, tmp_path: pathlib.Path) -> None:
    with ProcessPoolExecutor(2, multiprocessing.get_context(method)) as pool:
        assert everything(qc.calibrate(PREPARED, DATA, executor=pool), tmp_path / "c") == expected
        assert qc.calibrate(OVERFLOWING, [np.full_like(X, 1e20)], executor=pool).not_finite


@pytest.mark.parametrize("threads", [None, 1, 2])
def test_threads_give_the_same_bits(threads: int | None, expected: bytes, tmp_path: pathlib.Path) -> None:
    with ThreadPoolExecutor(3) as pool:
        found = qc.calibrate(PREPARED, iter(DATA), executor=pool, threads=threads)
    assert everything(found, tmp_path / "c") == expected


@pytest.mark.parametrize("call", [1, 2, 4])
def test_the_items_of_a_killed_worker_are_done_again(
    call: int, expected: bytes, tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[int] = []
    with Deadly(tmp_path / "flag", call) as pool:
        found = qc.calibrate(PREPARED, DATA, executor=pool, progress=seen.append)
        with pytest.raises(BrokenProcessPool):
            pool.submit(int)
    assert everything(found, tmp_path / "c") == expected
    assert seen == [8, 16, 24, 32, 37] and caplog.text.count("lost workers") == 1


def test_an_executor_that_is_broken_before(expected: bytes, tmp_path: pathlib.Path) -> None:
    with Deadly(tmp_path / "flag", 1) as pool:
        with pytest.raises(BrokenProcessPool):
            pool.submit(int).result()
        assert everything(qc.calibrate(PREPARED, DATA, executor=pool), tmp_path / "c") == expected


def test_items_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of endless data only a few chunks are under way."""
    taken = 0
    running: list[Future[Any]] = []

    class Slow:
        def submit(self, function: Callable[..., Any], /, *args: Any) -> Future[Any]:
            future: Future[Any] = Future()
            running.append(future)
            assert taken <= (len(running)) * 8
            future.set_result(function(*args))
            return future

    def data() -> Iterator[np.ndarray]:
        nonlocal taken
        for item in DATA * 3:
            taken += 1
            yield item

    monkeypatch.setattr(executors, "usable_cpus", lambda: 1)
    results = []
    qc.calibrate(PREPARED, data(), executor=Slow(), progress=lambda count: results.append((count, taken)))
    assert results[0] == (8, 16) and all(taken - count <= 8 for count, taken in results[:-2])


@pytest.mark.parametrize(
    "sizes,chunks", [([4] * 20, [8, 8, 4]), ([9 << 20] * 3, [1, 1, 1]), ([3 << 20] * 7, [3, 3, 1])]
)
def test_chunks_are_bounded_in_items_and_bytes(sizes: list[int], chunks: list[int]) -> None:
    items = ([np.empty(size, np.uint8)] for size in sizes)
    assert [len(chunk) for chunk in executors._chunks(items)] == chunks


def test_files_for_processes_are_removed(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with ProcessPoolExecutor(1) as pool:
        qc.calibrate(PREPARED, DATA[:2], executor=pool)
        assert not list(tmp_path.glob("*.qc.safetensors"))
        with pytest.raises(QuantizationError):
            qc.calibrate(PREPARED, [DATA[0], X[:1]], executor=pool)
    assert not list(tmp_path.glob("*.qc.safetensors"))


@pytest.mark.parametrize("qconfig", ["torch:fbgemm", "torch:x86"])
def test_observers_that_depend_on_the_order_are_refused_before_any_work(qconfig: str) -> None:
    class Never:
        def submit(self, *args: Any) -> Any:
            raise AssertionError

    with pytest.raises(QuantizationError, match="several workers cannot calibrate(.|\n)*histogram or minmax"):
        qc.calibrate(qc.prepare(MODEL, qconfig, (X,)), DATA, executor=Never())


@pytest.mark.parametrize("wrong", [5, "processes", ProcessPoolExecutor, [ThreadPoolExecutor]], ids=str)
def test_what_is_no_executor(wrong: object) -> None:
    with pytest.raises(ArgumentError, match="an object with submit"):
        qc.calibrate(PREPARED, DATA, executor=wrong)  # type: ignore[arg-type]


def test_bad_items_are_found_before_they_are_sent() -> None:
    with ThreadPoolExecutor(1) as pool:
        for data, text in (([], "empty"), ([X, X[:, :2]], "item 1"), ([(X, 1)], "label")):
            with pytest.raises(QuantizationError, match=text):
                qc.calibrate(PREPARED, data, executor=pool)


def test_an_error_of_the_executor_passes() -> None:
    class Fails(Executor):
        def submit(self, *args: Any, **named: Any) -> Future[Any]:
            future: Future[Any] = Future()
            future.set_exception(MemoryError("in the worker"))
            return future

    with pytest.raises(MemoryError, match="in the worker"):
        qc.calibrate(PREPARED, DATA, executor=Fails())


def test_dask(expected: bytes, tmp_path: pathlib.Path) -> None:
    """Workers of a cluster; one is killed, and Dask itself gives its items to another."""
    try:
        import distributed
    except ModuleNotFoundError:
        message = "distributed is not installed: pip install '.[dask]'"
        pytest.fail(message) if knobs.REQUIRE_ALL.get() else pytest.skip(message)
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    options: dict[str, Any] = {"dashboard_address": None, "local_directory": str(tmp_path)}
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=True, **options) as cluster,
        distributed.Client(cluster) as client,
    ):
        assert everything(qc.calibrate(PREPARED, DATA, executor=client), tmp_path / "c") == expected
        killed: list[int] = []

        def kill(count: int) -> None:
            if not killed:
                killed.extend(client.run(os.getpid).values())
                os.kill(killed[0], signal.SIGKILL)

        found = qc.calibrate(PREPARED, DATA, executor=client, progress=kill)
        assert killed and everything(found, tmp_path / "c") == expected


def test_states_agree_with_those_of_items_one_by_one() -> None:
    with ThreadPoolExecutor(2) as pool:
        assert state(qc.calibrate(PREPARED, DATA[:3], executor=pool)) == state(qc.calibrate(PREPARED, DATA[:3]))
