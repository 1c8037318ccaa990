"""Compiled models as values: copied, pickled, and sent to other processes."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import qcompiler as qc
from qcompiler.errors import ArtifactError, InputError, LoweringError, QCompilerError

nn = qc.nn
RNG = np.random.default_rng(0)
X = RNG.normal(size=(2, 3, 8, 8)).astype(np.float32)


def _model(**options: object) -> qc.CompiledModel:
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(256, 5)).eval()
    given = {"qconfig": "int8", "calibration_data": [X], **options}
    return qc.compile(net, example_inputs=(X,), **given)  # type: ignore[arg-type]


MODELS = {
    "int8": {},
    "float": {"qconfig": None, "calibration_data": None},
    "any batch": {"dynamic": {0: {0: "B"}}},
    "one thread": {"threads": 1},
    "reference": {"target": "reference"},
    "a lower level": {"target": "x86-64+avx2"},
    "codes": {"io": "quantized"},
}


@pytest.mark.parametrize("name", MODELS)
def test_a_copy_gives_the_same_bits(name: str) -> None:
    try:
        compiled = _model(**MODELS[name])
    except LoweringError as error:
        pytest.skip(str(error))
    x = RNG.integers(0, 255, X.shape).astype(np.uint8) if name == "codes" else X
    want = compiled(x)
    copies = [copy.deepcopy(compiled), copy.copy(compiled)]
    copies += [pickle.loads(pickle.dumps(compiled, protocol)) for protocol in (2, pickle.HIGHEST_PROTOCOL)]
    for each in copies:
        assert np.array_equal(each(x), want)
        assert (each.target, each.threads) == (compiled.target, compiled.threads)
        assert str(each.graph) == str(compiled.graph) and repr(each) == repr(compiled)
        if name == "any batch":
            assert np.array_equal(each(x[:1]), want[:1])
    assert pickle.dumps(copies[-1]) == pickle.dumps(compiled)


def test_a_loaded_model_is_pickled_whole(tmp_path: Path) -> None:
    """It is not pickled as the name of its file, which another machine does not have."""
    path = tmp_path / "m.qc.safetensors"
    compiled = _model()
    compiled.save(path)
    data = pickle.dumps(qc.load(path))
    path.unlink()
    assert np.array_equal(pickle.loads(data)(X), compiled(X))


def test_results_and_errors_come_back_from_other_processes() -> None:
    compiled = _model(dynamic={0: {0: "B"}})
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        parts = list(pool.map(compiled, [X[:1], X[1:]]))
        failed = pool.submit(compiled, X.astype(np.float64)).exception()
    assert np.array_equal(np.concatenate(parts), compiled(X))
    assert isinstance(failed, InputError)
    with pytest.raises(InputError) as caught:
        compiled(X.astype(np.float64))
    assert str(failed) == str(caught.value) and failed.hint == caught.value.hint


def test_errors_are_pickled_as_they_are() -> None:
    for kind in (QCompilerError, *QCompilerError.__subclasses__()):
        error = kind("what", where="here", expected="a", got="b", hint="c")
        again = pickle.loads(pickle.dumps(error))
        assert type(again) is kind and str(again) == str(error)
        assert (again.message, again.where, again.hint) == ("what", "here", "c")


def test_a_target_that_this_machine_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        data = pickle.dumps(_model(target="x86-64+avx512"))
    except LoweringError as error:
        pytest.skip(str(error))
    monkeypatch.setenv("QC_ISA", "avx2")
    with pytest.raises(LoweringError, match="can't run"):
        pickle.loads(data)


def test_damaged_bytes_are_found() -> None:
    function, (data, target, threads) = _model().__reduce__()
    for damaged in (data[:-4], data[:100], b"", data[:-1] + bytes([data[-1] ^ 1])):
        with pytest.raises(ArtifactError, match="in memory"):
            function(damaged, target, threads)
