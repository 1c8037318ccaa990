"""Elementwise ops, real and on codes, with numpy broadcasting."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qcompiler.backends.kernels import convert, trigonometry
from qcompiler.backends.kernels import elementwise as kernels
from qcompiler.backends.lowering.node import NodeLowering
from qcompiler.backends.lowering.rule import lowers
from qcompiler.backends.lowering.views import TensorView
from qcompiler.backends.lowering.why_not import why_not_f32
from qcompiler.backends.rules.convert import bounds, in_result_layout, run_length, zero_point
from qcompiler.backends.rules.maps import run_map
from qcompiler.backends.target import Target
from qcompiler.interpreter import unary_function
from qcompiler.ir import Node
from qcompiler.opdef import Trait, all_ops, opdef
from qcompiler.quantization import qmath
from qcompiler.quantization.tables import build_table
from qcompiler.types import DType

_UNARY = tuple(op.name for op in all_ops() if Trait.UNARY in op.traits)
_FLOAT_UNARY = tuple(name for name in _UNARY if name in kernels.FLOAT)
_BINARY = ("add", "sub", "mul", "div", "minimum", "maximum")
_COMPARISONS = ("equal", "not_equal", "less", "less_equal", "greater", "greater_equal")


# -- real


def _not_real(node: Node, target: Target) -> str | None:
    """Fits f32; and f64 where a function is a few IEEE operations, for ours are made for f32."""
    if node.op in kernels.DOUBLE and {value.type.dtype for value in (*node.operands, *node.results)} == {DType.F64}:
        return None
    return why_not_f32(node, target)


@lowers(*_FLOAT_UNARY, "pow", *_BINARY, unless=_not_real)
def real_map(s: NodeLowering) -> None:
    attrs = dict(s.attrs)
    params = kernels.attr_names(attrs)
    op = "gelu_tanh" if s.node.op == "gelu" and attrs["approximate"] == "tanh" else s.node.op
    values = _parameters(s.node.op, [attrs[name] for name in params])
    operands = [s.operand(i) for i in range(len(s.node.operands))]
    run_map(
        s,
        kernels.REAL[len(operands)],
        operands,
        {"op": op, "params": ",".join(params), "activation": attrs.get("activation", "none"), "dtype": _dtype(s.node)},
        **values,
    )


def _parameters(op: str, attrs: Sequence[float]) -> dict[str, float]:
    """The scalars p0 and p1, and what they lack to float64. Where x > attr decides, x and p0 being f32, p0 is the next
    f32 below."""
    values = {f"p{i}{rest}": 0.0 for i in range(2) for rest in ("", "_rest")}
    for i, attr in enumerate(attrs):
        single = np.float32(attr)
        if i == 0 and op in ("hardshrink", "threshold") and float(single) > attr:
            single = np.nextafter(single, np.float32(-np.inf))
        values[f"p{i}"] = float(single)
        values[f"p{i}_rest"] = float(np.float32(attr - float(single))) if np.isfinite(single) else 0.0
    return values


@lowers("sin", "cos", unless=why_not_f32)
def trigonometric(s: NodeLowering) -> None:
    x = in_result_layout(s, 0)
    s.call(
        trigonometry.trigonometric,
        {"op": s.node.op},
        x=x,
        table=s.packed("table", trigonometry.reduction_table),
        y=s.result(),
        count=run_length(s),
        writes=("y",),
        bytes=8 * x.elements,
    )


@lowers("prelu", unless=why_not_f32)
def real_prelu(s: NodeLowering) -> None:
    run_map(
        s,
        kernels.REAL[2],
        [s.operand(0), _per_channel(s, s.operand(1))],
        {"op": "prelu", "params": "", "activation": "none", "dtype": _dtype(s.node)},
        **_parameters("prelu", ()),
    )


def _per_channel(s: NodeLowering, values: TensorView) -> TensorView:
    """[C] seen along axis 1 of the first operand; [1] as it is."""
    rank = len(s.operand(0).shape)
    if values.elements == 1 or rank == 1:
        return values
    return values.moved(0, (1, values.shape[0], *(1,) * (rank - 2)), (0, values.strides[0], *(0,) * (rank - 2)))


# -- plain integers and bools


def _dtype(node: Node, index: int = 0) -> str:
    return str(node.operands[index].type.dtype)


def _not_plain(node: Node, target: Target) -> str | None:
    """Fits integers without quantization parameters."""
    for value in (*node.operands, *node.results):
        if value.type.is_quantized or str(value.type.dtype) not in kernels.INTEGERS:
            return f"{value.type} is not a plain integer"
    return "a fused activation" if node.attrs.get("activation", "none") != "none" else None


@lowers(*(name for name in (*_UNARY, *_BINARY) if name in kernels.PLAIN), unless=_not_plain)
def integer_map(s: NodeLowering) -> None:
    operands = [s.operand(i) for i in range(len(s.node.operands))]
    run_map(s, kernels.INTEGER[len(operands)], operands, {"op": s.node.op, "dtype": _dtype(s.node)})


@lowers("hardtanh", unless=_not_plain)
def integer_clamp(s: NodeLowering) -> None:
    """The bounds are truncated, and saturated to the type."""
    type = s.out.dtype
    bounds = (np.float32(s.attrs[name]) for name in ("min_value", "max_value"))
    low, high = (type.max if bound >= type.max else type.min if bound <= type.min else int(bound) for bound in bounds)
    run_map(s, kernels.CLAMP, [s.operand(0)], {"dtype": str(type)}, low=low, high=high)


def _not_comparable(node: Node, target: Target) -> str | None:
    kind = _dtype(node)
    if node.operands[0].type.is_quantized or kind not in (*kernels.INTEGERS, *kernels.REALS):
        return f"{node.operands[0].type} is not compared"
    return None


@lowers(*_COMPARISONS, unless=_not_comparable)
def comparison(s: NodeLowering) -> None:
    run_map(s, kernels.COMPARE, [s.operand(0), s.operand(1)], {"op": s.node.op, "dtype": _dtype(s.node)})


@lowers("logical_and", "logical_or", "logical_not")
def logic(s: NodeLowering) -> None:
    operands = [s.operand(i) for i in range(len(s.node.operands))]
    run_map(s, kernels.LOGIC[len(operands)], operands, {"op": s.node.op})


def _not_selectable(node: Node, target: Target) -> str | None:
    size = node.result.type.dtype.numpy.itemsize
    return None if size in (1, 2, 4, 8) else f"elements of {size} bytes"


@lowers("where", unless=_not_selectable)
def where(s: NodeLowering) -> None:
    run_map(s, kernels.WHERE, [s.operand(i) for i in range(3)], {"itemsize": s.out.dtype.numpy.itemsize})


def _not_castable(node: Node, target: Target) -> str | None:
    known = (*kernels.INTEGERS, *kernels.REALS)
    kinds = _dtype(node), str(node.result.type.dtype)
    if any(kind not in known for kind in kinds):
        return f"no cast from {kinds[0]} to {kinds[1]}"
    return None


@lowers("cast", unless=_not_castable)
def cast(s: NodeLowering) -> None:
    run_map(s, kernels.CAST, [s.operand(0)], {"source": _dtype(s.node), "to": str(s.out.dtype)})


# -- codes


def _not_codes(node: Node, target: Target) -> str | None:
    """Fits u8 operands and results, per tensor (prelu's weight aside)."""
    for value in (*node.operands[: 1 if node.op == "prelu" else None], *node.results):
        if value.type.dtype is not DType.U8 or value.type.quant is None or value.type.quant.axis is not None:
            return f"{value.type} is not u8 with per-tensor parameters"
    return None


@lowers(*_UNARY, unless=_not_codes)
def unary_table(s: NodeLowering) -> None:
    definition = opdef(s.node.op)
    table = s.memo("table", lambda: build_table(unary_function(definition, s.attrs), s.type(0), s.out))
    x = in_result_layout(s, 0)
    s.call(
        convert.lookup_flat,
        x=x,
        table=s.table(table),
        y=s.result(),
        count=run_length(s),
        writes=("y",),
        bytes=2 * x.elements,
    )


@lowers(*_BINARY, unless=_not_codes)
def codes_map(s: NodeLowering) -> None:
    x, y, out = s.type(0).quant, s.type(1).quant, s.out.quant
    if s.node.op == "mul":
        scales = (qmath.multiplier(x.scales, y.scales, over=out.scales)[0], 0.0)
    elif s.node.op == "div":
        scales = (qmath.multiplier(x.scales, over=y.scales.astype(np.float64) * np.float64(out.scale[0]))[0], 0.0)
    else:
        scales = tuple(qmath.multiplier(q.scales, over=out.scale[0])[0] for q in (x, y))
    run_map(
        s,
        kernels.CODES,
        [s.operand(0), s.operand(1)],
        {"op": s.node.op},
        zero0=x.zero_point[0],
        zero1=y.zero_point[0],
        zero=zero_point(s.out),
        scale0=float(scales[0]),
        scale1=float(scales[1]),
        **bounds(s.out, s.attrs.get("activation", "none")),
    )


@lowers("prelu", unless=_not_codes)
def prelu_codes(s: NodeLowering) -> None:
    quant, out = s.type(0).quant, s.out.quant
    slopes = qmath.multiplier(quant.scales, s.constant(1), over=out.scales).astype(np.float32)
    ref = s.table(slopes)
    place = TensorView(ref, slopes.dtype, slopes.shape, (4,))
    run_map(
        s,
        kernels.PRELU_CODES,
        [s.operand(0), _per_channel(s, place)],
        {},
        in_zero=quant.zero_point[0],
        zero=zero_point(s.out),
        scale=float(qmath.multiplier(quant.scales, over=out.scales)[0]),
        **bounds(s.out),
    )
