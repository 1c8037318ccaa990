"""Elementwise ops, real and on codes, with numpy broadcasting."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from qcompiler.backends.kernel_ir.definition import KernelDef
from qcompiler.backends.kernels import convert, trigonometry
from qcompiler.backends.kernels import elementwise as kernels
from qcompiler.backends.placement import Placed, row_major_strides
from qcompiler.backends.rules.convert import bounds, in_result_layout, run_length, zero_point
from qcompiler.backends.steps import Steps, lowers, not_float
from qcompiler.backends.target import Target
from qcompiler.errors import LoweringError
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


# -- loops: common axes of a result and its operands


def broadcast(place: Placed, shape: Sequence[int]) -> Placed:
    """The place seen with the result's shape: stride 0 along repeated axes."""
    missing = len(shape) - len(place.shape)
    own, strides = (1,) * missing + place.shape, (0,) * missing + place.strides
    return place.moved(0, shape, tuple(0 if n == 1 and size != 1 else step for n, size, step in zip(own, shape, strides)))


def _axes(places: Sequence[Placed], shape: Sequence[int]) -> list[tuple[int, ...]]:
    """(size, strides of all places) of merged axes, the result's (the last place) smallest step last."""
    axes = [(n, *steps) for n, *steps in zip(shape, *(p.strides for p in places)) if n != 1]
    axes.sort(key=lambda axis: -axis[-1])
    merged: list[tuple[int, ...]] = []
    for axis in axes:
        if merged and all(outer == axis[0] * step for outer, step in zip(merged[-1][1:], axis[1:])):
            merged[-1] = (merged[-1][0] * axis[0], *axis[1:])
        else:
            merged.append(axis)
    return merged or [(1, *(p.dtype.itemsize for p in places))]


def _physical(s: Steps, places: Sequence[Placed], y: Placed) -> tuple[list[Placed], Placed] | None:
    """All as one run of storage, gaps included, where they lie alike."""
    layout = s.out.layout
    if layout is None or layout.order == "row_major":
        return None
    alike = all(p.shape == y.shape and [step * y.dtype.itemsize for step in p.strides] == [step * p.dtype.itemsize for step in y.strides]
                for p in places)
    count = run_length(s)
    return ([p.moved(0, (count,), (p.dtype.itemsize,)) for p in places], y.moved(0, (count,), (y.dtype.itemsize,))) if alike else None


def run_map(s: Steps, kernel: KernelDef, operands: Sequence[Placed], static: dict[str, Any], **arguments: Any) -> None:
    """Append a map of the operands, broadcast to the result's shape."""
    y = result = s.result()
    places = [broadcast(place, y.shape) for place in operands]
    run = _physical(s, places, y)
    if run is not None:
        places, y = run
    axes = _axes([*places, y], y.shape)
    if axes[-1][-1] != y.dtype.itemsize:  # one channel a pixel, and gaps between the pixels
        y = s.lowering.new(s.out, f"{s.node.name}.row_major", None)
        axes = _axes([*places, y], y.shape)
    for index, place in enumerate(places):
        if axes[-1][1 + index] not in (0, place.dtype.itemsize):
            places[index] = _in_order_of(s, place, y)
    axes = _axes([*places, y], y.shape)
    if len(axes) > kernels.OUTER + 1:
        places = [_in_order_of(s, place, y) for place in places]
        axes = _axes([*places, y], y.shape)
    size, *steps = axes[-1]
    if len(axes) > kernels.OUTER + 1:
        raise LoweringError("an elementwise result lies in too many pieces", where=s.node.describe())
    outer = [(1,) + (0,) * len(steps)] * (kernels.OUTER + 1 - len(axes)) + axes[:-1]
    names = [*(f"x{i}" for i in range(len(places))), "y"]
    extents = {f"n{i}": axis[0] for i, axis in enumerate(outer)}
    extents |= {f"{name}_s{i}": axis[1 + k] for i, axis in enumerate(outer) for k, name in enumerate(names)}
    inner = kernels.static_inner([step != 0 for step in steps[:-1]])
    moved = sum(place.elements * place.dtype.itemsize for place in (*operands, s.result()))
    s.call(kernel, {**static, "inner": inner}, count=size, writes=("y",), bytes=moved, **dict(zip(names, [*places, y])), **extents,
           **arguments)
    if run is None and y is not result:
        s.copy(y, result)


def _in_order_of(s: Steps, place: Placed, y: Placed) -> Placed:
    """A copy that lies as the result does, without its gaps."""
    order = sorted(range(len(y.shape)), key=lambda axis: (-y.strides[axis], axis))
    physical = row_major_strides([y.shape[axis] for axis in order], place.dtype.itemsize)
    strides = [0] * len(order)
    for axis, step in zip(order, physical):
        strides[axis] = step
    copy = Placed(s.scratch(place.elements * place.dtype.itemsize + 64, "ordered"), place.dtype, place.shape, tuple(strides))
    s.copy(place, copy)
    return copy


# -- real


def _not_f32(node: Node, target: Target) -> str | None:
    return not_float(node, target)


@lowers(*_FLOAT_UNARY, "pow", *_BINARY, unless=_not_f32)
def real_map(s: Steps) -> None:
    attrs = dict(s.attrs)
    params = kernels.attr_names(attrs)
    op = "gelu_tanh" if s.node.op == "gelu" and attrs["approximate"] == "tanh" else s.node.op
    values = {f"p{i}": attrs[params[i]] if i < len(params) else 0.0 for i in range(2)}
    operands = [s.operand(i) for i in range(len(s.node.operands))]
    run_map(s, kernels.REAL[len(operands)], operands,
            {"op": op, "params": ",".join(params), "activation": attrs.get("activation", "none"), "dtype": _dtype(s.node)}, **values)


@lowers("sin", "cos", unless=_not_f32)
def trigonometric(s: Steps) -> None:
    x = in_result_layout(s, 0)
    s.call(trigonometry.trigonometric, {"op": s.node.op}, x=x, table=s.packed("table", trigonometry.reduction_table), y=s.result(),
           count=run_length(s), writes=("y",), bytes=8 * x.elements)


@lowers("prelu", unless=_not_f32)
def real_prelu(s: Steps) -> None:
    run_map(s, kernels.REAL[2], [s.operand(0), _per_channel(s, s.operand(1))],
            {"op": "prelu", "params": "", "activation": "none", "dtype": _dtype(s.node)}, p0=0.0, p1=0.0)


def _per_channel(s: Steps, values: Placed) -> Placed:
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
def integer_map(s: Steps) -> None:
    operands = [s.operand(i) for i in range(len(s.node.operands))]
    run_map(s, kernels.INTEGER[len(operands)], operands, {"op": s.node.op, "dtype": _dtype(s.node)})


def _not_comparable(node: Node, target: Target) -> str | None:
    kind = _dtype(node)
    if node.operands[0].type.is_quantized or kind not in (*kernels.INTEGERS, "f32"):
        return f"{node.operands[0].type} is not compared"
    return None


@lowers(*_COMPARISONS, unless=_not_comparable)
def comparison(s: Steps) -> None:
    run_map(s, kernels.COMPARE, [s.operand(0), s.operand(1)], {"op": s.node.op, "dtype": _dtype(s.node)})


@lowers("logical_and", "logical_or", "logical_not")
def logic(s: Steps) -> None:
    operands = [s.operand(i) for i in range(len(s.node.operands))]
    run_map(s, kernels.LOGIC[len(operands)], operands, {"op": s.node.op})


def _not_selectable(node: Node, target: Target) -> str | None:
    size = node.result.type.dtype.numpy.itemsize
    return None if size in (1, 4, 8) else f"elements of {size} bytes"


@lowers("where", unless=_not_selectable)
def where(s: Steps) -> None:
    run_map(s, kernels.WHERE, [s.operand(i) for i in range(3)], {"itemsize": s.out.dtype.numpy.itemsize})


def _not_castable(node: Node, target: Target) -> str | None:
    known = (*kernels.INTEGERS, "f32")
    kinds = _dtype(node), str(node.result.type.dtype)
    if any(kind not in known for kind in kinds):
        return f"no cast from {kinds[0]} to {kinds[1]}"
    return None


@lowers("cast", unless=_not_castable)
def cast(s: Steps) -> None:
    run_map(s, kernels.CAST, [s.operand(0)], {"source": _dtype(s.node), "to": str(s.out.dtype)})


# -- codes


def _not_codes(node: Node, target: Target) -> str | None:
    """Fits u8 operands and results, per tensor (prelu's weight aside)."""
    for value in (*node.operands[:1 if node.op == "prelu" else None], *node.results):
        if value.type.dtype is not DType.U8 or value.type.quant is None or value.type.quant.axis is not None:
            return f"{value.type} is not u8 with per-tensor parameters"
    return None


@lowers(*_UNARY, unless=_not_codes)
def unary_table(s: Steps) -> None:
    definition = opdef(s.node.op)
    table = s.once("table", lambda: build_table(unary_function(definition, s.attrs), s.type(0), s.out))
    x = in_result_layout(s, 0)
    s.call(convert.lookup_flat, x=x, table=s.table(table), y=s.result(), count=run_length(s), writes=("y",), bytes=2 * x.elements)


@lowers(*_BINARY, unless=_not_codes)
def codes_map(s: Steps) -> None:
    x, y, out = s.type(0).quant, s.type(1).quant, s.out.quant
    if s.node.op == "mul":
        scales = (qmath.multiplier(x.scales, y.scales, over=out.scales)[0], 0.0)
    elif s.node.op == "div":
        scales = (qmath.multiplier(x.scales, over=y.scales.astype(np.float64) * np.float64(out.scale[0]))[0], 0.0)
    else:
        scales = tuple(qmath.multiplier(q.scales, over=out.scale[0])[0] for q in (x, y))
    run_map(s, kernels.CODES, [s.operand(0), s.operand(1)], {"op": s.node.op}, zero0=x.zero_point[0], zero1=y.zero_point[0],
            zero=zero_point(s.out), scale0=float(scales[0]), scale1=float(scales[1]), **bounds(s.out, s.attrs.get("activation", "none")))


@lowers("prelu", unless=_not_codes)
def prelu_codes(s: Steps) -> None:
    quant, out = s.type(0).quant, s.out.quant
    slopes = qmath.multiplier(quant.scales, s.constant(1), over=out.scales).astype(np.float32)
    ref = s.table(slopes)
    place = Placed(ref, slopes.dtype, slopes.shape, (4,))
    run_map(s, kernels.PRELU_CODES, [s.operand(0), _per_channel(s, place)], {}, in_zero=quant.zero_point[0], zero=zero_point(s.out),
            scale=float(qmath.multiplier(quant.scales, over=out.scales)[0]), **bounds(s.out))
