"""Convolution as an implicit matrix product, for bytes and for f32; a linear layer is the case of one tap.

x: pixels of channels, padded beforehand. A *row* is a run of `columns` output pixels at equal distances; `rows` holds
for each row of one image the byte offsets of its first pixel in x, y and other. A *tap* is a run of `kc` channels (of
as many pixels as lie side by side in the window); `taps` holds the byte offset of each from the row's pixel. Tiles are
mr pixels by nr = nv registers of channels, lanes across channels; the last tile of a row overlaps the one before it.
Each tile asks for its share of the next panel's weights, `ahead` bytes for each step through its own, and for the next
tile's pixels, `x_ahead` bytes a step: they come from L3 or memory. w is packed [panels][taps][kc / depth][nr][depth]
i8, depth being the target's `dot_depth` and kc rounded up to it (i16, see `widen`, where the target has
`widened_weights`), or [panels][taps * kc][nr] f32. Work is cut into blocks of `row_block` rows by panels.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from qcompiler.backends.kernel_ir.builder import KernelBuilder, kernel
from qcompiler.backends.kernel_ir.ir import Value
from qcompiler.backends.kernel_ir.types import I64, Type
from qcompiler.backends.kernels.tile_math import Bytes, Floats, PairedBytes
from qcompiler.backends.target import Target

POINTERS = ("x", "w", "taps", "rows", "bias", "scale", "other", "y")
EXTENTS = (
    "row_total",
    "row_count",
    "row_block",
    "columns",
    "x_image",
    "y_image",
    "other_image",
    "x_pixel",
    "y_pixel",
    "other_pixel",
    "tap_count",
    "kc",
    "panels",
    "channels",
    "ahead",
    "x_ahead",
)


_LEAST_SCRATCH = 1 << 18
MOST_ROWS_AHEAD = 21
"""Rows of a tile that leaves general registers for what is asked ahead: 28 rows take ten pointers."""


@dataclass
class _Loops:
    """The loops around tiles, the same for both arithmetics."""

    b: KernelBuilder
    math: Bytes | Floats
    mr: int
    nv: int

    @property
    def nr(self) -> int:
        return self.nv * self.math.lanes

    @property
    def looks_ahead(self) -> bool:
        """Whether tiles ask for the next panel's weights and the next tile's pixels."""
        return len(self.math.steps) == 1 and self.mr <= MOST_ROWS_AHEAD

    @property
    def streams(self) -> bool:
        """Whether results may be written past the caches, where `stream` says so."""
        return self.b.target.streams and isinstance(self.math, Floats)

    def emit(self) -> None:
        b, panels = self.b, self.b.extent("panels")
        row_block, row_total = b.extent("row_block"), b.extent("row_total")
        blocks = (row_total + (row_block - 1)) // row_block
        lo, hi = b.share(blocks * panels)
        depth = self.math.depth
        panel_bytes = (
            b.extent("tap_count")
            * ((b.extent("kc") + (depth - 1)) // depth)
            * (self.nr * depth * self.math.weight_bytes)
        )
        with b.loop(lo, hi) as unit:
            first = unit.index // panels * row_block
            panel = unit.index % panels
            weights = b.pointer("w") + panel * panel_bytes
            with b.loop(
                first,
                b.smin(first + row_block, row_total),
                carried=[[weights + panel_bytes] if self.looks_ahead else []],
            ) as row:
                [ahead] = row.carried
                row.yield_([self._row(row.index, weights, ahead, panel * self.nr)])
        if self.streams:
            with b.if_(b.extent("stream") != 0) as streamed:
                b.fence()
                streamed.yield_([])

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
                loop.yield_(
                    [
                        self._tile(
                            x + start * b.extent("x_pixel"),
                            y + start * b.extent("y_pixel"),
                            other + start * b.extent("other_pixel"),
                            weights,
                            *loop.carried,
                            channel,
                            count,
                        )
                    ]
                )
            return loop.results[0]

        if self.mr == 1:
            return tiles(1)
        with b.if_(columns >= self.mr) as wide:
            wide.yield_([tiles(self.mr)])
        with wide.else_():
            wide.yield_([tiles(1)])
        return wide.results[0]

    def _tile(
        self, x: Value, y: Value, other: Value, weights: Value, ahead: list[Value], channel: Value, count: int
    ) -> list[Value]:
        b, math, lanes = self.b, self.math, self.math.lanes
        start = [b.load(math.start, b.pointer("bias"), channel * 4, disp=j * 4 * lanes) for j in range(self.nv)]
        rows = b.rows(x, b.extent("x_pixel"), count)
        kc = b.extent("kc")
        asked = [*ahead, x + b.extent("x_pixel") * count] if ahead else []
        with b.loop(0, b.extent("tap_count"), carried=[math.begin(start, count), weights, asked]) as taps:
            acc, panel, asked = taps.carried
            pointers, done = rows.moved(b.load(I64, b.pointer("taps"), taps.index * 8)), b.i64(0)
            for step in math.steps:
                until, lead = kc if step == math.steps[-1] else kc // step * step, math.lead(step)
                with b.loop(
                    done, until, step, carried=[acc, pointers, b.advance(panel, lead) if lead else panel, asked]
                ) as inner:
                    acc, pointers, panel, asked = inner.carried
                    here = rows.at(pointers)
                    for at in asked:
                        b.prefetch(at, cache=2)
                    further = [at + b.extent(step) for at, step in zip(asked, ("ahead", "x_ahead"))]
                    inner.yield_([*math.dots(acc, here, panel, step), panel + math.step_bytes(step), further])
                (acc, pointers, panel, asked), done = inner.results, until
                panel = panel - lead
            taps.yield_([acc, panel, asked])
        acc, _, asked = taps.results
        self._store(math.sums(acc, count), y, other, channel)
        return asked[:1]

    def _store(self, acc: Sequence[Sequence[Value]], y: Value, other: Value, channel: Value) -> None:
        b, item = self.b, self.math.item
        y_pixel, other_pixel = b.extent("y_pixel"), b.extent("other_pixel")
        left = b.extent("channels") - channel

        def load(type: Type, first: int, row: int) -> Value:
            return b.load(type, other, other_pixel * row, disp=first * item)

        def load_left(type: Type, first: int, row: int) -> Value:
            return b.load_prefix(type, other, other_pixel * row + first * item, b.smax(left - first, 0))

        with b.if_(left >= self.nr) as whole:
            if self.streams:
                self._store_or_stream(self._finished(acc, channel, load), y)
            else:
                for row, first, value in self._finished(acc, channel, load):
                    b.store(value, y, y_pixel * row, disp=first * item)
            whole.yield_([])
        with whole.else_():
            for row, first, value in self._finished(acc, channel, load_left):
                b.store_prefix(value, y, y_pixel * row + first * item, b.smax(left - first, 0))
            whole.yield_([])

    def _finished(
        self, acc: Sequence[Sequence[Value]], channel: Value, load: Callable[[Type, int, int], Value]
    ) -> Iterator[tuple[int, int, Value]]:
        """(row, channel of the tile, the vector to store from there on), two rows at a time. load: of the residual, at
        (type, channel, row)."""
        for top in range(0, len(acc), 2):
            rows = range(top, min(top + 2, len(acc)))
            found = self.math.finish([acc[row] for row in rows], channel * 4, [partial(load, row=row) for row in rows])
            yield from ((row, first, value) for row, parts in zip(rows, found) for first, value in parts)

    def _store_or_stream(self, found: Iterable[tuple[int, int, Value]], y: Value) -> None:
        """Whole registers: all of them computed, then written one way or the other."""
        b, found = self.b, list(found)
        with b.if_(b.extent("stream") != 0) as streamed:
            for row, first, value in found:
                b.stream(value, y, b.extent("y_pixel") * row, disp=first * self.math.item)
            streamed.yield_([])
        with streamed.else_():
            for row, first, value in found:
                b.store(value, y, b.extent("y_pixel") * row, disp=first * self.math.item)
            streamed.yield_([])


def byte_math(b: KernelBuilder, nv: int, residual: bool, proven: bool, pairs: bool, saturates: bool) -> Bytes:
    """The target's arithmetic of bytes."""
    return (PairedBytes if b.target.dot_depth == PairedBytes.depth else Bytes)(
        b, nv, residual, proven, pairs, saturates
    )


@kernel(
    pointers=POINTERS,
    extents=(*EXTENTS, "low_code", "high_code", "zero"),
    scalars=("low", "high", "other_zero", "other_scale"),
)
def conv_u8(
    b: KernelBuilder, *, mr: int, nv: int, residual: bool, proven: bool, pairs: bool = False, saturates: bool = False
) -> None:
    """u8 pixels, kc a multiple of 4. bias: i32, the zero point of x folded in; scale: f32 multipliers M of rule (4);
    both [panels * nr], in the order of the packed channels. low, high: bounds of codes less the zero point, as floats
    and as codes. pairs: the real weights are `Target.pairwise_dot_is_exact`; saturates: zero is 0, and the codes' bounds are 0 and
    255."""
    _Loops(b, byte_math(b, nv, residual, proven, pairs, saturates), mr, nv).emit()


@kernel(pointers=POINTERS, extents=(*EXTENTS, "stream"), scalars=("low", "high"))
def conv_f32(b: KernelBuilder, *, mr: int, nv: int, residual: bool) -> None:
    """f32 pixels. bias: f32 [panels * nr]; scale is not read; low, high: the fused activation's bounds; stream: 1 where
    y goes past the caches, and all that its whole registers are written to lies at multiples of their size."""
    _Loops(b, Floats(b, nv, residual), mr, nv).emit()


def channel_order(target: Target, nv: int) -> np.ndarray:
    """Which channel of a panel each packed one is: pairs of registers in the target's `pair_order`."""
    lanes = target.i32_lanes
    order = [2 * pair * lanes + channel for pair in range(nv // 2) for channel in target.pair_order()]
    return np.array(order + list(range(nv // 2 * 2 * lanes, nv * lanes)))


def pack_bytes(into: np.ndarray, w: np.ndarray, order: np.ndarray) -> None:
    """i8 [O, K] -> [ceil(O / nr)][ceil(K / depth)][nr][depth], missing channels and elements zero; nr = len(order),
    depth 4 or 8. So many bytes move as one word."""
    (panels, groups, nr, depth), (outputs, elements) = into.shape, w.shape
    if (outputs, elements) != (panels * nr, groups * depth):
        w = np.pad(w, ((0, panels * nr - outputs), (0, groups * depth - elements)))
    words, rows = np.ascontiguousarray(w).view(f"u{depth}"), (np.arange(panels)[:, None] * nr + order).reshape(-1)
    ordered = np.take(words, rows, axis=0, out=_scratch(words.shape, words.dtype), mode="clip")
    into.view(f"u{depth}")[..., 0] = ordered.reshape(panels, nr, groups).transpose(0, 2, 1)


def widen(into: np.ndarray, packed: np.ndarray) -> None:
    """i8 [panels][quads][nr][4] -> i16 [panels][quads][nv][2][lanes][2]: for each register of channels the even
    elements, then the odd ones."""
    panels, quads, nv, _, lanes, _ = into.shape
    into[:] = packed.reshape(panels, quads, nv, lanes, 2, 2).transpose(0, 1, 2, 5, 3, 4)


_memory = threading.local()


def _scratch(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An array whose contents mean nothing, the same memory for each call of a thread: to touch fresh pages takes
    longer than to pack."""
    nbytes = math.prod(shape) * dtype.itemsize
    if getattr(_memory, "block", None) is None or _memory.block.nbytes < nbytes:
        _memory.block = np.empty(max(nbytes, _LEAST_SCRATCH), np.uint8)
    return _memory.block[:nbytes].view(dtype).reshape(shape)


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
