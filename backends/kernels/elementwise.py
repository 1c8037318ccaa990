"""Elementwise kernels with numpy broadcasting: real arithmetic, activations, comparisons, casts, and arithmetic on codes.

A map goes over up to OUTER outer axes at any strides; along the innermost axis the result lies without gaps, and each operand either
does too or is one element for all. What is computed lane by lane is a function of `FLOAT`, `PLAIN` or `CODES`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from qcompiler.backends.kernel_ir.builder import KernelBuilder, KernelDef, kernel
from qcompiler.backends.kernel_ir.ir import Value
from qcompiler.backends.kernel_ir.types import F32, F64, I8, I32, I64, Type, vector
from qcompiler.backends.kernels import math as functions

OUTER = 5
Lanes = Callable[..., Value]


# -- real functions of f32 registers; p: the op's float attrs


def _wide(function: Callable[..., Value]) -> Lanes:
    """Evaluate in f64 and round once."""

    def narrow(b: KernelBuilder, *values: Value, **p: Value) -> Value:
        extended = [b.convert("fpext", value, F64) for value in values]
        return b.convert("fptrunc", function(b, *extended, **{name: b.convert("fpext", v, F64) for name, v in p.items()}), F32)

    return narrow


def _const(b: KernelBuilder, x: Value, value: float) -> Value:
    return b.const(x.type, value)


def _keep_nan(b: KernelBuilder, x: Value, y: Value) -> Value:
    return b.select(x != x, x, y)


def _hardtanh(b: KernelBuilder, x: Value, min_value: Value, max_value: Value) -> Value:
    return b.select(x < min_value, min_value, b.select(x > max_value, max_value, x))


def _clip(b: KernelBuilder, x: Value, low: float, high: float) -> Value:
    low_value, high_value = _const(b, x, low), _const(b, x, high)
    return b.select(x < low_value, low_value, b.select(x > high_value, high_value, x))


def _elu(b: KernelBuilder, x: Value, alpha: Value) -> Value:
    return b.select(x > 0.0, x, alpha * functions.expm1(b, _clip(b, x, -math.inf, 0.0)))


def _celu(b: KernelBuilder, x: Value, alpha: Value) -> Value:
    return b.select(x > 0.0, x, alpha * functions.expm1(b, _clip(b, x, -math.inf, 0.0) / alpha))


def _softplus(b: KernelBuilder, x: Value, beta: Value, threshold: Value) -> Value:
    scaled = beta * x
    soft = (_clip(b, scaled, 0.0, math.inf) + functions.log1p(b, functions.exp(b, -b.fabs(scaled)))) / beta
    return b.select(scaled > threshold, x, soft)


def _mish(b: KernelBuilder, x: Value) -> Value:
    """x tanh(log(1 + e^x)) = x (w^2 - 1) / (w^2 + 1) with w = 1 + e^x, that is x n / (n + 2), n = e^x (e^x + 2); beyond 20 x itself."""
    e = functions.exp(b, _clip(b, x, -math.inf, 20.0))
    n = e * (e + 2.0)
    return b.select(x > 20.0, x, x * (n / (n + 2.0)))


def _gelu(b: KernelBuilder, x: Value) -> Value:
    return x * 0.5 * functions.erfc(b, x * (-1 / math.sqrt(2)))


def _gelu_tanh(b: KernelBuilder, x: Value) -> Value:
    inner = x + x * x * x * 0.044715
    return x / (functions.exp(b, inner * (-2 * math.sqrt(2 / math.pi))) + 1.0)


def _logsigmoid(b: KernelBuilder, x: Value) -> Value:
    return _clip(b, x, -math.inf, 0.0) - functions.log1p(b, functions.exp(b, -b.fabs(x)))


def _softshrink(b: KernelBuilder, x: Value, lambd: Value) -> Value:
    return b.select(x > lambd, x - lambd, b.select(x < -lambd, x + lambd, x * 0.0))


def _sign(b: KernelBuilder, x: Value) -> Value:
    zero, one = _const(b, x, 0.0), _const(b, x, 1.0)
    return b.select(x > zero, one, zero) - b.select(x < zero, one, zero)


_SELU_ALPHA, _SELU_SCALE = 1.6732632423543772, 1.0507009873554805

FLOAT: dict[str, Lanes] = {
    "relu": lambda b, x: b.select(x < 0.0, _const(b, x, 0.0), x),
    "relu6": lambda b, x: _clip(b, x, 0.0, 6.0),
    "hardtanh": _hardtanh,
    "sigmoid": _wide(functions.sigmoid),
    "hardsigmoid": _wide(lambda b, x: _clip(b, x / 6.0 + 0.5, 0.0, 1.0)),
    "tanh": _wide(functions.tanh),
    "hardswish": _wide(lambda b, x: x * _clip(b, x + 3.0, 0.0, 6.0) / 6.0),
    "silu": _wide(lambda b, x: x * functions.sigmoid(b, x)),
    "gelu": _wide(_gelu),
    "gelu_tanh": _wide(_gelu_tanh),
    "mish": _wide(_mish),
    "elu": _wide(_elu),
    "selu": _wide(lambda b, x: _elu(b, x, _const(b, x, _SELU_ALPHA)) * _SELU_SCALE),
    "celu": _wide(_celu),
    "softplus": _wide(_softplus),
    "softsign": _wide(lambda b, x: x / (b.fabs(x) + 1.0)),
    "softshrink": _softshrink,
    "hardshrink": lambda b, x, lambd: _keep_nan(b, x, b.select(b.fabs(x) > lambd, x, _const(b, x, 0.0))),
    "tanhshrink": _wide(lambda b, x: x - functions.tanh(b, x)),
    "logsigmoid": _wide(_logsigmoid),
    "leaky_relu": _wide(lambda b, x, negative_slope: b.select(x > 0.0, x, negative_slope * x)),
    "threshold": lambda b, x, threshold, value: b.select(x <= threshold, value, x),
    "neg": lambda b, x: -x,
    "abs": lambda b, x: b.fabs(x),
    "sqrt": lambda b, x: b.sqrt(x),
    "rsqrt": lambda b, x: _const(b, x, 1.0) / b.sqrt(x),
    "reciprocal": lambda b, x: _const(b, x, 1.0) / x,
    "exp": _wide(functions.exp),
    "log": _wide(functions.log),
    "erf": _wide(functions.erf),
    "floor": lambda b, x: b.floor(x),
    "ceil": lambda b, x: -b.floor(-x),
    "round": lambda b, x: b.rint(x),
    "sign": _sign,
    "square": lambda b, x: x * x,
    "add": lambda b, x, y: x + y,
    "sub": lambda b, x, y: x - y,
    "mul": lambda b, x, y: x * y,
    "div": lambda b, x, y: x / y,
    "minimum": lambda b, x, y: b.select((x <= y) | (x != x), x, y),
    "maximum": lambda b, x, y: b.select((x >= y) | (x != x), x, y),
    "pow": _wide(functions.power),
    "prelu": lambda b, x, slope: b.select(x > 0.0, x, slope * x),
}
"""f32 results of f32 operands."""

_COMPARISONS: dict[str, Lanes] = {
    "equal": lambda b, x, y: x == y,
    "not_equal": lambda b, x, y: x != y,
    "less": lambda b, x, y: x < y,
    "less_equal": lambda b, x, y: x <= y,
    "greater": lambda b, x, y: x > y,
    "greater_equal": lambda b, x, y: x >= y,
}

PLAIN: dict[str, Lanes] = {
    "add": lambda b, x, y: x + y, "sub": lambda b, x, y: x - y, "mul": lambda b, x, y: x * y,
    "minimum": lambda b, x, y: b.smin(x, y), "maximum": lambda b, x, y: b.smax(x, y),
    "neg": lambda b, x: -x, "abs": lambda b, x: b.smax(x, -x), "square": lambda b, x: x * x,
    "relu": lambda b, x: b.smax(x, 0), "relu6": lambda b, x: b.smin(b.smax(x, 0), 6),
    "sign": lambda b, x: b.smin(b.smax(x, -1), 1),
}
"""Signed integer results of integer operands of the same type."""


# -- the loops


def _map(b: KernelBuilder, elements: Sequence[Type], inner: Sequence[bool], result: Type, lanes: int,
         compute: Callable[..., Value]) -> None:
    """result[...] = compute(operands). elements: memory types of the operands; inner: whether an operand varies along the innermost axis."""
    count = b.extent("count")
    sizes = [b.extent(f"n{axis}") for axis in range(OUTER)]
    total = sizes[0]
    for size in sizes[1:]:
        total = total * size
    blocks = (count + (lanes - 1)) // lanes
    lo, hi = b.share(total * blocks)  # registers of all rows in a line, so that one long row is shared as well
    first, last = lo // blocks, (hi + (blocks - 1)) // blocks
    with b.loop(first, last) as outer:
        begin = b.smax(lo - outer.index * blocks, 0) * lanes
        end = b.smin(b.smin(hi - outer.index * blocks, blocks) * lanes, count)
        pointers = []
        for name in (*(f"x{i}" for i in range(len(elements))), "y"):
            pointer, rest = b.pointer(name), outer.index
            for axis in reversed(range(OUTER)):
                pointer = pointer + (rest % sizes[axis] if axis else rest) * b.extent(f"{name}_s{axis}")
                rest = rest // sizes[axis] if axis else rest
            pointers.append(pointer)
        fixed = [None if varies else b.splat(b.load(element, pointer), lanes)
                 for element, pointer, varies in zip(elements, pointers, inner)]

        def step(at: Value, left: Value | None) -> None:
            values = []
            for element, pointer, same in zip(elements, pointers, fixed):
                offset, type = at * (element.bits // 8), vector(element, lanes)
                if same is not None:
                    values.append(same)
                else:
                    values.append(b.load(type, pointer, offset) if left is None else b.load_prefix(type, pointer, offset, left))
            found, offset = compute(*values), at * (result.bits // 8)
            if left is None:
                b.store(found, pointers[-1], offset)
            else:
                b.store_prefix(found, pointers[-1], offset, left)

        whole = begin + (end - begin) // lanes * lanes
        with b.loop(begin, whole, lanes) as loop:
            step(loop.index, None)
        with b.if_(whole < end) as tail:
            step(whole, end - whole)
            tail.yield_([])


def _extents(operands: int) -> tuple[str, ...]:
    strides = tuple(f"{name}_s{axis}" for name in (*(f"x{i}" for i in range(operands)), "y") for axis in range(OUTER))
    return ("count", *(f"n{axis}" for axis in range(OUTER)), *strides)


def _declare(name: str, operands: int, body: Callable[..., None], extents: Sequence[str] = (), scalars: Sequence[str] = ()) -> KernelDef:
    body.__name__ = name
    return kernel(pointers=(*(f"x{i}" for i in range(operands)), "y"), extents=(*_extents(operands), *extents), scalars=scalars)(body)


def _real(operands: int) -> KernelDef:
    def body(b: KernelBuilder, *, op: str, inner: str, params: str, activation: str) -> None:
        lanes = b.target.f32_lanes
        p = {name: b.splat(b.scalar(f"p{i}"), lanes) for i, name in enumerate(params.split(",") if params else ())}

        def compute(*values: Value) -> Value:
            found = FLOAT[op](b, *values, **p)
            return found if activation == "none" else FLOAT[activation](b, found)

        _map(b, [F32] * operands, [c == "1" for c in inner], F32, lanes, compute)

    return _declare(f"map_f32_{operands}", operands, body, scalars=("p0", "p1"))


REAL = {operands: _real(operands) for operands in (1, 2)}
"""f32 maps by number of operands. static: op, inner ("1" where an operand varies, else "0"), params (names of p0, p1), activation."""

INTEGERS: dict[str, Type] = {"i8": I8, "u8": I8, "bool": I8, "i32": I32, "i64": I64}


def _compare_body(b: KernelBuilder, *, op: str, inner: str, dtype: str) -> None:
    element = F32 if dtype == "f32" else INTEGERS[dtype]
    lanes = b.target.f32_lanes

    def compute(x: Value, y: Value) -> Value:
        if dtype in ("u8", "bool"):
            x, y = b.zext(x, I32), b.zext(y, I32)
        return b.zext(_COMPARISONS[op](b, x, y), I8)

    _map(b, [element] * 2, [c == "1" for c in inner], I8, lanes, compute)


COMPARE = _declare("map_compare", 2, _compare_body)


def _plain(operands: int) -> KernelDef:
    def body(b: KernelBuilder, *, op: str, inner: str, dtype: str) -> None:
        element, lanes = INTEGERS[dtype], b.target.f32_lanes

        def compute(*values: Value) -> Value:
            if dtype == "u8":
                values = tuple(b.zext(v, I32) for v in values)
                return b.trunc(PLAIN[op](b, *values), I8)
            return PLAIN[op](b, *values)

        _map(b, [element] * operands, [c == "1" for c in inner], element, lanes, compute)

    return _declare(f"map_integer_{operands}", operands, body)


INTEGER = {operands: _plain(operands) for operands in (1, 2)}


def _logic(operands: int) -> KernelDef:
    def body(b: KernelBuilder, *, op: str, inner: str) -> None:
        compute: Lanes = {"logical_and": lambda x, y: x & y, "logical_or": lambda x, y: x | y, "logical_not": lambda x: x ^ 1}[op]
        _map(b, [I8] * operands, [c == "1" for c in inner], I8, b.target.vector_bytes, compute)

    return _declare(f"map_bool_{operands}", operands, body)


LOGIC = {operands: _logic(operands) for operands in (1, 2)}


def _where_body(b: KernelBuilder, *, inner: str, itemsize: int) -> None:
    element = {1: I8, 4: I32, 8: I64}[itemsize]
    _map(b, [I8, element, element], [c == "1" for c in inner], element, b.target.f32_lanes, lambda c, x, y: b.select(c != 0, x, y))


WHERE = _declare("map_where", 3, _where_body)

_BOUNDS = {"i8": (-128, 127), "u8": (0, 255), "i32": (-(2**31), 2**31 - 1), "i64": (-(2**63), 2**63 - 1)}


def _cast_body(b: KernelBuilder, *, inner: str, source: str, to: str) -> None:
    read = F32 if source == "f32" else INTEGERS[source]
    write = F32 if to == "f32" else INTEGERS[to]

    def compute(x: Value) -> Value:
        if to == "bool":
            return b.zext(x != 0, I8)
        if source == "f32":
            return x if to == "f32" else _saturated(b, x, to, write)
        if source in ("u8", "bool") and write is not read:
            x = b.zext(x, I32)
        if to == "f32":
            return b.sitofp(x)
        bits = x.type.element.bits
        return x if bits == write.bits else b.trunc(x, write) if bits > write.bits else b.sext(x, write)

    _map(b, [read], [c == "1" for c in inner], write, b.target.f32_lanes, compute)


def _saturated(b: KernelBuilder, x: Value, to: str, write: Type) -> Value:
    """Truncated, saturating, NaN to 0; through f64, which holds every i32. An i64 is made where |x| < 2^63."""
    low, high = _BOUNDS[to]
    zero = b.select(x != x, b.const(x.type, 0.0), x)
    if to != "i64":
        inside = b.clamp(b.convert("fpext", zero, F64), float(low), float(high))
        whole = b.convert("fptosi", inside, I32)
        return whole if write is I32 else b.trunc(whole, write)
    above, below = zero >= 2.0**63, zero < -(2.0**63)
    whole = b.convert("fptosi", b.select(above | below, b.const(x.type, 0.0), zero), I64)
    whole = b.select(above, b.const(whole.type, high), whole)
    return b.select(below, b.const(whole.type, low), whole)


CAST = _declare("map_cast", 1, _cast_body)


# -- arithmetic on codes


def _codes_body(b: KernelBuilder, *, op: str, inner: str) -> None:
    """u8 codes: f32 terms of both operands in units of the result's scale, combined, clamped, rounded."""
    lanes = b.target.i32_lanes

    def scalar(name: str) -> Value:
        return b.splat(b.scalar(name), lanes)

    zeros = [b.splat(b.trunc(b.extent(name), I32), lanes) for name in ("zero0", "zero1")]
    zero = b.splat(b.trunc(b.extent("zero"), I32), lanes)

    def compute(*codes: Value) -> Value:
        x, y = (b.zext(q, I32) - z for q, z in zip(codes, zeros))
        if op == "mul":
            real = b.sitofp(x * y) * scalar("scale0")
        elif op == "div":
            real = b.sitofp(x) / b.sitofp(y) * scalar("scale0")
        else:
            real = FLOAT[op](b, b.sitofp(x) * scalar("scale0"), b.sitofp(y) * scalar("scale1"))
        rounded = b.target.round_to_i32(b, b.clamp(real, scalar("low"), scalar("high")))
        return b.trunc(rounded + zero, I8)

    _map(b, [I8, I8], [c == "1" for c in inner], I8, lanes, compute)


CODES = _declare("map_codes", 2, _codes_body, ("zero0", "zero1", "zero"), ("scale0", "scale1", "low", "high"))


def _prelu_body(b: KernelBuilder, *, inner: str) -> None:
    """u8 codes and a f32 multiplier for each negative one; p0: the multiplier of the others."""
    lanes = b.target.i32_lanes
    in_zero, zero = (b.splat(b.trunc(b.extent(n), I32), lanes) for n in ("in_zero", "zero"))
    scale, low, high = (b.splat(b.scalar(n), lanes) for n in ("scale", "low", "high"))

    def compute(codes: Value, slope: Value) -> Value:
        centered = b.zext(codes, I32) - in_zero
        real = b.sitofp(centered) * b.select(centered > 0, scale, slope)
        return b.trunc(b.target.round_to_i32(b, b.clamp(real, low, high)) + zero, I8)

    _map(b, [I8, F32], [c == "1" for c in inner], I8, lanes, compute)


PRELU_CODES = _declare("map_prelu_codes", 2, _prelu_body, ("in_zero", "zero"), ("scale", "low", "high"))


def _affine_body(b: KernelBuilder, *, inner: str) -> None:
    """x * factor + shift, through f64."""
    compute = _wide(lambda b, x, factor, shift: x * factor + shift)
    _map(b, [F32] * 3, [c == "1" for c in inner], F32, b.target.f32_lanes, lambda *values: compute(b, *values))


AFFINE = _declare("map_affine", 3, _affine_body)


def _affine_codes_body(b: KernelBuilder, *, inner: str) -> None:
    """f32(q - in_zero) * factor + shift, requantized; factor and shift in units of the scales."""
    lanes = b.target.i32_lanes
    in_zero, zero = (b.splat(b.trunc(b.extent(n), I32), lanes) for n in ("in_zero", "zero"))
    low, high = (b.splat(b.scalar(n), lanes) for n in ("low", "high"))

    def compute(codes: Value, factor: Value, shift: Value) -> Value:
        real = b.sitofp(b.zext(codes, I32) - in_zero) * factor + shift
        return b.trunc(b.target.round_to_i32(b, b.clamp(real, low, high)) + zero, I8)

    _map(b, [I8, F32, F32], [c == "1" for c in inner], I8, lanes, compute)


AFFINE_CODES = _declare("map_affine_codes", 3, _affine_codes_body, ("in_zero", "zero"), ("low", "high"))


def static_inner(varies: Sequence[bool]) -> str:
    """The static argument `inner`."""
    return "".join("1" if v else "0" for v in varies)


def attr_names(attrs: dict[str, Any]) -> list[str]:
    """Names of an op's float attrs, which become p0, p1."""
    return [name for name, value in attrs.items() if isinstance(value, float)]
