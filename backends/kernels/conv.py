"""Convolution as an implicit matrix product, for bytes and for f32; a linear layer is the case of one tap.

x: pixels of channels, padded beforehand. A *row* is a run of `columns` output pixels at equal distances; `rows` holds for each row of
one image the byte offsets of its first pixel in x, y and other. A *tap* is a run of `kc` channels (of as many pixels as lie side by
side in the window); `taps` holds the byte offset of each from the row's pixel.
Tiles are mr pixels by nr = nv registers of channels, lanes across channels; the last tile of a row overlaps the one before it.
Each tile asks for its share of the next panel's weights, `ahead` bytes for each step through its own: they come from L3 or memory.
w is packed [panels][taps * kc / 4][nr][4] i8, or [panels][taps * kc][nr] f32. Work is cut into blocks of `row_block` rows by panels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from qcompiler.backends.kernel_ir.builder import KernelBuilder, Rows, kernel
from qcompiler.backends.kernel_ir.ir import Value
from qcompiler.backends.kernel_ir.types import F32, I8, I16, I32, I64, Type, vector
from qcompiler.backends.target import Target

POINTERS = ("x", "w", "taps", "rows", "bias", "scale", "other", "y")
EXTENTS = ("row_total", "row_count", "row_block", "columns", "x_image", "y_image", "other_image", "x_pixel", "y_pixel", "other_pixel",
           "tap_count", "kc", "panels", "channels", "ahead")


MOST_ROWS_AHEAD = 21
"""Rows of a tile that leaves a general register for `ahead`: 28 rows take ten pointers."""

Load = Callable[[Type, int], Value]
"""Reads a vector of the residual, from a channel of the tile on."""

Part = tuple[int, Value]
"""(channel of the tile, the vector to store from there on)."""


class _Bytes:
    """u8 x i8 dot products, requantized: rules (3) and (5) of qmath.

    Pairs of registers are packed to i16 and clamped there: same results as clamping in float, if no product leaves i32 (`proven`, by the
    caller, from the real weights); else floats are clamped first. The channels of a pair lie in the target's `pair_order`.
    """

    item, step = 1, 4

    def __init__(self, b: KernelBuilder, nv: int, residual: bool, proven: bool) -> None:
        lanes = b.target.i32_lanes
        self.b, self.nv, self.lanes, self.start = b, nv, lanes, vector(I32, lanes)
        self.residual, self.proven = residual, proven

    def dots(self, acc: list[list[Value]], rows: Rows, weights: Value) -> list[list[Value]]:
        b, target, size = self.b, self.b.target, self.b.target.vector_bytes
        ws = [target.dot4_weights(b, b.load(vector(I8, size), weights, disp=j * size)) for j in range(self.nv)]
        found = []
        for r, row in enumerate(acc):
            xs = target.dot4_activations(b, target.broadcast4(b, *rows[r]))
            found.append([target.dot4(b, row[j], xs, ws[j]) for j in range(self.nv)])
        return found

    def finish(self, row: Sequence[Value], at: Value, load: Load) -> list[Part]:
        """One pixel's accumulators as bytes. at: byte offset of the tile's first multiplier."""
        parts = []
        for j in range(0, self.nv - 1, 2):
            parts.append((j * self.lanes, self._pair(row[j:j + 2], at, j, load)))
        if self.nv % 2:
            parts.append(((self.nv - 1) * self.lanes, self._single(row[-1], at, load)))
        return parts

    def _real(self, acc: Value, at: Value, lane: int) -> Value:
        return self.b.sitofp(acc) * self.b.load(vector(F32, self.lanes), self.b.pointer("scale"), at, disp=lane * 4)

    def _rounded(self, real: Value) -> Value:
        b = self.b
        if not self.proven:
            real = b.clamp(real, b.splat(b.scalar("low"), self.lanes), b.splat(b.scalar("high"), self.lanes))
        return b.target.round_to_i32(b, real)

    def _pair(self, pair: Sequence[Value], at: Value, j: int, load: Load) -> Value:
        b, lanes = self.b, self.lanes
        reals = [self._real(acc, at, (j + i) * lanes) for i, acc in enumerate(pair)]
        if self.residual:
            words = b.zext(load(vector(I8, 2 * lanes), j * lanes), I16)
            zero = b.splat(b.scalar("other_zero") + 2.0**23, lanes)
            scale = b.splat(b.scalar("other_scale"), lanes)
            reals = [real + (other - zero) * scale for real, other in zip(reals, b.target.words_above_2_23(b, words))]
        words = b.target.pack_words(b, *(self._rounded(real) for real in reals))
        low, high, zero = (b.splat(b.trunc(b.extent(name), I16), 2 * lanes) for name in ("low_code", "high_code", "zero"))
        return b.trunc(b.clamp(words, low, high) + zero, I8)

    def _single(self, acc: Value, at: Value, load: Load) -> Value:
        b, lanes, first = self.b, self.lanes, (self.nv - 1) * self.lanes
        real = self._real(acc, at, first)
        if self.residual:
            other = b.sitofp(b.zext(load(vector(I8, lanes), first), I32)) - b.splat(b.scalar("other_zero"), lanes)
            real = real + other * b.splat(b.scalar("other_scale"), lanes)
        low, high, zero = (b.splat(b.trunc(b.extent(name), I32), lanes) for name in ("low_code", "high_code", "zero"))
        return b.trunc(b.clamp(self._rounded(real), low, high) + zero, I8)


class _Floats:
    """f32 products added by fma in the order of K, starting from the bias; NaN passes the activation, as in torch."""

    item, step = 4, 1

    def __init__(self, b: KernelBuilder, nv: int, residual: bool) -> None:
        self.b, self.nv, self.lanes, self.residual = b, nv, b.target.f32_lanes, residual
        self.start = vector(F32, self.lanes)
        self.low, self.high = b.splat(b.scalar("low"), self.lanes), b.splat(b.scalar("high"), self.lanes)

    def dots(self, acc: list[list[Value]], rows: Rows, weights: Value) -> list[list[Value]]:
        b = self.b
        ws = [b.load(self.start, weights, disp=j * 4 * self.lanes) for j in range(self.nv)]
        found = []
        for r, row in enumerate(acc):
            x = b.splat(b.load(F32, *rows[r]), self.lanes)
            found.append([b.fma(x, ws[j], row[j]) for j in range(self.nv)])
        return found

    def finish(self, row: Sequence[Value], at: Value, load: Load) -> list[Part]:
        """One pixel's sums after residual and activation."""
        b, parts = self.b, []
        for j, real in enumerate(row):
            if self.residual:
                real = real + load(self.start, j * self.lanes)
            real = b.select(real < self.low, self.low, real)
            parts.append((j * self.lanes, b.select(real > self.high, self.high, real)))
        return parts


@dataclass
class _Loops:
    """The loops around tiles, the same for both arithmetics."""

    b: KernelBuilder
    math: _Bytes | _Floats
    mr: int
    nv: int

    @property
    def nr(self) -> int:
        return self.nv * self.math.lanes

    def emit(self) -> None:
        b, panels = self.b, self.b.extent("panels")
        row_block, row_total = b.extent("row_block"), b.extent("row_total")
        blocks = (row_total + (row_block - 1)) // row_block
        lo, hi = b.share(blocks * panels)
        panel_bytes = b.extent("tap_count") * b.extent("kc") * (self.nr * self.math.item)
        with b.loop(lo, hi) as unit:
            first = unit.index // panels * row_block
            panel = unit.index % panels
            weights = b.pointer("w") + panel * panel_bytes
            with b.loop(first, b.smin(first + row_block, row_total), carried=[[weights + panel_bytes] if self.mr <= MOST_ROWS_AHEAD else []]) as row:
                [ahead] = row.carried
                row.yield_([self._row(row.index, weights, ahead, panel * self.nr)])

    def _row(self, row: Value, weights: Value, ahead: list[Value], channel: Value) -> list[Value]:
        """Returns where the next panel's weights are asked for from here on."""
        b, columns, item = self.b, self.b.extent("columns"), self.math.item
        image, line = row // b.extent("row_count"), row % b.extent("row_count") * 24
        x, y, other = (
            b.pointer(name) + (image * b.extent(f"{name}_image") + b.load(I64, b.pointer("rows"), line, disp=8 * i))
            for i, name in enumerate(("x", "y", "other"))
        )
        y, other = y + channel * item, other + channel * item

        def tiles(count: int) -> list[Value]:
            with b.loop(0, columns, count, carried=[ahead]) as loop:
                start = loop.index if count == 1 else b.smin(loop.index, columns - count)
                loop.yield_([self._tile(x + start * b.extent("x_pixel"), y + start * b.extent("y_pixel"), other + start * b.extent("other_pixel"),
                                        weights, *loop.carried, channel, count)])
            return loop.results[0]

        if self.mr == 1:
            return tiles(1)
        with b.if_(columns >= self.mr) as wide:
            wide.yield_([tiles(self.mr)])
        with wide.else_():
            wide.yield_([tiles(1)])
        return wide.results[0]

    def _tile(self, x: Value, y: Value, other: Value, weights: Value, ahead: list[Value], channel: Value, count: int) -> list[Value]:
        b, math, lanes = self.b, self.math, self.math.lanes
        start = [b.load(math.start, b.pointer("bias"), channel * 4, disp=j * 4 * lanes) for j in range(self.nv)]
        rows = b.rows(x, b.extent("x_pixel"), count)
        kc, step = b.extent("kc"), math.step
        with b.loop(0, b.extent("tap_count"), carried=[[list(start) for _ in range(count)], weights, ahead]) as taps:
            acc, panel, ahead = taps.carried
            offset = b.load(I64, b.pointer("taps"), taps.index * 8)
            with b.loop(0, kc, step, carried=[acc, rows.moved(offset), panel, ahead]) as inner:
                acc, pointers, panel, ahead = inner.carried
                here = rows.at(pointers)
                if ahead:
                    b.prefetch(ahead[0], cache=2)
                inner.yield_([math.dots(acc, here, panel), here.moved(4), panel + self.nr * 4, [at + b.extent("ahead") for at in ahead]])
            acc, _, panel, ahead = inner.results
            taps.yield_([acc, panel, ahead])
        acc, _, ahead = taps.results
        self._store(acc, y, other, channel)
        return ahead

    def _store(self, acc: Sequence[Sequence[Value]], y: Value, other: Value, channel: Value) -> None:
        b, math = self.b, self.math
        y_pixel, other_pixel = b.extent("y_pixel"), b.extent("other_pixel")
        left = b.extent("channels") - channel
        with b.if_(left >= self.nr) as whole:
            for r, row in enumerate(acc):
                for first, value in math.finish(row, channel * 4, lambda t, c, r=r: b.load(t, other, other_pixel * r, disp=c * math.item)):
                    b.store(value, y, y_pixel * r, disp=first * math.item)
            whole.yield_([])
        with whole.else_():
            for r, row in enumerate(acc):

                def load(type: Type, first: int, r: int = r) -> Value:
                    return b.load_prefix(type, other, other_pixel * r + first * math.item, b.smax(left - first, 0))

                for first, value in math.finish(row, channel * 4, load):
                    b.store_prefix(value, y, y_pixel * r + first * math.item, b.smax(left - first, 0))
            whole.yield_([])


@kernel(pointers=POINTERS, extents=(*EXTENTS, "low_code", "high_code", "zero"), scalars=("low", "high", "other_zero", "other_scale"))
def conv_u8(b: KernelBuilder, *, mr: int, nv: int, residual: bool, proven: bool) -> None:
    """u8 pixels, kc a multiple of 4. bias: i32, the zero point of x folded in; scale: f32 multipliers M of rule (4); both [panels * nr],
    in the order of the packed channels. low, high: bounds of codes less the zero point, as floats and as codes."""
    _Loops(b, _Bytes(b, nv, residual, proven), mr, nv).emit()


@kernel(pointers=POINTERS, extents=EXTENTS, scalars=("low", "high"))
def conv_f32(b: KernelBuilder, *, mr: int, nv: int, residual: bool) -> None:
    """f32 pixels. bias: f32 [panels * nr]; scale is not read; low, high: the fused activation's bounds."""
    _Loops(b, _Floats(b, nv, residual), mr, nv).emit()


def channel_order(target: Target, nv: int) -> np.ndarray:
    """Which channel of a panel each packed one is: pairs of registers in the target's `pair_order`."""
    lanes = target.i32_lanes
    order = [2 * pair * lanes + channel for pair in range(nv // 2) for channel in target.pair_order()]
    return np.array(order + list(range(nv // 2 * 2 * lanes, nv * lanes)))


def pack_bytes(into: np.ndarray, w: np.ndarray, order: np.ndarray) -> None:
    """i8 [O, K] -> [ceil(O / nr)][ceil(K / 4)][nr][4], missing channels and elements zero; nr = len(order). Four bytes move as one word."""
    (panels, quads, nr, _), (outputs, depth) = into.shape, w.shape
    if (outputs, depth) != (panels * nr, quads * 4):
        w = np.pad(w, ((0, panels * nr - outputs), (0, quads * 4 - depth)))
    words = np.ascontiguousarray(w).view(np.uint32)[(np.arange(panels)[:, None] * nr + order).reshape(-1)]
    into.view(np.uint32)[..., 0] = words.reshape(panels, nr, quads).transpose(0, 2, 1)


def pack_floats(into: np.ndarray, w: np.ndarray) -> None:
    """f32 [O, K] -> [ceil(O / nr)][K][nr], zeros so far."""
    nr = into.shape[2]
    for panel, part in enumerate(into):
        rows = w[panel * nr : (panel + 1) * nr]
        part[:, : len(rows)] = rows.T


def pack_channels(values: np.ndarray, order: np.ndarray) -> np.ndarray:
    """One value a channel, zeros behind, up to whole panels."""
    padded = np.concatenate([values, np.zeros(-len(values) % len(order), values.dtype)])
    return padded.reshape(-1, len(order))[:, order].reshape(-1)
