"""Ops whose operands were quantized while the model ran: DynamicQuantizeLinear, products of integers, and the forms
that ONNX Runtime fuses of them.

A product of integers is recorded as a product of real numbers: the codes less their zero points, and constant weights
of scale 1, dequantized. The pass dynamic-products makes an integer product of that, and takes up the scales that
follow. Where it can't, as of weights that are no constant and of convolutions, the f32 sums are exact: they stay below
2^24, or two that do are added.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from qcompiler.frontend import array_ops as ops
from qcompiler.frontend.array_ops import binary, cast, dims, lift, rank, unary
from qcompiler.frontend.onnx_ops.codes import Sums
from qcompiler.frontend.onnx_ops.layers import conv_geometry
from qcompiler.frontend.onnx_ops.node import OnnxNode, onnx
from qcompiler.quantization.qmath import MOST_DYNAMIC_TERMS
from qcompiler.types import DType, QuantParams

_EXACT = 2**24
"""f32 holds integers of at most this magnitude, and their sums."""
_NIBBLE = 16


@onnx("DynamicQuantizeLinear")
def _dynamic_quantize(n: OnnxNode) -> Any:
    return quantized_by_tensor(n, n.floats(0))


def quantized_by_tensor(n: OnnxNode, x: Any) -> tuple[Any, Any, Any]:
    """The u8 codes of x, their scale and their zero point."""
    n.trace.graph.stage = "qdq"
    codes, scale, zero_point = n.trace.emit_results("dynamic_quantize", [lift(x, n.trace)], {"axis": "tensor"})
    return codes, scale, zero_point


@onnx("MatMulInteger")
def _matmul_integer(n: OnnxNode) -> Any:
    return product(n, n.held(0), n.raw(1), n.raw(2), n.raw(3))


@onnx("com.microsoft.MatMulIntegerToFloat")
def _matmul_integer_to_float(n: OnnxNode) -> Any:
    sums = product(n, n.held(0), n.raw(1), n.raw(4), n.raw(5))
    return scaled(n, sums, n.x(2), n.x(3), n.optional(6))


@onnx("com.microsoft.DynamicQuantizeMatMul")
def _dynamic_quantize_matmul(n: OnnxNode) -> Any:
    codes, scale, zero_point = quantized_by_tensor(n, n.floats(0))
    sums = product(n, codes, n.raw(1), zero_point, n.raw(3))
    return scaled(n, sums, scale, n.x(2), n.optional(4))


def scaled(n: OnnxNode, sums: Sums, x_scale: Any, weight_scale: Any, bias: Any = None) -> Any:
    """Sums as real numbers: times the product of the two scales, plus a bias."""
    y = binary("mul", sums.real(), binary("mul", x_scale, weight_scale))
    return y if bias is None else binary("add", y, bias)


def product(n: OnnxNode, a: Any, b: Any, a_zero: Any, b_zero: Any) -> Sums:
    """(a - a_zero) @ (b - b_zero), exactly.

    a: codes of 8 bits, traced. b: codes, traced or known. a_zero: one number, or one for each row; b_zero: one number,
    or one for each column; None is 0. A known matrix b, whose zero points are known too, is a layer's weight.
    """
    n.trace.graph.stage = "qdq"
    x = _centered(n, a, a_zero, "rows")
    if isinstance(b, np.ndarray) and b.ndim == 2 and (b_zero is None or isinstance(b_zero, np.ndarray)):
        return _layer(n, x, b, b_zero)
    y = _centered(n, b if not isinstance(b, np.ndarray) else lift(b, n.trace), b_zero, "columns")
    depth = dims(y)[-2] if rank(y) > 1 else dims(y)[0]
    most = (_EXACT - 1) // (255 * _NIBBLE)
    if not isinstance(depth, int) or depth > most:
        raise n.refuse("the sums of a product of integers", expected=f"at most {most} terms", got=str(depth))
    high = unary("floor", binary("mul", y, 1 / _NIBBLE))
    low = binary("sub", y, binary("mul", high, float(_NIBBLE)))
    return _sums(ops.matmul(x, high), ops.matmul(x, low))


def _layer(n: OnnxNode, x: Any, b: np.ndarray, b_zero: np.ndarray | None) -> Sums:
    """Sums of products with the constant codes b [inputs, outputs]."""
    _check_codes(n, b)
    depth, outputs = b.shape
    if depth > MOST_DYNAMIC_TERMS:
        raise n.refuse("a product of integers", expected=f"at most {MOST_DYNAMIC_TERMS} terms", got=depth)
    dtype = DType.from_numpy(b.dtype)
    points = np.zeros(1, np.int32) if b_zero is None else b_zero.ravel().astype(np.int32)
    if points.size not in (1, outputs):
        raise n.refuse("zero points of a weight", expected=f"1 or {outputs}", got=points.size)

    def multiply(codes: np.ndarray, points: np.ndarray, dtype: DType) -> Any:
        axis = None if points.size == 1 else 0
        unit = QuantParams((1.0,) * points.size, tuple(map(int, points)), axis, dtype.min, dtype.max)
        held = n.quantized_constant(np.ascontiguousarray(codes), unit, dtype)
        return n.emit("linear", (x, n.trace.emit("dequantize", (held,))))

    whole = multiply(b.T, points, dtype)
    weight = (b.astype(np.int32) - points).T

    def integers() -> Any:
        if _reach(weight) < _EXACT:
            return cast(whole, DType.I32)
        none = np.zeros(1, np.int32)
        return _sums(*(multiply(part.astype(np.int8), none, DType.I8) for part in _halves(n, weight))).integers()

    return Sums(whole, integers)


def _reach(weight: np.ndarray) -> int:
    """The largest magnitude of a sum of products of 8-bit codes, less their zero points, and an output's weights."""
    return 255 * int(np.abs(weight).reshape(len(weight), -1).sum(axis=1).max(initial=0))


def _halves(n: OnnxNode, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """weight // 16 and what is left of it: the sums of products with either are exact in f32."""
    high = weight // _NIBBLE
    low = weight - high * _NIBBLE
    reach = max(_reach(high), _reach(low))
    if reach >= _EXACT:
        raise n.refuse("the sums of a product of integers", expected=f"below {_EXACT}", got=reach)
    return high, low


def _sums(high: Any, low: Any) -> Sums:
    """16 * high + low, which are integers that f32 holds exactly."""
    real = binary("add", binary("mul", high, float(_NIBBLE)), low)

    def integers() -> Any:
        return binary("add", binary("mul", cast(high, DType.I32), _NIBBLE), cast(low, DType.I32))

    return Sums(real, integers)


def _check_codes(n: OnnxNode, value: Any) -> None:
    dtype = DType.from_numpy(value.dtype) if isinstance(value, np.ndarray) else value.value.type.dtype
    if dtype not in (DType.U8, DType.I8):
        raise n.refuse("the type of the codes", expected="uint8 | int8", got=str(dtype))


def _centered(n: OnnxNode, codes: Any, zero_point: Any, along: str) -> Any:
    """Traced u8 or i8 codes less their zero points, as f32 of at most 9 bits. Codes of i8 become u8, plus 128, as their
    zero points do."""
    _check_codes(n, codes)
    is_signed = codes.value.type.dtype is DType.I8
    point = np.uint8(0) if zero_point is None else zero_point
    if isinstance(point, (np.ndarray, np.generic)):
        point = np.asarray(point).astype(np.int32) + (128 if is_signed else 0)
        point = lift(point.astype(np.uint8), n.trace)
    elif is_signed:
        point = _raised(point)
    codes = _raised(codes) if is_signed else codes
    if rank(point) and dims(point) != (1,):
        shape = dims(point)
        if along == "rows":
            point = ops.reshape(point, (*shape, 1)) if len(shape) == 1 else point
        else:
            point = ops.reshape(point, (1, *shape)) if len(shape) == 1 else point
    elif rank(point):
        point = ops.reshape(point, ())
    return binary("sub", cast(codes, DType.F32), cast(point, DType.F32))


def _raised(codes: Any) -> Any:
    return cast(binary("add", cast(codes, DType.I32), 128), DType.U8)


@onnx("ConvInteger")
def _conv_integer(n: OnnxNode) -> Any:
    n.trace.graph.stage = "qdq"
    x, weight = _centered(n, n.held(0), n.raw(2), "rows"), n.known(1)
    _check_codes(n, weight)
    points = n.known(3, np.uint8(0)).astype(np.int32)
    points = points.reshape(-1, *[1] * (weight.ndim - 1)) if points.size > 1 else points.reshape(())
    weight = weight.astype(np.int32) - points
    geometry = conv_geometry(n, x, weight.shape)

    def convolved(part: np.ndarray) -> Any:
        constant = n.trace.constant(np.ascontiguousarray(part.astype(np.float32)), name=f"{n.name or n.op}.weight")
        return n.emit("conv", (x, constant, None), **geometry)

    if _reach(weight) >= _EXACT:
        return _sums(*map(convolved, _halves(n, weight)))
    whole = convolved(weight)
    return Sums(whole, lambda: cast(whole, DType.I32))
