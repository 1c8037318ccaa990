"""Lowers elementwise ops on reals, plain integers and codes, with numpy broadcasting."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qcompiler.backends.kernel_ir.definition import Memory
from qcompiler.backends.kernels import elementwise as kernels
from qcompiler.backends.kernels import elementwise_codes as code_kernels
from qcompiler.backends.kernels import integer_functions, trigonometry
from qcompiler.backends.kernels.map_loop import Map
from qcompiler.backends.kernels.real_functions import FLOAT
from qcompiler.backends.lowering.node import NodeLowering
from qcompiler.backends.lowering.rule import lowers
from qcompiler.backends.lowering.views import TensorView
from qcompiler.backends.lowering.why_not import operand_types, types, why_not_codes, why_not_f32
from qcompiler.backends.rules.convert import code_range, in_result_layout, look_up, run_length, why_no_table
from qcompiler.backends.rules.maps import MapCall, run_map
from qcompiler.backends.target import Target
from qcompiler.interpreter import unary_function
from qcompiler.ir import Node, Value
from qcompiler.opdef import Trait, all_ops, opdef
from qcompiler.ops.activations import Gelu, Hardshrink, Hardtanh, Prelu, Threshold
from qcompiler.ops.elementwise import Comparison, Sin
from qcompiler.ops.interfaces import Arithmetic, TakesActivation
from qcompiler.ops.shape import Trilu, triangle
from qcompiler.quantization import qmath
from qcompiler.quantization.tables import build_table
from qcompiler.types import DType, QuantParams

_UNARY = tuple(op.name for op in all_ops() if Trait.UNARY in op.traits)
_FLOAT_UNARY = tuple(name for name in _UNARY if name in FLOAT)
_FLOAT_BINARY = tuple(op.name for op in all_ops() if issubclass(op, Arithmetic) and op.name in FLOAT)
_BINARY = tuple(op.name for op in all_ops() if issubclass(op, Arithmetic) and op.integer is not None)
_INTEGER = tuple(op.name for op in all_ops() if Trait.ELEMENTWISE in op.traits and op.name in integer_functions.SIGNED)
_COMPARISONS = tuple(op.name for op in all_ops() if issubclass(op, Comparison))


# -- real


def _why_not_real(node: Node, target: Target) -> str | None:
    """Why a node is not all f32, or None. f64 is allowed if the function consists of a few IEEE operations; the
    functions of `kernels.math` are for f32 alone."""
    if node.op in kernels.DOUBLE and {type.dtype for type in types(node)} == {DType.F64}:
        return None
    return why_not_f32(node, target)


@lowers(*_FLOAT_UNARY, *_FLOAT_BINARY, unless=_why_not_real)
def real_map(s: NodeLowering) -> None:
    gelu = Gelu.of(s.node)
    op = "gelu_tanh" if gelu is not None and gelu.approximate == "tanh" else s.node.op
    _run_real(s, op, _views(s), kernels.attr_names(s.attrs), _activation(s.node))


def _views(s: NodeLowering) -> list[TensorView]:
    """The operands where they lie, in order."""
    return [s.view(value) for value in s.node.operands if value is not None]


def _activation(node: Node) -> str:
    """The node's fused activation; "none" if its op takes none."""
    op = TakesActivation.of(node)
    return "none" if op is None else op.activation


def _run_real(
    s: NodeLowering, op: str, operands: Sequence[TensorView], params: Sequence[str] = (), activation: str = "none"
) -> None:
    """Append a map with a function of `FLOAT`. params: the names of the attributes that it takes."""
    first, second = [_float_attr(s.node, i, s.attrs[name]) for i, name in enumerate(params)] + [_NONE] * (
        2 - len(params)
    )
    dtype = str(s.out.dtype)

    def real(inner: str, tensors: Map[Memory, int]) -> MapCall[kernels.RealMap]:
        kernel = kernels.REAL[len(operands)](
            op=op, inner=inner, params=",".join(params), activation=activation, dtype=dtype
        )
        return kernel, kernels.RealMap(tensors, (first, second))

    run_map(s, operands, real)


_NONE = kernels.FloatAttr(value=0.0, rest=0.0)


def _float_attr(node: Node, index: int, attr: float) -> kernels.FloatAttr[float]:
    """An attribute as kernels take it. If a function compares x with its first attribute in f32, and the attribute is
    not an f32, the next smaller f32 replaces it."""
    single = np.float32(attr)
    if index == 0 and issubclass(opdef(node.op), (Hardshrink, Threshold)) and float(single) > attr:
        single = np.nextafter(single, np.float32(-np.inf))
    rest = float(np.float32(attr - float(single))) if np.isfinite(single) else 0.0
    return kernels.FloatAttr(value=float(single), rest=rest)


@lowers("sin", "cos", unless=why_not_f32)
def trigonometric(s: NodeLowering) -> None:
    x = in_result_layout(s, _first(s.node))
    table = s.packed("table", trigonometry.reduction_table)
    s.call(
        trigonometry.trigonometric(op="sin" if Sin.of(s.node) is not None else "cos"),
        trigonometry.Trigonometric(x=x, table=table, y=s.result(), count=run_length(s)),
        bytes=8 * x.elements,
    )


@lowers("prelu", unless=why_not_f32)
def real_prelu(s: NodeLowering) -> None:
    op = Prelu(s.node)
    x = s.view(op.x)
    _run_real(s, "prelu", [x, _per_channel(x, s.view(op.weight))])


def _per_channel(x: TensorView, values: TensorView) -> TensorView:
    """View values [C] along axis 1 of x; values [1] stay as they are."""
    rank = len(x.shape)
    if values.elements == 1 or rank == 1:
        return values
    return values.moved(0, (1, values.shape[0], *(1,) * (rank - 2)), (0, values.strides[0], *(0,) * (rank - 2)))


# -- plain integers and bools


def _first(node: Node) -> Value:
    """The first operand."""
    return next(value for value in node.operands if value is not None)


def _dtype(node: Node) -> str:
    """The dtype of the first operand."""
    return str(_first(node).type.dtype)


def _why_not_plain(node: Node, target: Target) -> str | None:
    """Why a node's types are not all integers without quantization parameters, or None."""
    for type in types(node):
        if type.is_quantized or str(type.dtype) not in kernels.INTEGERS:
            return f"{type} is not a plain integer"
    return "a fused activation" if _activation(node) != "none" else None


@lowers(*_INTEGER, unless=_why_not_plain)
def integer_map(s: NodeLowering) -> None:
    operands = _views(s)
    op, dtype, kernel = s.node.op, _dtype(s.node), kernels.INTEGER[len(operands)]
    run_map(s, operands, lambda inner, tensors: (kernel(op=op, inner=inner, dtype=dtype), tensors))


@lowers("hardtanh", unless=_why_not_plain)
def integer_clamp(s: NodeLowering) -> None:
    """clamp of plain integers. The bounds are truncated to integers and saturated to the type."""
    op, dtype = Hardtanh(s.node), s.out.dtype
    bounds = (np.float32(bound) for bound in (op.min_value, op.max_value))
    low, high = (
        dtype.max if bound >= dtype.max else dtype.min if bound <= dtype.min else int(bound) for bound in bounds
    )

    def clamp(inner: str, tensors: Map[Memory, int]) -> MapCall[kernels.ClampMap]:
        return kernels.map_clamp(inner=inner, dtype=str(dtype)), kernels.ClampMap(tensors, low=low, high=high)

    run_map(s, [s.view(op.x)], clamp)


def _why_not_comparable(node: Node, target: Target) -> str | None:
    """Why no kernel compares the operands of a node, or None."""
    kind = _dtype(node)
    if _first(node).type.is_quantized or kind not in (*kernels.INTEGERS, *kernels.REALS):
        return f"{_first(node).type} is not compared"
    return None


@lowers(*_COMPARISONS, unless=_why_not_comparable)
def comparison(s: NodeLowering) -> None:
    op, dtype = s.node.op, _dtype(s.node)
    run_map(s, _views(s), lambda inner, tensors: (kernels.map_compare(op=op, inner=inner, dtype=dtype), tensors))


@lowers("logical_and", "logical_or", "logical_not")
def logic(s: NodeLowering) -> None:
    operands = _views(s)
    op, kernel = s.node.op, kernels.LOGIC[len(operands)]
    run_map(s, operands, lambda inner, tensors: (kernel(op=op, inner=inner), tensors))


def _why_not_selectable(node: Node, target: Target) -> str | None:
    """Why no kernel selects between elements of a node's result, or None."""
    size = node.result.type.dtype.numpy.itemsize
    return None if size in (1, 2, 4, 8) else f"elements of {size} bytes"


@lowers("where", unless=_why_not_selectable)
def where(s: NodeLowering) -> None:
    itemsize = s.out.dtype.numpy.itemsize
    run_map(s, _views(s), lambda inner, tensors: (kernels.map_where(inner=inner, itemsize=itemsize), tensors))


@lowers("trilu", unless=_why_not_selectable)
def trilu(s: NodeLowering) -> None:
    """triu and tril, as a selection between x and a zero by a constant mask. A product with the mask would make NaN of
    infinities."""
    op, y = Trilu(s.node), s.result()
    # A map repeats an axis of size 1, and that must not depend on a symbolic size. So the mask gets 2 or more there.
    sizes = zip(s.out.shape[-2:], y.shape[-2:])
    rows, columns = (size if isinstance(declared, int) else max(size, 2) for declared, size in sizes)
    s.check_table(rows * columns, 1)
    zero = qmath.quantize(np.zeros(1, np.float32), s.out.params, s.out.dtype) if s.out.is_quantized else [0]
    mask = TensorView(
        s.table(triangle, rows, columns, op.upper, op.diagonal), DType.BOOL.numpy, (rows, columns), (columns, 1)
    )
    fill = TensorView(s.stored(np.asarray(zero, y.dtype)), y.dtype, (), ())

    def select(inner: str, tensors: Map[Memory, int]) -> MapCall[Map]:
        x, condition, other = tensors.operands
        ordered = Map(tensors.count, tensors.sizes, (condition, x, other), tensors.y)
        return kernels.map_where(inner=inner[1] + inner[0] + inner[2], itemsize=y.dtype.itemsize), ordered

    run_map(s, [s.view(op.x), mask, fill], select)


def _why_not_castable(node: Node, target: Target) -> str | None:
    """Why no kernel casts between the types of a node, or None."""
    known = (*kernels.INTEGERS, *kernels.REALS)
    kinds = _dtype(node), str(node.result.type.dtype)
    if any(kind not in known for kind in kinds):
        return f"no cast from {kinds[0]} to {kinds[1]}"
    return None


@lowers("cast", unless=_why_not_castable)
def cast(s: NodeLowering) -> None:
    source, to = _dtype(s.node), str(s.out.dtype)
    run_map(s, _views(s), lambda inner, tensors: (kernels.map_cast(inner=inner, source=source, to=to), tensors))


# -- codes


def _why_not_all_codes(node: Node, target: Target) -> str | None:
    """Why a node's operands (apart from prelu's weight) and results are not all codes of u8 or i16, or None."""
    prelu = Prelu.of(node)
    operands = operand_types(node) if prelu is None else [prelu.x.type]
    reasons = map(why_not_codes, (*operands, *(value.type for value in node.results)))
    return next((reason for reason in reasons if reason is not None), None)


def _why_not_tabulated(node: Node, target: Target) -> str | None:
    """Why a function of one operand is not a table from u8 to u8 or i16, or None."""
    return _why_not_all_codes(node, target) or why_no_table(_first(node).type)


@lowers(*_UNARY, unless=_why_not_tabulated)
def unary_table(s: NodeLowering) -> None:
    definition, value = opdef(s.node.op), _first(s.node)
    table = s.memo("table", lambda: build_table(unary_function(definition, s.attrs), value.type, s.out))
    look_up(s, value, table)


@lowers(*_BINARY, unless=_why_not_all_codes)
def codes_map(s: NodeLowering) -> None:
    op = Arithmetic.of(s.node)
    assert op is not None
    x, y, out = op.x.type.params, op.y.type.params, s.out.params
    x_scale, y_scale = _scales(s.node.op, x, y, out)
    first = code_kernels.CodeOperand(zero=x.zero_point[0], scale=x_scale)
    second = code_kernels.CodeOperand(zero=y.zero_point[0], scale=y_scale)
    codes = code_range(s.out, _activation(s.node))
    dtypes = (str(op.x.type.dtype), str(op.y.type.dtype), str(s.out.dtype))

    def binary(inner: str, tensors: Map[Memory, int]) -> MapCall[code_kernels.BinaryCodes]:
        arguments = code_kernels.BinaryCodes(tensors, first, second, codes)
        return code_kernels.map_codes(op=s.node.op, inner=inner, dtypes=dtypes), arguments

    run_map(s, [s.view(op.x), s.view(op.y)], binary)


def _scales(op: str, x: QuantParams, y: QuantParams, out: QuantParams) -> tuple[float, float]:
    """The scales of the two operands, as `code_kernels.BinaryCodes` describes them."""
    if op == "mul":
        return float(qmath.multiplier(x.scales, y.scales, over=out.scales)[0]), 0.0
    if op == "div":
        over = y.scales.astype(np.float64) * float(np.float64(out.scale[0]))
        return float(qmath.multiplier(x.scales, over=over)[0]), 0.0
    x_scale, y_scale = (float(qmath.multiplier(q.scales, over=out.scale[0])[0]) for q in (x, y))
    return x_scale, y_scale


@lowers("prelu", unless=_why_not_all_codes)
def prelu_codes(s: NodeLowering) -> None:
    op = Prelu(s.node)
    quant, out = op.x.type.params, s.out.params
    slopes = qmath.multiplier(quant.scales, s.constant(op.weight), over=out.scales).astype(np.float32)
    tensor, weight = s.view(op.x), TensorView(s.stored(slopes), slopes.dtype, slopes.shape, (4,))
    scale = float(qmath.multiplier(quant.scales, over=out.scales)[0])
    x = code_kernels.CodeOperand(zero=quant.zero_point[0], scale=scale)

    def prelu(inner: str, tensors: Map[Memory, int]) -> MapCall[code_kernels.PreluCodes]:
        kernel = code_kernels.map_prelu_codes(inner=inner, dtypes=(str(op.x.type.dtype), str(s.out.dtype)))
        return kernel, code_kernels.PreluCodes(tensors, x, code_range(s.out))

    run_map(s, [tensor, _per_channel(tensor, weight)], prelu)
