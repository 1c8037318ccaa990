"""ONNX's own node tests on the interpreter, for every op that the importer claims.

Operands that the IR wants constant (shapes, axes, quantization parameters) are inputs in these tests. If an import is
refused for that reason, the inputs after the first become initializers. refused.txt lists each test that is still
refused, with the reason, and the list is exact. Floats have the bound of onnx's own runner: rtol 1e-3, with
numpy.testing's atol of 1e-6.
"""

from __future__ import annotations

import collections
import pathlib
import warnings
from functools import cache
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from qcompiler.errors import InputError, QCompilerError
from qcompiler.frontend.onnx_import import has_meaning, import_onnx, op_key
from qcompiler.frontend.onnx_ops import all_ops, table
from qcompiler.interpreter import run
from tests.frontend.onnx.one_op_models import SEQUENCES

REFUSED = pathlib.Path(__file__).parent / "refused.txt"
WITHOUT_NODE_TEST = {
    "com.microsoft.Attention",
    "com.microsoft.BiasGelu",
    "com.microsoft.DequantizeLinear",
    "com.microsoft.DynamicQuantizeLSTM",
    "com.microsoft.DynamicQuantizeMatMul",
    "com.microsoft.EmbedLayerNormalization",
    "com.microsoft.FastGelu",
    "com.microsoft.FusedMatMul",
    "com.microsoft.Gelu",
    "com.microsoft.MatMulIntegerToFloat",
    "com.microsoft.MultiHeadAttention",
    "com.microsoft.QAttention",
    "com.microsoft.QEmbedLayerNormalization",
    "com.microsoft.QGemm",
    "com.microsoft.QLinearAdd",
    "com.microsoft.QLinearConcat",
    "com.microsoft.QLinearGlobalAveragePool",
    "com.microsoft.QLinearLeakyRelu",
    "com.microsoft.QLinearMul",
    "com.microsoft.QLinearSigmoid",
    "com.microsoft.QLinearSoftmax",
    "com.microsoft.QuantizeLinear",
    "com.microsoft.QuickGelu",
    "com.microsoft.SkipLayerNormalization",
    "com.microsoft.SkipSimplifiedLayerNormalization",
    "NonZero",
    "Scatter",
    "SimplifiedLayerNormalization",
    "Upsample",
}
"""Ops that no node test can reach: they are not ONNX's own or not in the newest opset, or need a known operand."""


@cache
def cases() -> dict[str, Any]:
    """Test name -> case, for models of claimed ops alone at opset 11 or newer."""
    from onnx.backend.test.loader import load_model_tests

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = {}
        for case in load_model_tests(kind="node"):
            if _at_opset_11(case.model) and all(
                has_meaning(node, _opset(case.model)) for node in case.model.graph.node
            ):
                found[case.name] = case
        return found


def _opset(model: onnx.ModelProto) -> int:
    return max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=1)


def _at_opset_11(model: onnx.ModelProto) -> bool:
    """Whether the model is of opset 11 or newer, or was converted to it: its ops mean the same there."""
    for entry in model.opset_import:
        if entry.domain in ("", "ai.onnx") and entry.version < 11:
            for node in model.graph.node:
                if onnx.defs.get_schema(node.op_type, 11).since_version > entry.version:
                    return False
            entry.version = 11
    return True


def _array(value: Any) -> Any:
    if isinstance(value, onnx.TensorProto):
        return numpy_helper.to_array(value)
    return value


def _imported(model: onnx.ModelProto, inputs: list[np.ndarray]) -> tuple[Any, list[np.ndarray]]:
    given = {value.name: array for value, array in zip(model.graph.input, inputs)}
    try:
        return import_onnx(model, given), inputs
    except QCompilerError as error:
        if "computed from data" not in str(error) and "not constant" not in str(error):
            raise
    frozen = onnx.ModelProto()
    frozen.CopyFrom(model)
    names = [value.name for value in model.graph.input]
    for name, array in list(zip(names, inputs))[1 if len(names) > 1 else 0 :]:
        frozen.graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
    kept = names[:1] if len(names) > 1 else []
    return import_onnx(frozen, {name: given[name] for name in kept}), inputs[: len(kept)]


def _outcome(case: Any) -> str | None:
    """None if the outputs agree, otherwise why the import was refused."""
    for inputs, outputs in case.data_sets:
        arrays, expected = [_array(v) for v in inputs], [_array(v) for v in outputs]
        if any(not isinstance(v, np.ndarray | np.generic) for v in (*arrays, *expected)):
            return "sequences and optionals"
        try:
            graph, arrays = _imported(case.model, arrays)
        except QCompilerError as error:
            return error.message
        try:
            results = run(graph, [np.asarray(a, v.type.dtype.numpy) for v, a in zip(graph.inputs, arrays)])
        except InputError as error:
            return error.message
        for got, want in zip(results, expected):
            assert got.shape == np.shape(want)
            if got.dtype.kind == "f":
                rtol = 2e-3 if np.asarray(want).dtype == np.float16 else 1e-3  # f16 answers are rounded in each step
                np.testing.assert_allclose(got.astype(np.float64), np.asarray(want, np.float64), rtol=rtol, atol=1e-6)
            else:
                np.testing.assert_array_equal(got, np.asarray(want))
    return None


def _listed() -> dict[str, str]:
    lines = [line.partition(": ") for line in REFUSED.read_text().splitlines() if line and not line.startswith("#")]
    return {name: reason for name, _, reason in lines}


def test_every_claimed_op_agrees_with_onnx(request: pytest.FixtureRequest) -> None:
    passed: collections.Counter[str] = collections.Counter()
    refused, wrong = {}, {}
    for name, case in cases().items():
        try:
            reason = _outcome(case)
        except (AssertionError, ValueError, TypeError, IndexError) as error:
            wrong[name] = " ".join(str(error).split())[:300]
            continue
        if reason is None:
            passed.update({op_key(node) for node in case.model.graph.node})
        else:
            refused[name] = " ".join(reason.split())
    assert not wrong, "\n".join(f"{name}: {text}" for name, text in wrong.items())
    if request.config.getoption("--update-golden"):
        REFUSED.write_text(
            "# onnx node tests that the importer refuses, and why\n"
            + "".join(f"{n}: {r}\n" for n, r in sorted(refused.items()))
        )
    assert refused == _listed()
    assert set(table()) - set(passed) - SEQUENCES == WITHOUT_NODE_TEST
    decomposed = {op for op in all_ops.all_ops() if all_ops.status(op).startswith("decomposed")}
    assert decomposed <= set(passed), "docs/ops.md says that these are decomposed"
    assert sum(passed.values()) > 1500
