"""The op `gated_add`, y = activation(x + gate * r), with kernels for every x86 and ARM level."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Generic

import numpy as np

import qcompiler as qc
from qcompiler.backends.kernel_ir.builder import KernelBuilder, kernel
from qcompiler.backends.kernel_ir.definition import Arguments, E, P, S, Written
from qcompiler.backends.kernel_ir.types import F32, I8, I32, vector
from qcompiler.backends.kernels.code_range import CodeRange
from qcompiler.backends.lowering.node import NodeLowering
from qcompiler.backends.lowering.rule import lowers
from qcompiler.backends.lowering.why_not import why_not_f32, why_not_u8
from qcompiler.backends.rules.convert import code_range
from qcompiler.errors import ShapeError
from qcompiler.export.onnx.node import NodeWriter
from qcompiler.opdef import (
    OWN_RANGE,
    LayoutRule,
    Sample,
    TypedArray,
    float_attr,
    fused_activation,
    no_accumulator,
    operand,
)
from qcompiler.ops.interfaces import TakesActivation
from qcompiler.quantization import qmath
from qcompiler.types import TensorType, tensor


class GatedAdd(TakesActivation):
    """x + gate * r, then the fused activation."""

    name = "gated_add"
    quant = OWN_RANGE
    layout = LayoutRule.ROW_MAJOR
    chooses_params = True
    terms = no_accumulator
    x = operand()
    r = operand()
    gate = float_attr(doc="factor of r")
    activation = fused_activation()

    def infer(self, x: TensorType, r: TensorType) -> TensorType:
        if x != r or not x.dtype.is_float:
            raise ShapeError("operands of gated_add", expected=f"two of {x}, floats", got=str(r))
        return x

    def reference(self, x: np.ndarray, r: np.ndarray) -> np.ndarray:
        y = x + np.asarray(self.gate, x.dtype) * r
        return y if self.activation == "none" else np.clip(y, *np.asarray(self.bounds, x.dtype))

    def integer(self, x: TypedArray, r: TypedArray, *, out: TensorType) -> np.ndarray:
        x_scale = qmath.multiplier(x.scales, over=out.params.scales)
        r_scale = qmath.multiplier(r.scales, self.gate, over=out.params.scales)
        real = x.centered().astype(np.float32) * x_scale + r.centered().astype(np.float32) * r_scale
        return qmath.requantize(real, out, self.activation)

    @staticmethod
    def samples() -> Sequence[Sample]:
        shapes = ((7,), (2, 33), (4, 5, 3), (1, 1), (1, 8, 5, 5))
        chosen = ("none", "relu", "relu6", "none", "relu")
        return [
            Sample((tensor("f32", *shape),) * 2, {"gate": 0.5, "activation": activation})
            for shape, activation in zip(shapes, chosen)
        ]


# -- kernels: written once, emitted for each ISA level


class Real(Arguments["Real"], Generic[P, E, S]):
    """count: elements of x, r and y, which are f32."""

    x: P
    r: P
    y: Written[P]
    count: E
    gate: S
    low: S
    high: S


@kernel
def gated_add_real(b: KernelBuilder, a: Real) -> None:
    """y = clamp(x + gate * r, low, high)"""
    lanes = b.target.f32_lanes
    gate, low, high = (b.splat(each, lanes) for each in (a.gate, a.low, a.high))
    begin, end = b.share(a.count, lanes)  # this thread's part
    with b.loop(begin, end, lanes) as loop:
        at, left = loop.index * 4, a.count - loop.index
        x, r = (b.load_prefix(vector(F32, lanes), each, at, left) for each in (a.x, a.r))
        y = x + r * gate
        y = b.select(y < low, low, b.select(y > high, high, y))  # NaN stays NaN, as in the reference
        b.store_prefix(y, a.y, at, left)


class Codes(Arguments["Codes"], Generic[P, E, S]):
    """count: elements of x, r and y, which are u8. x_scale, r_scale: the factors of `GatedAdd.integer`."""

    x: P
    r: P
    y: Written[P]
    count: E
    x_zero: E
    r_zero: E
    x_scale: S
    r_scale: S
    codes: CodeRange[E, S]


@kernel
def gated_add_codes(b: KernelBuilder, a: Codes) -> None:
    """y = clamp(rne((x - x_zero) * x_scale + (r - r_zero) * r_scale)) + zero"""
    lanes = b.target.f32_lanes
    zeros = [b.splat(b.trunc(zero, I32), lanes) for zero in (a.x_zero, a.r_zero, a.codes.zero)]
    x_scale, r_scale, low, high = (b.splat(each, lanes) for each in (a.x_scale, a.r_scale, a.codes.low, a.codes.high))
    begin, end = b.share(a.count, lanes)
    with b.loop(begin, end, lanes) as loop:
        at, left = loop.index, a.count - loop.index
        x, r = (b.zext(b.load_prefix(vector(I8, lanes), each, at, left), I32) for each in (a.x, a.r))
        real = b.sitofp(x - zeros[0]) * x_scale + b.sitofp(r - zeros[1]) * r_scale
        y = b.target.round_to_i32(b, b.clamp(real, low, high)) + zeros[2]
        b.store_prefix(b.trunc(y, I8), a.y, at, left)


# -- rules: how a node calls the kernels


@lowers("gated_add", unless=why_not_f32)
def real(s: NodeLowering) -> None:
    op, y = GatedAdd(s.node), s.result()
    low, high = op.bounds
    x, r = s.row_major(op.x), s.row_major(op.r)
    arguments = Real(x=x, r=r, y=y, count=y.elements, gate=op.gate, low=low, high=high)
    s.call(gated_add_real(), arguments, bytes=12 * y.elements)


@lowers("gated_add", unless=why_not_u8)
def codes(s: NodeLowering) -> None:
    op, y = GatedAdd(s.node), s.result()
    x, r, out = op.x.type.params, op.r.type.params, s.out
    arguments = Codes(
        x=s.row_major(op.x),
        r=s.row_major(op.r),
        y=y,
        count=y.elements,
        x_zero=x.zero_point[0],
        r_zero=r.zero_point[0],
        x_scale=float(qmath.multiplier(x.scales, over=out.params.scales)[0]),
        r_scale=float(qmath.multiplier(r.scales, op.gate, over=out.params.scales)[0]),
        codes=code_range(out, op.activation),
    )
    s.call(gated_add_codes(), arguments, bytes=3 * y.elements)


# -- other forms


def onnx_gated_add(w: NodeWriter) -> str:
    """The body of the function com.example::GatedAdd."""
    return w.activated(w.emit("Add", w.x(0), w.emit("Mul", w.x(1), w.number(w.op.gate))))


def torch_gated_add(w: Any) -> Any:
    """Codes from codes, with the roundings of `GatedAdd.integer`."""
    import torch

    from qcompiler.export.torch import codes

    scales = w.type(0).params.scales, w.type(1).params.scales, w.out.params.scales
    x = codes.scaled(w, codes.centered(w, 0, torch.float32), qmath.multiplier(scales[0], over=scales[2]))
    r = codes.scaled(w, codes.centered(w, 1, torch.float32), qmath.multiplier(scales[1], w.op.gate, over=scales[2]))
    return codes.requantize(x + r, w.out, w.op.activation)


qc.register_exporter("onnx", GatedAdd, onnx_gated_add, domain="com.example")
qc.register_exporter("torch", GatedAdd, torch_gated_add, on_codes=True)
qc.register_importer("onnx", "com.example::GatedAdd", GatedAdd)
