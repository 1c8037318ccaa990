"""The arithmetic of a tile of pixels by channels: how a K block is multiplied and added, and how sums become results.

The loops around it are in `conv`, and how integer sums become results is in `tile_epilogue`. Channels lie across lanes.
In this file a row is a row of the matrix product, which is a pixel of the tile.
"""

from __future__ import annotations

from collections.abc import Sequence

from qcompiler.backends.kernel_ir.builder import KernelBuilder, Rows
from qcompiler.backends.kernel_ir.ir import Value
from qcompiler.backends.kernel_ir.types import F32, I8, I16, I32, Type, vector
from qcompiler.backends.kernels.epilogue import Clamp
from qcompiler.backends.kernels.tile_epilogue import (
    Dequantized,
    DynamicallyDequantized,
    Finished,
    Load,
    Requantized,
    RequantizedToWords,
)
from qcompiler.backends.target import Target


def widens(target: Target, pairs: bool) -> bool:
    """Whether products of bytes multiply words (`Words`). pairs: see `Bytes`."""
    return target.multiplies_words and not pairs


def arithmetic(target: Target, *, pairs: bool) -> type[Bytes]:
    """The arithmetic of products of bytes on a target. pairs: see `Bytes`."""
    if widens(target, pairs):
        return Words
    return PairedBytes if target.dot_depth == PairedBytes.depth else Bytes


class _Arithmetic:
    """The base of the arithmetics.

    Attributes:
        item, residual_item: bytes of an element of y and of the residual.
        depth: elements of K that lie side by side in packed weights.
        k_blocks: the elements of K that one iteration of each loop takes, largest first.
        nv: registers of channels.
        lanes: channels in a register.
    """

    item: int
    residual_item: int
    depth: int
    k_blocks: tuple[int, ...]
    nv: int
    lanes: int
    b: KernelBuilder

    def begin(self, start: Sequence[Value], count: int) -> list[list[Value]]:
        """The accumulators of `count` pixels. start: a register of bias for each register of channels."""
        return [list(start) for _ in range(count)]

    def sums(self, acc: list[list[Value]], count: int) -> list[list[Value]]:
        """The sums of each pixel, one register for each register of channels."""
        return acc

    @property
    def weight_bytes(self) -> int:
        """Bytes of one packed weight."""
        return 4

    def block_bytes(self, size: int) -> int:
        """Bytes of packed weights in a K block of `size` elements."""
        return self.nv * self.lanes * max(size, self.depth) * self.weight_bytes

    def lead(self, size: int) -> int:
        """Bytes from the first weight register of a K block to the weights pointer.

        Large blocks keep the pointer at their last two registers, so that the load can post-increment it.
        """
        return 0 if size == self.k_blocks[-1] else self.block_bytes(size) - 2 * self.b.target.vector_bytes

    def weights_at(self, weights: Value, number: int, size: int, type: Type) -> Value:
        """Load register `number` of the packed weights of a K block of `size` elements."""
        return self.b.load(type, weights, disp=number * self.b.target.vector_bytes - self.lead(size))


class Bytes(_Arithmetic):
    """u8 x i8 dot products; `epilogue` converts the sums to results.

    Attributes:
        pairs: whether products are added in pairs of i16, see `Target.pairwise_dot_is_exact`.
        narrow: whether packed weights are i8 where they could be i16, see `Words`.
    """

    depth = 4

    def __init__(
        self,
        b: KernelBuilder,
        epilogue: Requantized | RequantizedToWords | Dequantized | DynamicallyDequantized,
        *,
        pairs: bool,
        narrow: bool = False,
    ) -> None:
        self.b, self.epilogue, self.nv, self.lanes = b, epilogue, epilogue.nv, b.target.i32_lanes
        self.item, self.residual_item = epilogue.item, epilogue.residual_item
        self.start = vector(I32, self.lanes)
        self.k_blocks = b.target.k_blocks
        self.pairs, self.dot4 = pairs, b.target.dot4_pairwise if pairs else b.target.dot4
        self.narrow = narrow

    def dots(
        self, acc: list[list[Value]], rows: Rows, weights: Value, size: int
    ) -> tuple[list[list[Value]], list[Value]]:
        """Multiply and add a K block of `size` elements. Gives the accumulators and the rows' pointers after it."""
        if size > 4:
            return self._many(acc, rows, weights, size)
        return self._four(acc, rows, weights), rows.moved(4)

    @property
    def weight_bytes(self) -> int:
        return 1

    def _weights(self, w: Value) -> tuple[Value, ...]:
        return self.b.target.dot4_weights(self.b, w, pairwise=self.pairs)

    def _activations(self, x: Value) -> tuple[Value, ...]:
        return self.b.target.dot4_activations(self.b, x, pairwise=self.pairs)

    def _four(self, acc: list[list[Value]], rows: Rows, weights: Value) -> list[list[Value]]:
        b, target, size = self.b, self.b.target, self.b.target.vector_bytes
        ws = [self._weights(b.load(vector(I8, size), weights, disp=j * size)) for j in range(self.nv)]
        found = []
        for r, row in enumerate(acc):
            xs = self._activations(target.broadcast4(b, *rows[r]))
            found.append([self.dot4(b, row[j], xs, ws[j]) for j in range(self.nv)])
        return found

    def _many(
        self, acc: list[list[Value]], rows: Rows, weights: Value, size: int
    ) -> tuple[list[list[Value]], list[Value]]:
        """Load whole registers of each row; each product takes four bytes of one."""
        b, register = self.b, self.b.target.vector_bytes
        for first in range(0, size, register):
            xs = [self._activations(b.load(vector(I8, register), *rows[r])) for r in range(len(acc))]
            rows = rows.at(rows.moved(register))
            for quad in range(register // 4):
                quads = [tuple(b.shuffle(part, None, _quad(quad, part.type.lanes)) for part in x) for x in xs]
                for j in range(self.nv):
                    number = (first // 4 + quad) * self.nv + j
                    w = self._weights(self.weights_at(weights, number, size, vector(I8, register)))
                    for r, row in enumerate(acc):
                        row[j] = self.dot4(b, row[j], quads[r], w)
        return acc, rows.pointers

    def finish(self, rows: Sequence[Sequence[Value]], at: Value, loads: Sequence[Load]) -> list[list[Finished]]:
        """Convert the accumulators of one or two pixels to results. at: the byte offset of the tile's first
        multiplier."""
        return self.epilogue.finish(rows, at, loads)


def _quad(number: int, lanes: int) -> list[int]:
    """The lanes of quarter `number` of a register, four times: a shuffle that repeats this quarter."""
    few = lanes // 4
    return [number * few + place for place in range(few)] * 4


class Words(Bytes):
    """Products of i16 that are added in pairs (`Target.dot2`): bytes whose pixels were widened in memory.

    |x| <= 255 and |w| <= 128, so each pair of products is exact. Packed weights are i16; if `narrow`, they are i8 and
    widened as they are read. That reads half as many bytes, and pays off where each weight is read once or twice.
    """

    depth = 2

    @property
    def weight_bytes(self) -> int:
        return 1 if self.narrow else 2

    def block_bytes(self, size: int) -> int:
        return self.nv * self.lanes * size * self.weight_bytes

    def dots(
        self, acc: list[list[Value]], rows: Rows, weights: Value, size: int
    ) -> tuple[list[list[Value]], list[Value]]:
        """See `Bytes.dots`."""
        b, target, acc = self.b, self.b.target, [list(row) for row in acc]
        words = vector(I16, 2 * self.lanes)
        for pair in range(size // self.depth):
            ws = [self._weight(weights, pair * self.nv + j, words) for j in range(self.nv)]
            for r, row in enumerate(acc):
                x = b.bitcast(b.splat(b.load(I32, *rows[r], disp=4 * pair), self.lanes), words)
                for j in range(self.nv):
                    row[j] = target.dot2(b, row[j], x, ws[j])
        return acc, rows.moved(2 * size)

    def _weight(self, weights: Value, number: int, words: Type) -> Value:
        """Load register `number` of the weights of a K block."""
        b = self.b
        if not self.narrow:
            return b.load(words, weights, disp=number * words.bytes)
        return b.sext(b.load(vector(I8, words.lanes), weights, disp=number * words.lanes), I16)


class PairedBytes(Bytes):
    """Like `Bytes`, with products of two pixels by two channels (`Target.mmla`).

    An accumulator holds 2 x 2 sums, so two pixels by four channels take as many registers as in `Bytes`. A tile of one
    pixel computes it twice.
    """

    depth = 8

    def lead(self, size: int) -> int:
        """0, because moving the pointer would take more instructions here."""
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
        self, acc: list[list[Value]], rows: Rows, weights: Value, size: int
    ) -> tuple[list[list[Value]], list[Value]]:
        """Like `Bytes.dots`; x is read in pieces of 16, 8 or 4 bytes. Four bytes are padded with zeros to the eight
        that packed weights always have."""
        b, register = self.b, self.b.target.vector_bytes
        for first, xs in enumerate(zip(*(self._pair_of_rows(rows, 2 * pair, size) for pair in range(len(acc))))):
            for j in range(2 * self.nv):
                w = self.weights_at(weights, first * 2 * self.nv + j, size, vector(I8, register))
                for row, x in zip(acc, xs):
                    row[j] = b.target.mmla(b, row[j], x, w)
        return acc, rows.moved(size)

    def _pair_of_rows(self, rows: Rows, first: int, size: int) -> list[Value]:
        """Load two rows: a register with both for each eight bytes of K."""
        b = self.b
        second = min(first + 1, len(rows.pointers) - 1)
        if size == 4:
            x, y, none = (
                b.load(vector(I8, 4), *rows[first]),
                b.load(vector(I8, 4), *rows[second]),
                b.zero(vector(I8, 4)),
            )
            return [b.concat([x, none, y, none])]
        x, y = (b.load(vector(I8, size), *rows[row]) for row in (first, second))
        if size == 8:
            return [b.concat([x, y])]
        return [b.shuffle(x, y, [*range(k, k + 8), *range(16 + k, 24 + k)]) for k in (0, 8)]


class Floats(_Arithmetic):
    """f32 products, added by fma in the order of K, starting from the bias. NaN passes the activation, as in torch."""

    item, residual_item, depth = 4, 4, 1

    def __init__(self, b: KernelBuilder, clamp: Clamp, nv: int, *, residual: bool) -> None:
        self.b, self.nv, self.lanes, self.residual = b, nv, b.target.f32_lanes, residual
        self.start, self.k_blocks = vector(F32, self.lanes), b.target.k_blocks_f32
        self.low, self.high = b.splat(clamp.low, self.lanes), b.splat(clamp.high, self.lanes)

    def dots(
        self, acc: list[list[Value]], rows: Rows, weights: Value, size: int
    ) -> tuple[list[list[Value]], list[Value]]:
        """See `Bytes.dots`."""
        b = self.b
        if size > 1:
            return self._many(acc, rows, weights, size)
        ws = [b.load(self.start, weights, disp=j * 4 * self.lanes) for j in range(self.nv)]
        found = []
        for r, row in enumerate(acc):
            x = b.splat(b.load(F32, *rows[r]), self.lanes)
            found.append([b.fma(x, ws[j], row[j]) for j in range(self.nv)])
        return found, rows.moved(4)

    def _many(
        self, acc: list[list[Value]], rows: Rows, weights: Value, size: int
    ) -> tuple[list[list[Value]], list[Value]]:
        """Load a register of each row; each product takes one of its elements."""
        b = self.b
        xs = [b.load(vector(F32, size), *rows[r]) for r in range(len(acc))]
        for k in range(size):
            for j in range(self.nv):
                w = self.weights_at(weights, k * self.nv + j, size, self.start)
                for x, row in zip(xs, acc):
                    row[j] = b.fma(b.shuffle(x, None, [k] * self.lanes), w, row[j])
        return acc, rows.moved(4 * size)

    def finish(self, rows: Sequence[Sequence[Value]], at: Value, loads: Sequence[Load]) -> list[list[Finished]]:
        """Add the residual to the sums of pixels and apply the activation."""
        return [
            [(j * self.lanes, self._finished(real, j, load)) for j, real in enumerate(row)]
            for row, load in zip(rows, loads)
        ]

    def _finished(self, real: Value, j: int, load: Load) -> Value:
        if self.residual:
            real = real + load(self.start, j * self.lanes)
        real = self.b.select(real < self.low, self.low, real)
        return self.b.select(real > self.high, self.high, real)
