"""Arguments of wrong types: every parameter of every public function gets one of each.

The answer is a QCompilerError, unless the value is legal for this parameter; errors of Python from inside are failures.
DType is a plain Enum, whose ValueError is Python's own and documented there.
"""

from __future__ import annotations

import inspect
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import qcompiler as qc
from qcompiler.errors import (
    ArgumentError,
    InputError,
    LoweringError,
    PassError,
    QCompilerError,
    QuantizationError,
    TraceError,
    near_name,
)
from qcompiler.passmanager import PassManager
from qcompiler.quantization import observers

X = np.ones((2, 4), np.float32)
W = np.ones((4, 3), np.float32)
nn = qc.nn


def model(x: Any) -> Any:
    return np.maximum(x @ W, 0)


class Anything:
    pass


WRONG: dict[str, Callable[[], object]] = {
    "None": lambda: None,
    "5": lambda: 5,
    "2.5": lambda: 2.5,
    "True": lambda: True,
    "text": lambda: "x",
    "bytes": lambda: b"x",
    "[]": list,
    "{}": dict,
    "object": Anything,
    "f64": lambda: np.ones((2, 4)),
    "array of text": lambda: np.array(["a"]),
    "array of objects": lambda: np.array([None]),
    "type": lambda: int,
    "nested": lambda: [[X]],
    "set": lambda: {1},
    "generator": lambda: iter(()),
}

PREPARED = qc.prepare(qc.trace(model, (X,)), "int8")
CALIBRATION = qc.calibrate(PREPARED, [X])
COMPILED = qc.compile(model, "int8", (X,), calibration_data=[X])
SCALES = qc.Scales.of(PREPARED, CALIBRATION)
CODES = qc.quantize_per_tensor(X, 0.1, 0, "u8")


def _torch_layer() -> Any:
    torch = pytest.importorskip("torch")
    return torch.nn.Sequential(torch.nn.Linear(4, 3))


def _calls(folder: pathlib.Path) -> dict[str, tuple[Callable[..., object], dict[str, Any], dict[str, str]]]:
    """Name -> (a function, arguments that it takes, parameter -> the wrong values that are legal there)."""
    graph, mapping = qc.trace(model, (X,)), qc.QConfigMapping
    instruments = {"instruments": "[]"}
    qconfig = {"qconfig": "None"}
    traced: dict[str, Any] = {"model": model, "example_inputs": (X,), "dynamic": None}
    legal = {"example_inputs": "f64", "dynamic": "None {}"}
    numbers = {"scale": "5 2.5 True", "zero_point": "5 True"}
    per_tensor = {"scale": 0.1, "zero_point": 0, "dtype": qc.DType.U8, "qmin": 0, "qmax": 255}
    spec = {name: p.default for name, p in inspect.signature(qc.QuantSpec).parameters.items()}
    return {
        "compile": (
            qc.compile,
            {**traced, "qconfig": "int8", "calibration_data": [X], "calibration": None, "target": "reference"}
            | {"threads": None, "io": "float", "transform": None, "progress": None, "instruments": ()},
            {**legal, **qconfig, **instruments, "calibration_data": "nested", "calibration": "None"}
            | {"threads": "None 5", "transform": "None", "progress": "None"},
        ),
        "compile with a calibration": (
            qc.compile,
            {**traced, "qconfig": "int8", "calibration": CALIBRATION, "target": "reference"},
            {**legal, **qconfig},
        ),
        "trace": (qc.trace, traced, legal),
        "fuse": (qc.fuse, {**traced, "instruments": ()}, {**legal, **instruments}),
        "prepare": (qc.prepare, {**traced, "qconfig": "int8", "instruments": ()}, {**legal, **instruments}),
        "calibrate": (
            qc.calibrate,
            {"prepared": PREPARED, "data": [X], "transform": None, "progress": None, "executor": None},
            {"data": "nested", "transform": "None", "progress": "None", "executor": "None"},
        ),
        "convert": (
            qc.convert,
            {"prepared": PREPARED, "observers": CALIBRATION, "instruments": ()},
            instruments,
        ),
        "prepare_qat": (
            qc.prepare_qat,
            {"module": _torch_layer(), "qconfig": "int8:plain", "example_inputs": (X,), "dynamic": None}
            | {"schedule": None},
            {**legal, "schedule": "None"},
        ),
        "QatSchedule": (
            qc.QatSchedule,
            {"quantize": 0, "freeze_observers": 1, "freeze_batch_norm": 1, "learn_scales": 1},
            dict.fromkeys(("quantize", "freeze_observers", "freeze_batch_norm", "learn_scales"), "5"),
        ),
        "get_default_qat_qconfig": (qc.get_default_qat_qconfig, {"backend": "x86"}, {}),
        "load": (qc.load, {"path": folder / "none", "target": "reference", "threads": None}, {}),
        "Calibration.load": (qc.Calibration.load, {"path": folder / "none"}, {}),
        "Calibration.save": (CALIBRATION.save, {"path": folder / "c"}, {"path": "text"}),
        "Calibration.merge": (CALIBRATION.merge, {"other": CALIBRATION}, {}),
        "Calibration.for_prepared": (CALIBRATION.for_prepared, {"prepared": PREPARED}, {}),
        "get_qconfig": (qc.get_qconfig, {"name": "int8"}, {}),
        "get_default_qconfig": (qc.get_default_qconfig, {"backend": "x86"}, {}),
        "get_default_qconfig_mapping": (qc.get_default_qconfig_mapping, {"backend": "x86"}, {}),
        "parse": (qc.parse, {"text": str(graph)}, {}),
        "print_graph": (qc.print_graph, {"graph": graph}, {}),
        "interpret": (qc.interpret, {"graph": graph, "inputs": [X]}, {}),
        "check_op": (
            qc.check_op,
            {"op": "relu", "targets": ["x86-64+avx2"], "most_steps": 0.51},
            {"targets": "None []", "most_steps": "5 2.5 True"},
        ),
        "register_exporter": (
            qc.register_exporter,
            {"form": "onnx", "op": None, "write": len, "domain": None, "on_codes": False},
            {},
        ),
        "register_importer": (qc.register_importer, {"source": "onnx", "name": "a::B", "meaning": len}, {}),
        "unregister_importer": (qc.unregister_importer, {"source": "onnx", "name": "a::B"}, {}),
        "register_pass": (qc.register_pass, {"item": None, "before": None, "after": None}, {}),
        "unregister_observer": (qc.unregister_observer, {"name": "none"}, {}),
        "unregister_pass": (qc.unregister_pass, {"name": "none"}, {}),
        "unregister_op": (qc.unregister_op, {"name": "none"}, {}),
        "register_observer": (
            qc.register_observer,
            {"name": "another", "factory": len},
            {"name": "text", "factory": "type"},
        ),
        "set_global": (mapping().set_global, {"qconfig": "int8"}, qconfig),
        "set_object_type": (
            mapping().set_object_type,
            {"kind": "conv", "qconfig": None},
            {"kind": "text type", **qconfig},
        ),
        "set_module_name": (mapping().set_module_name, {"name": "a", "qconfig": None}, {"name": "text", **qconfig}),
        "set_module_name_regex": (
            mapping().set_module_name_regex,
            {"pattern": "a", "qconfig": None},
            {"pattern": "text", **qconfig},
        ),
        "set_module_name_object_type_order": (
            mapping().set_module_name_object_type_order,
            {"name": "a", "kind": "conv", "index": 0, "qconfig": None},
            {"name": "text", "kind": "text type", "index": "5", **qconfig},
        ),
        "QConfig": (
            qc.QConfig,
            {"activation": qc.QuantSpec(), "weight": qc.QuantSpec()},
            {"activation": "None", "weight": "None"},
        ),
        "QConfigMapping": (mapping, {"default": None, "names": {}}, {"default": "None", "names": "{}"}),
        "QuantSpec": (
            qc.QuantSpec,
            spec,
            {"qmin": "5", "qmax": "5", "symmetric": "True", "per_channel": "True", "observer": "text"}
            | {"eps": "5 2.5 True"},
        ),
        "QuantSpec.parse": (qc.QuantSpec.parse, {"text": str(qc.QuantSpec())}, {}),
        "TensorType": (qc.TensorType, {"dtype": qc.DType.F32, "shape": (2, 3)}, {"shape": "[]"}),
        "QuantParams.per_tensor": (
            qc.QuantParams.per_tensor,
            {key: per_tensor[key] for key in ("scale", "zero_point", "dtype")},
            numbers,
        ),
        "Dim.name": (qc.Dim.name, {"name": "B"}, {"name": "text"}),
        "a call": (COMPILED, {"x": X}, {}),
        "draw": (COMPILED.draw, {"path": folder / "a.dot"}, {}),
        "export_onnx": (
            qc.export_onnx,
            {"model": COMPILED, "path": folder / "a.onnx", "form": "qdq"},
            {"path": "text"},
        ),
        "export_python": (qc.export_python, {"model": COMPILED, "path": folder / "a.py"}, {}),
        "to_torch": (qc.to_torch, {"model": COMPILED}, {}),
        "export_text": (qc.export_text, {"model": COMPILED, "path": folder / "a.qir"}, {}),
        "load_text": (qc.load_text, {"path": folder / "none.qir"}, {}),
        "Scales": (qc.Scales, {"lines": {}}, {"lines": "{}"}),
        "Scales.of": (qc.Scales.of, {"prepared": PREPARED, "observers": CALIBRATION}, {}),
        "Scales.diff": (SCALES.diff, {"other": SCALES}, {}),
        "Scales.save": (SCALES.save, {"path": folder / "s.txt"}, {"path": "text"}),
        "Scales.load": (qc.Scales.load, {"path": folder / "none"}, {}),
        "QuantizedTensor": (
            qc.QuantizedTensor,
            {"codes": np.zeros(2, np.uint8), "params": CODES.params, "dtype": "u8"},
            {},
        ),
        "QuantizedTensor.add": (CODES.add, {"other": CODES, "scale": 0.1, "zero_point": 0}, numbers),
        "QuantizedTensor.sort": (CODES.sort, {"axis": 0, "descending": False}, {"axis": "True", "descending": "True"}),
        "QuantizedTensor.topk": (
            CODES.topk,
            {"k": 1, "axis": 0, "largest": True},
            dict.fromkeys(("k", "axis", "largest"), "True"),
        ),
        "QuantizedTensor.clamp": (
            CODES.clamp,
            {"low": 0.0, "high": 1.0},
            dict.fromkeys(("low", "high"), "None 5 2.5 True"),
        ),
        "quantize_per_tensor": (
            qc.quantize_per_tensor,
            {"x": X, "scale": 0.1, "zero_point": 0, "dtype": "u8"},
            {"x": "5 2.5 True [] f64 nested", **numbers},
        ),
        "quantize_per_channel": (
            qc.quantize_per_channel,
            {"x": X, "scales": [0.1, 0.2], "zero_points": 0, "axis": 0, "dtype": "u8"},
            {"x": "f64", "zero_points": "5 True", "axis": "True"},
        ),
        "quantize_dynamic": (
            qc.quantize_dynamic,
            {**traced, "qconfig_spec": None, "dtype": "qint8", "mapping": None, "inplace": False}
            | {"target": "reference", "threads": None},
            {**legal, "qconfig_spec": "None", "mapping": "None", "threads": "None 5"},
        ),
        "save": (COMPILED.save, {"path": folder / "a"}, {"path": "text"}),
        "export_object": (
            COMPILED.export_object,
            {"path": folder / "a.o", "target": "native", "prefix": None, "sizes": None},
            {"prefix": "None text", "sizes": "None {}"},
        ),
    }


NAMES = list(_calls(pathlib.Path()))


@pytest.mark.parametrize("name", NAMES)
def test_wrong_types_give_one_clear_error(
    name: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    calls = _calls(tmp_path)
    if name == "register_observer":
        monkeypatch.setattr(observers, "_OBSERVERS", {})
    monkeypatch.chdir(tmp_path)  # where "x" is written, as a legal path
    function, given, legal = calls[name]
    for parameter in given:
        for kind, make in WRONG.items():
            what = f"{name}({parameter}={kind})"
            try:
                function(**{**given, parameter: make()})
            except QCompilerError as error:
                assert str(error).strip(), what
            except Exception as error:  # noqa: BLE001
                pytest.fail(f"{what}: {type(error).__name__}: {error}")
            else:
                assert kind in legal.get(parameter, "").split(), f"{what} was taken"
    assert capfd.readouterr().err == ""


def test_every_public_function_is_walked() -> None:
    walked = {name.partition(" ")[0].partition(".")[0] for name in NAMES}
    functions = {name for name in qc.__all__ if callable(getattr(qc, name)) and name != "DType"}
    classes = {name for name in functions if isinstance(getattr(qc, name), type)}
    made_by_the_library = {"CompiledModel", "Prepared", "Graph", "Node", "Value", "QuantParams", "Calibration"}
    errors = {name for name in classes if issubclass(getattr(qc, name), QCompilerError)}
    assert functions - errors - made_by_the_library - walked == set()


# -- what people do


def test_batches_where_a_calibration_is_expected() -> None:
    with pytest.raises(ArgumentError, match="calibration_data= takes batches"):
        qc.compile(model, "int8", (X,), calibration=[X, X])
    for wrong, hint in (
        (5, "an iterable"),
        ({"x": X}, r"calibration_data=\[data\]"),
        (lambda: [X], "call the function"),
    ):
        with pytest.raises(ArgumentError, match=hint):
            qc.compile(model, "int8", (X,), calibration_data=wrong)
    with pytest.raises(QuantizationError, match="put it into a list"):
        qc.compile(model, "int8", (X,), calibration_data=X)


def test_a_module_is_prepared_and_fused() -> None:
    linear = nn.Linear(4, 3).eval()
    prepared = qc.prepare(linear, "int8", (X,))
    assert qc.convert(prepared, qc.calibrate(prepared, [X])).stage == "integer"
    assert str(qc.fuse(linear, (X,))) == str(qc.fuse(qc.trace(linear, (X,))))
    for call in (qc.prepare, qc.fuse, qc.trace):
        with pytest.raises(TraceError, match="needs example inputs"):
            call(linear)
    with pytest.raises(QuantizationError, match="only a float graph"):
        qc.prepare(COMPILED.graph)


def test_data_of_another_dtype_names_it_and_the_cure() -> None:
    wide = X.astype(np.float64)
    with pytest.raises(InputError, match=r"(?s)f32\[2,4\].*float64.*astype\(np.float32\)"):
        COMPILED(wide)
    with pytest.raises(QuantizationError, match=r"(?s)f32\[2,4\].*float64.*astype\(np.float32\)"):
        qc.compile(model, "int8", (X,), calibration_data=[wide])


def test_inputs_of_another_rank_give_the_cure() -> None:
    with pytest.raises(InputError, match="not a list that holds it"):
        COMPILED([X])
    with pytest.raises(InputError, match=r"array\[None\]"):
        COMPILED(X[0])


def test_a_pass_that_returns_nothing_is_named() -> None:
    class Forgetful:
        name = "forgetful"

        def run(self, graph: qc.Graph) -> None:
            graph.erase_unused_consts()

    for instruments in ((), (_Watch(),)):
        with pytest.raises(PassError, match="pass 0 forgetful returned no graph"):
            PassManager([Forgetful(), Forgetful()], instruments).run(qc.trace(model, (X,)))  # type: ignore[list-item]


class _Watch:
    def after(self, *args: object) -> None:
        pass


def test_a_transform_s_own_error_says_which_item() -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        qc.calibrate(PREPARED, [X, X], transform=lambda item: item / (1 // 0))
    assert "calibration item 0" in caught.value.__notes__[0]


@pytest.mark.parametrize(
    "name,known,near",
    [
        ("matrix_exp", ["argmax", "exp", "matmul"], None),
        ("cholesky", ["choose", "cos"], None),
        ("histgram", ["histogram", "minmax"], "histogram"),
        ("avx521", ["avx2", "avx512"], "avx512"),
        ("GPU", ["native"], None),
        ("cpu", ["native"], None),
    ],
)
def test_a_hint_names_what_is_near_and_nothing_else(name: str, known: list[str], near: str | None) -> None:
    assert near_name(name, known) == near


def test_hints_know_other_words_for_a_thing() -> None:
    for target, meant in (("cpu", "'native'"), ("avx2", r"'x86-64\+avx2'"), ("arm64", r"'aarch64\+neon'")):
        with pytest.raises(LoweringError, match=f"did you mean {meant}"):
            qc.compile(model, None, (X,), target=target)
    for qconfig, meant in (("fbgemm", "torch:fbgemm"), ("static", "int8"), ("entropy", "int8:kl"), ("int9", "int8")):
        with pytest.raises(QuantizationError, match=f"did you mean '{meant}'"):
            qc.compile(model, qconfig, (X,), calibration_data=[X])
    with pytest.raises(LoweringError) as caught:
        qc.compile(model, None, (X,), target="quantum")
    assert "did you mean" not in str(caught.value)


def test_sum_of_calibrations() -> None:
    parts = [qc.calibrate(PREPARED, [X * k]) for k in (1, 2, 3)]
    whole = qc.calibrate(PREPARED, [X, X * 2, X * 3])
    total = sum(parts)
    assert isinstance(total, qc.Calibration)
    assert {group: observer.qparams() for group, observer in total.items()} == {
        group: observer.qparams() for group, observer in whole.items()
    }
    with pytest.raises(TypeError):
        sum(parts, 1)  # type: ignore[call-overload]


def test_reprs_are_short() -> None:
    for item in (COMPILED, COMPILED.graph, CALIBRATION, PREPARED, COMPILED.report(), qc.QuantSpec()):
        assert len(repr(item)) < 240 and repr(item).count("\n") < 4, repr(item)
    assert repr(COMPILED).startswith("<CompiledModel model(x: f32[2,4]) for ")
