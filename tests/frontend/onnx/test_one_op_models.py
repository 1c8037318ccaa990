"""Every ONNX op that the importer maps means what ONNX says, or is refused: random models of one node each."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from qcompiler.errors import QCompilerError
from qcompiler.frontend.onnx_import import import_onnx
from qcompiler.frontend.onnx_ops import table
from qcompiler.frontend.onnx_ops.refusals import REFUSALS, Refusal
from tests.frontend.onnx.one_op_models import RECURRENT, SEQUENCES, Case, check, draw, unchecked
from tests.frontend.onnx.recipes import RECIPES

SAMPLED, MORE, ALL = 24, 120, 600
"""How many seeds of each op run in `make test`, in `make test-all`, and in `make test-every`. The door `ops-onnx` of
`make fuzz` draws without end."""


def test_every_mapped_op_has_a_recipe() -> None:
    quantized = {"QuantizeLinear", "DequantizeLinear", "QLinearConv", "QLinearMatMul"}
    quantized |= {"DynamicQuantizeLinear", "MatMulInteger", "ConvInteger"}  # test_onnx_dynamic.py
    quantized |= {"SimplifiedLayerNormalization"}  # of ONNX Runtime, test_onnx_dynamic.py
    assert unchecked() == quantized | SEQUENCES | RECURRENT, "an op without a recipe is not compared with ONNX"
    assert set(RECIPES) <= set(table())


def _outcomes(op: str, seeds: range) -> Iterator[tuple[int, Case, str]]:
    for seed in seeds:
        case = draw(seed, op)
        target = "native" if seed % 4 == 3 else "reference"
        try:
            yield seed, case, check(case, target)
        except Exception as error:
            raise AssertionError(f"seed {seed}, {target}: {case}\n{type(error).__name__}: {error}") from error


def _agrees(op: str, seeds: range) -> None:
    right = 0
    for seed, case, refusal in _outcomes(op, seeds):
        known = not refusal or any(row.fits(op, refusal.removeprefix(f"{op}: ")) for row in REFUSALS)
        assert known, f"seed {seed}: a refusal that the table lacks: {refusal}\n{case}"
        right += not refusal
    assert right > len(seeds) // 4, f"{op} is nearly always refused"


@pytest.mark.parametrize("op", sorted(RECIPES))
def test_an_op_agrees_with_onnx(op: str) -> None:
    _agrees(op, range(SAMPLED))


def _case(op: str, *operands: np.ndarray | None, opset: int = 21, out: int = 0, **attrs: object) -> Case:
    """A case whose first operand is an input and whose result has its type, or `out`."""
    types = [0 if x is None else helper.np_dtype_to_tensor_dtype(x.dtype) for x in operands]
    rest = range(1, len(operands))
    return Case(op, opset, operands, dict(attrs), frozenset(rest), frozenset({0}), types, [out or types[0]])


BYTES = np.array([[5, 0, 3, 255, 0]], np.uint8)
WIDE = np.array([2**24 + 1, 2**31 - 1, -(2**63), 2**62 + 1], np.int64)
FIVE = np.arange(5, dtype=np.float32)


def _slice(start: int, end: int, step: int = -1) -> Case:
    return _case("Slice", FIVE, *(np.array([v]) for v in (start, end, 0, step)))


NAMED = {
    "ArgMin of bytes": _case("ArgMin", BYTES, axis=1, out=TensorProto.INT64),
    "the last ArgMin": _case("ArgMin", BYTES, axis=1, select_last_index=1, out=TensorProto.INT64),
    "Div by 1": _case("Div", WIDE, np.int64([1])),
    "Div by 7": _case("Div", WIDE, np.int64([7])),
    "Div by -1": _case("Div", WIDE, np.int64([-1])),
    "Mod by -3": _case("Mod", WIDE, np.int64([-3])),
    "Mod by -3, truncated": _case("Mod", WIDE, np.int64([-3]), fmod=1),
    "Pow beyond 2^24": _case("Pow", np.int32([4097, -4097, 3]), np.int64([2])),
    "ReduceMean of ints": _case("ReduceMean", np.int32([1, 2, 4, -10]), keepdims=0),
    "Relu of bytes": _case("Relu", np.int8([-128, 0, 127])),
    "Equal beyond 2^24": _case("Equal", WIDE, WIDE - 1, out=TensorProto.BOOL),
    "Slice of INT_MIN": _slice(-(2**31), -(2**31)),
    "Slice of the least int64": _slice(-(2**63), -(2**63)),
    "Slice from INT_MIN to 0": _slice(-(2**31), 0),
    "Slice from INT_MAX": _slice(2**63 - 1, -(2**63), -2),
    "Clip with min above max": _case("Clip", FIVE, np.float32(3.5), np.float32(1.5)),
    "Sinh near 0": _case("Sinh", np.float32([1e-20, -1e-5, 0.0, -0.0, 1e-3, 88.9, -89.0])),
    "Softmax of opset 12": _case("Softmax", np.float32([[[1, 2], [3, 4]], [[5, 5], [0, 9]]]), opset=12, axis=1),
    "a scalar's ReduceSumSquare": _case("ReduceSumSquare", np.float32(3.0)),
}


@pytest.mark.parametrize("name", NAMED)
def test_a_case_agrees_with_onnx(name: str) -> None:
    for target in ("reference", "native"):
        assert check(NAMED[name], target) == ""


@pytest.mark.exhaustive
@pytest.mark.parametrize("first,end", [(SAMPLED, MORE), pytest.param(MORE, ALL, marks=pytest.mark.every)])
@pytest.mark.parametrize("op", sorted(RECIPES))
def test_an_op_agrees_with_onnx_in_more_cases(op: str, first: int, end: int) -> None:
    _agrees(op, range(first, end))


def _occurs(row: Refusal) -> bool:
    """Whether a random model of one of the row's ops is refused for the row's reason."""
    for op in sorted(RECIPES) if row.ops == "any" else row.ops.split():
        for seed in range(ALL):
            if row.at_call:
                if row.fits(op, check(draw(seed, op), "reference")):
                    return True
                continue
            model = draw(seed, op).model()
            for value in model.graph.input if row.open_sizes else ():
                for axis, size in enumerate(value.type.tensor_type.shape.dim):
                    size.dim_param = f"{value.name}{axis}"
            try:
                import_onnx(model)
            except QCompilerError as error:
                if row.fits(op, error.message):
                    return True
    return False


@pytest.mark.exhaustive
def test_every_row_of_the_table_occurs() -> None:
    missing = [row.what for row in REFUSALS if not _occurs(row)]
    assert not missing


UNSUPPORTED = [
    number
    for number in TensorProto.DataType.values()
    if number not in (0, 1, 2, 3, 5, 6, 7, 9, 10, 11)  # undefined, and the types that inputs may have
]


@pytest.mark.parametrize("number", UNSUPPORTED, ids=TensorProto.DataType.Name)
def test_other_element_types_are_refused(number: int) -> None:
    def model(nodes: list[onnx.NodeProto], type: int, held: list[onnx.TensorProto]) -> onnx.ModelProto:
        inputs = [] if held else [helper.make_tensor_value_info("x", type, [2])]
        outputs = [helper.make_tensor_value_info("y", 0, None)]
        return helper.make_model(helper.make_graph(nodes, "one", inputs, outputs, held))

    with pytest.raises(QCompilerError, match="unsupported type"):
        import_onnx(model([helper.make_node("Identity", ["x"], ["y"])], number, []))
    with pytest.raises(QCompilerError, match="type is not supported"):
        import_onnx(model([helper.make_node("Cast", ["x"], ["y"], to=number)], TensorProto.FLOAT, []))
    if number in (TensorProto.BFLOAT16, TensorProto.COMPLEX64, TensorProto.COMPLEX128):
        return  # bfloat16 becomes f32, with a note
    text = number == TensorProto.STRING
    held = helper.make_tensor("x", number, [2], [b"1", b"2"] if text else np.ones(2))
    with pytest.raises(QCompilerError, match="type is not supported"):
        import_onnx(model([helper.make_node("Identity", ["x"], ["y"])], 0, [held]))
