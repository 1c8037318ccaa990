"""Depthwise convolution, channels last: lanes lie across channels, a tile is mr neighbouring pixels of one register of
bytes (or f32s).

The window is a list of *tap rows* (all its axes but the last), each with an address of its own: rows of the border come
from `border`, a row that holds the zero point, so nothing is copied. Columns are shared by the pixels of a tile.

Bytes: four tap rows of a column are interleaved to quads, one i32 lane a channel, so that a dot4 adds four products;
tap rows that are missing have zero weights. Interleaving bytes, then words, within 128 bits leaves channel 16k + 4i + j
in lane 4k + j of register i; packing back to bytes undoes it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from qcompiler.backends.kernel_ir.builder import KernelBuilder, kernel
from qcompiler.backends.kernel_ir.ir import Value
from qcompiler.backends.kernel_ir.types import F32, I8, I16, I32, I64, Type, vector
from qcompiler.backends.target import Target

POINTERS = ("x", "w", "rows", "bias", "scale", "border", "other", "y")
EXTENTS = (
    "row_total",
    "row_count",
    "columns",
    "width",
    "before",
    "x_image",
    "y_image",
    "other_image",
    "x_pixel",
    "y_pixel",
    "other_pixel",
    "blocks",
    "channels",
)


class _Bytes:
    """u8 x i8, requantized. block: channels that one step takes; item: bytes of a channel."""

    item = 1

    def __init__(self, b: KernelBuilder, taps: int, residual: bool, proven: bool) -> None:
        self.b, self.taps, self.residual, self.proven = b, taps, residual, proven
        self.block, self.lanes = b.target.vector_bytes, b.target.i32_lanes
        self.element = vector(I8, self.block)
        self.groups = -(-taps // 4)
        self.weight_bytes = self.groups * 4 * self.block
        self.scale_bytes = self.block * 4

    def column(self, loaded: Sequence[Value]) -> list[Value]:
        """The quads of one column: for each group of four tap rows four registers."""
        zero = self.b.zero(self.element)
        quads = []
        for group in range(self.groups):
            rows = [*loaded[4 * group : 4 * group + 4]]
            rows += [zero] * (4 - len(rows))
            first, second = (
                self.b.target.interleaved(self.b, rows[0], rows[1]),
                self.b.target.interleaved(self.b, rows[2], rows[3]),
            )
            for low, high in zip(first, second):
                words = vector(I16, self.block // 2)
                quads += [
                    self.b.bitcast(v, self.element)
                    for v in self.b.target.interleaved(self.b, self.b.bitcast(low, words), self.b.bitcast(high, words))
                ]
        return quads

    def start(self, bias: Value) -> list[Value]:
        return [self.b.load(vector(I32, self.lanes), bias, disp=i * 4 * self.lanes) for i in range(4)]

    def add(self, acc: Sequence[Value], column: Sequence[Value], weights: Value) -> list[Value]:
        """One column's products added. weights: of this column."""
        b, target = self.b, self.b.target
        acc = list(acc)
        for group in range(self.groups):
            for i in range(4):
                w = target.dot4_weights(b, b.load(self.element, weights, disp=(group * 4 + i) * self.block))
                acc[i] = target.dot4(b, acc[i], target.dot4_activations(b, column[group * 4 + i]), w)
        return acc

    def finish(self, acc: Sequence[Value], scales: Value, load: Callable[[Type], Value]) -> Value:
        b, lanes, target = self.b, self.lanes, self.b.target
        reals = [b.sitofp(a) * b.load(vector(F32, lanes), scales, disp=i * 4 * lanes) for i, a in enumerate(acc)]
        if self.residual:
            zero, scale = b.splat(b.scalar("other_zero") + 2.0**23, lanes), b.splat(b.scalar("other_scale"), lanes)
            words = target.interleaved(b, load(self.element), b.zero(self.element))
            others = [
                v for word in words for v in target.words_above_2_23(b, b.bitcast(word, vector(I16, self.block // 2)))
            ]
            reals = [real + (other - zero) * scale for real, other in zip(reals, others)]
        if not self.proven:
            low, high = b.splat(b.scalar("low"), lanes), b.splat(b.scalar("high"), lanes)
            reals = [b.clamp(real, low, high) for real in reals]
        rounded = [target.round_to_i32(b, real) for real in reals]
        low, high, zero = (
            b.splat(b.trunc(b.extent(name), I16), self.block // 2) for name in ("low_code", "high_code", "zero")
        )
        words = [b.clamp(target.pack_words(b, *rounded[i : i + 2]), low, high) + zero for i in (0, 2)]
        return target.pack_bytes(b, *words)


class _Floats:
    """f32 by fma, column by column, from the bias on; NaN passes the activation, as in torch."""

    item = 4

    def __init__(self, b: KernelBuilder, taps: int, residual: bool) -> None:
        self.b, self.taps, self.residual = b, taps, residual
        self.block = b.target.f32_lanes
        self.element = b.target.f32_vector()
        self.weight_bytes = taps * 4 * self.block
        self.scale_bytes = self.block * 4

    def column(self, loaded: Sequence[Value]) -> list[Value]:
        return list(loaded)

    def start(self, bias: Value) -> list[Value]:
        return [self.b.load(self.element, bias)]

    def add(self, acc: Sequence[Value], column: Sequence[Value], weights: Value) -> list[Value]:
        [total] = acc
        for r, x in enumerate(column):
            total = self.b.fma(x, self.b.load(self.element, weights, disp=r * 4 * self.block), total)
        return [total]

    def finish(self, acc: Sequence[Value], scales: Value, load: Callable[[Type], Value]) -> Value:
        b, [real] = self.b, acc
        if self.residual:
            real = real + load(self.element)
        low, high = b.splat(b.scalar("low"), self.block), b.splat(b.scalar("high"), self.block)
        real = b.select(real < low, low, real)
        return b.select(real > high, high, real)


@dataclass
class _Loops:
    """Rows, blocks of channels and tiles, the same for both arithmetics."""

    b: KernelBuilder
    math: _Bytes | _Floats
    kw: int
    stride: int
    dilation: int
    mr: int

    def emit(self) -> None:
        b, math = self.b, self.math
        blocks = b.extent("blocks")
        lo, hi = b.share(b.extent("row_total") * blocks)
        with b.loop(lo, hi) as unit:
            row, block = unit.index // blocks, unit.index % blocks
            image, line = row // b.extent("row_count"), row % b.extent("row_count") * (8 * (math.taps + 2))
            at = block * (math.block * math.item)
            table = b.pointer("rows")
            y = b.pointer("y") + (image * b.extent("y_image") + b.load(I64, table, line) + at)
            other = b.pointer("other") + (image * b.extent("other_image") + b.load(I64, table, line, disp=8) + at)
            border, x = b.pointer("border") + at, b.pointer("x") + (image * b.extent("x_image") + at)
            taps = []
            for r in range(math.taps):
                offset = b.load(I64, table, line, disp=8 * (r + 2))
                taps.append(b.select(offset < 0, border, x + offset))
            weights = b.pointer("w") + block * (math.weight_bytes * self.kw)
            left = b.extent("channels") - block * math.block

            def tile(start: Value, count: int, inside: bool) -> None:
                self._tile(taps, border, y, other, weights, block, left, start, count, inside)

            self._columns(tile)

    def _columns(self, tile: Callable[[Value, int, bool], None]) -> None:
        b, columns, mr = self.b, self.b.extent("columns"), self.mr
        with b.if_(columns >= mr) as wide:
            with b.loop(0, columns, mr) as tiles:
                start = b.smin(tiles.index, columns - mr)
                first = start * self.stride - b.extent("before")
                last = first + ((mr - 1) * self.stride + (self.kw - 1) * self.dilation)
                with b.if_((first >= 0) & (last < b.extent("width"))) as inside:
                    tile(start, mr, True)
                    inside.yield_([])
                with inside.else_():
                    tile(start, mr, False)
                    inside.yield_([])
            wide.yield_([])
        with wide.else_():
            with b.loop(0, columns) as tiles:
                tile(tiles.index, 1, False)
            wide.yield_([])

    def _tile(
        self,
        taps: Sequence[Value],
        border: Value,
        y: Value,
        other: Value,
        weights: Value,
        block: Value,
        left: Value,
        start: Value,
        count: int,
        inside: bool,
    ) -> None:
        b, math = self.b, self.math
        pixel = b.extent("x_pixel")
        first = start * self.stride - b.extent("before")
        bias = b.pointer("bias") + block * (math.block * 4)
        acc = [math.start(bias) for _ in range(count)]
        users: dict[int, list[tuple[int, int]]] = {}
        for o in range(count):
            for k in range(self.kw):
                users.setdefault(o * self.stride + k * self.dilation, []).append((o, k))
        for place in sorted(users):
            column = first + place
            offset = column * pixel
            if inside:
                loaded = [b.load(math.element, tap, offset) for tap in taps]
            else:
                there = (column >= 0) & (column < b.extent("width"))
                loaded = [b.load(math.element, b.select(there, tap + offset, border)) for tap in taps]
            prepared = math.column(loaded)
            for o, k in users[place]:
                acc[o] = math.add(acc[o], prepared, weights + k * math.weight_bytes)
        self._store(acc, y, other, block, left, start)

    def _store(
        self, acc: Sequence[Sequence[Value]], y: Value, other: Value, block: Value, left: Value, start: Value
    ) -> None:
        b, math = self.b, self.math
        y, other = y + start * b.extent("y_pixel"), other + start * b.extent("other_pixel")
        scales = b.pointer("scale") + block * math.scale_bytes
        with b.if_(left >= math.block) as whole:
            for o, values in enumerate(acc):
                found = math.finish(values, scales, lambda t, o=o: b.load(t, other, b.extent("other_pixel") * o))
                b.store(found, y, b.extent("y_pixel") * o)
            whole.yield_([])
        with whole.else_():
            for o, values in enumerate(acc):
                found = math.finish(
                    values, scales, lambda t, o=o: b.load_prefix(t, other, b.extent("other_pixel") * o, left)
                )
                b.store_prefix(found, y, b.extent("y_pixel") * o, left)
            whole.yield_([])


@kernel(
    pointers=POINTERS,
    extents=(*EXTENTS, "low_code", "high_code", "zero"),
    scalars=("low", "high", "other_zero", "other_scale"),
)
def depthwise_u8(
    b: KernelBuilder, *, taps: int, kw: int, stride: int, dilation: int, mr: int, residual: bool, proven: bool
) -> None:
    """Parameters as conv_u8. rows: for each row of an image the byte offsets in y and other, then of each tap row in x,
    -1 in the border. Reads a whole register at the last channels of a pixel: up to 63 bytes past the operand."""
    _Loops(b, _Bytes(b, taps, residual, proven), kw, stride, dilation, mr).emit()


@kernel(pointers=POINTERS, extents=EXTENTS, scalars=("low", "high"))
def depthwise_f32(b: KernelBuilder, *, taps: int, kw: int, stride: int, dilation: int, mr: int, residual: bool) -> None:
    """The same for f32, w as [blocks][kw][taps][block]; scale is not read."""
    _Loops(b, _Floats(b, taps, residual), kw, stride, dilation, mr).emit()


def quad_order(target: Target) -> np.ndarray:
    """Which channel of a block each packed one is."""
    blocks = target.vector_bytes // 16
    return np.array([16 * k + 4 * i + j for i in range(4) for k in range(blocks) for j in range(4)])


def pack_depthwise_bytes(w: np.ndarray, order: np.ndarray) -> np.ndarray:
    """i8 [C, tap rows, kw] -> [blocks][kw][groups of 4 tap rows][block][4], channels of a block in `order`."""
    channels, taps, kw = w.shape
    block = len(order)
    groups = -(-taps // 4)
    blocks = -(-channels // block)
    padded = np.zeros((blocks * block, groups * 4, kw), np.int8)
    padded[:channels, :taps] = w
    return np.ascontiguousarray(padded.reshape(blocks, block, groups, 4, kw)[:, order].transpose(0, 4, 2, 1, 3))
