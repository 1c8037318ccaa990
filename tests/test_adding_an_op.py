"""The examples of docs/adding-an-op.md run, and their ops are quantized, proven and lowered as the page says."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qcompiler as qc
from qcompiler.backends.lowering.rule import _RULES
from qcompiler.backends.rules import load as load_rules
from qcompiler.ir import Graph
from qcompiler.opdef import _REGISTRY, all_ops, opdef
from qcompiler.passes.verify_integer_safety import why_unsafe
from qcompiler.types import DType, QuantParams, TensorType, tensor, type_of

PAGE = Path(__file__).parents[1] / "docs" / "adding-an-op.md"
X = np.linspace(-1, 1, 16, dtype=np.float32).reshape(2, 8)


@pytest.fixture
def page() -> Iterator[dict[str, Any]]:
    """The names that the examples define. The ops and rules that they declare are removed after the test."""
    all_ops()  # loads them all
    load_rules()
    ops, rules = dict(_REGISTRY), {op: list(found) for op, found in _RULES.items()}
    namespace: dict[str, Any] = {"__name__": "qcompiler.ops.example"}
    try:
        for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL):
            exec(compile(block, str(PAGE), "exec"), namespace)
        yield namespace
    finally:  # also if an example fails, so that no other test meets its ops
        _REGISTRY.clear()
        _REGISTRY.update(ops)
        _RULES.clear()
        _RULES.update(rules)


def test_the_examples_run_as_float_and_int8(page: dict[str, Any]) -> None:
    graph: Graph = page["graph"]
    wanted = 1 - np.cos(np.abs(X).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(qc.compile(graph, None, target="reference")(X), wanted, rtol=1e-6)
    compiled = qc.compile(graph, "int8:plain", calibration_data=[(X,)], target="reference")
    assert [node.op for node in compiled.graph.nodes if node.result.type.is_quantized] == [
        "quantize",
        "l1_norm",
        "lookup",
    ]
    np.testing.assert_allclose(compiled(X), wanted, atol=0.02)


@pytest.mark.parametrize("name", ["l1_norm", "versine", "mirror"])
def test_infer_agrees_with_reference(page: dict[str, Any], name: str) -> None:
    op = opdef(name)
    assert len(op.samples()) == 5
    for sample in op.samples():
        arrays = [np.ones(operand.shape, np.float32) for operand in sample.operands if operand is not None]
        attrs = op.complete_attrs(sample.attrs)
        (inferred,) = op.infer_types([type_of(array) for array in arrays], attrs)
        assert inferred.shape == op.run_reference(arrays, attrs)[0].shape


def test_the_overflow_proof_reads_its_terms(page: dict[str, Any]) -> None:
    params = QuantParams.per_tensor(0.1, 0, DType.U8)
    for size, safe in ((8_421_504, True), (8_421_505, False)):
        graph = Graph("test", "integer")
        x = graph.add_input("x", TensorType(DType.U8, (size,), params))
        node = graph.create("l1_norm", [x], types=TensorType(DType.U8, (), params))
        assert (why_unsafe(node) is None) == safe


def test_the_rule_lowers_it(page: dict[str, Any]) -> None:
    graph = Graph("test")
    x = graph.add_input("x", tensor("f32", 2, 8))
    graph.set_outputs(graph.create("mirror", [x]).results)
    compiled = qc.compile(graph, None)
    np.testing.assert_array_equal(compiled(X), X[:, ::-1])
    assert "numpy" not in str(compiled.report())
