"""What the declaration of an op promises: typed views, facts that the proofs need, and refusals."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from qcompiler.dims import DimLike
from qcompiler.errors import PassError, VerifyError
from qcompiler.ir import Graph
from qcompiler.opdef import (
    _REGISTRY,
    OWN_RANGE,
    Op,
    QuantKind,
    Trait,
    TypedArray,
    all_ops,
    float_attr,
    index_operand,
    no_accumulator,
    op_of,
    opdef,
    operand,
    weight_operand,
)
from qcompiler.ops.conv import Conv, ConvTranspose
from qcompiler.ops.interfaces import Mover, Weighted
from qcompiler.ops.quantized import Lookup, Observe
from qcompiler.ops.reduce import Sum
from qcompiler.ops.shape import Concat
from qcompiler.passes.verify_integer_safety import VerifyIntegerSafety, why_unsafe
from qcompiler.types import DType, QuantParams, TensorType, tensor

PARAMS = QuantParams.per_tensor(0.5, 0, DType.U8)


@pytest.fixture
def registry() -> Iterator[None]:
    """Removes the ops that a test declares."""
    before = dict(_REGISTRY)
    yield
    _REGISTRY.clear()
    _REGISTRY.update(before)


def _conv(bias: bool = True) -> Conv:
    graph = Graph("test")
    x = graph.add_input("x", tensor("f32", 1, 4, 9, 9))
    w = graph.add_const("w", np.zeros((8, 2, 3, 3), np.float32))
    b = graph.add_const("b", np.zeros(8, np.float32)) if bias else None
    attrs = {"stride": (1, 1), "padding": ((0, 0), (0, 0)), "dilation": (1, 1), "groups": 2}
    return Conv(graph.create("conv", [x, w, b], attrs))


def test_a_view_reads_operands_and_attributes_by_name() -> None:
    conv = _conv()
    assert conv.x is conv.node.operands[0] and conv.weight is conv.node.operands[1]
    assert conv.residual is None and _conv(bias=False).bias is None
    assert conv.stride == (1, 1) and conv.groups == 2 and conv.activation == "none"
    assert (Conv.weight.index, Conv.weight.name, Conv.groups.default) == (1, "weight", 1)


def test_a_view_sees_changes_of_its_node() -> None:
    conv = _conv()
    graph = conv.node.graph
    assert graph is not None
    graph.set_attr(conv.node, "groups", 2)
    graph.set_operand(conv.node, Conv.bias.index, None)
    assert conv.groups == 2 and conv.bias is None


def test_a_view_of_other_attributes() -> None:
    conv = _conv()
    assert Conv(conv.node, {**conv.node.attrs, "groups": 4}).groups == 4


def test_views_are_of_their_op_or_of_an_interface() -> None:
    node = _conv().node
    assert isinstance(op_of(node), Conv) and isinstance(Weighted.of(node), Conv)
    assert ConvTranspose.of(node) is None and Conv.of(None) is None
    with pytest.raises(VerifyError, match="reads conv"):
        ConvTranspose(node)
    with pytest.raises(VerifyError, match="has no node"):
        _ = Conv.from_attrs(node.attrs).x


def test_variadic_operands_come_as_a_tuple() -> None:
    graph = Graph("test")
    x = graph.add_input("x", tensor("f32", 2, 3))
    assert Concat(graph.create("concat", [x, x, x], {"axis": 0})).xs == (x, x, x)


def test_a_copy_of_sum_is_no_safer_than_sum(registry: None) -> None:
    members = {key: member for key, member in vars(Sum).items() if key in ("__doc__", "__module__") or key[:2] != "__"}
    again = type("SumAgain", Sum.__bases__, {**members, "name": "sum_again"})
    for op in ("sum", again.name):
        graph = Graph("test", "integer")
        x = graph.add_input("x", TensorType(DType.U8, (9_000_000,), PARAMS))
        attrs = {"axes": (0,), "keepdims": False}
        node = graph.create(op, [x], attrs, types=TensorType(DType.U8, (), PARAMS))
        graph.set_outputs(node.results)
        assert why_unsafe(node) == f"its i32 accumulator could reach {9_000_000 * 255}"
        with pytest.raises(PassError, match="overflow"):
            VerifyIntegerSafety().run(graph)


def test_an_op_that_does_not_say_what_it_sums_is_refused(registry: None) -> None:
    with pytest.raises(VerifyError, match="does not say how much it sums"):

        class Total(Op):
            """The sum of all elements."""

            name = "total"
            quant = OWN_RANGE
            x = operand()

            def integer(self, x: TypedArray, *, out: TensorType) -> np.ndarray:
                return x.array

    assert "total" not in _REGISTRY


def test_an_op_without_an_integer_meaning_is_not_proven_safe() -> None:
    graph = Graph("test")
    x = graph.add_input("x", tensor("f32", 2, 3))
    node = graph.create("log_softmax", [x], {"axis": 1})
    assert why_unsafe(node) == "it has no integer meaning, so nothing bounds its accumulator"


def test_the_proof_counts_codes_of_any_operand(registry: None) -> None:
    class PickedSum(Op):
        """The sum of x where the condition holds."""

        name = "picked_sum"
        quant = OWN_RANGE
        condition = index_operand()
        x = operand()

        def infer(self, condition: TensorType, x: TensorType) -> TensorType:
            return TensorType(x.dtype, ())

        def reference(self, condition: np.ndarray, x: np.ndarray) -> np.ndarray:
            return x[condition].sum()

        def integer(self, condition: TypedArray, x: TypedArray, *, out: TensorType) -> np.ndarray:
            return x.array

        def terms(self) -> tuple[DimLike, ...]:
            return self.x.type.shape

    graph = Graph("test", "integer")
    condition = graph.add_input("c", tensor("bool", 9_000_000))
    x = graph.add_input("x", TensorType(DType.U8, (9_000_000,), PARAMS))
    node = graph.create(PickedSum.name, [condition, x], types=TensorType(DType.U8, (), PARAMS))
    assert why_unsafe(node) == f"its i32 accumulator could reach {9_000_000 * 255}"


def test_an_op_is_declared_once(registry: None) -> None:
    with pytest.raises(VerifyError, match="declared twice"):

        class Again(Op):
            """Another sum."""

            name = "sum"
            x = operand()

            def infer(self, x: TensorType) -> TensorType:
                return x

            def reference(self, x: np.ndarray) -> np.ndarray:
                return x


def test_an_operand_stands_at_one_position(registry: None) -> None:
    class _Base(Op):
        x = operand()
        weight = weight_operand()

    with pytest.raises(VerifyError, match="two positions"):

        class Other(_Base):
            x = operand()  # now behind the weight, which stood second

    assert [spec.name for spec in _Base.operands] == ["x", "weight"]


def test_fields_of_a_base_class_come_first_unless_declared_again(registry: None) -> None:
    class _Base(Op):
        x = operand()
        eps = float_attr(default=1.0)

    class Later(_Base):
        alpha = float_attr()
        eps = float_attr(default=2.0)

    assert [spec.name for spec in Later.attrs] == ["alpha", "eps"] and Later.attrs[1].default == 2.0


@pytest.mark.parametrize("op", all_ops(), ids=lambda op: op.name)
def test_facts_agree_with_each_other(op: type[Op]) -> None:
    assert issubclass(op, Weighted) == (op.quant.kind is QuantKind.WEIGHTED or bool(op.always_codes))
    assert issubclass(op, Mover) == (Trait.MOVES_DATA in op.traits and op is not Observe)
    rounds = op.integer is not None and Trait.MOVES_DATA not in op.traits and not op.always_codes
    assert op.chooses_params == (rounds and op not in (Lookup, opdef("dequantize")))
    assert not op.keeps_dtype or op.chooses_params
    assert op.integer is None or (op.terms is no_accumulator or op.terms is not Op.terms)
