"""The arithmetic of a tile of pixels by channels: how a step along K is multiplied and added, and how sums become
results.

`conv` has the loops around. Channels lie across lanes; a row of a tile is a pixel.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from qcompiler.backends.kernel_ir.builder import KernelBuilder, Rows
from qcompiler.backends.kernel_ir.ir import Value
from qcompiler.backends.kernel_ir.types import F32, I8, I16, I32, I64, Type, vector
from qcompiler.backends.target import Target

Load = Callable[[Type, int], Value]
"""Reads a vector of the residual, from a channel of the tile on."""

Part = tuple[int, Value]
"""(channel of the tile, the vector to store from there on)."""


def widens(target: Target, pairs: bool) -> bool:
    """Whether packed weights are i16 for this arithmetic of bytes."""
    return target.widened_weights and not pairs


class _Arithmetic:
    """What the arithmetics have in common.

    item: bytes of an element; depth: elements of K that lie side by side in packed weights; steps: elements of K that
    loops take at a time.
    """

    item: int
    depth: int
    steps: tuple[int, ...]
    nv: int
    lanes: int
    b: KernelBuilder

    @property
    def weight_bytes(self) -> int:
        """Of a packed weight."""
        return self.item

    def step_bytes(self, step: int) -> int:
        """Bytes of packed weights that a step reads."""
        return self.nv * self.lanes * max(step, self.depth) * self.weight_bytes

    def lead(self, step: int) -> int:
        """By how much the weights' pointer is ahead of a step's first register. In wide steps its last two lie at the
        pointer itself, so that the machine moves it in loading them."""
        return 0 if step == self.steps[-1] else self.step_bytes(step) - 2 * self.b.target.vector_bytes

    def weights_at(self, weights: Value, number: int, step: int, type: Type) -> Value:
        """A register of a step's packed weights."""
        return self.b.load(type, weights, disp=number * self.b.target.vector_bytes - self.lead(step))


class Bytes(_Arithmetic):
    """u8 x i8 dot products, requantized: rules (3) and (5) of qmath.

    Pairs of registers are packed to i16 and clamped there: same results as clamping in float, if no product leaves i32
    (`proven`, by the caller, from the real weights); else floats are clamped first. The channels of a pair lie in the
    target's `pair_order`. saturates: codes have all of a byte's range and no zero point, so that packing to bytes
    clamps them.
    """

    item, depth = 1, 4

    def __init__(self, b: KernelBuilder, nv: int, residual: bool, proven: bool, pairs: bool, saturates: bool) -> None:
        lanes = b.target.i32_lanes
        self.pairs, self.dot4 = pairs, b.target.dot4_pairwise if pairs else b.target.dot4
        self.steps = b.target.k_blocks
        self.b, self.nv, self.lanes, self.start = b, nv, lanes, vector(I32, lanes)
        self.residual, self.proven, self.saturates = residual, proven, saturates

    def begin(self, start: Sequence[Value], count: int) -> list[list[Value]]:
        """The accumulators of `count` pixels, from a register of bias for each of channels."""
        return [list(start) for _ in range(count)]

    def sums(self, acc: list[list[Value]], count: int) -> list[list[Value]]:
        """The registers of channels of each pixel."""
        return acc

    def dots(
        self, acc: list[list[Value]], rows: Rows, weights: Value, step: int
    ) -> tuple[list[list[Value]], list[Value]]:
        """After `step` more elements of K: the accumulators, the rows' pointers."""
        if step > 4:
            return self._many(acc, rows, weights, step)
        return self._four(acc, rows, weights), rows.moved(4)

    @property
    def weight_bytes(self) -> int:
        return 2 if widens(self.b.target, self.pairs) else 1

    def _weights(self, w: Value) -> tuple[Value, ...]:
        return self.b.target.dot4_weights(self.b, w, pairwise=self.pairs)

    def _activations(self, x: Value) -> tuple[Value, ...]:
        return self.b.target.dot4_activations(self.b, x, pairwise=self.pairs)

    def _four(self, acc: list[list[Value]], rows: Rows, weights: Value) -> list[list[Value]]:
        b, target, size = self.b, self.b.target, self.b.target.vector_bytes
        if widens(target, self.pairs):
            words = vector(I16, size // 2)
            ws = [
                tuple(b.load(words, weights, disp=(2 * j + half) * size) for half in range(2)) for j in range(self.nv)
            ]
        else:
            ws = [self._weights(b.load(vector(I8, size), weights, disp=j * size)) for j in range(self.nv)]
        found = []
        for r, row in enumerate(acc):
            xs = self._activations(target.broadcast4(b, *rows[r]))
            found.append([self.dot4(b, row[j], xs, ws[j]) for j in range(self.nv)])
        return found

    def _many(
        self, acc: list[list[Value]], rows: Rows, weights: Value, step: int
    ) -> tuple[list[list[Value]], list[Value]]:
        """A register of each row at once; each product takes four bytes of it by their place."""
        b, size = self.b, self.b.target.vector_bytes
        for first in range(0, step, size):
            xs = [self._activations(b.load(vector(I8, size), *rows[r])) for r in range(len(acc))]
            rows = rows.at(rows.moved(size))
            for quad in range(size // 4):
                quads = [tuple(b.shuffle(part, None, _quad(quad, part.type.lanes)) for part in x) for x in xs]
                for j in range(self.nv):
                    w = self._weights(
                        self.weights_at(weights, (first // 4 + quad) * self.nv + j, step, vector(I8, size))
                    )
                    for r, row in enumerate(acc):
                        row[j] = self.dot4(b, row[j], quads[r], w)
        return acc, rows.pointers

    def finish(self, rows: Sequence[Sequence[Value]], at: Value, loads: Sequence[Load]) -> list[list[Part]]:
        """The accumulators of one or two pixels as bytes. at: byte offset of the tile's first multiplier."""
        parts: list[list[Part]] = [[] for _ in rows]
        for j in range(0, self.nv - 1, 2):
            words = [self._words(row[j : j + 2], at, j, load) for row, load in zip(rows, loads)]
            for found, value in zip(parts, self._as_bytes(words)):
                found.append((j * self.lanes, value))
        if self.nv % 2:
            for found, row, load in zip(parts, rows, loads):
                found.append(((self.nv - 1) * self.lanes, self._single(row[-1], at, load)))
        return parts

    def _real(self, acc: Value, at: Value, lane: int) -> Value:
        return self.b.sitofp(acc) * self.b.load(vector(F32, self.lanes), self.b.pointer("scale"), at, disp=lane * 4)

    def _rounded(self, real: Value) -> Value:
        b = self.b
        if not self.proven:
            real = b.clamp(real, b.splat(b.scalar("low"), self.lanes), b.splat(b.scalar("high"), self.lanes))
        return b.target.round_to_i32(b, real)

    def _words(self, pair: Sequence[Value], at: Value, j: int, load: Load) -> Value:
        """Two accumulators of a pixel as i16; as codes, or, where bounds are those of bytes, as what saturates to
        codes."""
        b, lanes = self.b, self.lanes
        reals = [self._real(acc, at, (j + i) * lanes) for i, acc in enumerate(pair)]
        if self.residual:
            words = b.zext(load(vector(I8, 2 * lanes), j * lanes), I16)
            zero = b.splat(b.scalar("other_zero") + 2.0**23, lanes)
            scale = b.splat(b.scalar("other_scale"), lanes)
            reals = [real + (other - zero) * scale for real, other in zip(reals, b.target.words_above_2_23(b, words))]
        words = b.target.pack_words(b, *(self._rounded(real) for real in reals))
        if self.saturates:
            return words
        low, high, zero = (
            b.splat(b.trunc(b.extent(name), I16), 2 * lanes) for name in ("low_code", "high_code", "zero")
        )
        return b.clamp(words, low, high) + zero

    def _as_bytes(self, words: Sequence[Value]) -> list[Value]:
        """The bytes of one or two registers of i16, packed together."""
        b, size = self.b, self.b.target.vector_bytes
        halves = range(0, size, size // 2)
        eights = b.bitcast(b.target.pack_bytes(b, words[0], words[-1]), vector(I64, size // 8))
        ordered = b.bitcast(
            b.shuffle(eights, None, [*range(0, size // 8, 2), *range(1, size // 8, 2)]), vector(I8, size)
        )
        return [b.slice(ordered, first, size // 2) for first, _ in zip(halves, words)]

    def _single(self, acc: Value, at: Value, load: Load) -> Value:
        b, lanes, first = self.b, self.lanes, (self.nv - 1) * self.lanes
        real = self._real(acc, at, first)
        if self.residual:
            other = b.sitofp(b.zext(load(vector(I8, lanes), first), I32)) - b.splat(b.scalar("other_zero"), lanes)
            real = real + other * b.splat(b.scalar("other_scale"), lanes)
        low, high, zero = (b.splat(b.trunc(b.extent(name), I32), lanes) for name in ("low_code", "high_code", "zero"))
        return b.trunc(b.clamp(self._rounded(real), low, high) + zero, I8)


def _quad(number: int, lanes: int) -> list[int]:
    """A quarter of a register's lanes, four times."""
    few = lanes // 4
    return [number * few + place for place in range(few)] * 4


class PairedBytes(Bytes):
    """Bytes where one product takes two pixels and two channels (`Target.mmla`): an accumulator holds those 2 x 2 sums,
    so that the registers of two pixels and four channels are as many as before. A tile of one pixel takes it twice."""

    depth = 8

    def lead(self, step: int) -> int:
        """None: here it takes more instructions."""
        return 0

    def begin(self, start: Sequence[Value], count: int) -> list[list[Value]]:
        pair = [self.b.shuffle(bias, None, channels * 2) for bias in start for channels in ([0, 1], [2, 3])]
        return [list(pair) for _ in range(-(-count // 2))]

    def sums(self, acc: list[list[Value]], count: int) -> list[list[Value]]:
        found = []
        for pixel in range(count):
            first = pixel % 2 * 2
            lanes, pair = [first, first + 1, first + 4, first + 5], acc[pixel // 2]
            found.append([self.b.shuffle(pair[2 * j], pair[2 * j + 1], lanes) for j in range(self.nv)])
        return found

    def dots(
        self, acc: list[list[Value]], rows: Rows, weights: Value, step: int
    ) -> tuple[list[list[Value]], list[Value]]:
        """x is read by 16, by 8, or by 4 bytes, to which zeros are added: packed weights always have eight."""
        b, size = self.b, self.b.target.vector_bytes
        for first, xs in enumerate(zip(*(self._pair_of_rows(rows, 2 * pair, step) for pair in range(len(acc))))):
            for j in range(2 * self.nv):
                w = self.weights_at(weights, first * 2 * self.nv + j, step, vector(I8, size))
                for row, x in zip(acc, xs):
                    row[j] = b.target.mmla(b, row[j], x, w)
        return acc, rows.moved(step)

    def _pair_of_rows(self, rows: Rows, first: int, step: int) -> list[Value]:
        """For each eight bytes of K a register of two rows."""
        b = self.b
        second = min(first + 1, len(rows.pointers) - 1)
        if step == 4:
            x, y, none = (
                b.load(vector(I8, 4), *rows[first]),
                b.load(vector(I8, 4), *rows[second]),
                b.zero(vector(I8, 4)),
            )
            return [b.concat([x, none, y, none])]
        x, y = (b.load(vector(I8, step), *rows[row]) for row in (first, second))
        if step == 8:
            return [b.concat([x, y])]
        return [b.shuffle(x, y, [*range(k, k + 8), *range(16 + k, 24 + k)]) for k in (0, 8)]


class Floats(_Arithmetic):
    """f32 products added by fma in the order of K, starting from the bias; NaN passes the activation, as in torch."""

    item, depth = 4, 1

    def __init__(self, b: KernelBuilder, nv: int, residual: bool) -> None:
        self.b, self.nv, self.lanes, self.residual = b, nv, b.target.f32_lanes, residual
        self.start, self.steps = vector(F32, self.lanes), b.target.k_blocks_f32
        self.low, self.high = b.splat(b.scalar("low"), self.lanes), b.splat(b.scalar("high"), self.lanes)

    def begin(self, start: Sequence[Value], count: int) -> list[list[Value]]:
        """As of `Bytes`."""
        return [list(start) for _ in range(count)]

    def sums(self, acc: list[list[Value]], count: int) -> list[list[Value]]:
        """As of `Bytes`."""
        return acc

    def dots(
        self, acc: list[list[Value]], rows: Rows, weights: Value, step: int
    ) -> tuple[list[list[Value]], list[Value]]:
        """As of `Bytes`."""
        b = self.b
        if step > 1:
            return self._many(acc, rows, weights, step)
        ws = [b.load(self.start, weights, disp=j * 4 * self.lanes) for j in range(self.nv)]
        found = []
        for r, row in enumerate(acc):
            x = b.splat(b.load(F32, *rows[r]), self.lanes)
            found.append([b.fma(x, ws[j], row[j]) for j in range(self.nv)])
        return found, rows.moved(4)

    def _many(
        self, acc: list[list[Value]], rows: Rows, weights: Value, step: int
    ) -> tuple[list[list[Value]], list[Value]]:
        """A register of each row at once; each product takes one of its elements by its place."""
        b = self.b
        xs = [b.load(vector(F32, step), *rows[r]) for r in range(len(acc))]
        for k in range(step):
            for j in range(self.nv):
                w = self.weights_at(weights, k * self.nv + j, step, self.start)
                for x, row in zip(xs, acc):
                    row[j] = b.fma(b.shuffle(x, None, [k] * self.lanes), w, row[j])
        return acc, rows.moved(4 * step)

    def finish(self, rows: Sequence[Sequence[Value]], at: Value, loads: Sequence[Load]) -> list[list[Part]]:
        """The pixels' sums after residual and activation."""
        return [
            [(j * self.lanes, self._finished(real, j, load)) for j, real in enumerate(row)]
            for row, load in zip(rows, loads)
        ]

    def _finished(self, real: Value, j: int, load: Load) -> Value:
        if self.residual:
            real = real + load(self.start, j * self.lanes)
        real = self.b.select(real < self.low, self.low, real)
        return self.b.select(real > self.high, self.high, real)
