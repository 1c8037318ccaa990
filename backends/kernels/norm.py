"""layer_norm, rms_norm, l2_normalize, group_norm and instance_norm of adjacent rows: f32, u8 and
i16.

Sums of reals use 16 logical lanes along the row. The kernels for codes that lie channels last are in norm_channels.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic

from qcompiler.backends.kernel_ir.builder import KernelBuilder, kernel
from qcompiler.backends.kernel_ir.definition import Arguments, E, Group, P, S, Written
from qcompiler.backends.kernel_ir.ir import Value
from qcompiler.backends.kernel_ir.types import F32, F64, I8, I16, I32, I64, Type, vector
from qcompiler.backends.kernels.code_range import CODES, CodeRange, as_i32
from qcompiler.backends.kernels.reduce import LOGICAL_LANES

_CHUNK = 1 << 13
"""Registers of codes whose squares fit i32. A lane adds four squares of each register of bytes, 260100 at most, or two
products of each register of words (`_add_words`), 130050 at most."""


class NormRows(Group, Generic[P, E]):
    """The rows that are normalized, each by its own mean and variance. A row is `runs` runs of `run` elements.

    Attributes:
        gain, shift: f32 arrays. Run r of row i uses entry i % groups * runs + r. If each element has its own
            (layer_norm and rms_norm, where a row is one run), element e of every row uses entry e.
    """

    x: P
    gain: P
    shift: P
    y: Written[P]
    rows: E
    groups: E
    runs: E
    run: E


class NormReal(Arguments["NormReal"], Generic[P, E, S]):
    """The arguments of `norm_real`. eps: the number that is added to the variance, or the least length."""

    rows: NormRows[P, E]
    eps: S


class NormCodes(Arguments["NormCodes"], Generic[P, E, S]):
    """The arguments of `norm_codes`. gain and shift are divided by the result's scale. in_zero: the zero point of x;
    eps: in squared units of x's scale if it is added to the variance, in units of it if it is the least length."""

    rows: NormRows[P, E]
    in_zero: E
    eps: S
    codes: CodeRange[E, S]


def _sum(
    b: KernelBuilder,
    rows: NormRows,
    x: Value,
    element: Type,
    accumulator: Type,
    compute: Callable[[Value], Value],
) -> Value:
    """The sum of compute(element) over a row, as a scalar."""
    lanes, size = LOGICAL_LANES, element.bits // 8
    count = rows.runs * rows.run
    whole = count // lanes * lanes
    start = b.zero(vector(accumulator, lanes))
    with b.loop(0, whole, lanes, carried=[start]) as loop:
        loop.yield_([loop.carried[0] + compute(b.load(vector(element, lanes), x, loop.index * size))])
    with b.if_(whole < count) as tail:
        value = compute(b.load_prefix(vector(element, lanes), x, whole * size, count - whole))
        tail.yield_([loop.results[0] + b.select(b.mask_below(count - whole, lanes), value, start)])
    with tail.else_():
        tail.yield_(loop.results)
    return b.reduce(lambda p, q: p + q, tail.results[0])


def _add_bytes(b: KernelBuilder, codes: Value, sums: list[Value]) -> list[Value]:
    """The sums of q and of q * q in i32 lanes, plus those of a register of bytes."""
    words = vector(I16, codes.type.lanes // 2)
    low, high = (b.bitcast(v, words) for v in b.target.interleaved(b, codes, b.zero(codes.type)))
    squares = b.target.dot2(b, b.target.dot2(b, sums[1], low, low), high, high)
    return [b.target.dot2(b, sums[0], low + high, b.const(words, 1)), squares]


def _add_words(b: KernelBuilder, codes: Value, sums: list[Value]) -> list[Value]:
    """The sums of h, l, h * h, h * l and l * l in i32 lanes, plus those of a register of words q = 256 * h + l, where
    -128 <= h <= 127 and 0 <= l <= 255."""
    high, low, ones = b.binary("ashr", codes, 8), codes & 255, b.const(codes.type, 1)
    factors = ((high, ones), (low, ones), (high, high), (high, low), (low, low))
    return [b.target.dot2(b, total, *pair) for total, pair in zip(sums, factors)]


def _sums_of_codes(b: KernelBuilder, x: Value, count: Value, element: Type) -> tuple[Value, Value]:
    """The i64 sums of q and of q * q over `count` adjacent codes."""
    register = vector(element, b.target.vector_bytes // element.bytes)
    lanes, (add, sums) = register.lanes, (_add_bytes, 2) if element is I8 else (_add_words, 5)
    start = [b.zero(vector(I32, b.target.i32_lanes))] * sums

    with b.loop(0, count, _CHUNK * lanes, carried=[b.i64(0)] * sums) as chunk:
        end = b.smin(chunk.index + _CHUNK * lanes, count)
        whole = chunk.index + (end - chunk.index) // lanes * lanes
        with b.loop(chunk.index, whole, lanes, carried=start) as loop:
            loop.yield_(add(b, b.load(register, x, loop.index * element.bytes), loop.carried))
        with b.if_(whole < end) as tail:
            codes = b.load_prefix(register, x, whole * element.bytes, end - whole)
            tail.yield_(add(b, codes, loop.results))
        with tail.else_():
            tail.yield_(loop.results)
        wide = [b.reduce(lambda p, q: p + q, b.sext(v, I64)) for v in tail.results]
        chunk.yield_([total + more for total, more in zip(chunk.carried, wide)])
    if element is I8:
        return chunk.results[0], chunk.results[1]
    high, low, high_high, high_low, low_low = chunk.results
    return high * 256 + low, high_high * 65536 + high_low * 512 + low_low


def _write(
    b: KernelBuilder,
    rows: NormRows,
    row: Value,
    x: Value,
    y: Value,
    elements: tuple[Type, Type],
    each: bool,
    compute: Callable[[Value, Value, Value], Value],
) -> None:
    """Write y = compute(x, gain, shift) over a row.

    elements: the element types of x and y, both f32 or both codes. compute: gives f32, or i32 codes. each: see
    `NormRows.gain`.
    """
    element, written = elements
    size, y_size = element.bytes, written.bytes
    gain, shift, run = rows.gain, rows.shift, rows.run
    codes, narrows = element is not F32, elements == (I8, I8)
    width = b.target.i32_lanes if codes else LOGICAL_LANES
    block = 4 * width if narrows else width
    base = row % rows.groups * rows.runs
    whole = run // block * block
    with b.loop(0, rows.runs) as nth:
        at = nth.index * run
        fixed = None if each else [b.splat(b.load(F32, p, (base + nth.index) * 4), width) for p in (gain, shift)]

        def terms(
            place: Value, disp: int = 0, left: Value | None = None, fixed: list[Value] | None = fixed
        ) -> list[Value]:
            floats = vector(F32, width)
            if fixed:
                return fixed
            if left is None:
                return [b.load(floats, p, place * 4, disp=disp) for p in (gain, shift)]
            return [b.load_prefix(floats, p, place * 4, left) for p in (gain, shift)]

        with b.loop(0, whole, block) as loop:
            place = at + loop.index
            values = b.load(vector(element, block), x, place * size)
            parts = [
                compute(b.slice(values, first, width), *terms(loop.index, 4 * first))
                for first in range(0, block, width)
            ]
            found = b.target.narrow(b, parts, "u8") if narrows else b.trunc(parts[0], written) if codes else parts[0]
            b.store(found, y, place * y_size)
        with b.loop(whole, run, width) as loop:
            left, place = run - loop.index, at + loop.index
            value = b.load_prefix(vector(element, width), x, place * size, left)
            found = compute(value, *terms(loop.index, left=left))
            b.store_prefix(b.trunc(found, written) if codes else found, y, place * y_size, left)


def _over_rows(
    b: KernelBuilder, rows: NormRows, elements: tuple[Type, Type], body: Callable[[Value, Value, Value], None]
) -> None:
    """Emit body(row, x, y) for each row of this thread. elements: the element types of x and y."""
    count = rows.runs * rows.run
    lo, hi = b.share(rows.rows)
    with b.loop(lo, hi) as row:
        x, y = (pointer + row.index * (count * t.bytes) for pointer, t in zip((rows.x, rows.y), elements))
        body(row.index, x, y)


def _at_least(b: KernelBuilder, x: Value, least: Value) -> Value:
    """The larger of both; NaN in x stays."""
    return b.select(x < least, least, x)


@kernel
def norm_real(b: KernelBuilder, a: NormReal, *, each: bool, centers: bool = True, length: bool = False) -> None:
    """(x - mean) / sqrt(var + eps) * gain + shift in f64, rounded once. each: see `NormRows.gain`; without `centers`
    the mean is 0; `length` divides by max(sqrt(sum of squares), eps) instead of the deviation."""
    rows = a.rows

    def wide(v: Value) -> Value:
        return b.convert("fpext", v, F64)

    def body(row: Value, x: Value, y: Value) -> None:
        count = b.sitofp(rows.runs * rows.run, F64)
        mean = b.splat(_sum(b, rows, x, F32, F64, wide) / count, LOGICAL_LANES) if centers else None

        def centered(v: Value) -> Value:
            return wide(v) if mean is None else wide(v) - mean

        def squared(v: Value) -> Value:
            real = centered(v)
            return real * real

        total = _sum(b, rows, x, F32, F64, squared)
        divisor = _at_least(b, b.sqrt(total), wide(a.eps)) if length else b.sqrt(total / count + wide(a.eps))
        deviation = b.splat(divisor, LOGICAL_LANES)

        def compute(v: Value, gain: Value, shift: Value) -> Value:
            return b.convert("fptrunc", centered(v) / deviation * wide(gain) + wide(shift), F32)

        _write(b, rows, row, x, y, (F32, F32), each, compute)

    _over_rows(b, rows, (F32, F32), body)


@kernel
def norm_codes(
    b: KernelBuilder,
    a: NormCodes,
    *,
    each: bool,
    centers: bool = True,
    length: bool = False,
    source: str = "u8",
    to: str = "u8",
) -> None:
    """The integer meaning of the ops in qcompiler.ops.norm: exact sums, then f32 operations. each: see
    `NormRows.gain`; without `centers` s1 is 0 in the mean and in the variance; `length` as in `norm_real`.
    source, to: the element types of x and y."""
    rows, lanes, elements = a.rows, b.target.i32_lanes, (CODES[source], CODES[to])
    in_zero = b.splat(b.trunc(a.in_zero, I32), lanes)
    zero = b.splat(b.trunc(a.codes.zero, I32), lanes)

    def centered(q: Value) -> Value:
        return as_i32(b, q) - in_zero

    def body(row: Value, x: Value, y: Value) -> None:
        count = rows.runs * rows.run
        of_codes, of_squares = _sums_of_codes(b, x, count, elements[0])
        s1 = of_codes - count * a.in_zero
        s2 = of_squares - a.in_zero * (of_codes + s1)
        mean = b.splat(b.sitofp(s1) / b.sitofp(count), lanes) if centers else None
        if length:
            divisor = _at_least(b, b.sqrt(b.sitofp(s2)), a.eps)
        else:
            variance = b.sitofp(count * s2 - s1 * s1 if centers else count * s2) / b.sitofp(count * count)
            divisor = b.sqrt(variance + a.eps)
        inverse = b.splat(b.const(F32, 1.0) / divisor, lanes)

        def compute(q: Value, gain: Value, shift: Value) -> Value:
            code = b.sitofp(centered(q))
            real = (code if mean is None else code - mean) * inverse * gain + shift
            low, high = b.splat(a.codes.low, lanes), b.splat(a.codes.high, lanes)
            return b.target.round_to_i32(b, b.clamp(real, low, high)) + zero

        _write(b, rows, row, x, y, elements, each, compute)

    _over_rows(b, rows, elements, body)
