"""How the i32 sums of a tile of pixels by channels become results: codes or real numbers.

The arithmetic of the sums is in `tile_math`. Channels lie across lanes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

from qcompiler.backends.kernel_ir.builder import KernelBuilder
from qcompiler.backends.kernel_ir.ir import Value
from qcompiler.backends.kernel_ir.types import F32, I8, I16, I32, I64, Type, vector
from qcompiler.backends.kernels.code_range import CodeRange, as_i32
from qcompiler.backends.kernels.epilogue import Clamp, Dequantize, DynamicDequantize, Requantize

Load = Callable[[Type, int], Value]
"""Reads a vector of the residual that starts at a channel of the tile."""

Finished = tuple[int, Value]
"""(channel of the tile, the vector to store from that channel on)."""


def activated(b: KernelBuilder, real: Value, clamp: Clamp) -> Value:
    """Apply the fused activation to f32 values; NaN passes, as in torch."""
    low, high = (b.splat(bound, real.type.lanes) for bound in (clamp.low, clamp.high))
    real = b.select(real < low, low, real)
    return b.select(real > high, high, real)


def added(b: KernelBuilder, real: Value, loaded: Value, terms: Requantize | Dequantize) -> Value:
    """real + a register of the residual. Codes count in units of `residual_scale`; their zero point is subtracted."""
    if loaded.type.element == F32:
        return real + loaded
    lanes = loaded.type.lanes
    centered = b.sitofp(as_i32(b, loaded)) - b.splat(terms.residual_zero, lanes)
    return real + centered * b.splat(terms.residual_scale, lanes)


def rounded_code(b: KernelBuilder, real: Value, codes: CodeRange, element: Type) -> Value:
    """Clamp and round f32 values in units of the result's scale to codes of this element type."""
    low, high = (b.splat(bound, real.type.lanes) for bound in (codes.low, codes.high))
    rounded = b.target.round_to_i32(b, b.clamp(real, low, high))
    return b.trunc(rounded + b.splat(b.trunc(codes.zero, I32), real.type.lanes), element)


def unsigned_words(b: KernelBuilder, codes: Value) -> tuple[Value, int]:
    """(codes of u8 or i16 as unsigned i16, what was added to each)."""
    if codes.type.element == I8:
        return b.zext(codes, I16), 0
    return codes ^ b.const(codes.type, -32768), 32768


class _InOrder(ABC):
    """The base of the epilogues whose channels lie in order, so that each register of sums gives one of results.

    Attributes:
        residual: the element type of the residual, or None.
    """

    item: int

    def __init__(self, b: KernelBuilder, multiplier: Value, nv: int, residual: Type | None) -> None:
        self.b, self.multiplier, self.nv, self.lanes = b, multiplier, nv, b.target.i32_lanes
        self.residual, self.residual_item = residual, 4 if residual is None else residual.bytes

    @abstractmethod
    def result(self, real: Value, residual: Value | None) -> Value:
        """The results of a register of sums that are multiplied already."""

    def finish(self, rows: Sequence[Sequence[Value]], at: Value, loads: Sequence[Load]) -> list[list[Finished]]:
        """See `Requantized.finish`."""
        return [
            [(j * self.lanes, self._finished(acc, at, j * self.lanes, load)) for j, acc in enumerate(row)]
            for row, load in zip(rows, loads)
        ]

    def _finished(self, acc: Value, at: Value, first: int, load: Load) -> Value:
        b = self.b
        real = b.sitofp(acc) * b.load(vector(F32, self.lanes), self.multiplier, at, disp=first * 4)
        return self.result(real, None if self.residual is None else load(vector(self.residual, self.lanes), first))


class Dequantized(_InOrder):
    """The epilogue that converts sums to f32 by rule (6) of qmath."""

    item = 4

    def __init__(self, b: KernelBuilder, dequantize: Dequantize, nv: int, *, residual: Type | None) -> None:
        super().__init__(b, dequantize.multiplier, nv, residual)
        self.dequantize = dequantize

    def result(self, real: Value, residual: Value | None) -> Value:
        if residual is not None:
            real = added(self.b, real, residual, self.dequantize)
        return activated(self.b, real, self.dequantize.clamp)


class DynamicallyDequantized:
    """The epilogue that converts sums to f32 by rule (8) of qmath. Channels lie in order.

    Attributes:
        residual_item: 0, because the residual's record is that of a whole pixel.
        bias: whether there is one.
    """

    item, residual_item = 4, 0

    def __init__(self, b: KernelBuilder, dequantize: DynamicDequantize, nv: int, *, bias: bool) -> None:
        self.b, self.dequantize, self.nv, self.lanes, self.bias = b, dequantize, nv, b.target.i32_lanes, bias

    def finish(self, rows: Sequence[Sequence[Value]], at: Value, loads: Sequence[Load]) -> list[list[Finished]]:
        """See `Requantized.finish`."""
        b = self.b
        found = []
        for row, load in zip(rows, loads):
            record = load(I64, 0)
            scale = b.splat(b.bitcast(b.trunc(record, I32), F32), self.lanes)
            zero = b.splat(b.trunc(b.lshr(record, 32), I32), self.lanes)
            found.append([(j * self.lanes, self._finished(acc, scale, zero, at, j)) for j, acc in enumerate(row)])
        return found

    def _finished(self, acc: Value, scale: Value, zero: Value, at: Value, j: int) -> Value:
        def of_channels(element: Type, pointer: Value) -> Value:
            return self.b.load(vector(element, self.lanes), pointer, at, disp=j * self.lanes * 4)

        terms = self.dequantize
        total = self.b.sitofp(acc - zero * of_channels(I32, terms.sums))
        real = total * (scale * of_channels(F32, terms.multiplier))
        if self.bias:
            real = real + of_channels(F32, terms.bias)
        return activated(self.b, real, terms.clamp)


class RequantizedToWords(_InOrder):
    """The epilogue that requantizes sums to i16 by rules (3) and (5) of qmath. The floats are clamped, since codes
    minus a zero point may have 17 bits."""

    item = 2

    def __init__(self, b: KernelBuilder, requantize: Requantize, nv: int, *, residual: Type | None) -> None:
        super().__init__(b, requantize.multiplier, nv, residual)
        self.requantize = requantize

    def result(self, real: Value, residual: Value | None) -> Value:
        if residual is not None:
            real = added(self.b, real, residual, self.requantize)
        return rounded_code(self.b, real, self.requantize.codes, I16)


class Requantized:
    """The epilogue that requantizes sums to u8 by rules (3) and (5) of qmath.

    Pairs of registers are packed to i16 and clamped there. If every product of a sum and its multiplier fits i32
    (`proven`, which the caller derives from the real weights), the results equal those of clamping in float; otherwise
    the floats are clamped first. The channels of a pair lie in the target's `pair_order`.

    Attributes:
        residual: the element type of the residual's codes, or None.
        saturates: whether packing to bytes clamps the codes. It does if their range is that of u8 and their zero point
            is 0.
    """

    item = 1

    def __init__(
        self, b: KernelBuilder, requantize: Requantize, nv: int, *, residual: Type | None, proven: bool, saturates: bool
    ) -> None:
        self.b, self.requantize, self.nv, self.lanes = b, requantize, nv, b.target.i32_lanes
        self.residual, self.proven, self.saturates = residual, proven, saturates
        self.residual_item = 1 if residual is None else residual.bytes

    def finish(self, rows: Sequence[Sequence[Value]], at: Value, loads: Sequence[Load]) -> list[list[Finished]]:
        """Convert the accumulators of one or two pixels to bytes. at: the byte offset of the tile's first
        multiplier."""
        parts: list[list[Finished]] = [[] for _ in rows]
        for j in range(0, self.nv - 1, 2):
            words = [self._words(row[j : j + 2], at, j, load) for row, load in zip(rows, loads)]
            for found, value in zip(parts, self._as_bytes(words)):
                found.append((j * self.lanes, value))
        if self.nv % 2:
            for found, row, load in zip(parts, rows, loads):
                found.append(((self.nv - 1) * self.lanes, self._single(row[-1], at, load)))
        return parts

    def _real(self, acc: Value, at: Value, lane: int) -> Value:
        real, type = self.b.sitofp(acc), vector(F32, self.lanes)
        return real * self.b.load(type, self.requantize.multiplier, at, disp=lane * 4)

    def _rounded(self, real: Value) -> Value:
        b, codes = self.b, self.requantize.codes
        if not self.proven:
            real = b.clamp(real, b.splat(codes.low, self.lanes), b.splat(codes.high, self.lanes))
        return b.target.round_to_i32(b, real)

    def _bounds(self, type: Type) -> tuple[Value, Value, Value]:
        """(lowest code, highest code, zero point) in all lanes."""
        b, requantize = self.b, self.requantize
        values = (requantize.low_code, requantize.high_code, requantize.codes.zero)
        low, high, zero = (b.splat(b.trunc(value, type.element), type.lanes) for value in values)
        return low, high, zero

    def _words(self, pair: Sequence[Value], at: Value, j: int, load: Load) -> Value:
        """Pack two accumulators of a pixel to i16 codes. If packing to bytes clamps, they are not clamped here."""
        b, lanes, requantize = self.b, self.lanes, self.requantize
        reals = [self._real(acc, at, (j + i) * lanes) for i, acc in enumerate(pair)]
        if self.residual is not None:
            words, shift = unsigned_words(b, load(vector(self.residual, 2 * lanes), j * lanes))
            zero = b.splat(requantize.residual_zero + (2.0**23 + shift), lanes)
            scale = b.splat(requantize.residual_scale, lanes)
            reals = [real + (other - zero) * scale for real, other in zip(reals, b.target.words_above_2_23(b, words))]
        packed = b.target.pack_words(b, *(self._rounded(real) for real in reals))
        if self.saturates:
            return packed
        low, high, zero = self._bounds(vector(I16, 2 * lanes))
        return b.clamp(packed, low, high) + zero

    def _as_bytes(self, words: Sequence[Value]) -> list[Value]:
        """Pack one or two registers of i16 to bytes."""
        b, size = self.b, self.b.target.vector_bytes
        halves = range(0, size, size // 2)
        eights = b.bitcast(b.target.pack_bytes(b, words[0], words[-1]), vector(I64, size // 8))
        ordered = b.bitcast(
            b.shuffle(eights, None, [*range(0, size // 8, 2), *range(1, size // 8, 2)]), vector(I8, size)
        )
        return [b.slice(ordered, first, size // 2) for first, _ in zip(halves, words)]

    def _single(self, acc: Value, at: Value, load: Load) -> Value:
        """Convert the last register of channels to bytes, where the number of registers is odd."""
        b, lanes, first = self.b, self.lanes, (self.nv - 1) * self.lanes
        real = self._real(acc, at, first)
        if self.residual is not None:
            real = added(b, real, load(vector(self.residual, lanes), first), self.requantize)
        low, high, zero = self._bounds(vector(I32, lanes))
        return b.trunc(b.clamp(self._rounded(real), low, high) + zero, I8)
