"""The verifier's rules for quantized types: what conversions and integer ops may read and give."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qcompiler.errors import VerifyError
from qcompiler.ir import Graph, Node
from qcompiler.opdef import OpDef, QuantKind, Role, Trait, op_of
from qcompiler.ops.interfaces import Conversion
from qcompiler.ops.quantized import Lookup, Observe, Quantize, Requantize
from qcompiler.quantization import qmath
from qcompiler.stages import Stage
from qcompiler.types import DType, QuantParams, TensorType
from qcompiler.violation import fail


def is_conversion(definition: OpDef) -> bool:
    """Whether an op is checked by `check_conversion`, not as an op that computes."""
    return issubclass(definition, (Conversion, Lookup, Observe))


def check_quantization(graph: Graph, node: Node, definition: OpDef, stage: Stage) -> None:
    """Check the types of a node that reads or gives quantized values, other than a conversion."""
    types = [None if value is None else value.type for value in node.operands]
    outs = [value.type for value in node.results]
    reads = any(type is not None and type.quant is not None for type in types)
    writes = any(type.quant is not None for type in outs)
    if is_conversion(definition) or not (reads or writes):
        return
    if not stage.integer_ops:
        fail(
            graph,
            node,
            f"{node.op} works on quantized values in a graph of stage {stage.name}",
            hint="insert dequantize",
        )
    if not all(type.quant is not None for type in outs):
        fail(graph, node, f"{node.op} reads quantized values but gives real ones", hint="insert dequantize before it")
    if not reads:
        fail(graph, node, f"{node.op} gives a quantized value from real ones", hint="insert quantize after it")
    for index, type in enumerate(types):
        spec = definition.spec(index)
        wants = spec.role in (Role.ACTIVATION, Role.WEIGHT, Role.BIAS)
        if type is not None and (type.quant is not None) != wants:
            fail(
                graph,
                node,
                f"operand {spec.name} of an integer {node.op}",
                expected="quantized" if wants else "not quantized",
                got=str(type),
            )
    if not definition.has_integer_meaning():
        fail(graph, node, f"{node.op} has no meaning on quantized values", hint="insert dequantize before it")
    _check_rule(graph, node, definition, types, outs[0])


def check_conversion(graph: Graph, node: Node) -> None:
    """Check the types of an op between real and quantized tensors."""
    op, source, out = op_of(node), _operand_type(node, "x"), node.result.type
    if isinstance(op, Observe):
        if source != out:
            fail(graph, node, "observe is the identity", expected=str(source), got=str(out))
        return
    reads, writes = source.quant is not None, out.quant is not None
    wanted = (op.reads_codes, op.gives_codes) if isinstance(op, Conversion) else (True, True)
    if (reads, writes) != wanted:
        fail(
            graph,
            node,
            f"operand and result of {node.op}",
            got=f"{source}, {out}",
            expected=", ".join("quantized" if quantized else "real" for quantized in wanted),
        )
    if isinstance(op, Quantize) and source.dtype is not DType.F32:
        fail(graph, node, "quantize reads f32", got=str(source))
    if writes and out.dtype.bits > 16:
        fail(graph, node, f"the result of {node.op} has at most 16 bits", got=str(out))
    if reads and writes and not (_is_per_tensor(source) and _is_per_tensor(out)):
        fail(graph, node, f"{node.op} is per tensor", got=f"{source}, {out}")
    if isinstance(op, Requantize) and source.dtype.bits > 16:
        fail(graph, node, "requantize reads at most 16 bits", got=str(source))
    if isinstance(op, Lookup):
        table = _operand_type(node, "table")
        if source.dtype not in (DType.U8, DType.I8) or table.dtype is not out.dtype or table.quant is not None:
            fail(
                graph,
                node,
                "lookup reads 8 bits, and a table of plain codes of the result's dtype",
                expected=f"{out.dtype}[256]",
                got=f"{source}, {table}",
            )


def _check_rule(
    graph: Graph, node: Node, definition: OpDef, types: Sequence[TensorType | None], out: TensorType
) -> None:
    rule = definition.quant
    activations = [(i, t) for i, t in enumerate(types) if t is not None and definition.spec(i).role is Role.ACTIVATION]
    if definition.integer is None and Trait.MOVES_DATA in definition.traits:
        for index, type in activations:
            if type.dtype is not out.dtype or _without_axis(type.params) != _without_axis(out.params):
                fail(
                    graph,
                    node,
                    f"{node.op} moves codes: operand {index} and result have equal parameters",
                    expected=str(type),
                    got=str(out),
                )
        return
    for index, type in activations:
        if not _is_per_tensor(type) or type.dtype.bits > 16:
            fail(
                graph,
                node,
                "activations are per tensor and have at most 16 bits",
                expected=f"operand {index} per tensor",
                got=str(type),
            )
    if not _is_per_tensor(out) or out.dtype.bits > 16:
        fail(
            graph,
            node,
            "activations are per tensor and have at most 16 bits",
            expected="a per-tensor result",
            got=str(out),
        )
    if definition.integer is None and activations[0][1].dtype not in (DType.U8, DType.I8):
        fail(graph, node, f"{node.op} becomes a table of 256 entries", expected="u8 or i8", got=str(activations[0][1]))
    if rule.kind is QuantKind.WEIGHTED:
        _check_weighted(graph, node, definition)


def _check_weighted(graph: Graph, node: Node, definition: OpDef) -> None:
    x, weight = _operand_type(node, "x"), _operand_type(node, "weight")
    axis = weight.params.axis
    if axis not in (None, definition.quant.weight_axis):
        fail(graph, node, "channel axis of the weight", expected=definition.quant.weight_axis, got=axis)
    if weight.dtype.bits > 8:
        fail(graph, node, "a quantized weight has at most 8 bits", got=str(weight))
    if node.operand("bias") is None:
        return
    bias = _operand_type(node, "bias")
    if bias.dtype is not DType.I32 or any(bias.params.zero_point):
        fail(graph, node, "a quantized bias is i32 with zero point 0", got=str(bias))
    scales = qmath.multiplier(x.params.scales, weight.params.scales).reshape(-1)
    channels = bias.sizes[0]
    if axis is not None and scales.size and channels % scales.size == 0:
        scales = np.tile(scales, channels // scales.size)
    given = bias.params.scales
    try:
        equal = given.shape == scales.shape == (channels,) and bool((given == scales).all())
        equal = equal or np.array_equal(np.broadcast_to(given, (channels,)), np.broadcast_to(scales, (channels,)))
    except ValueError:
        equal = False
    if not equal:
        fail(
            graph,
            node,
            "the scale of a bias is scale(x) * scale(weight), rounded once to float32",
            expected=_shown(scales),
            got=_shown(given),
        )


def _operand_type(node: Node, name: str) -> TensorType:
    value = node.operand(name)
    if value is None:
        raise VerifyError(f"the operand {name} of {node.op} is missing", where=node.describe())
    return value.type


def _is_per_tensor(type: TensorType) -> bool:
    return type.params.axis is None


def _without_axis(params: QuantParams) -> QuantParams:
    """The parameters with the axis left out: an op that moves codes may move the axis."""
    return params.moved(None if len(params.scale) == 1 else 0)


def _shown(scales: np.ndarray) -> str:
    return ", ".join(map(str, scales[:3])) + (", ..." if scales.size > 3 else "")
