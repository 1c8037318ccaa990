"""Elementwise kernels: real arithmetic, activations, comparisons, casts, selection, plain integers, and arithmetic on
codes.

Each is a map (see map_loop) with one of the functions of `FLOAT`, `PLAIN`, or of quantized arithmetic. Bytes are worked
on a whole register at a time: four registers of f32.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from qcompiler.backends.kernel_ir.builder import KernelBuilder, KernelDef
from qcompiler.backends.kernel_ir.ir import Value
from qcompiler.backends.kernel_ir.types import F32, F64, I8, I16, I32, I64, Type, vector
from qcompiler.backends.kernels.map_loop import OUTER, Plan, declare_map, emit_map
from qcompiler.backends.kernels.real_functions import FLOAT, SIMPLE, WIDE, Lanes, in_f64

__all__ = ["FLOAT", "OUTER", "PLAIN", "static_inner"]

REALS: dict[str, Type] = {"f32": F32, "f64": F64}
INTEGERS: dict[str, Type] = {"i8": I8, "u8": I8, "bool": I8, "i16": I16, "i32": I32, "i64": I64}
DOUBLE = frozenset(
    {
        "relu",
        "relu6",
        "neg",
        "abs",
        "floor",
        "ceil",
        "round",
        "sign",
        "square",
        "sqrt",
        "rsqrt",
        "reciprocal",
        "add",
        "sub",
        "mul",
        "div",
        "minimum",
        "maximum",
    }
)
"""Functions of `FLOAT` that are as good in f64: they use no function of ours and no attr."""
UNSIGNED = frozenset({"u8", "bool"})


def static_inner(varies: Sequence[bool]) -> str:
    """The static argument `inner`."""
    return "".join("1" if v else "0" for v in varies)


def attr_names(attrs: dict[str, Any]) -> list[str]:
    """Names of an op's float attrs, which become p0, p1."""
    return [name for name, value in attrs.items() if isinstance(value, float)]


def _varies(inner: str) -> list[bool]:
    return [c == "1" for c in inner]


def _lanes(b: KernelBuilder, element: Type) -> int:
    """Elements of one register."""
    return b.target.vector_bytes // element.bytes


def _bytes_plan(b: KernelBuilder) -> Plan:
    """Whole registers of bytes; then quarters, a register of f32 each."""
    return (b.target.vector_bytes, 1), (b.target.f32_lanes, 1)


def _plan(b: KernelBuilder, element: Type, unroll: int) -> Plan:
    """Registers of an element, several at a time; bytes as `_bytes_plan`."""
    lanes = _lanes(b, element)
    return _bytes_plan(b) if element is I8 else ((lanes, unroll), (lanes, 1)) if unroll > 1 else ((lanes, 1),)


# -- real


def _real(operands: int) -> KernelDef:
    def body(b: KernelBuilder, *, op: str, inner: str, params: str, activation: str, dtype: str) -> None:
        element = REALS[dtype]

        def attr(i: int) -> Value:
            value = b.scalar(f"p{i}")
            return (
                b.convert("fpext", value, F64) + b.convert("fpext", b.scalar(f"p{i}_rest"), F64)
                if op in WIDE
                else value
            )

        def prepare(lanes: int) -> Lanes:
            p = {name: b.splat(attr(i), lanes) for i, name in enumerate(params.split(",") if params else ())}

            def compute(*values: Value) -> Value:
                found = FLOAT[op](b, *values, **p)
                return found if activation == "none" else FLOAT[activation](b, found)

            return compute

        emit_map(b, [element] * operands, _varies(inner), element, _plan(b, element, 4 if op in SIMPLE else 1), prepare)

    return declare_map(f"map_real_{operands}", operands, body, scalars=("p0", "p1", "p0_rest", "p1_rest"))


REAL = {operands: _real(operands) for operands in (1, 2)}
"""Maps of reals by number of operands. static: op, inner ("1" where an operand varies, else "0"), params (names of p0,
p1), activation, dtype. p0_rest: what p0 lacks to the attr in f64."""


def _affine_body(b: KernelBuilder, *, inner: str) -> None:
    """x * factor + shift, through f64."""
    compute = in_f64(lambda b, x, factor, shift: x * factor + shift)
    emit_map(b, [F32] * 3, _varies(inner), F32, _plan(b, F32, 2), lambda lanes: lambda *values: compute(b, *values))


AFFINE = declare_map("map_affine", 3, _affine_body)


# -- comparison, selection, bools


_COMPARISONS: dict[str, Lanes] = {
    "equal": lambda b, x, y: x == y,
    "not_equal": lambda b, x, y: x != y,
    "less": lambda b, x, y: x < y,
    "less_equal": lambda b, x, y: x <= y,
    "greater": lambda b, x, y: x > y,
    "greater_equal": lambda b, x, y: x >= y,
}
_UNSIGNED_COMPARISONS = {"less": "ult", "less_equal": "ule", "greater": "ugt", "greater_equal": "uge"}


def _compare_body(b: KernelBuilder, *, op: str, inner: str, dtype: str) -> None:
    element = REALS.get(dtype) or INTEGERS[dtype]

    def compute(x: Value, y: Value) -> Value:
        if dtype in UNSIGNED and op in _UNSIGNED_COMPARISONS:
            return b.zext(b.icmp(_UNSIGNED_COMPARISONS[op], x, y), I8)
        return b.zext(_COMPARISONS[op](b, x, y), I8)

    emit_map(b, [element] * 2, _varies(inner), I8, _bytes_plan(b), lambda lanes: compute)


COMPARE = declare_map("map_compare", 2, _compare_body)


def _logic(operands: int) -> KernelDef:
    def body(b: KernelBuilder, *, op: str, inner: str) -> None:
        compute: Lanes = {
            "logical_and": lambda x, y: x & y,
            "logical_or": lambda x, y: x | y,
            "logical_not": lambda x: x ^ 1,
        }[op]
        emit_map(b, [I8] * operands, _varies(inner), I8, _bytes_plan(b), lambda lanes: compute)

    return declare_map(f"map_bool_{operands}", operands, body)


LOGIC = {operands: _logic(operands) for operands in (1, 2)}


def _where_body(b: KernelBuilder, *, inner: str, itemsize: int) -> None:
    element = {1: I8, 2: I16, 4: I32, 8: I64}[itemsize]
    emit_map(
        b,
        [I8, element, element],
        _varies(inner),
        element,
        _plan(b, element, 4),
        lambda lanes: lambda c, x, y: b.select(c != 0, x, y),
    )


WHERE = declare_map("map_where", 3, _where_body)


# -- plain integers


PLAIN: dict[str, Lanes] = {
    "add": lambda b, x, y: x + y,
    "sub": lambda b, x, y: x - y,
    "mul": lambda b, x, y: x * y,
    "minimum": lambda b, x, y: b.smin(x, y),
    "maximum": lambda b, x, y: b.smax(x, y),
    "neg": lambda b, x: -x,
    "abs": lambda b, x: b.smax(x, -x),
    "square": lambda b, x: x * x,
    "relu": lambda b, x: b.smax(x, 0),
    "relu6": lambda b, x: b.smin(b.smax(x, 0), 6),
    "sign": lambda b, x: b.smin(b.smax(x, -1), 1),
}
"""Integer results of signed operands of the same type; sums and products wrap."""

_UNSIGNED_PLAIN: dict[str, Lanes] = {
    "minimum": lambda b, x, y: b.umin(x, y),
    "maximum": lambda b, x, y: b.umax(x, y),
    "abs": lambda b, x: x,
    "relu": lambda b, x: x,
    "relu6": lambda b, x: b.umin(x, 6),
    "sign": lambda b, x: b.umin(x, 1),
}


def _integers(operands: int) -> KernelDef:
    def body(b: KernelBuilder, *, op: str, inner: str, dtype: str) -> None:
        element = INTEGERS[dtype]
        function = _UNSIGNED_PLAIN.get(op, PLAIN[op]) if dtype in UNSIGNED else PLAIN[op]
        emit_map(
            b,
            [element] * operands,
            _varies(inner),
            element,
            _plan(b, element, 2),
            lambda lanes: lambda *values: function(b, *values),
        )

    return declare_map(f"map_integer_{operands}", operands, body)


INTEGER = {operands: _integers(operands) for operands in (1, 2)}


def _clamp_body(b: KernelBuilder, *, inner: str, dtype: str) -> None:
    """Into [low, high]."""
    element = INTEGERS[dtype]
    smallest, largest = ("umin", "umax") if dtype in UNSIGNED else ("smin", "smax")

    def prepare(lanes: int) -> Lanes:
        low, high = (
            b.splat(b.extent(n) if element is I64 else b.trunc(b.extent(n), element), lanes) for n in ("low", "high")
        )
        return lambda x: b.binary(smallest, b.binary(largest, x, low), high)

    emit_map(b, [element], _varies(inner), element, _plan(b, element, 2), prepare)


CLAMP = declare_map("map_clamp", 1, _clamp_body, ("low", "high"))


# -- casts


_BOUNDS = {
    "i8": (-128, 127),
    "u8": (0, 255),
    "i16": (-(2**15), 2**15 - 1),
    "i32": (-(2**31), 2**31 - 1),
    "i64": (-(2**63), 2**63 - 1),
}


def _cast_body(b: KernelBuilder, *, inner: str, source: str, to: str) -> None:
    read, write = (REALS.get(dtype) or INTEGERS[dtype] for dtype in (source, to))

    def compute(x: Value) -> Value:
        if to == "bool":
            return b.zext(x != 0, I8)
        if read.is_float and write.is_float:
            return x if read is write else b.convert("fpext" if write is F64 else "fptrunc", x, write)
        if read.is_float:
            return _saturated(b, x, to, write)
        if source in UNSIGNED and write.bits > 8:
            x = b.zext(x, I32)
        if write.is_float:
            return b.sitofp(x, write)
        bits = x.type.element.bits
        return x if bits == write.bits else b.trunc(x, write) if bits > write.bits else b.sext(x, write)

    lanes = max(b.target.f32_lanes, 4)
    emit_map(b, [read], _varies(inner), write, ((lanes, 2), (lanes, 1)), lambda lanes: compute)


def _saturated(b: KernelBuilder, x: Value, to: str, write: Type) -> Value:
    """Truncated, saturating, NaN to 0. i32 through f64, which holds every one; an i64 is made where |x| < 2^63."""
    low, high = _BOUNDS[to]
    x = b.select(x != x, b.const(x.type, 0.0), x)
    if to != "i64":
        if write is I32:
            x = b.convert("fpext", x, F64)
        whole = b.convert("fptosi", b.clamp(x, float(low), float(high)), I32)
        return whole if write is I32 else b.trunc(whole, write)
    above, below = x >= 2.0**63, x < -(2.0**63)
    whole = b.convert("fptosi", b.select(above | below, b.const(x.type, 0.0), x), I64)
    whole = b.select(above, b.const(whole.type, high), whole)
    return b.select(below, b.const(whole.type, low), whole)


CAST = declare_map("map_cast", 1, _cast_body)


# -- arithmetic on codes


class Codes:
    """u8 codes as f32 registers and back, for `lanes` codes at a time: a register of bytes is four registers of f32,
    fewer are one."""

    def __init__(self, b: KernelBuilder, lanes: int) -> None:
        self.b, self.lanes = b, lanes
        self.whole = lanes == b.target.vector_bytes
        self.low, self.high = (self.real(b.scalar(name)) for name in ("low", "high"))
        zero = b.extent("zero")
        self.zero = b.splat(b.trunc(zero, I16 if self.whole else I32), lanes // 2 if self.whole else lanes)

    def real(self, value: Value) -> Value:
        """A f32 scalar in every lane of a register."""
        return self.b.splat(value, self.b.target.f32_lanes)

    def shift(self, zero: str) -> Value:
        """What `centered` subtracts for the zero point that is extent `zero`."""
        value = self.b.sitofp(self.b.trunc(self.b.extent(zero), I32))
        return self.real(value + 2.0**23 if self.whole else value)

    def centered(self, codes: Value, shift: Value) -> list[Value]:
        """f32(q - zero_point), exact, in registers of which the lanes come in the order of `interleaved`."""
        b = self.b
        if not self.whole:
            return [b.sitofp(b.zext(codes, I32)) - shift]
        words = vector(I16, self.lanes // 2)
        halves = b.target.interleaved(b, codes, b.zero(codes.type))
        return [real - shift for half in halves for real in b.target.words_above_2_23(b, b.bitcast(half, words))]

    def aligned(self, values: Value) -> list[Value]:
        """<lanes x f32> in the order that `centered` gives."""
        if not self.whole:
            return [values]
        b, register = self.b, self.b.target.f32_lanes
        parts = [b.slice(values, start, register) for start in range(0, self.lanes, register)]
        order = range(self.lanes)
        block = [
            i
            for half in range(2)
            for k in range(self.lanes // 16)
            for i in order[16 * k + 8 * half : 16 * k + 8 * half + 8]
        ]
        pairs = b.target.pair_order()
        found = []
        for half in range(2):
            words = block[half * self.lanes // 2 : (half + 1) * self.lanes // 2]
            lanes = [words[i] for i in pairs]
            found += [self._gather(parts, lanes[:register]), self._gather(parts, lanes[register:])]
        return found

    def _gather(self, parts: Sequence[Value], lanes: Sequence[int]) -> Value:
        """Lanes of consecutive registers, of which two hold them all or each holds as many."""
        b, register = self.b, self.b.target.f32_lanes
        sources = list(dict.fromkeys(lane // register for lane in lanes))
        if len(sources) <= 2:
            second = sources[-1]
            place = {source: i * register for i, source in reversed(list(enumerate([sources[0], second])))}
            return b.shuffle(
                parts[sources[0]], parts[second], [place[lane // register] + lane % register for lane in lanes]
            )
        half = len(lanes) // 2
        low, high = self._gather_half(parts, lanes[:half]), self._gather_half(parts, lanes[half:])
        return b.shuffle(low, high, range(2 * half))

    def _gather_half(self, parts: Sequence[Value], lanes: Sequence[int]) -> Value:
        register = self.b.target.f32_lanes
        first, second = lanes[0] // register, lanes[-1] // register
        return self.b.shuffle(
            parts[first],
            parts[second],
            [lane % register + (register if lane // register != first else 0) for lane in lanes],
        )

    def requantized(self, reals: Sequence[Value]) -> Value:
        """Clamped, rounded, shifted; bytes in order."""
        b = self.b
        rounded = [b.target.round_to_i32(b, b.clamp(real, self.low, self.high)) for real in reals]
        if not self.whole:
            return b.trunc(rounded[0] + self.zero, I8)
        words = [b.target.pack_words(b, rounded[i], rounded[i + 1]) + self.zero for i in (0, 2)]
        return b.target.pack_bytes(b, *words)


def _codes_body(b: KernelBuilder, *, op: str, inner: str) -> None:
    """u8 codes: f32 terms of both operands in units of the result's scale, combined, clamped, rounded."""

    def combine(x: Value, y: Value, first: Value, second: Value) -> Value:
        if op == "mul":
            return x * y * first  # the product is an integer below 2^24
        if op == "div":
            return x / y * first
        return FLOAT[op](b, x * first, y * second)

    def prepare(lanes: int) -> Lanes:
        codes = Codes(b, lanes)
        shifts, scales = (
            [codes.shift(name) for name in ("zero0", "zero1")],
            [codes.real(b.scalar(name)) for name in ("scale0", "scale1")],
        )

        def compute(x: Value, y: Value) -> Value:
            terms = zip(codes.centered(x, shifts[0]), codes.centered(y, shifts[1]))
            return codes.requantized([combine(p, q, *scales) for p, q in terms])

        return compute

    emit_map(b, [I8, I8], _varies(inner), I8, _bytes_plan(b), prepare)


CODES = declare_map("map_codes", 2, _codes_body, ("zero0", "zero1", "zero"), ("scale0", "scale1", "low", "high"))


def _prelu_body(b: KernelBuilder, *, inner: str) -> None:
    """u8 codes and a f32 multiplier for each negative one; scale: the multiplier of the others."""

    def prepare(lanes: int) -> Lanes:
        codes = Codes(b, lanes)
        shift, scale = codes.shift("in_zero"), codes.real(b.scalar("scale"))

        def compute(x: Value, slopes: Value) -> Value:
            pairs = zip(codes.centered(x, shift), codes.aligned(slopes))
            return codes.requantized([q * b.select(q > 0.0, scale, slope) for q, slope in pairs])

        return compute

    emit_map(b, [I8, F32], _varies(inner), I8, _bytes_plan(b), prepare)


PRELU_CODES = declare_map("map_prelu_codes", 2, _prelu_body, ("in_zero", "zero"), ("scale", "low", "high"))


def _affine_codes_body(b: KernelBuilder, *, inner: str) -> None:
    """f32(q - in_zero) * factor + shift, requantized; factor and shift in units of the scales."""

    def prepare(lanes: int) -> Lanes:
        codes = Codes(b, lanes)
        in_zero = codes.shift("in_zero")

        def compute(x: Value, factors: Value, shifts: Value) -> Value:
            terms = zip(codes.centered(x, in_zero), codes.aligned(factors), codes.aligned(shifts))
            return codes.requantized([q * factor + shift for q, factor, shift in terms])

        return compute

    emit_map(b, [I8, F32, F32], _varies(inner), I8, _bytes_plan(b), prepare)


AFFINE_CODES = declare_map("map_affine_codes", 3, _affine_codes_body, ("in_zero", "zero"), ("low", "high"))
