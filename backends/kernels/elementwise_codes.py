"""Elementwise kernels of codes: binary arithmetic, prelu, and an affine map of channels.

Each is a map (see map_loop). Its operands are converted to f32 in units of the result's scale, combined, and
requantized. Operands and results are u8 or i16, in any mix.

Codes minus their zero points have at most 17 bits, so they are exact in f32. The product of two has at most 34: its
rounding in f32 is that of the exact product, since one IEEE multiplication rounds once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic

from qcompiler.backends.kernel_ir.builder import KernelBuilder, kernel
from qcompiler.backends.kernel_ir.definition import Arguments, E, Group, P, S
from qcompiler.backends.kernel_ir.ir import Value
from qcompiler.backends.kernel_ir.types import F32, I8, I16, I32, Type, vector
from qcompiler.backends.kernels.code_range import CODES, CodeRange, as_i32
from qcompiler.backends.kernels.elementwise import bytes_plan
from qcompiler.backends.kernels.map_loop import Map, Plan, emit_map
from qcompiler.backends.kernels.real_functions import FLOAT, Lanes


class CodeOperand(Group, Generic[E, S]):
    """How an operand is converted to f32. zero: its zero point; scale: the factor of its codes minus the zero point."""

    zero: E
    scale: S


class BinaryCodes(Arguments["BinaryCodes"], Generic[P, E, S]):
    """The arguments of `map_codes`. x, y: the operands. For `mul` and `div`, x.scale is the factor of the product or
    quotient, and y.scale is not read."""

    map: Map[P, E]
    x: CodeOperand[E, S]
    y: CodeOperand[E, S]
    codes: CodeRange[E, S]


class PreluCodes(Arguments["PreluCodes"], Generic[P, E, S]):
    """The arguments of `map_prelu_codes`. x: the first operand, with the scale of its positive codes. The elements of
    the second operand are the f32 scales of the negative ones."""

    map: Map[P, E]
    x: CodeOperand[E, S]
    codes: CodeRange[E, S]


class AffineCodes(Arguments["AffineCodes"], Generic[P, E, S]):
    """The arguments of `map_affine_codes`. in_zero: the zero point of the first operand. The other operands are f32
    factors and shifts in units of the scales."""

    map: Map[P, E]
    in_zero: E
    codes: CodeRange[E, S]


def _plan(b: KernelBuilder, codes: Sequence[Type]) -> Plan:
    """Whole registers of bytes if all codes are bytes, else four registers of f32; then one register of f32."""
    return bytes_plan(b) if set(codes) == {I8} else ((b.target.f32_lanes, 4), (b.target.f32_lanes, 1))


class _Codes:
    """Converts `lanes` codes at a time to f32 registers and back. A register of bytes gives four registers of f32.
    Fewer codes, and words, give one.

    Attributes:
        out: the element type of the result.
    """

    def __init__(self, b: KernelBuilder, codes: CodeRange, lanes: int, out: Type) -> None:
        self.b, self.lanes, self.out = b, lanes, out
        self.whole = lanes == b.target.vector_bytes
        self.low, self.high = self.real(codes.low), self.real(codes.high)
        self.zero = b.splat(b.trunc(codes.zero, I16 if self.whole else I32), lanes // 2 if self.whole else lanes)

    def real(self, value: Value) -> Value:
        """An f32 scalar in every lane of a register."""
        return self.b.splat(value, self.b.target.f32_lanes)

    def shift(self, zero: Value) -> Value:
        """The operand that `centered` subtracts for a zero point."""
        value = self.b.sitofp(self.b.trunc(zero, I32))
        return self.real(value + 2.0**23 if self.whole else value)

    def centered(self, codes: Value, shift: Value) -> list[Value]:
        """f32(q - zero_point), exact, in registers whose lanes are in the order that `Target.interleaved` gives."""
        b = self.b
        if not self.whole:
            return [b.sitofp(as_i32(b, codes)) - shift]
        words = vector(I16, self.lanes // 2)
        halves = b.target.interleaved(b, codes, b.zero(codes.type))
        return [real - shift for half in halves for real in b.target.words_above_2_23(b, b.bitcast(half, words))]

    def aligned(self, values: Value) -> list[Value]:
        """<lanes x f32> as registers in the order that `centered` gives."""
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
        """Collect these lanes of consecutive registers: of two registers, or of four that give equally many lanes."""
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
        """The reals, in the order of `centered`, as codes in order."""
        b = self.b
        rounded = [b.target.round_to_i32(b, b.clamp(real, self.low, self.high)) for real in reals]
        if not self.whole:
            return b.trunc(rounded[0] + self.zero, self.out)
        words = [b.target.pack_words(b, rounded[i], rounded[i + 1]) + self.zero for i in (0, 2)]
        return b.target.pack_bytes(b, *words)


@kernel(map_operands=2)
def map_codes(b: KernelBuilder, a: BinaryCodes, *, op: str, inner: str, dtypes: tuple[str, str, str]) -> None:
    """Binary arithmetic on codes: both operands are converted to f32 in units of the result's scale, combined, and
    requantized. dtypes: of the operands and of the result."""
    first_element, second_element, out = (CODES[dtype] for dtype in dtypes)

    def combine(x: Value, y: Value, first: Value, second: Value) -> Value:
        if op == "mul":
            return x * y * first
        if op == "div":
            return x / y * first
        return FLOAT[op](b, x * first, y * second)

    def prepare(lanes: int) -> Lanes:
        codes = _Codes(b, a.codes, lanes, out)
        x_shift, y_shift = (codes.shift(operand.zero) for operand in (a.x, a.y))
        x_scale, y_scale = (codes.real(operand.scale) for operand in (a.x, a.y))

        def compute(x: Value, y: Value) -> Value:
            terms = zip(codes.centered(x, x_shift), codes.centered(y, y_shift))
            return codes.requantized([combine(p, q, x_scale, y_scale) for p, q in terms])

        return compute

    elements = [first_element, second_element]
    emit_map(b, a.map, elements, inner, out, _plan(b, [*elements, out]), prepare)


@kernel(map_operands=2)
def map_prelu_codes(b: KernelBuilder, a: PreluCodes, *, inner: str, dtypes: tuple[str, str]) -> None:
    """prelu: codes above the zero point times x.scale, the others times their own scale, requantized. dtypes: of the
    first operand and of the result."""
    element, out = (CODES[dtype] for dtype in dtypes)

    def prepare(lanes: int) -> Lanes:
        codes = _Codes(b, a.codes, lanes, out)
        shift, scale = codes.shift(a.x.zero), codes.real(a.x.scale)

        def compute(x: Value, slopes: Value) -> Value:
            pairs = zip(codes.centered(x, shift), codes.aligned(slopes))
            return codes.requantized([q * b.select(q > 0.0, scale, slope) for q, slope in pairs])

        return compute

    emit_map(b, a.map, [element, F32], inner, out, _plan(b, [element, out]), prepare)


@kernel(map_operands=3)
def map_affine_codes(b: KernelBuilder, a: AffineCodes, *, inner: str, dtypes: tuple[str, str]) -> None:
    """f32(q - in_zero) * factor + shift, requantized. dtypes: of the first operand and of the result."""
    element, out = (CODES[dtype] for dtype in dtypes)

    def prepare(lanes: int) -> Lanes:
        codes = _Codes(b, a.codes, lanes, out)
        in_zero = codes.shift(a.in_zero)

        def compute(x: Value, factors: Value, shifts: Value) -> Value:
            terms = zip(codes.centered(x, in_zero), codes.aligned(factors), codes.aligned(shifts))
            return codes.requantized([q * factor + shift for q, factor, shift in terms])

        return compute

    emit_map(b, a.map, [element, F32, F32], inner, out, _plan(b, [element, out]), prepare)
