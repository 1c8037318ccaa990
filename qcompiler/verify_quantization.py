"""The rules for quantized types: what conversions and integer ops may read and give.

`why_no_conversion` and `why_not_integer` are these rules as functions of types. The verifier applies them to graphs,
and the passes ask them before they edit: what a pass would break is refused first, with the rule's own words.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from qcompiler.errors import VerifyError
from qcompiler.ir import Graph, Node
from qcompiler.opdef import OpDef, QuantKind, Role, Trait, op_of
from qcompiler.ops.interfaces import Conversion
from qcompiler.ops.quantized import Lookup, Observe, Quantize, Requantize
from qcompiler.quantization import qmath
from qcompiler.quantization.tables import INTERVALS
from qcompiler.stages import Stage
from qcompiler.types import DType, QuantParams, TensorType
from qcompiler.violation import fail

Types = Sequence[TensorType | None]


class Violation(NamedTuple):
    """A rule that the types of a node break."""

    message: str
    expected: object = None
    got: object = None
    hint: str | None = None

    def __str__(self) -> str:
        """The violation as the reason of a refusal."""
        details = [f"{what} {value}" for what, value in (("expected", self.expected), ("got", self.got)) if value]
        return f"{self.message} ({', '.join(details)})" if details else self.message


def is_conversion(definition: OpDef) -> bool:
    """Whether an op is checked by `check_conversion`, not as an op that computes."""
    return issubclass(definition, (Conversion, Lookup, Observe))


def check_quantization(graph: Graph, node: Node, definition: OpDef, stage: Stage) -> None:
    """Check the types of a node that reads or gives quantized values, other than a conversion."""
    types = [None if value is None else value.type for value in node.operands]
    outs = [value.type for value in node.results]
    for spec in definition.always_codes:
        type = types[spec.index] if spec.index < len(types) else None
        if type is not None and not type.is_quantized:
            fail(graph, node, f"operand {spec.name} of {node.op}", expected="quantized", got=str(type))
    if is_conversion(definition) or not any(type is not None and type.is_quantized for type in (*types, *outs)):
        return
    if not stage.integer_ops:
        message = f"{node.op} works on quantized values in a graph of stage {stage.name}"
        fail(graph, node, message, hint="insert dequantize")
    _fail(graph, node, why_not_integer(definition, types, outs))


def check_conversion(graph: Graph, node: Node) -> None:
    """Check the types of an op between real and quantized tensors."""
    definition, source = type(op_of(node)), _operand_type(node, "x")
    table = _operand_type(node, "table") if issubclass(definition, Lookup) else None
    _fail(graph, node, why_no_conversion(definition, source, node.result.type, table))


def _fail(graph: Graph, node: Node, violation: Violation | None) -> None:
    if violation is not None:
        message, expected, got, hint = violation
        fail(graph, node, message, expected=expected, got=got, hint=hint)


def why_no_conversion(
    definition: OpDef, source: TensorType, out: TensorType, table: TensorType | None = None
) -> Violation | None:
    """The rule that a conversion from `source` to `out` breaks, or None; `table`: of a lookup."""
    if issubclass(definition, Observe):
        return None if source == out else Violation("observe is the identity", expected=str(source), got=str(out))
    reads, writes = source.is_quantized, out.is_quantized
    wanted = (definition.reads_codes, definition.gives_codes) if issubclass(definition, Conversion) else (True, True)
    if (reads, writes) != wanted:
        return Violation(
            f"operand and result of {definition.name}",
            got=f"{source}, {out}",
            expected=", ".join("quantized" if quantized else "real" for quantized in wanted),
        )
    if issubclass(definition, Quantize) and source.dtype is not DType.F32:
        return Violation("quantize reads f32", got=str(source))
    if writes and out.dtype.bits > 16:
        return Violation(f"the result of {definition.name} has at most 16 bits", got=str(out))
    if reads and writes and not (_is_per_tensor(source) and _is_per_tensor(out)):
        return Violation(f"{definition.name} is per tensor", got=f"{source}, {out}")
    if issubclass(definition, Requantize) and source.dtype.bits > 16:
        return Violation("requantize reads at most 16 bits", got=str(source))
    return _why_not_looked_up(source, out, table) if issubclass(definition, Lookup) else None


def _why_not_looked_up(source: TensorType, out: TensorType, table: TensorType | None) -> Violation | None:
    if source.dtype is DType.I16:
        if table is None or (table.dtype is DType.I32 and not table.is_quantized and table.shape != (256,)):
            return None
        sizes = " or ".join(f"i32[{intervals + 1}]" for intervals in INTERVALS)
        return Violation("lookup by i16 reads plain knots", expected=sizes, got=f"{source}, {table}")
    plain = table is None or (table.dtype is out.dtype and not table.is_quantized and table.shape == (256,))
    if source.dtype in (DType.U8, DType.I8) and plain:
        return None
    return Violation(
        "lookup reads 8 bits, and a table of plain codes of the result's dtype",
        expected=f"{out.dtype}[256]",
        got=f"{source}, {table}",
    )


def why_not_integer(definition: OpDef, types: Types, outs: Sequence[TensorType]) -> Violation | None:
    """The rule that an op other than a conversion breaks if it works on operands and results of these types, or None.

    types: of the operands, None where one is absent. At least one type is quantized.
    """
    name = definition.name
    real = definition.gives_real and all(out.dtype is DType.F32 and not out.is_quantized for out in outs)
    if definition.always_codes and not real:
        return Violation(f"{name} gives real numbers", expected="f32", got=str(outs[0]))
    if not real and not all(out.is_quantized for out in outs):
        return Violation(f"{name} reads quantized values but gives real ones", hint="insert dequantize before it")
    if not any(type is not None and type.is_quantized for type in types):
        return Violation(f"{name} gives a quantized value from real ones", hint="insert quantize after it")
    for index, type in enumerate(types):
        spec = definition.spec(index)
        wants = spec.role in (Role.ACTIVATION, Role.WEIGHT, Role.BIAS)
        if real and spec in definition.reads_real and type is not None and type.dtype is DType.F32:
            continue
        if type is not None and type.is_quantized != wants:
            return Violation(
                f"operand {spec.name} of an integer {name}",
                expected="quantized" if wants else "not quantized",
                got=str(type),
            )
    if not definition.has_integer_meaning():
        return Violation(f"{name} has no meaning on quantized values", hint="insert dequantize before it")
    activations = [
        (index, type)
        for index, type in enumerate(types)
        if type is not None and type.is_quantized and definition.spec(index).role is Role.ACTIVATION
    ]
    if Trait.MOVES_DATA in definition.traits:
        return _why_not_moved(definition, activations, outs[0])
    return _why_not_computed(definition, activations, types, outs[0])


def _why_not_moved(
    definition: OpDef, activations: Sequence[tuple[int, TensorType]], out: TensorType
) -> Violation | None:
    for index, type in activations:
        if type.dtype is not out.dtype or _without_axis(type.params) != _without_axis(out.params):
            return Violation(
                f"{definition.name} moves codes: operand {index} and result have equal parameters",
                expected=str(type),
                got=str(out),
            )
    return None


def _why_not_computed(
    definition: OpDef, activations: Sequence[tuple[int, TensorType]], types: Types, out: TensorType
) -> Violation | None:
    limits = "activations are per tensor and have at most 16 bits"
    for index, type in activations:
        if not _is_per_tensor(type) or type.dtype.bits > 16:
            return Violation(limits, expected=f"operand {index} per tensor", got=str(type))
    if out.is_quantized and (not _is_per_tensor(out) or out.dtype.bits > 16):
        return Violation(limits, expected="a per-tensor result", got=str(out))
    if definition.integer is None and activations[0][1].dtype not in (DType.U8, DType.I8):
        message = f"{definition.name} becomes a table of 256 entries"
        return Violation(message, expected="u8 or i8", got=str(activations[0][1]))
    return _why_not_weighted(definition, types) if definition.quant.kind is QuantKind.WEIGHTED else None


def _why_not_weighted(definition: OpDef, types: Types) -> Violation | None:
    x, weight = (types[definition.operand_index(name)] for name in ("x", "weight"))
    if x is None or weight is None:
        return Violation(f"{definition.name} reads an x and a weight")
    axis = weight.params.axis
    if axis not in (None, definition.quant.weight_axis):
        return Violation("channel axis of the weight", expected=definition.quant.weight_axis, got=axis)
    if weight.dtype.bits > 8:
        return Violation("a quantized weight has at most 8 bits", got=str(weight))
    index = definition.operand_index("bias")
    bias = types[index] if index < len(types) else None
    if bias is None:
        return None
    if bias.dtype is not DType.I32 or any(bias.params.zero_point):
        return Violation("a quantized bias is i32 with zero point 0", got=str(bias))
    scales, given = bias_scales(x.params, weight.params, bias.sizes[0]), bias.params.scales
    if given.size not in (1, scales.size) or not (given == scales).all():
        return Violation(
            "the scale of a bias is scale(x) * scale(weight), rounded once to float32",
            expected=_shown(scales),
            got=_shown(given),
        )
    return None


def bias_scales(x: QuantParams, weight: QuantParams, channels: int) -> np.ndarray:
    """f32 [channels]: the scales of a layer's products, which its bias has too.

    The scales of a weight per channel repeat where fewer than `channels` are given: groups of a transposed convolution.
    """
    scales = qmath.multiplier(x.scales, weight.scales).reshape(-1)
    return np.resize(scales, channels)


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
